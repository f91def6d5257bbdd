#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_attach
short_description: Find the presented mirrors on the media server, or let go of them
version_added: 0.2.0
description:
  - Makes the mirrors that M(splitmirror.backup.mirror_present) gave away readable on the media server, or lets go of
    them before they are withdrawn.
  - Runs on the media server. It is not needed with transport V(local).
  - Every mirror is found by its serial number and WWN. Its device takes no writes, and nothing is cached of it. Where a
    multipath device lies over its paths, that is taken.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.mirror.optional_pairs
options:
  state:
    description:
      - V(attached) logs in to the session's target and finds the mirror of each pair; with O(transport=static) it finds
        the LUNs of O(pairs) in what the host sees already, so it needs O(pairs).
      - V(detached) logs out and forgets the target. It fails when a mirror is open, mounted, or has another device over
        it. With O(host) it does so for the targets of all sessions of a database host, as it has to be done behind
        runs that died.
      - V(checked) changes nothing. It returns the initiator name, and fails when this host could not attach a mirror.
    type: str
    choices: [attached, detached, checked]
    default: attached
  transport:
    description: How the mirrors get here, as given to M(splitmirror.backup.mirror_present).
    type: str
    choices: [lio, static, tgt]
    required: true
  session:
    description: The id of the backup session. Needed unless O(host) is given, or O(state=checked).
    type: str
  host:
    description: The inventory name of a database host, whose sessions are all to be detached.
    type: str
  portal:
    description: Where the target is, as returned by M(splitmirror.backup.mirror_present).
    type: str
  luns:
    description:
      - The LUNs of the target, as returned by M(splitmirror.backup.mirror_present).
      - When O(pairs) is given, they must be the LUNs of these pairs.
    type: dict
  chap_secret:
    description:
      - The secret by which the media server is let in to the session's target, 22 to 255 letters and digits. Make a
        random one for each session, and give the same to M(splitmirror.backup.mirror_present).
      - Needed for V(tgt) and V(lio) with O(state=attached).
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.mirror_present
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Reach the mirrors of a session
  splitmirror.backup.mirror_attach:
    transport: lio
    session: "{{ splitmirror_session }}"
    portal: "{{ mirror.portal }}"
    luns: "{{ mirror.luns }}"
    chap_secret: "{{ secret }}"
  delegate_to: media1
  register: attached

- name: Let go of them
  splitmirror.backup.mirror_attach:
    transport: lio
    session: "{{ splitmirror_session }}"
    state: detached
  delegate_to: media1

- name: Let go of what dead sessions of this database host left
  splitmirror.backup.mirror_attach:
    transport: lio
    host: "{{ inventory_hostname }}"
    state: detached
  delegate_to: media1
"""

RETURN = r"""
devices:
  description:
    - The device of each pair's mirror, by a name that stays the same.
    - In check mode only those that are there already.
  type: dict
  returned: when O(state=attached)
  sample: {"data": "/dev/disk/by-id/wwn-0x6001405a0fe08c6c479317f57172bc3a"}
initiator:
  description: The iSCSI name of this host; empty with O(transport=static).
  type: str
  returned: when O(state=checked)
  sample: iqn.2004-10.com.ubuntu:01:media1
targets:
  description: The targets that were logged out of and forgotten, or would be in check mode.
  type: list
  elements: str
  returned: when O(state=detached)
  sample: ["iqn.2026-01.local.splitmirror.mirror:20260131:t020000:z-db1-9f3c"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, Spec, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import AttachOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import ATTACH_SPEC, make_attacher

SPEC: Spec = {
    "state": {"type": "str", "choices": ["attached", "detached", "checked"], "default": "attached"},
    **ATTACH_SPEC,
    "session": {"type": "str"},
    "host": {"type": "str"},
    "portal": {"type": "str"},
    "chap_secret": {"type": "str", "no_log": True},
    "luns": {"type": "dict"},
    "pairs": {**PAIRS_SPEC["pairs"], "required": False},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Attach, detach, or only look."""
    params = module.params
    attacher = make_attacher(
        AttachOptions(
            transport=params["transport"],
            session=params["session"],
            host=params["host"],
            portal=params["portal"],
            secret=params["chap_secret"],
            luns=params["luns"],
            pairs=params["pairs"],
        )
    )
    if params["state"] == "checked":
        return {"changed": False, "initiator": attacher.preflight()}
    if params["state"] == "detached":
        targets = attacher.detach(dry_run=module.check_mode)
        return {"changed": bool(targets), "targets": targets, "diff": {"before": targets, "after": []}}
    wanted = attacher.wanted()
    before = attacher.look(wanted)
    if module.check_mode:
        devices, changed = before, len(before) < len(wanted)
    else:
        attached = attacher.attach(wanted)
        devices, changed = attached.devices, attached.changed
    return {"changed": changed, "devices": devices, "diff": {"before": before, "after": devices}}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, needs_root=True)


if __name__ == "__main__":
    main()
