# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A part of a session: a whole archive with its own index, in one tape file of one volume.

PartWriter reserves, writes, cuts back and finishes a part. tape_stream is the way to read one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Optional

from ..archive.crossing import Crossing, comment_of, lead_of
from ..archive.estimate import extras_bytes
from ..archive.index import is_own
from ..archive.members import member_name
from ..archive.model import ArchiveResult, Fallback, Links, MemberRecord, Owners, WriterOptions
from ..archive.ring import ArchiveStream
from ..archive.writer import ArchiveWriter, open_archive
from ..catalog.parts import BEFORE, PIECE, join_facts, part_facts
from ..catalog.records import Part, PartUnknown
from ..catalog.store import Catalog
from ..crypt.sealing import SealingSink
from ..errors import SplitMirrorError
from ..extents.maprows import Mapped
from ..host.status import StatusWriter
from ..tape.base import TapeDrive, TapeError
from .sealed import PartSeal, Sealing
from .selection import Selection
from .tape_file import DoesNotFit, PartFull, Taken, TapeRecordSink, TapeStream
from .volume_source import VolumeSource
from .volumes import WritePosition, begin_anew, cut_back

_BATCH_MEMBERS = 5000
# Of a part whose volume is not known yet, no more are laid out when so many are reported, for they are kept in memory.
_AHEAD_MEMBERS = 20_000
# After so much, the room is looked at anew.
_STRETCH_BYTES = 16 << 20
# Data of this length are worth another thread.
_LONG_BYTES = 64 << 10
# Headers of the index, and the end of the archive.
_END_BYTES = 4096
# What a file with a name of this length and no attributes takes, besides its content, at most.
_SHORT_NAME = 200
_PLAIN_BYTES = 4096


@dataclass(frozen=True)
class ArchiveSource:
    """Where the members of a session come from, the same for all its parts.

    :param devices: path of each LUN's mirror device on this host, by the LUN's id in the map.
    :param options: how the pipeline works; the size of the records is that of the volume.
    :param owners: names of the database host's users and groups.
    :param fallback: opens files that are read through the mounted mirror; None when it is not mounted.
    :param spool_dir: folder on a disk where the index grows.
    :param links: the first names of files with several names that were written so far.
    :param ring: memory that the archives share one after another; None when each has its own.
    """

    devices: Mapping[int, str]
    options: WriterOptions
    owners: Owners
    fallback: Optional[Fallback]
    spool_dir: str
    links: Links = field(default_factory=dict)
    ring: Optional[memoryview] = None


class PlaceDiffers(SplitMirrorError):
    """The next part cannot go on in the pipeline as it was begun there: it is to be begun once more, at its place."""


#: Gives the next volume, see VolumeSource, from the facts of the parts that are finished and what is needed at least.
NextPlace = Callable[[Sequence[Mapping[str, Any]], int], tuple[TapeDrive, WritePosition]]


class PartWriter:
    """Writes a part behind what is on a volume, and the parts that follow it, each on the next volume.

    They are one archive in the pipeline, which does not wait for the end of a part: while a filemark is written and the
    next volume is loaded, the members of the next part are laid out and read. How much room that volume has is not
    known then. If it is less than the volume before had, and something was laid out, the part is begun once more.

    A member that is larger than a volume goes on in the next part, with a lead (crossing.py) in front.

    Use it as a context manager: entering reserves the tape file in the catalog. When it is left before ``finish``, the
    part that was not finished is cut off its volume again; what cannot be cut off stays in the catalog as unfinished.

    :param session: number of the session in the catalog.
    :param place: where the head stands and the part begins.
    :param earlier: facts of the parts of this session that are finished, in order.
    :param sealing: encrypts it; None to write it in the clear.
    :param status: reports how far the writing has come, in bytes.
    :param next_place: gives further volumes; None for a part that takes whatever it is given.
    :param began: the part in which the member began with which this part goes on, after a failure; None when the part
        begins with a member.
    :param may_cross: the first member crosses if it does not fit: the volume is a fresh one.
    :ivar drive: has the volume of the part that is being written. :ivar place: where that part is.
    :ivar first: the entry with which the part begins that is being written, or the member with which it goes on.
    :ivar facts: of the parts of the session that are finished. :ivar results: of those that were finished here, but for
        parts that a member crosses.
    :ivar is_cut: what was not finished has been cut off.
    """

    def __init__(
        self,
        drive: TapeDrive,
        catalog: Catalog,
        session: int,
        place: WritePosition,
        *,
        earlier: Sequence[Mapping[str, Any]] = (),
        sealing: Optional[Sealing] = None,
        status: Optional[StatusWriter] = None,
        next_place: Optional[NextPlace] = None,
        began: Optional[Part] = None,
        may_cross: bool = False,
    ) -> None:
        self.drive = drive
        self._catalog = catalog
        self._catalog_lock = threading.Lock()
        self.place = place
        self._status = status
        self._next_place = next_place
        self._may_cross = may_cross
        self.facts = [dict(part) for part in earlier]
        self.results: list[ArchiveResult] = []
        finished = [part for part in catalog.parts(session) if part.complete]
        self._sealing = sealing
        self._record_bytes = place.label.record_bytes
        self._seal: Optional[PartSeal] = None
        self._part = self._new_part(session, finished[-1].end_bytes if finished else 0)
        self._first = began or self._part
        self._continues = began is not None
        self._sink = TapeRecordSink(drive, place, status)
        self._sealed: Optional[SealingSink] = None
        # Where in the session the archive of the pipeline begins.
        self._origin_bytes = self._first.offset_bytes
        # Records of the archive that came from the pipeline; those that are on volumes already.
        self._records = 0
        self._skipped = self._begin_bytes // self._record_bytes
        self._crossing: Optional[Crossing] = None
        # Of the data of the member that crosses, as far as it is in the part that is being written.
        self._piece = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "archive-piece")
        self._pieces: dict[str, str] = {}
        self._archive: Optional[ArchiveWriter] = None
        self._head: Mapping[str, Any] = {}
        self._batch: list[MemberRecord] = []
        self._members = 0
        # Of the part that is being written, when all of it is laid out: what it holds, and the record before which it
        # ends. What is laid out belongs to the next part then: its first entry and its members, as far as they are
        # known, and how much of it there may be.
        self._done: Optional[ArchiveResult] = None
        self._end_records: Optional[int] = None
        self.first: Optional[Mapped] = None
        self._next_first: Optional[Mapped] = None
        self._next_batch: list[MemberRecord] = []
        self._ahead_bytes = 0
        self._stays = False
        self._touched = False
        self.is_last = False
        self.is_cut = False

    @property
    def began(self) -> Optional[Part]:
        """The part in which the member began with which the part that is being written goes on; None if none did."""
        return self._first if len(self.facts) > self._first.part else None

    @property
    def written_bytes(self) -> int:
        """How much of the part that is being written is on its volume."""
        return self._sink.records * self._record_bytes

    def __enter__(self) -> PartWriter:
        self._catalog.begin_part(self._part)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._hasher.shutdown()
        if self._stays:
            return
        try:
            if self._touched:
                cut_back(self.drive, self.place)
            self._catalog.drop_part(self._part)
            self.is_cut = True
        except SplitMirrorError:
            # The error that led here is the one to report.
            return

    # -- what is written ---------------------------------------------------------------------------------------------

    def write(
        self,
        source: ArchiveSource,
        selection: Selection,
        head: Mapping[str, Any],
        fits: Optional[Callable[[Mapped], bool]] = None,
    ) -> ArchiveResult:
        """Write the archive: entries of the selection, the extras if no entry is left, and the index.

        All parts but the last one are finished then.

        :param head: what the first line of the index says of the session; ``session`` must be in it.
        :param fits: as for Selection.entries; None takes what fits on the volume.
        :returns: what the last part holds.
        :raises DoesNotFit: the first member does not fit, and a fresh volume may hold it; nothing was written.
        :raises PartFull: the volume is full. :raises VolumeFailed: it cannot be written.
        :raises PlaceDiffers: the part at ``place`` is to be begun once more.
        :raises SplitMirrorError: something cannot be read.
        """
        self._head = head
        self._open_sink()
        with open_archive(
            source.devices,
            self,
            replace(source.options, record_bytes=self._record_bytes, streams=self.drive.streams),
            member=self._add,
            owners=source.owners,
            fallback=source.fallback,
            spool_dir=source.spool_dir,
            links=source.links,
            ring=source.ring,
        ) as archive:
            self._archive = archive
            if self._next_place is not None:
                self.first = selection.peek()
                while not self._lay_out(archive, selection, fits):
                    self._next_first = selection.peek()
                    archive.end_part(self._meta(self._part, last=False), self._laid_out)
            else:
                self._lay_out(archive, selection, fits)
            meta = self._meta(self._part, last=self.is_last)
            done = self._done = archive.finish(meta, marked=self.is_last or self._next_place is None)
        if self._sealed is not None:
            self._sealed.finish()
        self.results.append(done)
        return done

    def _lay_out(self, archive: ArchiveWriter, selection: Selection, fits: Optional[Callable[[Mapped], bool]]) -> bool:
        """Lay out what belongs to a part, but for its index. :returns: it is the last part."""
        if self._next_place is not None and self._crosses(selection, archive):
            first = selection.take()
            if first is None:
                raise AssertionError("an entry crosses")
            comment = comment_of(self._meta(self._first, last=False))
            archive.put_crossing(first[0], first[1], comment, self._begin_crossing)
            self._end_crossing(archive)
        archive.put_entries(selection.entries(fits or self._fitting(archive)))
        extras = selection.extras
        is_last = selection.exhausted and (
            extras is None or self._next_place is None or self._left(archive, extras_bytes(extras)) >= 0
        )
        # The index names the volume.
        self._wait_for_place(archive)
        self.is_last = is_last
        if is_last and extras is not None:
            archive.put_extras(extras)
        return is_last

    def _meta(self, part: Part, *, last: bool) -> dict[str, Any]:
        """The first line of the index of a part."""
        volumes = [*(facts["volume"] for facts in self.facts[: part.part]), part.volume]
        place = {"part": part.part, "offset_bytes": part.offset_bytes, "last": last}
        more = self._pieces if part.part > self._first.part else {}
        return {
            "record_bytes": self._record_bytes,
            **self._head,
            "volume": part.volume,
            "volumes": volumes,
            **place,
            **more,
        }

    # -- what fits ---------------------------------------------------------------------------------------------------

    @property
    def _reserved_bytes(self) -> int:
        """What is kept free at the end of a part: the first line of its index, its headers, and the last record."""
        return len(comment_of(self._meta(self._part, last=False))) + _END_BYTES + 2 * self._record_bytes

    def _room(self) -> Optional[int]:
        """How long the archive of this part may become; None when nobody knows."""
        room = self.place.remaining_bytes
        return room if room is None or self._seal is None else self._seal.room_bytes(room - self._record_bytes)

    @property
    def _begin_bytes(self) -> int:
        """Where in the pipeline the part begins that is being written."""
        return self._part.offset_bytes - self._origin_bytes

    def _plain_bytes(self) -> int:
        """How much of the archive is in this part, its lead included."""
        return self._records * self._record_bytes - self._begin_bytes + self._part.lead_bytes

    @property
    def _is_ahead(self) -> bool:
        """What is being laid out belongs to the part behind the one that is being written."""
        return self._end_records is not None

    def _wait_for_place(self, archive: ArchiveWriter) -> None:
        """Wait until the part that is being laid out is the one that is being written."""
        if self._is_ahead:
            archive.stream.wait_until(lambda: not self._is_ahead)

    def _left(self, archive: ArchiveWriter, needed_bytes: int) -> int:
        """How much of the room is left when so much is written behind what is laid out; less than 0 if it is not
        there. When the volume is not known yet, this is what can be laid out without knowing it.
        """
        if self._end_records is not None:
            begin = self._end_records * self._record_bytes
            left = self._ahead_bytes - (archive.length_with_index() - begin) - needed_bytes
            if left >= 0 and len(self._next_batch) < _AHEAD_MEMBERS:
                return left
            self._wait_for_place(archive)
        room = self._room()
        if room is None:
            return needed_bytes
        begin = self._begin_bytes - self._part.lead_bytes
        return room - self._reserved_bytes - (archive.length_with_index() - begin) - needed_bytes

    def _crosses(self, selection: Selection, archive: ArchiveWriter) -> bool:
        """Whether the first member crosses into the next volume.

        :raises DoesNotFit: it might fit on another volume.
        """
        if self._continues:
            return True
        first = selection.peek()
        if first is not None:
            needed = archive.room_for(*first)
        elif selection.extras is not None:
            needed = extras_bytes(selection.extras)
        else:
            return False
        left = self._left(archive, needed)
        if left >= 0:
            return False
        is_file = first is not None and first[0].kind == "f" and not is_own(member_name(first[0].path))
        divides = is_file and left + needed >= self._reserved_bytes + _END_BYTES
        capacity = self.drive.status().capacity_bytes
        if divides and (self._may_cross or (capacity is not None and needed > capacity)):
            return True
        raise DoesNotFit(
            f"volume: {self.place.label.volume} is too small for the next part of the session, which cannot be "
            "divided; label larger volumes for the pool.",
            needed,
        )

    def _fitting(self, archive: ArchiveWriter) -> Optional[Callable[[Mapped], bool]]:
        """Says whether an entry fits behind what is laid out; None when everything is to be tried.

        Planning each entry exactly would take too long. So as long as there is room enough, a bound is taken.
        """
        if self._next_place is None or (not self._is_ahead and self.place.remaining_bytes is None):
            return None
        left = 0

        def fits(mapped: Mapped) -> bool:
            nonlocal left
            entry = mapped[0]
            plain = entry.kind == "f" and entry.nlink == 1 and entry.xattrs is None and len(entry.path) <= _SHORT_NAME
            needed = entry.size + _PLAIN_BYTES if plain else archive.room_for(*mapped)
            left -= needed
            if left < 0:
                left = min(self._left(archive, archive.room_for(*mapped) if plain else needed), _STRETCH_BYTES)
            return left >= 0

        return fits

    # -- records: in a thread of the pipeline ------------------------------------------------------------------------

    def write_record(self, record: memoryview) -> None:
        """Take a record of the archive, as RecordSink says."""
        if self._records < self._skipped:
            self._records += 1
            return
        if self._crossing is None:
            self._put(record)
        else:
            self._put_crossing(record)
        self._records += 1
        if self._records == self._end_records:
            self._end_part()

    def _open_sink(self) -> None:
        """Where the records of the part go."""
        self._sink = TapeRecordSink(self.drive, self.place, self._status)
        self._sealed = None if self._seal is None else self._seal.over(self._sink, self._record_bytes)

    def _put(self, record: memoryview) -> None:
        self._touched = True
        (self._sealed or self._sink).write_record(record)

    def _put_crossing(self, record: memoryview) -> None:
        stream = self._stream()
        if self._continues:
            self._continues = False
            stream.in_caller(self._put_lead)
        if self._at_limit():
            stream.in_caller(self._go_on)
        try:
            self._put_piece(record)
        except PartFull:
            if self._sealed is not None:
                # An age file cannot end just anywhere, so the part is written again.
                raise
            stream.in_caller(self._go_on)
            self._put_piece(record)

    def _put_piece(self, record: memoryview) -> None:
        """Write a record of the member that crosses, and take the checksum of its data meanwhile."""
        member = self._crossing
        data = record[:0] if member is None else member.data_in(record, self._records * self._record_bytes)
        piece = self._piece.copy()
        if len(data) < _LONG_BYTES:
            piece.update(data)
            self._put(record)
        else:
            updated = self._hasher.submit(piece.update, data)
            try:
                self._put(record)
            finally:
                updated.result()
        self._piece = piece

    def _end_part(self) -> None:
        """Write the end of a part that is not the last one."""
        stream = self._stream()
        stream.feed.rest()
        if self._sealed is not None:
            self._sealed.finish()
        self._sink.finish()
        stream.wait_hashed(self._records * self._record_bytes)
        stream.in_caller(self._enter_members)
        # This waits for the disk, so the caller goes on meanwhile.
        with self._catalog_lock:
            self._enter_done({})
        stream.in_caller(self._begin_next)

    def _at_limit(self) -> bool:
        """Whether the room that the drive reported is used up, but for the index."""
        room = self._room()
        return room is not None and self._plain_bytes() + self._record_bytes > room - self._reserved_bytes

    def _stream(self) -> ArchiveStream:
        return self._opened().stream

    def _opened(self) -> ArchiveWriter:
        if self._archive is None:
            raise AssertionError("records come from an archive")
        return self._archive

    # -- from part to part -------------------------------------------------------------------------------------------

    def _laid_out(self, done: ArchiveResult) -> None:
        """All of the part that is being written is laid out, and the next one begins."""
        room = self._room()
        # A pool gives the fullest volumes first, so the next one has rarely less room than this one had.
        self._ahead_bytes = 0 if room is None else room - room // 8 - self._reserved_bytes
        self._done = done
        self._end_records = self._opened().stream.position // self._record_bytes

    def _enter_members(self) -> None:
        """The part that was being written has its filemark: enter what is in it."""
        archive, done = self._opened(), self._done
        if done is None:
            raise AssertionError("a part is laid out before it is written")
        archive.report()
        feed = archive.stream.feed
        self._done = replace(done, stops=feed.stops, writing_s=feed.writing_s)
        self._flush()

    def _begin_next(self) -> None:
        """The part that was being written is entered: begin the next one on the next volume."""
        archive, next_place, done = self._opened(), self._next_place, self._done
        if next_place is None or done is None:
            raise AssertionError("another part follows")
        self.results.append(done)
        self.drive, self.place = next_place(self.facts, 0)
        self.first, self._next_first = self._next_first, None
        self._crossing, self._pieces = None, {}
        self._begin_part()
        self._first = self._part
        if self.place.label.record_bytes != self._record_bytes or not self._may_go_on(archive):
            self._stays = True
            raise PlaceDiffers(f"volume: the part for {self.place.label.volume} is begun once more.", option="volume")
        self._may_cross = self.place.file_number == 1 or self.place.is_limited
        self._catalog.begin_part(self._part)
        self._members, self._batch, self._next_batch = len(self._next_batch), self._next_batch, []
        self._done = self._end_records = None
        archive.stream.feed_anew(streams=self.drive.streams)

    def _may_go_on(self, archive: ArchiveWriter) -> bool:
        """Whether the volume that was given has room for what may be laid out for it."""
        room = self._room()
        laid_out = archive.stream.position > self._begin_bytes
        return room is None or not laid_out or room - self._reserved_bytes >= self._ahead_bytes

    def _begin_part(self) -> None:
        """The next part is the one that is being written, and nothing of it is on its volume."""
        self._part = self._new_part(self._part.session, self._finished_part().end_bytes)
        self._touched = self._stays = False
        self._open_sink()

    # -- a member that crosses ---------------------------------------------------------------------------------------

    def _begin_crossing(self, member: Crossing) -> None:
        self._crossing, self._piece = member, hashlib.sha256()

    def _end_crossing(self, archive: ArchiveWriter) -> None:
        """All complete records of the member are written; what follows belongs to the last of its parts."""
        if self._at_limit() and archive.stream.position > self._records * self._record_bytes:
            self._go_on()
        if self._part.lead_bytes and self._crossing is not None:
            tail = memoryview(archive.stream.tail())
            self._piece.update(self._crossing.data_in(tail, self._records * self._record_bytes))
            self._pieces[PIECE] = self._piece.hexdigest()
        self._crossing = None
        archive.restart_index(self._begin_bytes - self._part.lead_bytes)

    def _go_on(self) -> None:
        """Finish this part inside the member, and begin the next one on the next volume."""
        member, next_place = self._crossing, self._next_place
        if member is None or next_place is None:
            raise AssertionError("a member crosses")
        place = self._records * self._record_bytes
        if place <= member.begin + len(member.plan.lead):
            raise PartFull(
                f"volume: {self.place.label.volume} is full before the data of a file begin; name another volume.",
                option="volume",
            )
        if self._sealed is not None:
            self._sealed.finish()
        self._sink.finish()
        part = self._finished_part()
        facts = part_facts(
            part,
            {
                "members": 0,
                "files": 0,
                "bytes": 0,
                "fallback": 0,
                **not_fed(self.drive),
                **self._pieces,
                PIECE: self._piece.hexdigest(),
            },
            last=False,
            complete=self._sink.records == self._tape_records(),
            filemark=True,
            checksums=True,
        )
        self._enter(part, join_facts([*self.facts, facts], {}))
        before = self.place
        self.drive, self.place = next_place(self.facts, member.left_at(place))
        label = self.place.label
        if label.record_bytes != self._record_bytes or self._same_place(before):
            raise TapeError(
                f"volume: {label.volume} cannot take the rest of a file that began on {before.label.volume} in records "
                f"of {self._record_bytes} bytes; label the volumes of a pool with the same record_bytes.",
                option="volume",
                code="volume_wrong",
            )
        self._begin_part()
        self._put_lead()

    def _same_place(self, before: WritePosition) -> bool:
        return (before.label.volume, before.file_number) == (self.place.label.volume, self.place.file_number)

    def _put_lead(self) -> None:
        """Write the headers with which the part goes on with the member."""
        member, archive = self._crossing, self._archive
        if member is None or archive is None:
            raise AssertionError("a member crosses")
        left = member.left_at(self._begin_bytes)
        self._piece = hashlib.sha256()
        self._pieces = {BEFORE: self.facts[-1][PIECE]}
        lead = memoryview(
            lead_of(member, left, self._meta(self._part, last=False), archive.headers, self._record_bytes)
        )
        self._part = self._part._replace(lead_bytes=len(lead))
        self._catalog.begin_part(self._part)
        for place in range(0, len(lead), self._record_bytes):
            self._put(lead[place : place + self._record_bytes])

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Write the filemark, prove that it is on the medium, and enter the part as complete.

        :param common: facts of the session as a whole.
        :returns: the facts of the session with this part, as the catalog has them now.
        :raises PartFull: the volume is full. :raises VolumeFailed: the filemark is not where it must be.
        :raises SplitMirrorError: the catalog cannot be written.
        """
        self._sink.finish()
        self._flush()
        return self._enter_done(common)

    def _enter_done(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Enter the part, which has its filemark."""
        done = self._done
        if done is None:
            raise AssertionError("a part is written before it is finished")
        part = self._finished_part()
        begin = (self._first.offset_bytes - self._origin_bytes) // self._record_bytes
        facts = part_facts(
            part,
            {
                "members": done.members,
                "files": done.files,
                "bytes": done.bytes_data,
                "fallback": done.fallback,
                **fed(done),
                **self._pieces,
            },
            last=self.is_last,
            complete=self._records == begin + done.records and self._sink.records == self._tape_records(),
            filemark=True,
            checksums=self._members == done.members,
        )
        write = join_facts([*self.facts, facts], common)
        self._enter(part, write)
        return write

    def _finished_part(self) -> Part:
        """The part that is being written, with its final length."""
        return self._part._replace(records=self._sink.records, archive_bytes=self._plain_bytes())

    def _tape_records(self) -> int:
        """How many records the part must have on its volume."""
        return self._plain_bytes() // self._record_bytes if self._sealed is None else self._sealed.records

    def _enter(self, part: Part, write: Mapping[str, Any]) -> None:
        """Enter a part as complete."""
        # If the catalog fails now, it is not known whether it has the part as complete: do not cut the part off.
        self._stays = True
        try:
            self._catalog.finish_part(part, files=write["files"], size_bytes=write["bytes"], write=write)
        except PartUnknown:
            self._stays = False
            raise
        self.facts = list(write["parts"])

    def _new_part(self, session: int, offset_bytes: int) -> Part:
        seal = self._seal = None if self._sealing is None else self._sealing.part(len(self.facts))
        return Part(
            session=session,
            part=len(self.facts),
            volume=self.place.label.volume,
            file_number=self.place.file_number,
            block=self.place.block,
            record_bytes=self._record_bytes,
            offset_bytes=offset_bytes,
            records=0,
            complete=False,
            age_head=b"" if seal is None else seal.head,
            age_keys="" if seal is None else seal.keys,
            drive_key="" if self.drive.key is None else self.drive.key.fingerprint,
        )

    def _add(self, member: MemberRecord) -> None:
        """Take a member from the pipeline; members are entered into the catalog in batches."""
        is_next = self._end_records is not None and member.offset_bytes >= self._end_records * self._record_bytes
        if self._origin_bytes:
            member = member._replace(offset_bytes=member.offset_bytes + self._origin_bytes)
        if is_next:
            self._next_batch.append(member)
            return
        self._members += 1
        self._batch.append(member)
        if len(self._batch) >= _BATCH_MEMBERS:
            self._flush()

    def _flush(self) -> None:
        with self._catalog_lock:
            self._catalog.add_members(self._part.session, self._part.part, self._batch)
        self._batch = []


def next_place(volumes: VolumeSource, catalog: Catalog, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
    """The next volume, labelled anew if that must be.

    A volume that is full at its label, or cannot be labelled, is taken out of use.

    :raises SplitMirrorError: there is no other volume.
    """
    while True:
        drive, place = volumes.next(needed_bytes)
        try:
            return drive, begin_anew(drive, catalog, place) if place.anew else place
        except TapeError as exc:
            volumes.out_of_use(place.label.volume, exc.message)


def fed(done: ArchiveResult) -> dict[str, Any]:
    """How the drive was fed, as facts of a part: ``writing_s``, and ``stops`` of a drive that streams."""
    return {"writing_s": round(done.writing_s, 6), **({} if done.stops is None else {"stops": done.stops})}


def not_fed(drive: TapeDrive) -> dict[str, Any]:
    """The same for a part that ends inside a member; the last part of the member tells for all of them."""
    return {"writing_s": 0.0, **({"stops": 0} if drive.streams else {})}


def drive_use(facts: Mapping[str, Any], bytes_archive: int) -> dict[str, Any]:
    """How the drive was fed, as tape_write returns it.

    :param facts: of all parts, as PartWriter.finish returns them.
    """
    writing_s = facts["writing_s"]
    return {
        "drive_stops": facts.get("stops"),
        "drive_bytes_per_s": round(bytes_archive / writing_s) if writing_s else None,
    }


def tape_stream(
    drive: TapeDrive, part: Part, status: Optional[StatusWriter] = None, taken: Optional[Taken] = None
) -> TapeStream:
    """The tape file of a part, as it is on the tape. :param taken: gets each record that is read."""
    return TapeStream(
        drive, part.file_number, part.block, part.record_bytes, status, short_end=bool(part.age_head), taken=taken
    )
