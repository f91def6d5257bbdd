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
#: Of modules that use volumes of several libraries (documentation fragment splitmirror.backup.drive.libraries).
LIBRARIES_SPEC: dict[str, dict[str, Any]] = {
    "libraries": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "pools": {"type": "list", "elements": "str", "required": True},
            **{name: DRIVE_SPEC[name] for name in ("drive_type", "drive", "drives", "drive_element", "changer")},
        },
    }
}
#: Of modules that ask the drive for its health (documentation fragment splitmirror.backup.drive.cleaning).
CLEANING_SPEC: dict[str, dict[str, Any]] = {"auto_clean": {"type": "bool", "default": False}}
#: What a module that needs a drive gives to AnsibleModule besides.
DRIVE_RULES: dict[str, Any] = {
    "required_one_of": [("drive", "drives")],
    "mutually_exclusive": [("drive", "drives"), ("drive_element", "drives")],
}

#: The same for a module that writes sessions (documentation fragment splitmirror.backup.write_mode).
WRITE_RULES: dict[str, Any] = {
    **DRIVE_RULES,
    "required_one_of": [*DRIVE_RULES["required_one_of"], ("volume", "pool")],
}


def open_drive(drive_type: str, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> TapeDrive:
    """Open a drive for this process alone.

    :param bay: its place in a library, for a type with uses_changer.
    :raises TapeError: the type is unknown, or the drive cannot be opened.
    """
    return drive_class(drive_type)(drive, writable=writable, bay=bay)


def make_virtual_folder(drive_type: str, drive: str, state_dir: str, *, dry_run: bool = False) -> bool:
    """Make the folder of a drive whose volumes are made, if it is missing; other drives are there or not.

    It is made below the state folder, or in a folder that is there. Elsewhere the path is likely to be misspelt, or its
    file system not to be mounted.

    :param state_dir: the state folder, which is made with it. :param dry_run: make nothing.
    :returns: whether the drive can be opened now.
    :raises SplitMirrorError: the type is unknown, or the folder is not to be made, or cannot be.
    """
    if not drive_class(drive_type).makes_volumes or os.path.exists(drive):
        return True
    # Without "..", by which a path leads out of what it begins with.
    drive, root = os.path.normpath(drive), os.path.normpath(state_dir)
    above, is_ours = os.path.dirname(drive), os.path.commonpath((drive, root)) == root
    if not is_ours and not os.path.isdir(above):
        raise TapeError(
            f"drive: there is no folder {above} in which {drive} could be made; make or mount it, or name another "
            "folder.",
            option="drive",
            code="option_invalid",
        )
    if dry_run:
        return False
    make_private(drive, root if is_ours else drive, "drive")
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
