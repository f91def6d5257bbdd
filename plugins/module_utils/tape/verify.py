# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read whole sessions back from tape: compare them with the catalog, or rebuild the catalog from them.

A tape file is read once from its first record to its filemark. What every member is found to be goes into a spool, the
index that stands on the tape into another; both have the same lines for the same members.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, BinaryIO, Optional, cast

from ..archive.index import index_name, member_line, read_head, read_member
from ..archive.model import ArchiveError, MemberRecord
from ..archive.reader import Hasher, Member, iterate_members
from ..catalog.lookup import complete_parts, show_path
from ..catalog.store import Catalog, Part, Session, Volume
from ..catalog.verdict import judge
from ..errors import SplitMirrorError
from .base import EndOfData, Position, TapeDrive, TapeError
from .stream import TapeStream
from .volumes import enter_label, load_known, load_labelled

_SHOWN = 5
_BATCH_MEMBERS = 5000


class VerifyError(SplitMirrorError):
    """A session on tape is not what the catalog or its own index says."""


@dataclass
class Scan:
    """One tape file as it was read.

    :param observed: spool of one index line for every member but the index.
    :param index: spool of the index as it stands on the tape.
    :param head: the first line of the index; None when there is no index at the end.
    :param end: the index itself, as a member.
    """

    observed: BinaryIO
    index: BinaryIO
    head: Optional[dict[str, Any]] = None
    end: Optional[MemberRecord] = None
    records: int = 0
    members: int = 0
    files: int = 0
    size_bytes: int = 0
    headers_sha256: str = ""

    def observed_members(self) -> Iterator[MemberRecord]:
        """What was found on the tape, in order."""
        self.observed.seek(0)
        return (read_member(line) for line in self.observed)

    def index_members(self) -> Iterator[MemberRecord]:
        """What the index on the tape says, in order."""
        self.index.seek(0)
        self.index.readline()
        return (read_member(line) for line in self.index)


@dataclass
class _Differences:
    """Counts differences and keeps the first ones in words."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.shown.append(text)


def needed_volume(session: Session, catalog: Catalog) -> str:
    """The volume that verify_session reads. :raises CatalogError: the session has no complete archive."""
    return complete_parts(catalog, session)[0].volume


def verify_session(session: Session, catalog: Catalog, drive: TapeDrive) -> dict[str, Any]:
    """Read a session from tape and compare every member with the catalog and with the index on the tape.

    :returns: session, host, members, files, bytes, records_read, volumes, seconds, bytes_per_s.
    :raises SplitMirrorError: something differs; the message says what.
    """
    begun = time.monotonic()
    found = _Differences()
    (part,) = complete_parts(catalog, session).values()
    load_known(drive, catalog, part.volume)
    with scan(drive, part.file_number, part.block, part.record_bytes) as read:
        expected = (member for _part, member in catalog.members(session.number))
        _compare("the catalog", expected, _with_index(read), found)
        _compare_index(read, session.id, found)
        if read.records != part.records:
            found.add(f"{read.records} records were read and the catalog has {part.records}")
        if read.headers_sha256 != session.write.get("headers_sha256"):
            found.add("the checksum of all headers differs")
        if found.count:
            raise VerifyError(
                f"session: {session.id} on volume {part.volume} is not what was written, with {found.count} "
                f"differences ({'; '.join(found.shown)}).",
                option="session",
            )
        seconds = time.monotonic() - begun
        return {
            "session": session.id,
            "host": session.host,
            "members": read.members,
            "files": read.files,
            "bytes": read.size_bytes,
            "records_read": read.records,
            "volumes": [part.volume],
            "seconds": round(seconds, 3),
            "bytes_per_s": round(read.records * part.record_bytes / seconds),
        }


def rebuild(volume: str, catalog: Catalog, drive: TapeDrive, *, only_look: bool = False) -> dict[str, Any]:
    """Read all sessions of a volume and enter those that the catalog does not have, each with its verdict.

    A session is judged by the evidence in its index and by what the reading itself proves. A tape file that is no whole
    session is entered as none, and the volume counts as used up to its end.

    :param only_look: enter nothing.
    :returns: volume, ``entered``, ``known`` and ``damaged`` (a list of dicts), and whether the catalog ``changed``.
    :raises SplitMirrorError: the volume is not ours, or its name belongs to another one with unexpired data.
    """
    label = load_labelled(drive, volume)
    known = catalog.volume(volume)
    result: dict[str, Any] = {"volume": volume, "entered": [], "known": [], "damaged": []}
    changed = known is None or known.uuid != label.uuid
    if changed:
        catalog.refuse_unexpired(volume)
        if not only_look:
            enter_label(catalog, label)
    file_number, block = 1, 2
    while _goes_on(drive, Position(file_number, 0), block):
        try:
            with scan(drive, file_number, block, label.record_bytes) as read:
                part = Part(0, 0, volume, file_number, block, label.record_bytes, 0, read.records, True)
                if _enter(read, part, catalog, result, only_look=only_look):
                    changed = True
            records = read.records
        except SplitMirrorError as exc:
            result["damaged"].append({"file_number": file_number, "reason": exc.message})
            ended = _length(drive, file_number, block)
            if ended is None:
                break
            records = ended
        block += records + 1
        file_number += 1
    end = Volume(label.volume, label.uuid, label.pool, label.record_bytes, label.created, file_number, block)
    if catalog.volume(volume) != end:
        changed = True
        if not only_look:
            catalog.set_volume_end(volume, file_number, block)
    return {**result, "changed": changed}


@contextmanager
def scan(drive: TapeDrive, file_number: int, block: int, record_bytes: int) -> Iterator[Scan]:
    """Read one tape file to its filemark and take the checksums of what is in it.

    :raises SplitMirrorError: a record is bad, it is no archive, or it has no filemark.
    """
    headers = hashlib.sha256()
    stream = TapeStream(drive, file_number, block, record_bytes)
    with _spool("observed") as observed, _spool("index") as index:
        read = Scan(observed, index)
        for member in iterate_members(stream):
            _take(read, member, headers)
        read.records = stream.skip_to_filemark()
        read.headers_sha256 = headers.hexdigest()
        yield read


def _take(read: Scan, member: Member, headers: Hasher) -> None:
    """Take in one member, and its header unless it is the index."""
    if read.end is not None:
        raise ArchiveError(
            f"{show_path(member.name)} stands behind the index of the session; it is no archive of ours."
        )
    read.members += 1
    name = member.name.split(b"/")
    if len(name) == 3 and name[0] == b".splitmirror" and name[2] == b"index.jsonl":
        content = hashlib.sha256()
        for piece in member.content():
            content.update(piece)
            read.index.write(piece)
        read.index.seek(0)
        read.head = read_head(read.index.readline())
        if index_name(str(read.head.get("session"))) != member.name:
            raise ArchiveError("the index of the session has the name of another one; it is no archive of ours.")
        read.end = _record(member, content.hexdigest())
        return
    headers.update(member.header)
    sha256 = None
    if member.kind == "f":
        sha256 = member.sha256()
        read.files += 1
        read.size_bytes += member.real_size
    read.observed.write(member_line(_record(member, sha256)))


def _record(member: Member, sha256: Optional[str]) -> MemberRecord:
    return MemberRecord(
        member.name,
        member.kind,
        member.real_size,
        member.offset_bytes,
        len(member.header),
        sha256,
        member.mtime_ns,
        member.mode,
        member.uid,
        member.gid,
        member.linkname if member.kind in "hl" else None,
    )


def _with_index(read: Scan) -> Iterator[MemberRecord]:
    yield from read.observed_members()
    if read.end is not None:
        yield read.end


def _compare_index(read: Scan, session: str, found: _Differences) -> None:
    if read.head is None:
        found.add("its index is missing")
        return
    if read.head.get("session") != session:
        found.add(f"its index is that of session {read.head.get('session')}")
    _compare("its index", read.index_members(), read.observed_members(), found)


def _compare(
    what: str, expected: Iterable[MemberRecord], observed: Iterable[MemberRecord], found: _Differences
) -> None:
    for old, new in zip_longest(expected, observed):
        if old == new:
            continue
        if new is None:
            found.add(f"{show_path(old.path)} is in {what} and not on the tape")
        elif old is None:
            found.add(f"{show_path(new.path)} is on the tape and not in {what}")
        elif old.path != new.path:
            found.add(f"{show_path(new.path)} is on the tape where {what} has {show_path(old.path)}")
        else:
            fields = [name for name, one, two in zip(old._fields, old, new) if one != two]
            found.add(f"{show_path(old.path)} differs from {what} in {', '.join(fields)}")


def _enter(read: Scan, part: Part, catalog: Catalog, result: dict[str, Any], *, only_look: bool) -> bool:
    """Enter a session that was read, unless the catalog has it; True when something changes by that.

    :raises SplitMirrorError: it is no whole session, or not what its own index says.
    """
    found = _Differences()
    session = "" if read.head is None else str(read.head.get("session"))
    _compare_index(read, session, found)
    if found.count or read.head is None or read.end is None:
        raise VerifyError(f"it is no whole session ({'; '.join(found.shown)}).")
    known = catalog.session(session)
    if known is not None and any(_same_place(part, other) for other in catalog.parts(known.number)):
        result["known"].append({"session": session, "state": known.state, "file_number": part.file_number})
        return False
    proof = read.head.get("proof")
    write = {
        "complete": True,
        "filemark": True,
        "checksums": True,
        "members": read.members,
        "files": read.files,
        "bytes": read.size_bytes,
        "records": read.records,
        "volume": part.volume,
        "file_number": part.file_number,
        "headers_sha256": read.headers_sha256,
        # an archive gets its index only when the proof came to its end
        "proof": {**proof, "complete": True} if isinstance(proof, dict) else None,
    }
    evidence = {**dict(read.head.get("evidence") or {}), "session": session, "write": write}
    verdict = judge(evidence, session)
    if not only_look:
        number = catalog.begin_session(
            session, str(read.head.get("host", "")), float(read.head.get("created_s", 0)), read.head.get("expires_s")
        )
        entered = part._replace(session=number)
        catalog.begin_part(entered._replace(complete=False))
        batch: list[MemberRecord] = []
        for member in _with_index(read):
            batch.append(member)
            if len(batch) >= _BATCH_MEMBERS:
                catalog.add_members(number, 0, batch)
                batch = []
        catalog.add_members(number, 0, batch)
        catalog.finish_part(entered, files=read.files, size_bytes=read.size_bytes, write=write)
        catalog.close_session(session, verdict, evidence)
    result["entered"].append(
        {
            "session": session,
            "state": "good" if verdict.good else "failed",
            "reason": verdict.reason,
            "file_number": part.file_number,
        }
    )
    return True


def _same_place(part: Part, other: Part) -> bool:
    return other.complete and (part.volume, part.file_number, part.block) == (
        other.volume,
        other.file_number,
        other.block,
    )


def _goes_on(drive: TapeDrive, place: Position, block: int) -> bool:
    """Something stands at this place."""
    try:
        drive.locate(place, block)
        drive.pass_record()
    except EndOfData:
        return False
    except TapeError:
        return True
    return True


def _length(drive: TapeDrive, file_number: int, block: int) -> Optional[int]:
    """Records of a tape file that is no session; None when it has no filemark, so that nothing follows."""
    drive.locate(Position(file_number, 0), block)
    try:
        drive.space_files(1)
    except EndOfData:
        return None
    told = drive.tell_block()
    if told is not None:
        return told - 1 - block
    drive.locate(Position(file_number, 0), block)
    records = 0
    while True:
        try:
            if not drive.pass_record():
                return records
        except EndOfData:
            return None
        records += 1


@contextmanager
def _spool(name: str) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile(prefix=f"splitmirror-{name}-") as stream:
        yield cast(BinaryIO, stream)
