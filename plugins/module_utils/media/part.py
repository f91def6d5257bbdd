# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A part of a session: a whole archive with its own index, in one tape file of one volume.

PartWriter reserves, writes, cuts back and finishes a part. open_part is the way to read one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Optional

from ..archive.model import ArchiveResult, Fallback, Links, MemberRecord, Owners, WriterOptions
from ..archive.writer import open_archive
from ..catalog.parts import join_facts, part_facts
from ..catalog.records import Part, PartUnknown
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..extents.maprows import Mapped
from ..host.status import StatusWriter
from ..tape.base import TapeDrive
from .sealed import NO_KEYS, Keyring, PartStream, Sealing, open_sealed
from .selection import Selection
from .tape_file import TapeRecordSink, TapeStream
from .volumes import WritePosition, cut_back, load_known

_BATCH_MEMBERS = 5000


@dataclass(frozen=True)
class ArchiveSource:
    """Where the members of a session come from, the same for all its parts.

    :param devices: path of each LUN's mirror device on this host, by the LUN's id in the map.
    :param options: how the pipeline works; the size of the records is that of the volume.
    :param owners: names of the database host's users and groups.
    :param fallback: opens files that are read through the mounted mirror; None when it is not mounted.
    :param spool_dir: folder on a disk where the index grows.
    :param links: the first names of files with several names that were written so far.
    """

    devices: Mapping[int, str]
    options: WriterOptions
    owners: Owners
    fallback: Optional[Fallback]
    spool_dir: str
    links: Links = field(default_factory=dict)


class PartWriter:
    """Writes one part behind what is on a volume.

    Use it as a context manager: entering reserves the tape file in the catalog. When it is left before ``finish``, the
    part is cut off the volume again; what cannot be cut off stays in the catalog as unfinished.

    :param session: number of the session in the catalog.
    :param place: where the head stands and the part begins.
    :param earlier: facts of the parts of this session that are finished, in order.
    :param sealing: encrypts it; None to write it in the clear.
    :param status: reports how far the writing has come, in bytes.
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
    ) -> None:
        self._drive = drive
        self._catalog = catalog
        self._place = place
        self._earlier = earlier
        finished = [part for part in catalog.parts(session) if part.complete]
        seal = self._seal = None if sealing is None else sealing.part(len(earlier))
        self._part = Part(
            session=session,
            part=len(earlier),
            volume=place.label.volume,
            file_number=place.file_number,
            block=place.block,
            record_bytes=place.label.record_bytes,
            offset_bytes=finished[-1].end_bytes if finished else 0,
            records=0,
            complete=False,
            age_head=b"" if seal is None else seal.head,
            age_keys="" if seal is None else seal.keys,
        )
        self._sink = TapeRecordSink(drive, place, status)
        self._batch: list[MemberRecord] = []
        self._members = 0
        self._done: Optional[ArchiveResult] = None
        self._records = 0  # that the archive has on tape
        self._last = False
        self._stays = False

    def __enter__(self) -> PartWriter:
        self._catalog.begin_part(self._part)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._stays:
            return
        try:
            cut_back(self._drive, self._place)
            self._catalog.drop_part(self._part)
        except SplitMirrorError:
            # The error that led here is the one to report.
            return

    def write(
        self,
        source: ArchiveSource,
        selection: Selection,
        head: Mapping[str, Any],
        fits: Optional[Callable[[Mapped], bool]] = None,
    ) -> ArchiveResult:
        """Write the archive: entries of the selection, the extras if no entry is left, and the index.

        :param head: what the first line of the index says of the session; ``session`` must be in it.
        :param fits: as for Selection.entries.
        :raises SplitMirrorError: something cannot be read, or the volume is full.
        """
        volumes = [*(part["volume"] for part in self._earlier), self._part.volume]
        sealed = None if self._seal is None else self._seal.over(self._sink, self._part.record_bytes)
        with open_archive(
            source.devices,
            sealed or self._sink,
            replace(source.options, record_bytes=self._part.record_bytes, streams=self._drive.streams),
            member=self._add,
            owners=source.owners,
            fallback=source.fallback,
            spool_dir=source.spool_dir,
            links=source.links,
        ) as archive:
            archive.put_entries(selection.entries(fits))
            self._last = selection.exhausted
            if self._last and selection.extras is not None:
                archive.put_extras(selection.extras)
            place = {"part": self._part.part, "offset_bytes": self._part.offset_bytes, "last": self._last}
            self._done = archive.finish({**head, "volume": self._part.volume, "volumes": volumes, **place})
        self._records = self._done.records
        if sealed is not None:
            sealed.finish()
            self._records = sealed.records
        return self._done

    def finish(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Write the filemark, prove that it is on the medium, and enter the part as complete.

        :param common: facts of the session as a whole.
        :returns: the facts of the session with this part, as the catalog has them now.
        :raises SplitMirrorError: the filemark is not where it must be, or the catalog cannot be written.
        """
        done, records = self._done, self._sink.records
        if done is None:
            raise AssertionError("a part is written before it is finished")
        self._sink.finish()
        self._flush()
        part = self._part._replace(records=records, archive_bytes=done.bytes_archive)
        facts = part_facts(
            part,
            {
                "members": done.members,
                "files": done.files,
                "bytes": done.bytes_data,
                "fallback": done.fallback,
                **fed(done),
            },
            last=self._last,
            complete=records == self._records,
            filemark=True,
            checksums=self._members == done.members,
        )
        write = join_facts([*self._earlier, facts], common)
        # If the catalog fails now, it is not known whether it has the part as complete: do not cut the part off.
        self._stays = True
        try:
            self._catalog.finish_part(part, files=write["files"], size_bytes=write["bytes"], write=write)
        except PartUnknown:
            self._stays = False
            raise
        return write

    def _add(self, member: MemberRecord) -> None:
        """Take a member from the pipeline; members are entered into the catalog in batches."""
        self._members += 1
        if self._part.offset_bytes:
            member = member._replace(offset_bytes=member.offset_bytes + self._part.offset_bytes)
        self._batch.append(member)
        if len(self._batch) >= _BATCH_MEMBERS:
            self._flush()

    def _flush(self) -> None:
        self._catalog.add_members(self._part.session, self._part.part, self._batch)
        self._batch = []


def fed(done: ArchiveResult) -> dict[str, Any]:
    """How the drive was fed, as facts of a part: ``writing_s``, and ``stops`` of a drive that streams."""
    return {"writing_s": round(done.writing_s, 6), **({} if done.stops is None else {"stops": done.stops})}


def drive_use(facts: Mapping[str, Any], bytes_archive: int) -> dict[str, Any]:
    """How the drive was fed, as tape_write returns it.

    :param facts: of all parts, as PartWriter.finish returns them.
    """
    writing_s = facts["writing_s"]
    return {
        "drive_stops": facts.get("stops"),
        "drive_bytes_per_s": round(bytes_archive / writing_s) if writing_s else None,
    }


def open_part(
    drive: TapeDrive,
    part: Part,
    catalog: Optional[Catalog] = None,
    *,
    keyring: Keyring = NO_KEYS,
    status: Optional[StatusWriter] = None,
) -> PartStream:
    """The archive of a part, as a stream of bytes that can be read from any place on.

    :param catalog: load the volume first, and prove by its label that it is the one that the catalog means; None when
        the caller has done so.
    :param keyring: the keys for parts that are encrypted.
    :param status: reports how far the reading has come, in bytes.
    :raises TapeError: it is another volume. :raises CryptError: it is encrypted, and no key opens it.
    """
    if catalog is not None:
        load_known(drive, catalog, part.volume)
    tape = tape_stream(drive, part, status)
    return open_sealed(tape, part, keyring) if part.age_head else tape


def tape_stream(drive: TapeDrive, part: Part, status: Optional[StatusWriter] = None) -> TapeStream:
    """The tape file of a part, as it is on the tape."""
    short_end = bool(part.age_head)
    return TapeStream(drive, part.file_number, part.block, part.record_bytes, status, short_end=short_end)
