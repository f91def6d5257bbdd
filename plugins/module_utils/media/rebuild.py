# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rebuild the catalog from a volume."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Optional

from ..catalog.parts import BEFORE, PIECE, broken_part, join_facts, missing_parts, part_facts
from ..catalog.records import DAMAGED, FAILED, FULL, GOOD, LEVELS, OPEN, Part, Session
from ..catalog.standing import standing_of
from ..catalog.store import Catalog, damaged_name, first_volume, named_volumes
from ..catalog.verdict import judge
from ..crypt.primitives import CryptError
from ..errors import SplitMirrorError
from ..host.files import open_folder, try_lock
from ..session import StateDir, check_session_id
from ..tape.base import (
    EndOfData,
    Position,
    TapeDrive,
    TapeError,
)
from .scan import Differences, Scan, VerifyError, compare, compare_index, scan
from .sealed import NO_KEYS, Keyring, NoKey
from .volumes import enter_label, load_labelled, note_capacity


def rebuild(
    volume: str,
    catalog: Catalog,
    drive: TapeDrive,
    *,
    allow_last: bool = False,
    dry_run: bool = False,
    keyring: Keyring = NO_KEYS,
) -> dict[str, Any]:
    """Read all parts of sessions on a volume and enter those that the catalog does not have.

    A session is judged by the evidence in its index and by what the reading itself proves, when all its parts are in
    the catalog; until then it is damaged, and its reason says which part is missing. A tape file that is no whole
    archive is entered as damaged: most of it may still be read, so it is kept until it is said to expire. Only what an
    interrupted writer left behind the last filemark is given to the next session. A tape file that no key opens is
    entered as damaged too, unless the catalog has it; it becomes a session when the volume is read with the key.

    A part that the catalog has elsewhere is entered as a copy. Until when a copy is kept is not on the volume, so it is
    kept for ever, until session_copy is told something else.

    :param allow_last: forget also the last good session of a host, on another volume of that name.
    :param dry_run: enter nothing.
    :param keyring: the keys for parts that are encrypted.
    :returns: volume, ``entered``, ``known`` and ``damaged`` (lists of dicts), and whether the catalog ``changed``.
    :raises SplitMirrorError: the volume is not ours, its name belongs to another one with unexpired data, or the state
        folder cannot be written.
    """
    label = load_labelled(drive, volume)
    known = catalog.volume(volume)
    result: dict[str, Any] = {"volume": volume, "entered": [], "known": [], "damaged": []}
    changed = known is None or known.uuid != label.uuid
    if changed:
        catalog.refuse_needed(volume, allow_last=allow_last)
        if not dry_run:
            enter_label(catalog, label, allow_last=allow_last)
    file_number, block = 1, 2
    unfinished = False
    at_end = False
    while _goes_on(drive, Position(file_number, 0), block):
        part = Part(0, 0, volume, file_number, block, label.record_bytes, 0, 0, True)
        whole = False
        try:
            with scan(drive, part, os.path.dirname(catalog.path), keyring) as read:
                part = part._replace(
                    records=read.records,
                    archive_bytes=read.archive_bytes,
                    age_head=read.age_head,
                    age_keys=read.age_keys,
                    drive_key=read.drive_key,
                )
                _prove_whole(read)
                whole = True
                if _enter(read, part, catalog, result, dry_run=dry_run):
                    changed = True
        except SplitMirrorError as exc:
            if exc.option == "state_dir":
                raise
            if isinstance(exc, NoKey):
                part = part._replace(
                    age_head=exc.part.age_head, age_keys=exc.part.age_keys, drive_key=exc.part.drive_key
                )
                same = _same_part(catalog, part)
                if same is not None:
                    session, length = same
                    result["known"].append({"session": session.id, "state": session.state, "file_number": file_number})
                    block += length + 1
                    file_number += 1
                    continue
            damage: dict[str, Any] = {"session": None, "file_number": file_number, "reason": exc.message}
            result["damaged"].append(damage)
            records = _length(drive, file_number, block)
            if records is None:
                # If the catalog has an archive here or later, the early end is damage, not left by a dead writer.
                unfinished = not catalog.finished(volume, file_number) and (
                    catalog.unfinished(volume, file_number)
                    or _can_be_read(drive, file_number, block, label.record_bytes)
                )
                break
            twins = catalog.parts_with_head(part.age_head) if isinstance(exc, NoKey) and part.age_head else []
            if twins and twins[0].records == records and catalog.session_in(volume, file_number) is None:
                result["damaged"].pop()
                copied = twins[0]._replace(volume=volume, file_number=file_number, block=block, sha256=b"")
                _enter_copy(catalog, copied, None, result, dry_run=dry_run)
                changed = True
                block += records + 1
                file_number += 1
                continue
            part = part._replace(records=records, archive_bytes=records * part.record_bytes)
            old = catalog.session_in(volume, file_number)
            damage["session"] = damaged_name(volume, file_number) if old is None else old.id
            if old is None:
                changed = True
                if not dry_run:
                    _keep(
                        damage["session"],
                        part,
                        exc.message,
                        catalog,
                        no_archive=not (whole or isinstance(exc, (TapeError, CryptError))),
                    )
        block += part.records + 1
        file_number += 1
    else:
        at_end = True
    end = (label.uuid, file_number, block)
    entered = catalog.volume(volume)
    if (
        entered is None
        or (entered.uuid, entered.files, entered.blocks) != end
        or catalog.unfinished(volume, file_number) != unfinished
    ):
        changed = True
    if changed and not dry_run:
        known_now = catalog.volume(volume)
        if known_now is not None and at_end:
            ended = standing_of(catalog, known_now._replace(files=file_number, blocks=block))
            note_capacity(drive, catalog, volume, ended.used_bytes)
        # Last: until then the volume is not as the catalog has it, and nothing is written to it.
        catalog.set_volume_end(volume, file_number, block, unfinished=unfinished)
    _tell_missing_bases(catalog, result)
    return {**result, "changed": changed}


def _same_part(catalog: Catalog, part: Part) -> Optional[tuple[Session, int]]:
    """The session that the catalog has in an encrypted tape file, and how many records it has there; None for none."""
    session = catalog.session_in(part.volume, part.file_number)
    if session is not None:
        for known in itertools.chain.from_iterable(catalog.places(session.number).values()):
            mine, its = (part.age_head, part.drive_key), (known.age_head, known.drive_key)
            if _same_place(part, known) and mine == its:
                return session, known.records
    return None


def _prove_whole(read: Scan) -> None:
    """:raises VerifyError: it is not a whole archive, or differs from its own index."""
    found = Differences()
    session = "" if read.head is None else str(read.head.get("session"))
    compare_index(read, session, found)
    if found.count or read.head is None or (read.end is None and not read.is_cut):
        raise VerifyError(f"the tape file is not a whole archive ({'; '.join(found.shown)}).")


def _enter(read: Scan, part: Part, catalog: Catalog, result: dict[str, Any], *, dry_run: bool) -> bool:
    """Enter a part that was read, unless the catalog has it; True when something changes by that.

    :param part: where it was read.
    :raises SplitMirrorError: it does not fit the other parts, or its index is nonsense.
    """
    session = check_session_id("" if read.head is None else str(read.head.get("session")))
    part = part._replace(part=read.part_number, offset_bytes=read.offset_bytes, lead_bytes=read.lead_bytes)
    known = catalog.session(session)
    places = {} if known is None else catalog.places(known.number)
    if known is not None and any(_same_place(part, other) for other in itertools.chain.from_iterable(places.values())):
        result["known"].append({"session": session, "state": known.state, "file_number": part.file_number})
        return False
    volumes = read.volumes
    first = first_volume(part, volumes)
    if known is not None and part.part in places and _is_copy(read, part, known, places[part.part][0], catalog):
        # The index says until when what was written first is kept.
        expires_s = _time(read.head or {}, "expires_s") if part.volume == first else None
        _enter_copy(catalog, part._replace(session=known.number), expires_s, result, dry_run=dry_run)
        return True

    def make(joined: Optional[Session]) -> Session:
        by_copy = part.volume != first or (joined is not None and catalog.lives_by_copy(joined))
        return _session_with(joined, session, part._replace(volume=first), read, by_copy=by_copy)

    lives = known is not None and known.state == OPEN and _is_written(os.path.dirname(catalog.path), session)
    entered = make(catalog.joined_by(session, part, volumes, writer_lives=lives))
    if not dry_run:
        removed = read.removed_names()
        catalog.enter_part(session, part, read.all_members(), make, volumes, writer_lives=lives, removed=removed)
    result["entered"].append(
        {
            "session": session,
            "state": entered.state,
            "reason": entered.reason,
            "file_number": part.file_number,
            "base": entered.base,
        }
    )
    return True


def _tell_missing_bases(catalog: Catalog, result: Mapping[str, Any]) -> None:
    """Say of each session that was entered which of its bases is missing."""
    entered = {found["session"] for found in result["entered"]}
    for found in result["entered"]:
        session, base = catalog.session(found["session"]), found.pop("base")
        missing = catalog.missing_base(session) if session is not None else base
        found["base_missing"] = "" if missing is None or (session is None and missing in entered) else missing
        if found["base_missing"] and not found["reason"]:
            found["reason"] = (
                f"session {missing}, on which it builds, is not in the catalog or not good; enter its volumes with "
                "catalog_rebuild."
            )


def _is_copy(read: Scan, part: Part, known: Session, other: Part, catalog: Catalog) -> bool:
    """Whether a part that was read is the same as one that the catalog has elsewhere."""
    if (part.volume, part.file_number) == (other.volume, other.file_number):
        return False
    told = {facts["part"]: facts for facts in known.write.get("parts", ())}.get(part.part, {})
    if told.get(PIECE) != read.piece_sha256:
        return False
    place = other._replace(volume=part.volume, file_number=part.file_number, block=part.block, drive_key=part.drive_key)
    if place != part._replace(session=other.session, sha256=other.sha256, age_keys=other.age_keys):
        return False
    found = Differences()
    expected = (member for _part, member in catalog.members(known.number, part=part.part))
    compare("the catalog", expected, read.all_members(), found)
    return not found.count


def _enter_copy(
    catalog: Catalog, place: Part, expires_s: Optional[float], result: dict[str, Any], *, dry_run: bool
) -> None:
    """Enter a copy of a part that the catalog has. :param place: the part where it was found."""
    if not dry_run:
        catalog.enter_copy(place, expires_s)
    known = next(session for session in catalog.sessions() if session.number == place.session)
    result["entered"].append(
        {
            "session": known.id,
            "state": known.state,
            "reason": known.reason,
            "file_number": place.file_number,
            "base": known.base,
        }
    )


def _session_with(known: Optional[Session], session: str, part: Part, read: Scan, *, by_copy: bool) -> Session:
    """A session with a part that was read: judged if all parts are there, and damaged as long as one is missing.

    :param known: what the catalog has of it, with its other parts.
    :param part: with the volume that it was written to first. :param by_copy: some part of it is a copy, of which
        nobody knows until when it is kept.
    :raises VerifyError: the index of the part contradicts that of another part.
    """
    head = read.head or {}
    level, base = head.get("level", FULL), head.get("base", "")
    if level not in LEVELS or not isinstance(base, str) or (level == FULL) != (not base):
        raise VerifyError(f"the index has {level!r} and {base!r} as level and base, which do not go together.")
    if base:
        check_session_id(base)
    proof, names, told = head.get("proof"), head.get("names"), head.get("evidence")
    counts = {"members": read.members, "files": read.files, "bytes": read.size_bytes}
    pieces = {} if read.piece_sha256 is None else {PIECE: read.piece_sha256}
    if BEFORE in head:
        pieces[BEFORE] = str(head[BEFORE])
    if read.is_cut:
        counts = dict.fromkeys(counts, 0)
    elif read.crossed is not None:
        counts = {"members": read.members + 1, "files": read.files + 1, "bytes": read.size_bytes + read.crossed.size}
    mine = part_facts(part, {**counts, **pieces}, last=read.is_last, complete=True, filemark=True, checksums=True)
    earlier = [] if known is None else known.write["parts"]
    common = {
        "names": names if isinstance(names, dict) else {},
        # The index is written only after the proof is complete.
        "proof": {**proof, "complete": True} if isinstance(proof, dict) else None,
        **({"headers_sha256": read.headers_sha256} if read.is_old else {}),
        **({"level": level, "base": base} if base else {}),
    }
    write = join_facts(sorted([*earlier, mine], key=lambda facts: int(facts["part"])), common)
    evidence = {**(told if isinstance(told, Mapping) else {}), "session": session, "write": write}
    broken = broken_part(write["parts"])
    if broken is not None:
        raise VerifyError(
            f"part {broken + 1} of session {session} does not go on with the data in the part before it; one of them "
            "is damaged."
        )
    volumes = read.volumes if known is None else max(read.volumes, named_volumes(known), key=len)
    missing = missing_parts(write["parts"], volumes)
    if missing:
        state, reason = DAMAGED, missing
        evidence["volumes"] = volumes
    else:
        verdict = judge(evidence, session)
        state, reason = GOOD if verdict.good else FAILED, verdict.reason
    entered = Session(
        number=0,
        id=session,
        host=str(head.get("host", "")),
        state=state,
        reason=reason,
        created_s=_time(head, "created_s") or 0.0,
        closed_s=time.time(),
        expires_s=None if by_copy else _time(head, "expires_s"),
        files=write["files"],
        bytes=write["bytes"],
        members=write["members"],
        write=write,
        evidence=evidence,
        level=level,
        base=base,
    )
    if known is not None:
        _refuse_contradiction(entered, known._replace(expires_s=None) if by_copy else known)
    return entered


def _refuse_contradiction(entered: Session, known: Session) -> None:
    """:raises VerifyError: the indexes of two parts say different things of their session."""

    def said(session: Session) -> dict[str, Any]:
        evidence = {key: value for key, value in session.evidence.items() if key not in ("write", "volumes")}
        common = {key: session.write.get(key) for key in ("names", "proof")}
        return {
            "host": session.host,
            "created_s": session.created_s,
            "expires_s": session.expires_s,
            "level": session.level,
            "base": session.base,
            "evidence": evidence,
            **common,
        }

    one, other = said(entered), said(known)
    # The evidence of an open session is not in the catalog yet.
    compared = ("host", "created_s", "expires_s", "level", "base") if known.state == OPEN else tuple(one)
    differ = [key for key in compared if one[key] != other[key]]
    if differ:
        raise VerifyError(f"the index contradicts that of another part of session {known.id} in {', '.join(differ)}.")


def _is_written(state_dir: str, session: str) -> bool:
    """Whether a process writes a session now; tape_write locks the folder of the session."""
    try:
        handle = open_folder(StateDir(state_dir).session_dir(session))
    except FileNotFoundError:
        return False
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)


def _keep(name: str, part: Part, reason: str, catalog: Catalog, *, no_archive: bool) -> None:
    """Enter a tape file that belongs to no session, to keep it.

    :param no_archive: it was read, and proved not to be a whole archive; what a dead writer left is entered as expired.
    """
    now_s = time.time()
    expires_s = now_s if no_archive and catalog.unfinished(part.volume, part.file_number) else None
    damaged = Session(0, name, "", DAMAGED, reason, now_s, now_s, expires_s, 0, 0, 0, {}, {})
    catalog.enter_part(name, part, (), lambda _known: damaged)


def _time(head: Mapping[str, Any], key: str) -> Optional[float]:
    """A time in an index. :raises VerifyError: it is not a time."""
    value = head.get(key)
    try:
        seconds = None if value is None else float(value)
        if seconds is not None and not math.isfinite(seconds):  # a text may say so
            raise ValueError
    except (OverflowError, TypeError, ValueError) as exc:
        raise VerifyError(f"the index has {value!r} as {key}, which is not a time.") from exc
    return seconds


def _same_place(part: Part, other: Part) -> bool:
    return other.complete and (part.volume, part.file_number, part.block) == (
        other.volume,
        other.file_number,
        other.block,
    )


def _goes_on(drive: TapeDrive, place: Position, block: int) -> bool:
    """Whether there is a record or filemark at this position."""
    try:
        drive.locate(place, block)
        drive.pass_record()
    except EndOfData:
        return False
    except TapeError:
        return True
    return True


def _length(drive: TapeDrive, file_number: int, block: int) -> Optional[int]:
    """Number of records of a tape file that is not a whole archive; None if no filemark and so nothing follows it."""
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


def _can_be_read(drive: TapeDrive, file_number: int, block: int, record_bytes: int) -> bool:
    """Whether all records can be read up to the end of data: then a writer died there, and nothing is damaged."""
    drive.locate(Position(file_number, 0), block)
    try:
        while drive.read_record(record_bytes):
            pass
    except EndOfData:
        return True
    except TapeError:
        pass
    return False
