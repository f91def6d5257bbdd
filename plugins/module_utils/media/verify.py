# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a session back from tape and compare it with the catalog."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Optional

from ..archive.index import index_name, read_head, read_member
from ..archive.model import ArchiveError, MemberRecord
from ..archive.tar_reader import iterate_members
from ..catalog.lookup import complete_parts, show_path
from ..catalog.records import Part, Session
from ..catalog.store import Catalog
from ..host.status import StatusWriter
from ..tape.base import TapeDrive, TapeError
from .losses import DOUBTFUL, MISSING, Losses
from .reading import FoundMember, Located, SessionReader
from .scan import Differences, VerifyError, compare, keeping, spool
from .tape_file import TapeStream


@dataclass
class _Read:
    """What was read so far."""

    members: int = 0
    files: int = 0
    size_bytes: int = 0
    end: int = 0


def needed_volume(session: Session, catalog: Catalog) -> str:
    """The volume that verify_session reads. :raises CatalogError: the session has no complete archive."""
    return complete_parts(catalog, session)[0].volume


def verify_session(
    session: Session, catalog: Catalog, drive: TapeDrive, *, report: bool = True, status: Optional[StatusWriter] = None
) -> dict[str, Any]:
    """Read a session from tape and compare every member with the catalog and with the index on the tape.

    All of it is read, whatever is found; a member is damaged here exactly when it is so for tape_read.

    :param report: write the list of damaged members to a file.
    :param status: where it is told how far the reading has come.
    :returns: session, host, members, files, bytes, records_read, volumes, seconds, bytes_per_s.
    :raises SplitMirrorError: something differs; the sentence, the facts and the report say what.
    """
    begun = time.monotonic()
    differences = Differences()
    (part,) = complete_parts(catalog, session).values()
    state_dir = os.path.dirname(catalog.path)
    losses = Losses(state_dir if report else None, f"{session.id}-tape_verify")
    if status is not None:
        status.set(0, part.records * part.record_bytes)
    reader = SessionReader(drive, catalog, status)
    read = _Read()
    headers = hashlib.sha256()
    index = index_name(session.id)
    with keeping(part.file_number, state_dir), spool("index", state_dir) as kept:
        try:
            for found in reader.read(_located(catalog, session, part)):
                is_index = found.record.path == index
                if found.header is not None and not is_index:
                    headers.update(found.header.header)
                _take(found, read, losses, differences, kept if is_index else None)
            stream = reader.rest()
            if stream is not None:
                _check_end(stream, read.end, part, differences)
        except TapeError as exc:
            if not read.members:
                raise
            differences.add(f"the rest cannot be reached ({exc.message.rstrip('.')})")
            _note_missing(catalog, session, read.members, losses, differences)
        finally:
            losses.close()
        # Sessions of version 0.1 have no digests of their own for each header.
        if session.write.get("headers_sha256") not in (None, headers.hexdigest()):
            differences.add("the checksum of all headers differs")
        _compare_index(kept, session, catalog, index, differences)
    seconds = time.monotonic() - begun
    result = {
        "session": session.id,
        "host": session.host,
        "members": read.members,
        "files": read.files,
        "bytes": read.size_bytes,
        "records_read": part.records,
        "volumes": [part.volume],
        "seconds": round(seconds, 3),
        "bytes_per_s": round(part.records * part.record_bytes / seconds),
    }
    if differences.count:
        error = VerifyError(
            f"session: {session.id} on volume {part.volume} is not what was written, with {differences.count} "
            f"differences ({'; '.join(differences.shown)}){losses.where()}.",
            option="session",
        )
        error.facts = {**result, **losses.facts()}
        raise error
    return {**result, **losses.facts()}


def _located(catalog: Catalog, session: Session, part: Part) -> Iterator[Located]:
    return ((part, member) for _part, member in catalog.members(session.number))


def _take(found: FoundMember, read: _Read, losses: Losses, differences: Differences, index: Optional[BinaryIO]) -> None:
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
        losses.add(MISSING if found.header is None else DOUBTFUL, record.path, found.reason)
        differences.add(f"{show_path(record.path)}: {found.reason}")
    if read.end not in (-1, record.offset_bytes):
        differences.add(f"before {show_path(record.path)} something stands that is not in the catalog")
    read.end = -1
    if found.header is not None:
        read.end = record.offset_bytes + len(found.header.header) + found.length


def _check_end(stream: TapeStream, end: int, part: Part, differences: Differences) -> None:
    """Behind the last member are zeros up to the end of a record, and the filemark."""
    try:
        if end >= 0:
            stream.seek(end)
            if next(iterate_members(stream), None) is not None:
                differences.add("more stands behind its index than the catalog has")
        records = stream.skip_to_filemark()
    except (TapeError, ArchiveError) as exc:
        differences.add(f"its end cannot be read ({exc.message.rstrip('.')})")
        return
    if records != part.records:
        differences.add(f"{records} records were read and the catalog has {part.records}")


def _note_missing(catalog: Catalog, session: Session, done: int, losses: Losses, differences: Differences) -> None:
    """Note the members that were not come to."""
    for number, (_part, member) in enumerate(catalog.members(session.number)):
        if number >= done:
            losses.add(MISSING, member.path, "it was not reached")
            differences.add(f"{show_path(member.path)} is in the catalog and not on the tape")


def _compare_index(kept: BinaryIO, session: Session, catalog: Catalog, index: bytes, differences: Differences) -> None:
    """Compare the index on the tape with the catalog."""
    kept.seek(0)
    line = kept.readline()
    if not line:
        differences.add("its index is missing")
        return
    try:
        told = read_head(line).get("session")
        if told != session.id:
            differences.add(f"its index is that of session {told}")
        expected = (member for _part, member in catalog.members(session.number) if member.path != index)
        compare("its index", _lines(kept), expected, differences)
    except ArchiveError as exc:
        differences.add(f"its index is damaged ({exc.message.rstrip('.')})")


def _lines(kept: BinaryIO) -> Iterator[MemberRecord]:
    for line in kept:
        yield read_member(line)
