#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_sync
short_description: Synchronize a mirror set, or clean up what dead sessions left
version_added: 0.1.0
description:
  - Makes sure that all pairs of a mirror set are in sync and not held by a session, so that they can be split.
  - Runs on the array, or on the host that controls it.
  - Fails if a mirror is presented, exported or being read. Such a mirror is never resynced.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.array
  - splitmirror.backup.mirror
  - splitmirror.backup.mirror.pairs
  - splitmirror.backup.session.state_dir
options:
  state:
    description:
      - V(synced) waits until all pairs are in sync. If O(session) has split them, they are resynced first; if it has
        armed a splitter, the splitter is ended. The module fails if another session holds one of the pairs.
      - V(recovered) first cleans up what dead sessions left on these pairs. It removes their exports and devices,
        resyncs the mirrors, and removes the records. The module fails if a mirror is in use on the array, or if the
        splitter of a session that is not among O(dead_sessions) is ready to split.
      - The exports are looked up in the iSCSI targets of this host, whichever transport made them. They are removed
        even if an initiator is logged in. Detach the media server first;
        M(splitmirror.backup.mirror_attach) fails if the mirror is being read there.
    type: str
    choices: [synced, recovered]
    default: synced
  session:
    description:
      - The id of the backup session that holds the mirror set and is to release it.
      - Leave it out before a backup begins.
      - With O(state=recovered) it is one more of O(dead_sessions).
    type: str
  dead_sessions:
    description:
      - The ids of sessions that are known to be dead, for O(state=recovered). Their splitters are ended, and what they
        left is removed even if their records are lost.
      - A splitter of another session that is ready to split is left alone, because that session may be alive.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  host:
    description:
      - The inventory name of the database host. With O(state=recovered) the module fails if a session of another host
        holds one of the pairs or is named in O(session) or O(dead_sessions), and leaves that session alone.
      - Without it, the sessions of all hosts are cleaned up.
    type: str
    version_added: 0.2.0
  for_session:
    description:
      - The id of the session that waits for the synchronization. C(status.json) in its folder on this host shows how
        far the synchronization has come, as for M(splitmirror.backup.tape_write), in percent.
      - When it is left out, C(status.json) goes into the folder of O(session), if that is there.
    type: str
    version_added: 0.2.0
  wait:
    description: Whether to wait until all pairs are in sync. With V(false) the module fails at once if they are not.
    type: bool
    default: true
  timeout_s:
    description: How many seconds to wait for the synchronization, including the resync of what O(session) has split.
    type: int
    default: 14400
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.mirror_info
  - module: splitmirror.backup.mirror_split
  - module: splitmirror.backup.mirror_present
"""

EXAMPLES = r"""
- name: Clean up what dead runs left
  splitmirror.backup.mirror_sync:
    provider: image
    pairs: "{{ splitmirror_pairs }}"
    state: recovered
  delegate_to: array1

- name: Wait until the mirrors are in sync
  splitmirror.backup.mirror_sync:
    provider: image
    pairs: "{{ splitmirror_pairs }}"
    timeout_s: 7200
  delegate_to: array1

- name: Resync the mirrors that this session has split
  splitmirror.backup.mirror_sync:
    provider: image
    pairs: "{{ splitmirror_pairs }}"
    session: "{{ splitmirror_session }}"
  delegate_to: array1
"""

RETURN = r"""
pairs:
  description: The state of each pair afterwards, as M(splitmirror.backup.mirror_info) returns it.
  type: list
  elements: dict
  returned: always
  sample: [{"name": "data", "in_sync": true, "sync_percent": 100.0, "phase": "none", "session": null, "problem": null}]
waited_s:
  description: How many seconds the synchronization took.
  type: float
  returned: when not in check mode
  sample: 0.0
resynced_bytes:
  description: How many bytes the resync of O(session) copied. Provider V(image) copies none.
  type: int
  returned: when not in check mode
  sample: 0
recovered:
  description: The dead sessions that were cleaned up; in check mode, that would be cleaned up.
  type: list
  elements: dict
  returned: always
  contains:
    session:
      description: The id of the session.
      type: str
      sample: 20260131T020000Z-db1-9f3c
    phase:
      description: How far the session had come, V(broken) or V(split).
      type: str
      sample: split
    pairs:
      description: The names of its pairs.
      type: list
      elements: str
      sample: [data, wal]
    withdrawn:
      description: The devices that were still presented.
      type: list
      elements: str
      sample: [/dev/loop7]
targets:
  description: The exports that were removed with O(state=recovered); in check mode, that would be removed.
  type: list
  elements: str
  returned: always
  sample: ["iqn.2026-01.local.splitmirror.mirror:20260131:t020000:z-db1-9f3c:0c8f614a0"]
"""

from contextlib import nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils import _module
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Leases
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import presenting, splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import (
    MirrorError,
    PairState,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDER_SPEC, provider_of
from ansible_collections.splitmirror.backup.plugins.module_utils.session import (
    StateDir,
    check_session_id,
    host_part,
    is_of_host,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import FoundExport

#: A production host is to be disturbed for about a second.
LONG_SPLIT_S = 1.0
SPEC = {
    **PROVIDER_SPEC,
    **_module.PAIRS_SPEC,
    **_module.STATE_DIR_SPEC,
    "state": {"type": "str", "choices": ["synced", "recovered"], "default": "synced"},
    "session": {"type": "str"},
    "dead_sessions": {"type": "list", "elements": "str", "default": []},
    "host": {"type": "str"},
    "for_session": {"type": "str"},
    "wait": {"type": "bool", "default": True},
    "timeout_s": {"type": "int", "default": 14400},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Do it, as a task of the host's run that is at work."""
    host = module.params["host"]
    leases = Leases(StateDir(module.params["state_dir"]))
    with leases.at_work(host_part(host)) if host and not module.check_mode else nullcontext():
        return bring_in_sync(module)


def bring_in_sync(module: AnsibleModule) -> dict[str, Any]:
    """Free what is to be freed, then wait until all is in sync."""
    params = module.params
    provider = provider_of(params)
    session, recovering = params["session"], params["state"] == "recovered"
    named = named_sessions(params)
    before = provider.state()
    if recovering and params["host"]:
        refuse_others(before, params["host"])
    if module.check_mode:
        exports = presenting.exports_to_recover(provider, before) if recovering else []
        if session and not recovering:
            exports = presenting.exports_of(provider, before)
        return dry_run(before, named, recovering, exports)
    # Each of them, before anything is recovered: only one can stand ready, and it would be in the way of the others.
    disarmed = [one for one in named if splitter.disarm(provider.state_dir, one)]
    recovered, targets = presenting.recover(provider, named) if recovering else ([], [])
    wait, timeout_s = params["wait"], params["timeout_s"]
    resynced_bytes = 0
    if session and not recovering:
        provider.status = status_of(module, "resync")
        resynced_bytes = presenting.resync(provider, session, wait, timeout_s)
    provider.status = status_of(module, "sync")
    waited_s = provider.sync(wait, timeout_s)
    provider.status.finish()
    after = provider.state()
    refuse_problems(after)
    warn_of_a_long_split(module, after)
    return {
        "changed": bool(disarmed or recovered or targets) or holders(before) != holders(after),
        "pairs": [state.as_dict() for state in after],
        "waited_s": round(waited_s, 3),
        "resynced_bytes": resynced_bytes,
        "recovered": [one.as_dict() for one in recovered],
        "targets": targets,
        "diff": {"before": holders(before), "after": holders(after)},
    }


def named_sessions(params: dict[str, Any]) -> list[str]:
    """The sessions that are to release the set, each once. :raises SplitMirrorError: one cannot be such a session."""
    recovering = params["state"] == "recovered"
    given = [("session", params["session"])] if params["session"] else []
    given += [("dead_sessions", one) for one in params["dead_sessions"]] if recovering else []
    for option, session in given:
        check_session_id(session, option)
        if recovering and params["host"] and not is_of_host(session, params["host"]):
            raise MirrorError(
                f"{option}: session {session} does not belong to {params['host']}, and is left alone; name it without "
                "host.",
                option=option,
                code="mirror_held",
            )
    return list(dict.fromkeys(session for _option, session in given))


def status_of(module: AnsibleModule, phase: str) -> StatusWriter:
    """Where to show how far it is."""
    state, waiting = StateDir(module.params["state_dir"]), module.params["for_session"]
    if waiting:
        state.make_session_dir(waiting)
    # The folder of a session that is cleaned up is not made again: nobody would remove it.
    session = waiting or module.params["session"]
    return StatusWriter(state.status_file(session) if session else None, phase, "percent", 100)


def dry_run(states: list[PairState], named: list[str], recovering: bool, exports: list[FoundExport]) -> dict[str, Any]:
    """What a run would do."""
    freed = [state for state in states if state.session and (state.session in named or recovering)]
    refuse_problems([state for state in states if state not in freed])
    if not recovering:
        presenting.refuse_exported(exports)
    for state in freed:
        # What has an exported device open is the target, which goes first.
        if state.users and not exports:
            refuse_problems([state])
        if state.phase == "armed" and state.session not in named:
            refuse_problems([state])
    dead: dict[str, dict[str, Any]] = {}
    for state in freed if recovering else []:
        one = dead.setdefault(str(state.session), {"session": state.session, "phase": state.phase, "pairs": []})
        one["pairs"].append(state.name)
        one.setdefault("withdrawn", []).extend(state.devices)
    free = {state.name: {"phase": "none", "session": None} for state in freed}
    return {
        "changed": bool(freed or exports),
        "pairs": [{**state.as_dict(), **free.get(state.name, {})} for state in states],
        "recovered": list(dead.values()),
        "targets": [export.target for export in exports],
        "diff": {"before": holders(states), "after": {**holders(states), **free}},
    }


def refuse_others(states: list[PairState], host: str) -> None:
    """Refuse to clean up sessions of another inventory name."""
    for state in states:
        if state.session and not is_of_host(state.session, host):
            raise MirrorError(
                f"pairs: pair {state.name} is held by session {state.session}, which does not belong to "
                f"{host}, and is left alone. Wait until that session has ended, or clean it up by mirror_sync with "
                "state: recovered and without host.",
                option="pairs",
                code="mirror_held",
            )


def warn_of_a_long_split(module: AnsibleModule, states: list[PairState]) -> None:
    """Tell beforehand that writes will stand still for long."""
    split_s = sum(state.split_estimate_s or 0.0 for state in states)
    if split_s > LONG_SPLIT_S:
        module.warn(
            f"the split of these pairs will take about {split_s:.1f} seconds, and writes are stopped meanwhile: their "
            "images have many extents. See the guide to mirror providers."
        )


def refuse_problems(states: list[PairState]) -> None:
    """Raise the first thing that keeps a pair from being split."""
    for state in states:
        if state.problem:
            raise MirrorError(state.problem, option="pairs", code=state.problem_code)


def holders(states: list[PairState]) -> dict[str, dict[str, Any]]:
    """Who holds each pair."""
    return {state.name: {"phase": state.phase, "session": state.session} for state in states}


def main() -> None:
    """Run the module."""
    _module.run_module(work, SPEC)


if __name__ == "__main__":
    main()
