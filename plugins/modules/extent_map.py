#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: extent_map
short_description: Map the extents of all files to back up, and check the map while writes are stopped
version_added: 0.1.0
description:
  - Runs on the database host. It finds out which files belong to the backup, and where on the LUNs their data is, so
    that a media server can read them from the split mirror without this host.
  - Mapping takes long, so it is done before anything is quiesced. The holder tracks changes from before the first file
    is mapped until the check. It is a process that O(state=mapped) starts, and it runs until
    M(splitmirror.backup.hot_backup) has ended.
  - Fails, long before the window, for file systems that cannot be mapped, that are not on a LUN of the mirror set, or
    that must not be frozen because Ansible or the system itself needs them.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.database_host
  - splitmirror.backup.session
  - splitmirror.backup.databases
  - splitmirror.backup.databases.paths
  - splitmirror.backup.mirror.optional_pairs
options:
  state:
    description:
      - V(mapped) maps everything, and replaces an older map of the session. It needs O(pairs); all files to back up
        must be on their devices.
      - V(checked) maps again what has changed since then, so that the map is up to date.
        M(splitmirror.backup.backup_window) does this inside the window. This state is for plays of your own, between
        M(splitmirror.backup.write_freeze) with V(frozen) and with V(thawed).
    type: str
    choices: [mapped, checked]
    default: mapped
  split:
    description:
      - The result of M(splitmirror.backup.mirror_split), for O(state=checked) in plays without
        M(splitmirror.backup.backup_window). The holder adds the split to the events of the window, which
        M(splitmirror.backup.write_freeze) with V(thawed) returns. Without it the session does not become good.
      - The module fails if the split was not made during the current freeze.
    type: dict
    version_added: 0.2.0
  lifetime_s:
    description:
      - After how many seconds the holder gives up everything and ends.
      - The backup fails if its window or the end of hot backup comes later.
    type: float
    default: 86400
attributes:
  check_mode:
    support: full
    details: Databases, paths and file systems are examined as in a real run; nothing is mapped, and no holder is
      started.
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.backup_discovery
  - module: splitmirror.backup.backup_window
  - module: splitmirror.backup.hot_backup
"""

EXAMPLES = r"""
- name: Map a PostgreSQL cluster and a folder
  splitmirror.backup.extent_map:
    session: "{{ session }}"
    databases:
      - name: main
        driver: postgresql
    paths: [/srv/attachments]
    exclude: ["*.tmp"]
    pairs:
      - name: data
        device: /dev/disk/by-id/wwn-0x600140500d1e0000
  register: map

- name: Map plain folders of a host without any database
  splitmirror.backup.extent_map:
    session: "{{ session }}"
    paths: [/srv/files]
    pairs: "{{ splitmirror_pairs }}"

- name: Check the map in a window of your own
  splitmirror.backup.extent_map:
    session: "{{ session }}"
    split: "{{ split }}"
    state: checked
"""

RETURN = r"""
map:
  description: The map file on this host. It belongs to the session alone.
  type: str
  returned: always
  sample: /var/lib/splitmirror/sessions/20260131T020000Z-db1-9f3c/map.sqlite
mounts:
  description: The mount points of the file systems that hold the files; they are what is to be frozen in the window.
  type: list
  elements: str
  returned: when O(state=mapped)
  sample: [/srv/data]
scopes:
  description: What belongs to the backup.
  type: list
  elements: dict
  returned: when O(state=mapped)
  contains:
    root:
      description: A folder with all that is below it, or a file.
      type: str
      sample: /srv/data/postgresql
    empty:
      description: Folders below it that are backed up without their contents.
      type: list
      elements: str
      sample: [pg_wal]
    exclude:
      description: Glob patterns of what is left out.
      type: list
      elements: str
      sample: [postmaster.pid]
    label:
      description: What asked for it.
      type: str
      sample: postgresql main
databases:
  description: What was found out about each database, by its name. What it is depends on the driver.
  type: dict
  returned: when O(state=mapped)
  sample: {"main": {"server_version": 150018, "pgdata": "/srv/data/postgresql", "archiving": false}}
counts:
  description: What the map holds.
  type: dict
  returned: when O(state=mapped) and not in check mode
  contains:
    entries:
      description: All files, folders, links and others.
      type: int
      sample: 1289
    files:
      description: Regular files.
      type: int
      sample: 1234
    bytes:
      description: The sum of their sizes.
      type: int
      sample: 87523328
    extents:
      description: Extents of all files.
      type: int
      sample: 1502
    fallback:
      description: Files that cannot be read by their extents, and are read through a mount of the mirror.
      type: int
      sample: 0
left_out:
  description: What was left out because it cannot be backed up, with O(on_unreadable=leave_out).
  type: dict
  returned: when O(state=mapped) and not in check mode
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
tracker:
  description:
    - How changes are tracked. V(fanotify) tells what has changed. With V(sweep) the kernel cannot tell, and all files
      are looked at again inside the window.
  type: str
  returned: when O(state=mapped) and not in check mode
  sample: fanotify
check:
  description: What the check did to the map.
  type: dict
  returned: when O(state=checked) and not in check mode
  contains:
    complete:
      description:
        - Whether all file systems of the map were frozen meanwhile. A session whose check was not complete never
          becomes good.
      type: bool
    remapped:
      description: Files whose extents have changed.
      type: int
    added:
      description: Files that were not in the map.
      type: int
    removed:
      description: Files that are no more.
      type: int
    attributes:
      description: Files of which only attributes have changed.
      type: int
    examined:
      description: Files that were looked at.
      type: int
    tracker:
      description: V(some) when it was known what may have changed, V(all) when everything was looked at.
      type: str
    left_out:
      description: As RV(left_out), with what came since.
      type: dict
      version_added: 0.2.0
    pre_check:
      description:
        - The same counts of what was mapped again just before the freeze, so that less was left for the check.
        - V(null) when there was no freeze.
      type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC, SESSION_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, ON_UNREADABLE
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import ansible_folders
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.mapping import HostMapping, lun_specs
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import ask
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import DEFAULT_LIFETIME_S
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

SPEC = {
    **SESSION_SPEC,
    "state": {"type": "str", "choices": ["mapped", "checked"], "default": "mapped"},
    "databases": databases_spec(),
    "paths": {"type": "list", "elements": "path", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "on_unreadable": {"type": "str", "choices": list(ON_UNREADABLE), "default": FAIL},
    "pairs": {**PAIRS_SPEC["pairs"], "required": False},
    "split": {"type": "dict"},
    "lifetime_s": {"type": "float", "default": DEFAULT_LIFETIME_S},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Map, or check the map."""
    state = StateDir(module.params["state_dir"])
    if module.params["state"] == "checked":
        return check(module, state)
    return make(module, state)


def make(module: AnsibleModule, state: StateDir) -> dict[str, Any]:
    """Map everything."""
    params = module.params
    with HostMapping(
        state,
        params["session"],
        databases=params["databases"],
        paths=params["paths"],
        exclude=params["exclude"],
        luns=lun_specs(params["pairs"]),
        needed=ansible_folders(module._remote_tmp),
        on_unreadable=params["on_unreadable"],
    ) as mapping:
        plan = mapping.plan()
        result: dict[str, Any] = {
            "changed": True,
            "map": mapping.path,
            "mounts": plan.mounts,
            "scopes": [scope.as_dict() for scope in plan.scopes],
            "databases": plan.databases,
        }
        if not module.check_mode:
            mapped = mapping.make(plan, params["lifetime_s"])
            result.update(counts=mapped.counts._asdict(), tracker=mapped.tracker, left_out=mapping.left_out())
            if mapped.tracker != "fanotify":
                module.warn(
                    "this kernel cannot tell what changes on these file systems, so all files are looked at again "
                    "inside the window, which takes longer."
                )
    result["diff"] = {"before": {}, "after": {"map": "mapped", "scopes": [scope.root for scope in plan.scopes]}}
    return result


def check(module: AnsibleModule, state: StateDir) -> dict[str, Any]:
    """Bring the map up to date."""
    session = module.params["session"]
    result: dict[str, Any] = {"map": state.map_file(session), "changed": True}
    if module.check_mode:
        ask(state, session, "ping")
        return result
    split = module.params["split"]
    # The result of another task, as that of write_freeze, knows the freeze, too.
    told: dict[str, Any] = {} if split is None else {"split": str(split.get("freeze") if "split_s" in split else None)}
    counts = ask(state, session, "check", **told)["result"]
    kinds = ("remapped", "added", "removed", "attributes")
    result.update(check=counts, changed=any(counts[kind] for kind in kinds))
    result["diff"] = {"before": dict.fromkeys(kinds, 0), "after": {kind: counts[kind] for kind in kinds}}
    return result


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, needs_root=True, for_session=True, required_if=[("state", "mapped", ["pairs"])])


if __name__ == "__main__":
    main()
