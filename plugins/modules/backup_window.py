#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_window
short_description: Freeze, split the mirrors, check the map and thaw, in one task
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Drives several hosts in one task. The host of the task is the database host; each host that splits mirrors is
    reached over a connection of its own, see O(splitters).
  - The holder of the session freezes the file systems (and the databases that can only freeze), the splitters split the
    mirrors, all at once, the holder maps again what has changed, and thaws. Nothing else happens between freeze and
    thaw.
  - This is one task because between two tasks the default strategy waits for the slowest host of the play, and writes
    would be stopped during that wait.
  - Before it, M(splitmirror.backup.extent_map) has mapped the files and M(splitmirror.backup.mirror_split) has armed
    the split, so that all code is loaded and all slow work is done.
  - Before the freeze, a small program is started on all hosts and kept running, so that a request inside the window is
    one exchange over an open connection. With connections other than ssh and local, a program is started for each
    request instead, which takes about half a second longer in all. The same holds for ssh with a password but without a
    persistent connection (C(ControlPersist)).
  - Connection and privilege escalation are those of every other task, including C(become_user), C(become_method),
    C(become_exe), C(become_flags) and passwords. If the connection logs in as root, privileges are not escalated.
  - If anything fails, the file systems are thawed at once. If one mirror set is split and another is not, the task
    fails; give the split ones back with M(splitmirror.backup.mirror_sync) and
    O(splitmirror.backup.mirror_sync#module:state=recovered). If the controller is lost, their guard thaws them at the
    deadline.
options:
  splitters:
    description:
      - What splits the mirrors in the window, one entry for each mirror set of the database host.
      - The sets may be on several arrays. On one array, each needs a state folder of its own.
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
  pairs:
    description:
      - The names of all pairs of the database host. The task fails unless the splitters have split just these.
      - When it is left out, nothing compares what was split with what should have been.
    type: list
    elements: str
    version_added: 0.2.0
  mounts:
    description:
      - Mount points to freeze. Nested ones are frozen inner last and thawed in reverse.
      - All mount points that M(splitmirror.backup.extent_map) returned must be among them.
    type: list
    elements: path
    required: true
  deadline_s:
    description:
      - Seconds after which everything is thawed in any case. The backup fails if this happens.
      - The check of the map may take a third of this time. If so much has changed just before the freeze that the check
        would take longer, nothing is frozen. If the check takes longer all the same, everything is thawed and the task
        fails.
    type: float
    default: 30
  turn_timeout_s:
    description:
      - How many seconds to wait for other sessions that split on the same arrays. Nothing is frozen during that time.
      - Sessions only wait for arrays that split one mirror set after the other, see C(takes_turns) of
        M(splitmirror.backup.mirror_info).
    type: float
    default: 3600
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.database_host
  - splitmirror.backup.session
attributes:
  check_mode:
    support: full
    details:
      - Reports what would be frozen. Nothing is frozen or split.
      - Checks that all hosts can be reached as in a real run, as root.
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
    pairs: [data, wal]
    mounts: [/var/lib/postgresql]
    deadline_s: 20
  register: window

- name: Show how long writes were stopped
  ansible.builtin.debug:
    msg: "{{ (window.window.window_s * 1000) | round }} ms, of which {{ window.window.split_s * 1000 }} were the split"
"""

RETURN = r"""
window:
  description: What proves that each split lay inside the freeze.
  returned: always, except in check mode
  type: dict
  contains:
    events:
      description: >-
        The events in the order in which the controller received them: C(freeze_acknowledged), C(split_sent),
        C(split_returned), C(check_done), C(thaw_sent) and others. Clocks of different hosts are never compared. The
        events of a split have C(splitter).
      type: list
      elements: dict
    splitters:
      description: The names of the splitters - their hosts, with the state folder where a host has several.
      type: list
      elements: str
    window_s:
      description: Seconds from the freeze until the thaw, by the database host's monotonic clock.
      type: float
    split_s:
      description: Seconds that the slowest array took to split, by its monotonic clock.
      type: float
    overhead_s:
      description: How long the window took beyond the slowest array's own split, in seconds.
      type: float
    intact:
      description: Whether everything stayed frozen until this window thawed it.
      type: bool
check:
  description: What the check of the map found while everything was frozen.
  returned: when the mirrors were split
  type: dict
splits:
  description:
    - For each mirror set that was split, the result as M(splitmirror.backup.mirror_split) returns it, and C(splitter).
    - After a failure, one of a set that is not in it may be split all the same, if its answer did not come.
  returned: always, except in check mode
  type: list
  elements: dict
"""
