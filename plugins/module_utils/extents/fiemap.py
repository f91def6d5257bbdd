# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the kernel where the bytes of a file lie (``FS_IOC_FIEMAP``, Documentation/filesystems/fiemap.rst)."""

from __future__ import annotations

import fcntl
import struct
import sys

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1

LAST = 0x0001
UNKNOWN = 0x0002
DELALLOC = 0x0004
ENCODED = 0x0008
DATA_ENCRYPTED = 0x0080
NOT_ALIGNED = 0x0100
DATA_INLINE = 0x0200
DATA_TAIL = 0x0400
UNWRITTEN = 0x0800
MERGED = 0x1000
SHARED = 0x2000

#: An extent with these flags only is data that can be read from the device at its physical offset.
READABLE = LAST | MERGED | SHARED

_REASONS = (
    (DATA_INLINE, "inline"),
    (DATA_ENCRYPTED, "encrypted"),
    (ENCODED, "encoded"),
    (DATA_TAIL, "tail"),
    (NOT_ALIGNED, "not_aligned"),
    (DELALLOC, "delalloc"),
    (UNKNOWN, "unknown"),
)

# struct fiemap: start, length, flags, mapped_extents, extent_count, reserved
_HEAD = struct.Struct("=QQIIII")
# struct fiemap_extent: logical, physical, length, 2 reserved, flags, 3 reserved; what is reserved is skipped
_EXTENT = struct.Struct("=QQQ16xI12x")
# As many as fit in the 1024 bytes which fcntl.ioctl takes without going to the heap.
_COUNT = (1024 - _HEAD.size) // _EXTENT.size
_MAPPED_AT = 20 if sys.byteorder == "little" else 23
_BUFFER_BYTES = _HEAD.size + _COUNT * _EXTENT.size

RawExtent = tuple[int, int, int, int]


class Fiemap:
    """Asks for the extents of files, one after another; not for several threads at once."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_BYTES)

    def extents(self, fd: int, size_bytes: int, flags: int = 0) -> list[RawExtent]:
        """The extents of an open file that begin before ``size_bytes``.

        :param flags: 0, or FIEMAP_FLAG_SYNC to write the file's dirty pages first.
        :returns: (logical, physical, length, flags) in bytes by ascending logical offset; neighbours that continue
            one another on the device and have the same flags are one.
        :raises OSError: EOPNOTSUPP when the file system has no FIEMAP.
        """
        buffer = self._buffer
        found: list[RawExtent] = []
        start = 0
        while start < size_bytes:
            _HEAD.pack_into(buffer, 0, start, size_bytes - start, flags, 0, _COUNT, 0)
            fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
            mapped = buffer[_MAPPED_AT]  # its lowest byte, the count is small
            if not mapped:
                break
            last = _EXTENT.unpack_from(buffer, _HEAD.size)
            found.append(last)
            for number in range(1, mapped):
                last = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
                found.append(last)
            # A short answer without LAST is not the end: preallocation may follow the file's last byte, so go on.
            if last[3] & LAST:
                break
            start = last[0] + last[2]
        return found if len(found) < 2 else _joined(found)


def reason_of(flags: int) -> str:
    """One word for why an extent with these flags cannot be read from the device."""
    for bit, word in _REASONS:
        if flags & bit:
            return word
    return f"flags_{flags:#x}"


def _joined(found: list[RawExtent]) -> list[RawExtent]:
    joined = [found[0]]
    for logical, physical, length, flags in found[1:]:
        before = joined[-1]
        if (
            before[0] + before[2] == logical
            and before[1] + before[2] == physical
            and (before[3] ^ flags) & ~(LAST | MERGED) == 0
        ):
            joined[-1] = (before[0], before[1], before[2] + length, flags)
        else:
            joined.append((logical, physical, length, flags))
    return joined
