# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Follow what changes in whole file systems, with fanotify(7); where the kernel has none, everything may have changed.

What it cannot see: writes through memory maps, asynchronous writes (they give no event), defragmentation. The check
therefore also looks at what is open for writing or mapped, and the media server proves the whole map.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple, Optional

from .maprows import MapError

# linux/fanotify.h
_CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _UNLIMITED_MARKS = 0x1, 0x2, 0x10, 0x20
_REPORT_FID, _REPORT_DIR_FID, _REPORT_NAME = 0x200, 0x400, 0x800
_INIT_FLAGS = _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _UNLIMITED_MARKS | _REPORT_FID | _REPORT_DIR_FID | _REPORT_NAME
_MARK_ADD, _MARK_REMOVE, _MARK_FILESYSTEM = 0x1, 0x2, 0x100
_MODIFY, _ATTRIB, _CLOSE_WRITE, _OPEN = 0x2, 0x4, 0x8, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_Q_OVERFLOW, _ONDIR = 0x4000, 0x40000000
_NAMES = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_DATA = _MODIFY | _ATTRIB | _CLOSE_WRITE
_MASK = _NAMES | _DATA | _ONDIR
_INFO_FID, _INFO_DFID_NAME = 1, 2

# struct fanotify_event_metadata: event_len, vers, reserved, metadata_len, mask, fd, pid
_EVENT = struct.Struct("=IBBHQii")
# struct fanotify_event_info_header, fsid, and the head of struct file_handle: type, pad, len, fsid, bytes, type
_INFO = struct.Struct("=BBHIIIi")
# include/linux/exportfs.h, and fs/xfs/xfs_export.h for the one with 64 bits
_FILEID_INO32_GEN, _FILEID_INO64_GEN = 1, 0x81
_AT_FDCWD = -100
_READ_BYTES = 1 << 18
# Events that say the same are merged by the kernel while they wait, so they are not fetched one by one.
_PAUSE_S = 0.02
# About 100 bytes each; beyond that, mapping everything again is as quick.
_MOST_EVENTS = 250_000

FANOTIFY = "fanotify"
SWEEP = "sweep"


class NameChange(NamedTuple):
    """A name that was made, taken away or renamed in a folder, which is told by device number and inode number."""

    dev: int
    folder_inode: int
    name: bytes


class Changes(NamedTuple):
    """What changed since the last collect.

    ``kind`` is ``some``, or ``all`` when it is not known what changed. ``inodes`` are files and folders whose data or
    attributes may have changed, as (device number, inode number); ``opened`` are those that others opened since
    watch_opens.
    """

    kind: str
    names: set[NameChange]
    inodes: set[tuple[int, int]]
    opened: set[tuple[int, int]]


class Tracker:
    """Follows the file systems on the given mount points from start until close.

    :param mounts: mount points.
    :ivar kind: ``fanotify``, or ``sweep`` when this kernel or these file systems have none.
    :ivar held: what pre_check found open for writing or mapped, None before; for check_map.
    :ivar pace_s: how many seconds a path took pre_check, None when it looked at too few to know; for check_map.
    """

    def __init__(self, mounts: Sequence[str]) -> None:
        self.mounts = tuple(mounts)
        self.kind = SWEEP
        self.held: Optional[set[tuple[int, int]]] = None
        self.pace_s: Optional[float] = None
        self._fd = -1
        self._wake: tuple[int, int] = (-1, -1)
        self._thread: Optional[threading.Thread] = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._devices: dict[int, set[int]] = {}
        self._pid = os.getpid()
        self._named: set[bytes] = set()
        self._touched: set[bytes] = set()
        self._opened: set[bytes] = set()
        self._lost = False

    def start(self) -> str:
        """Begin to follow, and return the kind. :raises MapError: when a mount point is not there."""
        for mount in self.mounts:
            try:
                found = os.stat(mount)
                self._devices.setdefault(os.statvfs(mount).f_fsid, set()).add(found.st_dev)
            except OSError as exc:
                raise MapError(
                    f"paths: changes on {mount} cannot be tracked ({exc.strerror}).",
                    option="paths",
                    code="change_tracking_lost",
                ) from exc
        self._pid = os.getpid()
        self._fd = self._libc.fanotify_init(_INIT_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
        if self._fd < 0:
            return self.kind
        try:
            self._mark(_MARK_ADD, _MASK)
        except OSError:
            os.close(self._fd)
            self._fd = -1
            return self.kind
        self.kind = FANOTIFY
        self._wake = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._follow, name="splitmirror-tracker", daemon=True)
        self._thread.start()
        return self.kind

    def watch_opens(self, on: bool) -> None:
        """From now on (or no longer) report files that other processes open, too.

        It spares the search for open files while the file system is frozen: what was open before is found before.
        """
        if self.kind == FANOTIFY:
            self._mark(_MARK_ADD if on else _MARK_REMOVE, _OPEN)

    def collect(self) -> Changes:
        """All that changed until now since the last collect (or the start)."""
        if self.kind != FANOTIFY:
            return Changes("all", set(), set(), set())
        with self._lock:
            self._drain()
            named, self._named = self._named, set()
            touched, self._touched = self._touched, set()
            newly, self._opened = self._opened, set()
            lost, self._lost = self._lost, False
        names: set[NameChange] = set()
        inodes: set[tuple[int, int]] = set()
        opened: set[tuple[int, int]] = set()
        try:
            for info in named:
                self._parse(info, names, inodes)
            for info in touched:
                self._parse(info, None, inodes)
            for info in newly:
                self._parse(info, None, opened)
        except _UnknownHandle:
            lost = True
        return Changes("all", set(), set(), set()) if lost else Changes("some", names, inodes, opened)

    def close(self) -> None:
        """Stop following; what was not collected is lost."""
        self._stop.set()
        if self._thread is not None:
            os.write(self._wake[1], b".")
            self._thread.join()
            self._thread = None
            for fd in (*self._wake, self._fd):
                os.close(fd)
            self._fd = -1
        self.kind = SWEEP

    def _mark(self, action: int, mask: int) -> None:
        for mount in self.mounts:
            flags = action | _MARK_FILESYSTEM
            if self._libc.fanotify_mark(self._fd, flags, ctypes.c_uint64(mask), _AT_FDCWD, os.fsencode(mount)):
                number = ctypes.get_errno()
                if action == _MARK_REMOVE and number == errno.ENOENT:
                    continue
                raise OSError(number, os.strerror(number), mount)

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while not self._stop.is_set():
            poll.poll()
            with self._lock:
                self._drain()
            self._stop.wait(_PAUSE_S)

    def _drain(self) -> None:
        """Fetch all events that wait. What they mean is parsed later: most of them say again what is known."""
        while True:
            try:
                events = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            place = 0
            while place < len(events):
                length, _version, _reserved, head, mask, _fd, pid = _EVENT.unpack_from(events, place)
                info = events[place + head : place + length]
                place += length
                if mask & _NAMES:
                    self._named.add(info)
                if mask & _Q_OVERFLOW:
                    self._lost = True
                if mask & _DATA:
                    self._touched.add(info)
                if mask & _OPEN and pid != self._pid:
                    self._opened.add(info)
            if len(self._named) + len(self._touched) + len(self._opened) > _MOST_EVENTS:
                self._lost = True
                self._named.clear()
                self._touched.clear()
                self._opened.clear()

    def _parse(self, info: bytes, names: Optional[set[NameChange]], inodes: set[tuple[int, int]]) -> None:
        """Sort one event into names (with the folder, whose times changed) or inodes."""
        place = 0
        while place < len(info):
            kind, _pad, length, fsid_low, fsid_high, handle_bytes, handle_type = _INFO.unpack_from(info, place)
            handle_at = place + _INFO.size
            inode = _inode_of(handle_type, info[handle_at : handle_at + handle_bytes])
            name = b""
            if kind == _INFO_DFID_NAME:
                name = info[handle_at + handle_bytes : place + length].split(b"\0", 1)[0]
            place += length
            for dev in self._devices.get(fsid_low | fsid_high << 32, ()):
                if names is not None and kind == _INFO_DFID_NAME:
                    names.add(NameChange(dev, inode, name))
                    inodes.add((dev, inode))
                # Without names, the folder of a file does not count; a folder itself is reported as its own ".".
                elif kind == _INFO_FID or name in (b".", b""):
                    inodes.add((dev, inode))


class _UnknownHandle(Exception):
    """A file handle of a type whose inode number we do not know how to read."""


def _inode_of(handle_type: int, handle: bytes) -> int:
    if handle_type == _FILEID_INO32_GEN:
        return int.from_bytes(handle[:4], sys.byteorder)
    if handle_type == _FILEID_INO64_GEN:
        return int.from_bytes(handle[:8], sys.byteorder)
    raise _UnknownHandle(handle_type)
