# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write one session to tape: from the split mirror, by the extent map, in logical order.

Everything that can be checked is checked before the first record is written. After that the catalog has the session as
open. If anything fails, what was written is cut off the volume.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Optional

from ..archive.estimate import Estimate, estimate
from ..archive.index import removed_name
from ..archive.members import member_name
from ..archive.model import Fallback, Owners, WriterOptions
from ..archive.ring import make_ring
from ..catalog.store import Catalog
from ..crypt.keys import Recipient
from ..crypt.sealing import Sealer
from ..errors import SplitMirrorError
from ..extents.compare import ADDED, REMOVED
from ..extents.mapcheck import parse_names
from ..extents.mapfile import MapFile
from ..extents.maprows import SOURCE_MOUNT, SOURCE_NONE, SOURCE_SKIP, FileEntry, MapError, Mapped
from ..extents.proof import FULL, NONE, Proof
from ..extents.since import Since, compare_maps
from ..host.files import open_folder, try_lock
from ..host.status import StatusWriter
from ..session import StateDir
from ..tape.base import TapeDrive
from .bases import Level, choose_level, drop_map, keep_map, not_on
from .mirror_view import ReadOnlyMounts, check_devices, check_seals
from .part import ArchiveSource, drive_use
from .sealed import Sealing, sealed_bytes
from .selection import Selection
from .span import SessionParts, write_parts
from .volume_source import VolumeChoice, VolumeSource, first_place
from .volumes import WritePosition, check_room

_DAY_S = 86400


@dataclass(frozen=True)
class WriteJob:
    """What tape_write was asked for.

    :param map_path: the extent map, checked in the window.
    :param devices: mirror device by name of the pair.
    :param mounts_dir: folder below which the mirror is mounted read-only for a while.
    :param extras: a tar of label files and logs; empty when there is none.
    :param host: name of the database host in the catalog; None takes that of the map.
    :param retention_days: how long the session must be kept; None for ever.
    :param evidence: what is known of the session so far; it is kept on the tape, for a catalog that is rebuilt.
    :param recipients: whom it is encrypted to; none to write it in the clear.
    :param level: as for choose_level; so is full_every_days.
    """

    session: str
    state_dir: str
    map_path: str
    devices: Mapping[str, str]
    mounts_dir: str
    extras: str = ""
    host: Optional[str] = None
    proof: str = FULL
    queue_depth: int = 64
    buffer_bytes: int = 256 << 20
    retention_days: Optional[float] = None
    evidence: Optional[Mapping[str, Any]] = None
    recipients: Sequence[Recipient] = ()
    level: str = FULL
    full_every_days: float = 7


@dataclass(frozen=True)
class _Ready:
    """All that was proved before the first record."""

    host: str
    devices: dict[int, str]
    size: Estimate
    volumes: VolumeSource
    drive: TapeDrive
    place: WritePosition
    options: WriterOptions
    level: Level
    since: Optional[Since]


def dry_run(job: WriteJob, choose: VolumeChoice) -> dict[str, Any]:
    """Prove what can be proved without writing, and return where the session would be written.

    In check mode the tasks before made no map, so a missing map is not an error.

    :param choose: makes the source of the volumes.
    """
    state = StateDir(job.state_dir)
    with Catalog.open_for(state.catalog_file, writable=False, no_trace=True) as catalog:
        volumes = choose(catalog)
        if not os.path.exists(job.map_path):
            _drive, place = first_place(volumes)
            _prove_options(job, place)
            anew = place.label.volume if place.anew else ""
            level = choose_level(job.level, job.full_every_days, catalog, state, job.host or "", anew=anew)
            return {**_where(place), **_level_facts(level)}
        with MapFile.open(job.map_path, job.session, read_only=True, foreign=True) as map_file:
            ready = _prove_ready(job, catalog, volumes, map_file, compares=False)
        return {
            **_where(ready.place),
            **_level_facts(ready.level),
            "host": ready.host,
            "files": ready.size.files,
            "bytes": ready.size.data_bytes,
            "bytes_archive": ready.size.archive_bytes,
        }


def write_session(job: WriteJob, choose: VolumeChoice, status: Optional[StatusWriter] = None) -> dict[str, Any]:
    """Write the session: prove, write the parts, and return what the verdict needs.

    :param choose: makes the source of the volumes.
    :param status: reports how far the writing has come, in bytes; made here unless it is given.
    :returns: the facts for the catalog and the report; ``evidence`` in it is what catalog_session judges by.
    :raises SplitMirrorError: something was refused, or failed; then the session is not on the volume.
    """
    begun = time.monotonic()
    state = StateDir(job.state_dir)
    folder = state.make_session_dir(job.session)
    if job.mounts_dir == state.mounts_dir:
        state.make_private_dir(state.mounts_dir)
    with ExitStack() as stack:
        stack.enter_context(_alone(folder, job.session))
        catalog = stack.enter_context(Catalog.open(state.catalog_file, writable=True))
        map_file = stack.enter_context(MapFile.open(job.map_path, job.session, read_only=True, foreign=True))
        ready = _prove_ready(job, catalog, choose(catalog), map_file)
        names = parse_names(map_file.meta("names") or "{}")
        mounts = None
        if job.proof != NONE or map_file.counts().fallback:
            mounts = stack.enter_context(
                ReadOnlyMounts(os.path.join(job.mounts_dir, job.session), map_file, ready.devices)
            )
        # The proof starts a process, so it begins before any thread.
        folders = {} if mounts is None else mounts.folders
        since = None if ready.since is None else ready.since.path
        proofs = stack.enter_context(_Proofs(lambda: Proof(job.map_path, folders, job.proof, since)))
        # So does the process that encrypts.
        sealing = None
        if job.recipients:
            sealing = Sealing(job.session, job.recipients, stack.enter_context(Sealer()))
        created_s = time.time()
        expires_s = None if job.retention_days is None else created_s + job.retention_days * _DAY_S
        number = catalog.begin_session(
            job.session, ready.host, created_s, expires_s, level=ready.level.level, base=ready.level.base_id
        )
        changed = _Changed(job.session, number, catalog, proofs, ready.since)
        selection = Selection(changed.entries(), job.extras or None, changed.again)
        source = ArchiveSource(
            ready.devices,
            ready.options,
            Owners(map_file.users(), map_file.groups()),
            changed.fallback(mounts.open if mounts is not None else None),
            # The index grows with the files, and /tmp may lie in memory.
            spool_dir=os.path.dirname(job.map_path),
            ring=make_ring(ready.options),
        )
        head = {
            "session": job.session,
            "host": ready.host,
            "created_s": created_s,
            "expires_s": expires_s,
            "evidence": dict(job.evidence or {}),
            "proof": {"mode": job.proof},
            "names": names,
            **({"level": ready.level.level, "base": ready.level.base_id} if ready.level.base else {}),
        }
        status = status or StatusWriter(state.status_file(job.session), "write", "bytes")
        status.set(0, ready.size.archive_bytes)
        parts = SessionParts(
            catalog,
            number,
            source,
            selection,
            head,
            common=lambda: {"proof": proofs.result(), "names": names, **_kept_facts(ready.level), **changed.counts()},
            # If the mirror was written while it was read, this is not a backup.
            before_end=lambda: check_seals(map_file, ready.devices),
            expected_bytes=ready.size.archive_bytes,
            sealing=sealing,
            status=status,
        )
        done = write_parts(parts, ready.volumes, ready.drive, ready.place)
        status.finish()
        differed = proofs.changes()
    try:
        keep_map(state, job.session, job.map_path, differed, job.extras)
    except SplitMirrorError:
        # The session is written all the same. The next one becomes full, and says that there is no map of this one.
        drop_map(state, job.session)
    seconds = time.monotonic() - begun
    facts = done.facts
    bytes_archive = sum(result.bytes_archive for result in done.results)
    return {
        **_where(done.first),
        **_level_facts(ready.level),
        **{"unchanged": 0, "removed": 0, **changed.counts()},
        "host": ready.host,
        "files": facts["files"],
        "members": facts["members"],
        "bytes": facts["bytes"],
        "bytes_archive": bytes_archive,
        "records": facts["records"],
        "fallback": facts["fallback"],
        "inline": sum(result.inline for result in done.results),
        "sockets": sum(result.skipped for result in done.results),
        "volumes": list(dict.fromkeys(part["volume"] for part in facts["parts"])),
        "proof": facts["proof"],
        "seconds": round(seconds, 3),
        "bytes_per_s": round(bytes_archive / seconds),
        **drive_use(facts, bytes_archive),
        "drive_key": None if done.drive.key is None else done.drive.key.fingerprint,
        "archive": done.drive.data_path(done.first.file_number) if len(facts["parts"]) == 1 else None,
        "evidence": facts,
    }


class _Proofs:
    """The proof of the map, begun once more when a part has to be written again. :param begin: starts its process."""

    def __init__(self, begin: Callable[[], Proof]) -> None:
        self._begin = begin
        self._proof = begin()

    def __enter__(self) -> _Proofs:
        return self

    def __exit__(self, *_error: object) -> None:
        self._proof.close()

    def entries(self) -> Iterator[Mapped]:
        """The entries of the map as the mirror is, in logical order."""
        return self._proof.entries()

    def again(self) -> Iterator[Mapped]:
        """The same, from the first one on."""
        self._proof.close()
        self._proof = self._begin()
        return self._proof.entries()

    def changes(self) -> list[tuple[bytes, str]]:
        """See Proof.changes."""
        return self._proof.changes()

    def result(self) -> dict[str, Any]:
        """See Proof.result."""
        return self._proof.result()


class _Changed:
    """What is written of an incremental session: what changed, and behind it the list of what was removed. Of a full
    one everything.

    :param number: of the session in the catalog. :param since: None for a full session.
    """

    def __init__(self, session: str, number: int, catalog: Catalog, proofs: _Proofs, since: Optional[Since]) -> None:
        self._path = b"/" + removed_name(session)
        self._number = number
        self._catalog = catalog
        self._proofs = proofs
        self._since = since
        self._written = 0
        self._removed = 0

    def entries(self) -> Iterator[Mapped]:
        """The entries to write, in order."""
        return self._with_list(self._proofs.entries())

    def again(self) -> Iterator[Mapped]:
        """The same, from the first one on."""
        return self._with_list(self._proofs.again())

    def counts(self) -> dict[str, int]:
        """How many paths are unchanged, so that the bases have them, and how many were removed; none of a full one."""
        if self._since is None:
            return {}
        found = [what for _path, what in self._proofs.changes()]
        total = self._since.total + found.count(ADDED) - found.count(REMOVED)
        return {"unchanged": max(total - self._written, 0), "removed": self._removed}

    def fallback(self, mounted: Optional[Fallback]) -> Optional[Fallback]:
        """Opens what is read through the mounted mirror, and the list."""
        if self._since is None:
            return mounted

        def opened(entry: FileEntry) -> BinaryIO:
            if entry.path == self._path:
                return open(self._list_path, "rb")
            if mounted is None:
                raise AssertionError(entry)
            return mounted(entry)

        return opened

    @property
    def _list_path(self) -> str:
        return "" if self._since is None else f"{self._since.path}.removed"

    def _with_list(self, entries: Iterator[Mapped]) -> Iterator[Mapped]:
        if self._since is None:
            yield from entries
            return
        self._written = 0
        for mapped in entries:
            self._written += mapped[0].source != SOURCE_SKIP
            yield mapped
        # Only now the proof has found all that differs from the map.
        try:
            with open(self._list_path, "wb", opener=_private) as stream:
                for path in self._since.removed(self._proofs.changes()):
                    stream.write(member_name(path) + b"\0")
                size = stream.tell()
            with open(self._list_path, "rb") as stream:
                self._catalog.set_removed(self._number, _names_in(stream))
        except OSError as exc:
            raise SplitMirrorError(
                f"state_dir: the list of what was removed cannot be kept in {self._list_path} ({exc.strerror}); make "
                "room there.",
                option="state_dir",
                code="state_dir_unusable",
            ) from exc
        self._removed = self._catalog.removed_count(self._number)
        source = SOURCE_MOUNT if size else SOURCE_NONE
        yield FileEntry(self._path, "f", size=size, mtime_ns=time.time_ns(), source=source), []


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _names_in(stream: BinaryIO) -> Iterator[bytes]:
    """The names in a list of what was removed."""
    rest = b""
    while True:
        piece = stream.read(1 << 20)
        if not piece:
            return
        *names, rest = (rest + piece).split(b"\0")
        yield from names


def _prove_ready(
    job: WriteJob, catalog: Catalog, volumes: VolumeSource, map_file: MapFile, *, compares: bool = True
) -> _Ready:
    """Prove the map, the mirror and the volume, and move to where the archive goes.

    :param compares: find out what changed since the base.
    """
    if map_file.meta("state") != "checked":
        raise SplitMirrorError(
            f"map: {job.map_path} was not checked in the window of session {job.session}, so it may be "
            "outdated; copy the map after extent_map with state checked.",
            option="map",
            code="map_outdated",
        )
    devices = check_devices(map_file, job.devices)
    drive, place = first_place(volumes)
    options = _prove_options(job, place)
    host, state = job.host or map_file.meta("host") or "", StateDir(job.state_dir)
    anew = place.label.volume if place.anew else ""
    level = choose_level(job.level, job.full_every_days, catalog, state, host, anew=anew)
    since = None
    if level.base is not None and compares:
        result_path = os.path.join(state.session_dir(job.session), "since.sqlite")
        try:
            since = compare_maps(job.map_path, state.base_map(level.base.id), result_path)
        except MapError as exc:
            level = not_on(level.base, f"their maps cannot be compared ({exc.message.rstrip('.')})")
        else:
            map_file.only(since.path)
    size = estimate(map_file, place.label.record_bytes, job.extras or None)
    if since is not None:
        size = replace(size, archive_bytes=size.archive_bytes + since.removed_bytes)
    if not volumes.goes_on:
        check_room(place, sealed_bytes(size.archive_bytes, len(job.recipients)))
    return _Ready(host, devices, size, volumes, drive, place, options, level, since)


def _level_facts(level: Level) -> dict[str, Any]:
    """How a session is written, as tape_write returns it."""
    return {"level": level.level, "base": level.base_id, "level_reason": level.reason}


def _kept_facts(level: Level) -> dict[str, Any]:
    """The same, as it is kept with the session."""
    return {"level": level.level, "base": level.base_id} if level.base is not None else {}


def _prove_options(job: WriteJob, place: WritePosition) -> WriterOptions:
    """How the pipeline will work. :raises ArchiveError: it cannot work so, or finds no memory."""
    options = WriterOptions(
        record_bytes=place.label.record_bytes, queue_depth=job.queue_depth, buffer_bytes=job.buffer_bytes
    )
    make_ring(options).release()
    return options


def _where(place: WritePosition) -> dict[str, Any]:
    return {
        "volume": place.label.volume,
        "file_number": place.file_number,
        "block": place.block,
        "record_bytes": place.label.record_bytes,
    }


@contextmanager
def _alone(folder: str, session: str) -> Iterator[None]:
    """Keep other processes from writing this session. :raises SplitMirrorError: one is writing it."""
    handle = open_folder(folder)
    try:
        if not try_lock(handle):
            raise SplitMirrorError(
                f"session: {session} is being written by another process; wait for it.",
                option="session",
                code="session_busy",
            )
        yield
    finally:
        os.close(handle)
