# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading archives: ours, and what a foreign tape may hold (ustar, pax, old GNU forms), member by member.

Memory stays bounded whatever the size of a member; nothing is written and no name is trusted: see check_member_name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Optional, Protocol

from .model import BLOCK_BYTES, ArchiveError, MemberRecord, header_digest
from .pax import pad
from .tar_headers import (
    Header,
    check_sum,
    parse_decimal,
    parse_header,
    parse_number,
    parse_old_pieces,
    parse_records,
    show,
)

#: What is handed on in one piece at most.
PIECE_BYTES = 1 << 20
# Limit of an extended header. Extended attributes have at most 64 KiB each, so this collection never writes more.
_EXTENDED_MOST = 64 << 20
_ZEROS = bytes(PIECE_BYTES)


class ArchiveCut(ArchiveError):
    """The stream ends inside the data of a member. :ivar data: what came of the piece that was read."""

    code = "tape_damaged"

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message)
        self.data = data


class ByteStream(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, fewer only before the end."""


class Hasher(Protocol):
    """Anything like a hash object."""

    def update(self, data: bytes, /) -> None:
        """Take more data."""


def check_member_name(name: bytes) -> bytes:
    """Return a member's name if it stays inside the target folder.

    :raises ArchiveError: it is empty or absolute, or has a ``..`` component or a NUL byte.
    """
    if not name or name.startswith(b"/") or b"\0" in name or b".." in name.split(b"/"):
        shown = name.decode("utf-8", "backslashreplace")
        raise ArchiveError(
            f"the archive holds {shown!r}, a member name that would leave the target folder; nothing is restored.",
            code="tape_damaged",
        )
    return name


class Member:
    """One member that iterate_members() came to; its data can be read once, before going on to the next.

    :ivar offset_bytes: where its first header begins in the archive.
    :ivar header: all its header blocks as they stand in the archive.
    :ivar sparse: (offset, length) of the data of a sparse file, None for others.
    """

    def __init__(self, stream: _Stream, offset_bytes: int, header: bytes, head: Header) -> None:
        self._stream = stream
        self.offset_bytes = offset_bytes
        self.header = header
        self.name = head.name
        self.kind = head.kind
        self.size = head.size
        self.real_size = head.real_size
        self.mode = head.mode
        self.uid = head.uid
        self.gid = head.gid
        self.uname = head.uname
        self.gname = head.gname
        self.mtime_ns = head.mtime_ns
        self.linkname = head.linkname
        self.rdev = head.rdev
        self.pax = head.pax
        self.sparse: Optional[list[tuple[int, int]]] = None
        self._lead = b""
        self._left = head.size
        self._fill = pad(head.size)

    def record(self, sha256: Optional[str]) -> MemberRecord:
        """What an index or a catalog says of it. :param sha256: of its content; None if it is not a regular file."""
        return MemberRecord(
            self.name,
            self.kind,
            self.real_size,
            self.offset_bytes,
            len(self.header),
            sha256,
            self.mtime_ns,
            self.mode,
            self.uid,
            self.gid,
            self.linkname if self.kind in "hl" else None,
            header_digest(self.header),
        )

    def raw(self, hasher: Optional[Hasher] = None, *, logical: bool = False) -> Iterator[bytes]:
        """All blocks behind the headers as they stand in the archive: sparse map, data, padding.

        :param hasher: gets the map and the data meanwhile.
        :param logical: it gets the content instead, holes as zeros.
        :raises ArchiveError: the archive ends inside the member.
        """
        if self._lead:
            if hasher is not None and not logical:
                hasher.update(self._lead)
            yield self._lead
        content = _Expander(self.sparse, self.real_size)
        while self._left:
            data = self._take(min(self._left, PIECE_BYTES))
            if hasher is not None:
                if logical:
                    for piece in content.expand(data):
                        hasher.update(piece)
                else:
                    hasher.update(data)
            yield data
        if hasher is not None and logical:
            for piece in content.rest():
                hasher.update(piece)
        if self._fill:
            fill = self._stream.read(self._fill, self.name)
            self._fill = 0
            yield fill

    def content(self) -> Iterator[bytes]:
        """The logical content of a file, holes as zeros. :raises ArchiveError: the archive ends inside the member."""
        content = _Expander(self.sparse, self.real_size)
        while self._left:
            yield from content.expand(self._take(min(self._left, PIECE_BYTES)))
        yield from content.rest()

    def sha256(self, *, logical: bool = False) -> str:
        """Read the data and return their hex digest. :param logical: as raw() has it."""
        total = hashlib.sha256()
        for _dummy in self.raw(total, logical=logical):
            pass
        return total.hexdigest()

    def skip(self) -> None:
        """Read over what was not read; iterate_members does it by itself."""
        while self._left:
            self._take(min(self._left, PIECE_BYTES))
        if self._fill:
            self._stream.read(self._fill, self.name)
            self._fill = 0

    def read_map(self) -> None:
        """Read the map in front of the data of a GNU.sparse 1.0 member. :raises ArchiveError: it is damaged."""
        numbers: list[int] = []
        text = b""
        wanted = 1
        while len(numbers) < wanted:
            if self._left < BLOCK_BYTES:
                raise ArchiveError(f"{show(self.name)}: the map of a sparse file is damaged.", code="tape_damaged")
            block = self._take(BLOCK_BYTES)
            self._lead += block
            text += block
            lines = text.split(b"\n")
            text = lines.pop()
            for line in lines:
                if len(numbers) < wanted:
                    numbers.append(parse_decimal(line, self.name))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
        self.sparse = list(zip(numbers[1::2], numbers[2::2]))

    def _take(self, length: int) -> bytes:
        data = self._stream.read(length, self.name)
        self._left -= length
        return data


def iterate_members(stream: ByteStream, offset_bytes: int = 0) -> Iterator[Member]:
    """Go through an archive up to its end (two blocks of zeros, or the end of the stream between two members).

    :param offset_bytes: where the stream stands in the archive.
    :raises ArchiveError: it is not a tar archive, is damaged, or ends inside a member.
    """
    source = _Stream(stream, offset_bytes)
    defaults: dict[bytes, bytes] = {}
    while True:
        offset = source.position
        head, blocks, sparse = _read_headers(source, defaults)
        if head is None:
            return
        member = Member(source, offset, blocks, head)
        if sparse is not None:
            member.sparse = sparse
        elif head.pax.get(b"GNU.sparse.major") == b"1":
            member.read_map()
        _check_sparse(member)
        yield member
        member.skip()


class _Stream:
    """Reads exactly, and knows where it is."""

    def __init__(self, stream: ByteStream, position: int) -> None:
        self._stream = stream
        self.position = position

    def block(self) -> bytes:
        """The next block, or nothing at the end of the stream."""
        data = self._stream.read(BLOCK_BYTES)
        while data and len(data) < BLOCK_BYTES:
            more = self._stream.read(BLOCK_BYTES - len(data))
            if not more:
                raise ArchiveError("the archive ends inside a header; it is cut short.", code="tape_damaged")
            data += more
        self.position += len(data)
        return data

    def read(self, length: int, name: bytes) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            parts = [data]
            missing = length - len(data)
            while missing:
                data = self._stream.read(missing)
                if not data:
                    raise ArchiveCut(f"the archive ends inside {show(name)}; it is cut short.", b"".join(parts))
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        self.position += length
        return data


class _Expander:
    """Turns the stored data of a member into its logical content."""

    def __init__(self, sparse: Optional[list[tuple[int, int]]], size: int) -> None:
        self._pieces = None if sparse is None else iter(sparse)
        self._size = size
        self._place = 0
        self._piece_left = 0

    def expand(self, data: bytes) -> Iterator[bytes]:
        if self._pieces is None:
            yield data
            return
        view = memoryview(data)
        while view:
            if not self._piece_left:
                piece = next(self._pieces, None)
                if piece is None:
                    raise ArchiveError(
                        "a sparse member has more data than its map says; the archive is damaged.",
                        code="tape_damaged",
                    )
                offset, self._piece_left = piece
                yield from self._zeros(offset)
                continue
            part = view[: self._piece_left]
            view = view[self._piece_left :]
            self._piece_left -= len(part)
            self._place += len(part)
            yield bytes(part)

    def rest(self) -> Iterator[bytes]:
        if self._pieces is not None:
            yield from self._zeros(self._size)

    def _zeros(self, upto: int) -> Iterator[bytes]:
        while self._place < upto:
            part = min(upto - self._place, len(_ZEROS))
            self._place += part
            yield _ZEROS[:part]


def _read_headers(
    source: _Stream, defaults: dict[bytes, bytes]
) -> tuple[Optional[Header], bytes, Optional[list[tuple[int, int]]]]:
    """Read up to the header of the next member: its attributes, the blocks, the map of an old GNU sparse file."""
    blocks: list[bytes] = []
    records = dict(defaults)
    pieces: list[tuple[bytes, bytes]] = []
    long_name = long_link = None
    while True:
        block = source.block()
        if not block or not block.strip(b"\0"):
            if blocks:
                raise ArchiveError("the archive ends after an extended header; it is cut short.", code="tape_damaged")
            return None, b"", None
        blocks.append(block)
        check_sum(block, source.position - BLOCK_BYTES)
        typeflag = block[156:157]
        if typeflag not in (b"x", b"X", b"g", b"L", b"K"):
            break
        length = parse_number(block[124:136])
        if not 0 <= length <= _EXTENDED_MOST:
            raise ArchiveError(f"an extended header has {length} bytes; the archive is damaged.", code="tape_damaged")
        body = source.read(length + pad(length), b"an extended header")
        blocks.append(body)
        body = body[:length]
        if typeflag == b"L":
            long_name = body.rstrip(b"\0")
        elif typeflag == b"K":
            long_link = body.rstrip(b"\0")
        elif typeflag == b"g":
            defaults.update(parse_records(body))
            records.update(defaults)
        else:
            pieces = parse_records(body)
            records.update(pieces)
    sparse = None
    if block[156:157] == b"S":
        sparse, more = _old_sparse(source, block)
        blocks.append(more)
    elif b"GNU.sparse.map" in records:
        numbers = [parse_decimal(word, b"GNU.sparse.map") for word in records[b"GNU.sparse.map"].split(b",") if word]
        sparse = list(zip(numbers[::2], numbers[1::2]))
    elif b"GNU.sparse.numblocks" in records:
        offsets = [parse_decimal(value, key) for key, value in pieces if key == b"GNU.sparse.offset"]
        lengths = [parse_decimal(value, key) for key, value in pieces if key == b"GNU.sparse.numbytes"]
        sparse = list(zip(offsets, lengths))
    return parse_header(block, records, long_name, long_link), b"".join(blocks), sparse


def _old_sparse(source: _Stream, block: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """The map of a sparse file in the old GNU form: four pieces in the header, 21 in each block behind it."""
    pieces = parse_old_pieces(block[386:482])
    extended = block[482]
    blocks = b""
    while extended:
        more = source.block()
        if not more:
            raise ArchiveError(
                "the archive ends inside the map of a sparse file; it is cut short.", code="tape_damaged"
            )
        blocks += more
        pieces += parse_old_pieces(more[:504])
        extended = more[504]
    return pieces, blocks


def _check_sparse(member: Member) -> None:
    """Refuse a map that does not fit the member: it would make us count or expand wrongly."""
    if member.sparse is None:
        return
    end = stored = 0
    for offset, length in member.sparse:
        if offset < end or length < 0:
            raise ArchiveError(f"{show(member.name)}: the map of a sparse file is damaged.", code="tape_damaged")
        end = offset + length
        stored += length
    lead = len(member._lead)
    if end > member.real_size or stored + lead != member.size:
        raise ArchiveError(f"{show(member.name)}: the map of a sparse file is damaged.", code="tape_damaged")
