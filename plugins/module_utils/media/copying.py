# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy sessions from volumes to volumes of another pool, part by part.

The tape file of a part is copied as it is, record by record, so an encrypted session is copied without a key. What is
read is compared with the catalog, and what was written is read back. A copy that fails is cut off its volume again, and
nothing of it is entered; parts that were copied before stay, and the next run goes on behind them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Optional, cast

from ..archive.model import ArchiveError
from ..catalog.copies import in_pools, latest
from ..catalog.lookup import chain_of, complete_parts, find_good_session, format_time
from ..catalog.parts import PIECE
from ..catalog.records import GOOD, Copy, Part, PartUnknown, Session
from ..catalog.standing import standings
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..host.files import open_lock, try_lock
from ..host.status import StatusWriter
from ..session import COPY_LOCK
from ..tape.base import TapeDrive, TapeError
from ..tape.drive_lease import DriveLease
from .libraries import LibraryDrives, nearest_first
from .part import next_place, tape_stream
from .places import PlacesStream
from .pools import PoolVolumes, Wanted
from .retention import MOST_DAYS
from .scan import Differences, compare, scan_known
from .sealed import prove_records
from .tape_file import PartFull, TapeRecordSink, TapeStream, VolumeFailed
from .volume_source import VolumeChoice, VolumeSource
from .volumes import WritePosition, begin_anew, cut_back, load_known

_DAY_S = 86400
_LOOK_S = 0.5
#: The length of a label, and the filemarks (tape/label.py).
_LABEL_BYTES = 10240

WriteRecord = Callable[[memoryview], None]
#: Writes all records of a part, and returns the digest of the tape file.
_Feed = Callable[[WriteRecord], bytes]


class CopyError(SplitMirrorError):
    """What was to be copied cannot be read, or is not what was written."""

    code = "tape_damaged"


class _TryElsewhere(SplitMirrorError):
    """A place of the source is damaged, and there is another one to read all of the part from."""


class _TargetFailed(Exception):
    """The target failed while the source was read. :ivar error: why."""

    def __init__(self, error: SplitMirrorError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class CopyJob:
    """What session_copy was asked for.

    :param target: the volume or the pool to copy to.
    :param sessions: ids; empty for all that have no copy there yet.
    :param source: the pool to copy from; None for wherever a session is.
    :param host: only sessions of this database host.
    :param retention_days: for how many days after a session began its copy is kept; None for ever.
    :param spool_dir: folder for a part that is copied with one drive, one after another.
    """

    target: Wanted
    spool_dir: str
    sessions: Sequence[str] = ()
    source: Optional[str] = None
    host: Optional[str] = None
    retention_days: Optional[float] = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> CopyJob:
        """From the parameters of a module. :raises SplitMirrorError: a number is impossible."""
        kept = params["retention_days"]
        if kept is not None and not 0 <= kept <= MOST_DAYS:
            raise SplitMirrorError(
                f"retention_days: a copy cannot be kept for {kept:g} days; give 0 to {MOST_DAYS}, or leave it out to "
                "keep it for ever.",
                option="retention_days",
                code="option_invalid",
            )
        return cls(
            Wanted(params["volume"], params["pool"], allow_last=params["allow_last"]),
            params["spool_dir"] or params["state_dir"],
            params["sessions"],
            params["source"],
            params["host"],
            kept,
        )

    def expires_s(self, session: Session) -> Optional[float]:
        """Until when the copy of a session is kept."""
        return None if self.retention_days is None else session.created_s + self.retention_days * _DAY_S


@dataclass
class Planned:
    """A session that is to be copied.

    :param parts: those that have no copy there yet, in order.
    :param expires_s: until when the copy is kept.
    :param renewed: volumes with other parts of the copy, the expiry of which is set anew.
    :param lives_on: the session itself is such a copy, all that was found of it.
    """

    session: Session
    parts: list[Part]
    expires_s: Optional[float]
    renewed: list[str] = field(default_factory=list)
    lives_on: bool = False

    def facts(self, volumes: Sequence[str]) -> dict[str, Any]:
        """As modules return it. :param volumes: that the parts are on."""
        return {
            "session": self.session.id,
            "host": self.session.host,
            "parts": len(self.parts),
            "bytes": sum(part.records * part.record_bytes for part in self.parts),
            "volumes": list(dict.fromkeys(volumes)),
            "expires": format_time(self.expires_s),
        }


# -- what is to be copied --------------------------------------------------------------------------------------------


def plan(job: CopyJob, catalog: Catalog) -> list[Planned]:
    """The sessions to copy, from old to new; the bases of an incremental session are copied with it.

    :raises SplitMirrorError: a pool, a volume or a session is refused.
    """
    pool = target_pool(job, catalog)
    pools = {volume.name: volume.pool for volume in catalog.volumes()}
    _check_source(job, pool, set(pools.values()))
    wanted: dict[int, Planned] = {}
    for session in _chosen(job, catalog, pool, pools):
        # A base that is damaged is not copied, and keeps nothing else from being copied.
        *bases, planned = [
            wanted.setdefault(one.number, _planned(job, catalog, pool, pools, one))
            for one in chain_of(catalog, session).sessions
        ]
        planned.expires_s = until_s = latest((planned.expires_s, job.expires_s(session)))
        if not planned.parts and not planned.renewed:
            # What was copied before has an expiry of its own.
            copies = _copies_in(catalog, pool, pools, session)
            until_s = latest(copy.expires_s for copy in copies) if copies else session.expires_s
        for base in bases:
            # A base is of use as long as what builds on it.
            base.expires_s = latest((base.expires_s, until_s))
            sooner = {
                copy.volume
                for copy in _copies_in(catalog, pool, pools, base.session)
                if latest((copy.expires_s, until_s)) != copy.expires_s
            }
            base.renewed = sorted({*base.renewed, *sooner})
    return [found for found in wanted.values() if found.parts or found.renewed or found.lives_on]


def target_pool(job: CopyJob, catalog: Catalog) -> str:
    """The pool of the copies. :raises TapeError: there is no such volume, or no volume of the pool."""
    name = job.target.volume
    if name is None:
        pool = job.target.pool or ""
        if pool not in {volume.pool for volume in catalog.volumes()}:
            raise TapeError(
                f"pool: there is no volume of pool {pool} in the catalog; label volumes for it.",
                option="pool",
                code="pool_exhausted",
            )
        return pool
    known = catalog.volume(name)
    if known is None:
        raise TapeError(
            f"volume: {name} is not in the catalog; label it with tape_label, or enter it with catalog_rebuild.",
            option="volume",
            code="volume_wrong",
        )
    return known.pool


def _check_source(job: CopyJob, pool: str, pools: set[str]) -> None:
    """:raises TapeError: there is nothing to copy from there."""
    if job.source is None:
        return
    if job.source == pool:
        raise TapeError(
            f"source: {job.source} is the pool to copy to as well, and two copies in one pool are of no use; name "
            "another pool.",
            option="source",
            code="option_invalid",
        )
    if job.source not in pools:
        raise TapeError(
            f"source: there is no volume of pool {job.source} in the catalog; name a pool that has volumes: "
            f"{', '.join(sorted(pools))}.",
            option="source",
            code="option_invalid",
        )


def _chosen(job: CopyJob, catalog: Catalog, pool: str, pools: dict[str, str]) -> Iterator[Session]:
    for name in job.sessions:
        session = find_good_session(catalog, name, job.host)
        if job.source is not None and not _is_in(catalog, session, job.source, pools):
            raise TapeError(
                f"source: {session.id} is not in pool {job.source} with all its parts; name the pool that it is in, or "
                "leave source out.",
                option="source",
                code="option_invalid",
            )
        yield session
    if not job.sessions:
        now_s = time.time()
        for session in catalog.sessions(host=job.host, state=GOOD):
            times = [session.expires_s, *(copy.expires_s for copy in catalog.copies(session.number))]
            kept = latest(times)
            if kept is not None and kept <= now_s:
                continue
            if job.source is None or _is_in(catalog, session, job.source, pools):
                yield session


def _is_in(catalog: Catalog, session: Session, pool: str, pools: dict[str, str]) -> bool:
    places = catalog.places(session.number)
    return bool(places) and all(any(pools.get(place.volume) == pool for place in found) for found in places.values())


def _copies_in(catalog: Catalog, pool: str, pools: dict[str, str], session: Session) -> list[Copy]:
    return list(in_pools(catalog.copies(session.number), pools).get(pool, {}).values())


def _planned(job: CopyJob, catalog: Catalog, pool: str, pools: dict[str, str], session: Session) -> Planned:
    complete_parts(catalog, session)
    places = catalog.places(session.number)
    missing = [found[0] for found in places.values() if all(pools.get(place.volume) != pool for place in found)]
    copies = in_pools(catalog.copies(session.number), pools).get(pool, {}).values()
    expires_s = job.expires_s(session)
    # Of a copy that was found on its volumes, it is not known until when it is to be kept. And what was copied before
    # the last run was interrupted must not expire before the rest.
    anew = (
        {one.volume for one in copies if one.expires_s is None or missing} if expires_s is not None or missing else ()
    )
    lives_on = (
        expires_s is not None
        and session.expires_s is None
        and catalog.lives_by_copy(session)
        and not catalog.is_last_good(session.id)
        and all(pools.get(part.volume) == pool for part in catalog.parts(session.number))
    )
    return Planned(session, missing, expires_s, sorted(anew), lives_on)


def check_parts(job: CopyJob, catalog: Catalog, planned: Sequence[Planned]) -> None:
    """Whether each part fits on a volume, as far as that is known.

    :raises TapeError: one does not, or its records are longer or shorter than those of the volumes.
    """
    name, pool = job.target.volume, job.target.pool
    found = [item.volume for item in standings(catalog, None if name else pool)]
    found = [volume for volume in found if not volume.out_of_use and (name is None or volume.name == name)]
    option = job.target.option
    what = f"volume {name}" if name else f"the volumes of pool {pool}"
    for one in planned:
        for part in one.parts:
            same = [volume for volume in found if volume.record_bytes == part.record_bytes]
            if found and not same:
                raise TapeError(
                    f"{option}: {what} have records of {found[0].record_bytes} bytes, and {one.session.id} has records "
                    f"of {part.record_bytes}; label volumes with record_bytes: {part.record_bytes}.",
                    option=option,
                    code="volume_wrong",
                )
            capacities = [volume.capacity_bytes for volume in same]
            if capacities and all(size is not None and size < _needed_bytes(part) for size in capacities):
                raise _too_large(option, what, one.session.id, part)


def _needed_bytes(part: Part) -> int:
    return part.records * part.record_bytes + _LABEL_BYTES


def _too_large(option: str, what: str, session: str, part: Part) -> TapeError:
    return TapeError(
        f"{option}: part {part.part + 1} of {session} has {part.records * part.record_bytes} bytes, more than goes on "
        f"one of {what}; label larger volumes, or write sessions in smaller parts (splitmirror_part_bytes).",
        option=option,
        code="volume_full",
    )


# -- copying ---------------------------------------------------------------------------------------------------------


@contextmanager
def one_at_a_time(folder: str, timeout_s: float, tell: Callable[[Optional[str]], None]) -> Iterator[None]:
    """Keep other processes on this host from copying: each would hold a drive and wait for that of the other.

    :param folder: of the queue for drives. :raises TapeError: another one took too long.
    """
    handle = open_lock(os.path.join(folder, COPY_LOCK))
    try:
        limit_s = time.monotonic() + timeout_s
        while not try_lock(handle):
            if time.monotonic() >= limit_s:
                raise TapeError(
                    f"drive_timeout_s: another process has been copying sessions for more than {timeout_s:g} s; wait "
                    "longer.",
                    option="drive_timeout_s",
                    code="drive_busy",
                )
            tell("sessions are being copied by another process")
            time.sleep(_LOOK_S)
        tell(None)
        yield
    finally:
        os.close(handle)


@dataclass
class Copier:
    """Copies parts.

    :param drives: for the source. :param lease: for the target.
    :param beside: whether a place of the source can be read while the target is in a drive. What cannot is kept in
        ``spool_dir`` in between.
    :param choose: makes the source of volumes to write.
    :ivar status: of the session that is copied, in bytes.
    """

    job: CopyJob
    catalog: Catalog
    drives: LibraryDrives
    lease: DriveLease
    beside: Callable[[Part], bool]
    choose: VolumeChoice
    status: Optional[StatusWriter] = None

    def copy(self, planned: Planned) -> list[str]:
        """Copy the parts of a session; return the volumes that they went to.

        :raises CopyError: it cannot be read anywhere. :raises SplitMirrorError: it cannot be written.
        """
        places = self.catalog.places(planned.session.number).values()
        if any(place.drive_key for found in places for place in found):
            # The copy would be written in the clear.
            raise CopyError(
                f"session: {planned.session.id} was encrypted by the drive, and a copy would not be; copy sessions "
                "that are encrypted to recipients (splitmirror_recipients).",
                option="session",
                code="key_missing",
            )
        if planned.renewed:
            self.catalog.set_copy_expiry(planned.session.number, planned.renewed, planned.expires_s)
        if planned.lives_on:
            self.catalog.set_expiry({planned.session.id: planned.expires_s}, time.time())
        return [self._copy_part(planned, part) for part in planned.parts]

    def _copy_part(self, planned: Planned, part: Part) -> str:
        source = _Source(self, planned.session, part)
        while True:
            try:
                with source.ready() as feed:
                    return self._put(planned, part, feed)
            except _TryElsewhere:
                # What was written of it is cut off again.
                continue

    def _put(self, planned: Planned, part: Part, feed: _Feed) -> str:
        """Write a part to the first volume that takes it; return its name."""
        volumes = self._volumes(part)
        drive, place = volumes.first()
        failed: Optional[VolumeFailed] = None
        while True:
            drive, place = self._fitting(planned, part, volumes, drive, place)
            try:
                self._write(planned, part, feed, drive, place)
            except PartFull:
                if place.file_number == 1:
                    raise self._too_large(planned, part) from None
            except VolumeFailed as exc:
                if not volumes.goes_on:
                    raise
                if failed is not None:
                    raise exc.of_the_drive(drive.device, place.label.volume) from exc
                failed = exc
                volumes.out_of_use(place.label.volume, exc.message)
            else:
                return place.label.volume
            drive, place = next_place(volumes, self.catalog, _needed_bytes(part))

    def _volumes(self, part: Part) -> VolumeSource:
        """The source of volumes for a part; those that are known not to take it are left out."""
        volumes = self.choose(self.catalog)
        if isinstance(volumes, PoolVolumes):
            for standing in standings(self.catalog, self.job.target.pool):
                known, room = standing.volume, standing.room_bytes
                if known.record_bytes != part.record_bytes:
                    volumes.passed_over[known.name] = f"{known.name} has records of {known.record_bytes} bytes"
                elif known.capacity_bytes is not None and known.capacity_bytes < _needed_bytes(part):
                    volumes.passed_over[known.name] = f"{known.name} is too small"
                elif room is not None and room < part.records * part.record_bytes and not standing.reusable():
                    volumes.passed_over[known.name] = f"{known.name} is full"
        return volumes

    def _fitting(
        self, planned: Planned, part: Part, volumes: VolumeSource, drive: TapeDrive, place: WritePosition
    ) -> tuple[TapeDrive, WritePosition]:
        """A place with room for a part, as far as the drive reports it; its volume is labelled anew if that must be."""
        while True:
            if place.label.record_bytes != part.record_bytes:
                raise TapeError(
                    f"{self.job.target.option}: {place.label.volume} has records of {place.label.record_bytes} bytes, "
                    f"and {planned.session.id} has records of {part.record_bytes}; name another one.",
                    option=self.job.target.option,
                    code="volume_wrong",
                )
            if place.anew:
                try:
                    place = begin_anew(drive, self.catalog, place)
                except TapeError as exc:
                    volumes.out_of_use(place.label.volume, exc.message)
                    drive, place = next_place(volumes, self.catalog, _needed_bytes(part))
                    continue
            room = place.remaining_bytes
            if room is None or room >= part.records * part.record_bytes:
                return drive, place
            if place.file_number == 1:
                raise self._too_large(planned, part)
            drive, place = next_place(volumes, self.catalog, _needed_bytes(part))

    def _too_large(self, planned: Planned, part: Part) -> TapeError:
        target = self.job.target
        what = f"the volumes of pool {target.pool}" if target.volume is None else f"volume {target.volume}"
        return _too_large(target.option, what, planned.session.id, part)

    def _write(self, planned: Planned, part: Part, feed: _Feed, drive: TapeDrive, place: WritePosition) -> None:
        """Write a part, prove it by reading it back, and enter it; after an error it is cut off again."""
        target = part._replace(volume=place.label.volume, file_number=place.file_number, block=place.block)
        self.catalog.begin_copy(target)
        stays = False
        sink = TapeRecordSink(drive, place, self.status)
        try:
            digest = feed(sink.write_record)
            sink.finish()
            _read_back(drive, target, digest, sink.records)
            # If the catalog fails now, it is not known whether it has the copy: do not cut it off.
            stays = True
            try:
                self.catalog.enter_copy(target._replace(sha256=digest), planned.expires_s)
            except PartUnknown:
                stays = False
                raise
        finally:
            if not stays:
                self._take_back(drive, place, target)

    def _take_back(self, drive: TapeDrive, place: WritePosition, target: Part) -> None:
        try:
            cut_back(drive, place)
            self.catalog.drop_copy(target)
        except SplitMirrorError:
            # The error that led here is the one to report; the catalog has the place as unfinished.
            return


def _read_back(drive: TapeDrive, target: Part, digest: bytes, records: int) -> None:
    """:raises VolumeFailed: what is on the volume is not what was written."""
    seen = hashlib.sha256()
    try:
        count = tape_stream(drive, target, taken=lambda _number, record: seen.update(record)).skip_to_filemark()
    except TapeError as exc:
        raise VolumeFailed(exc.message, option=exc.option, code=exc.code) from exc
    if (count, seen.digest()) != (records, digest):
        raise VolumeFailed(
            f"volume: what was read back from tape file {target.file_number} of {target.volume} is not what was "
            "written; try another volume or another drive.",
            option="volume",
            code="tape_damaged",
        )


class _Source:
    """Where a part is read from: the places of the source pool first, the nearest of them first, then all others."""

    def __init__(self, copier: Copier, session: Session, part: Part) -> None:
        self._copier = copier
        self._session = session
        self._part = part
        catalog = copier.catalog
        found = nearest_first(copier.drives, catalog.places(session.number)[part.part])
        pools = {volume.name: volume.pool for volume in catalog.volumes()}
        found.sort(key=lambda place: pools.get(place.volume) != copier.job.source)
        self._left = found
        self._faults: list[str] = []

    @contextmanager
    def ready(self) -> Iterator[_Feed]:
        """What feeds the target, as often as it must be tried.

        :raises CopyError: the part cannot be read anywhere. :raises _TryElsewhere: do this once more.
        """
        beside = [place for place in self._left if self._copier.beside(place)]
        if beside:
            yield lambda write: self._read(beside, write)
            return
        # The only drive is wanted for the source, then for the target.
        self._copier.lease.release()
        with _PartSpool(self._copier.job.spool_dir, self._part, self._session.id) as spool:
            spool.digest = self._read(self._left, spool.write)
            self._copier.drives.release()
            yield spool.feed

    def _read(self, places: Sequence[Part], write: WriteRecord) -> bytes:
        """Read the part, prove it, and hand out its records; return its digest.

        :raises SplitMirrorError: see ready, or what ``write`` raised.
        """
        tried, error = {place.volume for place in places}, None
        try:
            reading = _Reading(self._copier.drives, self._copier.catalog, self._session, places, write)
            fault = reading.prove(self._part, os.path.dirname(self._copier.catalog.path))
            if fault is None:
                return reading.digest
            tried = reading.used
        except _TargetFailed as exc:
            raise exc.error from exc
        except TapeError as exc:
            # None of the places has the record, or none can be had.
            fault, error = exc.message.rstrip("."), exc
        self._faults.append(fault)
        self._left = [place for place in self._left if place.volume not in tried]
        said = (
            f"session: part {self._part.part + 1} of {self._session.id} cannot be copied "
            f"({'; '.join(dict.fromkeys(self._faults))}); copy another session, or try another drive."
        )
        if self._left:
            raise _TryElsewhere(said, option="session")
        raise CopyError(said, option="session", code=None if error is None else error.code) from error


class _Reading:
    """One reading of a part, from the first record to its filemark.

    :param write: gets each record once. :raises TapeError: none of the places can be had.
    """

    def __init__(
        self, drives: LibraryDrives, catalog: Catalog, session: Session, places: Sequence[Part], write: WriteRecord
    ) -> None:
        self._drives = drives
        self._catalog = catalog
        self._session = session
        self._write = write
        self._hash = hashlib.sha256()
        self._records = 0
        self._stream = PlacesStream(places, self._open)

    @property
    def used(self) -> set[str]:
        """The volumes that were read."""
        return self._stream.used

    @property
    def digest(self) -> bytes:
        """Of all records."""
        return self._hash.digest()

    def prove(self, part: Part, spool_dir: str) -> Optional[str]:
        """Read all of it; return what differs from the catalog, None if nothing can be seen.

        :raises TapeError: a record can be read nowhere. :raises _TargetFailed: it could not be written.
        """
        try:
            fault = prove_records(self._stream, part) if part.age_head else self._prove_members(part, spool_dir)
        except ArchiveError as exc:
            return exc.message.rstrip(".")
        if fault is None and part.sha256 and self.digest != part.sha256:
            return f"{self._where()} is not what was copied before"
        return fault

    def _prove_members(self, part: Part, spool_dir: str) -> Optional[str]:
        catalog, found = self._catalog, Differences()
        first = next(catalog.members(part.session, part=part.part), None)
        is_old = first is not None and first[1].header_digest is None
        with scan_known(self._stream, part, spool_dir, logical=is_old) as read:
            expected = (member for _part, member in catalog.members(part.session, part=part.part))
            compare("the catalog", expected, read.all_members(), found)
            told = {facts["part"]: facts for facts in self._session.write.get("parts", ())}.get(part.part, {})
            if PIECE in told and told[PIECE] != read.piece_sha256:
                found.add("the data of the file that crosses it are not what was written")
            if (read.records, read.archive_bytes) != (part.records, part.archive_bytes):
                found.add(f"it has {read.records} records, and the catalog has {part.records}")
        return f"{self._where()} is not what was written: {'; '.join(found.shown)}" if found.count else None

    def _where(self) -> str:
        return f"volume {' or '.join(sorted(self.used))}"

    def _open(self, place: Part) -> Callable[[], TapeStream]:
        """See OpenPlace."""
        drive = self._drives.exchange(place.volume)
        load_known(drive, self._catalog, place.volume)
        return lambda: tape_stream(drive, place, taken=self._take)

    def _take(self, number: int, record: bytes) -> None:
        """See Taken. A record may be read once more where the reading goes on in another place."""
        if number != self._records:
            return
        self._records += 1
        self._hash.update(record)
        try:
            self._write(memoryview(record))
        except SplitMirrorError as exc:
            raise _TargetFailed(exc) from exc


class _PartSpool:
    """A part on a disk, between the only drive and itself. It has no name, so that it ends with its process."""

    def __init__(self, folder: str, part: Part, session: str) -> None:
        self._folder = folder
        self._part = part
        self._what = f"part {part.part + 1} of {session}"
        self._runs: list[list[int]] = []
        self.digest = b""

    def __enter__(self) -> _PartSpool:
        needed = self._part.records * self._part.record_bytes
        try:
            free = os.statvfs(self._folder)
            self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="splitmirror-copy-", dir=self._folder))
        except OSError as exc:
            raise self._error(str(exc.strerror)) from exc
        if free.f_bavail * free.f_frsize < needed:
            self._file.close()
            raise self._error(f"it needs {needed} bytes, and {free.f_bavail * free.f_frsize} are free")
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, record: memoryview) -> None:
        """Append a record."""
        try:
            self._file.write(record)
        except OSError as exc:
            raise self._error(str(exc.strerror)) from exc
        if not self._runs or self._runs[-1][0] != len(record):
            self._runs.append([len(record), 0])
        self._runs[-1][1] += 1

    def feed(self, write: WriteRecord) -> bytes:
        """Hand out all records; return the digest of what was read from tape."""
        seen = hashlib.sha256()
        try:
            self._file.seek(0)
            for length, count in self._runs:
                for _number in range(count):
                    record = self._file.read(length)
                    seen.update(record)
                    write(memoryview(record))
        except OSError as exc:
            raise self._error(str(exc.strerror)) from exc
        if seen.digest() != self.digest:
            raise self._error("the disk does not give back what was written to it")
        return self.digest

    def _error(self, reason: str) -> SplitMirrorError:
        return SplitMirrorError(
            f"spool_dir: {self._what} cannot be kept in {self._folder} until it is copied ({reason}); name a folder "
            "with more room, or write sessions in smaller parts (splitmirror_part_bytes).",
            option="spool_dir",
        )


def copy_sessions(
    copier: Copier, planned: Sequence[Planned], telling: Callable[[Planned], AbstractContextManager[StatusWriter]]
) -> dict[str, Any]:
    """Copy all that was planned. What cannot be read does not keep the rest from being copied.

    :param telling: makes the status of a session.
    :returns: ``changed``, and ``copied``, facts of the sessions.
    :raises SplitMirrorError: a session cannot be copied; ``copied`` is in its facts.
    """
    copied: list[dict[str, Any]] = []
    failed: list[CopyError] = []
    for one in planned:
        with telling(one) as status:
            copier.status = status
            status.set(0, sum(part.records * part.record_bytes for part in one.parts))
            try:
                volumes = copier.copy(one)
            except CopyError as exc:
                failed.append(exc)
                continue
            except SplitMirrorError as exc:
                exc.facts = {"copied": copied}
                raise
            finally:
                copier.status = None
        copied.append(one.facts(volumes))
    if failed:
        error = failed[0]
        if len(failed) > 1:
            error = CopyError(
                f"session: {len(failed)} sessions cannot be copied ({'; '.join(exc.message for exc in failed)})",
                option="session",
                code=error.code,
            )
        error.facts = {"copied": copied}
        raise error
    return {"changed": bool(copied), "copied": copied}
