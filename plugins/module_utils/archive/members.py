# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From an entry of the map to a member: its headers, and the pieces that its data are made of."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, Optional, Union

from ..extents.maprows import SOURCE_CONTENT, SOURCE_MOUNT, SOURCE_SKIP, ExtentRow, FileEntry, unpack_xattrs
from . import pax
from .acl import ACL_COPIES, ACL_KEYS, acl_text
from .model import BLOCK_BYTES, ArchiveError, Fallback, Links
from .sparse import is_worth_it, sparse_header_name, sparse_map, sparse_records
from .tar_headers import show

#: MemberRecord.kind of a hard link; the other kinds are those of the map.
HARD_LINK = "h"

_TYPEFLAGS = {
    "f": pax.REGULAR,
    "d": pax.FOLDER,
    "l": pax.SYMLINK,
    "c": pax.CHARACTER,
    "b": pax.BLOCK,
    "p": pax.FIFO,
}


class DevicePiece(NamedTuple):
    """Content that lies on a LUN (its id in the map) at ``physical``."""

    logical: int
    length: int
    lun: int
    physical: int


class InlinePiece(NamedTuple):
    """Content that came with the map."""

    logical: int
    length: int
    data: bytes


class StreamPiece(NamedTuple):
    """Content that is read through the mount; ``stream`` can seek."""

    logical: int
    length: int
    stream: BinaryIO


Piece = Union[DevicePiece, InlinePiece, StreamPiece]


class MemberPlan(NamedTuple):
    """One member, ready to be laid into the archive.

    :param header: all its header blocks.
    :param lead: blocks between header and data that are not content: the map of a sparse file.
    :param pieces: the content where it is not a hole, by ascending offset.
    :param sparse: holes are left out; otherwise they are written as zeros.
    """

    name: bytes
    kind: str
    size: int
    linkname: Optional[bytes]
    header: bytes
    lead: bytes = b""
    pieces: Sequence[Piece] = ()
    sparse: bool = False
    stream: Optional[BinaryIO] = None


def member_name(path: bytes) -> bytes:
    """The name of a member: the path on the database host without the leading slash."""
    return path.lstrip(b"/") or b"."


def can_be_member(entry: FileEntry) -> bool:
    """Whether a tar can hold it."""
    return entry.source != SOURCE_SKIP and entry.kind in _TYPEFLAGS


def first_link(links: Links, entry: FileEntry, name: bytes) -> Optional[bytes]:
    """The name under which a file with several names is in the session already, or None when this is its first one.

    :param links: what was written before; the name is noted in it.
    """
    key = (entry.dev, entry.inode)
    known = links.pop(key, None)
    if known is None:
        links[key] = (name, entry.nlink - 1)
        return None
    first, to_come = known
    if to_come > 1:
        links[key] = (first, to_come - 1)
    return first


def pass_over(links: Links, entry: FileEntry) -> None:
    """Note the name of an entry that was written already."""
    if entry.nlink > 1 and entry.kind != "d" and can_be_member(entry):
        first_link(links, entry, member_name(entry.path))


def stored_bytes(plan: MemberPlan) -> int:
    """The length of what stands behind the headers of a member, without the zeros that fill its last block."""
    if plan.kind != "f":
        return 0
    return len(plan.lead) + (sum(piece.length for piece in plan.pieces) if plan.sparse else plan.size)


class MemberPlanner:
    """Plans members one after another; it remembers the first names of files with several hard links.

    :ivar headers: makes the headers.
    :ivar links: the first names that it remembers.
    :param fallback: opens files that are read through the mount; None when there is no mount.
    :param links: where the first names are remembered; None for a new place.
    """

    def __init__(self, headers: pax.HeaderMaker, fallback: Optional[Fallback], links: Optional[Links] = None) -> None:
        self.headers = headers
        self._fallback = fallback
        self.links: Links = {} if links is None else links

    def plan(
        self, entry: FileEntry, extents: Sequence[ExtentRow], comment: Optional[bytes] = None
    ) -> Optional[MemberPlan]:
        """Plan one member; None for what a tar cannot hold.

        :param comment: goes into the headers of a file; tar does not look at it.
        :raises ArchiveError: the map contradicts itself, or a file needs the mount and there is none.
        """
        if not can_be_member(entry):
            return None
        name = member_name(entry.path)
        if entry.nlink > 1 and entry.kind != "d":
            first = first_link(self.links, entry, name)
            if first is not None:
                header = self._header(entry, name, pax.HARD_LINK, 0, linkname=first)
                return MemberPlan(name, HARD_LINK, 0, first, header)
        if entry.kind == "f":
            return self._plan_file(entry, name, extents, [] if comment is None else [(b"comment", comment)])
        target = entry.target or b""
        header = self._header(
            entry,
            name + b"/" if entry.kind == "d" else name,
            _TYPEFLAGS[entry.kind],
            0,
            linkname=target,
            extra=self._attributes(entry),
        )
        return MemberPlan(name, entry.kind, 0, target if entry.kind == "l" else None, header)

    def _plan_file(
        self, entry: FileEntry, name: bytes, extents: Sequence[ExtentRow], extra: list[pax.Record]
    ) -> MemberPlan:
        if entry.source == SOURCE_CONTENT:
            return self._plan_content(entry, name, _inline_pieces(entry), None, extra)
        if entry.source != SOURCE_MOUNT:
            return self._plan_content(entry, name, device_pieces(entry, extents), None, extra)
        stream = self._open(entry)
        try:
            return self._plan_content(entry, name, _stream_pieces(entry, stream), stream, extra)
        except BaseException:
            # a file left open would keep the mirror mounted
            stream.close()
            raise

    def _plan_content(
        self,
        entry: FileEntry,
        name: bytes,
        pieces: Sequence[Piece],
        stream: Optional[BinaryIO],
        extra: list[pax.Record],
    ) -> MemberPlan:
        attributes = [*self._attributes(entry), *extra]
        stored = sum([piece.length for piece in pieces])
        if stored < entry.size:
            lead = sparse_map(_ranges(pieces), entry.size)
            if is_worth_it(stored, len(lead), entry.size):
                header = self._header(
                    entry,
                    name,
                    pax.REGULAR,
                    len(lead) + stored,
                    extra=[*attributes, *sparse_records(name, entry.size)],
                    header_name=sparse_header_name(name),
                )
                return MemberPlan(name, "f", entry.size, None, header, lead, pieces, True, stream)
        header = self._header(entry, name, pax.REGULAR, entry.size, extra=attributes)
        return MemberPlan(name, "f", entry.size, None, header, b"", pieces, False, stream)

    def _header(
        self,
        entry: FileEntry,
        name: bytes,
        typeflag: bytes,
        size: int,
        *,
        linkname: bytes = b"",
        extra: Sequence[pax.Record] = (),
        header_name: bytes = b"",
    ) -> bytes:
        return self.headers.header(
            name,
            typeflag,
            (entry.mode & 0o7777, entry.uid, entry.gid),
            size,
            entry.mtime_ns,
            linkname=linkname,
            rdev=(entry.rdev_major, entry.rdev_minor) if entry.kind in "cb" else (0, 0),
            extra=extra,
            header_name=header_name,
        )

    def _open(self, entry: FileEntry) -> BinaryIO:
        if self._fallback is None:
            raise ArchiveError(
                f"{show(entry.path)} cannot be read by its extents ({entry.reason or 'no reason was recorded'}); "
                "mount the mirror read-only on the media server, so that it is read through the mount.",
                code="file_unmappable",
            )
        try:
            return self._fallback(entry)
        except OSError as exc:
            raise ArchiveError(
                f"{show(entry.path)} cannot be opened through the mounted mirror ({exc.strerror}); "
                "it needs the mount because it cannot be read by its extents.",
                code="file_unmappable",
            ) from exc

    @staticmethod
    def _attributes(entry: FileEntry) -> list[pax.Record]:
        """The records of a file's ACLs and other extended attributes."""
        if not entry.xattrs:
            return []
        records = []
        for name, value in unpack_xattrs(entry.xattrs).items():
            if name in ACL_KEYS:
                try:
                    records.append((ACL_KEYS[name], acl_text(value)))
                except ArchiveError as exc:
                    raise ArchiveError(f"{show(entry.path)}: {exc.message}") from exc
            elif name not in ACL_COPIES:
                records.append((pax.xattr_key(name), value))
        return records


def device_pieces(entry: FileEntry, extents: Sequence[ExtentRow]) -> list[DevicePiece]:
    """The extents of a file cut at its size.

    :raises ArchiveError: they overlap, or one begins or ends inside a block before the end of the file. Then the data
        of the member could not be put together from whole blocks, and no file system that is mapped makes such.
    """
    pieces = []
    end = 0
    for logical, lun, physical, length, _dummy in extents:
        if logical >= entry.size:
            break
        if logical < end or logical % BLOCK_BYTES or length <= 0:
            raise ArchiveError(
                f"{show(entry.path)}: the extent at {logical} in the map overlaps another or begins inside a block; "
                "map the session again.",
                code="map_damaged",
            )
        kept = min(length, entry.size - logical)
        if kept % BLOCK_BYTES and logical + kept < entry.size:
            raise ArchiveError(
                f"{show(entry.path)}: the extent at {logical} in the map ends inside a block; map the session again.",
                code="map_damaged",
            )
        pieces.append(DevicePiece(logical, kept, lun, physical))
        end = logical + kept
    return pieces


def _inline_pieces(entry: FileEntry) -> list[InlinePiece]:
    content = entry.content or b""
    if len(content) != entry.size:
        raise ArchiveError(
            f"{show(entry.path)}: the map carries {len(content)} bytes of its content, not {entry.size}; "
            "map the session again.",
            code="map_damaged",
        )
    return [InlinePiece(0, entry.size, content)] if content else []


def _stream_pieces(entry: FileEntry, stream: BinaryIO) -> list[StreamPiece]:
    """Where a file that is read through the mount has data (lseek(2), SEEK_DATA), in whole blocks.

    :raises ArchiveError: the mount does not tell, or the file is shorter there than in the map.
    """
    size = entry.size
    try:
        fd = stream.fileno()
    except (OSError, io.UnsupportedOperation):
        return [StreamPiece(0, size, stream)] if size else []
    pieces = []
    place = 0
    try:
        if os.fstat(fd).st_size < size:
            raise shorter_on_mirror(entry)
        while place < size:
            start = _next_data(fd, place)
            if start is None:
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            start -= start % BLOCK_BYTES
            end = min(end + pax.pad(end), size)
            if start < end:
                pieces.append(StreamPiece(start, end - start, stream))
            place = end
    except OSError as exc:
        raise unreadable_on_mirror(entry, exc) from exc
    return pieces


def _next_data(fd: int, place: int) -> Optional[int]:
    """Where the next data begin; None when only a hole follows."""
    try:
        return os.lseek(fd, place, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return None


def unreadable_on_mirror(entry: FileEntry, exc: OSError) -> ArchiveError:
    """The sentence for a file that is read through the mount and cannot be."""
    return ArchiveError(
        f"{show(entry.path)} cannot be read through the mounted mirror ({exc.strerror}); check the mirror and back up "
        "again.",
        code="file_unmappable",
    )


def shorter_on_mirror(entry: FileEntry) -> ArchiveError:
    """The sentence for a file that is read through the mount and ends too early."""
    return ArchiveError(
        f"{show(entry.path)} is shorter on the mounted mirror than in the map ({entry.size} bytes); the mount "
        "shows another state than the map; back up again with proof full."
    )


def _ranges(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Offset and length of the data, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for piece in pieces:
        if ranges and sum(ranges[-1]) == piece.logical:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + piece.length)
        else:
            ranges.append((piece.logical, piece.length))
    return ranges
