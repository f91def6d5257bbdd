# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to the catalog, as people and modules ask them."""

from __future__ import annotations

import datetime
import fnmatch
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ..archive.index import is_own
from ..archive.model import MemberRecord
from .closing import failed_in
from .copies import in_pools, latest
from .parts import part_of_member
from .records import DAMAGED, FAILED, GOOD, CatalogError, Part, Session, VolumeUse
from .rowcheck import part_named
from .store import Catalog

LATEST = "latest"
#: The first and the last second that can be shown, of the years 1 and 9999.
_FIRST_S, _LAST_S = -62135596800, 253402300799


def find_good_session(catalog: Catalog, session: str, host: Optional[str]) -> Session:
    """The session to restore from, which must be good.

    :param session: an id, or ``latest`` for the newest good session of ``host``.
    :raises CatalogError: there is no such session, or it is not good.
    """
    if session == LATEST:
        if not host:
            raise CatalogError(
                "host: it is missing, and session is latest; name the host, or a session.",
                option="host",
                code="option_invalid",
            )
        good = catalog.sessions(host=host, state=GOOD)
        if not good:
            raise CatalogError(
                f"host: the catalog holds no good session of {host}; back it up first.",
                option="host",
                code="session_unknown",
            )
        return good[-1]
    found = catalog.session(session)
    if found is None:
        raise CatalogError(
            f"session: {session} is not in the catalog; name one that catalog_info lists, or enter its volume with "
            "catalog_rebuild.",
            option="session",
            code="session_unknown",
        )
    if host and found.host != host:
        raise CatalogError(
            f"host: session {session} belongs to host {found.host}, not to {host}; name a session of {host}, or leave "
            "host out.",
            option="host",
            code="session_unknown",
        )
    if found.state != GOOD:
        why = f" ({found.reason.rstrip('.')})" if found.reason else ""
        raise CatalogError(
            f"session: {session} is {found.state}{why}, not good, so it cannot be restored; name a good session.",
            option="session",
            code="session_not_good",
        )
    return found


def complete_parts(catalog: Catalog, session: Session) -> dict[int, Part]:
    """The parts of a session by number, in order. :raises CatalogError: one is missing or not complete."""
    parts = {part.part: part for part in catalog.parts(session.number)}
    if not parts or list(parts) != list(range(len(parts))) or not all(part.complete for part in parts.values()):
        raise CatalogError(
            f"session: a part of {session.id} is missing or incomplete on tape; name another session.",
            option="session",
            code="session_not_good",
        )
    return parts


@dataclass(frozen=True)
class Chain:
    """A session and its bases, the full one first, as far as they are good.

    :param missing: the id of the base where it ends before the full one; None if all are there. What is older than
        that cannot be told from what it changed, so nothing of it is used.
    """

    sessions: Sequence[Session]
    missing: Optional[str]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the sessions in the catalog."""
        return [session.number for session in self.sessions]

    def parts(self, catalog: Catalog) -> dict[int, dict[int, Part]]:
        """The parts of each session by its number, by number of the part.

        :raises CatalogError: one is missing or not complete.
        """
        return {session.number: complete_parts(catalog, session) for session in self.sessions}

    def id_of(self, number: int) -> str:
        """The id of the session with this number."""
        return next(session.id for session in self.sessions if session.number == number)


def chain_of(catalog: Catalog, session: Session) -> Chain:
    """A session with its bases."""
    bases = itertools.takewhile(lambda base: base.state == GOOD, catalog.bases(session))
    return Chain([*reversed(list(bases)), session], catalog.missing_base(session))


def parts_in_pool(catalog: Catalog, session: Session, pool: str) -> dict[int, Part]:
    """The parts of a session where they are in a pool, by number. :raises CatalogError: one of them is not there."""
    pools = {volume.name: volume.pool for volume in catalog.volumes()}
    complete_parts(catalog, session)
    found = {
        number: place
        for number, places in catalog.places(session.number).items()
        for place in reversed(places)
        if pools.get(place.volume) == pool
    }
    missing = [part for part in catalog.parts(session.number) if part.part not in found]
    if missing:
        raise CatalogError(
            f"pool: part {missing[0].part + 1} of {session.id} is on no volume of pool {pool}; name another pool, or "
            "copy the session there with session_copy.",
            option="pool",
            code="option_invalid",
        )
    return found


def parse_time(text: str, option: str) -> float:
    """Seconds since 1970 of an ISO 8601 time (UTC when it names no zone). :raises CatalogError: it is not a time."""
    try:
        found = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError as exc:
        raise CatalogError(
            f"{option}: {text!r} is not a time; write it as 2026-01-31T12:00:00Z.", option=option, code="option_invalid"
        ) from exc
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.timezone.utc)
    return found.timestamp()


def format_time(seconds: Optional[float]) -> Optional[str]:
    """The same time as text, UTC; None stays None. What no calendar holds is shown as its first or last second."""
    return None if seconds is None else calendar_time(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def calendar_time(seconds: float) -> datetime.datetime:
    """Seconds since 1970 as a time of the calendar, UTC; what no calendar holds is its first or last second."""
    seconds = max(_FIRST_S, min(seconds, _LAST_S))
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def show_path(name: bytes) -> str:
    """The path on the database host of a member; what is not UTF-8 is shown with backslashes."""
    return "/" + name.decode("utf-8", "backslashreplace")


def member_name(path: str) -> bytes:
    """The name of the member for an absolute path on the database host; ``b""`` for all of them."""
    return path.strip("/").encode("utf-8", "surrogateescape")


def session_facts(catalog: Catalog, session: Session) -> dict[str, Any]:
    """A session as modules return it."""
    return {
        "session": session.id,
        "host": session.host,
        "state": session.state,
        "reason": session.reason,
        "level": session.level,
        "base": session.base or None,
        "base_missing": catalog.missing_base(session),
        "phase": failed_in(session),
        "created": format_time(session.created_s),
        "closed": format_time(session.closed_s),
        "expires": format_time(session.expires_s),
        "files": session.files,
        "bytes": session.bytes,
        "members": session.members,
        "parts": [
            {
                "volume": part.volume,
                "file_number": part.file_number,
                "block": part.block,
                "record_bytes": part.record_bytes,
                "records": part.records,
                "archive_bytes": part.archive_bytes,
                "continues": part.lead_bytes > 0,
                "age_keys": part.age_keys.split(),
                "drive_key": part.drive_key or None,
                "complete": part.complete,
            }
            for part in catalog.parts(session.number)
        ],
        "copies": _copy_facts(catalog, session),
        "evidence": session.evidence,
    }


def _copy_facts(catalog: Catalog, session: Session) -> list[dict[str, Any]]:
    """The copies of a session, one for each pool."""
    pools = {volume.name: volume.pool for volume in catalog.volumes()}
    count = len(catalog.parts(session.number))
    return [
        {
            "pool": pool,
            "volumes": list(dict.fromkeys(copy.volume for copy in copies.values())),
            "complete": len(copies) == count,
            "copied": format_time(max(copy.copied_s for copy in copies.values())),
            "expires": format_time(latest(copy.expires_s for copy in copies.values())),
        }
        for pool, copies in sorted(in_pools(catalog.copies(session.number), pools).items())
    ]


def use_facts(use: VolumeUse) -> dict[str, Any]:
    """A use of a volume as modules return it."""
    return {
        "drive": use.drive,
        "what": use.what,
        "session": use.session,
        "used": format_time(use.used_s),
        "facts": use.facts,
    }


def host_facts(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """The last run of each database host, and its last good one, by name of the host.

    :param sessions: from old to new; damaged ones are not runs.
    """
    found: dict[str, dict[str, Any]] = {}
    for session in sessions:
        if session.state == DAMAGED:
            continue
        facts = found.setdefault(
            session.host, {"host": session.host, "last_good": None, "last_good_created": None, "failed_since": 0}
        )
        if session.state == GOOD:
            facts.update(last_good=session.id, last_good_created=format_time(session.created_s), failed_since=0)
        elif session.state == FAILED:
            facts["failed_since"] += 1
        facts.update(last=session.id, last_state=session.state, last_reason=session.reason)
    return [found[host] for host in sorted(found)]


def member_facts(session: str, part: Part, member: MemberRecord) -> dict[str, Any]:
    """A member as modules return it; where it lies is counted from the beginning of its part."""
    return {
        "session": session,
        "path": show_path(member.path),
        "kind": member.kind,
        "size": member.size,
        "mtime": format_time(member.mtime_ns / 1e9),
        "mode": f"{member.mode:04o}",
        "uid": member.uid,
        "gid": member.gid,
        "sha256": member.sha256,
        "header_digest": None if member.header_digest is None else member.header_digest.hex(),
        "target": None if member.linkname is None else member.linkname.decode("utf-8", "backslashreplace"),
        "volume": part.volume,
        "file_number": part.file_number,
        "record": None if part.age_head else part.place_of(member.offset_bytes) // part.record_bytes,
        "offset_bytes": part.place_of(member.offset_bytes),
    }


def find_files(catalog: Catalog, session: Session, pattern: str) -> Iterator[dict[str, Any]]:
    """Members of a session whose path on the database host matches a shell pattern (``*`` also matches ``/``).

    What an incremental session has in its bases is found there.
    """
    wanted = re.compile(fnmatch.translate(pattern).encode("utf-8", "surrogateescape"))
    chain = chain_of(catalog, session)
    if len(chain.sessions) > 1 and session.state == GOOD:
        catalog.choose(chain.numbers)
        for of_session in chain.parts(catalog).values():
            for part in of_session.values():
                for _listed, member in catalog.chosen(
                    chain.numbers, part, of_session.get(part.part + 1), all_of_it=True
                ):
                    if wanted.match(b"/" + member.path) and (part.session == session.number or not is_own(member.path)):
                        yield member_facts(chain.id_of(part.session), part, member)
        return
    parts = {part.part: part for part in catalog.parts(session.number)}
    for number, member in catalog.members(session.number):
        if wanted.match(b"/" + member.path):
            # A part that is not known yet, for its volume was not entered: the one that lists the member stands for it.
            known = session.state == GOOD or member.offset_bytes >= part_named(parts, number).offset_bytes
            part = part_of_member(parts, number, member.offset_bytes) if known else part_named(parts, number)
            yield member_facts(session.id, part, member)
