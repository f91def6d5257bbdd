#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: library_mail
short_description: Bring volumes to the import and export slots of a library, and note where they are kept
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Moves volumes into the import and export slots (mail slots) of a library, from where people take them to another
    place, and moves volumes that come back from there into storage slots. The catalog keeps where each volume is.
  - A volume that is away is not chosen by a pool while others will do.
options:
  state:
    description:
      - V(exported) moves the volumes into free mail slots and notes O(place). If there are more volumes than free
        slots, the others are returned as RV(left). Empty the slots, and run the task again.
      - V(imported) moves volumes from the mail slots into storage slots and notes that they are back, as is any volume
        that people put into a storage slot.
      - V(noted) moves nothing, and notes O(place). It is for drives without a library and libraries without mail slots.
    type: str
    choices: [exported, imported, noted]
    required: true
  volumes:
    description:
      - The volumes. For O(state=imported) none means all that are in the mail slots.
    type: list
    elements: str
    default: []
  pool:
    description: All volumes of this pool with sessions on them, besides O(volumes).
    type: str
  place:
    description:
      - Where the volumes are going to be kept, in words. Needed for O(state=exported).
      - For O(state=noted), an empty text means that they are back.
    type: str
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive.optional
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
    details: Nothing is moved. Whether another task uses a volume is not looked at.
  diff_mode:
    support: none
    details: RV(moved) and RV(noted) name what changed.
notes:
  - O(state=exported) and O(state=imported) need O(drive_type=st), O(changer), and O(drive) or O(drives).
  - A volume that is in a drive is put back to its slot first. A volume that another task uses, and one with a session
    that is still open, stays.
seealso:
  - module: splitmirror.backup.volume_info
"""

EXAMPLES = r"""
- name: Bring what is to leave the building to the mail slots
  splitmirror.backup.library_mail:
    state: exported
    pool: offsite
    place: Bank, box 17
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
  register: exported

- name: Take in whatever is in the mail slots
  splitmirror.backup.library_mail:
    state: imported
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001

- name: Note where two tapes of a single drive are kept
  splitmirror.backup.library_mail:
    state: noted
    volumes: [WEEK01, WEEK02]
    place: Safe in the cellar
"""

RETURN = r"""
moved:
  description: The volumes that were moved.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The volume.
      type: str
      sample: OFF001L9
    slot:
      description: The slot that it is in now; null in check mode.
      type: int
      sample: 21
noted:
  description: The volumes of which only the note was changed.
  returned: success
  type: list
  elements: str
left:
  description: The volumes that should have been moved and were not.
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
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mail import bring_in, chosen, export, note
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.library import MtxLibrary
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_RULES, OPTIONAL_DRIVE_SPEC

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Move the volumes and note where they are, or tell what would be done."""
    params = module.params
    state, look = params["state"], module.check_mode
    path = StateDir(params["state_dir"]).catalog_file
    with Catalog.open(path, writable=not look, no_trace=look) as catalog:
        names = chosen(catalog, params["volumes"], params["pool"])
        if state == "noted":
            return note(catalog, names, params["place"], dry_run=look).facts()
        options = DriveOptions.of(params, dry_run=look)
        library = MtxLibrary(params["changer"])
        with queue_for_drive(options, "", who="library_mail") as lease:
            if state == "imported":
                return bring_in(lease, library, catalog, names).facts()
            return export(lease, library, catalog, names, params["place"]).facts()


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "state": {"type": "str", "choices": ["exported", "imported", "noted"], "required": True},
            "volumes": {"type": "list", "elements": "str", "default": []},
            "pool": {"type": "str"},
            "place": {"type": "str"},
            **OPTIONAL_DRIVE_SPEC,
            **STATE_DIR_SPEC,
        },
        required_if=[
            ("state", "exported", ["drive_type", "changer", "place"]),
            ("state", "exported", ["drive", "drives"], True),
            ("state", "imported", ["drive_type", "changer"]),
            ("state", "imported", ["drive", "drives"], True),
            ("state", "noted", ["place"]),
        ],
        mutually_exclusive=DRIVE_RULES["mutually_exclusive"],
    )


if __name__ == "__main__":
    main()
