#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: write_freeze
short_description: Stop all writes of file systems and databases for a moment, with a deadline
version_added: 0.1.0
description:
  - Runs on the database host. For plays of your own; the role uses M(splitmirror.backup.backup_window), which freezes,
    splits, checks and thaws in one task.
  - Databases that M(splitmirror.backup.hot_backup) has made ready to be frozen are frozen first, then the file systems.
    They are thawed in reverse.
  - No freeze outlives its deadline. The holder of the session thaws shortly before the deadline. A second process, the
    guard, thaws when the holder hangs or dies. A third one, the backstop, thaws at the deadline, or when both others
    are dead. It has a session and a control group of its own (under systemd a scope), so that nothing that ends or
    stops a login session or a service as a whole reaches all three. The holder thaws when one of the two others dies.
  - A file system or database that does not thaw stays guarded. It is tried again by O(state=thawed), and at the
    deadline. The C(thaw) command of a database that still fails is repeated for two minutes from then on.
  - What the system and Ansible need is never frozen, that is V(/), V(/usr), V(/etc), V(/var), V(/tmp), V(/home) and the
    like, the file systems of O(state_dir) and of Ansible's C(remote_tmp), and those with swap files.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.database_host
  - splitmirror.backup.session
options:
  state:
    description:
      - V(frozen) writes out what is in memory, then stops writes. It fails, with nothing frozen, when anything cannot
        be frozen, or is frozen already by someone else.
      - A freeze that is still writing out memory cannot be ended. So it is not begun unless a round of writing out
        before it takes no more than a tenth of O(deadline_s).
      - V(thawed) lets writes go on. It tries O(mounts) also when the session has no holder any more, but for
        those that another session has frozen.
    type: str
    choices: [frozen, thawed]
    required: true
  mounts:
    description:
      - Mount points. M(splitmirror.backup.extent_map) returns those that hold the files of a backup.
      - When files are mapped in this session, O(state=frozen) refuses to leave out any of these.
      - Nested ones are frozen inner last.
    type: list
    elements: path
    default: []
  deadline_s:
    description: After how many seconds the freeze ends, whatever happens. At most V(3600).
    type: float
    default: 30
attributes:
  check_mode:
    support: full
    details: Mount points are examined as in a real run.
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.backup_window
  - module: splitmirror.backup.extent_map
  - module: splitmirror.backup.hot_backup
"""

EXAMPLES = r"""
- name: A window of your own
  block:
    - name: Stop writes
      splitmirror.backup.write_freeze:
        session: "{{ session }}"
        mounts: "{{ map.mounts }}"
        deadline_s: 20
        state: frozen
      register: frozen

    - name: Split the mirror on the array
      splitmirror.backup.mirror_split:
        session: "{{ session }}"
        provider: image
        pairs: "{{ splitmirror_pairs }}"
        state: split
        freeze: "{{ frozen.freeze }}"
      delegate_to: array1
      register: split

    - name: Map again what has changed
      splitmirror.backup.extent_map:
        session: "{{ session }}"
        split: "{{ split }}"
        state: checked
      register: checked
  always:
    - name: Let writes go on
      splitmirror.backup.write_freeze:
        session: "{{ session }}"
        mounts: "{{ map.mounts }}"
        state: thawed
      register: window

# later, when everything is written
- name: Judge the session and commit it to the catalog
  splitmirror.backup.catalog_session:
    session: "{{ session }}"
    state: closed
    evidence:
      session: "{{ session }}"
      window: "{{ window.window }}"
      check: "{{ checked.check }}"
      hot_backup: "{{ hot_backup.evidence }}"
      write: "{{ written.evidence }}"
  delegate_to: media1
"""

RETURN = r"""
mounts:
  description: What is frozen now, or what was thawed. A file system that is mounted twice is listed once.
  type: list
  elements: str
  returned: always
  sample: [/srv/data]
freeze:
  description:
    - The id of this freeze. It is made when the freeze is complete, so a split that is given this id by
      O(splitmirror.backup.mirror_split#module:freeze) came after that.
  type: str
  returned: when O(state=frozen) and not in check mode
  sample: 5f1d7a84a2be19b1c3c0c4c2c4f9d0aa
window:
  description: The evidence of the window for M(splitmirror.backup.catalog_session).
  type: dict
  returned: when O(state=thawed) and the holder of the session thawed
  contains:
    events:
      description: What happened, in the order in which the holder learned of it.
      type: list
      elements: dict
    window_s:
      description: As RV(window_s).
      type: float
    intact:
      description: As RV(intact).
      type: bool
window_s:
  description: How many seconds writes stood still, by the host's monotonic clock.
  type: float
  returned: when O(state=thawed) and the holder of the session thawed
  sample: 0.231
intact:
  description: Whether everything stayed frozen until this thaw. If not, what was split meanwhile is not a backup.
  type: bool
  returned: when O(state=thawed) and not in check mode
  sample: true
error:
  description: Why it was not, or V(null).
  type: str
  returned: when O(state=thawed) and not in check mode
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import quiesce
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import ansible_folders
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

SPEC = {
    **SESSION_SPEC,
    "state": {"type": "str", "choices": ["frozen", "thawed"], "required": True},
    "mounts": {"type": "list", "elements": "path", "default": []},
    "deadline_s": {"type": "float", "default": 30.0},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Freeze or thaw."""
    params = module.params
    state, session = StateDir(params["state_dir"]), params["session"]
    if params["state"] == "frozen":
        before = quiesce.frozen_mounts(state, session)
        frozen = quiesce.freeze(
            state,
            session,
            params["mounts"],
            params["deadline_s"],
            ansible_folders(module._remote_tmp),
            dry_run=module.check_mode,
        )
        diff = {"before": {"frozen": before}, "after": {"frozen": frozen.mounts}}
        known = {} if frozen.freeze is None else {"freeze": frozen.freeze}
        return {"changed": frozen.changed, "mounts": frozen.mounts, **known, "diff": diff}
    if module.check_mode:
        before = quiesce.frozen_mounts(state, session)
        return {
            "changed": bool(before),
            "mounts": before,
            "diff": {"before": {"frozen": before}, "after": {"frozen": []}},
        }
    thawed = quiesce.thaw(state, session, params["mounts"])
    window = dict(thawed.window)
    events = window.pop("events", None)
    if window["error"]:
        module.warn(window["error"])
    if events is not None:
        window["window"] = {"events": events, "window_s": window["window_s"], "intact": window["intact"]}
    return {
        "changed": thawed.changed,
        "mounts": thawed.mounts,
        **window,
        "diff": {"before": {"frozen": thawed.mounts}, "after": {"frozen": []}},
    }


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, needs_root=True, for_session=True)


if __name__ == "__main__":
    main()
