#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tape_read
short_description: Restore files of a session from tape
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Restores a good session, or some files of it, from tape into an empty folder, which stands for V(/) of the
    database host.
  - The catalog has the position of each file. The files are read in ascending order of position, and nothing but their
    records is read, so a single file of a large session is restored quickly. A session may have parts on several
    volumes; only the volumes that are needed are loaded.
  - The headers and the checksum of every member are compared with the catalog while it is restored, and the files in
    O(target) are compared once more at the end. If anything differs or is missing, the task fails and names it.
    Everything else is in O(target) then.
  - A file with records that cannot be read has zeros from the first of them on (or from up to 1 MiB before it). A
    member whose headers cannot be read, or are not as they were written, is left out, and so are hard links to it. The
    files of a folder that is left out are restored into a new folder, owned by root, with mode 0755.
  - A member that O(target) cannot hold does not prevent the others from being restored. Examples are a link that is
    longer than the file system allows, or a file for which there is no room.
  - If a volume cannot be had, or the drive cannot find a position on it any more, the other volumes are read all the
    same. The task fails then, and reports which members are missing and on which volumes they are. Only if nothing can
    be reached, O(target) stays as it was.
  - Every name is checked before anything is written, so that a manipulated tape cannot write outside of O(target).
  - GNU tar must be installed. It writes the files with owners, modes, times, extended attributes and ACLs.
options:
  session:
    description:
      - The id of the session. V(latest) is the newest good session of O(host).
      - A session that is not good is refused.
    type: str
    required: true
  host:
    description: The database host. It is required for V(latest).
    type: str
  paths:
    description:
      - Absolute paths on the database host. Everything below a folder is restored with it.
      - The file that a hard link points to is restored with the link.
      - If it is empty, the whole session is restored.
    type: list
    elements: path
    default: []
  target:
    description: The folder to restore into. It must be empty (but for an empty C(lost+found)) or not exist yet.
    type: path
    required: true
  numeric_owner:
    description: Restore owners and groups by number and not by name.
    type: bool
    default: false
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
    details: Returns the members that would be restored, and their positions, from the catalog alone.
  diff_mode:
    support: none
    details: The target was empty.
seealso:
  - module: splitmirror.backup.catalog_info
  - module: splitmirror.backup.tape_verify
"""

EXAMPLES = r"""
- name: Restore the latest backup of a host
  splitmirror.backup.tape_read:
    session: latest
    host: db1
    target: /restore/db1
    drive_type: virtual
    drive: /var/lib/splitmirror/library

- name: Restore two files of a certain session
  splitmirror.backup.tape_read:
    session: 20260131T120000Z-db1-3f2a
    paths:
      - /etc/postgresql/15/main/pg_hba.conf
      - /etc/postgresql/15/main/postgresql.conf
    target: /restore/conf
    drive_type: virtual
    drive: /var/lib/splitmirror/library

- name: Restore an encrypted backup
  splitmirror.backup.tape_read:
    session: latest
    host: db1
    target: /restore/db1
    identity_file: /run/backup.key
    drive_type: virtual
    drive: /var/lib/splitmirror/library

- name: Restore a backup that the drive encrypted
  splitmirror.backup.tape_read:
    session: latest
    host: db1
    target: /restore/db1
    drive_key_file: /run/drive.key
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst

- name: Restore from a library that does not report the serial number of its drive
  splitmirror.backup.tape_read:
    session: latest
    host: db1
    target: /restore/db1
    drive_type: st
    drive: /dev/nst1
    drive_element: 1
    changer: /dev/sg3
"""

RETURN = r"""
session:
  description: The session that was restored.
  returned: success
  type: str
  sample: 20260131T120000Z-db1-3f2a
host:
  description: Its database host.
  returned: success
  type: str
  sample: db1
target:
  description: Where the files are.
  returned: success
  type: str
members:
  description: Number of members restored, folders and links included.
  returned: success
  type: int
files:
  description: Number of regular files among them.
  returned: success
  type: int
bytes:
  description: Length of their contents.
  returned: success
  type: int
volumes:
  description: The volumes that were read, in check mode those that are needed.
  returned: success
  type: list
  elements: str
base_missing:
  description:
    - The session on which RV(session) builds, itself or through others, and which is not in the catalog or not good.
      Then only what changed since can be restored, and the task fails after that. None if nothing is missing.
  returned: success and failure
  type: str
  version_added: 0.2.0
missing:
  description: The first hundred members that are not in O(target), each with C(path), C(volume) and C(reason).
  returned: success and failure, not in check mode
  type: list
  elements: dict
  version_added: 0.2.0
missing_count:
  description: How many there are.
  returned: success and failure, not in check mode
  type: int
  version_added: 0.2.0
doubtful:
  description:
    - The first hundred members that are there but are not what was backed up, each with C(path), C(volume) and
      C(reason).
  returned: success and failure, not in check mode
  type: list
  elements: dict
  version_added: 0.2.0
doubtful_count:
  description: How many there are.
  returned: success and failure, not in check mode
  type: int
  version_added: 0.2.0
report:
  description:
    - A file on the media server that names all missing and doubtful members, with a JSON object in each line that has
      C(state), C(path), C(volume) and C(reason). V(null) when there are none.
  returned: success and failure, not in check mode
  type: str
  version_added: 0.2.0
unreached:
  description:
    - What could not be reached, once for each part, with C(volume) and C(reason). Members on these volumes are among
      RV(missing).
  returned: success and failure, not in check mode
  type: list
  elements: dict
  version_added: 0.2.0
records_read:
  description: Number of records read from tape, the label included.
  returned: success, not in check mode
  type: int
seconds:
  description: How long it took.
  returned: success, not in check mode
  type: float
bytes_per_s:
  description: Bytes of contents restored per second.
  returned: success, not in check mode
  type: int
positions:
  description: The first thousand members and where they lie, as M(splitmirror.backup.catalog_info) lists files.
  returned: in check mode
  type: list
  elements: dict
"""

import functools
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    IDENTITY_SPEC,
    STATE_DIR_SPEC,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.reading_status import reading_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import (
    RestoreJob,
    dry_run,
    needed_volume,
    restore,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import keyring_of
from ansible_collections.splitmirror.backup.plugins.module_utils.media.uses import noting_uses
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


def work(module: AnsibleModule) -> dict[str, Any]:
    """Restore, or tell what would be restored."""
    params = module.params
    job = RestoreJob(
        params["session"],
        params["target"],
        params["host"],
        params["paths"],
        params["numeric_owner"],
        keyring_of(params),
    )
    state = StateDir(params["state_dir"])
    with Catalog.open(state.catalog_file, no_trace=module.check_mode) as catalog:
        if module.check_mode:
            return {"changed": True, **dry_run(job, catalog)}
        # What is wrong is refused before a drive is waited for.
        needed_volume(job, catalog)
        who = f"tape_read of session {job.session}"
        told, libraries = reading_status(state, job.session, "restore"), Libraries.of(params)
        noting = noting_uses(state, "restore", job.session, module.warn, auto_clean=params["auto_clean"])
        with clearing_on_signals(job.keyring.has_drive_keys), told as status, noting as left:
            queue = functools.partial(queue_for_drive, who=who, tell=status.wait_for, left=left)
            with LibraryDrives(libraries, catalog, queue) as drives:
                return {"changed": True, **restore(job, catalog, drives, status)}


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "session": {"type": "str", "required": True},
            "host": {"type": "str"},
            "paths": {"type": "list", "elements": "path", "default": []},
            "target": {"type": "path", "required": True},
            "numeric_owner": {"type": "bool", "default": False},
            **DRIVE_SPEC,
            **LIBRARIES_SPEC,
            **IDENTITY_SPEC,
            **DRIVE_KEY_SPEC,
            **CLEANING_SPEC,
            **STATE_DIR_SPEC,
        },
        **DRIVE_RULES,
    )


if __name__ == "__main__":
    main()
