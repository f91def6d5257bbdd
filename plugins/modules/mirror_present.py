#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_present
short_description: Present a split mirror set read-only, or take it back
version_added: 0.1.0
description:
  - Makes the mirrors that a session has split readable as block devices, and only readable, or takes that back.
  - Runs on the array, or on the host that drives it.
  - For O(provider=image) the devices are loop devices on the host that holds the images, which is the media server too.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.mirror
  - splitmirror.backup.session
options:
  state:
    description:
      - V(presented) gives a block device for the mirror of each pair. Done again, it gives the same devices.
      - V(withdrawn) takes all devices away, or none. A device that is mounted or open is refused.
    type: str
    choices: [presented, withdrawn]
    default: presented
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.mirror_split
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Give the media server the mirrors
  splitmirror.backup.mirror_present:
    session: "{{ splitmirror_session }}"
    provider: image
    pairs: "{{ splitmirror_pairs }}"
  delegate_to: array1
  register: mirror

- name: Take them back
  splitmirror.backup.mirror_present:
    session: "{{ splitmirror_session }}"
    provider: image
    pairs: "{{ splitmirror_pairs }}"
    state: withdrawn
  delegate_to: array1
"""

RETURN = r"""
devices:
  description:
    - The block device of each pair's mirror.
    - In check mode only those that are there already; empty after O(state=withdrawn).
  type: dict
  returned: always
  sample: {"data": "/dev/loop7", "wal": "/dev/loop8"}
withdrawn:
  description: The devices that are gone, or would go in check mode.
  type: list
  elements: str
  returned: when O(state=withdrawn)
  sample: [/dev/loop7, /dev/loop8]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider

SPEC = {
    **PAIRS_SPEC,
    **SESSION_SPEC,
    "state": {"type": "str", "choices": ["presented", "withdrawn"], "default": "presented"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Present or withdraw."""
    params = module.params
    provider = make_provider(params["provider"], params["pairs"], params["state_dir"])
    before = {state.name: state.devices[0] for state in provider.state() if state.devices}
    if params["state"] == "presented":
        result = make_presented(module, provider, before)
    else:
        result = make_withdrawn(module, provider, before)
    return {"diff": {"before": before, "after": result["devices"]}, **result}


def make_presented(module: AnsibleModule, provider: MirrorProvider, before: dict[str, str]) -> dict[str, Any]:
    """Give a device for each pair."""
    session = module.params["session"]
    if module.check_mode:
        if provider.split_result(session) is None:
            raise MirrorError(f"session {session}: it has not split these pairs; split them first.", option="session")
        return {"changed": len(before) < len(provider.pairs), "devices": before}
    presented = provider.present(session)
    return {"changed": presented.changed, "devices": presented.devices}


def make_withdrawn(module: AnsibleModule, provider: MirrorProvider, before: dict[str, str]) -> dict[str, Any]:
    """Take all devices away."""
    if module.check_mode:
        if provider.split_result(module.params["session"]) is None:
            return {"changed": False, "devices": before, "withdrawn": []}
        busy = [state for state in provider.state() if state.users]
        if busy:
            raise MirrorError(f"{busy[0].problem}")
        return {"changed": bool(before), "devices": {}, "withdrawn": list(before.values())}
    withdrawn = provider.withdraw(module.params["session"])
    return {"changed": bool(withdrawn), "devices": {}, "withdrawn": withdrawn}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC)


if __name__ == "__main__":
    main()
