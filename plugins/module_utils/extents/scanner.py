# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the files of an ext4 mirror by its inode tables: the rows that a FileMapper gives, for less work.

The kernel reads inodes and folders block by block, each behind the large reads of the archive's writer; here
hundreds come in one read, and they are asked for before they are needed. Plain inodes are understood, all others are
looked at through the mount. No checksums are verified: who finds a difference has to ask the kernel before he believes
it, so a damaged inode is never taken for a change.
(Documentation/filesystems/ext4: inodes, ifork, attributes.)
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from typing import Optional

from .ext4 import InodeTables
from .filemap import FileMapper, Translation
from .maprows import SOURCE_DEVICE, SOURCE_NONE, ExtentFields, MappedFields, pack_xattrs
from .walk import PlacedFs, Run

# mode, uid, size; ctime, mtime; gid, links; flags; head of the extents: magic, entries, depth; the first of them:
# block, length, high and low part of the start; of the inode again: low part of file_acl, high part of the size; high
# parts of file_acl, uid, gid; behind the old inode extra_isize, what ctime and mtime have beyond 32 bits of seconds,
# and what may be the magic number of attributes
_INODE = struct.Struct("<HHI 4x ii 4x HH 4x I 4x HH2xH4x IHHI 36x 4x II 6x HHH 4x H 2x II 20x 4s")
_INODE_BYTES = 128
_USUAL_EXTRA_BYTES = 32
_CTIME_EXTRA_ENDS, _MTIME_EXTRA_ENDS = 8, 12
_BLOCK_AT, _BLOCK_BYTES = 40, 60
_EXTENTS_HEAD = struct.Struct("<HH 2x H")
_EXTENT = struct.Struct("<IHHI")
_EXTENTS_MAGIC = 0xF30A
_COUNT_MOST = 4
# The longest extent that is written; an unwritten one has this much more than its length.
_WRITTEN_MOST = 32768

_EXTENTS = 0x80000
# secrm, unrm, sync, immutable, append, nodump, noatime, index, journal_data, notail, dirsync, topdir, huge_file,
# extents, eofblocks, dax, projinherit
_PLAIN_FLAGS = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x1000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x40000
_PLAIN_FLAGS |= _EXTENTS | 0x400000 | 0x2000000 | 0x20000000

_XATTR_MAGIC = b"\x00\x00\x02\xea"
# name_len, name_index, value_offs, value_inum, value_size; the name follows
_XATTR = struct.Struct("<BBHII 4x")
# What getxattr hands out as it is stored; ACLs are missing, for these it translates.
_XATTR_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}
_AREAS = 4096
_EVERY = 16


class Scanner:
    """Looks at the files of one ext4 that is not being written.

    :param mapper: looks at what is not understood here, through the mount.
    """

    def __init__(self, tables: InodeTables, place: PlacedFs, translation: Translation, mapper: FileMapper) -> None:
        self._tables = tables
        self._inode_bytes = tables.inode_bytes
        self._fs = place.fs.id
        self._dev = place.fs.dev
        self._block_bytes = tables.block_bytes
        self._cut, self._rows = translation.cut, translation.rows
        self._mapper = mapper
        # Many files have the same attributes: what an area of them says, None when it is not understood.
        self._areas: dict[bytes, Optional[tuple[Optional[bytes]]]] = {}

    def map_run(self, run: Run) -> list[MappedFields]:
        """Look at all of a run, as FileMapper.map_run does.

        :raises MapError: when something is there and cannot be looked at.
        """
        rows: list[MappedFields] = []
        odd: list[bytes] = []
        first = last = 0
        piece = b""
        prefix, names = run.prefix, run.names
        row_of, inode_bytes = self._row, self._inode_bytes
        for name, number in zip(names, map(run.inodes.get, names)):
            row = None
            # Without a number: a place where another file system is mounted, or the top of a scope.
            if number is not None:
                if not first <= number <= last:
                    piece, first, last = self._tables.find(number)
                row = row_of(prefix + name, number, piece, (number - first) * inode_bytes)
            if row is None:
                odd.append(name)
            else:
                rows.append(row)
        if odd:
            rows += self._mapper.map_run(run._replace(names=odd))
            # Names of one folder: the order of their paths is the logical one.
            rows.sort(key=lambda row: row[0][0])
        return rows

    def expect(self, run: Run) -> None:
        """A run will be looked at soon."""
        # Neighbours have neighbouring inodes.
        some = run.names[::_EVERY]
        self._tables.expect([run.inodes[name] for name in some if name in run.inodes])

    def expect_folders(self, numbers: Sequence[int]) -> None:
        """Folders with these inodes will be read soon."""
        self._tables.expect(numbers)
        for number in numbers:
            piece, first, _last = self._tables.find(number)
            place = (number - first) * self._inode_bytes
            magic, count, depth = _EXTENTS_HEAD.unpack_from(piece, place + _BLOCK_AT)
            if magic == _EXTENTS_MAGIC and not depth and count <= _COUNT_MOST:
                for extent in range(1, count + 1):
                    _block, length, start_high, start = _EXTENT.unpack_from(
                        piece, place + _BLOCK_AT + extent * _EXTENT.size
                    )
                    self._tables.read_ahead((start | start_high << 32) * self._block_bytes, length * self._block_bytes)

    def _row(self, path: bytes, number: int, piece: bytes, place: int) -> Optional[MappedFields]:
        """One inode; None when it is not understood."""
        (
            mode, uid, size, ctime, mtime, gid, links, flags, magic, count, depth, block, length, start_high, start,
            acl, size_high, acl_high, uid_high, gid_high, extra_bytes, ctime_extra, mtime_extra, xattr_magic,
        ) = _INODE.unpack_from(piece, place)  # fmt: skip
        if flags & ~_PLAIN_FLAGS or acl or acl_high or not links or not extra_bytes:
            return None
        xattrs = None
        if extra_bytes != _USUAL_EXTRA_BYTES:
            area = place + _INODE_BYTES + extra_bytes
            xattr_magic = piece[area : area + len(_XATTR_MAGIC)]
            if extra_bytes < _MTIME_EXTRA_ENDS:
                mtime_extra = 0
            if extra_bytes < _CTIME_EXTRA_ENDS:
                ctime_extra = 0
        if xattr_magic == _XATTR_MAGIC:
            known = self._attributes(piece[place + _INODE_BYTES + extra_bytes : place + self._inode_bytes])
            if known is None:
                return None
            xattrs = known[0]
        mtime_ns = (mtime + ((mtime_extra & 3) << 32)) * 1_000_000_000 + (mtime_extra >> 2)
        ctime_ns = (ctime + ((ctime_extra & 3) << 32)) * 1_000_000_000 + (ctime_extra >> 2)
        kind = mode & 0o170000
        target = None
        source = SOURCE_NONE
        extents: list[ExtentFields] = []
        if kind == stat.S_IFREG:
            word = "f"
            size |= size_high << 32
            if size:
                source = SOURCE_DEVICE
                if not flags & _EXTENTS or magic != _EXTENTS_MAGIC or depth or count > _COUNT_MOST:
                    return None
                if count == 1 and not block and length <= _WRITTEN_MOST:
                    # Most files.
                    usable = min(length, -(-size // self._block_bytes)) * self._block_bytes
                    extents = self._rows(0, (start | start_high << 32) * self._block_bytes, usable, 0)
                elif count:
                    extents = self._extents(piece, place + _BLOCK_AT, count, size)
        elif kind == stat.S_IFDIR:
            word, size = "d", 0
        elif kind == stat.S_IFLNK and 0 < size < _BLOCK_BYTES and not flags & _EXTENTS:
            word = "l"
            target = piece[place + _BLOCK_AT : place + _BLOCK_AT + size]
            size = 0
        else:
            return None
        # fmt: off
        return (
            path, word, self._fs, number, self._dev, links, mode & 0o7777, uid | uid_high << 16, gid | gid_high << 16,
            size, mtime_ns, ctime_ns, 0, 0, target, xattrs, source, None, None,
        ), extents
        # fmt: on

    def _extent(self, block: int, length: int, start: int, size: int) -> list[ExtentFields]:
        """One extent, in blocks, as rows."""
        block_bytes = self._block_bytes
        logical = block * block_bytes
        if logical >= size:
            return []
        usable = self._cut(logical, length * block_bytes, size)
        return self._rows(logical, start * block_bytes, usable, 0)

    def _extents(self, piece: bytes, place: int, count: int, size: int) -> list[ExtentFields]:
        """The extents in an inode as rows, neighbours that continue one another as one."""
        joined: list[tuple[int, int, int]] = []
        for number in range(1, count + 1):
            block, length, start_high, start = _EXTENT.unpack_from(piece, place + number * _EXTENT.size)
            if length > _WRITTEN_MOST:
                continue
            start |= start_high << 32
            if joined and (block, start) == (joined[-1][0] + joined[-1][1], joined[-1][2] + joined[-1][1]):
                block, length, start = joined[-1][0], joined[-1][1] + length, joined[-1][2]
                joined.pop()
            joined.append((block, length, start))
        return [row for extent in joined for row in self._extent(*extent, size)]

    def _attributes(self, area: bytes) -> Optional[tuple[Optional[bytes]]]:
        """What pack_xattrs makes of the attributes in an inode; None when they are not understood."""
        if area not in self._areas:
            if len(self._areas) >= _AREAS:
                self._areas.clear()
            self._areas[area] = parse_attributes(area)
        return self._areas[area]


def parse_attributes(area: bytes) -> Optional[tuple[Optional[bytes]]]:
    """The packed attributes of an inode, from where their magic number is; None when there is something unknown."""
    base = len(_XATTR_MAGIC)
    found = {}
    place = base
    while area[place : place + 4].strip(b"\0"):
        if place + _XATTR.size > len(area):
            return None
        name_length, prefix, value_at, value_inode, value_bytes = _XATTR.unpack_from(area, place)
        name_at = place + _XATTR.size
        value = area[base + value_at : base + value_at + value_bytes]
        if prefix not in _XATTR_PREFIXES or value_inode or len(value) != value_bytes:
            return None
        found[_XATTR_PREFIXES[prefix] + area[name_at : name_at + name_length]] = value
        place = name_at + name_length + -name_length % 4
    return (pack_xattrs(found),)
