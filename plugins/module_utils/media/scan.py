# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read one tape file whole, and compare what is on it with what should be.

It is read once, from its first record to its filemark. One spool takes a line for each member that was found, another
takes the index on the tape. For the same members, both have the same lines.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from ..archive.crossing import GLOBAL, Continued, read_lead
from ..archive.index import (
    FORMAT_WITHOUT_HEADERS,
    index_name,
    is_own,
    looks_like_index,
    looks_like_removed,
    member_line,
    read_head,
    read_member,
    removed_name,
)
from ..archive.model import BLOCK_BYTES, ArchiveError, MemberRecord
from ..archive.pax import pad
from ..archive.spool import Spool
from ..archive.tar_reader import PIECE_BYTES, ArchiveCut, Member, check_member_name, iterate_members
from ..catalog.lookup import show_path
from ..catalog.parts import BEFORE, PIECE
from ..catalog.records import Part
from ..errors import SplitMirrorError
from ..tape.base import TapeDrive
from .part import tape_stream
from .sealed import Keyring, PartStream, open_found, unlock

_SHOWN = 5
# Offsets in a session, and what is added to them, stay in the range of SQLite's integers.
_MOST = 1 << 62


class VerifyError(SplitMirrorError):
    """A session on tape is not what the catalog or its own index says."""

    code = "tape_damaged"


@dataclass
class Scan:
    """One tape file as it was read.

    :param observed: spool of one index line for every member but the index.
    :param index: spool of the index as it stands on the tape.
    :param head: the first line of the index; None when there is no index at the end.
    :param end: the index itself, as a member.
    :param sparse: there are sparse files in it.
    :param continued: the lead of a part that goes on with a member.
    :param is_cut: it ends inside a member, and the next part goes on.
    :param piece_sha256: of the data of a member that crosses, as far as it is in this part; None without one.
    :param crossed: the member that began in a part before and ends in this one, as the index lists it; its offset is
        less than 0.
    :param removed: spool for the list of what was removed. :param removed_member: its name; empty if there is none.
    :param headers_sha256: of all headers but that of the index; sessions of version 0.1 have no other proof of them.
    :param archive_bytes: length of the archive.
    :param age_head: header and nonce of the age file that it is in; empty when it is not encrypted. :param age_keys: as
        in Part; :param drive_key: as in Part.
    """

    observed: Spool
    index: Spool
    head: Optional[dict[str, Any]] = None
    end: Optional[MemberRecord] = None
    records: int = 0
    members: int = 0
    files: int = 0
    size_bytes: int = 0
    sparse: bool = False
    headers_sha256: str = ""
    archive_bytes: int = 0
    age_head: bytes = b""
    age_keys: str = ""
    drive_key: str = ""
    continued: Optional[Continued] = None
    is_cut: bool = False
    crossed: Optional[MemberRecord] = None
    piece_sha256: Optional[str] = None
    removed: Optional[Spool] = None
    removed_member: bytes = b""

    @property
    def part_number(self) -> int:
        """Which part of its session this is, from 0. An index without the number is that of the only part.

        :raises ArchiveError: the index does not name the volumes of all parts before it.
        """
        number = _count(self.head, "part")
        if bool(number) != bool(self.offset_bytes):
            raise ArchiveError(
                "the index is of another part than the one that begins there; this collection did not write the "
                "archive.",
                code="tape_damaged",
            )
        if number and len(self.volumes) != number + 1:
            raise ArchiveError(
                "the index does not name the volumes of the parts before this one; this collection did not write the "
                "archive.",
                code="tape_damaged",
            )
        return number

    @property
    def offset_bytes(self) -> int:
        """Where the part begins in its session."""
        return _count(self.head, "offset_bytes")

    @property
    def lead_bytes(self) -> int:
        """Length of the headers with which it goes on with a member."""
        return 0 if self.continued is None else self.continued.lead_bytes

    @property
    def is_last(self) -> bool:
        """No part of the session comes behind this one."""
        return self.head is not None and self.head.get("last", True) is True

    @property
    def volumes(self) -> list[str]:
        """The volumes of the session up to this part, as far as the index has them."""
        volumes = None if self.head is None else self.head.get("volumes")
        return [str(volume) for volume in volumes] if isinstance(volumes, list) else []

    @property
    def is_old(self) -> bool:
        """Version 0.1 wrote it."""
        return self.head is not None and self.head["format_version"] == FORMAT_WITHOUT_HEADERS

    def observed_members(self) -> Iterator[MemberRecord]:
        """What was found on the tape, in order; as much of it as its index can prove."""
        members = (read_member(line) for line in self.observed.lines())
        return (member._replace(header_digest=None) for member in members) if self.is_old else members

    def index_members(self) -> Iterator[MemberRecord]:
        """What the index on the tape says of the members that begin in this part, in order."""
        begin = 1 if self.continued is None else 2
        return (read_member(line) for line in itertools.islice(self.index.lines(), begin, None))

    def removed_names(self) -> Optional[Iterator[bytes]]:
        """Names of members that the session removed, by the list in this part; None where it has none."""
        head = self.head or {}
        if not head.get("base") or self.removed_member != removed_name(str(head.get("session"))):
            return None
        return self._removed_names()

    def _removed_names(self) -> Iterator[bytes]:
        """:raises ArchiveError: the list is not as a backup writes it."""
        if self.removed is None:
            return
        self.removed.rewind()
        piece, rest = bytearray(PIECE_BYTES), b""
        while True:
            size = self.removed.readinto(memoryview(piece))
            if not size:
                break
            *names, rest = (rest + piece[:size]).split(b"\0")
            for name in names:
                yield check_member_name(bytes(name))
        if rest:
            raise ArchiveError("the list of what was removed is cut short.", code="tape_damaged")

    def all_members(self) -> Iterator[MemberRecord]:
        """What the index lists, as it was found, and the index itself, with their offsets in the session."""
        offset_bytes = self.offset_bytes - self.lead_bytes
        for member in self._found_members():
            yield member._replace(offset_bytes=member.offset_bytes + offset_bytes) if offset_bytes else member

    def _found_members(self) -> Iterator[MemberRecord]:
        if self.is_cut:
            # The index of the part in which it ends lists the member.
            return
        if self.crossed is not None:
            yield self.crossed
        yield from self.observed_members()
        if self.end is not None:
            yield self.end._replace(header_digest=None) if self.is_old else self.end


def _count(head: Optional[dict[str, Any]], key: str) -> int:
    """A number of the index's first line, 0 when it is not there. :raises ArchiveError: it is not a number."""
    value = 0 if head is None else head.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ArchiveError(
            f"the index has {value!r} as {key}; this collection did not write the archive.", code="tape_damaged"
        )
    return value


@dataclass
class Differences:
    """Counts differences and keeps the first ones in words."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.shown.append(text)


@contextmanager
def scan(drive: TapeDrive, part: Part, spool_dir: str, keyring: Keyring) -> Iterator[Scan]:
    """Read one tape file to its filemark and take the checksums of what is in it.

    :param part: where it is; its volume is in the drive. Whether it is encrypted is seen from the tape file.
    :param spool_dir: folder for the spools, which grow with the files.
    :raises SplitMirrorError: a record is bad, it is not an archive, it has no filemark, no key opens it, or the spools
        have no room.
    """
    with (
        spool("observed", spool_dir, part) as observed,
        spool("index", spool_dir, part) as index,
        spool("removed", spool_dir, part) as removed,
    ):
        part = unlock(drive, part, keyring)
        stream, sealed = open_found(tape_stream(drive, part), part, keyring)
        found = Scan(
            observed,
            index,
            age_head=sealed.age_head,
            age_keys=sealed.age_keys,
            drive_key=sealed.drive_key,
            removed=removed,
        )
        read = _scan(stream, found, part.record_bytes, logical=False)
        if read.is_old and read.sparse:
            # What the checksums of its sparse files cover is known only now, behind them.
            for spooled in (observed, index):
                spooled.truncate()
            read = _scan(tape_stream(drive, part), Scan(observed, index), part.record_bytes, logical=True)
        yield read


@contextmanager
def scan_known(stream: PartStream, part: Part, spool_dir: str, *, logical: bool) -> Iterator[Scan]:
    """As scan, for a part that the catalog knows and that is read from somewhere else, once from its beginning on.

    :param stream: the archive. :param logical: version 0.1 wrote it.
    :raises SplitMirrorError: see scan.
    """
    with spool("observed", spool_dir, part) as observed, spool("index", spool_dir, part) as index:
        yield _scan(stream, Scan(observed, index), part.record_bytes, logical=logical)


def _scan(stream: PartStream, read: Scan, record_bytes: int, *, logical: bool) -> Scan:
    headers = hashlib.sha256()
    try:
        for member in iterate_members(stream, _pass_rest(stream, read, record_bytes)):
            _take(read, member, logical=logical)
            if read.end is None:
                headers.update(member.header)
    except ArchiveCut:
        if read.head is None or not read.is_cut:
            raise
    read.headers_sha256 = headers.hexdigest()
    read.records = stream.skip_to_filemark()
    read.archive_bytes = stream.archive_bytes()
    if read.continued is not None:
        _take_crossed(read, read.continued)
    return read


def _pass_rest(stream: PartStream, read: Scan, record_bytes: int) -> int:
    """Read the rest of a member that began in a part before, if there is one; return where the first member begins.

    :raises ArchiveCut: the member goes on in the next part.
    """
    first = stream.read(BLOCK_BYTES)
    if first[156:157] != GLOBAL:
        stream.seek(0)
        return 0
    told = read.continued = read_lead(first, stream, record_bytes)
    left = told.left + pad(told.left)
    data = hashlib.sha256()
    while left:
        piece = stream.read(min(left, PIECE_BYTES))
        if not piece:
            read.head, read.is_cut, read.piece_sha256 = told.head, True, data.hexdigest()
            raise ArchiveCut(f"{show_path(told.name)} goes on in the next part.")
        data.update(piece[: max(left - pad(told.left), 0)])
        left -= len(piece)
    read.piece_sha256 = data.hexdigest()
    return told.lead_bytes + told.left + pad(told.left)


def _take_crossed(read: Scan, told: Continued) -> None:
    """Compare a lead with the index, and take what that says of the member which ends here.

    :raises ArchiveError: they contradict each other.
    """
    if read.head is None:
        return
    said = ("session", "part", "offset_bytes", "volumes", "created_s", BEFORE)
    agrees = all(read.head.get(key) == told.head.get(key) for key in said) and read.part_number > 0
    if not read.is_cut:
        if read.head.get(PIECE) != read.piece_sha256:
            raise ArchiveError(f"{show_path(told.name)}: its data are not what was written.", code="tape_damaged")
        crossed = read_member(next(itertools.islice(read.index.lines(), 1, None), b""))
        agrees = agrees and crossed.path == told.name and crossed.size == told.offset + told.left
        begin = crossed.offset_bytes + read.offset_bytes - read.lead_bytes
        agrees = agrees and crossed.kind == "f" and 0 <= begin < read.offset_bytes
        read.crossed = crossed
    if not agrees:
        raise ArchiveError(
            f"the headers with which {show_path(told.name)} goes on contradict the index; this collection did not "
            "write the archive.",
            code="tape_damaged",
        )


def _take(read: Scan, member: Member, *, logical: bool) -> None:
    """Take in one member. :param logical: take checksums of contents with holes as zeros, as version 0.1 did."""
    if read.end is not None:
        raise ArchiveError(
            f"{show_path(member.name)} follows the index; this collection did not write the archive.",
            code="tape_damaged",
        )
    read.members += 1
    if looks_like_index(member.name):
        content = hashlib.sha256()
        for piece in member.content():
            content.update(piece)
            read.index.write(piece)
        read.head = read_head(next(read.index.lines(), b""))
        if index_name(str(read.head.get("session")), read.part_number) != member.name:
            raise ArchiveError(
                "the index has the name of the index of another session or part; this collection did not write the "
                "archive.",
                code="tape_damaged",
            )
        read.end = member.record(content.hexdigest())
        return
    sha256 = None
    if member.kind == "f" and not member.offset_bytes and b"comment" in member.pax:
        # If the data are cut, this is all that is known of the part.
        read.head, read.is_cut = read_head(member.pax[b"comment"]), True
    if member.kind == "f":
        if read.is_cut:
            sha256 = _first_piece(read, member)
            read.head, read.is_cut = None, False
        else:
            sha256 = _take_removed(read, member) if looks_like_removed(member.name) else member.sha256(logical=logical)
        read.sparse = read.sparse or member.sparse is not None
        if not is_own(member.name):
            read.files += 1
            read.size_bytes += member.real_size
    read.observed.write(member_line(member.record(sha256)))


def _take_removed(read: Scan, member: Member) -> str:
    """Take in the list of what was removed, and return its checksum."""
    if read.removed is None:
        return member.sha256()
    content = hashlib.sha256()
    for piece in member.content():
        content.update(piece)
        read.removed.write(piece)
    read.removed_member = member.name
    return content.hexdigest()


def _first_piece(read: Scan, member: Member) -> str:
    """The checksum of a member that may be cut. :raises ArchiveCut: it is; then that of the piece is taken."""
    data = hashlib.sha256()
    try:
        for _piece in member.raw(data):
            pass
    except ArchiveCut as exc:
        data.update(exc.data)
        read.piece_sha256 = data.hexdigest()
        raise
    return data.hexdigest()


def compare_index(read: Scan, session: str, found: Differences) -> None:
    if read.is_cut:
        # It has no index: the part in which the member ends lists it.
        return
    if read.head is None:
        found.add("the index is missing")
        return
    if read.head.get("session") != session:
        found.add(f"the index is that of session {read.head.get('session')}")
    compare("the index", read.index_members(), read.observed_members(), found)


def compare(what: str, expected: Iterable[MemberRecord], observed: Iterable[MemberRecord], found: Differences) -> None:
    for old, new in itertools.zip_longest(expected, observed):
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


def spool(name: str, folder: str, part: Part) -> Spool:
    """A file for what is read of a part; it grows with the files. :raises VerifyError: it has no room."""

    def error(where: str, reason: str) -> VerifyError:
        return VerifyError(
            f"state_dir: what was read of tape file {part.file_number} cannot be kept in {where} ({reason}); make room "
            "there.",
            option="state_dir",
        )

    # In check mode the state folder may not be there yet.
    return Spool(name, folder if os.path.isdir(folder) else None, error)
