# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read members of a session from tape, each from its position in the catalog, so that damage to one affects no other,
and a volume that cannot be had costs only what is on it.

Restore and verify both read members this way, so they report the same damage.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..archive.crossing import read_lead
from ..archive.model import BLOCK_BYTES, ArchiveError, MemberRecord
from ..archive.own_headers import has_own_headers
from ..archive.pax import pad
from ..archive.tar_reader import (
    ByteStream,
    Member,
    check_member_name,
    iterate_members,
)
from ..catalog.lookup import show_path
from ..catalog.parts import crossed_from, next_of, part_of_member
from ..catalog.records import Part
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..host.status import StatusWriter
from ..tape.base import TapeError
from ..tape.tickets import DriveTimeout
from .libraries import LibraryDrives, nearest_first
from .part import tape_stream
from .places import PlacesStream
from .sealed import NO_KEYS, Keyring, PartStream, open_sealed
from .tape_file import TapeStream
from .volume_source import Drives
from .volumes import load_known

Located = tuple[Part, MemberRecord]

#: Why a member is missing that an Unreached covers, which says the rest.
NOT_REACHED = "it was not reached"

_ZEROS = bytes(1 << 20)


class FoundMember:
    """One member, as it is on the tape.

    :ivar record: the member in the catalog.
    :ivar header: its headers, equal to those in the catalog; None if they are lost. Then the member is lost too.
    :ivar length: how many bytes blocks() yields.
    :ivar reason: what is wrong with it; None for nothing. It covers the content when blocks() is exhausted.
    :ivar by_link: nothing but the file that it is a hard link to is lost or doubtful.
    """

    def __init__(self, part: Part, record: MemberRecord, header: Optional[Member], reason: Optional[str]) -> None:
        self.part = part
        self.record = record
        self.header = header
        self.reason = reason
        self.length = 0 if header is None else header.size + pad(header.size)
        self.read_fault = False
        self.by_link = False
        self._again: Callable[[], bool] = _never

    def may_come_again(self, again: Callable[[], bool]) -> FoundMember:
        """The same member. :param again: whether there is another place to read it from."""
        self._again = again
        return self

    @property
    def comes_again(self) -> bool:
        """Something is wrong with it, and it is read once more from another place; ask when blocks() is exhausted."""
        return self.reason is not None and not self.by_link and self._again()

    def blocks(self) -> Iterator[bytes]:
        """The blocks behind the headers. From a bad record on they are zeros, so that tar finds the next member."""
        if self.header is None:
            return
        content = hashlib.sha256()
        missing = self.length
        try:
            for piece in self.header.raw(content, logical=self.record.header_digest is None):
                missing -= len(piece)
                yield piece
        except (TapeError, ArchiveError) as exc:
            self.read_fault = isinstance(exc, TapeError)
            self.reason = _because("zeros stand for content that cannot be read", exc)
            while missing:
                part = min(missing, len(_ZEROS))
                missing -= part
                yield _ZEROS[:part]
            return
        if self.record.kind == "f" and content.hexdigest() != self.record.sha256:
            self.reason = "its content is not what was written"


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Unreached:
    """A part of which nothing could be read from a place on.

    :param offset_bytes: the place, counted in the session. :param error: why.
    """

    part: Part
    offset_bytes: int
    error: TapeError

    def __str__(self) -> str:
        return f"the rest of volume {self.part.volume} cannot be reached ({self.error.message.rstrip('.')})"


class SessionReader:
    """Reads members in the order of their positions, from one part to the next.

    :param status: how far the reading has come, in bytes.
    :param keyring: the keys for parts that are encrypted.
    :param places: gives the places of a part, the first one that was written first; None for all that the catalog has.
    :ivar records_read: how many records were read, labels included.
    :ivar lost: names of members that are lost on what was reached; hard links to them are lost as well.
    :ivar unreached: by number of the part, what could not be reached.
    :ivar damaged: something was reached that is not what was written.
    :ivar no_drive: why no drive is waited for any more; None if none was missed.
    """

    def __init__(
        self,
        drives: Drives,
        catalog: Catalog,
        status: Optional[StatusWriter] = None,
        keyring: Keyring = NO_KEYS,
        places: Optional[Callable[[Part], Sequence[Part]]] = None,
    ) -> None:
        self._drives = drives
        self._keyring = keyring
        self._places = places or self._all_places
        # The tape file that is open; volumes not to read the member from once more, and those that it was read from.
        self._tape: Optional[PlacesStream] = None
        self._avoid: set[str] = set()
        self._used: set[str] = set()
        self._status = status
        self._catalog = catalog
        self._stream: Optional[PartStream] = None
        self._records_before = 0
        self.lost: set[bytes] = set()
        self.unreached: dict[int, Unreached] = {}
        self.damaged = False
        self.no_drive: Optional[DriveTimeout] = None
        # Of the session that is read: its parts by number, and the last one that was opened.
        self._parts: dict[int, Part] = {}
        self._part: Optional[Part] = None
        self._doubtful: set[bytes] = set()

    @property
    def records_read(self) -> int:
        return self._records_before + (0 if self._stream is None else self._stream.records_read)

    def read(self, wanted: Iterable[Located]) -> Iterator[FoundMember]:
        """Read members one by one. The caller takes all blocks of a member before it asks for the next.

        If a volume is another one, or cannot be had, or the drive cannot find a position on it, the rest of its part is
        left out and noted in ``unreached``.
        """
        for part, members in itertools.groupby(wanted, key=lambda located: located[0]):
            is_open = False
            if not self._parts:
                self._parts = {known.part: known for known in self._catalog.parts(part.session)}
            for _part, record in members:
                self._avoid = set()
                again = True
                while again:
                    self._begin_member()
                    try:
                        if not is_open:
                            self._open(part)
                            is_open = True
                        found = self._find(part, record).may_come_again(functools.partial(self._elsewhere, part))
                    except TapeError as exc:
                        self.unreached[part.part] = Unreached(part, record.offset_bytes, exc)
                        break
                    if found.header is not None or not found.comes_again:
                        yield found
                    again = found.comes_again
                    if again:
                        self._avoid |= self._read_from()
                        is_open = False
                else:
                    self._note(found)
                    continue
                break

    def is_unreached(self, part: int, offset_bytes: int) -> bool:
        """Whether the member at this place was not reached."""
        unreached = self.unreached.get(part)
        return unreached is not None and offset_bytes >= unreached.offset_bytes

    def first_error(self) -> Optional[TapeError]:
        """Why the first part was not reached that was not; None if all were."""
        return next((unreached.error for unreached in self.unreached.values()), None)

    def loss_code(self) -> Optional[str]:
        """The code of the error for all that is lost or doubtful; None if nothing is."""
        error = self.first_error()
        return "tape_damaged" if self.damaged else None if error is None else error.code

    def facts(self) -> dict[str, Any]:
        """What a module returns of it."""
        return {
            "unreached": [
                {"volume": unreached.part.volume, "reason": unreached.error.message}
                for unreached in self.unreached.values()
            ]
        }

    def rest(self) -> Optional[PartStream]:
        """The stream, right after the member that was read last; None before the first."""
        return self._stream

    def follow(self, part: Part, record: MemberRecord) -> bool:
        """Go on in the next part with a member that crosses; False when it has none.

        :param part: the one that was read to its end.
        :raises TapeError: that cannot be read. :raises ArchiveError: it does not go on with the member.
        """
        after = next_of(self._parts, self._part or part)
        if after is None:
            return False
        try:
            self._open(after)
            if self._stream is None:
                raise AssertionError("a part is open")
            block = self._stream.read(BLOCK_BYTES)
        except TapeError as exc:
            self.unreached[after.part] = Unreached(self._places(after)[0], after.offset_bytes, exc)
            raise
        told = read_lead(block, self._stream, after.record_bytes)
        if told.name != record.path or told.lead_bytes != after.lead_bytes or told.head.get("part") != after.part:
            raise ArchiveError(f"volume {after.volume} does not go on with it", code="tape_damaged")
        return True

    def read_on(self, size: int) -> bytes:
        """Read from the part that is open; nothing comes at its end. :raises TapeError: it ends too early."""
        stream, part = self._stream, self._part
        if stream is None or part is None:
            raise AssertionError("a part is open")
        data = stream.read(size)
        if not data and stream.archive_bytes() != part.archive_bytes:
            raise TapeError(
                f"volume: {part.volume} has {stream.archive_bytes()} bytes of the part and not {part.archive_bytes}.",
                option="volume",
                code="tape_damaged",
            )
        return data

    def _open(self, part: Part) -> None:
        self._used |= self._read_from()
        places = nearest_first(self._drives, self._places(part))
        places.sort(key=lambda place: place.volume in self._avoid)
        self._records_before = self.records_read
        self._tape = self._stream = None
        self._tape = PlacesStream(places, self._open_place)
        self._part = part
        self._renew(part)

    def _open_place(self, place: Part) -> Callable[[], TapeStream]:
        """See OpenPlace."""
        if self.no_drive is not None and not isinstance(self._drives, LibraryDrives):
            # Do not wait once more for the same drives.
            raise self.no_drive
        try:
            drive = self._drives.exchange(place.volume)
        except DriveTimeout as exc:
            self.no_drive = exc
            raise
        load_known(drive, self._catalog, place.volume)
        drive.set_key(self._keyring.drive_key_of_part(place))
        self._records_before += 1  # the label
        return lambda: tape_stream(drive, place, self._status)

    def _renew(self, part: Part) -> None:
        """Go on with a stream that does not rely on what was read."""
        if self._tape is not None:
            self._stream = open_sealed(self._tape, part, self._keyring) if part.age_head else self._tape

    def _all_places(self, part: Part) -> Sequence[Part]:
        return self._catalog.places(part.session)[part.part]

    def _begin_member(self) -> None:
        self._used = set()
        if self._tape is not None:
            self._tape.used = {self._tape.place.volume}

    def _read_from(self) -> set[str]:
        """The volumes that the member was read from."""
        return self._used | (set() if self._tape is None else self._tape.used)

    def _elsewhere(self, part: Part) -> bool:
        """Whether there is another place from which the member may be read."""
        if self._read_from() <= self._avoid:
            # The last reading tried nothing new.
            return False
        volumes = {place.volume for one in (part, *crossed_from(self._parts, part)) for place in self._places(one)}
        return not volumes <= self._avoid | self._read_from()

    def _find(self, part: Part, record: MemberRecord) -> FoundMember:
        if record.kind == "h" and self._is_lost(part.session, record.linkname or b""):
            lost = FoundMember(
                part, record, None, f"it is a link to {show_path(record.linkname or b'')}, which is lost"
            )
            lost.by_link = True
            return lost
        start = part.place_of(record.offset_bytes)
        stream = self._stream
        if stream is None:
            raise AssertionError("a part is opened before its members are looked for")
        # Moves to the record without reading it. If the drive cannot get there, the reading ends; if the record cannot
        # be read, only this member is lost.
        stream.approach(start)
        try:
            stream.seek(start)
        except TapeError as exc:
            return _without_headers(part, record, exc)
        crosses = next_of(self._parts, part) is not None
        found = look_at(_Following(self, part, record) if crosses else stream, part, record)
        if found.header is not None and record.kind == "h" and record.linkname in self._doubtful:
            found.reason = "it is a link to a file that is doubtful"
            found.by_link = True
        return found

    def _is_lost(self, session: int, name: bytes) -> bool:
        if name in self.lost:
            return True
        place = self._catalog.position(session, name) if self.unreached else None
        if place is None:
            return False
        return self.is_unreached(part_of_member(self._parts, *place).part, place[1])

    def _note(self, found: FoundMember) -> None:
        if found.reason is not None:
            (self.lost if found.header is None else self._doubtful).add(found.record.path)
            # What only a volume that was not reached would tell is not damage.
            after = {part.part for part in crossed_from(self._parts, found.part)}
            self.damaged = self.damaged or not (found.by_link or after & set(self.unreached))
        if found.read_fault and self._part == found.part:
            self._renew(found.part)


class _Following:
    """The archive from a member on, over the ends of the parts that the member crosses."""

    def __init__(self, reader: SessionReader, part: Part, record: MemberRecord) -> None:
        self._reader = reader
        self._part = part
        self._record = record

    def read(self, size: int, /) -> bytes:
        """See ByteStream."""
        while True:
            data = self._reader.read_on(size)
            if data or not self._reader.follow(self._part, self._record):
                return data


def look_at(stream: ByteStream, part: Part, record: MemberRecord) -> FoundMember:
    """Read the headers of a member and compare them with the catalog. :param stream: stands where it begins."""
    try:
        found = next(iterate_members(stream), None)
    except (TapeError, ArchiveError) as exc:
        return _without_headers(part, record, exc)
    reason = _difference(found, record)
    return FoundMember(part, record, found if reason is None else None, reason)


def _without_headers(part: Part, record: MemberRecord, error: SplitMirrorError) -> FoundMember:
    lost = FoundMember(part, record, None, _because("its headers cannot be read", error))
    lost.read_fault = isinstance(error, TapeError)
    return lost


def check_names(name: bytes, kind: str, linkname: Optional[bytes]) -> None:
    """:raises ArchiveError: a member, or the member that a hard link points to, would leave the target."""
    check_member_name(name)
    if kind == "h":
        check_member_name(linkname or b"")


def _difference(found: Optional[Member], record: MemberRecord) -> Optional[str]:
    """Why the member found is not the one in the catalog, or must not be given to tar; None if all is well."""
    if found is None:
        return "the archive ends where it should stand"
    if found.name != record.path:
        return f"{show_path(found.name)} stands in its place"
    seen = found.record(record.sha256)._replace(offset_bytes=record.offset_bytes)
    if record.header_digest is None:
        # version 0.1 took none
        seen = seen._replace(header_digest=None)
    fields = [name for name, one, two in zip(record._fields, record, seen) if one != two]
    if fields:
        return f"its headers are not what was written, they differ in {', '.join(fields)}"
    try:
        if not has_own_headers(found):
            return "its headers are not as a backup writes them"
        # The headers may have a name more than once. Each of them must be harmless, because tar may use any.
        for key in (b"path", b"GNU.sparse.name"):
            if key in found.pax:
                check_member_name(found.pax[key])
        check_names(found.name, found.kind, found.linkname)
    except ArchiveError as exc:
        return exc.message.rstrip(".")
    return None


def _because(what: str, error: SplitMirrorError) -> str:
    return f"{what} ({error.message.rstrip('.')})"
