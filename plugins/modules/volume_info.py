#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: volume_info
short_description: List volumes, how full they are, until when they are needed, and where they are
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Lists the volumes in the catalog of a media server. If a library is named, it is asked where they are. Nothing is
    moved or loaded.
  - A missing catalog is treated as an empty one.
options:
  pool:
    description: Only volumes of this pool.
    type: str
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive.optional
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: It changes nothing.
seealso:
  - module: splitmirror.backup.catalog_info
  - module: splitmirror.backup.library_mail
  - module: splitmirror.backup.tape_label
"""

EXAMPLES = r"""
- name: See what is where
  splitmirror.backup.volume_info:
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
  register: library

- name: List the volumes of a pool by the catalog alone
  splitmirror.backup.volume_info:
    pool: offsite
"""

RETURN = r"""
volumes:
  description: The volumes in the catalog, by name.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The name.
      type: str
      sample: WEEK01L9
    pool:
      description: The pool.
      type: str
      sample: weekly
    state:
      description:
        - V(blank) if it has nothing but its label, V(filling) if there is room behind what is on it, as far as is
          known, V(reusable) if it is full and nothing on it is needed, V(full) if something is.
        - V(out_of_use) if nothing is written to it any more.
      type: str
      sample: filling
    out_of_use:
      description: Why nothing is written to it any more; empty for a volume in use.
      type: str
    used_bytes:
      description: All records on it, the label included.
      type: int
    free_bytes:
      description: How much room is left; null when that is not known.
      type: int
    sessions:
      description: The sessions with a part or a copy of one on it, from old to new, whatever became of them.
      type: list
      elements: str
    copies:
      description: Those of them of which a copy is on it, see M(splitmirror.backup.session_copy).
      type: list
      elements: str
    needed:
      description: Those of them that must not be overwritten.
      type: list
      elements: str
    last_good:
      description: Those of them that are the last good session of their host.
      type: list
      elements: str
    expires:
      description: When the last session on it expires, or has expired; null for never, or if there is none.
      type: str
    created:
      description: When it was labelled.
      type: str
    written:
      description: When a session was written to it last; null for never.
      type: str
    loads:
      description: How often it was loaded in its life; null when no drive said so.
      type: int
    errors:
      description: Errors that drives could not correct on it.
      type: int
    alerts:
      description: Numbers of the TapeAlert flags that were on after its last use.
      type: list
      elements: int
    place:
      description: Where it is.
      type: dict
      contains:
        kind:
          description:
            - V(slot), V(drive) or V(mail_slot) of the library, V(folder) of a virtual drive, V(elsewhere) if it is in
              none of them and RV(volumes[].place.note) says where, otherwise V(unknown).
          type: str
          sample: slot
        number:
          description: The number of the slot or the drive, as C(mtx) counts.
          type: int
        note:
          description: Where people keep it, as M(splitmirror.backup.library_mail) was told.
          type: str
        since:
          description: Since when it is there, or is back.
          type: str
unknown:
  description: Volumes in the library that are not in the catalog.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The barcode.
      type: str
    place:
      description: Where it is, as RV(volumes[].place).
      type: dict
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volume_list import list_volumes
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    DRIVE_RULES,
    LIBRARIES_SPEC,
    OPTIONAL_DRIVE_SPEC,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """List the volumes."""
    params = module.params
    libraries = None if params["drive_type"] is None else Libraries.of(params, dry_run=True)
    path = StateDir(params["state_dir"]).catalog_file
    where = {} if libraries is None else libraries.look()
    with Catalog.open_for(path, writable=False, no_trace=module.check_mode) as catalog:
        return {"changed": False, **list_volumes(catalog, params["pool"], where)}


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {"pool": {"type": "str"}, **OPTIONAL_DRIVE_SPEC, **LIBRARIES_SPEC, **STATE_DIR_SPEC},
        required_by={"drive": ["drive_type"], "drives": ["drive_type"], "changer": ["drive_type"]},
        required_if=[("drive_type", "st", ["drive", "drives"], True), ("drive_type", "virtual", ["drive"])],
        mutually_exclusive=DRIVE_RULES["mutually_exclusive"],
    )


if __name__ == "__main__":
    main()
