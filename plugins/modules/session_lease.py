#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: session_lease
short_description: Let one run at a time be at work for a database host
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Takes or gives back the lease of a database host on one of its machines, which are the database host itself, the
    array and the media server. A run takes all three before it cleans up what earlier runs left.
  - A lease belongs to an inventory name. Runs for two names of one machine do not exclude each other, and do not touch
    each other's sessions.
  - The lease of a living run is never taken. A run lives while one of its tasks works on this machine, and while its
    C(ansible-playbook) runs, if it was started on the same controller. Whether a run of another controller lives cannot
    be found out, so its lease lapses an hour after its last task on this machine.
  - The modules refuse to work for a session whose run has lost its lease.
options:
  host:
    description: The inventory name of the database host.
    type: str
    required: true
  state:
    description:
      - V(free) changes nothing, and fails when another run is at work.
      - V(held) takes the lease, or gives it a new time when O(session) has it.
      - V(released) gives it back if O(session) has it.
    type: str
    choices: [free, held, released]
    required: true
  break_lease:
    description: Take the lease from another run, even a living one. Set this only if you know that the run is dead.
    type: bool
    default: false
  owner:
    description: Which process on the controller runs the play. Filled in by the action of this module.
    type: dict
    default: {}
  judged:
    description: Whether the run that has the lease still lives. Filled in by the action of this module.
    type: dict
    default: {}
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.hot_backup
  - module: splitmirror.backup.mirror_sync
"""

EXAMPLES = r"""
- name: Be the one run that is at work for this host
  splitmirror.backup.session_lease:
    host: "{{ inventory_hostname }}"
    session: "{{ session }}"
    state: held

- name: Let the next run begin
  splitmirror.backup.session_lease:
    host: "{{ inventory_hostname }}"
    session: "{{ session }}"
    state: released
"""

RETURN = r"""
other:
  description: The lease of the other run that is at work, or whose lease was taken over; none when there is none.
  type: dict
  returned: always
  contains:
    session:
      description: Its session.
      type: str
      sample: 20260131T020000Z-db1-9f3c
    host:
      description: The inventory name of its database host.
      type: str
      sample: db1
    owner:
      description: Who began it, on which controller, in which process.
      type: dict
    since_s:
      description: When it took the lease, in seconds since 1970.
      type: float
    seen_s:
      description: Its last sign of life on this machine.
      type: float
    busy:
      description: Whether one of its tasks works on this machine now.
      type: bool
sessions:
  description: The sessions of the database host that left a folder on this machine, the oldest first.
  type: list
  elements: str
  returned: O(state=held)
  sample: [20260130T020000Z-db1-04d1]
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Lease, LeaseError, Leases, Owner
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir, check_session_id, is_of_host

SPEC = {
    **SESSION_SPEC,
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["free", "held", "released"], "required": True},
    "break_lease": {"type": "bool", "default": False},
    "owner": {"type": "dict", "default": {}},
    "judged": {"type": "dict", "default": {}},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Take the lease, give it back, or only look."""
    params = module.params
    session, host = check_session_id(params["session"]), params["host"]
    leases = Leases(StateDir(params["state_dir"]))
    if params["state"] == "released":
        given = leases.release(host, session, dry_run=module.check_mode)
        return {"changed": given, "other": None, "diff": shown(session if given else None, None)}
    try:
        owner = Owner.of(params["owner"])
    except ValueError as exc:
        raise SplitMirrorError(
            "owner: it is not told which run this is; call this module in a play, not by itself.",
            option="owner",
            code="option_invalid",
        ) from exc
    dry_run = module.check_mode or params["state"] == "free"
    try:
        before = leases.take(
            host,
            session,
            owner,
            judged=params["judged"].get("session"),
            alive=params["judged"].get("alive"),
            break_lease=params["break_lease"],
            dry_run=dry_run,
        )
    except LeaseError as exc:
        module.fail_json(msg=exc.message, option=exc.option, code=exc.code, other=exc.other.as_dict())
    ours = before is not None and before.session == session
    result: dict[str, Any] = {"other": None if before is None or ours else before.as_dict()}
    if params["state"] == "free":
        return {"changed": False, **result}
    found = [name for name in StateDir(params["state_dir"]).sessions() if is_of_host(name, host)]
    return {"changed": not ours, **result, "sessions": found, "diff": shown(holder(before), session)}


def holder(lease: Optional[Lease]) -> Optional[str]:
    """The session that has a lease."""
    return None if lease is None else lease.session


def shown(before: Optional[str], after: Optional[str]) -> dict[str, Any]:
    """A diff."""
    return {"before": {"session": before}, "after": {"session": after}}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC)


if __name__ == "__main__":
    main()
