# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading LUNs: which reads are done together, and the reads themselves.

Always with O_DIRECT: a cached read of a mirror returns what it held before the last resync (measured: 7 of 7 files).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple, Optional

from .model import BLOCK_BYTES, ArchiveError

#: What is read in one go at most, when it is put together from several extents.
MAX_READ_BYTES = 1 << 20
# A single extent of this size is read straight into its place, though what its last sector holds needs a second read.
_STRAIGHT_BYTES = 64 << 10
# <linux/fs.h>: BLKSSZGET, logical block size of a block device.
_BLKSSZGET = 0x1268
# O_DIRECT on a plain file (an image): the block size of its file system will do.
_FILE_ALIGNMENT = 4096
_ZEROS = bytes(BLOCK_BYTES)

#: One extent to read: LUN, physical offset, length, place in the ring; all bytes.
Request = tuple[int, int, int, int]


class Task(NamedTuple):
    """One read: from ``start`` to ``end`` of a LUN, of which ``pieces`` (physical, length, place) are wanted."""

    lun: int
    start: int
    end: int
    pieces: list[tuple[int, int, int]]


class Plan(NamedTuple):
    """One read: what of the LUN, in bytes, and to which place of the ring; None for a buffer beside it."""

    offset: int
    length: int
    place: Optional[int]


class ReadFault(Exception):
    """A LUN could not be read at ``physical``. :param code: errno, 0 when the device ends there."""

    def __init__(self, lun: int, physical: int, place: int, code: int) -> None:
        super().__init__(f"LUN {lun} at {physical}: errno {code}")
        self.lun = lun
        self.physical = physical
        self.place = place
        self.code = code


def coalesce(requests: Iterable[Request], gap_bytes: int, max_bytes: int = MAX_READ_BYTES) -> list[Task]:
    """Put requests into physical order, and neighbours with at most ``gap_bytes`` between them into one read.

    A request that is longer than ``max_bytes`` is a read of its own.
    """
    tasks: list[Task] = []
    pieces: list[tuple[int, int, int]] = []
    at_lun = -1
    start = end = 0
    for lun, physical, length, place in sorted(requests):
        stop = max(end, physical + length)
        if lun == at_lun and physical <= end + gap_bytes and stop - start <= max_bytes:
            pieces.append((physical, length, place))
            end = stop
            continue
        if pieces:
            tasks.append(Task(at_lun, start, end, pieces))
        pieces = [(physical, length, place)]
        at_lun, start, end = lun, physical, physical + length
    if pieces:
        tasks.append(Task(at_lun, start, end, pieces))
    return tasks


def page_buffer(length: int) -> memoryview:
    """Memory that begins at a page, as O_DIRECT wants it."""
    return memoryview(mmap.mmap(-1, length))


class LunReader:
    """One LUN, open for direct reading.

    :param lun: its id in the map.
    :param device: path of the block device, or of an image file.
    :raises ArchiveError: it cannot be opened, or not for direct reading.
    """

    def __init__(self, lun: int, device: str) -> None:
        self.lun = lun
        try:
            self._fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as exc:
            raise ArchiveError(
                f"device: {device} cannot be opened for direct reading ({exc.strerror}); the mirror must be presented "
                "to this host as a block device.",
                option="device",
                code="mirror_wrong",
            ) from exc
        self.block_bytes = _FILE_ALIGNMENT
        # The data of a member begin at a multiple of 512 in memory. Most devices take that; one that does not says so.
        self._straight = True
        if stat.S_ISBLK(os.fstat(self._fd).st_mode):
            self.block_bytes = struct.unpack("i", fcntl.ioctl(self._fd, _BLKSSZGET, bytes(4)))[0]

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    @property
    def bounce_bytes(self) -> int:
        """How large the buffer must be that read() and finish() get."""
        return MAX_READ_BYTES + 2 * self.block_bytes

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def plan(self, task: Task) -> Optional[Plan]:
        """How to do a read in one go; None when it takes more, which read() does.

        What is read is at the place of the only piece, or in a buffer: then finish() takes it from there.
        """
        physical, length, place = task.pieces[0]
        block = self.block_bytes
        if len(task.pieces) == 1 and self._goes_straight(physical, length):
            return Plan(physical, self._straight_bytes(length), place)
        start = task.start - task.start % block
        span = task.end - start + -(task.end - start) % block
        return Plan(start, span, None) if span <= self.bounce_bytes else None

    def finish(self, task: Task, plan: Plan, got: int, ring: memoryview, bounce: memoryview) -> None:
        """Go on after the read of a plan: put the pieces into their places, and read what is missing.

        :param got: bytes that were read, or a negative errno.
        :param bounce: the buffer, also where the plan has none.
        :raises ReadFault: a wanted piece cannot be read.
        """
        if got != plan.length:
            if got == -errno.EINVAL and plan.place is not None:
                self._straight = False
            # The bad sector may lie in a gap between files, and the message must name the right file.
            self._read_pieces(task, ring, bounce)
        elif plan.place is None:
            self._take_pieces(task, plan.offset, ring, bounce)
        else:
            self._finish_straight(task.pieces[0], plan.length, ring, bounce)

    def read(self, task: Task, ring: memoryview, bounce: memoryview) -> None:
        """Do one read and put its pieces into their places in the ring, each filled up with zeros to whole blocks.

        :param bounce: a page-aligned buffer of ``bounce_bytes`` that nothing else uses during the call.
        :raises ReadFault: a wanted piece cannot be read.
        """
        plan = self.plan(task)
        if plan is None:
            self._read_pieces(task, ring, bounce)
            return
        got = plan.length
        try:
            self._fill(bounce[:got] if plan.place is None else ring[plan.place : plan.place + got], plan.offset)
        except ReadFault as fault:
            got = fault.physical - plan.offset or -fault.code
        self.finish(task, plan, got, ring, bounce)

    def _read_pieces(self, task: Task, ring: memoryview, bounce: memoryview) -> None:
        for physical, length, place in task.pieces:
            self._read_single(physical, length, place, ring, bounce)

    def _take_pieces(self, task: Task, start: int, ring: memoryview, bounce: memoryview) -> None:
        for physical, length, place in task.pieces:
            begin = physical - start
            ring[place : place + length] = bounce[begin : begin + length]
            if length % BLOCK_BYTES:
                rest = -length % BLOCK_BYTES
                ring[place + length : place + length + rest] = _ZEROS[:rest]

    def _goes_straight(self, physical: int, length: int) -> bool:
        """Whether a piece is read into the ring without a copy."""
        short = self.block_bytes != BLOCK_BYTES and length < _STRAIGHT_BYTES
        return self._straight and not short and not physical % self.block_bytes

    def _straight_bytes(self, length: int) -> int:
        # With blocks of 512, what is read too much lies in the member's own last block.
        return length + -length % BLOCK_BYTES if self.block_bytes == BLOCK_BYTES else length - length % self.block_bytes

    def _finish_straight(self, piece: tuple[int, int, int], span: int, ring: memoryview, bounce: memoryview) -> None:
        """Do what is left when the first ``span`` bytes of a piece are in their place: zeros, or what is missing."""
        physical, length, place = piece
        if span < length:
            self._read_single(physical + span, length - span, place + span, ring, bounce)
        elif span > length:
            ring[place + length : place + span] = _ZEROS[: span - length]

    def _read_single(self, physical: int, length: int, place: int, ring: memoryview, bounce: memoryview) -> None:
        block = self.block_bytes
        for done in range(0, length, MAX_READ_BYTES):
            part = min(MAX_READ_BYTES, length - done)
            skip = (physical + done) % block
            start = physical + done - skip
            try:
                self._fill(bounce[: skip + part + -(skip + part) % block], start)
            except ReadFault as fault:
                raise ReadFault(self.lun, max(fault.physical, physical), place, fault.code) from fault
            ring[place + done : place + done + part] = bounce[skip : skip + part]
        rest = -length % BLOCK_BYTES
        ring[place + length : place + length + rest] = _ZEROS[:rest]

    def _fill(self, view: memoryview, start: int) -> None:
        """Read until the view is full."""
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, [view[done:]], start + done)
            except OSError as exc:
                raise ReadFault(self.lun, start + done, 0, exc.errno or errno.EIO) from exc
            if got <= 0:
                raise ReadFault(self.lun, start + done, 0, 0)
            done += got
