# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restore files of a session from tape into an empty folder.

The catalog says where each member lies; the head goes to them in ascending order, and each is compared with the
catalog before GNU tar gets it. Files arrive in a folder of their own inside the target and are moved up at the end, so
that nothing of an archive that was tampered with ever stands under the target.

What cannot be read does not take the rest with it: a member whose headers are lost is left out, in one whose data are
lost zeros stand for them, and both are named when everything else is restored.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..archive.index import index_name
from ..archive.model import MemberRecord
from ..archive.ours import has_own_headers
from ..archive.pax import pad
from ..archive.reader import Member, check_member_name, iterate_members
from ..catalog.lookup import complete_parts, find_good_session, member_facts, member_name, show_path
from ..catalog.records import GOOD, CatalogError, Part, Session
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from .base import TapeDrive, TapeError
from .extract import TarExtractor
from .stream import TapeStream
from .volumes import load_known

_SHOWN_FILES = 1000
_SHOWN_DAMAGED = 5

Located = tuple[Part, MemberRecord]


class RestoreError(SplitMirrorError):
    """What was asked for cannot be restored, or what was restored is not what was backed up."""


@dataclass(frozen=True)
class RestoreJob:
    """What tape_read was asked for.

    :param session: an id, or ``latest`` of ``host``.
    :param paths: absolute paths on the database host; empty for everything.
    :param target: folder that stands for ``/`` of the database host.
    """

    session: str
    target: str
    host: Optional[str] = None
    paths: Sequence[str] = ()
    numeric_owner: bool = False


@dataclass
class _Tally:
    members: int = 0
    files: int = 0
    size_bytes: int = 0
    records_read: int = 0
    volumes: list[str] = field(default_factory=list)
    # Restored with other content than was written; not restored.
    damaged: list[bytes] = field(default_factory=list)
    left_out: list[bytes] = field(default_factory=list)
    # Restored, but for what tar says here.
    not_set: list[str] = field(default_factory=list)


def needed_volume(job: RestoreJob, catalog: Catalog) -> str:
    """The volume that is read first. :raises SplitMirrorError: the target, the session or a path is refused."""
    return complete_parts(catalog, _checked(job, catalog))[0].volume


def plan_restore(job: RestoreJob, catalog: Catalog) -> dict[str, Any]:
    """Tell what would be restored and where it lies; nothing is read from tape.

    :returns: session, host, target, members, files, bytes, volumes, and ``positions`` of the first thousand members.
    :raises SplitMirrorError: the target, the session or a path is refused.
    """
    session = _checked(job, catalog)
    tally = _Tally()
    positions: list[dict[str, Any]] = []
    for part, member in _wanted(job, catalog, session):
        _count(tally, part, member)
        if len(positions) < _SHOWN_FILES:
            positions.append(member_facts(session.id, part, member))
    return {**_result(job, session, tally), "positions": positions}


def restore(job: RestoreJob, catalog: Catalog, drive: TapeDrive) -> dict[str, Any]:
    """Restore.

    :returns: as plan_restore without positions, with ``records_read``, ``seconds`` and ``bytes_per_s``.
    :raises SplitMirrorError: something was refused or the drive does not find a place any more, and the target is as it
        was; or files came back other than they were backed up, or not at all, and the message names them; or tar could
        not set all that belongs to them.
    """
    begun = time.monotonic()
    session = _checked(job, catalog)
    for _part, member in _wanted(job, catalog, session):
        _check_names(member.path, member.kind, member.linkname)
    tally = _Tally()
    with _Staging(job.target, session.id) as staging:
        with TarExtractor(staging.folder, numeric_owner=job.numeric_owner) as tar:
            _extract(_wanted(job, catalog, session), catalog, drive, tar, tally)
            tally.not_set = tar.finish()
        staging.move_up()
    if tally.damaged or tally.left_out:
        raise _damage(job, session, tally)
    if tally.not_set:
        raise RestoreError(
            f"target: all files of {session.id} are restored in {job.target}, but {len(tally.not_set)} times not all "
            f"that belongs to them ({tally.not_set[0]}); restore to a file system that can hold that.",
            option="target",
        )
    seconds = time.monotonic() - begun
    return {
        **_result(job, session, tally),
        "records_read": tally.records_read,
        "seconds": round(seconds, 3),
        "bytes_per_s": round(tally.size_bytes / seconds),
    }


def _damage(job: RestoreJob, session: Session, tally: _Tally) -> RestoreError:
    """The sentence for members that are not what was backed up."""
    said = [
        f"{len(names)} files of {session.id} {what} ({', '.join(map(show_path, names[:_SHOWN_DAMAGED]))})"
        for names, what in (
            (tally.damaged, "came back from tape with other content than was written"),
            (tally.left_out, "cannot be read from tape and are left out"),
        )
        if names
    ]
    return RestoreError(
        f"session: {' and '.join(said)}; all others are restored in {job.target}, try these with another drive or from "
        "another session.",
        option="session",
    )


def _checked(job: RestoreJob, catalog: Catalog) -> Session:
    """The session to restore. :raises SplitMirrorError: it, the target or a path is refused."""
    _check_target(job.target)
    session = find_good_session(catalog, job.session, job.host)
    complete_parts(catalog, session)
    for path in job.paths:
        if not path.startswith("/"):
            raise RestoreError(
                f"paths: {path} is not absolute; give the path that it has on the database host.", option="paths"
            )
        if not catalog.has_path(session.number, member_name(path)):
            raise _no_such_file(catalog, session, path)
    return session


def _no_such_file(catalog: Catalog, session: Session, path: str) -> CatalogError:
    others = [
        found.id
        for found in catalog.sessions(host=session.host, state=GOOD)
        if catalog.has_path(found.number, member_name(path))
    ]
    where = f"session {others[-1]} holds it" if others else f"no good session of {session.host} holds it"
    return CatalogError(f"paths: {path} is not in session {session.id}; {where}.", option="paths")


def _check_target(target: str) -> None:
    if not os.path.isabs(target):
        raise RestoreError(f"target: {target} is not absolute; give the full path of a folder.", option="target")
    try:
        with os.scandir(target) as entries:
            if next(entries, None) is None:
                return
    except FileNotFoundError:
        return
    except OSError as exc:
        raise RestoreError(
            f"target: {target} cannot be used ({exc.strerror}); name a folder that is empty or not there yet.",
            option="target",
        ) from exc
    raise RestoreError(f"target: {target} is not empty; name a folder that is empty or not there yet.", option="target")


def _wanted(job: RestoreJob, catalog: Catalog, session: Session) -> Iterator[Located]:
    """The members to restore in the order in which they lie on tape; the index of the session only if it is named."""
    parts = complete_parts(catalog, session)
    names = [member_name(path) for path in job.paths] or None
    index = index_name(session.id)
    for number, member in catalog.members(session.number, names):
        if names is not None or member.path != index:
            yield parts[number], member


def _check_names(name: bytes, kind: str, linkname: Optional[bytes]) -> None:
    """:raises SplitMirrorError: a member, or the member that a hard link points to, would leave the target."""
    check_member_name(name)
    if kind == "h":
        check_member_name(linkname or b"")


def _extract(wanted: Iterator[Located], catalog: Catalog, drive: TapeDrive, tar: TarExtractor, tally: _Tally) -> None:
    for part, members in itertools.groupby(wanted, key=lambda located: located[0]):
        load_known(drive, catalog, part.volume)
        tally.records_read += 1  # the label
        stream = TapeStream(drive, part.file_number, part.block, part.record_bytes)
        for _part, member in members:
            if not _hand_on(stream, part, member, tar, tally):
                # Where the head stands now is not known; a new stream does not believe that it knows.
                tally.records_read += stream.records_read
                stream = TapeStream(drive, part.file_number, part.block, part.record_bytes)
            _count(tally, part, member)
        tally.records_read += stream.records_read


def _hand_on(stream: TapeStream, part: Part, member: MemberRecord, tar: TarExtractor, tally: _Tally) -> bool:
    """Compare one member on tape with the catalog and give it to tar; note it when it is damaged.

    :returns: whether all its records could be read.
    :raises SplitMirrorError: it is another member, or the drive does not find its place.
    """
    is_link = member.kind == "h"
    if is_link and member.linkname in tally.left_out:
        # tar would have nothing to link it to
        tally.left_out.append(member.path)
        return True
    start = member.offset_bytes - part.offset_bytes
    # This goes to the record and does not read it yet: not to get there is the end, not to read it is not.
    stream.seek(start - start % part.record_bytes)
    try:
        stream.seek(start)
        found = next(iterate_members(stream), None)
    except TapeError:
        tally.left_out.append(member.path)
        return False
    if found is None or not _is_same(found, member):
        seen = "the end of an archive" if found is None else show_path(found.name)
        raise TapeError(
            f"volume: {part.volume} holds {seen} in tape file {part.file_number} where the catalog has "
            f"{show_path(member.path)}; nothing is restored, verify the volume with tape_verify.",
            option="volume",
        )
    if not has_own_headers(found):
        raise TapeError(
            f"volume: {part.volume} was changed, {show_path(member.path)} has headers there that no backup writes; "
            "nothing is restored, verify the volume with tape_verify.",
            option="volume",
        )
    # the headers may say a name more than once; whichever tar believes must be harmless
    for key in (b"path", b"GNU.sparse.name"):
        if key in found.pax:
            check_member_name(found.pax[key])
    _check_names(found.name, found.kind, found.linkname)
    content = hashlib.sha256()
    try:
        tar.put_member(found.header, found.raw(content), found.size + pad(found.size))
    except TapeError:
        tally.damaged.append(member.path)
        return False
    differs = member.sha256 is not None and content.hexdigest() != member.sha256
    if differs or (is_link and member.linkname in tally.damaged):
        tally.damaged.append(member.path)
    return True


def _is_same(found: Member, member: MemberRecord) -> bool:
    """What stands there is what the catalog has, as far as headers tell."""
    return found.record(member.sha256)._replace(offset_bytes=member.offset_bytes) == member


def _count(tally: _Tally, part: Part, member: MemberRecord) -> None:
    tally.members += 1
    if member.kind == "f":
        tally.files += 1
        tally.size_bytes += member.size
    if part.volume not in tally.volumes:
        tally.volumes.append(part.volume)


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
    """A folder inside the target in which files arrive; unless they were moved up, all of it goes away again."""

    def __init__(self, target: str, session: str) -> None:
        self._target = target
        self._made = not os.path.isdir(target)
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
        _quietly(lambda: shutil.rmtree(self.folder))
        if self._made:
            _quietly(lambda: os.rmdir(self._target))

    def move_up(self) -> None:
        """Make everything that arrived visible in the target."""
        try:
            for name in os.listdir(self.folder):
                os.rename(os.path.join(self.folder, name), os.path.join(self._target, name))
        except OSError as exc:
            raise RestoreError(
                f"target: what was restored cannot be moved up from {self.folder} ({exc.strerror}).", option="target"
            ) from exc


def _quietly(call: Callable[[], object]) -> None:
    """Clean up as far as it goes; what is left is empty, or tells where the trouble was."""
    try:
        call()
    except OSError:
        pass
