# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All drive types there are, and how to open one. A new type is one file and one row."""

from __future__ import annotations

from typing import Any

from .base import TapeDrive, TapeError
from .virtual import VirtualTape

DRIVES: dict[str, type[TapeDrive]] = {drive.name: drive for drive in (VirtualTape,)}

#: Options of every module that uses a drive (documentation fragment splitmirror.backup.drive).
DRIVE_SPEC: dict[str, dict[str, Any]] = {
    "drive_type": {"type": "str", "required": True},
    "drive": {"type": "path", "required": True},
}


def open_drive(drive_type: str, drive: str, *, writable: bool = False) -> TapeDrive:
    """Open a drive for this process alone.

    :raises TapeError: the type is unknown, or the drive cannot be opened.
    """
    try:
        made = DRIVES[drive_type]
    except KeyError:
        raise TapeError(
            f"drive_type: {drive_type!r} is unknown; known are {', '.join(sorted(DRIVES))}.", option="drive_type"
        ) from None
    return made(drive, writable=writable)
