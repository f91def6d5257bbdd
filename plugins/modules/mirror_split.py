#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_split
short_description: Split a mirror set, or prepare to split it
version_added: 0.1.0
description:
  - Splits all pairs of a mirror set, or none. Fails if a pair is not in sync, already split, or in use.
  - Runs on the array, or on the host that controls it.
  - The mirror of a live file system is only consistent if the file system is frozen during the split. In a backup,
    M(splitmirror.backup.backup_window) freezes it, asks the splitter that this module has armed to split, and thaws it.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.array
  - splitmirror.backup.mirror
  - splitmirror.backup.mirror.pairs
  - splitmirror.backup.session
options:
  state:
    description:
      - V(armed) checks and prepares everything, and starts a process, the splitter, that splits on request. It ends by
        itself after O(arm_timeout_s) and then leaves nothing.
      - V(split) splits now, with the splitter if the session has armed one.
    type: str
    choices: [armed, split]
    default: split
  arm_timeout_s:
    description: How many seconds the splitter waits for the request to split. For O(state=armed).
    type: int
    default: 600
  freeze:
    description:
      - The return value C(freeze) of M(splitmirror.backup.write_freeze), in plays without
        M(splitmirror.backup.backup_window). The task that splits returns it again. It proves to
        M(splitmirror.backup.extent_map) that the split was made during that freeze.
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
notes:
  - The splitter ends with its user's login session where C(systemd-logind) is set to C(KillUserProcesses=yes).
seealso:
  - module: splitmirror.backup.backup_window
  - module: splitmirror.backup.mirror_sync
  - module: splitmirror.backup.mirror_present
"""

EXAMPLES = r"""
- name: Prepare to split within the next ten minutes
  splitmirror.backup.mirror_split:
    session: "{{ splitmirror_session }}"
    provider: image
    pairs: "{{ splitmirror_pairs }}"
    state: armed
  delegate_to: array1

- name: Split now (the file systems are frozen)
  splitmirror.backup.mirror_split:
    session: "{{ splitmirror_session }}"
    provider: image
    pairs: "{{ splitmirror_pairs }}"
  delegate_to: array1
  register: split
"""

RETURN = r"""
session:
  description: The session that holds the mirror set now.
  type: str
  returned: always
  sample: 20260131T020000Z-db1-9f3c
freeze:
  description: The value of O(freeze). A split that was made by an earlier task is not part of the freeze.
  type: str
  returned: when O(state=split), O(freeze) is given, and this task has split
  sample: 5f1d7a84a2be19b1c3c0c4c2c4f9d0aa
method:
  description: How the array splits; V(reflink) or V(copy) for provider V(image), the kind for V(external).
  type: str
  returned: when not in check mode
  sample: reflink
deadline_s:
  description: In how many seconds the splitter ends if it is not asked to split.
  type: float
  returned: when O(state=armed) and not in check mode
  sample: 599.9
pid:
  description: The process id of the splitter.
  type: int
  returned: when O(state=armed) and not in check mode
  sample: 4711
devices:
  description: The mirror of each pair, as the array calls it.
  type: dict
  returned: when O(state=split)
  sample: {"data": "/luns/db1-data.mirror"}
split_s:
  description: How long the split itself took on the array, in seconds.
  type: float
  returned: when O(state=split) and not in check mode
  sample: 0.004
pairs:
  description: The split of each pair, with the times before and after it.
  type: list
  elements: dict
  returned: when O(state=split) and not in check mode
  contains:
    name:
      description: The name of the pair.
      type: str
      sample: data
    mirror:
      description: The mirror as the array calls it.
      type: str
      sample: /luns/db1-data.mirror
    before_mono_s:
      description: The time before the split, by the array's monotonic clock. It orders events of the array only.
      type: float
      sample: 12345.678
    after_mono_s:
      description: The time after the split, by the array's monotonic clock.
      type: float
      sample: 12345.681
    before_wall_s:
      description: The time before the split, by the wall clock, in seconds since 1970. It is for information only.
      type: float
      sample: 1769824800.123
    after_wall_s:
      description: The time after the split, by the wall clock.
      type: float
      sample: 1769824800.126
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDER_SPEC, provider_of

SPEC = {
    **PROVIDER_SPEC,
    **PAIRS_SPEC,
    **SESSION_SPEC,
    "state": {"type": "str", "choices": ["armed", "split"], "default": "split"},
    "arm_timeout_s": {"type": "int", "default": 600},
    "freeze": {"type": "str"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Arm or split, unless that is done already."""
    params = module.params
    provider = provider_of(params)
    result = (make_armed if params["state"] == "armed" else make_split)(module, provider)
    if result.get("method") == "copy":
        module.warn("the mirrors are copied, not split: writes are stopped for as long as the copy takes.")
    before = result.pop("before")
    after = {pair.name: params["state"] for pair in provider.pairs}
    return {"session": params["session"], "diff": {"before": before, "after": after}, **result}


def make_armed(module: AnsibleModule, provider: MirrorProvider) -> dict[str, Any]:
    """Leave a splitter that stands ready."""
    session = module.params["session"]
    before = phases(provider)
    ready = splitter.armed(provider.state_dir, session)
    changed = ready is None
    if ready is None:
        provider.check_splittable(session)
        if module.check_mode:
            return {"changed": True, "before": before}
        ready = splitter.arm(provider, session, module.params["arm_timeout_s"])
        for remark in provider.remarks():
            module.warn(remark)
    return {
        "changed": changed,
        "before": before,
        "pid": ready.pid,
        "deadline_s": ready.deadline_s,
        "method": ready.method,
    }


def make_split(module: AnsibleModule, provider: MirrorProvider) -> dict[str, Any]:
    """Split now, by the splitter if there is one."""
    session = module.params["session"]
    before = phases(provider)
    done = provider.split_result(session)
    if done is not None:
        return {"changed": False, "before": before, **done.as_dict()}
    ready = splitter.armed(provider.state_dir, session)
    if module.check_mode:
        if ready is None:
            provider.check_splittable(session)
        devices = {pair.name: pair.mirror for pair in provider.pairs}
        return {"changed": True, "before": before, "devices": devices}
    result = provider.split(session) if ready is None else splitter.split(provider.state_dir, session)
    freeze = module.params["freeze"]
    if not freeze and len(provider.pairs) > 1 and not provider.capabilities.atomic_set:
        module.warn(
            f"provider {provider.name} splits the pairs one after the other; unless writes were stopped meanwhile, the "
            "mirrors show different instants. Freeze first (write_freeze), and pass its result in the option freeze."
        )
    return {"changed": True, "before": before, **result.as_dict(), **({"freeze": freeze} if freeze else {})}


def phases(provider: MirrorProvider) -> dict[str, str]:
    """The phase of each pair."""
    return {state.name: state.phase for state in provider.state()}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, for_session=True)


if __name__ == "__main__":
    main()
