# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a session back from tape and compare it with the catalog."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ..archive.index import index_name, read_head, read_member
from ..archive.model import ArchiveError, MemberRecord
from ..archive.spool import Spool
from ..archive.tar_reader import iterate_members
from ..catalog.lookup import complete_parts, parts_in_pool, show_path
from ..catalog.parts import crossed_from, next_of
from ..catalog.records import Part, Session
from ..catalog.store import Catalog
from ..host.status import StatusWriter
from ..tape.base import TapeError
from .losses import DOUBTFUL, MISSING, Losses
from .reading import NOT_REACHED, FoundMember, SessionReader, Unreached
from .scan import Differences, VerifyError, compare, spool
from .sealed import NO_KEYS, Keyring, OpenedStream, PartStream
from .verify_records import verify_records
from .volume_source import Drives


@dataclass
class _Read:
    """What was read so far. :ivar end: where the next member of the part begins in the session; -1 if not known."""

    members: int = 0
    files: int = 0
    size_bytes: int = 0
    end: int = 0


@dataclass(frozen=True)
class _Run:
    """One verification while it is under way."""

    session: Session
    parts: Mapping[int, Part]
    catalog: Catalog
    reader: SessionReader
    losses: Losses
    differences: Differences
    read: _Read


def verify_session(
    session: Session,
    catalog: Catalog,
    drives: Drives,
    *,
    report: bool = True,
    status: Optional[StatusWriter] = None,
    keyring: Keyring = NO_KEYS,
    pool: Optional[str] = None,
) -> dict[str, Any]:
    """Read all parts of a session from tape and compare every member with the catalog and with the indexes on the tape.

    All of it is read, whatever is found; a member is damaged here exactly when it is so for tape_read. Without a key no
    member of an encrypted session can be seen: then its records, their lengths and the filemarks are proved.

    :param report: write the list of damaged members to a file.
    :param status: reports how far the reading has come, in bytes.
    :param keyring: the keys for parts that are encrypted; without any the records alone are proved.
    :param pool: read the copy in this pool; None for what was written first.
    :returns: session, host, members, files, bytes, records_read, volumes, seconds, bytes_per_s, ``proved`` (``content``
        or ``records``), and what Losses and SessionReader say.
    :raises SplitMirrorError: something differs; the sentence, the facts and the report say what. If no member could be
        reached, it is the error of the first volume.
    """
    begun = time.monotonic()
    known = complete_parts(catalog, session) if pool is None else parts_in_pool(catalog, session, pool)
    parts = list(known.values())
    keyring.require_drive_keys(parts, session.id)
    if not keyring.has_identities and any(part.age_head for part in parts):
        return verify_records(session, catalog, drives, parts, status)
    keyring.require(parts, session.id)
    state_dir = os.path.dirname(catalog.path)
    losses = Losses(state_dir if report else None, f"{session.id}-tape_verify")
    if status is not None:
        status.set(0, parts[-1].end_bytes)
    reader = SessionReader(drives, catalog, status, keyring, lambda part: [known[part.part]])
    run = _Run(session, known, catalog, reader, losses, Differences(), _Read())
    headers = hashlib.sha256()
    try:
        for part in parts:
            with spool("index", state_dir, part) as kept:
                if _verify_part(run, part, kept, headers):
                    _compare_index(run, part, kept)
    finally:
        losses.close()
    # Sessions of version 0.1 have no digests of their own for each header.
    if not run.reader.unreached and session.write.get("headers_sha256") not in (None, headers.hexdigest()):
        run.differences.add("the checksum of all headers differs")
    seconds = time.monotonic() - begun
    volumes = list(dict.fromkeys(part.volume for part in parts))
    whole = [part for part in parts if part.part not in run.reader.unreached]
    facts = {**losses.facts(), **run.reader.facts()}
    result = {
        "session": session.id,
        "host": session.host,
        "members": run.read.members,
        "files": run.read.files,
        "bytes": run.read.size_bytes,
        "records_read": sum(part.records for part in whole),
        "volumes": volumes,
        "proved": "content",
        "seconds": round(seconds, 3),
        "bytes_per_s": round(sum(part.records * part.record_bytes for part in whole) / seconds),
    }
    nothing = run.reader.first_error()
    if nothing is not None and not run.read.members:
        nothing.facts = {**result, **facts}
        raise nothing
    if run.differences.count:
        error = VerifyError(
            f"session: {session.id} on {'volume' if len(volumes) == 1 else 'volumes'} {', '.join(volumes)} is not what "
            f"was written, with {run.differences.count} differences ({'; '.join(run.differences.shown)})"
            f"{losses.where()}.",
            option="session",
            code=run.reader.loss_code(),
        )
        error.facts = {**result, **facts}
        raise error
    return {**result, **facts}


def _verify_part(run: _Run, part: Part, kept: Spool, headers: hashlib._Hash) -> bool:
    """Read one part, note what is wrong with it, and return whether its end was reached.

    :param kept: takes its index.
    :param headers: takes the headers of its members.
    """
    index, differences = index_name(run.session.id, part.part), run.differences
    if not part.lead_bytes:
        run.read.end = part.offset_bytes
    for found in run.reader.read((part, member) for member in _members_of(run, part)):
        is_index = found.record.path == index
        if found.header is not None and not is_index:
            headers.update(found.header.header)
        _take(found, run.read, run.losses, differences, kept if is_index else None)
    unreached = run.reader.unreached.get(part.part)
    if unreached is not None:
        differences.add(str(unreached))
        _note_missing(run, unreached)
        run.read.end = -1
        return False
    if next_of(run.parts, part) is not None:
        # It ends inside a member, which was read to its end.
        return False
    stream = run.reader.rest()
    if stream is not None:
        _check_end(stream, run.read.end, part, differences)
    return True


def _members_of(run: _Run, part: Part) -> Iterator[MemberRecord]:
    """The members that begin in a part."""
    after = crossed_from(run.parts, part)
    lists = after[-1] if after and not part.lead_bytes else part
    for _part, member in run.catalog.members(run.session.number, part=lists.part):
        if lists is part and member.offset_bytes >= part.offset_bytes:
            yield member
        elif lists is not part and member.offset_bytes < lists.offset_bytes:
            yield member
            return


def _take(found: FoundMember, read: _Read, losses: Losses, differences: Differences, index: Optional[Spool]) -> None:
    """Read one member to its end and note what is wrong with it. :param index: where to keep it if it is the index."""
    for piece in found.blocks():
        if index is not None:
            index.write(piece)
    if index is not None:
        index.truncate(found.record.size)
    record = found.record
    read.members += 1
    if record.kind == "f" and index is None:
        read.files += 1
        read.size_bytes += record.size
    if found.reason is not None:
        losses.add(MISSING if found.header is None else DOUBTFUL, record.path, found.part.volume, found.reason)
        differences.add(f"{show_path(record.path)}: {found.reason}")
    if read.end not in (-1, record.offset_bytes):
        differences.add(f"there is something before {show_path(record.path)} that is not in the catalog")
    read.end = -1
    if found.header is not None:
        read.end = record.offset_bytes + len(found.header.header) + found.length


def _check_end(stream: PartStream, end: int, part: Part, differences: Differences) -> None:
    """Behind the last member are zeros up to the end of a record, and the filemark."""
    if isinstance(stream, OpenedStream) and stream.head_differs:
        differences.add("the header of the age file is not the one in the catalog")
    try:
        if end >= 0:
            stream.seek(part.place_of(end))
            if next(iterate_members(stream), None) is not None:
                differences.add("something that is not in the catalog follows the index")
        records = stream.skip_to_filemark()
    except (TapeError, ArchiveError) as exc:
        differences.add(f"the end of the archive cannot be read ({exc.message.rstrip('.')})")
        return
    if records != part.records:
        differences.add(f"{records} records were read, and the catalog has {part.records}")


def _note_missing(run: _Run, unreached: Unreached) -> None:
    """Note the members of a part that were not reached."""
    part = unreached.part
    for member in _members_of(run, part):
        if member.offset_bytes >= unreached.offset_bytes:
            run.losses.add(MISSING, member.path, part.volume, NOT_REACHED)
            run.differences.add(f"{show_path(member.path)}: {NOT_REACHED}")


def _compare_index(run: _Run, part: Part, kept: Spool) -> None:
    """Compare the index on the tape with the catalog."""
    index, differences = index_name(run.session.id, part.part), run.differences
    lines = kept.lines()
    line = next(lines, b"")
    if not line:
        differences.add(f"the index on volume {part.volume} is missing")
        return
    try:
        told = read_head(line).get("session")
        if told != run.session.id:
            differences.add(f"the index on volume {part.volume} is that of session {told}")
        expected = (
            member._replace(offset_bytes=part.place_of(member.offset_bytes))
            for _part, member in run.catalog.members(run.session.number, part=part.part)
            if member.path != index
        )
        compare("the index", map(read_member, lines), expected, differences)
    except ArchiveError as exc:
        differences.add(f"the index on volume {part.volume} is damaged ({exc.message.rstrip('.')})")
