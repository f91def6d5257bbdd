# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prepare phase of a backup: while the database is quiesced, find out whether the tape side is ready."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Optional, TypeVar

from ..catalog.records import CatalogChanged
from ..catalog.store import Catalog
from ..crypt.keys import parse_recipients
from ..session import StateDir, check_session_id
from ..tape.drive_lease import DriveOptions, Tell, VolumeNotAtHand, queue_for_drive, silent
from .pools import Wanted, Warn, unheard
from .sealed import sealed_bytes
from .volume_source import first_place
from .volumes import APPEND, OVERWRITE, WritePosition

_T = TypeVar("_T")
_LOOKS = 5


def prepare(
    state_dir: str,
    session: str,
    *,
    drives: DriveOptions,
    wanted: Wanted,
    expected_bytes: int = 0,
    recipients: Sequence[str] = (),
    tell: Tell = silent,
    warn: Warn = unheard,
) -> dict[str, Any]:
    """Load the volume, read its label, find the position of the new session, and return the plan. Write nothing.

    People are waited for if they have to insert a volume of a pool.

    tape_write checks everything again, in case somebody changes the tape in between.

    In check mode nothing is loaded. If the volume is in no free drive, the plan comes from the catalog, and ``drive``
    is None.

    :param wanted: what the session is to be written to.
    :param expected_bytes: how much the session will hold, as far as it is known; 0 when it is not.
    :param recipients: whom it is encrypted to, as text.
    :param tell: gets the reason for waiting whenever it changes, and None when the waiting is over.
    :param warn: gets a sentence for each volume of a pool that is passed over.
    :returns: ``session``, ``drive_type``, ``drive``, ``volume``, ``pool``, ``record_bytes``, ``mode``,
        ``file_number``, ``block``, ``remaining_bytes`` (None when the drive does not tell) and ``expected_bytes``.
    :raises SplitMirrorError: the volume or the drive cannot take the session, or it cannot be encrypted so.
    """
    check_session_id(session)
    sealed_to = parse_recipients(recipients, "recipients")
    catalog_path = StateDir(state_dir).catalog_file
    who = f"backup_prepare of session {session}"

    def find() -> tuple[Optional[str], WritePosition]:
        # What is seen of a volume of a pool is entered.
        writable = wanted.pool is not None and not drives.dry_run and os.path.exists(catalog_path)
        opened = Catalog.open(catalog_path, writable=writable, no_trace=drives.dry_run)
        queued = queue_for_drive(drives, wanted.volume or "", who=who, tell=tell)
        with opened as catalog, queued as lease:
            try:
                volumes = wanted.choice(lease, timeout_s=drives.timeout_s, tell=tell, warn=warn)(catalog)
                drive, place = first_place(volumes)
                device: Optional[str] = drive.device
            except VolumeNotAtHand:
                device, place = None, wanted.choice(lease, timeout_s=0)(catalog).by_catalog()
            needed_bytes = sealed_bytes(expected_bytes, len(sealed_to)) + place.label.record_bytes
            wanted.check_room(catalog, place, needed_bytes if expected_bytes else 0)
        return device, place

    device, place = _again_when_changed(find)
    return {
        "session": session,
        "drive_type": drives.drive_type,
        "drive": device,
        "volume": place.label.volume,
        "pool": place.label.pool,
        "record_bytes": place.label.record_bytes,
        "mode": OVERWRITE if place.anew else APPEND,
        "file_number": place.file_number,
        "block": place.block,
        "remaining_bytes": place.remaining_bytes,
        "expected_bytes": expected_bytes,
    }


def _again_when_changed(find: Callable[[], _T]) -> _T:
    """Look again if another task wrote to the catalog meanwhile, which takes as long as loading a volume."""
    for _dummy in range(_LOOKS - 1):
        try:
            return find()
        except CatalogChanged:
            # this time in peace, perhaps
            continue
    return find()
