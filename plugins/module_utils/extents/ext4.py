# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the inode tables of an ext4 that is mounted read-only, in large pieces, and ahead of their use.

They are read through the kernel's cache of the block device, which is also what the mounted file system reads: who
mounts a mirror has to drop it before. So what is asked for here in time is there when the file system needs it.

The layout is that of Documentation/filesystems/ext4 (super, group_descr, inodes).
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple, Optional

from .fsinfo import read_superblock
from .maprows import MapError

_SUPERBLOCK_AT = 1024
_MAGIC = 0xEF53
_DYNAMIC_REVISION = 1
_LINUX = 0
_64BIT = 0x80
# filetype, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold. What is missing
# packs or places things in ways that are not read here (compression, meta_bg), or says that the journal holds newer
# inodes than the tables (recover). Inline and encrypted files are known by flags of their own.
_KNOWN_INCOMPATIBLE = 0x2 | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
# sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota, metadata_csum, readonly,
# project, verity, orphan_present. Bigalloc is missing.
_KNOWN_READ_ONLY = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x400 | 0x1000 | 0x2000 | 0x8000 | 0x10000

# inodes_count, first_data_block, log_block_size, inodes_per_group, magic, creator_os, rev_level, inode_size,
# feature_incompat, feature_ro_compat, desc_size
_SUPERBLOCK = struct.Struct("<I 16x I I 12x I 12x H 14x I I 8x H 6x I I 150x H")
_INODE_BYTES = 256
_SMALL_DESCRIPTOR = 32
_TABLE_LOW = struct.Struct("<8x I")
_TABLE_HIGH = struct.Struct("<40x I")

# What is read of the tables at once, 512 inodes of the usual size, and how many of such pieces are remembered.
_PIECE_BYTES = 128 << 10
_PIECES = 128
_EXPECTED_AT_ONCE = 32


class Geometry(NamedTuple):
    """What of the superblock says where inodes are; sizes in bytes."""

    block_bytes: int
    first_block: int
    inodes: int
    inodes_per_group: int
    inode_bytes: int
    descriptor_bytes: int


def parse_geometry(block: bytes) -> Optional[Geometry]:
    """The geometry from the first 4096 bytes of an ext4; None when it has a feature that is not known here."""
    (
        inodes, first_block, log_block, per_group, magic, creator, revision, inode_bytes, incompatible, read_only,
        descriptor_bytes,
    ) = _SUPERBLOCK.unpack_from(block, _SUPERBLOCK_AT)  # fmt: skip
    if magic != _MAGIC or creator != _LINUX or revision != _DYNAMIC_REVISION:
        return None
    if incompatible & ~_KNOWN_INCOMPATIBLE or read_only & ~_KNOWN_READ_ONLY:
        return None
    if not incompatible & _64BIT:
        descriptor_bytes = _SMALL_DESCRIPTOR
    block_bytes = 1024 << log_block
    # A table ends with a block and an inode lies in one piece of it; so mkfs makes them. Old inodes are half as large.
    if per_group * inode_bytes % block_bytes or _PIECE_BYTES % inode_bytes or inode_bytes < _INODE_BYTES:
        return None
    if descriptor_bytes < _SMALL_DESCRIPTOR:
        return None
    return Geometry(block_bytes, first_block, inodes, per_group, inode_bytes, descriptor_bytes)


class InodeTables:
    """The inodes of an ext4; for one thread. A few MiB of what was read last are kept."""

    def __init__(self, device: str, fd: int, geometry: Geometry) -> None:
        """Not for callers: use open."""
        self.inode_bytes = geometry.inode_bytes
        self.block_bytes = geometry.block_bytes
        self._device = device
        self._fd = fd
        self._geometry = geometry
        self._table_bytes = geometry.inodes_per_group * geometry.inode_bytes
        # (group, offset in its table), or (-1, offset) for a block of group descriptors.
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._expected: OrderedDict[tuple[int, int], None] = OrderedDict()

    @classmethod
    def open(cls, device: str) -> Optional[InodeTables]:
        """Open the tables of the ext4 that begins where a block device does; None when it has an unknown feature.

        :raises MapError: the device cannot be read.
        """
        geometry = parse_geometry(read_superblock(device))
        if geometry is None:
            return None
        try:
            return cls(device, os.open(device, os.O_RDONLY | os.O_CLOEXEC), geometry)
        except OSError as exc:
            raise MapError(
                f"proof: {device} cannot be opened ({exc.strerror}).", option="proof", code="mirror_wrong"
            ) from exc

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def find(self, inode: int) -> tuple[bytes, int, int]:
        """Where an inode is: a piece of its table, the number of the piece's first inode, and its last one's.

        The inode begins at (inode - first) * inode_bytes of the piece.

        :raises MapError: there is none of this number, or the device cannot be read.
        """
        if not 0 < inode <= self._geometry.inodes:
            raise MapError(
                f"proof: {self._device} has no inode {inode}; check its file system.",
                option="proof",
                code="mirror_wrong",
            )
        group, place = key = self._key(inode)
        piece = self._pieces.get(key)
        if piece is None:
            piece = self._remember(key, self._table(group) + place, self._length(place))
        else:
            self._pieces.move_to_end(key)
        first = group * self._geometry.inodes_per_group + place // self.inode_bytes + 1
        return piece, first, first + len(piece) // self.inode_bytes - 1

    def expect(self, inodes: Iterable[int]) -> None:
        """Have the kernel read what is needed to find these inodes, without waiting for it."""
        step = _PIECE_BYTES // self.inode_bytes
        most = self._geometry.inodes
        stretches = sorted({(inode - 1) // step for inode in inodes})[:_EXPECTED_AT_ONCE]
        # A stretch may begin in one piece and end in the next one, for tables have their ends.
        ends = {min(end, most) for number in stretches for end in (number * step + 1, (number + 1) * step)}
        for key in map(self._key, ends):
            if key not in self._pieces and key not in self._expected:
                while len(self._expected) >= _PIECES:
                    self._expected.popitem(last=False)
                self._expected[key] = None
                group, place = key
                self.read_ahead(self._table(group) + place, self._length(place))

    def read_ahead(self, start: int, length: int) -> None:
        """Have the kernel read a part of the device, without waiting for it."""
        # It is only a hint: who needs what is there will see what is wrong.
        with contextlib.suppress(OSError, OverflowError):
            os.posix_fadvise(self._fd, start, length, os.POSIX_FADV_WILLNEED)

    def _key(self, inode: int) -> tuple[int, int]:
        group, index = divmod(inode - 1, self._geometry.inodes_per_group)
        place = index * self.inode_bytes
        return group, place - place % _PIECE_BYTES

    def _length(self, place: int) -> int:
        return min(_PIECE_BYTES, self._table_bytes - place)

    def _table(self, group: int) -> int:
        """Where the table of a group begins."""
        geometry = self._geometry
        place = group * geometry.descriptor_bytes
        start = place - place % geometry.block_bytes
        block = self._pieces.get((-1, start))
        if block is None:
            # The descriptors follow the block of the superblock.
            before = (geometry.first_block + 1) * geometry.block_bytes
            block = self._remember((-1, start), before + start, geometry.block_bytes)
        (number,) = _TABLE_LOW.unpack_from(block, place - start)
        if geometry.descriptor_bytes > _SMALL_DESCRIPTOR:
            number += _TABLE_HIGH.unpack_from(block, place - start)[0] << 32
        return int(number) * geometry.block_bytes

    def _remember(self, key: tuple[int, int], start: int, length: int) -> bytes:
        try:
            piece = os.pread(self._fd, length, start)
        except OSError as exc:
            raise MapError(
                f"proof: {self._device} cannot be read at {start} ({exc.strerror}).", "proof", code="mirror_wrong"
            ) from exc
        if len(piece) != length:
            raise MapError(
                f"proof: {self._device} ends before {start + length}; give the whole mirror.",
                "proof",
                code="mirror_wrong",
            )
        while len(self._pieces) >= _PIECES:
            self._pieces.popitem(last=False)
        self._pieces[key] = piece
        return piece
