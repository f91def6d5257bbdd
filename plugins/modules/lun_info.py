#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lun_info
short_description: Show the LUNs of a database host and the file systems on them
version_added: 0.1.0
description:
  - Looks at the primaries of a mirror set as the database host sees them. Changes nothing.
  - Fails for paths that are not on a LUN of the set, because they would be missing in the backup.
  - Runs on the database host.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.mirror.pairs
options:
  paths:
    description:
      - Folders and files that are to be backed up.
      - Each must be wholly on LUNs in O(pairs), on a file system that can be mapped.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: This module changes nothing.
seealso:
  - module: splitmirror.backup.extent_map
  - module: splitmirror.backup.mirror_info
"""

EXAMPLES = r"""
- name: Check that everything that is to be backed up has a mirror
  splitmirror.backup.lun_info:
    pairs: "{{ splitmirror_pairs }}"
    paths:
      - /srv/data
      - /srv/tablespaces
  register: luns

- name: Show how much has been read from the LUNs since they were attached
  ansible.builtin.debug:
    msg: "{{ luns.luns | map(attribute='read_bytes') | sum | human_readable }}"
"""

RETURN = r"""
luns:
  description: The LUNs, in the order of O(pairs).
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The name of the pair.
      type: str
      sample: data
    device:
      description: The device as given.
      type: str
      sample: /dev/disk/by-id/wwn-0x600140500d1e
    kernel_device:
      description: The kernel's name of the device, valid until the next boot.
      type: str
      sample: /dev/sdb
    size_bytes:
      description: The size of the LUN.
      type: int
      sample: 107374182400
    serial:
      description: The serial number, or V(null) if neither the kernel nor udev has one.
      type: str
      sample: SN0042
    wwn:
      description: The world wide name, or V(null).
      type: str
      sample: naa.600140500d1e
    read_bytes:
      description: Bytes read from the device since it was attached.
      type: int
      sample: 123456
    written_bytes:
      description: Bytes written to the device since it was attached.
      type: int
      sample: 654321
    file_systems:
      description: The mounted file systems on it.
      type: list
      elements: dict
      contains:
        device:
          description: The block device of the file system.
          type: str
          sample: /dev/sdb1
        fs_type:
          description: Its type.
          type: str
          sample: xfs
        fs_uuid:
          description: Its UUID, or V(null).
          type: str
          sample: 0b1e8b2c-6f0f-4f8d-a3f6-8a6b0c9a9b7e
        mount_points:
          description: Where it is mounted.
          type: list
          elements: str
          sample: [/srv/data]
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.luns import look_at_luns
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec

SPEC = {
    "pairs": PAIRS_SPEC["pairs"],
    "paths": {"type": "list", "elements": "path", "default": []},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Look at the LUNs."""
    specs = []
    for pair in module.params["pairs"]:
        if not pair["device"]:
            raise MapError(
                f"pairs: pair {pair['name']} has no device; name the LUN's device on this host.",
                "pairs",
                code="option_invalid",
            )
        specs.append(LunSpec(pair["name"], pair["device"], pair["serial"]))
    return {"changed": False, "luns": [asdict(lun) for lun in look_at_luns(specs, module.params["paths"])]}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, needs_root=True)


if __name__ == "__main__":
    main()
