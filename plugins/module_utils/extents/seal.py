# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The seal of frozen file systems: it distinguishes the mirror of this freeze from an older or a newer one.

The first 4096 bytes of a file system hold counters and times that its own freeze writes, and that writes after the thaw
change: on ext4 the superblock with its time and amount written (ext4_freeze commits it, ext4_unfreeze does so again),
on XFS the superblock with its log sequence number and, with sectors of 512 bytes, the heads of the first allocation
group. So they are read from the primary while it is frozen, and compared with the mirror before it is read and after.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Optional

from .fsinfo import read_superblock
from .mapcheck import parse_seals
from .mapfile import MapFile
from .maprows import FileSystem, MapError

_KEY = "seals"


def seal(map_file: MapFile) -> None:
    """Note in the map how each of its file systems begins now; call it while all of them are frozen.

    :raises MapError: a device cannot be read.
    """
    seals = {str(fs.id): _digest(device_path(fs.dev), 0) for fs in map_file.filesystems()}
    map_file.set_meta(_KEY, json.dumps(seals))


def broken_seal(map_file: MapFile, devices: Mapping[int, str]) -> Optional[FileSystem]:
    """The first file system that does not begin on its mirror as it did at the freeze; None when all do.

    A map that was never sealed, because nothing was frozen when it was checked, proves nothing and breaks nothing.

    :param devices: the mirror by number of the LUN in the map.
    :raises MapError: a device cannot be read.
    """
    seals = parse_seals(map_file.meta(_KEY) or "{}")
    for fs in map_file.filesystems():
        expected = seals.get(str(fs.id))
        if expected is not None and _digest(devices[fs.lun], fs.lun_offset_bytes) != expected:
            return fs
    return None


def _digest(device: str, offset_bytes: int) -> str:
    return hashlib.sha256(read_superblock(device, offset_bytes)).hexdigest()


def device_path(dev: int) -> str:
    """The device node of a device number (sysfs(5), uevent)."""
    path = f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}/uevent"
    try:
        with open(path, encoding="utf-8") as stream:
            names = [line[8:].rstrip("\n") for line in stream if line.startswith("DEVNAME=")]
        return f"/dev/{names[0]}"
    except (OSError, IndexError) as exc:
        raise MapError(f"pairs: {path} does not show the name of the device; mount sysfs.") from exc
