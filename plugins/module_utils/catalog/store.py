# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog of a media server: volumes, and which sessions and parts of sessions are on them.

One SQLite file, 0600, in write-ahead mode, so that sessions can be read while others are written. If it is lost,
it can be rebuilt from the volumes (media/rebuild.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional

from ..archive.model import MemberRecord
from .chains import ChainTable
from .copies import CopyTable, in_pools, latest, places_of
from .records import (
    DAMAGED,
    FAILED,
    FULL,
    GOOD,
    MOST_BYTES,
    OPEN,
    CatalogError,
    Copy,
    Part,
    PartUnknown,
    Session,
    Volume,
)
from .rowcheck import part_of, session_of, volume_of
from .uses import UseTable
from .verdict import Verdict

_SESSION = ", ".join(Session._fields)
_SESSION_VALUES = ", ".join(f":{name}" for name in Session._fields)
_PART = ", ".join(Part._fields)
_VOLUME = ", ".join(Volume._fields)
#: Of the sessions of a host the good one that began last.
_NEWEST_GOOD = (
    "state = 'good' AND NOT EXISTS (SELECT 1 FROM sessions newer WHERE newer.host = sessions.host "
    "AND newer.state = 'good' AND (newer.created_s, newer.number) > (sessions.created_s, sessions.number))"
)
#: May not be lost; the value is the time.
_UNEXPIRED = "state != 'failed' AND (state = 'open' OR expires_s IS NULL OR expires_s > ?)"
#: Is kept, if not where it was written first then as a copy; both values are the time.
_KEPT = (
    f"({_UNEXPIRED} OR EXISTS (SELECT 1 FROM copies c WHERE c.session = sessions.number "  # noqa: S608
    "AND (c.expires_s IS NULL OR c.expires_s > ?)))"
)
#: Has a part on a volume as its first place; the value is its name.
_FIRST_ON = "number IN (SELECT session FROM parts WHERE volume = ?)"
#: Has a part or a copy of one on a volume; both values are its name.
_ON = "number IN (SELECT session FROM parts WHERE volume = ? UNION SELECT session FROM copies WHERE volume = ?)"


def _is_base(of: str) -> str:
    """A condition: a session on which one builds, itself or through others. :param of: the condition for that one."""
    return (
        "id IN (WITH RECURSIVE bases(id) AS ("  # noqa: S608
        f"SELECT base FROM sessions WHERE base != '' AND {of} "
        "UNION SELECT found.base FROM sessions found JOIN bases ON found.id = bases.id WHERE found.base != '') "
        "SELECT id FROM bases)"
    )


class Catalog(ChainTable, UseTable, CopyTable):
    """The open catalog."""

    # -- volumes -------------------------------------------------------------------------------------------------

    def volumes(self) -> list[Volume]:
        """All volumes by name."""
        rows = self._rows(f"SELECT {_VOLUME} FROM volumes ORDER BY name")  # noqa: S608
        return [volume_of(row) for row in rows]

    def volume(self, name: str) -> Optional[Volume]:
        """One volume, None when the catalog does not know it."""
        row = self._one(f"SELECT {_VOLUME} FROM volumes WHERE name = ?", name)  # noqa: S608
        return None if row is None else volume_of(row)

    def replace_volume(self, volume: Volume, *, allow_last: bool = False) -> None:
        """Enter a volume that was labelled anew; what the catalog knew of its name is forgotten.

        A session that had a part on it lives on by a copy of each part that is lost; its expiry is then that of the
        copy. One that has no such copy is forgotten with its parts on other volumes: it cannot be restored any more.

        :param allow_last: also the last good session of a host.
        :raises CatalogError: what is on the one it knew is still needed.
        """
        with self._transaction():
            self._forget_all_on(volume.name, allow_last)
            known = self.volume(volume.name)
            if known is not None:
                volume = volume._replace(capacity_bytes=known.capacity_bytes)
            self._db.execute(f"INSERT OR REPLACE INTO volumes({_VOLUME}) VALUES({_places(_VOLUME)})", volume)

    def forget_all_on(self, volume: str, *, allow_last: bool = False) -> None:
        """Forget what is on a volume, before it is written over: who dies then leaves no session that cannot be read.

        The parameters are those of replace_volume, which says what becomes of the sessions.
        """
        with self._transaction():
            self._forget_all_on(volume, allow_last)

    def set_volume_end(self, name: str, files: int, blocks: int, *, unfinished: bool = False) -> None:
        """Tell where the data of a volume end, as it was seen on the volume itself.

        :param unfinished: a tape file without a filemark stands there, the last thing on the volume.
        """
        with self._transaction():
            self._move_end(name, files, blocks)
            # what dead writers are said to have left anywhere else is not what was seen
            self._db.execute(
                "DELETE FROM parts WHERE volume = ? AND complete = 0 AND (file_number != ? OR NOT ?)",
                (name, files, unfinished),
            )
            if unfinished and not self.unfinished(name, files):
                self._leave_unfinished(name, files, blocks)

    def take_out_of_use(self, volume: str, reason: str) -> None:
        """Tell that nothing is to be written to a volume any more. :param reason: why, a sentence."""
        with self._transaction():
            self._db.execute("UPDATE volumes SET out_of_use = ? WHERE name = ?", (reason, volume))

    def set_capacity(self, volume: str, capacity_bytes: int) -> None:
        """Tell how much goes on a volume, its label included."""
        with self._transaction():
            self._db.execute("UPDATE volumes SET capacity_bytes = ? WHERE name = ?", (capacity_bytes, volume))

    def set_place(self, volume: str, place: str, now_s: Optional[float] = None) -> bool:
        """Tell where a volume is kept; True when that changed something.

        :param place: in words; empty for one that is back where the drives are.
        """
        now_s = time.time() if now_s is None else now_s
        query = "UPDATE volumes SET place = ?, place_s = ? WHERE name = ? AND place != ?"
        with self._transaction():
            return bool(self._db.execute(query, (place, now_s, volume, place)).rowcount)

    def unexpired(self, volume: str, now_s: Optional[float] = None) -> list[Session]:
        """Sessions on a volume that may not be overwritten: open ones, good or damaged ones that have not expired, and
        those on which such a one builds.

        An open session does not expire: its writer may be on another volume. A copy has an expiry of its own.
        """
        now_s = time.time() if now_s is None else now_s
        needed = {
            session.number
            for session in self._sessions(
                f"{_FIRST_ON} AND ({_UNEXPIRED} OR {_is_base(_UNEXPIRED)})",
                (volume, now_s, now_s),
            )
        }
        needed |= {copy.session for copy in self.copies_on(volume) if _far(copy.expires_s) > now_s}
        needed |= {
            session.number
            for session in self._sessions(f"{_ON} AND {_is_base(_KEPT)}", (volume, volume, now_s, now_s))
            if not self._is_whole_without(session, volume)
        }
        return [session for session in self.sessions_on(volume) if session.number in needed]

    def builders_on(self, volume: str, now_s: Optional[float] = None) -> list[Session]:
        """Unexpired sessions, wherever they are, that build on sessions of a volume."""
        return self._builders("number IN (SELECT session FROM parts WHERE volume = ?)", volume, now_s)

    def builders(self, session: str, now_s: Optional[float] = None) -> list[Session]:
        """Unexpired sessions that build on one, themselves or through others, from old to new."""
        return self._builders("id = ?", session, now_s)

    def sessions_on(self, volume: str) -> list[Session]:
        """Sessions with a part or a copy of one on a volume, from old to new; ``expires_s`` is of what is there."""
        found = {session.number: session for session in self._first_on(volume)}
        copies = self.copies_on(volume)
        for session in self._sessions("number IN (SELECT session FROM copies WHERE volume = ?)", (volume,)):
            times = [copy.expires_s for copy in copies if copy.session == session.number]
            first = [found[session.number].expires_s] if session.number in found else []
            found[session.number] = session._replace(expires_s=latest([*times, *first]))
        return sorted(found.values(), key=lambda session: (session.created_s, session.number))

    def last_good(self, volume: str) -> list[Session]:
        """Sessions on a volume that are the newest backup which their host has, expired or not, or its bases, and that
        would be lost with the volume.
        """
        newest = f"({_NEWEST_GOOD} OR {_is_base(_NEWEST_GOOD)})"
        found = self._sessions(f"{_ON} AND {newest}", (volume, volume))
        return [session for session in found if not self._is_whole_without(session, volume)]

    def is_last_good(self, session: str) -> bool:
        """Whether a session is the newest backup that its host has."""
        return bool(self._sessions(f"id = ? AND {_NEWEST_GOOD}", (session,)))

    def refuse_needed(self, volume: str, *, allow_last: bool) -> None:
        """Refuse to lose what is on a volume, as long as it is needed.

        :param allow_last: let the last good session of a host go, once it has expired.
        :raises CatalogError: there is unexpired data on it, or the last good session of a host.
        """
        kept = self.unexpired(volume)
        if kept:
            way_out = "wait until they expire"
            if kept[0].state == OPEN:
                way_out = f"close session {kept[0].id} as failed with catalog_session, if its run has ended"
            # One that lives on by a copy builds on it as well.
            builders = self._builders("id = ?", kept[0].id, None, as_copy=True)
            if builders and kept[0].expires_s is not None and kept[0].expires_s <= time.time():
                way_out = f"wait until {builders[-1].id} expires, which builds on it"
            raise CatalogError(
                f"volume: {volume} holds unexpired data (session {kept[0].id}"
                f"{f' and {len(kept) - 1} more' if len(kept) > 1 else ''}); name another volume, or {way_out}.",
                option="volume",
                code="volume_not_expired",
            )
        last = [] if allow_last else self.last_good(volume)
        if last:
            is_newest = self.is_last_good(last[0].id)
            what = "the last good session" if is_newest else "a base of the last good session"
            others = [found.name for found in self.volumes() if found.name != volume and self._is_free(found.name)]
            instead = f"another volume, {others[0]} for instance" if others else "another volume"
            raise CatalogError(
                f"volume: {volume} holds {last[0].id}, {what} of {last[0].host}, which would have no "
                f"backup until the next one is good; name {instead}, or set allow_last: true "
                "(splitmirror_allow_last in the role).",
                option="allow_last",
                code="volume_not_expired",
            )

    def _is_free(self, volume: str) -> bool:
        return not self.unexpired(volume) and not self.last_good(volume)

    # -- sessions ------------------------------------------------------------------------------------------------

    def sessions(
        self, host: Optional[str] = None, state: Optional[str] = None, at_s: Optional[float] = None
    ) -> list[Session]:
        """Sessions from old to new.

        :param at_s: only those begun at this time (seconds since 1970) or before.
        """
        conditions = ["1"]
        values: list[object] = []
        for condition, value in (("host = ?", host), ("state = ?", state), ("created_s <= ?", at_s)):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        return self._sessions(" AND ".join(conditions), values)

    def session(self, session: str) -> Optional[Session]:
        """One session, None when the catalog does not know it."""
        found = self._sessions("id = ?", (session,))
        return found[0] if found else None

    def begin_session(
        self,
        session: str,
        host: str,
        created_s: Optional[float] = None,
        expires_s: Optional[float] = None,
        *,
        level: str = FULL,
        base: str = "",
    ) -> int:
        """Open a session and return its number. What a dead run of the same session left is forgotten.

        :param base: the session that it builds on, which is kept from now on as long as this one is.
        :raises CatalogError: the session's archive is on a volume already, or its base cannot be restored any more.
        """
        created_s = time.time() if created_s is None else created_s
        with self._transaction():
            self._forget_dead(session)
            known = self.session(base) if base else None
            if base and (known is None or known.state != GOOD or self.missing_base(known) is not None):
                raise CatalogError(
                    f"level: session {base}, which {session} was to build on, cannot be restored any more; begin a new "
                    "session.",
                    option="level",
                    code="session_not_good",
                )
            return self._insert_session(
                Session(0, session, host, OPEN, "", created_s, None, expires_s, 0, 0, 0, {}, {}, level, base)
            )

    def bases(self, session: Session) -> list[Session]:
        """The sessions on which one builds, the nearest first, as far as the catalog has them.

        The last of them, or the session itself if there are none, is a full one, unless missing_base names another.
        """
        found: list[Session] = []
        while session.base:
            known = self.session(session.base)
            # The catalog may be damaged.
            if known is None or known.id in [other.id for other in found]:
                break
            found.append(known)
            session = known
        return found

    def missing_base(self, session: Session) -> Optional[str]:
        """The id of the nearest session that is missing or not good and on which one builds; None if none is."""
        for base in (session, *self.bases(session)):
            if base.state != GOOD and base is not session:
                return base.id
            session = base
        return session.base or None

    def joined_by(
        self, session: str, part: Part, volumes: Sequence[str] = (), *, writer_lives: bool = False
    ) -> Optional[Session]:
        """The session, some of whose parts are known, that a part found on a volume belongs to; None for a new one.

        A later part proves which part is before it: that on the volume which its index names, ending where it begins.
        Known parts that the new one proves not to be before it are left out of the facts that are returned.

        :param volumes: what the index of the part names: the volumes of the session up to it.
        :param writer_lives: the session, if it is open, is being written now.
        :raises CatalogError: the session is in the catalog already, or the part does not fit the parts that are.
        """
        known = self.session(session)
        parts = [] if known is None else self.parts(known.number)
        if known is None or (_is_dead(known, parts) and not writer_lives):
            return None
        if known.state not in (DAMAGED, OPEN) or writer_lives or not known.write.get("parts"):
            raise _known_already(known)
        strays: set[int] = set()
        # A copy stands for what was written first, whose volume the indexes name.
        named = {facts["part"]: facts["volume"] for facts in known.write["parts"]}
        parts = [other._replace(volume=named.get(other.part, other.volume)) for other in parts]
        part = part._replace(volume=first_volume(part, volumes))
        for other in (other for other in parts if other.complete):
            if part.part == other.part or (
                part.part < other.part and not _is_before(part, other, named_volumes(known))
            ):
                raise CatalogError(
                    f"session: part {part.part + 1} of {session} is on volume {other.volume} or ends elsewhere by what "
                    "the catalog has of the session; this one was written again later, or belongs to another run.",
                    option="session",
                    code="session_closed",
                )
            if part.part > other.part and not _is_before(other, part, volumes):
                strays.add(other.part)
        facts = [facts for facts in known.write["parts"] if facts["part"] not in strays]
        return known._replace(write={**known.write, "parts": facts})

    def enter_part(
        self,
        session: str,
        part: Part,
        members: Iterable[MemberRecord],
        make: Callable[[Optional[Session]], Session],
        volumes: Sequence[str] = (),
        *,
        writer_lives: bool = False,
        removed: Optional[Iterable[bytes]] = None,
    ) -> None:
        """Enter a part that was found on a volume, and its session; the volume ends behind it, if not later.

        Both are entered at once, so that no other task takes the session for one that is being written, or for what a
        dead writer left. Other writers wait meanwhile.

        What was damaged at this place when it was read before is forgotten. A known part that joined_by leaves out
        becomes a damaged session of its own, which is kept.

        :param part: the number of its session is given here.
        :param members: all that lie in this part, by their offsets in the session; few are held in memory.
        :param make: gets what joined_by returns, and returns the session as it is with this part, judged already.
        :param volumes: as for joined_by; so is writer_lives.
        :param removed: names of members that the session removed, if that list is in this part.
        :raises CatalogError: as joined_by.
        """
        with self._transaction():
            known = self.joined_by(session, part, volumes, writer_lives=writer_lives)
            entered = make(known)
            self._forget_damaged(part)
            if known is None:
                self._forget_dead(session)
                number = self._insert_session(entered)
            else:
                number = known.number
                self._put_strays_aside(known)
                self._drop_unfinished(number, part.part)
                self._update_session(entered._replace(number=number))
            self._insert_part(part._replace(session=number))
            self._insert_members(number, part.part, members)
            if removed is not None:
                self._replace_removed(number, removed)
            volume = self.volume(part.volume)
            if volume is not None and volume.files <= part.file_number:
                self._move_end_behind(part)

    def expire_session(self, session: str, now_s: Optional[float] = None, *, allow_last: bool = False) -> bool:
        """Let a session expire now, so that its volume may be overwritten; True when that changed something.

        :param allow_last: also when it is the last good session of its host.
        :raises CatalogError: it is not in the catalog, or is the last good one.
        """
        now_s = time.time() if now_s is None else now_s
        with self._transaction():
            if not self.would_expire(session, now_s, allow_last=allow_last):
                return False
            self._db.execute("UPDATE sessions SET expires_s = ? WHERE id = ?", (now_s, session))
            return True

    def set_expiry(self, expires: Mapping[str, Optional[float]], now_s: float) -> None:
        """Set when sessions expire (seconds since 1970, None for never), by id, all at once.

        Whatever has changed since that was decided wins: what has expired stays so, and the last good session of a
        host does not expire.
        """
        with self._transaction():
            for session, expires_s in expires.items():
                if expires_s is None or not self.is_last_good(session):
                    self._db.execute(
                        "UPDATE sessions SET expires_s = ? WHERE id = ? AND (expires_s IS NULL OR expires_s > ?)",
                        (expires_s, session, now_s),
                    )

    def would_expire(self, session: str, now_s: Optional[float] = None, *, allow_last: bool) -> bool:
        """What expire_session would return, or raise. Changes nothing."""
        now_s = time.time() if now_s is None else now_s
        old = self.session(session)
        if old is None:
            raise CatalogError(
                f"session: {session} is not in the catalog; name one that catalog_info lists.",
                option="session",
                code="session_unknown",
            )
        if old.expires_s is not None and old.expires_s <= now_s:
            return False
        if not allow_last and self.is_last_good(session):
            raise CatalogError(
                f"session: {session} is the last good session of {old.host} and is kept until a newer one is good; "
                "wait for that, or set allow_last: true.",
                option="allow_last",
                code="volume_not_expired",
            )
        builders = self.builders(session, now_s)
        if builders:
            raise CatalogError(
                f"session: {session} is a base of {builders[-1].id}, which cannot be restored without it and has not "
                f"expired; let {builders[-1].id} expire first.",
                option="session",
                code="volume_not_expired",
            )
        return True

    def close_session(self, session: str, verdict: Verdict, evidence: Mapping[str, Any]) -> bool:
        """Make an open session good or failed; True when that changed something.

        :raises CatalogError: it is not in the catalog, or was judged otherwise before.
        """
        with self._transaction():
            old = self.session(session)
            if old is None:
                raise CatalogError(
                    f"session: {session} is not in the catalog; only what was begun can be closed.",
                    option="session",
                    code="session_unknown",
                )
            state = GOOD if verdict.good else FAILED
            if old.state == state:
                return False
            if old.state != OPEN:
                raise CatalogError(
                    f"session: {session} is closed already and stays {old.state}; begin a new session.",
                    option="session",
                    code="session_closed",
                )
            self._db.execute(
                "UPDATE sessions SET state = ?, reason = ?, closed_s = ?, evidence = ? WHERE number = ?",
                (state, verdict.reason, time.time(), json.dumps(evidence), old.number),
            )
            return True

    # -- what is written -----------------------------------------------------------------------------------------

    def parts(self, number: int) -> list[Part]:
        """The parts of a session, in order."""
        rows = self._rows(f"SELECT {_PART} FROM parts WHERE session = ? ORDER BY part", number)  # noqa: S608
        return [part_of(row) for row in rows]

    def unfinished(self, volume: str, file_number: int) -> bool:
        """Whether a writer died or failed in this tape file. It is not a backup and may be overwritten."""
        query = "SELECT 1 FROM parts WHERE volume = ? AND file_number = ? AND complete = 0"
        return self._one(query, volume, file_number) is not None

    def session_in(self, volume: str, file_number: int) -> Optional[Session]:
        """The session, whatever became of it, that is known to stand complete in this tape file."""
        found = self._sessions(
            "number IN (SELECT session FROM parts WHERE volume = ?1 AND file_number = ?2 AND complete = 1 "
            "UNION SELECT session FROM copies WHERE volume = ?1 AND file_number = ?2)",
            (volume, file_number),
        )
        return found[0] if found else None

    def finished(self, volume: str, file_number: int) -> bool:
        """An archive is known to be complete in this tape file, or in one behind it."""
        query = (
            "SELECT 1 FROM parts WHERE volume = ?1 AND file_number >= ?2 AND complete = 1 "
            "UNION SELECT 1 FROM copies WHERE volume = ?1 AND file_number >= ?2"
        )
        return self._one(query, volume, file_number) is not None

    def begin_part(self, part: Part) -> None:
        """Tell that a tape file is about to be written; dead writers' claims on it go."""
        with self._transaction():
            # Another attempt at the same part may have failed; where it stands on its volume stays known.
            for failed in self._drop_unfinished(part.session, part.part):
                if not self.unfinished(failed.volume, failed.file_number):
                    self._leave_unfinished(failed.volume, failed.file_number, failed.block)
            self._insert_part(part)

    def drop_part(self, part: Part) -> None:
        """Tell that a tape file that was begun has been cut off the volume again; its members go, too."""
        with self._transaction():
            self._drop_unfinished(part.session, part.part)

    def finish_part(self, part: Part, *, files: int, size_bytes: int, write: Mapping[str, Any]) -> None:
        """Tell that a session's archive and its filemark are on the volume; the volume's end moves behind them.

        :param part: with its final number of records and length.
        :param files: files in the archive.
        :param size_bytes: the length of their contents.
        :param write: the facts for the verdict.
        :raises PartUnknown: the catalog does not have the part as begun (any more).
        """
        with self._transaction():
            cursor = self._db.execute(
                "UPDATE parts SET records = ?, archive_bytes = ?, complete = 1 WHERE session = ? AND part = ? "
                "AND volume = ? AND file_number = ? AND complete = 0",
                (part.records, part.archive_bytes, part.session, part.part, part.volume, part.file_number),
            )
            if cursor.rowcount != 1 or self._one("SELECT 1 FROM sessions WHERE number = ?", part.session) is None:
                raise PartUnknown(
                    f"session: the session that was written to {part.volume} is not in the catalog any more; begin a "
                    "new session.",
                    option="session",
                )
            self._move_end_behind(part)
            # Those of the parts before it are counted already; a member that crosses began in one of them.
            self._db.execute(
                "UPDATE sessions SET files = ?1, bytes = ?2, write = ?3, "
                "members = members + (SELECT count(*) FROM members "
                "WHERE session = ?4 AND offset_bytes >= (SELECT max(offset_bytes) FROM parts "
                "WHERE session = ?4 AND part <= ?5 AND lead_bytes = 0)) WHERE number = ?4",
                (files, min(size_bytes, MOST_BYTES), json.dumps(write), part.session, part.part),
            )

    # -- copies --------------------------------------------------------------------------------------------------

    def places(self, number: int) -> dict[int, list[Part]]:
        """All places of each complete part of a session, by its number: the first place, then the copies."""
        return places_of(self.parts(number), self.copies(number))

    def parts_with_head(self, age_head: bytes) -> list[Part]:
        """The complete parts in age files with this header and these random bytes: one, or copies of one."""
        rows = self._rows(f"SELECT {_PART} FROM parts WHERE age_head = ? AND complete = 1", age_head)  # noqa: S608
        return [part_of(row) for row in rows]

    def lives_by_copy(self, session: Session) -> bool:
        """Whether what was written first is gone, or was never found: the session is where it was copied to."""
        named = {facts["part"]: facts["volume"] for facts in session.write.get("parts", ())}
        return any(part.volume != named.get(part.part, part.volume) for part in self.parts(session.number))

    def begin_copy(self, place: Part) -> None:
        """Tell that the tape file at a place is about to become a copy; dead writers' claims on it go."""
        with self._transaction():
            self._drop_claims(place)
            self._leave_unfinished(place.volume, place.file_number, place.block)

    def drop_copy(self, place: Part) -> None:
        """Tell that a copy that was begun has been cut off the volume again."""
        with self._transaction():
            self._drop_claims(place)

    def enter_copy(self, place: Part, expires_s: Optional[float]) -> None:
        """Enter a copy of a complete part, which was made or found; its volume ends behind it, if not later.

        :param place: the part where the copy is, with the digest of the tape file if that is known.
        :raises PartUnknown: the catalog does not have the part (any more).
        """
        with self._transaction():
            known = [part for part in self.parts(place.session) if part.part == place.part and part.complete]
            if not known or self._one("SELECT 1 FROM sessions WHERE number = ?", place.session) is None:
                raise PartUnknown(
                    f"session: the session that was copied to {place.volume} is not in the catalog any more; copy "
                    "another one.",
                    option="session",
                )
            self._forget_damaged(place)
            self._drop_claims(place)
            self._insert_copy(
                Copy(
                    place.session,
                    place.part,
                    place.volume,
                    place.file_number,
                    place.block,
                    time.time(),
                    expires_s,
                    place.drive_key,
                )
            )
            if place.sha256:
                self._db.execute(
                    "UPDATE parts SET sha256 = ? WHERE session = ? AND part = ?",
                    (place.sha256, place.session, place.part),
                )
            volume = self.volume(place.volume)
            if volume is not None and volume.files <= place.file_number:
                self._move_end_behind(place)

    def _forget_all_on(self, volume: str, allow_last: bool) -> None:
        self.refuse_needed(volume, allow_last=allow_last)
        for session in self._first_on(volume):
            if not self._live_on(session, volume):
                self._forget(session.number)
        for table in ("parts", "copies"):
            self._db.execute(f"DELETE FROM {table} WHERE volume = ?", (volume,))  # noqa: S608

    def _first_on(self, volume: str) -> list[Session]:
        """Sessions that have a part on a volume as its first place."""
        return self._sessions(_FIRST_ON, (volume,))

    def _is_whole_without(self, session: Session, volume: str) -> bool:
        places = self.places(session.number)
        return bool(places) and all(any(place.volume != volume for place in found) for found in places.values())

    def _live_on(self, session: Session, volume: str) -> bool:
        """Let copies take the place of what a session loses with a volume; False if there are not enough.

        If one pool has a whole copy, that becomes the first place of all parts; what they had elsewhere stays a copy.
        """
        if session.state == OPEN or not self._is_whole_without(session, volume):
            return False
        parts = self.parts(session.number)
        copies = [copy for copy in self.copies(session.number) if copy.volume != volume]
        pools = {known.name: known.pool for known in self.volumes()}
        whole = [found for found in in_pools(copies, pools).values() if len(found) == len(parts)]
        chosen: dict[int, Copy] = {copy.part: copy for copy in copies}
        if whole:
            # None, for ever, is the latest.
            chosen = max(whole, key=lambda found: min(_far(copy.expires_s) for copy in found.values()))
        times: list[Optional[float]] = []
        for part in parts:
            copy = chosen.get(part.part)
            if copy is None or (not whole and part.volume != volume):
                times.append(session.expires_s)
                continue
            times.append(copy.expires_s)
            self._db.execute("DELETE FROM copies WHERE volume = ? AND file_number = ?", (copy.volume, copy.file_number))
            self._db.execute(
                "UPDATE parts SET volume = ?, file_number = ?, block = ?, drive_key = ? WHERE session = ? AND part = ?",
                (copy.volume, copy.file_number, copy.block, copy.drive_key, session.number, part.part),
            )
            if part.volume != volume:
                self._insert_copy(
                    copy._replace(
                        volume=part.volume,
                        file_number=part.file_number,
                        block=part.block,
                        expires_s=session.expires_s,
                        drive_key=part.drive_key,
                    )
                )
        self._db.execute("UPDATE sessions SET expires_s = ? WHERE number = ?", (latest(times), session.number))
        return True

    def _drop_claims(self, place: Part) -> None:
        """Remove what is known of an unfinished tape file at a place."""
        self._db.execute(
            "DELETE FROM parts WHERE volume = ? AND file_number = ? AND complete = 0", (place.volume, place.file_number)
        )

    # -- inside --------------------------------------------------------------------------------------------------

    def _builders(self, condition: str, value: str, now_s: Optional[float], *, as_copy: bool = False) -> list[Session]:
        now_s = time.time() if now_s is None else now_s
        return self._sessions(
            f"base != '' AND {_KEPT if as_copy else _UNEXPIRED} AND base IN (WITH RECURSIVE found(id) AS ("  # noqa: S608
            f"SELECT id FROM sessions WHERE {condition} UNION SELECT next.id FROM sessions next JOIN found "
            "ON next.base = found.id WHERE next.base != '') SELECT id FROM found)",
            (*[now_s] * (2 if as_copy else 1), value),
        )

    def _sessions(self, condition: str, values: Sequence[object]) -> list[Session]:
        rows = self._rows(
            f"SELECT {_SESSION} FROM sessions WHERE {condition} ORDER BY created_s, number",  # noqa: S608
            *values,
        )
        return [session_of(row) for row in rows]

    def _forget_dead(self, session: str) -> None:
        """Forget what a dead run of a session left, but not where on a volume it did.

        :raises CatalogError: the session's archive is on a volume already.
        """
        old = self.session(session)
        if old is None:
            return
        if not _is_dead(old, self.parts(old.number)):
            raise _known_already(old)
        self._forget(old.number)

    def _forget_damaged(self, part: Part) -> None:
        """Forget what was called damaged in the tape file of a part."""
        for known in self._first_on(part.volume):
            if known.state == DAMAGED and any(
                (other.volume, other.file_number) == (part.volume, part.file_number) and other.complete
                for other in self.parts(known.number)
            ):
                self._forget(known.number)

    def _forget(self, number: int) -> None:
        """Forget a session with all its parts, but not where on a volume an unfinished one stands."""
        parts = self.parts(number)
        self._delete_copies(number)
        for table, column in (
            ("members", "session"),
            ("removed", "session"),
            ("parts", "session"),
            ("sessions", "number"),
        ):
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))  # noqa: S608
        for part in parts:
            if not part.complete:
                self._leave_unfinished(part.volume, part.file_number, part.block)

    def _drop_unfinished(self, number: int, part: int) -> list[Part]:
        """Remove a part that is not complete, with its members, and return it."""
        found = [other for other in self.parts(number) if other.part == part and not other.complete]
        for table in ("members", "parts") if found else ():
            self._db.execute(f"DELETE FROM {table} WHERE session = ? AND part = ?", (number, part))  # noqa: S608
        return found

    def _put_strays_aside(self, joined: Session) -> None:
        """Make damaged sessions of the complete parts that joined_by left out of the facts of a session."""
        kept = {facts["part"] for facts in joined.write["parts"]}
        now_s = time.time()
        places = self.places(joined.number)
        for part in self.parts(joined.number):
            if not part.complete or part.part in kept:
                continue
            for table in ("members", "parts"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE session = ? AND part = ?",  # noqa: S608
                    (joined.number, part.part),
                )
            reason = f"later parts of session {joined.id} do not follow this part; it was written again."
            for place in places[part.part]:
                name = damaged_name(place.volume, place.file_number)
                aside = Session(0, name, "", DAMAGED, reason, now_s, now_s, None, 0, 0, 0, {}, {})
                self._insert_part(place._replace(session=self._insert_session(aside), part=0))
            self._delete_copies(joined.number, part.part)

    def _insert_session(self, session: Session) -> int:
        # A number is never used again: the writer of a session that was forgotten may still have it.
        query = (
            "SELECT 1 + max(coalesce((SELECT max(number) FROM sessions), 0), "
            "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'last_session'), 0))"
        )
        number = int(self._one(query)[0])
        self._db.execute("INSERT OR REPLACE INTO meta VALUES('last_session', ?)", (str(number),))
        row = {**_session_row(session), "number": number}
        self._db.execute(f"INSERT INTO sessions({_SESSION}) VALUES({_SESSION_VALUES})", row)
        return number

    def _update_session(self, session: Session) -> None:
        self._db.execute(f"REPLACE INTO sessions({_SESSION}) VALUES({_SESSION_VALUES})", _session_row(session))

    def _move_end(self, volume: str, files: int, blocks: int) -> None:
        self._db.execute("UPDATE volumes SET files = ?, blocks = ? WHERE name = ?", (files, blocks, volume))

    def _move_end_behind(self, part: Part) -> None:
        """Behind a part and its filemark."""
        self._move_end(part.volume, part.file_number + 1, part.block + part.records + 1)

    def _insert_part(self, part: Part) -> None:
        self._db.execute(
            "DELETE FROM parts WHERE volume = ? AND file_number = ? AND complete = 0", (part.volume, part.file_number)
        )
        self._db.execute(f"INSERT INTO parts({_PART}) VALUES({_places(_PART)})", part)

    def _leave_unfinished(self, volume: str, file_number: int, block: int) -> None:
        """Remember an unfinished tape file that belongs to no session (any more), as a part of session 0."""
        self._db.execute(
            f"INSERT INTO parts({_PART}) SELECT 0, coalesce(max(part), -1) + 1, ?, ?, ?, "  # noqa: S608
            "(SELECT record_bytes FROM volumes WHERE name = ?), 0, 0, 0, 0, 0, x'', '', '', x'' "
            "FROM parts WHERE session = 0",
            (volume, file_number, block, volume),
        )


def _places(columns: str) -> str:
    """The place holders for values of these columns."""
    return ", ".join("?" for _column in columns.split(", "))


def _far(expires_s: Optional[float]) -> float:
    return float("inf") if expires_s is None else expires_s


def _is_dead(session: Session, parts: Sequence[Part]) -> bool:
    """Whether nothing of a session is left on a volume: its writer died before a part was complete."""
    return session.state == OPEN and not any(part.complete for part in parts)


def _known_already(session: Session) -> CatalogError:
    return CatalogError(
        f"session: {session.id} is in the catalog already ({session.state}); begin a new session.",
        option="session",
        code="session_closed",
    )


def named_volumes(session: Session) -> list[str]:
    """The volumes of a session's parts in order, as the index of its last known part names them."""
    named = session.evidence.get("volumes")
    written = [str(facts["volume"]) for facts in session.write.get("parts", ())]
    return [str(volume) for volume in named] if isinstance(named, list) and named else written


def first_volume(part: Part, volumes: Sequence[str]) -> str:
    """The volume that a part was written to first. :param volumes: as the index of the part names them."""
    return volumes[part.part] if part.part < len(volumes) else part.volume


def damaged_name(volume: str, file_number: int) -> str:
    """The id of a session that stands for a tape file which belongs to no session."""
    return f"damaged-{volume}-{file_number}"


def _is_before(first: Part, second: Part, volumes: Sequence[str]) -> bool:
    """Whether a part is the one before another, by what the other proves.

    :param volumes: by number of the part, as the index of the second part or of a later one names them.
    """
    if first.part >= len(volumes) or volumes[first.part] != first.volume:
        return False
    if first.part + 1 == second.part:
        return first.end_bytes == second.offset_bytes
    return first.end_bytes <= second.offset_bytes


def _session_row(session: Session) -> dict[str, object]:
    return {
        **session._asdict(),
        "bytes": min(session.bytes, MOST_BYTES),
        "write": json.dumps(session.write),
        "evidence": json.dumps(session.evidence),
    }
