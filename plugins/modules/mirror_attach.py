#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_attach
short_description: Attach the presented mirrors to the media server, or detach them
version_added: 0.2.0
description:
  - Makes the mirrors that M(splitmirror.backup.mirror_present) has exported readable on the media server, or detaches
    them before they are withdrawn.
  - Runs on the media server. It is not needed with transport V(local).
  - Each mirror is identified by its serial number and WWN. Its device is read-only, and its data is not cached. If the
    mirror has a multipath device, that device is used.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.mirror.optional_pairs
  - splitmirror.backup.session.state_dir
options:
  state:
    description:
      - V(attached) logs in to the session's target and finds the mirror of each pair. With O(transport=static) it finds
        the LUNs of O(pairs) among the disks of this host, and needs O(pairs). With O(transport=masked) it finds those
        of O(luns), and keeps their names in the folder of the session.
      - V(detached) logs out and removes the record of the target. It fails if a mirror is open, mounted, or used by
        another device. With O(host) this is done for the targets of all sessions of a database host, to clean up what
        dead runs left.
      - V(checked) changes nothing. It returns the initiator name, and fails if this host could not attach a mirror.
    type: str
    choices: [attached, detached, checked]
    default: attached
  transport:
    description: The transport, as given to M(splitmirror.backup.mirror_present).
    type: str
    choices: [lio, masked, nbd, static, tgt]
    required: true
  session:
    description: The id of the backup session. Needed unless O(host) is given, or O(state=checked).
    type: str
  host:
    description: The inventory name of a database host. All of its sessions are detached.
    type: str
  portal:
    description: Where the target is, as returned by M(splitmirror.backup.mirror_present).
    type: str
  luns:
    description:
      - The LUNs of the target, as returned by M(splitmirror.backup.mirror_present).
      - With O(transport=masked), for each pair C(serial) or C(wwn), and if they are known C(lun), the number, and
        C(size_bytes).
      - When O(pairs) is given, they must be the LUNs of these pairs.
    type: dict
  chap_secret:
    description:
      - The secret with which the media server logs in to the target of this mirror set, 22 to 255 letters and digits.
        Make a random one for each session, and give the same to M(splitmirror.backup.mirror_present).
      - Needed for V(tgt), V(lio) and V(nbd) with O(state=attached).
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
- name: Attach the mirrors of a session
  splitmirror.backup.mirror_attach:
    transport: lio
    session: "{{ splitmirror_session }}"
    portal: "{{ mirror.portal }}"
    luns: "{{ mirror.luns }}"
    chap_secret: "{{ secret }}"
  delegate_to: media1
  register: attached

- name: Detach them
  splitmirror.backup.mirror_attach:
    transport: lio
    session: "{{ splitmirror_session }}"
    state: detached
  delegate_to: media1

- name: Detach what dead sessions of this database host left
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
    - In check mode only the existing ones.
  type: dict
  returned: when O(state=attached)
  sample: {"data": "/dev/disk/by-id/wwn-0x6001405a0fe08c6c479317f57172bc3a"}
initiator:
  description: The iSCSI name of this host; empty with V(static) and V(masked).
  type: str
  returned: when O(state=checked)
  sample: iqn.2004-10.com.ubuntu:01:media1
targets:
  description:
    - The targets that were logged out of and removed; in check mode, that would be.
    - With O(transport=masked) the serial numbers or WWNs of the LUNs whose paths were removed.
  type: list
  elements: str
  returned: when O(state=detached)
  sample: ["iqn.2026-01.local.splitmirror.mirror:20260131:t020000:z-db1-9f3c:0c8f614a0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    PAIRS_SPEC,
    STATE_DIR_SPEC,
    Spec,
    run_module,
)
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
    **STATE_DIR_SPEC,
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
            state_dir=params["state_dir"],
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
