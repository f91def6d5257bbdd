# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at files: their attributes and their extents, as rows of the map."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Optional

from . import fiemap
from .leaveout import LeftOut, Unreadable
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
from .walk import VANISHED, FileSystems, Run, elsewhere, enter_folder, unreadable

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
# _IOR('f', 1, long), and the flag of what fscrypt encrypts (include/uapi/linux/fs.h). FIEMAP does not show it on ext4.
_FS_IOC_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_FS_ENCRYPT_FL = 0x800
_LIBC = ctypes.CDLL(None, use_errno=True)
# How often a name may become something else while we look at it.
_MOST_CHANGES = 10
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
    :param left_out: takes what is there and cannot be looked at.
    """

    def __init__(
        self,
        places: FileSystems,
        translations: dict[int, Translation],
        unclosed: Optional[list[int]] = None,
        left_out: Optional[LeftOut] = None,
    ) -> None:
        self._places = places
        self._translations = translations
        self._unclosed = unclosed
        self.left_out = left_out
        self._fiemap = fiemap.Fiemap()
        # XFS has none of it.
        self._may_encrypt = {fs for fs, place in places.by_id.items() if place.fs.fs_type == "ext4"}
        self._flags = bytearray(struct.calcsize("l"))

    def map_run(self, run: Run) -> Iterator[MappedFields]:
        """Look at all of a run, one after the other: a few fragmented files have millions of extents. What vanished
        meanwhile is left out.

        :raises Unreadable: when something is there and cannot be looked at, and is not left out.
        """
        try:
            folder = self._enter(run)
        except FileNotFoundError:
            return
        except Unreadable as exc:
            self._leave_out(exc)
            return
        try:
            for name in run.names:
                try:
                    row = self._row(folder, run, name)
                except Unreadable as exc:
                    self._leave_out(exc)
                    continue
                if row is not None:
                    yield row
        finally:
            os.close(folder)

    def _enter(self, run: Run) -> int:
        path = run.prefix.rstrip(b"/") or b"/"
        folder = enter_folder(path, self._places.by_id[run.fs], run.local)
        try:
            self._refuse_encrypted(folder, path, run.fs)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def _leave_out(self, error: Unreadable) -> None:
        if self.left_out is None:
            raise error
        self.left_out.add(error)

    def _row(self, folder: int, run: Run, name: bytes) -> Optional[MappedFields]:
        """One name, whatever it becomes meanwhile."""
        regular = name not in run.kinds
        for _try in range(_MOST_CHANGES):
            try:
                return self._regular(folder, run, name) if regular else self._other(folder, run, name)
            except _OtherKind:
                regular = not regular
        # Somebody makes it something else all the time; the next look will find what it is.
        return None

    def _regular(self, folder: int, run: Run, name: bytes) -> Optional[MappedFields]:
        try:
            fd = os.open(name, _OPEN_FILE, dir_fd=folder)
        except OSError as exc:
            if exc.errno == errno.EWOULDBLOCK:
                # Somebody has a lease on it (fcntl(2), F_SETLEASE), and may keep it for longer than we would wait.
                return self._other(folder, run, name, leased=True)
            if exc.errno in VANISHED or _is_other(folder, name):
                # It may have become a link, a socket or a device, which are not opened.
                raise _OtherKind from exc
            raise unreadable(run.prefix + name, exc) from exc
        closes = self._unclosed is None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _OtherKind
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
            raise elsewhere(path)
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
            found.st_gid, size, found.st_mtime_ns, found.st_ctime_ns, 0, 0, None,
            _read_xattrs(fd, names) if names else None, source, content, reason,
        ), extents
        # fmt: on

    def _refuse_encrypted(self, fd: int, path: bytes, fs: int) -> None:
        """:raises Unreadable: the blocks of a file, or the names in a folder, are encrypted on the device."""
        if fs not in self._may_encrypt:
            return
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, self._flags)
        if int.from_bytes(self._flags[:4], sys.byteorder) & _FS_ENCRYPT_FL:
            raise encrypted(path)

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

    def _other(self, folder: int, run: Run, name: bytes, leased: bool = False) -> Optional[MappedFields]:
        """Anything that is not to be opened; None when it is not there.

        :param leased: a regular file has a lease, so only the mirror shows where its data lie.
        """
        link = b"/proc/self/fd/%d/%s" % (folder, name or b".")
        path, place = run.prefix + name, self._places.by_id[run.fs]
        kind, target, source, reason, size = "", None, SOURCE_NONE, None, 0
        try:
            found = os.lstat(link)
            kind = _KINDS[stat.S_IFMT(found.st_mode)]
            if kind != "d" and found.st_dev != place.local_dev:
                raise elsewhere(path)
            if kind == "f":
                if not leased:
                    raise _OtherKind
                if run.fs in self._may_encrypt and is_encrypted(link):
                    raise encrypted(path)
                size = found.st_size
                source, reason = (SOURCE_MOUNT, "leased") if size else (SOURCE_NONE, None)
            elif kind == "l":
                target = os.readlink(link)
            elif kind == "s":
                source = SOURCE_SKIP
            names = os.listxattr(link, follow_symlinks=False)
            xattrs = _read_xattrs(link, names) if names else None
        except OSError as exc:
            if exc.errno in VANISHED:
                return None
            if exc.errno == errno.EINVAL and kind == "l":
                # It is not a link any more (readlink(2)).
                raise _OtherKind from exc
            raise unreadable(path, exc) from exc
        major, minor = (os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in "cb" else (0, 0)
        # fmt: off
        return (
            path, kind, run.fs, found.st_ino, place.fs.dev, found.st_nlink, found.st_mode & 0o7777, found.st_uid,
            found.st_gid, size, found.st_mtime_ns, found.st_ctime_ns, major, minor, target, xattrs, source, None,
            reason,
        ), []
        # fmt: on


class _OtherKind(Exception):
    """A name that is a regular file where none was expected, or the other way round."""


def _is_other(folder: int, name: bytes) -> bool:
    """Whether a name is something else than a regular file; False when that cannot be found out."""
    try:
        return not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def encrypted(path: bytes) -> Unreadable:
    """The error for what fscrypt keeps from a mirror."""
    return Unreadable(
        path,
        "is encrypted by its file system (fscrypt), so a mirror shows neither its contents nor the names in it",
    )


def is_encrypted(path: bytes) -> bool:
    """Whether fscrypt encrypts what is there; it is not opened (statx(2), STATX_ATTR_ENCRYPTED)."""
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statx(-100, path, 0x100, 0, buffer):  # AT_FDCWD, AT_SYMLINK_NOFOLLOW
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return bool(int.from_bytes(buffer.raw[8:16], sys.byteorder) & 0x800)


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
        code="option_invalid",
    )
