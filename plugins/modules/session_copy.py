#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: session_copy
short_description: Copy sessions from one pool to another
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Copies good sessions to the volumes of another pool, so that there are two copies of them. Each part of a session is
    copied as it is on the volume, record by record. An encrypted session is copied without a key.
  - Without O(sessions), all sessions are copied that have not expired and have no copy in O(pool) yet. Bases of an
    incremental session that have no copy there are copied with it.
  - What is read is compared with the checksums in the catalog, and what was written is read back and compared. Without
    a key, the content of an encrypted part is compared only from its second copy on.
  - A record that cannot be read is taken from another copy, if there is one.
  - A copy of a part that fails is cut off its volume, and nothing of it is entered. Parts that were copied before stay,
    and the next call goes on behind them. A volume that cannot be written is taken out of use, and the copy goes on
    with the next one.
  - A copy has an expiry of its own. A session lives on by its copy when the volume that it was written to first is
    used again.
  - Where source and target are in different drives, the data go from drive to drive. Where there is one drive for both,
    each part is kept in O(spool_dir) in between.
  - One task at a time copies sessions on a host; others wait for it up to O(drive_timeout_s).
options:
  pool:
    description:
      - The pool to copy to. Its volumes are chosen as M(splitmirror.backup.tape_write) does.
      - Exactly one of O(pool) and O(volume) is needed.
    type: str
  volume:
    description: The only volume to copy to.
    type: str
  source:
    description:
      - The pool to copy from. If it is left out, each session is read from where it is, the nearest place first.
    type: str
  sessions:
    description: The ids of the sessions to copy. V(latest) is the newest good session of O(host).
    type: list
    elements: str
    default: []
  host:
    description: Copy only sessions of this database host.
    type: str
  retention_days:
    description:
      - For how many days after a session began its copy is kept, from 0 to 365000.
      - If it is left out, the copy is kept forever.
    type: float
  allow_last:
    description:
      - Use a volume again even if it holds the last good session of a host. The host then has no backup until its next
        session is good.
    type: bool
    default: false
  spool_dir:
    description:
      - A folder with room for the largest part, where there is one drive for source and target.
      - If it is left out, O(state_dir) is used.
    type: path
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.drive.cleaning
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
    details: Lists the sessions that would be copied. No volume is loaded.
  diff_mode:
    support: none
    details: A copy has no former state to compare with.
seealso:
  - module: splitmirror.backup.tape_verify
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Copy everything from the virtual library on disk to tapes that leave the building, and keep it for a year
  splitmirror.backup.session_copy:
    drive_type: virtual
    drive: /srv/library
    libraries:
      - pools: [offsite]
        drive_type: st
        drive: /dev/tape/by-id/scsi-DRIVE001-nst
        changer: /dev/tape/by-id/scsi-LIBRARY001
    source: daily
    pool: offsite
    retention_days: 365

- name: Copy one session to a tape, with the only drive of this host
  splitmirror.backup.session_copy:
    drive_type: st
    drive: /dev/nst0
    sessions: [20260131T120000Z-db1-3f2a]
    volume: OFF001
    spool_dir: /srv/spool
"""

RETURN = r"""
copied:
  description: The sessions that were copied, from old to new. In check mode those that would be.
  returned: always
  type: list
  elements: dict
  contains:
    session:
      description: The session.
      type: str
      sample: 20260131T120000Z-db1-3f2a
    host:
      description: Its database host.
      type: str
    parts:
      description: How many of its parts were copied. Those that have a copy already are not counted.
      type: int
    bytes:
      description: Their length on the volumes.
      type: int
    volumes:
      description: The volumes that they were copied to; empty in check mode.
      type: list
      elements: str
    expires:
      description: Until when the copy is kept; null for ever.
      type: str
pool:
  description: The pool of the copies.
  returned: success
  type: str
  sample: offsite
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.copying import (
    Copier,
    CopyJob,
    Planned,
    check_parts,
    copy_sessions,
    one_at_a_time,
    plan,
    target_pool,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.reading_status import reading_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media.uses import noting_uses
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    CLEANING_SPEC,
    DRIVE_RULES,
    DRIVE_SPEC,
    LIBRARIES_SPEC,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Copy, or tell what would be copied."""
    params = module.params
    job, state = CopyJob.of(params), StateDir(params["state_dir"])
    libraries = Libraries.of(params, dry_run=module.check_mode)
    with Catalog.open_for(state.catalog_file, writable=not module.check_mode, no_trace=module.check_mode) as catalog:
        pool = target_pool(job, catalog)
        if module.check_mode:
            planned = plan(job, catalog)
            check_parts(job, catalog, planned)
            return {"changed": bool(planned), "copied": [one.facts(()) for one in planned], "pool": pool}
        with contextlib.ExitStack() as stack:
            telling = Telling(state)
            target = libraries.of_pool(pool)
            stack.enter_context(one_at_a_time(target.folder, target.timeout_s, telling.wait_for))
            planned = plan(job, catalog)
            check_parts(job, catalog, planned)
            if not planned:
                return {"changed": False, "copied": [], "pool": pool}
            what = f"session_copy to pool {pool}"
            left = stack.enter_context(
                noting_uses(state, "copy", planned[0].session.id, module.warn, auto_clean=params["auto_clean"])
            )

            def queue(options: DriveOptions, volume: str) -> Any:
                return queue_for_drive(options, volume, who=what, tell=telling.wait_for, left=left)

            drives = stack.enter_context(LibraryDrives(libraries, catalog, queue))
            lease = stack.enter_context(
                queue_for_drive(
                    target, params["volume"] or "", who=what, writable=True, tell=telling.wait_for, left=left
                )
            )
            choose = job.target.choice(lease, timeout_s=target.timeout_s, tell=telling.wait_for, warn=module.warn)

            def beside(place: Part) -> bool:
                return libraries.of_volume(catalog, place.volume).goes_beside(target)

            copier = Copier(job, catalog, drives, lease, beside, choose)
            return {**copy_sessions(copier, planned, telling.of), "pool": pool}


class Telling:
    """The status of the session that is being copied."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._status: Optional[StatusWriter] = None

    def wait_for(self, reason: Optional[str]) -> None:
        """What the task waits for, if it works on a session."""
        if self._status is not None:
            self._status.wait_for(reason)

    @contextlib.contextmanager
    def of(self, planned: Planned) -> Iterator[StatusWriter]:
        """Tell how far the copying of a session has come."""
        with reading_status(self._state, planned.session.id, "copy") as self._status:
            yield self._status
        self._status = None


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "pool": {"type": "str"},
            "volume": {"type": "str"},
            "source": {"type": "str"},
            "sessions": {"type": "list", "elements": "str", "default": []},
            "host": {"type": "str"},
            "retention_days": {"type": "float"},
            "allow_last": {"type": "bool", "default": False},
            "spool_dir": {"type": "path"},
            **DRIVE_SPEC,
            **LIBRARIES_SPEC,
            **CLEANING_SPEC,
            **STATE_DIR_SPEC,
        },
        **{
            **DRIVE_RULES,
            "required_one_of": [*DRIVE_RULES["required_one_of"], ("pool", "volume")],
            "mutually_exclusive": [*DRIVE_RULES["mutually_exclusive"], ("pool", "volume")],
        },
    )


if __name__ == "__main__":
    main()
