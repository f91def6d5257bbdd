# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writing a session's archive: files in logical order from the mirror, then the extras, then the index.

Four stages work at the same time. This thread plans the members and lays them out in the ring buffer (ring.py). The
engine reads the mirror and computes the checksums (engine.py). Another thread gives the records to the sink. When the
checksum of a member is known, this thread reports the member and adds it to the index. Memory is bounded by the
ring buffer (``buffer_bytes``).
"""

from __future__ import annotations

import contextlib
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Optional, cast

from ..extents.maprows import (
    SOURCE_CONTENT,
    SOURCE_DEVICE,
    SOURCE_MOUNT,
    ExtentRow,
    FileEntry,
    archive_fields,
)
from .crossing import Crossing, crossing
from .estimate import EMPTY_LINE_BYTES, room_for
from .index import head_line, index_name, is_own, member_line
from .members import (
    DevicePiece,
    InlinePiece,
    MemberPlan,
    MemberPlanner,
    StreamPiece,
    shorter_on_mirror,
    unreadable_on_mirror,
)
from .model import (
    ArchiveError,
    ArchiveResult,
    Fallback,
    Links,
    MemberRecord,
    MemberSink,
    Owners,
    RecordSink,
    WriterOptions,
    header_digest,
)
from .own_headers import has_own_headers
from .pax import REGULAR, HeaderMaker
from .ring import ArchiveStream
from .spool import Spool
from .tar_headers import show
from .tar_reader import iterate_members

_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

#: Stands in a line until the checksum is known; nobody can name a file so.
_LATE_SHA256 = secrets.token_hex(32).encode()

# A member whose checksum is not known yet: MemberRecord without the checksum, and whether one will come.
_Pending = tuple[bytes, str, int, int, int, int, int, int, int, Optional[bytes], bytes, bool]


def write_archive(
    entries: Iterable[tuple[FileEntry, Sequence[ExtentRow]]],
    devices: Mapping[int, str],
    sink: RecordSink,
    options: WriterOptions = WriterOptions(),  # noqa: B008  it is frozen
    *,
    member: Optional[MemberSink] = None,
    owners: Owners = Owners(),  # noqa: B008  it is frozen
    fallback: Optional[Fallback] = None,
    extras: Optional[str] = None,
    index_meta: Mapping[str, Any],
    spool_dir: Optional[str] = None,
) -> ArchiveResult:
    """Write one archive.

    ``entries`` and ``member`` are used in the calling thread, ``sink`` in a thread of the pipeline. What they raise
    ends the archive and comes out unchanged; no thread and no process is left behind then.

    :param entries: files and their extents in logical order.
    :param devices: path of each LUN's mirror device on this host, by the LUN's id in the map.
    :param sink: takes the records.
    :param member: is called with each member, in order, the index last.
    :param fallback: opens files that have to be read through the mount.
    :param extras: path of a tar whose members come behind the files (label files, logs).
    :param index_meta: goes into the first line of the index; ``session`` must be in it.
    :param spool_dir: folder on a disk where the index grows, about 350 bytes a member; None for the usual one.
    :raises ArchiveError: something cannot be read, the map contradicts itself, or the disk of the index is full.
    """
    if "session" not in index_meta:
        raise ArchiveError("index_meta: the session's id is missing in it.")
    with open_archive(
        devices, sink, options, member=member, owners=owners, fallback=fallback, spool_dir=spool_dir
    ) as archive:
        archive.put_entries(entries)
        if extras is not None:
            archive.put_extras(extras)
        return archive.finish(index_meta)


@contextlib.contextmanager
def open_archive(
    devices: Mapping[int, str],
    sink: RecordSink,
    options: WriterOptions = WriterOptions(),  # noqa: B008  it is frozen
    *,
    member: Optional[MemberSink] = None,
    owners: Owners = Owners(),  # noqa: B008  it is frozen
    fallback: Optional[Fallback] = None,
    spool_dir: Optional[str] = None,
    links: Optional[Links] = None,
    ring: Optional[memoryview] = None,
) -> Iterator[ArchiveWriter]:
    """Begin an archive step by step, for a caller that learns only while it writes what belongs to the archive.

    The parameters are those of write_archive.

    :param links: the first names of files with several names, shared by all archives of one session; None for a
        session of one archive.
    :param ring: as for ArchiveStream.
    """
    with Spool("index", spool_dir, _index_error) as spool:
        planner = MemberPlanner(HeaderMaker(owners), fallback, links)
        writer = ArchiveWriter(devices, sink, options, member=member, planner=planner, spool=spool, ring=ring)
        with writer.stream:
            yield writer


@dataclass
class _Late:
    """Lines of an index that was laid out without them: those whose checksums are missing, and those that are known."""

    lines: deque[bytes]
    known: list[bytes] = field(default_factory=list)
    is_laid_out: bool = False


def _index_error(folder: str, reason: str) -> ArchiveError:
    return ArchiveError(
        f"the index of the archive cannot be kept in {folder} ({reason}); make room there, about 350 bytes for each "
        "file."
    )


class ArchiveWriter:
    """An archive that is being written; see open_archive. Entries come first, then extras, then ``finish``.

    :ivar stream: what the members are laid into. :ivar headers: makes their headers.
    """

    def __init__(
        self,
        devices: Mapping[int, str],
        sink: RecordSink,
        options: WriterOptions,
        *,
        member: Optional[MemberSink],
        planner: MemberPlanner,
        spool: Spool,
        ring: Optional[memoryview] = None,
    ) -> None:
        self._member = member
        self.headers = planner.headers
        self._planner = planner
        self._spool = spool
        self._record_bytes = options.record_bytes
        self._pending: deque[_Pending] = deque()
        self._members = self._files = self._bytes = self._fallbacks = self._inline = self._skipped = 0
        # Where the part begins that is being laid out.
        self._begin = 0
        # Of the index: how far it has grown, what its offsets are less than those in the archive, and whether it waits.
        # Where the last index was laid out: it is a member that has no line in the next one.
        self._index_bytes = 0
        self._index_at = -1
        # Lines that the last index gets later, for members whose checksums are not known; None when there are none.
        self._late: Optional[_Late] = None
        # What the names of pending members take in it, about: few have characters that are written otherwise.
        self._pending_bytes = 0
        self._base = 0
        self._waits = False
        self.stream = ArchiveStream(devices, sink, options, on_turn=self.report, name_at=self._name_at, ring=ring)

    # -- members of the map ------------------------------------------------------------------------------------------

    def put_entries(self, entries: Iterable[tuple[FileEntry, Sequence[ExtentRow]]]) -> None:
        """Lay out all files."""
        stream = self.stream
        file_header, small_file = self.headers.file_header, stream.small_file
        pending = self._pending
        for entry, extents in entries:
            path, kind, nlink, mode, uid, gid, size, mtime_ns, xattrs, source = archive_fields(entry)
            # Nearly all files of nearly all hosts: one extent, one name, nothing special. They take the short way.
            if len(extents) == 1 and nlink == 1 and xattrs is None and kind == "f" and source == SOURCE_DEVICE:
                logical, lun, physical, length, _flags = extents[0]
                if logical == 0 and 0 < size <= length:
                    name = path[1:]
                    permissions = mode & 0o7777
                    header = file_header(name, (permissions, uid, gid), size, mtime_ns)
                    offset = stream.position
                    if small_file(header, lun, physical, size):
                        pending.append(
                            (
                                name,
                                "f",
                                size,
                                offset,
                                len(header),
                                mtime_ns,
                                permissions,
                                uid,
                                gid,
                                None,
                                header_digest(header),
                                True,
                            )
                        )
                        self._pending_bytes += len(name)
                        self._files += 1
                        self._bytes += size
                        continue
            self._put_planned(entry, extents)

    def put_crossing(
        self, entry: FileEntry, extents: Sequence[ExtentRow], comment: bytes, begin: Callable[[Crossing], None]
    ) -> None:
        """Lay out the first member, which may cross into other tape files, and wait until its records are written.

        Its line comes into the index with the next members; see restart_index.

        :param comment: goes into its headers. :param begin: is called before anything of it is laid out.
        """
        plan = self._planner.plan(entry, extents, comment)
        if plan is None:
            raise AssertionError(entry)
        begin(crossing(entry, plan, self.stream.position))
        self._waits = True
        self._put_plan(entry, plan)
        self.stream.drain()

    def restart_index(self, base: int) -> None:
        """What is reported from now on has its offsets in the index counted from ``base`` in the archive."""
        self._base = base
        self._waits = False
        self.report()

    def room_for(self, entry: FileEntry, extents: Sequence[ExtentRow]) -> int:
        """What an entry takes in the archive at most, its line in the index included."""
        return room_for(entry, extents, self.headers, self._planner.links)

    def length_with_index(self) -> int:
        """Where the archive would end with the index of what was laid out so far, without the index's first line."""
        lines_bytes = self._index_bytes + len(self._pending) * EMPTY_LINE_BYTES + self._pending_bytes
        return self.stream.position + lines_bytes

    def _put_planned(self, entry: FileEntry, extents: Sequence[ExtentRow]) -> None:
        """Lay out a member that is not of the plainest kind."""
        plan = self._planner.plan(entry, extents)
        if plan is None:
            self._skipped += 1
            return
        self._put_plan(entry, plan)

    def _put_plan(self, entry: FileEntry, plan: MemberPlan) -> None:
        has_content = plan.kind == "f" and plan.size > 0
        self._expect(plan, entry.mtime_ns, (entry.mode & 0o7777, entry.uid, entry.gid), has_content)
        try:
            self.stream.put(plan.header)
            if has_content:
                self._put_content(entry, plan)
        finally:
            if plan.stream is not None:
                plan.stream.close()
        if plan.kind == "f" and not is_own(plan.name):
            self._files += 1
            self._bytes += plan.size
            self._fallbacks += entry.source == SOURCE_MOUNT
            self._inline += entry.source == SOURCE_CONTENT

    def _put_content(self, entry: FileEntry, plan: MemberPlan) -> None:
        stream = self.stream
        stream.begin_content()
        stream.content(_filler(plan.lead), len(plan.lead))
        place = 0
        for piece in plan.pieces:
            if piece.logical > place and not plan.sparse:
                stream.zeros(piece.logical - place)
            if isinstance(piece, DevicePiece):
                stream.device(piece.lun, piece.physical, piece.length)
            elif isinstance(piece, InlinePiece):
                stream.content(_filler(piece.data), piece.length)
            else:
                self._put_stream(entry, piece)
            place = piece.logical + piece.length
        if plan.size > place and not plan.sparse:
            stream.zeros(plan.size - place)
        stream.end_content()
        stream.fill_block()

    def _put_stream(self, entry: FileEntry, piece: StreamPiece) -> None:
        """Copy what is read through the mount."""
        try:
            piece.stream.seek(piece.logical)
            complete = self.stream.content(_reader(piece.stream), piece.length)
        except OSError as exc:
            raise unreadable_on_mirror(entry, exc) from exc
        if not complete:
            raise shorter_on_mirror(entry)

    # -- extras and index --------------------------------------------------------------------------------------------

    def put_extras(self, path: str) -> None:
        """Copy the members of a tar behind the files."""
        stream = self.stream
        try:
            with open(path, "rb") as tar:
                for found in iterate_members(tar):
                    if not has_own_headers(found):
                        raise ArchiveError(
                            f"extras: {show(found.name)} in {path} has headers that a restore refuses; make the tar in "
                            "the pax format, without global headers."
                        )
                    has_content = found.kind == "f" and found.size > 0
                    linkname = found.linkname if found.kind in "lh" else None
                    plan = MemberPlan(found.name, found.kind, found.real_size, linkname, found.header)
                    self._expect(plan, found.mtime_ns, (found.mode, found.uid, found.gid), has_content)
                    stream.put(found.header)
                    if has_content:
                        if found.sparse is not None:
                            raise ArchiveError(f"extras: {show(found.name)} in {path} is sparse; write it whole.")
                        stream.begin_content()
                        for piece in found.content():
                            stream.content(_filler(piece), len(piece))
                        stream.end_content()
                        stream.fill_block()
        except OSError as exc:
            raise ArchiveError(
                f"extras: {path} cannot be read ({exc.strerror}); it holds the label files of the session."
            ) from exc

    def finish(self, index_meta: Mapping[str, Any], *, marked: bool = True) -> ArchiveResult:
        """Lay out the index, and hand the last record to the sink.

        :param index_meta: as for write_archive. ``part`` in it is the number of the part; without it the number is 0.
        :param marked: end the archive with a mark; without it the index fills the last record.
        """
        self.stream.flush()
        self.report()
        self._put_index({"record_bytes": self._record_bytes, **index_meta}, fills=not marked)
        self.stream.finish(marked=marked)
        self.report()
        feed = self.stream.feed
        return self._result(self._members + 1, feed.stops, feed.writing_s)

    def end_part(self, index_meta: Mapping[str, Any], ended: Callable[[ArchiveResult], None]) -> None:
        """Lay out the index of a part that is not the last one; what comes next belongs to the next part.

        :param index_meta: as for finish. :param ended: gets what the part holds, before its end can be written; nothing
            is known then of how the sink is fed.
        """
        if len(self._pending) * EMPTY_LINE_BYTES + self._pending_bytes > self.stream.hold_most:
            self.stream.flush()
            self.report()
        pending = len(self._pending)
        self._put_index({"record_bytes": self._record_bytes, **index_meta}, fills=True)
        self._spool.truncate()
        result = self._result(self._members + pending + 1, None, 0.0)
        self._members = self._files = self._bytes = self._fallbacks = self._inline = self._skipped = 0
        self._index_bytes = 0
        self._base = self._begin = self.stream.position
        ended(result)
        self.stream.end_part()

    def _put_index(self, meta: Mapping[str, Any], *, fills: bool) -> None:
        """Lay out the index. Lines of members that are not reported yet are put into it later, see report.

        :param fills: it ends with a record.
        """
        name = index_name(str(meta["session"]), int(meta.get("part", 0)))
        spooled_bytes, written_ns = self._spool.rewind()
        late = self._late = self._late_lines()
        late_bytes = sum(map(len, late.lines))
        lines_bytes = spooled_bytes + late_bytes
        ownership = (0o600, 0, 0)
        head = head_line(meta)
        while True:
            size = lines_bytes + len(head)
            header = self.headers.header(name, REGULAR, ownership, size, written_ns)
            end = self.stream.position + len(header) + size
            if not fills or not end % self._record_bytes:
                break
            head = head_line(meta, len(head) - len(head_line(meta)) + -end % self._record_bytes)
        self._index_at = self.stream.position
        self._expect(MemberPlan(name, "f", size, None, header), written_ns, ownership, True)
        self.stream.put(header)
        self.stream.begin_content()
        self.stream.content(_filler(head), len(head))
        self.stream.content(self._spool.readinto, spooled_bytes)
        if late_bytes:
            self.stream.hold(lambda: self.stream.zeros(late_bytes))
            late.is_laid_out = True
        else:
            self._late = None
        self.stream.end_content()
        self.stream.fill_block()

    def _late_lines(self) -> _Late:
        """The lines of all members that are not reported yet."""
        lines: deque[bytes] = deque()
        for path, kind, size, offset, header, mtime_ns, mode, uid, gid, link, digest, has_content in self._pending:
            sha256 = _LATE_SHA256.decode() if has_content else _EMPTY_SHA256 if kind == "f" else None
            record = MemberRecord(path, kind, size, offset, header, sha256, mtime_ns, mode, uid, gid, link, digest)
            lines.append(member_line(record, self._base))
        return _Late(lines)

    # -- reports -----------------------------------------------------------------------------------------------------

    def _expect(self, plan: MemberPlan, mtime_ns: int, ownership: tuple[int, int, int], has_content: bool) -> None:
        """Note a member that begins here; it is reported when its checksum is known.

        :raises ArchiveError: it does not begin or its header does not end with a block.
        """
        self.stream.check_place(len(plan.header))
        self._pending_bytes += len(plan.name) + len(plan.linkname or b"")
        self._pending.append(
            (
                plan.name,
                plan.kind,
                plan.size,
                self.stream.position,
                len(plan.header),
                mtime_ns,
                *ownership,
                plan.linkname,
                header_digest(plan.header),
                has_content,
            )
        )

    def report(self) -> None:
        """Report all members whose checksums have come, and put them into the index."""
        if self._waits:
            return
        if self._late is not None:
            self._report_late(self._late)
        if self._late is None:
            text = b"".join(self._report_until(None))
            self._index_bytes += len(text)
            self._spool.write(text)

    def _report_late(self, late: _Late) -> None:
        """Report members of the part whose index is laid out, and put the lines into it when all of them are known."""
        late.known += self._report_until(late)
        if late.is_laid_out and not late.lines:
            self.stream.fill(memoryview(b"".join(late.known)))
            self._late = None

    def _report_until(self, late: Optional[_Late]) -> list[bytes]:
        """Report members whose checksums have come, and return their lines. :param late: only so many, by its lines."""
        pending, digests = self._pending, self.stream.digests
        lines = []
        while pending and (late is None or late.lines):
            path, kind, size, offset, header, mtime_ns, mode, uid, gid, link, digest, has_content = pending[0]
            if has_content:
                if not digests:
                    break
                sha256: Optional[str] = digests.popleft().hex()
            else:
                sha256 = _EMPTY_SHA256 if kind == "f" else None
            pending.popleft()
            self._pending_bytes -= len(path) + len(link or b"")
            record = MemberRecord(path, kind, size, offset, header, sha256, mtime_ns, mode, uid, gid, link, digest)
            if late is not None:
                line = late.lines.popleft()
                lines.append(line.replace(_LATE_SHA256, sha256.encode(), 1) if has_content and sha256 else line)
            elif offset != self._index_at:
                lines.append(member_line(record, self._base))
                self._members += 1
            if self._member is not None:
                self._member(record)
        return lines

    def _name_at(self, offset: int) -> str:
        """The file whose data lie at a stream offset."""
        name = b"a file"
        for path, _kind, _size, begin, *_more in list(self._pending):
            if begin > offset:
                break
            name = b"/" + path
        return show(name)

    def _result(self, members: int, stops: Optional[int], writing_s: float) -> ArchiveResult:
        """What was written since the part began."""
        bytes_archive = self.stream.position - self._begin
        return ArchiveResult(
            members=members,
            files=self._files,
            bytes_data=self._bytes,
            bytes_archive=bytes_archive,
            records=bytes_archive // self._record_bytes,
            fallback=self._fallbacks,
            inline=self._inline,
            skipped=self._skipped,
            stops=stops,
            writing_s=writing_s,
        )


class _filler:
    """Fills memory from bytes, like readinto."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def __call__(self, view: memoryview) -> int:
        part = self._left[: len(view)]
        view[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)


def _reader(stream: BinaryIO) -> Any:
    """The readinto of a binary file."""
    return cast(Any, stream).readinto
