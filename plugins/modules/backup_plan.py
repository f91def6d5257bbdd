#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_plan
short_description: Discover what a quiesced host backs up, and prepare the tape for it
version_added: 0.1.0
description:
  - The two phases between the beginning of hot backup and the window. Nothing is frozen meanwhile.
  - O(phase=discovery) runs on the database host. It asks the databases again which folders belong to them, and looks
    again which file systems hold these. If a folder came or went since the files were mapped, such as a new tablespace,
    or a file system was mounted, unmounted or moved to other places on the LUNs, everything is mapped again.
  - O(phase=prepare) runs on the media server. It loads the volume, reads its label, refuses a volume that is foreign,
    holds something else than the catalog says or is too small, and moves to where the session will begin. Nothing is
    written.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session
  - splitmirror.backup.databases
  - splitmirror.backup.databases.paths
  - splitmirror.backup.drive
options:
  phase:
    description: Which of the two.
    type: str
    choices: [discovery, prepare]
    required: true
  pairs:
    description:
      - The mirror set of this host, required for O(phase=discovery).
      - The same list serves on all hosts; each host uses the keys that concern it.
    type: list
    elements: dict
    suboptions:
      name:
        description: The name of the pair; it is how all hosts call this LUN.
        type: str
        required: true
      device:
        description: The block device of the primary on the database host.
        type: path
      serial:
        description: Serial number or WWN of the primary as the database host sees it. It guards against a wrong device.
        type: str
      primary:
        description: The primary as the array calls it. Not used here.
        type: str
      mirror:
        description: The mirror as the array calls it. Not used here.
        type: str
      mirror_serial:
        description: Not used on the database host; see M(splitmirror.backup.mirror_attach).
        type: str
        version_added: 0.2.0
  drive_type:
    description:
      - The type of the drive, required for O(phase=prepare). V(virtual) is a folder that behaves like a library, V(st)
        a tape drive.
    type: str
    required: false
  volume:
    description: The volume to write to, required for O(phase=prepare).
    type: str
  mode:
    description:
      - V(append) is to write behind the sessions that are on the volume.
      - V(overwrite) is to start from its beginning, which is refused unless all sessions on it have expired.
    type: str
    choices: [append, overwrite]
    default: append
  allow_last:
    description:
      - Overwrite a volume also when it holds the last good session of a host, which has no backup then until the next
        one is good.
    type: bool
    default: false
    version_added: 0.2.0
  expected_bytes:
    description:
      - How many bytes the session takes on tape, C(bytes_archive) of O(phase=discovery). A volume with less room is
        refused.
      - With V(0) nothing is known, and the volume may turn out to be too small later.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    details: >-
      A host whose databases have new folders, or whose file systems lie elsewhere, is not mapped again. No volume is
      loaded.
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.extent_map
  - module: splitmirror.backup.hot_backup
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Discover what the quiesced database added since the map
  splitmirror.backup.backup_plan:
    phase: discovery
    session: "{{ session }}"
    databases: "{{ splitmirror_databases }}"
    pairs: "{{ splitmirror_pairs }}"
  register: discovery

- name: Prepare the tape
  splitmirror.backup.backup_plan:
    phase: prepare
    session: "{{ session }}"
    drive_type: virtual
    drive: /srv/library
    volume: VOL001
    expected_bytes: "{{ discovery.bytes_archive }}"
  delegate_to: media1

- name: Prepare the tape in one of the two drives of a library
  splitmirror.backup.backup_plan:
    phase: prepare
    session: "{{ session }}"
    drive_type: st
    drives:
      - device: /dev/tape/by-id/scsi-DRIVE001-nst
      - device: /dev/tape/by-id/scsi-DRIVE002-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
    volume: WEEK01
    expected_bytes: "{{ discovery.bytes_archive }}"
  delegate_to: media1
"""

RETURN = r"""
added:
  description: Folders and files that belong to the backup and were not mapped.
  type: list
  elements: str
  returned: when O(phase=discovery)
  sample: [/srv/data/tablespace2]
removed:
  description: Folders and files that were mapped and belong to the backup no more.
  type: list
  elements: str
  returned: when O(phase=discovery)
  sample: []
moved:
  description:
    - Mount points of the file systems that came or went since the files were mapped, or lie elsewhere on the LUNs now.
  type: list
  elements: str
  returned: when O(phase=discovery)
  sample: []
  version_added: 0.2.0
mounts:
  description: The mount points to freeze in the window. With new folders there may be more than there were.
  type: list
  elements: str
  returned: when O(phase=discovery)
  sample: [/srv/data]
files:
  description: The number of regular files in the map.
  type: int
  returned: when O(phase=discovery)
  sample: 1234
bytes:
  description: The sum of their sizes, holes and further names of a file included.
  type: int
  returned: when O(phase=discovery)
  sample: 87523328
bytes_archive:
  description:
    - What the session takes on tape at most, but for the logs that come behind the files. Holes count only as far as
      they are written, and a file with several names counts once.
  type: int
  returned: when O(phase=discovery)
  sample: 87818240
  version_added: 0.2.0
left_out:
  description: What was left out because it cannot be backed up, with O(on_unreadable=leave_out).
  type: dict
  returned: when O(phase=discovery)
  version_added: 0.2.0
  contains:
    count:
      description: How many paths. What is below a folder that is left out is not counted.
      type: int
      sample: 1
    paths:
      description: The first 100 of them, each with C(path) and C(why).
      type: list
      elements: dict
      sample:
        - path: /srv/files/home/joe/photos
          why: holds a file system (fuse.sshfs) that cannot be mapped
plan:
  description: Where the session will be written.
  type: dict
  returned: when O(phase=prepare)
  contains:
    session:
      description: The id of the session.
      type: str
    drive_type:
      description: The type of the drive.
      type: str
    drive:
      description:
        - The drive that was used. C(tape_write) takes one again, which may be another of O(drives).
        - V(null) in check mode, which loads nothing, when the volume is in no free drive; the catalog tells the rest.
      type: str
    volume:
      description: The volume.
      type: str
      sample: VOL001
    pool:
      description: The pool of the volume.
      type: str
    record_bytes:
      description: The size of its records.
      type: int
      sample: 1048576
    mode:
      description: V(append) or V(overwrite).
      type: str
    file_number:
      description: The number of the tape file that the session will be.
      type: int
      sample: 3
    block:
      description: The block at which it will begin, or V(null) when the drive does not tell.
      type: int
    remaining_bytes:
      description: The room on the volume, or V(null) when the drive does not tell.
      type: int
    expected_bytes:
      description: O(expected_bytes).
      type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, ON_UNREADABLE
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.mapping import (
    HostMapping,
    layout_changes,
    lun_specs,
    scope_changes,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ansible_folders
from ansible_collections.splitmirror.backup.plugins.module_utils.media.prepare import prepare
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_RULES, DRIVE_SPEC

SPEC = {
    **SESSION_SPEC,
    "phase": {"type": "str", "choices": ["discovery", "prepare"], "required": True},
    "databases": databases_spec(),
    "paths": {"type": "list", "elements": "path", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "on_unreadable": {"type": "str", "choices": list(ON_UNREADABLE), "default": FAIL},
    "pairs": {**PAIRS_SPEC["pairs"], "required": False},
    **DRIVE_SPEC,
    "drive_type": {"type": "str"},
    "volume": {"type": "str"},
    "mode": {"type": "str", "choices": ["append", "overwrite"], "default": "append"},
    "allow_last": {"type": "bool", "default": False},
    "expected_bytes": {"type": "int", "default": 0},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Do one of the phases."""
    params = module.params
    if params["phase"] == "discovery":
        return discover(module)
    plan = prepare(
        params["state_dir"],
        params["session"],
        drives=DriveOptions.of(params, dry_run=module.check_mode),
        volume=params["volume"],
        mode=params["mode"],
        allow_last=params["allow_last"],
        expected_bytes=params["expected_bytes"],
    )
    return {"changed": False, "plan": plan}


def discover(module: AnsibleModule) -> dict[str, Any]:
    """Look again what belongs to the backup and where it lies, and map again if that is something else."""
    params = module.params
    with HostMapping(
        StateDir(params["state_dir"]),
        params["session"],
        databases=params["databases"],
        paths=params["paths"],
        exclude=params["exclude"],
        luns=lun_specs(params["pairs"]),
        needed=ansible_folders(module._remote_tmp),
        on_unreadable=params["on_unreadable"],
    ) as mapping:
        before, layout = mapping.known_scopes(), mapping.known_layout()
        plan = mapping.plan()
        added, removed = scope_changes(before, plan.scopes)
        moved = layout_changes(layout, plan.layout)
        changed = bool(added or removed or moved)
        if changed and not module.check_mode:
            mapping.make(plan)
        counts, left_out = mapping.counts(), mapping.left_out()
        archive_bytes = mapping.archive_bytes()
    return {
        "changed": changed,
        "added": added,
        "removed": removed,
        "moved": moved,
        "mounts": plan.mounts,
        "files": counts.files,
        "bytes": counts.bytes,
        "bytes_archive": archive_bytes,
        "left_out": left_out,
        "diff": {
            "before": {"scopes": [scope.root for scope in before], "mounts": list(layout)},
            "after": {"scopes": [scope.root for scope in plan.scopes], "mounts": plan.mounts},
        },
    }


def main() -> None:
    """Run the module."""
    required = [
        ("phase", "discovery", ["pairs"]),
        ("phase", "prepare", ["drive_type", "volume"]),
        ("phase", "prepare", ["drive", "drives"], True),
    ]
    run_module(
        work,
        SPEC,
        for_session=True,
        required_if=required,
        mutually_exclusive=DRIVE_RULES["mutually_exclusive"],
    )


if __name__ == "__main__":
    main()
