#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_discovery
short_description: Discover what a quiesced host backs up
version_added: 0.2.0
description:
  - Runs on the database host between the beginning of hot backup and the window. Nothing is frozen meanwhile.
  - Finds out again which folders belong to the databases, and which file systems they are on. If a folder was added or
    removed since the files were mapped (a new tablespace, for example), or a file system was mounted, unmounted or
    moved to other places on the LUNs, everything is mapped again.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.database_host
  - splitmirror.backup.session
  - splitmirror.backup.databases
  - splitmirror.backup.databases.paths
  - splitmirror.backup.mirror.pairs
attributes:
  check_mode:
    support: full
    details: A host whose databases have new folders, or whose file systems lie elsewhere, is not mapped again.
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.extent_map
  - module: splitmirror.backup.hot_backup
  - module: splitmirror.backup.backup_prepare
"""

EXAMPLES = r"""
- name: Discover what the quiesced database added since the map
  splitmirror.backup.backup_discovery:
    session: "{{ session }}"
    databases: "{{ splitmirror_databases }}"
    pairs: "{{ splitmirror_pairs }}"
  register: discovery
"""

RETURN = r"""
added:
  description: Folders and files that belong to the backup and were not mapped.
  type: list
  elements: str
  returned: success
  sample: [/srv/data/tablespace2]
removed:
  description: Folders and files that were mapped and do not belong to the backup any more.
  type: list
  elements: str
  returned: success
  sample: []
moved:
  description:
    - Mount points of the file systems that were mounted, unmounted or moved on the LUNs since the files were mapped.
  type: list
  elements: str
  returned: success
  sample: []
mounts:
  description: The mount points to freeze in the window. With new folders there may be more than there were.
  type: list
  elements: str
  returned: success
  sample: [/srv/data]
files:
  description: The number of regular files in the map.
  type: int
  returned: success
  sample: 1234
bytes:
  description: The sum of their sizes, holes and further names of a file included.
  type: int
  returned: success
  sample: 87523328
bytes_archive:
  description:
    - What the session takes on tape at most, but for the logs that come behind the files. Holes count only as far as
      they are written, and a file with several names counts once.
  type: int
  returned: success
  sample: 87818240
left_out:
  description: What was left out because it cannot be backed up, with O(on_unreadable=leave_out).
  type: dict
  returned: success
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
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    PAIRS_SPEC,
    SESSION_SPEC,
    Spec,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, ON_UNREADABLE
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import ansible_folders
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.mapping import (
    HostMapping,
    layout_changes,
    lun_specs,
    scope_changes,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: Spec = {
    **SESSION_SPEC,
    "databases": databases_spec(),
    "paths": {"type": "list", "elements": "path", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "on_unreadable": {"type": "str", "choices": list(ON_UNREADABLE), "default": FAIL},
    "pairs": PAIRS_SPEC["pairs"],
}


def work(module: AnsibleModule) -> dict[str, Any]:
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
    run_module(work, SPEC, for_session=True)


if __name__ == "__main__":
    main()
