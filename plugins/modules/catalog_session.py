#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_session
short_description: Enter and close a session in the catalog
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Enters a session in the catalog, and later judges it by its evidence as good or failed. The verdict is final. A
    session that was not judged cannot be restored.
  - A session is good only if the split lay inside the window (proved by the order of the events), the check of the
    extent map was complete before the thaw, hot backup ended cleanly in the database session that began it, and every
    byte, the filemark and the checksums are on the volume.
  - If a session is judged as failed, the task does not fail.
  - A session is entered when its run begins, so that the catalog also has runs that end before anything is written.
options:
  state:
    description:
      - V(begun) enters the session of O(host) as open, at the beginning of its run.
      - V(closed) judges the session by O(evidence).
      - V(failed) closes the session as failed, with O(reason). It need not have been entered before.
      - V(expired) lets the session expire now, so that its volumes may be overwritten.
      - V(recovered) closes as failed all other open sessions of O(host), whose runs ended before they were closed.
        O(session) is the session of the current run, and is not changed.
    type: str
    choices: [begun, closed, failed, expired, recovered]
    required: true
  evidence:
    description:
      - The results of the tasks of the session, with the keys C(session), C(window), C(check), C(hot_backup) and
        C(write).
      - The facts of the write are taken from the catalog. C(write) must agree with them.
    type: dict
  host:
    description:
      - The database host, for a session that is not in the catalog yet.
      - Required for O(state=begun) and O(state=recovered).
    type: str
  reason:
    description: Why the session failed.
    type: str
  phase:
    description: The phase of the run in which the session failed, with O(state=failed).
    type: str
    version_added: 0.2.0
  allow_last:
    description:
      - Let a session expire also when it is the last good one of its host.
    type: bool
    default: false
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.catalog_info
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Enter the session before anything is done for it
  splitmirror.backup.catalog_session:
    session: "{{ session }}"
    host: db1
    state: begun

- name: Judge the session and commit it to the catalog
  splitmirror.backup.catalog_session:
    session: "{{ session }}"
    state: closed
    evidence:
      session: "{{ session }}"
      window: "{{ window.window }}"
      check: "{{ window.check }}"
      hot_backup: "{{ hot_backup.evidence }}"
      write: "{{ written.evidence }}"
  register: verdict
  failed_when: verdict.session_state != 'good'

- name: Record that it failed
  splitmirror.backup.catalog_session:
    session: "{{ session }}"
    host: db1
    state: failed
    phase: sync
    reason: The array did not answer.

- name: Make failed what dead sessions of the host left open
  splitmirror.backup.catalog_session:
    session: "{{ session }}"
    host: db1
    state: recovered

- name: Let an old session expire before its time
  splitmirror.backup.catalog_session:
    session: 20260131T120000Z-db1-3f2a
    state: expired
"""

RETURN = r"""
session_state:
  description: The state of the session in the catalog, in check mode as it would be; V(absent) when it is not there.
  returned: success
  type: str
  sample: good
reason:
  description: Why it failed; empty when it is good.
  returned: success
  type: str
  sample: the check of the extent map was not complete before the thaw.
level:
  description: What the session holds, V(full), V(incremental) or V(differential); V(full) when it is not there.
  returned: when O(state=closed)
  type: str
  sample: incremental
  version_added: 0.2.0
base:
  description: The session on which it builds; empty for a full one.
  returned: when O(state=closed)
  type: str
  sample: 20260130T120000Z-db1-77b0
  version_added: 0.2.0
recovered:
  description: The sessions that were left open and are failed now.
  returned: when O(state=recovered)
  type: list
  elements: str
  sample: ["20260130T120000Z-db1-77b0"]
"""

from typing import TYPE_CHECKING, Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils._module import SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import (
    begin_session,
    dead_sessions,
    fail_dead_sessions,
    fail_session,
    verdict_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import (
    FAILED,
    FULL,
    GOOD,
    OPEN,
    Session,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.bases import drop_maps
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir, check_session_id

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def dry_run(catalog: Catalog, params: dict[str, Any]) -> dict[str, Any]:
    """What the task would do, for check mode."""
    known = catalog.session(params["session"])
    before = "absent" if known is None else known.state
    if params["state"] == "expired":
        changed = catalog.would_expire(params["session"], allow_last=params["allow_last"])
        return {"changed": changed, "session_state": before, "reason": known.reason if known else ""}
    if params["state"] == "begun":
        return {"changed": known is None, "session_state": OPEN, "reason": "", "before": before}
    reason = params["reason"] or ""
    after = FAILED
    if params["state"] == "closed" and known is not None:
        verdict = verdict_of(catalog, params["session"], params["evidence"])
        reason = verdict.reason
        after = GOOD if verdict.good else FAILED
    changed = before in ("absent", OPEN)
    return {"changed": changed, "session_state": after, "reason": reason, "before": before, **level_of(known, params)}


def level_of(known: Optional[Session], params: dict[str, Any]) -> dict[str, str]:
    """What a session that is judged holds, and on which one it builds."""
    if params["state"] != "closed":
        return {}
    return {"level": FULL, "base": ""} if known is None else {"level": known.level, "base": known.base}


def close(catalog: Catalog, params: dict[str, Any]) -> dict[str, Any]:
    """Do it."""
    session = params["session"]
    known = catalog.session(session)
    before = "absent" if known is None else known.state
    if params["state"] == "begun":
        changed = begin_session(catalog, session, params["host"])
    elif params["state"] == "closed":
        verdict = verdict_of(catalog, session, params["evidence"])
        changed = catalog.close_session(session, verdict, params["evidence"])
    elif params["state"] == "failed":
        changed = fail_session(catalog, session, params["host"] or "", params["reason"], params["phase"] or "")
    else:
        changed = catalog.expire_session(session, allow_last=params["allow_last"])
    after = catalog.session(session)
    state, reason = (after.state, after.reason) if after else ("absent", "")
    return {"changed": changed, "session_state": state, "reason": reason, "before": before, **level_of(known, params)}


def recover(catalog: Catalog, params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Make failed what other sessions of the host left open."""
    known = catalog.session(params["session"])
    dead = (dead_sessions if dry_run else fail_dead_sessions)(catalog, params["host"], params["session"])
    return {
        "changed": bool(dead),
        "session_state": known.state if known else "absent",
        "reason": known.reason if known else "",
        "recovered": dead,
        "diff": {"before": dict.fromkeys(dead, OPEN), "after": dict.fromkeys(dead, FAILED)},
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    """Close the session."""
    check_session_id(module.params["session"])
    state_dir = StateDir(module.params["state_dir"])
    if not module.check_mode:
        state_dir.make()
    path, look = state_dir.catalog_file, module.check_mode
    with Catalog.open_for(path, writable=not look, no_trace=look) as catalog:
        if module.params["state"] == "recovered":
            return recover(catalog, module.params, dry_run=module.check_mode)
        result = (dry_run if module.check_mode else close)(catalog, module.params)
        if not module.check_mode and module.params["state"] in ("closed", "failed"):
            drop_maps(state_dir, catalog)
    before = result.pop("before", result["session_state"])
    return {
        **result,
        "diff": {"before": {"state": before}, "after": {"state": result["session_state"], "reason": result["reason"]}},
    }


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "state": {
                "type": "str",
                "choices": ["begun", "closed", "failed", "expired", "recovered"],
                "required": True,
            },
            "evidence": {"type": "dict"},
            "host": {"type": "str"},
            "reason": {"type": "str"},
            "phase": {"type": "str"},
            "allow_last": {"type": "bool", "default": False},
            **SESSION_SPEC,
        },
        required_if=[
            ("state", "begun", ["host"]),
            ("state", "closed", ["evidence"]),
            ("state", "failed", ["reason"]),
            ("state", "recovered", ["host"]),
        ],
    )


if __name__ == "__main__":
    main()
