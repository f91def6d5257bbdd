# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real drive behind the kernel's st driver, ``/dev/nst*``.

Facts are from linux/mtio.h, st(4) and Documentation/scsi/st.rst. What is encoded for the kernel is covered by unit
tests; the driver as a whole has not met a drive yet, which is the work of the lab, so it is not in the registry.

Positions are the drive's own logical blocks where it tells them (MTIOCPOS, MTSEEK); a drive that refuses them is moved
by spacing over filemarks and records, and where it stands is known by our own count. The driver's file and block
numbers are never believed: after a seek, and on some drives behind the end of data, they are invented.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import NamedTuple, Optional

from .base import (
    Buffer,
    DriveStatus,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    FilemarkHit,
    Position,
    TapeDrive,
    TapeError,
)

_MAJOR = 9
#: Minor numbers with this bit are the devices that do not rewind when they are closed (st.rst, "Minor and major").
_NO_REWIND = 0x80

# linux/mtio.h
MTFSF, MTBSF, MTFSR, MTBSR, MTWEOF, MTREW, MTOFFL, MTEOM = 1, 2, 3, 4, 5, 6, 7, 12
MTSETBLK, MTSEEK, MTSETDRVBUFFER, MTLOAD = 20, 22, 24, 30
MT_ST_SETBOOLEANS = 0x30000000
MT_ST_CLEARBOOLEANS = 0x40000000
MT_ST_TWO_FM = 0x10
MT_ST_SCSI2LOGICAL = 0x800
_GMT_EOD = 0x08000000
_GMT_EOF = 0x80000000
_GMT_WR_PROT = 0x04000000
_GMT_ONLINE = 0x01000000
_MTOP = struct.Struct("@hi")
_MTGET = struct.Struct("@lllllii")
_MTPOS = struct.Struct("@l")


def _ioctl_number(writes: bool, number: int, size_bytes: int) -> int:
    """_IOW('m', …) or _IOR('m', …) of asm-generic/ioctl.h."""
    return (1 if writes else 2) << 30 | size_bytes << 16 | ord("m") << 8 | number


MTIOCTOP = _ioctl_number(True, 1, _MTOP.size)
MTIOCGET = _ioctl_number(False, 2, _MTGET.size)
MTIOCPOS = _ioctl_number(False, 3, _MTPOS.size)


class MtStatus(NamedTuple):
    """What MTIOCGET tells, as far as it can be believed."""

    online: bool
    write_protected: bool
    end_of_data: bool
    behind_filemark: bool


def pack_operation(operation: int, count: int) -> bytes:
    """struct mtop. :raises TapeError: the count does not fit."""
    try:
        return _MTOP.pack(operation, count)
    except struct.error as exc:
        raise TapeError(f"drive: {count} is too far for one operation of the st driver.", option="drive") from exc


def unpack_status(data: bytes) -> MtStatus:
    """struct mtget."""
    flags = _MTGET.unpack(data)[3]
    return MtStatus(
        online=bool(flags & _GMT_ONLINE),
        write_protected=bool(flags & _GMT_WR_PROT),
        end_of_data=bool(flags & _GMT_EOD),
        behind_filemark=bool(flags & _GMT_EOF),
    )


def unpack_block(data: bytes) -> int:
    """struct mtpos."""
    return int(_MTPOS.unpack(data)[0])


def route(start: Optional[Position], target: Position) -> list[tuple[int, int]]:
    """Operations that lead to a place by spacing alone.

    :param start: where the head stands; None when that is not known.
    """
    operations: list[tuple[int, int]] = []
    if start is None or target.file < start.file or (target.file == start.file and target.record < start.record):
        operations.append((MTREW, 1))
        start = Position(0, 0)
    if target.file > start.file:
        operations.append((MTFSF, target.file - start.file))
        start = Position(target.file, 0)
    if target.record > start.record:
        operations.append((MTFSR, target.record - start.record))
    return operations


class StTape(TapeDrive):
    """A drive of the st driver.

    :param drive: the non-rewinding device, such as ``/dev/nst0`` or a link to it below ``/dev/tape/by-id``.
    """

    name = "st"

    def __init__(self, drive: str, *, writable: bool = False) -> None:
        self._device = drive
        self._place: Optional[Position] = None
        self._tells = True
        self._warned = False
        try:
            found = os.stat(drive)
            if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) != _MAJOR:
                raise TapeError(f"drive: {drive} is no tape device; name one such as /dev/nst0.", option="drive")
            if not os.minor(found.st_rdev) & _NO_REWIND:
                raise TapeError(
                    f"drive: {drive} rewinds whenever it is closed; name the device that does not, such as /dev/nst0.",
                    option="drive",
                )
            # without O_NONBLOCK an empty drive could not even be asked to load (st.rst)
            flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(drive, flags)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise TapeError(
                    f"drive: {drive} is in use by another process; wait for it or name another drive.", option="drive"
                ) from exc
            if exc.errno == errno.EROFS:
                raise TapeError(
                    f"volume: the one in {drive} is write-protected; take the protection away or insert another.",
                    option="volume",
                ) from exc
            raise self._failed("cannot be opened", exc) from exc

    def close(self) -> None:
        if self._fd < 0:
            return
        handle, self._fd = self._fd, -1
        try:
            os.close(handle)
        except OSError as exc:
            raise self._failed("could not write what it had buffered", exc) from exc

    def status(self) -> DriveStatus:
        return DriveStatus(None, self._get().write_protected, None, None)

    def load(self, volume: str) -> None:
        if not self._get().online:
            self._operate("cannot load the volume", MTLOAD)
        self.rewind()
        # one write is one record of any length, and positions are logical blocks
        self._operate("takes no records of variable length", MTSETBLK, 0)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_SETBOOLEANS | MT_ST_SCSI2LOGICAL)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_CLEARBOOLEANS | MT_ST_TWO_FM)

    def unload(self) -> None:
        self._operate("cannot unload the volume", MTOFFL)
        self._place = None

    def rewind(self) -> None:
        self._operate("cannot rewind", MTREW)
        self._arrive(Position(0, 0))

    def read_record(self, max_bytes: int) -> bytes:
        try:
            data = os.read(self._fd, max_bytes)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:
                self._pass(1)
                raise TapeError(
                    f"drive: a record has more than the {max_bytes} bytes asked for; ask for the record size of the "
                    "label.",
                    option="drive",
                ) from exc
            if exc.errno == errno.EIO and self._get().end_of_data:
                raise self._end_of_data() from exc
            self._place = None
            raise self._failed("cannot read a record", exc) from exc
        if data:
            self._pass(1)
        elif self._get().end_of_data:
            raise self._end_of_data()
        elif self._place is not None:
            self._arrive(Position(self._place.file + 1, 0))
        return data

    def write_record(self, record: Buffer) -> None:
        try:
            written = os.write(self._fd, record)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                self._place = None
                raise self._failed("cannot write a record", exc) from exc
            # st.rst: the first ENOSPC warns, one more write is let through, a second one in a row is the end
            if self._warned:
                raise EndOfMedium("volume: the medium is full; name another volume.", option="volume") from exc
            self._warned = True
            raise EarlyWarning("volume: the medium is nearly full; name another volume.", option="volume") from exc
        self._warned = False
        if written != memoryview(record).nbytes:
            self._place = None
            raise EndOfMedium("volume: the medium ended inside a record; name another volume.", option="volume")
        self._pass(1)

    def write_filemarks(self, count: int) -> None:
        self._operate("cannot write a filemark", MTWEOF, count)
        if count and self._place is not None:
            self._arrive(Position(self._place.file + count, 0))

    def space_files(self, count: int) -> None:
        if not count:
            return
        place = self._place
        if count > 0:
            self._operate("cannot space over filemarks", MTFSF, count, ends=True)
            self._arrive(None if place is None else Position(place.file + count, 0))
            return
        self._operate("cannot space back over filemarks", MTBSF, -count)
        # how many records are before the head now is known to nobody
        self._arrive(None)

    def space_records(self, count: int) -> None:
        if not count:
            return
        try:
            if count > 0:
                self._operate("cannot space over records", MTFSR, count, ends=True)
            else:
                self._operate("cannot space back over records", MTBSR, -count)
        except EndOfData:
            raise
        except TapeError as exc:
            if self._get().behind_filemark:
                raise FilemarkHit("drive: a filemark was met while spacing over records.", option="drive") from exc
            raise
        self._pass(count)

    def space_end_of_data(self) -> None:
        self._operate("cannot go to the end of data", MTEOM)
        self._arrive(None)

    def position(self) -> Optional[Position]:
        return self._place

    def tell_block(self) -> Optional[int]:
        if not self._tells:
            return None
        try:
            return unpack_block(fcntl.ioctl(self._fd, MTIOCPOS, bytes(_MTPOS.size)))
        except OSError as exc:
            if exc.errno not in (errno.EIO, errno.EINVAL, errno.ENOSYS, errno.ENOTTY):
                raise self._failed("cannot tell its position", exc) from exc
            self._tells = False
            return None

    def locate(self, target: Position, block: Optional[int] = None) -> None:
        if block is not None and self.tell_block() is not None:
            self._operate("cannot locate", MTSEEK, block, ends=True)
            self._arrive(target)
            return
        for operation, count in route(self._place, target):
            if operation == MTREW:
                self.rewind()
            elif operation == MTFSF:
                self.space_files(count)
            else:
                self.space_records(count)

    # -- inside ------------------------------------------------------------------------------------------------

    def _get(self) -> MtStatus:
        try:
            return unpack_status(fcntl.ioctl(self._fd, MTIOCGET, bytes(_MTGET.size)))
        except OSError as exc:
            raise self._failed("does not tell its status", exc) from exc

    def _operate(self, what: str, operation: int, count: int = 1, *, ends: bool = False) -> None:
        """One MTIOCTOP. :param ends: the end of data may stand in the way."""
        try:
            fcntl.ioctl(self._fd, MTIOCTOP, pack_operation(operation, count))
        except OSError as exc:
            self._arrive(None)
            if ends and exc.errno == errno.EIO and self._get().end_of_data:
                raise self._end_of_data() from exc
            raise self._failed(what, exc) from exc

    def _arrive(self, place: Optional[Position]) -> None:
        self._place = place
        self._warned = False

    def _pass(self, records: int) -> None:
        if self._place is not None:
            self._place = Position(self._place.file, self._place.record + records)

    def _end_of_data(self) -> EndOfData:
        self._place = None
        return EndOfData("volume: there is nothing more on it.", option="volume")

    def _failed(self, what: str, exc: OSError) -> TapeError:
        return TapeError(f"drive: {self._device} {what} ({exc.strerror}).", option="drive")
