#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tape_verify
short_description: Read a session back from tape and compare it, or rebuild the catalog from a volume
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Reads a whole session from tape, takes the checksum of every file again, and compares every member with the
    catalog and with the index that stands on the tape behind the files. The task fails when anything differs, and
    says what. All of the session is read whatever is found, and a member is damaged exactly when
    M(splitmirror.backup.tape_read) calls it so.
  - With O(rebuild=true) it reads all sessions of O(volume) and enters those that the catalog does not have, so that a
    lost catalog is rebuilt volume by volume. Each session is judged by the evidence in its index, as
    M(splitmirror.backup.catalog_session) did, and by what the reading itself proves.
  - Nothing is ever written to the volume.
options:
  session:
    description:
      - The id of the session to verify. V(latest) is the newest good session of O(host).
    type: str
  host:
    description: The database host. It is required for V(latest).
    type: str
  rebuild:
    description: Enter the sessions of O(volume) into the catalog.
    type: bool
    default: false
  volume:
    description: The volume to rebuild the catalog from.
    type: str
  allow_last:
    description: >-
      Enter a volume also when the catalog knows another one of its name that holds the last good session of a host,
      which is forgotten then.
    type: bool
    default: false
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.drive
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
    details: Reads everything, and enters nothing into the catalog.
  diff_mode:
    support: none
    details: What was entered is listed in the result.
seealso:
  - module: splitmirror.backup.tape_read
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Verify the latest backup of a host
  splitmirror.backup.tape_verify:
    session: latest
    host: db1
    drive_type: virtual
    drive: /var/lib/splitmirror/library

- name: Rebuild a lost catalog from two volumes
  splitmirror.backup.tape_verify:
    rebuild: true
    volume: "{{ item }}"
    drive_type: virtual
    drive: /var/lib/splitmirror/library
  loop: [SMB001, SMB002]

- name: Verify a session that is on a tape
  splitmirror.backup.tape_verify:
    session: 20260131T120000Z-db1-3f2a
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
"""

RETURN = r"""
session:
  description: The session that was verified.
  returned: when O(rebuild=false)
  type: str
  sample: 20260131T120000Z-db1-3f2a
host:
  description: Its database host.
  returned: when O(rebuild=false)
  type: str
members:
  description: Number of members compared.
  returned: when O(rebuild=false)
  type: int
files:
  description: Number of regular files among them, the index not counted.
  returned: when O(rebuild=false)
  type: int
bytes:
  description: Length of their contents.
  returned: when O(rebuild=false)
  type: int
records_read:
  description: Number of records read.
  returned: when O(rebuild=false)
  type: int
volumes:
  description: The volumes that were read.
  returned: when O(rebuild=false)
  type: list
  elements: str
missing:
  description: The first hundred members that cannot be restored from the tape, each with C(path) and C(reason).
  returned: when O(rebuild=false), also when the task fails
  type: list
  elements: dict
  version_added: 0.2.0
missing_count:
  description: How many there are.
  returned: when O(rebuild=false), also when the task fails
  type: int
  version_added: 0.2.0
doubtful:
  description:
    - The first hundred members that can be restored and are not what was backed up, each with C(path) and C(reason).
  returned: when O(rebuild=false), also when the task fails
  type: list
  elements: dict
  version_added: 0.2.0
doubtful_count:
  description: How many there are.
  returned: when O(rebuild=false), also when the task fails
  type: int
  version_added: 0.2.0
report:
  description:
    - A file on the media server that names all missing and doubtful members, with a JSON object in each line that has
      C(state), C(path) and C(reason). V(null) when there are none, and in check mode.
  returned: when O(rebuild=false), also when the task fails
  type: str
  version_added: 0.2.0
seconds:
  description: How long it took.
  returned: when O(rebuild=false)
  type: float
bytes_per_s:
  description: Bytes of the archive read a second.
  returned: when O(rebuild=false)
  type: int
volume:
  description: The volume that the catalog was rebuilt from.
  returned: when O(rebuild=true)
  type: str
entered:
  description: The sessions that were entered, in check mode those that would be.
  returned: when O(rebuild=true)
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
    state:
      description: V(good) or V(failed).
      type: str
    reason:
      description: Why it failed.
      type: str
    file_number:
      description: The tape file.
      type: int
known:
  description: The sessions that the catalog had already.
  returned: when O(rebuild=true)
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
    state:
      description: Its state in the catalog.
      type: str
    file_number:
      description: The tape file.
      type: int
damaged:
  description:
    - Tape files that are no whole session. They are no backup, but most of what is in them may still be read, so they
      are kept like sessions that never expire.
    - Let them expire with M(splitmirror.backup.catalog_session) when nobody needs them. What a writer left that died is
      not kept.
  returned: when O(rebuild=true)
  type: list
  elements: dict
  contains:
    session:
      description: The id by which the catalog keeps it.
      type: str
      sample: damaged-WEEK01-3
    file_number:
      description: The tape file.
      type: int
    reason:
      description: What is wrong with it.
      type: str
"""

import os
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.sqlite_file import FILE_NAME
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import needed_volume, verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, use_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_RULES, DRIVE_SPEC

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Verify a session, or rebuild the catalog from a volume."""
    params = module.params
    state_dir = StateDir(params["state_dir"])
    writable = params["rebuild"] and not module.check_mode
    if writable:
        state_dir.make()
    options = DriveOptions.of(params, dry_run=module.check_mode)
    path = os.path.join(state_dir.root, FILE_NAME)
    with Catalog.open_for(path, writable=writable, no_trace=module.check_mode) as catalog:
        if not params["rebuild"]:
            session = find_good_session(catalog, params["session"], params["host"])
            volume = needed_volume(session, catalog)
            with use_drive(options, volume, who=f"tape_verify of session {session.id}") as drive:
                return {"changed": False, **verify_session(session, catalog, drive, report=not module.check_mode)}
        with use_drive(options, params["volume"], who=f"tape_verify of volume {params['volume']}") as drive:
            return rebuild(params["volume"], catalog, drive, allow_last=params["allow_last"], dry_run=module.check_mode)


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "session": {"type": "str"},
            "host": {"type": "str"},
            "rebuild": {"type": "bool", "default": False},
            "volume": {"type": "str"},
            "allow_last": {"type": "bool", "default": False},
            **DRIVE_SPEC,
            **STATE_DIR_SPEC,
        },
        required_if=[("rebuild", False, ["session"]), ("rebuild", True, ["volume"])],
        **{**DRIVE_RULES, "mutually_exclusive": [*DRIVE_RULES["mutually_exclusive"], ("session", "volume")]},
    )


if __name__ == "__main__":
    main()
