#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_info
short_description: Look up sessions, volumes and files in the catalog
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Lists the sessions in the catalog of a media server, whether they are good backups, the volumes that they are on,
    and the position of each file.
  - A missing catalog is treated as an empty one.
  - A run that gave no backup is in RV(hosts), and among the sessions as V(failed) with its reason and phase.
options:
  host:
    description: Only sessions of this database host.
    type: str
  session:
    description:
      - Only this session. V(latest) is the newest good one of O(host).
    type: str
  state:
    description:
      - Only sessions in this state.
      - An V(open) session is running, was interrupted, or has not been judged yet.
      - Only a V(good) session is a backup.
      - A V(damaged) one was entered by M(splitmirror.backup.catalog_rebuild) and is not complete. It is a tape file
        that could not be read as a whole archive, or a session with parts on volumes that were not entered yet.
    type: str
    choices: [open, good, failed, damaged]
  at:
    description:
      - Only sessions that began at this time or before, such as V(2026-01-31T12:00:00Z). Without a zone it is UTC.
    type: str
  path:
    description:
      - List the files of the sessions found whose absolute path on the database host matches this shell pattern.
      - C(*) also matches slashes. A path without any pattern is found as it is.
      - Without it no files are listed.
    type: str
  limit:
    description: List at most so many files.
    type: int
    default: 1000
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: It changes nothing.
seealso:
  - module: splitmirror.backup.tape_read
"""

EXAMPLES = r"""
- name: List the good backups of a host
  splitmirror.backup.catalog_info:
    host: db1
    state: good
  register: backups

- name: Find a configuration file in the backup that was the newest one at New Year
  splitmirror.backup.catalog_info:
    host: db1
    session: latest
    at: '2026-01-01T00:00:00+01:00'
    path: /etc/postgresql/*.conf
"""

RETURN = r"""
sessions:
  description: The sessions found, from old to new.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
      sample: 20260131T120000Z-db1-3f2a
    host:
      description: The database host.
      type: str
      sample: db1
    state:
      description: V(open), V(good), V(failed) or V(damaged).
      type: str
      sample: good
    reason:
      description: Why it failed, or what is damaged.
      type: str
    level:
      description: V(full), V(incremental) or V(differential).
      type: str
      version_added: 0.2.0
    base:
      description: The session on which it builds; none for a full one.
      type: str
      version_added: 0.2.0
    base_missing:
      description: The session on which it builds, itself or through others, and which is not there or not V(good).
      type: str
      version_added: 0.2.0
    phase:
      description: In which phase of its run it failed; empty when nobody told, or it did not fail.
      type: str
      sample: sync
      version_added: 0.2.0
    created:
      description: When its writing began; for a session that did not come so far, when it was named.
      type: str
      sample: '2026-01-31T12:00:00Z'
    closed:
      description: When it was judged.
      type: str
    expires:
      description: From when on its volume may be overwritten; none when never.
      type: str
    files:
      description: Number of regular files.
      type: int
    bytes:
      description: Length of their contents.
      type: int
    members:
      description: Number of all members of the archive, folders and links included.
      type: int
    parts:
      description: Where its archive is.
      type: list
      elements: dict
      contains:
        volume:
          description: The volume.
          type: str
        file_number:
          description: The tape file on it; the label is 0.
          type: int
        block:
          description: Where it begins, as drives count.
          type: int
        record_bytes:
          description: The size of its records.
          type: int
        records:
          description: How many these are.
          type: int
        age_keys:
          description: Fingerprints of the keys that it is encrypted to; empty when it is not encrypted.
          type: list
          elements: str
          sample: [2c7f1ab2e38e5028]
          version_added: 0.2.0
        drive_key:
          description: The fingerprint of the key with which the drive encrypted it. None if it did not.
          type: str
          sample: cca0e26b70b7ed5a
          version_added: 0.2.0
        archive_bytes:
          description: Length of the archive in it.
          type: int
          version_added: 0.2.0
        continues:
          description: Whether it goes on with a file that began on the volume before, for which C(tar -M) is needed.
          type: bool
          version_added: 0.2.0
        complete:
          description: Whether the filemark behind it is proved to be on the volume.
          type: bool
    copies:
      description:
        - Further copies of it, one for each pool, which M(splitmirror.backup.session_copy) made. RV(sessions[].parts)
          are where it was written first, or the copy that took its place.
      type: list
      elements: dict
      version_added: 0.2.0
      contains:
        pool:
          description: The pool.
          type: str
          sample: offsite
        volumes:
          description: The volumes.
          type: list
          elements: str
        complete:
          description: Whether all parts are there.
          type: bool
        copied:
          description: When it was made, or found on its volumes.
          type: str
        expires:
          description: Until when it is kept; null for ever.
          type: str
    evidence:
      description: What it was judged by.
      type: dict
hosts:
  description: How each database host stands, or O(host) alone. A run that was never begun is not known here.
  returned: success
  type: list
  elements: dict
  version_added: 0.2.0
  contains:
    host:
      description: The database host.
      type: str
      sample: db1
    last:
      description: Its last session.
      type: str
      sample: 20260201T120000Z-db1-77b0
    last_state:
      description: The state of RV(hosts[].last).
      type: str
      sample: failed
    last_reason:
      description: Why RV(hosts[].last) failed.
      type: str
    last_good:
      description: Its last session that is a backup; none when there is none.
      type: str
      sample: 20260131T120000Z-db1-3f2a
    last_good_created:
      description: When RV(hosts[].last_good) was written.
      type: str
    failed_since:
      description: How many sessions failed since then.
      type: int
      sample: 1
volumes:
  description: All volumes that the catalog knows.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
      sample: SMB001
    pool:
      description: The pool.
      type: str
    uuid:
      description: The uuid of its label.
      type: str
    record_bytes:
      description: The size of its records.
      type: int
    created:
      description: When it was labelled.
      type: str
    files:
      description: Complete tape files on it, the label included.
      type: int
    blocks:
      description: Records and filemarks in these.
      type: int
    out_of_use:
      description: Why nothing is written to it any more; empty for a volume in use.
      type: str
      version_added: 0.2.0
    capacity_bytes:
      description: How much goes on it, as it was seen last; null when nobody knows.
      type: int
      version_added: 0.2.0
    place:
      description: Where people keep it; empty when it is where the drives are. See M(splitmirror.backup.library_mail).
      type: str
      version_added: 0.2.0
    place_s:
      description: Since when it is there, or is back, in seconds since 1970; null when it never was elsewhere.
      type: float
      version_added: 0.2.0
    unexpired:
      description: Sessions on it, and copies of sessions, that must not be overwritten.
      type: list
      elements: str
    uses:
      description:
        - The last use of the volume in each drive, from old to new. A drive that says nothing of its health, or of the
          volume, is not in the list.
      type: list
      elements: dict
      version_added: 0.2.0
      contains:
        drive:
          description: The drive.
          type: str
          sample: /dev/tape/by-id/scsi-DRIVE001-nst
        what:
          description: V(write), V(verify), V(restore) or V(copy).
          type: str
        session:
          description: The session.
          type: str
        used:
          description: When the use ended.
          type: str
        facts:
          description: What the drive said. What it did not say is not there.
          type: dict
          contains:
            serial:
              description: Serial number of the drive.
              type: str
            alerts:
              description: Numbers of the TapeAlert flags that were on.
              type: list
              elements: int
            write_corrected:
              description: Errors that the drive corrected while writing, since it began to count.
              type: int
            write_uncorrected:
              description: Errors that it could not correct while writing.
              type: int
            read_corrected:
              description: Errors that it corrected while reading.
              type: int
            read_uncorrected:
              description: Errors that it could not correct while reading.
              type: int
            loads:
              description: How often the volume was loaded in its life.
              type: int
            capacity_bytes:
              description: Native capacity of the volume.
              type: int
            remaining_bytes:
              description: What is left of it.
              type: int
files:
  description: The files found, by session and in the order of the archive.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The session that holds it. For a file that an incremental session has in a base, that is the base.
      type: str
    path:
      description: Its path on the database host.
      type: str
      sample: /etc/postgresql/15/main/pg_hba.conf
    kind:
      description: C(f) file, C(d) folder, C(l) symbolic link, C(h) hard link, C(c), C(b) or C(p) special file.
      type: str
    size:
      description: Length of its content.
      type: int
    mtime:
      description: When its content changed.
      type: str
    mode:
      description: Its permissions.
      type: str
      sample: '0640'
    uid:
      description: Its owner.
      type: int
    gid:
      description: Its group.
      type: int
    sha256:
      description:
        - The checksum of what the archive holds behind its headers, for a file. That is its content; for a sparse
          file, the map of its data and the data.
        - For a sparse file of a session that version 0.1 wrote, it is that of the content with holes read as zeros.
      type: str
    header_digest:
      description:
        - The first 32 digits of the sha256 of all its headers in the archive, which hold its name, times, owners,
          extended attributes, ACLs and link target. Null for sessions that version 0.1 wrote.
      type: str
      sample: 5f0c1f2a9f4f6a3f8f0e5b1c7d2a9e44
    target:
      description: Where a link leads.
      type: str
    volume:
      description: The volume that it is on.
      type: str
    file_number:
      description: The tape file that it is in.
      type: int
    record:
      description: The record of the tape file in which it begins; none where the tape file is encrypted.
      type: int
    offset_bytes:
      description: Where in the archive it begins.
      type: int
truncated:
  description: Whether there are more files than O(limit).
  returned: success
  type: bool
"""

import itertools
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import (
    LATEST,
    find_files,
    host_facts,
    parse_time,
    session_facts,
    use_facts,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import GOOD, CatalogError, Session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def find_sessions(catalog: Catalog, params: dict[str, Any]) -> list[Session]:
    """The sessions that were asked for."""
    at_s = None if params["at"] is None else parse_time(params["at"], "at")
    found = catalog.sessions(params["host"], params["state"], at_s)
    if params["session"] == LATEST:
        return [session for session in found if session.state == GOOD][-1:]
    if params["session"] is not None:
        return [session for session in found if session.id == params["session"]]
    return found


def work(module: AnsibleModule) -> dict[str, Any]:
    """Look everything up."""
    params = module.params
    if params["limit"] < 0:
        raise CatalogError(
            f"limit: {params['limit']} is below 0; give the number of files to list.",
            option="limit",
            code="option_invalid",
        )
    files: list[dict[str, Any]] = []
    path = StateDir(params["state_dir"]).catalog_file
    with Catalog.open_for(path, writable=False, no_trace=module.check_mode) as catalog:
        sessions = find_sessions(catalog, params)
        if params["path"] is not None:
            found = itertools.chain.from_iterable(find_files(catalog, session, params["path"]) for session in sessions)
            files = list(itertools.islice(found, params["limit"] + 1))
        volumes = [
            {
                **volume._asdict(),
                "unexpired": [session.id for session in catalog.unexpired(volume.name)],
                "uses": [use_facts(use) for use in catalog.last_uses(volume.name)],
            }
            for volume in catalog.volumes()
        ]
        return {
            "changed": False,
            "sessions": [session_facts(catalog, session) for session in sessions],
            "hosts": host_facts(catalog.sessions(params["host"])),
            "volumes": volumes,
            "files": files[: params["limit"]],
            "truncated": len(files) > params["limit"],
        }


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "host": {"type": "str"},
            "session": {"type": "str"},
            "state": {"type": "str", "choices": ["open", "good", "failed", "damaged"]},
            "at": {"type": "str"},
            "path": {"type": "str"},
            "limit": {"type": "int", "default": 1000},
            **STATE_DIR_SPEC,
        },
    )


if __name__ == "__main__":
    main()
