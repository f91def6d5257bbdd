#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tape_label
short_description: Label a tape volume
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Writes the label of a volume as its first tape file and enters the volume into the catalog, so that C(tape_write)
    may write sessions behind it.
  - The label is a small tar archive; C(tar -tf) lists it. The text in it says how to read the rest of the volume
    without this collection.
  - The folder of a virtual drive is made if it is missing, below O(state_dir) or in a folder that exists.
  - A volume that has the requested label already is not changed.
  - Nothing that may still be needed is overwritten. A volume is refused if it holds foreign data, if its label has
    another name than O(volume), if a session on it has not expired, or if it holds the last good session of a host.
    When a session has parts on several volumes, this holds for each of them, and labelling one of them again makes the
    catalog forget the whole session.
options:
  volume:
    description:
      - The name of the volume, best its barcode.
      - 1 to 32 letters, digits, dots, dashes or underscores; it begins with a letter or digit.
    type: str
    required: true
  pool:
    description:
      - The pool that the volume belongs to.
    type: str
    default: default
  record_bytes:
    description:
      - The size of the records in which sessions are written to the volume, a multiple of 512.
      - V(1048576) suits LTO drives. Some host adapters take less, for instance V(262144).
      - Plain C(tar) needs it as C(tar -b), in units of 512 bytes.
    type: int
    default: 1048576
  capacity:
    description:
      - The capacity of a virtual volume that this task makes, such as V(18T) or V(64M). If it is left out, V(1T).
      - A virtual volume takes only the disk space that is written to it.
      - An existing volume is not changed by it. Volumes in real drives have a capacity of their own.
    type: str
  allow_last:
    description:
      - Label a volume again even if it holds the last good session of a host. The host then has no backup.
    type: bool
    default: false
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.tape_write
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Make and label a virtual volume
  splitmirror.backup.tape_label:
    volume: SMB001
    capacity: 64G
    drive_type: virtual
    drive: /var/lib/splitmirror/library

- name: Label ten volumes for the weekly backups, with records that the adapter takes
  splitmirror.backup.tape_label:
    volume: "{{ item }}"
    pool: weekly
    record_bytes: 262144
    drive_type: virtual
    drive: /srv/library
  loop: "{{ query('sequence', 'start=1 end=10 format=W%05d') }}"

- name: Label a tape by its barcode
  splitmirror.backup.tape_label:
    volume: WEEK01L9
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
"""

RETURN = r"""
volume:
  description: The volume as it is in its label. In check mode the label that would be written.
  returned: success
  type: dict
  contains:
    volume:
      description: Its name.
      type: str
      sample: SMB001
    pool:
      description: Its pool.
      type: str
      sample: default
    record_bytes:
      description: The size of its records.
      type: int
      sample: 1048576
    uuid:
      description: New at every labelling; the catalog knows the volume by it.
      type: str
      sample: 0b7d4a0e-6f43-4e0f-9f9f-0d5a4c4f1f5e
    created:
      description: When it was labelled.
      type: str
      sample: '2026-01-31T12:00:00Z'
made:
  description: Whether the virtual volume was made by this task.
  returned: success
  type: bool
in_catalog:
  description:
    - Whether the catalog knows the volume.
    - It is V(false) for a volume with data that the catalog has never seen. M(splitmirror.backup.catalog_rebuild)
      enters such a volume.
  returned: success
  type: bool
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Optional

from ansible.module_utils.common.text.formatters import human_to_bytes

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import label_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    VolumeNotAtHand,
    use_drive,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.label import Label, check_record_bytes, new_label
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    DRIVE_RULES,
    DRIVE_SPEC,
    LIBRARIES_SPEC,
    make_virtual_folder,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

_DEFAULT_CAPACITY = "1T"


def capacity_bytes(text: Optional[str]) -> int:
    """The capacity in bytes. :raises TapeError: it is none."""
    try:
        return int(human_to_bytes(text or _DEFAULT_CAPACITY))
    except ValueError as exc:
        raise TapeError(
            f"capacity: {text!r} is not a size; write it as 64G or as a number of bytes.",
            option="capacity",
            code="option_invalid",
        ) from exc


def outcome(changed: bool, before: Optional[Label], after: Label, made: bool, in_catalog: bool) -> dict[str, Any]:
    """What the module returns."""

    def shown(label: Optional[Label]) -> dict[str, Any]:
        return {} if label is None else {"pool": label.pool, "record_bytes": label.record_bytes, "volume": label.volume}

    return {
        "changed": changed,
        "volume": asdict(after),
        "made": made,
        "in_catalog": in_catalog,
        "diff": {"before": shown(before), "after": shown(after)},
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    """Label a volume, or tell what would be done."""
    try:
        return label(module)
    except VolumeNotAtHand:
        # Check mode loads nothing; the catalog tells whether the volume has this label.
        params = module.params
        path = StateDir(params["state_dir"]).catalog_file
        asked = new_label(params["volume"], params["pool"], params["record_bytes"])
        with Catalog.open_for(path, writable=False, no_trace=True) as catalog:
            known = catalog.volume(params["volume"])
        same = known is not None and (known.pool, known.record_bytes) == (asked.pool, asked.record_bytes)
        return outcome(not same, None, asked, False, True)


def label(module: AnsibleModule) -> dict[str, Any]:
    """Make the volume if it has to be made, and label it if it has no such label."""
    params = module.params
    volume, pool, record_bytes = params["volume"], params["pool"], params["record_bytes"]
    size_bytes = capacity_bytes(params["capacity"])
    state_dir = StateDir(params["state_dir"])
    catalog_path = state_dir.catalog_file
    options = Libraries.of(params, dry_run=True).of_pool(pool)
    folder = options.choices[0].device
    if not make_virtual_folder(options.drive_type, folder, params["state_dir"], dry_run=module.check_mode):
        return outcome(True, None, new_label(volume, pool, record_bytes), True, True)
    if not module.check_mode:
        options = Libraries.of(params).of_pool(pool)
    writable = not module.check_mode
    used = use_drive(options, volume, who=f"tape_label of volume {volume}", writable=writable)
    look = module.check_mode
    with used as lease, Catalog.open_for(catalog_path, writable=writable, no_trace=look) as catalog:
        drive = lease.drive
        check_record_bytes(drive, record_bytes)
        asked = new_label(volume, pool, record_bytes)
        names = drive.volumes()
        made = drive.makes_volumes and names is not None and volume not in names
        if made:
            if module.check_mode:
                return outcome(True, None, asked, True, True)
            catalog.refuse_needed(volume, allow_last=params["allow_last"])
            drive.make_volume(volume, size_bytes)
        elif params["capacity"] is not None and not drive.makes_volumes:
            drive.make_volume(volume, size_bytes)
        drive.load(volume)
        done = label_volume(
            drive,
            catalog,
            volume,
            pool,
            record_bytes,
            allow_last=params["allow_last"],
            dry_run=module.check_mode,
        )
    if not done.in_catalog:
        module.warn(
            f"volume: {volume} has this label, and data that the catalog lacks; enter them with catalog_rebuild."
        )
    return outcome(done.changed or made, done.before, done.after, made, done.in_catalog)


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "volume": {"type": "str", "required": True},
            "pool": {"type": "str", "default": "default"},
            "record_bytes": {"type": "int", "default": 1 << 20},
            "capacity": {"type": "str"},
            "allow_last": {"type": "bool", "default": False},
            **DRIVE_SPEC,
            **LIBRARIES_SPEC,
            **STATE_DIR_SPEC,
        },
        **DRIVE_RULES,
    )


if __name__ == "__main__":
    main()
