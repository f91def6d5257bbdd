# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel's st driver understands: ioctls, their structures and flags.

Facts are from linux/mtio.h, st(4) and Documentation/scsi/st.rst.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import NamedTuple, Optional

from .base import Position, TapeError

MAJOR = 9
#: Minor numbers with this bit are the devices that do not rewind when they are closed (st.rst, "Minor and major").
NO_REWIND = 0x80

# linux/mtio.h
MTFSF, MTFSR, MTBSR, MTWEOF, MTREW, MTOFFL = 1, 3, 4, 5, 6, 7
MTSETBLK, MTSEEK, MTSETDRVBUFFER, MTLOAD = 20, 22, 24, 30
MT_ST_SETBOOLEANS = 0x30000000
MT_ST_CLEARBOOLEANS = 0x40000000
MT_ST_SCSI2LOGICAL = 0x800
#: Off: buffered and asynchronous writes and read-ahead (an error would belong to another record), a second filemark at
#: the end, the System V way of closing, operations and filemarks that return before they are done, and the suppression
#: of the report that a record was longer than the buffer.
MT_ST_OFF = 0x1 | 0x2 | 0x4 | 0x10 | 0x1000 | 0x2000 | 0x4000 | 0x8000
_GMT_EOF = 0x80000000
_GMT_EOT = 0x20000000
_GMT_EOD = 0x08000000
_GMT_WR_PROT = 0x04000000
_GMT_ONLINE = 0x01000000
_GMT_DR_OPEN = 0x00040000
_MTOP = struct.Struct("@hi")
_MTGET = struct.Struct("@lllllii")
_MTPOS = struct.Struct("@l")
MAX_COUNT = 2**31 - 1


def _ioctl_number(writes: bool, number: int, size_bytes: int) -> int:
    """_IOW('m', …) or _IOR('m', …) of asm-generic/ioctl.h."""
    return (1 if writes else 2) << 30 | size_bytes << 16 | ord("m") << 8 | number


MTIOCTOP = _ioctl_number(True, 1, _MTOP.size)
MTIOCGET = _ioctl_number(False, 2, _MTGET.size)
MTIOCPOS = _ioctl_number(False, 3, _MTPOS.size)


class MtStatus(NamedTuple):
    """What MTIOCGET reports, as far as it is reliable.

    :param empty: there is no volume in the drive.
    :param at_end: the last operation met the end of data, or the end of the medium.
    """

    online: bool
    write_protected: bool
    at_end: bool
    behind_filemark: bool
    empty: bool


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
        at_end=bool(flags & (_GMT_EOD | _GMT_EOT)),
        behind_filemark=bool(flags & _GMT_EOF),
        empty=bool(flags & _GMT_DR_OPEN),
    )


def unpack_block(data: bytes) -> int:
    """struct mtpos."""
    return int(_MTPOS.unpack(data)[0])


def route(start: Optional[Position], target: Position) -> list[tuple[int, int]]:
    """Operations that lead to a place by spacing forward alone.

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


def operate(handle: int, operation: int, count: int) -> None:
    """MTIOCTOP. :raises OSError: the driver or the drive refused."""
    fcntl.ioctl(handle, MTIOCTOP, pack_operation(operation, count))


def read_status(handle: int) -> MtStatus:
    """MTIOCGET. :raises OSError: the driver refused."""
    return unpack_status(fcntl.ioctl(handle, MTIOCGET, bytes(_MTGET.size)))


def read_block(handle: int) -> Optional[int]:
    """MTIOCPOS; None when the drive does not tell. :raises OSError: something else went wrong."""
    try:
        return unpack_block(fcntl.ioctl(handle, MTIOCPOS, bytes(_MTPOS.size)))
    except OSError as exc:
        if exc.errno not in (errno.EIO, errno.EINVAL, errno.ENOSYS, errno.ENOTTY):
            raise
        return None
