# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at files: their attributes and their extents, as rows of the map."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Optional

from . import fiemap
from .maprows import (
    SOURCE_CONTENT,
    SOURCE_DEVICE,
    SOURCE_MOUNT,
    SOURCE_NONE,
    SOURCE_SKIP,
    ExtentFields,
    MapError,
    MappedFields,
    SegmentRow,
    pack_xattrs,
)
from .walk import VANISHED, Places, Run, unreadable

# O_NONBLOCK: a fifo that took the file's name meanwhile must not hold us; O_NOATIME: looking leaves no trace.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
# _IOR('f', 1, long), and the flag of what fscrypt encrypts (include/uapi/linux/fs.h). FIEMAP does not tell it on ext4.
_FS_IOC_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_FS_ENCRYPT_FL = 0x800
_LOCATION_PENDING = fiemap.DELALLOC | fiemap.UNKNOWN


class Translation:
    """From offsets on a file system's device to offsets on the LUNs."""

    def __init__(self, segments: Iterable[SegmentRow], block_bytes: int) -> None:
        self._segments = sorted(segments)
        self._block_bytes = block_bytes
        first = self._segments[0]
        self._only = len(self._segments) == 1 and first.device_offset == 0
        self._lun, self._offset, self._length = first.lun, first.lun_offset, first.length

    def cut(self, logical: int, length: int, size: int) -> int:
        """The length of an extent without the blocks that lie wholly behind the end of the file."""
        if logical + length <= size:
            return length
        return -(-(size - logical) // self._block_bytes) * self._block_bytes

    def rows(self, logical: int, physical: int, length: int, flags: int) -> list[ExtentFields]:
        """One extent as rows of the map. :raises MapError: when it lies outside what the LUNs hold."""
        if self._only:
            if physical + length > self._length:
                raise _outside(physical)
            return [(logical, self._lun, physical + self._offset, length, flags)]
        rows: list[ExtentFields] = []
        for segment in self._segments:
            begin = max(physical, segment.device_offset)
            end = min(physical + length, segment.device_offset + segment.length)
            if begin < end:
                there = segment.lun_offset + begin - segment.device_offset
                rows.append((logical + begin - physical, segment.lun, there, end - begin, flags))
        if sum(row[3] for row in rows) != length:
            raise _outside(physical)
        return rows


class FileMapper:
    """Looks at files in the given places.

    :param places: the file systems and where they are reached.
    :param translations: by the number of the file system.
    :param unclosed: when they are frozen: takes the descriptors that must stay open until the thaw. XFS frees what it
        allocated ahead behind the end of a file when any descriptor of it is closed (before Linux 6.12 also one that
        was only read, xfs_release), and for that it waits.
    """

    def __init__(
        self, places: Places, translations: dict[int, Translation], unclosed: Optional[list[int]] = None
    ) -> None:
        self._places = places
        self._translations = translations
        self._unclosed = unclosed
        self._fiemap = fiemap.Fiemap()
        # XFS has none of it.
        self._may_encrypt = {fs for fs, place in places.by_id.items() if place.fs.fs_type == "ext4"}
        self._flags = bytearray(struct.calcsize("l"))

    def map_run(self, run: Run) -> Iterator[MappedFields]:
        """Look at all of a run, one after the other: a few fragmented files have millions of extents. What vanished
        meanwhile is left out.

        :raises MapError: when something is there and cannot be looked at.
        """
        try:
            folder = self._places.by_id[run.fs].open_folder(run.local)
        except OSError as exc:
            if exc.errno in VANISHED:
                return
            raise unreadable(run.local, exc) from exc
        try:
            self._refuse_encrypted(folder, run.prefix, run.fs)
            for name in run.names:
                regular = name not in run.kinds
                row = self._regular(folder, run, name) if regular else self._other(folder, run, name)
                if row is not None:
                    yield row
        finally:
            os.close(folder)

    def _regular(self, folder: int, run: Run, name: bytes) -> Optional[MappedFields]:
        try:
            fd = os.open(name, _OPEN_FILE, dir_fd=folder)
        except OSError as exc:
            if exc.errno in VANISHED or exc.errno == errno.ENXIO:
                # It may have become a link or a socket, which are not opened.
                return self._other(folder, run, name)
            raise unreadable(run.prefix + name, exc) from exc
        closes = self._unclosed is None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return self._other(folder, run, name)
            mapped = self._mapped(fd, found, run, name)
            # What is allocated is in the map: nothing is behind the end of the file.
            closes = closes or found.st_blocks * 512 <= sum(extent[3] for extent in mapped[1])
            return mapped
        except OSError as exc:
            raise unreadable(run.prefix + name, exc) from exc
        finally:
            if closes:
                os.close(fd)
            elif self._unclosed is not None:
                self._unclosed.append(fd)

    def _mapped(self, fd: int, found: os.stat_result, run: Run, name: bytes) -> MappedFields:
        path = run.prefix + name
        place = self._places.by_id[run.fs]
        if found.st_dev != place.local_dev:
            raise MapError(
                f"paths: {os.fsdecode(path)} lies in another file system than its folder; leave it out.", option="paths"
            )
        self._refuse_encrypted(fd, path, run.fs)
        extents: list[ExtentFields] = []
        source, content, reason = SOURCE_NONE, None, None
        size = found.st_size
        if size:
            source = SOURCE_DEVICE
            extents, unreadable_flags = self._extents(fd, size, run.fs)
            if unreadable_flags & fiemap.DATA_INLINE:
                source, content = SOURCE_CONTENT, os.pread(fd, size, 0)
            elif unreadable_flags:
                source, reason = SOURCE_MOUNT, fiemap.reason_of(unreadable_flags)
        names = os.listxattr(fd)
        # fmt: off
        return (
            path, "f", run.fs, found.st_ino, place.fs.dev, found.st_nlink, found.st_mode & 0o7777, found.st_uid,
            found.st_gid, size, found.st_mtime_ns, 0, 0, None, _read_xattrs(fd, names) if names else None, source,
            content, reason,
        ), extents
        # fmt: on

    def _refuse_encrypted(self, fd: int, path: bytes, fs: int) -> None:
        """:raises MapError: the blocks of a file, or the names in a folder, are encrypted on the device."""
        if fs not in self._may_encrypt:
            return
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, self._flags)
        if int.from_bytes(self._flags[:4], sys.byteorder) & _FS_ENCRYPT_FL:
            raise MapError(
                f"paths: {os.fsdecode(path).rstrip('/')} is encrypted by its file system (fscrypt), so a mirror shows "
                "neither its contents nor the names in it; leave it out with exclude.",
                option="paths",
            )

    def _extents(self, fd: int, size: int, fs: int) -> tuple[list[ExtentFields], int]:
        """The rows of a file; or none, and the flags that make it unreadable from the device."""
        translation = self._translations[fs]
        found = self._fiemap.extents(fd, size)
        if len(found) == 1 and not found[0][3] & ~fiemap.READABLE:
            # Most files: one extent, nothing special.
            logical, physical, length, flags = found[0]
            return translation.rows(logical, physical, translation.cut(logical, length, size), flags & ~fiemap.LAST), 0
        if any(extent[3] & _LOCATION_PENDING for extent in found):
            found = self._fiemap.extents(fd, size, fiemap.FIEMAP_FLAG_SYNC)
        rows: list[ExtentFields] = []
        for logical, physical, length, flags in found:
            if flags & ~fiemap.READABLE:
                if flags & ~(fiemap.READABLE | fiemap.UNWRITTEN):
                    return [], flags & ~(fiemap.READABLE | fiemap.UNWRITTEN)
                continue
            usable = translation.cut(logical, length, size)
            rows += translation.rows(logical, physical, usable, flags & ~fiemap.LAST)
        return rows, 0

    def _other(self, folder: int, run: Run, name: bytes) -> Optional[MappedFields]:
        """Anything; regular files only when they took the place of something else."""
        target = None
        link = b"/proc/self/fd/%d/%s" % (folder, name or b".")
        try:
            found = os.lstat(link)
            kind = _KINDS[stat.S_IFMT(found.st_mode)]
            if kind == "f":
                return self._regular(folder, run, name)
            if kind == "l":
                target = os.readlink(link)
            names = os.listxattr(link, follow_symlinks=False)
            xattrs = _read_xattrs(link, names) if names else None
        except OSError as exc:
            if exc.errno in VANISHED:
                return None
            raise unreadable(run.prefix + name, exc) from exc
        major, minor = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in "cb" else (0, 0)
        # fmt: off
        return (
            run.prefix + name, kind, run.fs, found.st_ino, self._places.by_id[run.fs].fs.dev, found.st_nlink,
            found.st_mode & 0o7777, found.st_uid, found.st_gid, 0, found.st_mtime_ns, major, minor, target, xattrs,
            SOURCE_SKIP if kind == "s" else SOURCE_NONE, None, None,
        ), []
        # fmt: on


def _read_xattrs(where: Any, names: list[str]) -> Optional[bytes]:
    """Values of extended attributes of an open file or a path that is not followed."""
    found = {}
    for name in names:
        try:
            value = (
                os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=False)
            )
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                raise
            # It was taken away since the names were read; the check sees that as a change.
            continue
        found[os.fsencode(name)] = value
    return pack_xattrs(found)


def _outside(physical: int) -> MapError:
    return MapError(
        f"pairs: an extent at {physical} lies behind the end of the file system's device; the device of the pair is "
        "not the one that is mounted.",
        option="pairs",
    )
