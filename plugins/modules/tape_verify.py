#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tape_verify
short_description: Read a session back from tape and compare it
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Reads a whole session from tape, from one volume to the next if it has several parts. It checks the checksum of
    every file, and compares every member with the catalog and with the index on the tape.
  - If anything differs, the task fails and says what. It reads the whole session in any case, also if a volume cannot
    be had, and reports the same members as damaged as M(splitmirror.backup.tape_read) would.
  - Without a key, the members of an encrypted session cannot be compared. Then all records are read, and their number
    and lengths are compared with the catalog (RV(proved)).
  - Nothing is written to the volumes.
options:
  session:
    description:
      - The id of the session to verify. V(latest) is the newest good session of O(host).
    type: str
    required: true
  host:
    description: The database host. It is required for V(latest).
    type: str
  pool:
    description:
      - The pool of the copy to verify. See M(splitmirror.backup.session_copy).
      - If it is left out, what is verified is the session where it was written first, or the copy that took its place.
    type: str
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.drive.cleaning
  - splitmirror.backup.session.state_dir
  - splitmirror.backup.keys
  - splitmirror.backup.keys.drive_key
attributes:
  check_mode:
    support: full
    details: Reads everything, and writes no RV(report).
  diff_mode:
    support: none
    details: Nothing is changed.
seealso:
  - module: splitmirror.backup.tape_read
  - module: splitmirror.backup.catalog_rebuild
"""

EXAMPLES = r"""
- name: Verify the latest backup of a host
  splitmirror.backup.tape_verify:
    session: latest
    host: db1
    drive_type: virtual
    drive: /var/lib/splitmirror/library

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
  returned: success
  type: str
  sample: 20260131T120000Z-db1-3f2a
host:
  description: Its database host.
  returned: success
  type: str
members:
  description: Number of members compared.
  returned: success
  type: int
files:
  description: Number of regular files among them, the index not counted.
  returned: success
  type: int
bytes:
  description: Length of their contents.
  returned: success
  type: int
records_read:
  description: Number of records of the parts that were read to their end.
  returned: success
  type: int
volumes:
  description: The volumes of the session.
  returned: success
  type: list
  elements: str
missing:
  description:
    - The first hundred members that cannot be restored from the tape, each with C(path), C(volume) and C(reason).
  returned: always
  type: list
  elements: dict
  version_added: 0.2.0
missing_count:
  description: How many there are.
  returned: always
  type: int
  version_added: 0.2.0
doubtful:
  description:
    - The first hundred members that can be restored and are not what was backed up, each with C(path), C(volume) and
      C(reason).
  returned: always
  type: list
  elements: dict
  version_added: 0.2.0
doubtful_count:
  description: How many there are.
  returned: always
  type: int
  version_added: 0.2.0
report:
  description:
    - A file on the media server that names all missing and doubtful members, with a JSON object in each line that has
      C(state), C(path), C(volume) and C(reason). V(null) when there are none, and in check mode.
  returned: always
  type: str
  version_added: 0.2.0
unreached:
  description:
    - What could not be reached, once for each part, with C(volume) and C(reason). Members on these volumes are among
      RV(missing).
  returned: always
  type: list
  elements: dict
  version_added: 0.2.0
proved:
  description:
    - V(content) if every member was compared.
    - V(records) if the session is encrypted and no key was given. Then every record was read, and their number, their
      lengths, the header and the filemarks are those of the catalog. No member is counted.
  returned: success
  type: str
  sample: content
  version_added: 0.2.0
seconds:
  description: How long it took.
  returned: success
  type: float
bytes_per_s:
  description: Bytes of the archive read per second.
  returned: success
  type: int
"""

import functools
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    IDENTITY_SPEC,
    STATE_DIR_SPEC,
    Spec,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.reading_status import reading_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import keyring_of
from ansible_collections.splitmirror.backup.plugins.module_utils.media.uses import noting_uses
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import (
    DRIVE_KEY_SPEC,
    clearing_on_signals,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    CLEANING_SPEC,
    DRIVE_RULES,
    DRIVE_SPEC,
    LIBRARIES_SPEC,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: Spec = {
    "session": {"type": "str", "required": True},
    "host": {"type": "str"},
    "pool": {"type": "str"},
    **DRIVE_SPEC,
    **LIBRARIES_SPEC,
    **IDENTITY_SPEC,
    **DRIVE_KEY_SPEC,
    **CLEANING_SPEC,
    **STATE_DIR_SPEC,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Verify a session."""
    params = module.params
    libraries, pool = Libraries.of(params, dry_run=module.check_mode), params["pool"]
    state, keyring = StateDir(params["state_dir"]), keyring_of(params)
    with Catalog.open(state.catalog_file, no_trace=module.check_mode) as catalog:
        session = find_good_session(catalog, params["session"], params["host"])
        who = f"tape_verify of session {session.id}"
        if module.check_mode:
            looking = LibraryDrives(libraries, catalog, functools.partial(queue_for_drive, who=who))
            with clearing_on_signals(keyring.has_drive_keys), looking as drives:
                return {
                    "changed": False,
                    **verify_session(session, catalog, drives, report=False, keyring=keyring, pool=pool),
                }
        told = reading_status(state, session.id, "verify")
        noting = noting_uses(state, "verify", session.id, module.warn, auto_clean=params["auto_clean"])
        with clearing_on_signals(keyring.has_drive_keys), told as status, noting as left:
            queue = functools.partial(queue_for_drive, who=who, tell=status.wait_for, left=left)
            with LibraryDrives(libraries, catalog, queue) as drives:
                return {
                    "changed": False,
                    **verify_session(session, catalog, drives, status=status, keyring=keyring, pool=pool),
                }


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, **DRIVE_RULES)


if __name__ == "__main__":
    main()
