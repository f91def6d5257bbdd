# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All drive types there are, and how to open one. A new type is one file and one row."""

from __future__ import annotations

import os
from typing import Any, Optional

from ..session import make_private
from .base import TapeDrive, TapeError
from .library import Bay
from .st import StTape
from .virtual import VirtualTape

DRIVES: dict[str, type[TapeDrive]] = {drive.name: drive for drive in (VirtualTape, StTape)}

#: Options of every module that uses a drive (documentation fragment splitmirror.backup.drive).
DRIVE_SPEC: dict[str, dict[str, Any]] = {
    "drive_type": {"type": "str", "choices": sorted(DRIVES), "required": True},
    "drive": {"type": "path"},
    "drives": {
        "type": "list",
        "elements": "dict",
        "options": {"device": {"type": "path", "required": True}, "element": {"type": "int"}},
    },
    "drive_element": {"type": "int"},
    "changer": {"type": "path"},
    "drive_timeout_s": {"type": "int", "default": 14400},
}
#: The same for modules that need a drive in some of their states only.
OPTIONAL_DRIVE_SPEC: dict[str, dict[str, Any]] = {
    **DRIVE_SPEC,
    "drive_type": {**DRIVE_SPEC["drive_type"], "required": False},
}
#: What a module that needs a drive gives to AnsibleModule besides.
DRIVE_RULES: dict[str, Any] = {
    "required_one_of": [("drive", "drives")],
    "mutually_exclusive": [("drive", "drives"), ("drive_element", "drives")],
}


def open_drive(drive_type: str, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> TapeDrive:
    """Open a drive for this process alone.

    :param bay: its place in a library, for a type with uses_changer.
    :raises TapeError: the type is unknown, or the drive cannot be opened.
    """
    return drive_class(drive_type)(drive, writable=writable, bay=bay)


def make_virtual_folder(drive_type: str, drive: str, *, dry_run: bool = False) -> bool:
    """Make the folder of a drive whose volumes are made, if it is missing; other drives are there or not.

    :param dry_run: make nothing.
    :returns: whether the drive can be opened now.
    :raises SplitMirrorError: the type is unknown, or the folder cannot be made.
    """
    if not drive_class(drive_type).makes_volumes or os.path.exists(drive):
        return True
    if dry_run:
        return False
    make_private(drive, drive, "drive")
    return True


def drive_class(drive_type: str) -> type[TapeDrive]:
    """The class of a drive type. :raises TapeError: it is unknown."""
    try:
        return DRIVES[drive_type]
    except KeyError:
        raise TapeError(
            f"drive_type: {drive_type!r} is unknown; known are {', '.join(sorted(DRIVES))}.",
            option="drive_type",
            code="option_invalid",
        ) from None
