# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a path down to the LUN: mounts, and the layers between a file system's device and the LUNs.

Every layer is translated by its own function in ``_TRANSLATORS`` or refused by name; nothing is guessed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from ..host.tools import run_program
from .maprows import MapError

_SECTOR_BYTES = 512

#: File systems that cannot be mapped, with the reason that makes it so.
_REFUSED_TYPES = {
    "btrfs": "its extent addresses are not offsets on a device",
    "zfs": "it has no extent map",
    "bcachefs": "its extent addresses are not offsets on one device",
    "overlay": "its files lie in other file systems",
    "tmpfs": "it lies in memory, not on a LUN",
    "ramfs": "it lies in memory, not on a LUN",
    "fuse": "the kernel does not know where its data lie",
}
_NETWORK_TYPES = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "virtiofs", "afs")
SUPPORTED_TYPES = ("xfs", "ext4")


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo; ``root`` is the folder inside the file system that is mounted.

    ``number`` is the mount's own, ``parent`` that of the mount that holds its mount point.
    """

    mount_point: bytes
    source: str
    fs_type: str
    dev: int
    root: bytes = b"/"
    number: int = 0
    parent: int = 0


class LunSpec(NamedTuple):
    """A LUN as the user declares it: the name of its pair and its device on this host."""

    name: str
    device: str
    serial: Optional[str] = None


class Segment(NamedTuple):
    """``length`` bytes of a device from ``device_offset`` on lie on the LUN named ``lun`` from ``lun_offset`` on."""

    device_offset: int
    lun: str
    lun_offset: int
    length: int


def read_mounts(mountinfo: str = "/proc/self/mountinfo") -> list[Mount]:
    """All mounts of this process, in the order they were mounted (proc_pid_mountinfo(5))."""
    mounts = []
    with open(mountinfo, "rb") as lines:
        for line in lines:
            words = line.split()
            dash = words.index(b"-")
            major, minor = words[2].split(b":")
            mounts.append(
                Mount(
                    _unescape(words[4]),
                    os.fsdecode(_unescape(words[dash + 2])),
                    words[dash + 1].decode(),
                    os.makedev(int(major), int(minor)),
                    _unescape(words[3]),
                    int(words[0]),
                    int(words[1]),
                )
            )
    return mounts


def visible_mounts(mounts: Sequence[Mount]) -> list[Mount]:
    """Those of all mounts that are seen at their mount points, not hidden by others.

    It follows the table as the kernel follows a path. Nothing is asked of the mounted file systems: one that a user
    serves himself (fuse(4)) may refuse even root, or not answer at all.
    """
    numbers = {mount.number for mount in mounts}
    on_top: dict[tuple[int, bytes], Mount] = {}
    for mount in mounts:
        # What holds the root itself is not in the table of a process with a root of its own.
        inside = mount.parent in numbers and mount.parent != mount.number
        on_top[mount.parent if inside else -1, mount.mount_point] = mount

    def seen_at(path: bytes) -> Optional[Mount]:
        found: Optional[Mount] = None
        number, end = -1, 0
        while end >= 0:
            folder = path[:end] or b"/"
            while (number, folder) in on_top:
                found = on_top[number, folder]
                number = found.number
            if end == len(path):
                break
            next_end = path.find(b"/", end + 1)
            end = len(path) if next_end < 0 else next_end
        return found

    return [mount for mount in mounts if seen_at(mount.mount_point) is mount]


def mount_of(path: str, mounts: Optional[Sequence[Mount]] = None) -> Mount:
    """The mount that holds ``path``.

    :param mounts: what read_mounts gave, when it was read before; then ``path`` must be free of symbolic links.
    :raises MapError: when the path does not exist.
    """
    if mounts is None:
        if not os.path.lexists(path):
            raise MapError(
                f"paths: {path} does not exist; name a folder or file that is there.",
                option="paths",
                code="option_invalid",
            )
        path, mounts = os.path.realpath(path), read_mounts()
    name = os.fsencode(path)
    best: Optional[Mount] = None
    for mount in mounts:
        # Of two on one folder the later one hides the earlier.
        if is_below(name, mount.mount_point) and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    if best is None:
        raise MapError(
            f"paths: {path} is not in a mounted file system; mount it first.", option="paths", code="file_unmappable"
        )
    return best


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether ``path`` is ``folder`` or lies in it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def check_fs_type(mount: Mount, wanted_by: str) -> None:
    """Refuse a file system that cannot be mapped.

    :param wanted_by: what asked for it, the beginning of the message (``paths: /data``).
    :raises MapError: with the reason and the way out.
    """
    if mount.fs_type in SUPPORTED_TYPES:
        return
    kind = mount.fs_type.split(".")[0]
    reason = _REFUSED_TYPES.get(kind, "only the extents of XFS and ext4 are known to be offsets of the device")
    if kind in _NETWORK_TYPES:
        reason = "it is a network file system, whose data lie on another host"
    raise MapError(
        f"{wanted_by} lies on {mount.fs_type} ({os.fsdecode(mount.mount_point)}), which cannot be mapped: {reason}; "
        "move it to XFS or ext4 on a mirrored LUN, or leave it out.",
        option="paths",
        code="file_unmappable",
    )


class BlockStack:
    """Translates offsets of block devices to offsets of the declared LUNs.

    :param luns: the declared LUNs.
    :param sysfs: where sysfs is mounted.
    :param dm_table: returns the table of a device-mapper device in the format of ``dmsetup table``.
    :param device_number: returns the number of a block device by its path.
    :raises MapError: when a LUN's device is missing, no block device, or declared twice.
    """

    def __init__(
        self,
        luns: Sequence[LunSpec],
        sysfs: str = "/sys",
        dm_table: Optional[Callable[[str], str]] = None,
        device_number: Optional[Callable[[LunSpec], int]] = None,
    ) -> None:
        self._sysfs = sysfs
        self._dm_table = dm_table or read_dm_table
        self._luns: dict[int, LunSpec] = {}
        for lun in luns:
            number = (device_number or lun_device_number)(lun)
            if number in self._luns:
                raise MapError(
                    f"pairs: {lun.name} and {self._luns[number].name} name the same device {lun.device}; "
                    "give every pair its own.",
                    option="pairs",
                    code="option_invalid",
                )
            self._luns[number] = lun

    def size_bytes(self, dev: int) -> int:
        """Size of a block device."""
        return int(self._read(dev, "size")) * _SECTOR_BYTES

    def luns(self) -> list[tuple[LunSpec, int, Optional[str]]]:
        """The declared LUNs, each with its size in bytes and its WWN (None where the kernel knows none)."""
        return [(lun, self.size_bytes(dev), self._wwn(dev)) for dev, lun in self._luns.items()]

    def resolve(self, dev: int) -> list[Segment]:
        """Where the bytes of a block device lie on the LUNs, without gaps, by ascending device offset.

        :raises MapError: when a layer on the way is not translated, or the way ends at an undeclared device.
        """
        length = self.size_bytes(dev)
        return _joined(self._slice(dev, 0, length))

    def _slice(self, dev: int, start: int, length: int) -> list[Segment]:
        """Translate one range of a device; the segments' device offsets count from ``start``."""
        lun = self._luns.get(dev)
        if lun is not None:
            if start + length > self.size_bytes(dev):
                raise MapError(
                    f"pairs: {lun.name} ({lun.device}) is smaller than what is on it; name the right device.",
                    option="pairs",
                    code="file_unmappable",
                )
            return [Segment(0, lun.name, start, length)]
        for layer, translate in _TRANSLATORS.items():
            if os.path.exists(self._path(dev, layer)):
                return translate(self, dev, start, length)
        raise self._undeclared(dev)

    def _partition(self, dev: int, start: int, length: int) -> list[Segment]:
        parent = os.path.dirname(os.path.realpath(self._path(dev)))
        first = int(self._read(dev, "start")) * _SECTOR_BYTES
        with open(os.path.join(parent, "dev"), encoding="ascii") as number:
            return self._slice(_device(number.read()), first + start, length)

    def _device_mapper(self, dev: int, start: int, length: int) -> list[Segment]:
        name = self._read(dev, "dm/name")
        segments: list[Segment] = []
        for line in self._dm_table(name).splitlines():
            words = line.split()
            row_start, row_length = int(words[0]) * _SECTOR_BYTES, int(words[1]) * _SECTOR_BYTES
            begin, end = max(start, row_start), min(start + length, row_start + row_length)
            if begin >= end:
                continue
            translate = _DM_TARGETS.get(words[2])
            if translate is None:
                raise MapError(
                    f"pairs: device-mapper {name} ({self._name(dev)}) is of type {words[2]}, whose offsets cannot be "
                    "translated to the LUN; put the file system on a plain LUN, a partition, LVM linear or multipath.",
                    option="pairs",
                    code="file_unmappable",
                )
            for part in translate(self, dev, words[3:], begin - row_start, end - begin):
                segments.append(part._replace(device_offset=part.device_offset + begin - start))
        return segments

    def _dm_linear(self, dev: int, words: list[str], start: int, length: int) -> list[Segment]:
        """linear: <device> <offset in sectors>; Documentation/admin-guide/device-mapper/linear.rst."""
        return self._slice(_device(words[0]), int(words[1]) * _SECTOR_BYTES + start, length)

    def _dm_multipath(self, dev: int, words: list[str], start: int, length: int) -> list[Segment]:
        """multipath: every path leads to the same LUN, so the offsets are those of the first declared one."""
        # Words that are device numbers are paths; counts and names of the path selector hold no colon.
        paths = [_device(word) for word in words if re.fullmatch(r"\d+:\d+", word)]
        for path in paths:
            if path in self._luns:
                return self._slice(path, start, length)
        raise self._undeclared(dev)

    def _loop(self, dev: int, start: int, length: int) -> list[Segment]:
        backing = self._read(dev, "loop/backing_file")
        raise MapError(
            f"pairs: {self._name(dev)} is a loop device on the file {backing}, which cannot be "
            f"translated; declare {self._name(dev)} itself as the device of a pair, or leave it out.",
            option="pairs",
            code="file_unmappable",
        )

    def _md(self, dev: int, start: int, length: int) -> list[Segment]:
        raise MapError(
            f"pairs: {self._name(dev)} is an md array ({self._read(dev, 'md/level')}), whose offsets are not "
            f"translated; declare {self._name(dev)} itself as the device of a pair if it is what is mirrored.",
            option="pairs",
            code="file_unmappable",
        )

    def _wwn(self, dev: int) -> Optional[str]:
        # SCSI disks have it below their device, NVMe name spaces in the block device itself.
        for name in ("device/wwid", "wwid"):
            if os.path.exists(self._path(dev, name)):
                return self._read(dev, name)
        return None

    def _undeclared(self, dev: int) -> MapError:
        wwn = self._wwn(dev)
        for declared, lun in self._luns.items():
            if wwn is not None and self._wwn(declared) == wwn:
                return MapError(
                    f"pairs: {self._name(dev)} is another path to the LUN of pair {lun.name} than the declared "
                    f"{lun.device}; put multipath over both, and declare the name that it gives.",
                    option="pairs",
                    code="file_unmappable",
                )
        known = ", ".join(lun.device for lun in self._luns.values()) or "none"
        return MapError(
            f"pairs: {self._name(dev)} is not on a mirrored LUN (declared: {known}); declare its pair, or leave out "
            "what lies on it.",
            option="pairs",
            code="file_unmappable",
        )

    def _name(self, dev: int) -> str:
        return "/dev/" + os.path.basename(os.path.realpath(self._path(dev)))

    def _path(self, dev: int, *below: str) -> str:
        return os.path.join(self._sysfs, "dev/block", f"{os.major(dev)}:{os.minor(dev)}", *below)

    def _read(self, dev: int, name: str) -> str:
        try:
            with open(self._path(dev, name), encoding="utf-8", errors="surrogateescape") as value:
                return value.read().strip()
        except OSError as exc:
            raise MapError(
                f"pairs: device {os.major(dev)}:{os.minor(dev)} is not a block device in sysfs ({exc.strerror}).",
                option="pairs",
                code="option_invalid",
            ) from exc


_Translator = Callable[[BlockStack, int, int, int], list[Segment]]
_DmTranslator = Callable[[BlockStack, int, "list[str]", int, int], list[Segment]]

#: Layer by the entry that marks it in a device's folder of sysfs. One row, one function.
_TRANSLATORS: dict[str, _Translator] = {
    "partition": BlockStack._partition,
    "dm": BlockStack._device_mapper,
    "md": BlockStack._md,
    "loop": BlockStack._loop,
}
#: Device-mapper target types, by the third word of a table line.
_DM_TARGETS: dict[str, _DmTranslator] = {
    "linear": BlockStack._dm_linear,
    "multipath": BlockStack._dm_multipath,
}


def lun_device_number(lun: LunSpec) -> int:
    """The number of a LUN's block device. :raises MapError: when there is no such block device."""
    try:
        found = os.stat(lun.device)
    except OSError as exc:
        raise MapError(
            f"pairs: {lun.name}: {lun.device} is not there ({exc.strerror}); name the LUN's device on this host.",
            option="pairs",
            code="option_invalid",
        ) from exc
    if not stat.S_ISBLK(found.st_mode):
        raise MapError(
            f"pairs: {lun.name}: {lun.device} is not a block device; name the LUN's device on this host.",
            option="pairs",
            code="option_invalid",
        )
    return found.st_rdev


def read_dm_table(name: str) -> str:
    """``dmsetup table`` of one device. :raises MapError: when it cannot be asked."""
    try:
        done = run_program(["dmsetup", "table", name])
    except OSError as exc:
        raise MapError(
            f"pairs: dmsetup, needed to translate {name}, cannot be started ({exc.strerror}).", code="host_program"
        ) from exc
    if done.returncode:
        raise MapError(
            f"pairs: dmsetup cannot show the table of {name} ({done.stderr.strip()}).",
            option="pairs",
            code="host_program",
        )
    return done.stdout


def _device(text: str) -> int:
    major, minor = text.strip().split(":")
    return os.makedev(int(major), int(minor))


def _joined(segments: list[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in sorted(segments):
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.lun == segment.lun
            and last.device_offset + last.length == segment.device_offset
            and last.lun_offset + last.length == segment.lun_offset
        ):
            joined[-1] = last._replace(length=last.length + segment.length)
        else:
            joined.append(segment)
    return joined


def _unescape(word: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found.group(1), 8)]), word)
