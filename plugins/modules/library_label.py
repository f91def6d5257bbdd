#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: library_label
short_description: Label the blank volumes of a library
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Labels each volume of a library whose barcode matches a pattern and that is blank, and enters it into the catalog.
    Its name is its barcode.
  - A volume that is in the catalog is not loaded. Any other that matches is loaded, and left alone if it is not blank.
  - Volumes in import and export slots do not count.
options:
  pattern:
    description:
      - A shell pattern for the barcodes, such as V(DAY*L9). Upper and lower case differ.
    type: str
    required: true
  pool:
    description: The pool that the volumes get into.
    type: str
    default: default
  record_bytes:
    description: The size of the records on the volumes, as for M(splitmirror.backup.tape_label).
    type: int
    default: 1048576
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
    details: Nothing is loaded. What is in a drive is looked at; other volumes are returned as RV(unseen).
  diff_mode:
    support: none
    details: RV(labelled) names what is new.
seealso:
  - module: splitmirror.backup.tape_label
  - module: splitmirror.backup.volume_info
"""

EXAMPLES = r"""
- name: Label what is blank for the daily backups
  splitmirror.backup.library_label:
    pattern: DAY*
    pool: daily
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
"""

RETURN = r"""
labelled:
  description: The volumes that got their label; in check mode those that are known to be blank.
  returned: success
  type: list
  elements: str
  sample: [DAY001L9, DAY002L9]
known:
  description: The volumes that match and are in the catalog already.
  returned: success
  type: list
  elements: str
left_alone:
  description: The volumes that were left alone.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The volume.
      type: str
    reason:
      description: Why.
      type: str
unseen:
  description: In check mode, the volumes that would be loaded and looked at.
  returned: success
  type: list
  elements: str
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.labelling import label_blank
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    DRIVE_RULES,
    DRIVE_SPEC,
    LIBRARIES_SPEC,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Label what is blank, or tell what would be done."""
    params = module.params
    look = module.check_mode
    path = StateDir(params["state_dir"]).catalog_file
    options = Libraries.of(params, dry_run=look).of_pool(params["pool"])
    who = f"library_label of pool {params['pool']}"
    queued = queue_for_drive(options, "", who=who, writable=not look)
    opened = Catalog.open_for(path, writable=not look, no_trace=look)
    with queued as lease, opened as catalog:
        done = label_blank(lease, catalog, params["pattern"], params["pool"], params["record_bytes"])
    for volume in done.left_alone.values():
        module.warn(volume)
    return done.facts()


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "pattern": {"type": "str", "required": True},
            "pool": {"type": "str", "default": "default"},
            "record_bytes": {"type": "int", "default": 1 << 20},
            **DRIVE_SPEC,
            **LIBRARIES_SPEC,
            **STATE_DIR_SPEC,
        },
        **DRIVE_RULES,
    )


if __name__ == "__main__":
    main()
