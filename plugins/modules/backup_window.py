#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_window
short_description: Freeze, split the mirror, check the map and thaw, in one task
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Drives two hosts in one task. The host of the task is the database host; the host that splits the mirror is reached
    over a connection of its own, see O(splitters).
  - The holder of the session freezes the file systems (and the databases that can only freeze), the armed splitter on
    the array splits the mirror, the holder maps again what changed, and thaws. Nothing else happens in between.
  - One task, because between two tasks the default strategy waits for the slowest host of the play, and that wait would
    be spent frozen.
  - Before it, M(splitmirror.backup.extent_map) has mapped the files and M(splitmirror.backup.mirror_split) has armed
    the split, so that all code is loaded and all slow work is done.
  - Before the freeze a small program is started on both hosts and kept, so that inside the window a call costs one
    exchange over a connection that is open. Connections other than ssh and local start a program for each call instead,
    which is about half a second longer in all; so does ssh with a password but without a connection that stays
    (C(ControlPersist)).
  - Both hosts are reached, and privileges are raised, as for every other task, with C(become_user), C(become_method),
    C(become_exe), C(become_flags) and passwords; where root logs in, nothing is raised.
  - If anything fails, the file systems are thawed at once; if the controller itself vanishes, their guard thaws them at
    the deadline.
options:
  splitters:
    description: What splits the mirror in the window. Today there has to be exactly one entry.
    type: list
    elements: dict
    required: true
    version_added: 0.2.0
    suboptions:
      kind:
        description:
          - V(armed) is the process that M(splitmirror.backup.mirror_split) leaves on the array with
            O(splitmirror.backup.mirror_split#module:state=armed).
        type: str
        choices: [armed]
        required: true
      host:
        description: Kind V(armed), which needs it. The inventory name of the array.
        type: str
      state_dir:
        description:
          - Kind V(armed). The state folder of the array, the same that M(splitmirror.backup.mirror_split) was given.
            V(/var/lib/splitmirror) when it is left out.
        type: path
  mounts:
    description:
      - Mount points to freeze. Nested ones are frozen inner last and thawed in reverse.
      - All that M(splitmirror.backup.extent_map) returned must be among them.
    type: list
    elements: path
    required: true
  deadline_s:
    description:
      - Seconds after which everything is thawed whatever happens. The window is broken then.
      - The check of the map may take a third of it. When so much changes just before the freeze that it would take
        longer, nothing is frozen; when it does take longer, it is given up and everything is thawed.
    type: float
    default: 30
  turn_timeout_s:
    description:
      - How many seconds to wait, before anything is frozen, for other sessions that split on the same array.
      - Only arrays that split one mirror set after the other let sessions wait, see C(takes_turns) of
        M(splitmirror.backup.mirror_info).
    type: float
    default: 3600
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session
attributes:
  check_mode:
    support: full
    details:
      - Tells what would be frozen; nothing is.
      - Both hosts are reached in the way of the window, root included.
  diff_mode:
    support: none
seealso:
  - module: splitmirror.backup.write_freeze
  - module: splitmirror.backup.mirror_split
  - module: splitmirror.backup.extent_map
"""

EXAMPLES = r"""
- name: Freeze, split, check, thaw
  splitmirror.backup.backup_window:
    session: "{{ session }}"
    splitters:
      - kind: armed
        host: array1
    mounts: [/var/lib/postgresql]
    deadline_s: 20
  register: window

- name: Tell how long writes stood still
  ansible.builtin.debug:
    msg: "{{ (window.window.window_s * 1000) | round }} ms, of which {{ window.window.split_s * 1000 }} were the split"
"""

RETURN = r"""
window:
  description: What proves that the split lay inside the freeze.
  returned: always, except in check mode
  type: dict
  contains:
    events:
      description: >-
        What happened in the order in which the controller learned of it: C(freeze_acknowledged), C(split_sent),
        C(split_returned), C(check_done), C(thaw_sent) and others. Clocks of different hosts are never compared.
      type: list
      elements: dict
    window_s:
      description: Seconds from the freeze until the thaw, by the database host's monotonic clock.
      type: float
    split_s:
      description: Seconds that the array took to split, by the array's monotonic clock.
      type: float
    overhead_s:
      description: What the window took beyond the array's own split.
      type: float
    intact:
      description: Whether everything stayed frozen until the thaw of this window.
      type: bool
check:
  description: What the check of the map found while everything was frozen.
  returned: when the mirror was split
  type: dict
split:
  description: What the array returned of the split.
  returned: when the mirror was split
  type: dict
"""
