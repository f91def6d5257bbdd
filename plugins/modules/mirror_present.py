#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_present
short_description: Present a split mirror set read-only, or withdraw it
version_added: 0.1.0
description:
  - Makes the mirrors that a session has split available as read-only block devices, or removes these devices.
  - Runs on the array, or on the host that controls it.
  - With O(transport=tgt) or O(transport=lio) the devices are also exported to the media server over iSCSI, in a target
    of their own for each session. The media server attaches them with M(splitmirror.backup.mirror_attach).
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
      - V(presented) makes a block device for the mirror of each pair, and exports the devices if O(transport) is one
        that exports. A second run returns the same devices and the same export.
      - V(withdrawn) removes the exports of the session, whichever transport made them and even if an initiator is
        logged in, and then all devices, or none of them if one is mounted or open on the array.
      - V(checked) changes nothing. It fails if O(transport) would not work on this host with the given options.
    type: str
    choices: [presented, withdrawn, checked]
    default: presented
  transport:
    description:
      - How the media server reaches the mirrors.
      - With V(local) the array is the media server, and reads the devices itself.
      - With V(tgt) the daemon tgtd exports the devices over iSCSI. It admits initiators that come from
        O(initiator_address) and have O(chap_secret). It must be running and reachable at O(portal).
      - With V(lio) the kernel's target exports the devices, at O(portal) only. It admits O(initiator) if that has
        O(chap_secret).
      - With V(nbd) a qemu-storage-daemon of the session exports the devices over NBD with TLS, at the first free port
        from that of O(portal) on. It admits whoever has O(chap_secret), from which both sides make a key.
      - With V(masked) the array itself shows the mirrors to the media server, and says which LUNs they are. Provider
        V(external) can do that.
      - With V(static) the array shows the mirror's LUN to the media server permanently. Nothing is exported.
    type: str
    version_added: 0.2.0
    choices: [lio, local, masked, nbd, static, tgt]
    default: local
  initiator:
    description: The media server's iSCSI name. Needed for V(tgt) and V(lio) unless O(state=withdrawn).
    type: str
    version_added: 0.2.0
  initiator_address:
    description: The media server's address in the storage network. Needed for V(tgt) and V(lio) unless
      O(state=withdrawn).
    type: str
    version_added: 0.2.0
  portal:
    description:
      - The array's address in the storage network, with a port behind a colon if it is not 3260. Needed for V(tgt),
        V(lio) and V(nbd) unless O(state=withdrawn).
      - The kernel's target cannot listen on a port that tgtd or another program uses.
    type: str
    version_added: 0.2.0
  chap_secret:
    description:
      - The secret with which the media server logs in to the target of this mirror set, 22 to 255 letters and digits.
        Make a random one for each session, and give the same to M(splitmirror.backup.mirror_attach).
      - The target proves by another secret who it is (CHAP in both directions). Both hosts compute that from this one.
      - Needed for V(tgt), V(lio) and V(nbd) with O(state=presented).
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.mirror_attach
  - module: splitmirror.backup.mirror_split
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Make the mirrors readable on the array, which is the media server too
  splitmirror.backup.mirror_present:
    session: "{{ splitmirror_session }}"
    provider: image
    pairs: "{{ splitmirror_pairs }}"
  delegate_to: array1
  register: mirror

- name: Export the mirrors to the media server over iSCSI
  splitmirror.backup.mirror_present:
    session: "{{ splitmirror_session }}"
    provider: lvm
    pairs: "{{ splitmirror_pairs }}"
    transport: lio
    initiator: iqn.2004-10.com.ubuntu:01:media1
    initiator_address: 10.20.0.50
    portal: 10.20.0.11
    chap_secret: "{{ secret }}"
  delegate_to: array1
  register: mirror

- name: Withdraw them
  splitmirror.backup.mirror_present:
    session: "{{ splitmirror_session }}"
    provider: lvm
    pairs: "{{ splitmirror_pairs }}"
    state: withdrawn
  delegate_to: array1
"""

RETURN = r"""
devices:
  description:
    - The block device of each pair's mirror on this host.
    - In check mode only the existing ones; empty after O(state=withdrawn).
  type: dict
  returned: when O(state) is not V(checked)
  sample: {"data": "/dev/loop7", "wal": "/dev/loop8"}
portal:
  description: Where the media server reaches the target; empty when nothing is exported.
  type: str
  returned: when O(state=presented)
  sample: 10.20.0.11:3260
target:
  description: The name of the session's target; empty when nothing is exported.
  type: str
  returned: when O(state=presented)
  sample: iqn.2026-01.local.splitmirror.mirror:20260131:t020000:z-db1-9f3c:0c8f614a0
luns:
  description:
    - How the media server recognizes the mirror of each pair; empty when nothing is exported.
    - With O(transport=masked) what the array has said, C(serial) or C(wwn) at least.
  type: dict
  returned: when O(state=presented)
  sample:
    data:
      lun: 0
      serial: a0fe08c6c479317f57172bc3a105200b
      wwn: 6001405a0fe08c6c479317f57172bc3a
      size_bytes: 1073741824
withdrawn:
  description: The devices that were removed; in check mode, that would be removed.
  type: list
  elements: str
  returned: when O(state=withdrawn)
  sample: [/dev/loop7, /dev/loop8]
targets:
  description: The exports that were removed; in check mode, that would be removed.
  type: list
  elements: str
  returned: when O(state=withdrawn)
  sample: ["iqn.2026-01.local.splitmirror.mirror:20260131:t020000:z-db1-9f3c:0c8f614a0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils import _module
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import presenting
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDER_SPEC, provider_of
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import TRANSPORT_SPEC

SPEC = {
    **PROVIDER_SPEC,
    **_module.PAIRS_SPEC,
    **_module.SESSION_SPEC,
    "state": {"type": "str", "choices": ["presented", "withdrawn", "checked"], "default": "presented"},
    **TRANSPORT_SPEC,
    "initiator": {"type": "str"},
    "initiator_address": {"type": "str"},
    "portal": {"type": "str"},
    "chap_secret": {"type": "str", "no_log": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Present, withdraw, or only look."""
    params = module.params
    provider = provider_of(params)
    if params["state"] == "withdrawn":
        return make_withdrawn(module, provider)
    route = presenting.Route.of(
        params["transport"],
        params["initiator"],
        params["initiator_address"],
        params["portal"],
        params["chap_secret"],
    )
    if params["state"] == "checked":
        route.exporter.preflight(route.portal)
        return {"changed": False}
    return make_presented(module, provider, route)


def make_presented(module: AnsibleModule, provider: MirrorProvider, route: presenting.Route) -> dict[str, Any]:
    """Give a device for each pair, and export them."""
    session = module.params["session"]
    before = seen(provider)
    presented = presenting.present(provider, session, route, dry_run=module.check_mode)
    size_bytes = {state.name: state.size_bytes for state in provider.state()}
    export = presented.export
    targets = {export.target} if export.target else set()
    return {
        "changed": presented.changed,
        "devices": presented.devices,
        "portal": export.portal,
        "target": export.target,
        "luns": presented.luns
        or {name: {**lun.as_dict(), "size_bytes": size_bytes[name]} for name, lun in export.luns.items()},
        "diff": {
            "before": before,
            "after": {"devices": presented.devices, "targets": sorted({*before["targets"], *targets})},
        },
    }


def make_withdrawn(module: AnsibleModule, provider: MirrorProvider) -> dict[str, Any]:
    """Take all exports and devices away."""
    session = module.params["session"]
    before = seen(provider)
    withdrawn = presenting.withdraw(provider, session, dry_run=module.check_mode)
    after = {
        "devices": {name: path for name, path in before["devices"].items() if path not in withdrawn.devices},
        "targets": [target for target in before["targets"] if target not in withdrawn.targets],
    }
    return {
        "changed": bool(withdrawn.devices or withdrawn.targets),
        "devices": after["devices"],
        "withdrawn": withdrawn.devices,
        "targets": withdrawn.targets,
        "diff": {"before": before, "after": after},
    }


def seen(provider: MirrorProvider) -> dict[str, Any]:
    """What is presented and exported now."""
    exports = presenting.exports_of(provider, provider.state())
    return {
        "devices": presenting.presented_devices(provider),
        "targets": sorted(export.target for export in exports),
    }


def main() -> None:
    """Run the module."""
    _module.run_module(work, SPEC, for_session=True, looks="checked")


if __name__ == "__main__":
    main()
