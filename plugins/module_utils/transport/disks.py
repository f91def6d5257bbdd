# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks of the media server by what they say of themselves: serial number and WWN, never by a name of the kernel's.

The facts come from sysfs: the pages 0x80 and 0x83 of SCSI's vital product data (SPC-4, 7.8), and the files ``wwid`` and
``serial`` of NVMe and virtio.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from ..host.blockdev import plain_identifier
from .names import TransportError

SYSFS = "/sys"
BY_ID = "/dev/disk/by-id"
UDEV_DATA = "/run/udev/data"
SECTOR_BYTES = 512
#: How long udev may take to name a new disk.
UDEV_TIMEOUT_S = 30.0
_POLL_S = 0.1
_NAA, _EUI = 3, 2


@dataclass(frozen=True)
class Disk:
    """A disk of this host.

    :param name: the kernel's, for now.
    :param wwns: its identifiers, in small letters, without their type.
    :param size_bytes: what can be read of it, through its multipath device where there is one.
    :param multipath: the multipath device over it, by the kernel's name.
    """

    name: str
    serial: str
    wwns: tuple[str, ...]
    size_bytes: int
    multipath: Optional[str] = None

    @property
    def top(self) -> str:
        """The device to read: the multipath device where there is one."""
        return f"/dev/{self.multipath or self.name}"

    def is_called(self, wanted: str) -> bool:
        """Whether this is its serial number or its WWN, with or without the type in front."""
        return bool(wanted.strip()) and plain_identifier(wanted) in {plain_identifier(self.serial), *self.wwns}


def serial_in(page: bytes) -> str:
    """The serial number in the page 0x80."""
    return page[4:].decode("ascii", errors="replace").strip(" \0")


def wwns_in(page: bytes) -> list[str]:
    """The identifiers of the LUN itself in the page 0x83: of the types NAA and EUI-64, as hexadecimal digits."""
    found = []
    position = 4
    while position + 4 <= len(page):
        length = page[position + 3]
        association, kind = page[position + 1] >> 4 & 3, page[position + 1] & 15
        if association == 0 and kind in (_NAA, _EUI):
            found.append(page[position + 4 : position + 4 + length].hex())
        position += 4 + length
    return found


def read_disk(name: str, sysfs: str = SYSFS) -> Optional[Disk]:
    """Look at a disk, or return None when it has gone meanwhile. :param name: the kernel's."""
    folder = f"{sysfs}/class/block/{name}"
    size = _read(f"{folder}/size")
    if not size:
        return None
    serial = serial_in(_read(f"{folder}/device/vpd_pg80"))
    wwns = wwns_in(_read(f"{folder}/device/vpd_pg83"))
    for place in ("wwid", "device/wwid"):
        wwns += [plain_identifier(text) for text in [_text(f"{folder}/{place}")] if text]
    for place in ("serial", "device/serial"):
        serial = serial or _text(f"{folder}/{place}")
    multipath = next(
        (h for h in _holders(folder) if _text(f"{sysfs}/class/block/{h}/dm/uuid").startswith("mpath-")), None
    )
    # The map of a multipath device may be of the size that the LUN had before.
    size = _read(f"{sysfs}/class/block/{multipath}/size") or size
    return Disk(name, serial, tuple(dict.fromkeys(wwns)), int(size) * SECTOR_BYTES, multipath)


def all_disks(sysfs: str = SYSFS) -> list[Disk]:
    """All disks of this host: no partitions, and nothing that lies on another block device."""
    found = []
    for folder in sorted(glob.glob(f"{sysfs}/class/block/*")):
        has = {name for name in ("device", "dev", "partition") if os.path.exists(f"{folder}/{name}")}
        # Only what has hardware behind it says who it is. A path under NVMe's own multipath has that, but no number.
        if has == {"device", "dev"}:
            found.append(read_disk(os.path.basename(folder), sysfs))
    return [disk for disk in found if disk is not None]


def foreign_holders(disk: Disk, sysfs: str = SYSFS) -> list[str]:
    """What else than its multipath device lies on a disk, by the kernel's names."""
    return [name for name in _holders(f"{sysfs}/class/block/{disk.name}") if name != disk.multipath]


def check_size(pair: str, disk: Disk, size_bytes: Optional[int]) -> None:
    """Refuse a LUN of another size. :raises TransportError: it is."""
    if size_bytes is not None and size_bytes != disk.size_bytes:
        raise TransportError(
            f"pair {pair}: the LUN with serial {disk.serial} has {disk.size_bytes} bytes here, and {size_bytes} on the "
            "array; scan its path again, or name the right LUN.",
            code="mirror_wrong",
        )


def stable_name(
    disks: Iterable[Disk],
    by_id: str = BY_ID,
    timeout_s: float = UDEV_TIMEOUT_S,
    sysfs: str = SYSFS,
    udev_data: str = UDEV_DATA,
) -> str:
    """The path under /dev/disk/by-id of what these disks, all paths to one LUN, are read through.

    :raises TransportError: udev gives it none in time, or a path has no multipath device yet.
    """
    names = [disk.name for disk in disks]
    deadline = time.monotonic() + timeout_s
    while True:
        paths = [disk for disk in (read_disk(name, sysfs) for name in names) if disk is not None]
        waits = next((path.name for path in paths if _awaits_multipath(path, sysfs, udev_data)), None)
        if waits is not None:
            if time.monotonic() > deadline:
                raise TransportError(
                    f"/dev/{waits}: udev takes it for a path of a multipath device, and there is none over it; start "
                    "multipathd, or exclude this LUN in multipath.conf.",
                    code="host_unfit",
                )
            time.sleep(_POLL_S)
            continue
        tops = list(dict.fromkeys(os.path.realpath(path.top) for path in paths))
        recorded = [_recorded_names(top, by_id, sysfs, udev_data) for top in tops]
        links = [path for path in glob.glob(f"{by_id}/*") if os.path.realpath(path) in tops]
        late = time.monotonic() > deadline
        # One link after the other is made, and the best of them need not be the first. One that stays away belongs to
        # another device with the same name, which was there first.
        if links and all(of_top and (late or set(of_top) <= set(links)) for of_top in recorded):
            return min(links, key=_rank)
        if late:
            raise TransportError(
                f"{tops[0] if tops else names[0]}: udev makes no link to it in {by_id}; see udevadm settle."
            )
        time.sleep(_POLL_S)


def _awaits_multipath(disk: Disk, sysfs: str, udev_data: str) -> bool:
    """Whether multipathd will lay a multipath device over a disk, and has not done so yet.

    The rules of multipath-tools (60-multipath.rules) say so in udev's record of the disk.
    """
    number = _text(f"{sysfs}/class/block/{disk.name}/dev")
    return disk.multipath is None and "E:DM_MULTIPATH_DEVICE_PATH=1" in _text(f"{udev_data}/b{number}").splitlines()


def _recorded_names(device: str, by_id: str, sysfs: str, udev_data: str) -> list[str]:
    """The paths that udev gives a device by its own record of it, or none before udev has written that.

    The record of a device that went away stays for a moment, and a new one may have its number by then: that there is a
    record does not say that all its links are made. Lines that begin with ``S:`` name links (systemd's
    sd-device/device-private.c).
    """
    number = _text(f"{sysfs}/class/block/{os.path.basename(device)}/dev")
    record = _text(f"{udev_data}/b{number}") if number else ""
    prefix = "S:disk/by-id/"
    return [f"{by_id}/{line[len(prefix) :]}" for line in record.splitlines() if line.startswith(prefix)]


def _rank(path: str) -> tuple[int, str]:
    """What says most clearly which LUN it is comes first."""
    name = os.path.basename(path)
    order = ("dm-uuid-mpath-", "wwn-", "nvme-eui.", "nvme-uuid.", "scsi-3", "scsi-", "")
    return next(place for place, prefix in enumerate(order) if name.startswith(prefix)), path


def _holders(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(f"{folder}/holders"))
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _text(path: str) -> str:
    return _read(path).decode("utf-8", errors="replace").strip()
