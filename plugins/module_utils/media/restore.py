# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restore files of a session from tape into an empty folder.

The catalog has the position of each member. Members are read in ascending order of position, and each is compared with
the catalog before GNU tar gets it. tar writes into a new folder inside the target. At the end, the files there are
compared with the catalog once more, and moved up into the target.

A member that cannot be read or written, or a volume that cannot be had, does not end the restore: what is missing is
reported when everything else is restored.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Optional

from ..archive.index import index_name, removed_name
from ..archive.model import MemberRecord
from ..catalog.lookup import Chain, chain_of, find_good_session, member_facts, member_name
from ..catalog.parts import crossed_from
from ..catalog.records import GOOD, CatalogError, Part, Session
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..host.status import StatusWriter
from .arrival import NotThere, what_differs
from .chain import ChainReader, in_reading_order
from .extract import Said, TarExtractor
from .losses import DOUBTFUL, MISSING, Losses
from .reading import NOT_REACHED, Located, check_names
from .sealed import NO_KEYS, Keyring
from .volume_source import Drives

#: What the headers of a member take on tape, for the total that is told: those of most, and a little more.
_HEADER_BYTES = 2048
_SHOWN_FILES = 1000
# A new ext4 has it.
_LOST_FOUND = "lost+found"


class RestoreError(SplitMirrorError):
    """What was asked for cannot be restored, or what was restored is not what was backed up."""

    code = "target_unusable"


@dataclass(frozen=True)
class RestoreJob:
    """What tape_read was asked for.

    :param session: an id, or ``latest`` of ``host``.
    :param paths: absolute paths on the database host; empty for everything.
    :param target: folder that stands for ``/`` of the database host.
    :param keyring: the keys for parts that are encrypted.
    """

    session: str
    target: str
    host: Optional[str] = None
    paths: Sequence[str] = ()
    numeric_owner: bool = False
    keyring: Keyring = NO_KEYS


@dataclass
class _Tally:
    members: int = 0
    files: int = 0
    size_bytes: int = 0
    volumes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Run:
    """One restore while it is under way."""

    job: RestoreJob
    catalog: Catalog
    session: Session
    chain: Chain
    losses: Losses
    tally: _Tally
    status: Optional[StatusWriter]

    def wanted(self) -> Generator[Located, None, None]:
        return _wanted(self.job, self.catalog, self.chain)


@dataclass(frozen=True)
class _Extracted:
    """How far the reading came.

    :param reader: has the members and the parts that were lost.
    :param doubtful: names of members whose content is not as written.
    :param end: the error that ended the restore early; None if it was complete. :param said: the messages of tar.
    """

    reader: ChainReader
    doubtful: set[bytes]
    end: Optional[SplitMirrorError]
    said: Said


def needed_volume(job: RestoreJob, catalog: Catalog) -> str:
    """The volume that is read first. :raises SplitMirrorError: the target, the session or a path is refused."""
    session, chain = _checked(job, catalog)
    with closing(_wanted(job, catalog, chain)) as wanted:
        first = next(wanted, None)
    return chain.parts(catalog)[session.number][0].volume if first is None else first[0].volume


def dry_run(job: RestoreJob, catalog: Catalog) -> dict[str, Any]:
    """List what would be restored and its positions; nothing is read from tape.

    :returns: session, host, target, members, files, bytes, volumes, and ``positions`` of the first thousand members.
    :raises SplitMirrorError: the target, the session or a path is refused.
    """
    session, chain = _checked(job, catalog)
    tally, parts = _Tally(), chain.parts(catalog)
    positions: list[dict[str, Any]] = []
    for part, member in _wanted(job, catalog, chain):
        _count(tally, parts[part.session], part, member)
        if len(positions) < _SHOWN_FILES:
            positions.append(member_facts(chain.id_of(part.session), part, member))
    return {**_result(job, session, tally), "base_missing": chain.missing, "positions": positions}


def restore(job: RestoreJob, catalog: Catalog, drives: Drives, status: Optional[StatusWriter] = None) -> dict[str, Any]:
    """Restore.

    :param drives: gives the drive with the volumes, one after another.
    :param status: reports how far the reading has come.
    :returns: as dry_run without positions, of what is in the target, with ``records_read``, ``seconds``,
        ``bytes_per_s``, and what Losses and SessionReader say.
    :raises SplitMirrorError: something was refused, and the target is as it was; or members are missing or doubtful,
        and the facts and the report name them; the others are there. If nothing could be restored, the target is as it
        was.
    """
    begun = time.monotonic()
    session, chain = _checked(job, catalog)
    losses = Losses(os.path.dirname(catalog.path), f"{session.id}-tape_read")
    tally = _Tally()
    run = _Run(job, catalog, session, chain, losses, tally, status)
    total_bytes = 0
    for _part, member in run.wanted():
        check_names(member.path, member.kind, member.linkname)
        total_bytes += _HEADER_BYTES + (member.size if member.kind == "f" else 0)
    if status is not None:
        status.set(0, total_bytes)
    with _Staging(job.target, session.id) as staging:
        try:
            done = _extract(run, drives, staging.folder)
            try:
                _take_stock(run, staging.folder, done)
            except SplitMirrorError:
                # The catalog cannot be read any more. The restored files stay, although they were not counted.
                staging.move_up()
                raise
        finally:
            losses.close()
        nothing = done.end or done.reader.first_error()
        if nothing is not None and not tally.members:
            nothing.facts = {**_result(job, session, tally), **losses.facts(), **done.reader.facts()}
            raise nothing
        staging.move_up()
    seconds = time.monotonic() - begun
    result = {
        **_result(job, session, tally),
        "records_read": done.reader.records_read,
        "seconds": round(seconds, 3),
        "bytes_per_s": round(tally.size_bytes / seconds),
        "base_missing": chain.missing,
    }
    if losses.count or chain.missing or done.said.status or done.said.lines:
        raise _damage(run, done, result)
    return {**result, **losses.facts(), **done.reader.facts()}


def _extract(run: _Run, drives: Drives, folder: str) -> _Extracted:
    """Give tar all members that can be read, and note the others."""
    reader = ChainReader(drives, run.catalog, run.status, run.job.keyring)
    doubtful: set[bytes] = set()
    end = None
    # Where the reading ends early, its selection would go on in the catalog, and no other could be made.
    with TarExtractor(folder, numeric_owner=run.job.numeric_owner) as tar, closing(run.wanted()) as wanted:
        try:
            for found in reader.read(wanted):
                if found.header is None:
                    run.losses.add(MISSING, found.record.path, found.part.volume, found.reason or "")
                    continue
                tar.put((found.header.header,))
                tar.put(found.blocks())
                if found.comes_again:
                    # tar replaces it.
                    continue
                if found.reason is not None:
                    doubtful.add(found.record.path)
                    run.losses.add(DOUBTFUL, found.record.path, found.part.volume, found.reason)
        except SplitMirrorError as exc:
            # What is restored so far stays.
            end = exc
        return _Extracted(reader, doubtful, end, tar.finish())


def _take_stock(run: _Run, folder: str, done: _Extracted) -> None:
    """Compare the restored files with the catalog, count them, and note what is missing or differs."""
    parts = run.chain.parts(run.catalog)
    where = os.fsencode(folder)
    for part, member in run.wanted():
        if done.reader.is_lost(part, member.path):
            continue
        if done.reader.is_unreached(part, member.offset_bytes):
            run.losses.add(MISSING, member.path, part.volume, NOT_REACHED)
            continue
        try:
            differs = what_differs(where, member, numeric_owner=run.job.numeric_owner)
        except NotThere as exc:
            reason = done.said.of(member.path)
            if reason is None:
                reason = str(exc) if done.end is None else f"{NOT_REACHED} ({done.end.message.rstrip('.')})"
            run.losses.add(MISSING, member.path, part.volume, reason)
            continue
        _count(run.tally, parts[part.session], part, member)
        reasons = [reason for reason in (differs, done.said.of(member.path)) if reason is not None]
        if reasons and member.path not in done.doubtful:
            run.losses.add(DOUBTFUL, member.path, part.volume, ": ".join(reasons))


def _damage(run: _Run, done: _Extracted, result: dict[str, Any]) -> RestoreError:
    """The error for members that are missing or doubtful."""
    losses, session, reader = run.losses, run.session.id, done.reader
    facts = {**losses.facts(), **reader.facts()}
    said = []
    if facts["missing_count"]:
        said.append(f"{facts['missing_count']} members of {session} are missing ({losses.words(MISSING)})")
    if facts["doubtful_count"]:
        said.append(f"{facts['doubtful_count']} members of {session} are doubtful ({losses.words(DOUBTFUL)})")
    said += [str(unreached) for unreached in reader.unreached]
    if run.chain.missing is not None:
        said.append(
            f"session {run.chain.missing}, on which {session} builds, is not in the catalog or not good, so what has "
            "not changed since then is missing"
        )
    if not said:
        said.append(f"all members of {session} are restored, but not all of their attributes")
    if done.said.status or done.said.lines:
        said.append(f"tar said {done.said.shown()!r}")
    ended_by_tape = done.end is not None and done.end.option != "target"
    code = reader.loss_code() or ("tape_damaged" if ended_by_tape else None)
    if code is None and run.chain.missing is not None:
        code = "session_not_good"
    if code is None:
        what, way_out = "target", "restore these to a file system that can hold them"
    elif code == "tape_damaged":
        what, way_out = "session", "try these with another drive or from another session"
    else:
        what, way_out = "session", "restore these when the volumes can be read, or from another session"
    error = RestoreError(
        f"{what}: {' and '.join(said)}; all others are restored in {run.job.target}, {way_out}{losses.where()}.",
        option=what,
        code=code,
    )
    error.facts = {**result, **facts}
    return error


def _checked(job: RestoreJob, catalog: Catalog) -> tuple[Session, Chain]:
    """The session to restore, with its bases. :raises SplitMirrorError: it, the target or a path is refused."""
    _check_target(job.target)
    session = find_good_session(catalog, job.session, job.host)
    chain = chain_of(catalog, session)
    for number, parts in chain.parts(catalog).items():
        job.keyring.require(list(parts.values()), chain.id_of(number))
    for path in job.paths:
        if not path.startswith("/"):
            raise RestoreError(
                f"paths: {path} is not absolute; give the path that it has on the database host.",
                option="paths",
                code="option_invalid",
            )
        if not catalog.chain_has(chain.numbers, _name_of(catalog, chain, path)):
            raise _no_such_file(catalog, chain, path)
    return session, chain


def _name_of(catalog: Catalog, chain: Chain, path: str) -> bytes:
    """The name of the member for a path on the database host, which may be written less than plainly (``//``, ``/./``),
    or lead over a symbolic link by which the user called what was backed up.
    """
    plain = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    name = member_name(plain)
    if not catalog.chain_has(chain.numbers, name):
        for other, real in chain.sessions[-1].write.get("names", {}).items():
            if plain == other or plain.startswith(f"{other}/"):
                return member_name(f"{real}{plain[len(other) :]}")
    return name


def _no_such_file(catalog: Catalog, chain: Chain, path: str) -> CatalogError:
    session = chain.sessions[-1]
    others = []
    for found in catalog.sessions(host=session.host, state=GOOD):
        other = chain_of(catalog, found)
        if catalog.chain_has(other.numbers, _name_of(catalog, other, path)):
            others.append(found.id)
    where = f"session {others[-1]} holds it" if others else f"no good session of {session.host} holds it"
    if chain.missing is not None:
        where += f", and session {chain.missing}, on which it builds, is not in the catalog or not good"
    return CatalogError(
        f"paths: {path} is not in session {session.id}; {where}.", option="paths", code="option_invalid"
    )


def _check_target(target: str) -> None:
    if not os.path.isabs(target):
        raise RestoreError(
            f"target: {target} is not absolute; give the full path of a folder.", option="target", code="option_invalid"
        )
    try:
        with os.scandir(target) as entries:
            if all(_is_lost_found(entry) for entry in entries):
                return
    except FileNotFoundError:
        return
    except OSError as exc:
        raise RestoreError(
            f"target: {target} cannot be used ({exc.strerror}); name a folder that is empty or not there yet.",
            option="target",
        ) from exc
    raise RestoreError(f"target: {target} is not empty; name a folder that is empty or not there yet.", option="target")


def _wanted(job: RestoreJob, catalog: Catalog, chain: Chain) -> Generator[Located, None, None]:
    """The members to restore in the order in which they are read; what a session has of its own only if it is named."""
    parts = chain.parts(catalog)
    names = [_name_of(catalog, chain, path) for path in job.paths] or None
    own = {removed_name(session.id) for session in chain.sessions}
    own |= {index_name(session.id, number) for session in chain.sessions for number in parts[session.number]}
    catalog.choose(chain.numbers, names)
    for part in in_reading_order(part for of_session in parts.values() for part in of_session.values()):
        after = parts[part.session].get(part.part + 1)
        for _listed, member in catalog.chosen(chain.numbers, part, after, all_of_it=names is None):
            if names is not None or member.path not in own:
                yield part, member


def _is_lost_found(entry: os.DirEntry[str]) -> bool:
    """The empty folder in which fsck puts what it finds (mklost+found(8))."""
    return entry.name == _LOST_FOUND and entry.is_dir(follow_symlinks=False) and not os.listdir(entry.path)


def _count(tally: _Tally, parts: Mapping[int, Part], part: Part, member: MemberRecord) -> None:
    tally.members += 1
    if member.kind == "f":
        tally.files += 1
        tally.size_bytes += member.size
    for one in (part, *crossed_from(parts, part)):
        if one.volume not in tally.volumes:
            tally.volumes.append(one.volume)


def _result(job: RestoreJob, session: Session, tally: _Tally) -> dict[str, Any]:
    return {
        "session": session.id,
        "host": session.host,
        "target": job.target,
        "members": tally.members,
        "files": tally.files,
        "bytes": tally.size_bytes,
        "volumes": tally.volumes,
    }


class _Staging:
    """The folder inside the target that tar writes into. It is removed at the end, with its content unless move_up was
    called.
    """

    def __init__(self, target: str, session: str) -> None:
        self._target = target
        self._made = not os.path.isdir(target)
        self._keep = False
        self.folder = os.path.join(target, f".splitmirror-{session}")

    def __enter__(self) -> _Staging:
        try:
            os.makedirs(self._target, mode=0o755, exist_ok=True)
            os.mkdir(self.folder, 0o700)
        except OSError as exc:
            raise RestoreError(
                f"target: {self.folder} cannot be made ({exc.strerror}); name a folder that root may write.",
                option="target",
            ) from exc
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._keep:
            _quietly(lambda: shutil.rmtree(self.folder))
        if self._made:
            _quietly(lambda: os.rmdir(self._target))

    def move_up(self) -> None:
        """Move everything into the target itself. :raises RestoreError: a file cannot be moved; it stays here."""
        self._keep = True
        try:
            for name in os.listdir(self.folder):
                os.rename(os.path.join(self.folder, name), os.path.join(self._target, name))
            os.rmdir(self.folder)
        except OSError as exc:
            raise RestoreError(
                f"target: the restored files cannot be moved out of {self.folder} ({exc.strerror}); move them by hand.",
                option="target",
            ) from exc


def _quietly(call: Callable[[], object]) -> None:
    """Clean up, and ignore errors: what stays behind is empty or was reported."""
    try:
        call()
    except OSError:
        pass
