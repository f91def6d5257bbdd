# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog of a media server: which session is on which volume, and where every file lies.

One SQLite file, 0600, in write-ahead mode so that several sessions can be written while others are looked up.
It can be lost: the volumes hold all of it (see tape/verify.py).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Optional

from ..archive.model import MemberRecord
from ..errors import SplitMirrorError
from .verdict import Verdict

FORMAT_VERSION = "1"
FILE_NAME = "catalog.sqlite"

#: The catalog is written by several sessions at once; what takes longest is to forget a volume with millions of files.
_BUSY_S = 300

OPEN = "open"
GOOD = "good"
FAILED = "failed"

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE volumes(name TEXT PRIMARY KEY, uuid TEXT NOT NULL, pool TEXT, record_bytes INTEGER, created TEXT,
  files INTEGER, blocks INTEGER);
CREATE TABLE sessions(number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, host TEXT, state TEXT, reason TEXT,
  created_s REAL, closed_s REAL, expires_s REAL, files INTEGER, bytes INTEGER, members INTEGER, write TEXT,
  evidence TEXT);
CREATE TABLE parts(session INTEGER, part INTEGER, volume TEXT, file_number INTEGER, block INTEGER,
  record_bytes INTEGER, offset_bytes INTEGER, records INTEGER, complete INTEGER, PRIMARY KEY(session, part));
CREATE TABLE members(session INTEGER, offset_bytes INTEGER, part INTEGER, path BLOB, kind TEXT, size INTEGER,
  header_bytes INTEGER, sha256 BLOB, mtime_ns INTEGER, mode INTEGER, uid INTEGER, gid INTEGER, linkname BLOB,
  PRIMARY KEY(session, offset_bytes)) WITHOUT ROWID;
CREATE INDEX members_path ON members(session, path);
"""
_SESSION = "number, id, host, state, reason, created_s, closed_s, expires_s, files, bytes, members, write, evidence"
_PART = "session, part, volume, file_number, block, record_bytes, offset_bytes, records, complete"
_MEMBER = "path, kind, size, offset_bytes, header_bytes, sha256, mtime_ns, mode, uid, gid, linkname"


class CatalogError(SplitMirrorError):
    """The catalog does not know what was asked for, or cannot be used."""


class Volume(NamedTuple):
    """One volume.

    :param uuid: of its label; a volume whose label has another one is another volume.
    :param files: complete tape files on it, the label included: the next archive becomes tape file ``files``.
    :param blocks: records and filemarks in these, as the drive counts.
    """

    name: str
    uuid: str
    pool: str
    record_bytes: int
    created: str
    files: int
    blocks: int


class Session(NamedTuple):
    """One session. Times are seconds since 1970; ``expires_s`` is None when it is kept for ever.

    :param files: regular files in it; :param bytes: the length of their contents; :param members: all members.
    :param write: what tape_write found proved.
    :param evidence: what it was judged by.
    """

    number: int
    id: str
    host: str
    state: str
    reason: str
    created_s: float
    closed_s: Optional[float]
    expires_s: Optional[float]
    files: int
    bytes: int
    members: int
    write: dict[str, Any]
    evidence: dict[str, Any]


class Part(NamedTuple):
    """A piece of a session's archive in one tape file of one volume.

    :param block: where its first record is, as the drive counts.
    :param offset_bytes: which byte of the archive that is.
    :param complete: the filemark behind it is on the volume.
    """

    session: int
    part: int
    volume: str
    file_number: int
    block: int
    record_bytes: int
    offset_bytes: int
    records: int
    complete: bool


class Catalog:
    """The open catalog. Use it as a context manager; every change is on disk when its method returns."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        """Not for callers: use open."""
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: str, *, writable: bool = False) -> Catalog:
        """Open the catalog; for writing, make it when it is missing.

        :raises CatalogError: it is missing (for reading), damaged, or of another format.
        """
        try:
            if writable and not os.path.exists(path):
                cls._create(path)
            uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={'rw' if writable else 'ro'}"
            db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as exc:
            raise CatalogError(
                f"state_dir: there is no catalog that can be opened at {path} ({exc}); rebuild it from the volumes "
                "with tape_verify, or name the state folder of the media server.",
                option="state_dir",
            ) from exc
        catalog = cls(path, db)
        try:
            if writable:
                catalog._make()
            found = catalog._one("SELECT value FROM meta WHERE key = 'format_version'")
        except sqlite3.Error as exc:
            db.close()
            raise CatalogError(
                f"state_dir: {path} is no catalog ({exc}); move it away and rebuild it with tape_verify.",
                option="state_dir",
            ) from exc
        if found is None or found[0] != FORMAT_VERSION:
            db.close()
            raise CatalogError(
                f"state_dir: {path} is a catalog of another format; use the version of this collection that made it.",
                option="state_dir",
            )
        return catalog

    @classmethod
    def open_for(cls, path: str, *, writable: bool) -> Catalog:
        """Open the catalog, whether there is one yet or not; for reading, a missing one is an empty one in memory.

        :raises CatalogError: it is damaged, or of another format.
        """
        if writable or os.path.exists(path):
            return cls.open(path, writable=writable)
        catalog = cls(path, sqlite3.connect(":memory:", isolation_level=None))
        catalog._make()
        return catalog

    @classmethod
    def _create(cls, path: str) -> None:
        """Make an empty catalog beside its place and put it there whole, unless another process was quicker."""
        new = f"{path}.{os.getpid()}.new"
        os.close(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            with cls(new, sqlite3.connect(new, isolation_level=None)) as catalog:
                catalog._make()
            os.link(new, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(new)

    def _make(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        # a checkpoint syncs twice; a session's members are entered without waiting for many of them
        self._db.execute("PRAGMA wal_autocheckpoint=16384")
        with self._transaction():
            if self._one("SELECT 1 FROM sqlite_master WHERE name = 'meta'") is None:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO meta VALUES('format_version', ?)", (FORMAT_VERSION,))

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- volumes -------------------------------------------------------------------------------------------------

    def volumes(self) -> list[Volume]:
        """All volumes by name."""
        rows = self._db.execute(f"SELECT {', '.join(Volume._fields)} FROM volumes ORDER BY name")  # noqa: S608
        return [Volume(*row) for row in rows]

    def volume(self, name: str) -> Optional[Volume]:
        """One volume, None when the catalog does not know it."""
        row = self._one(f"SELECT {', '.join(Volume._fields)} FROM volumes WHERE name = ?", name)  # noqa: S608
        return None if row is None else Volume(*row)

    def replace_volume(self, volume: Volume) -> None:
        """Enter a volume that was labelled anew; what the catalog knew of its name is forgotten.

        :raises CatalogError: there is unexpired data on the one it knew.
        """
        with self._transaction():
            self.refuse_unexpired(volume.name)
            self._db.execute(
                "DELETE FROM members WHERE session IN (SELECT session FROM parts WHERE volume = ?)", (volume.name,)
            )
            self._db.execute(
                "DELETE FROM sessions WHERE number IN (SELECT session FROM parts WHERE volume = ?)", (volume.name,)
            )
            self._db.execute("DELETE FROM parts WHERE volume = ?", (volume.name,))
            self._db.execute("INSERT OR REPLACE INTO volumes VALUES(?, ?, ?, ?, ?, ?, ?)", volume)

    def set_volume_end(self, name: str, files: int, blocks: int) -> None:
        """Tell where the data of a volume end, as it was seen on the volume itself."""
        self._db.execute("UPDATE volumes SET files = ?, blocks = ? WHERE name = ?", (files, blocks, name))

    def unexpired(self, volume: str, now_s: Optional[float] = None) -> list[Session]:
        """Sessions on a volume that may not be overwritten: good or not yet judged, and not expired."""
        now_s = time.time() if now_s is None else now_s
        return self._sessions(
            "number IN (SELECT session FROM parts WHERE volume = ?) AND state IN (?, ?) "
            "AND (expires_s IS NULL OR expires_s > ?)",
            (volume, OPEN, GOOD, now_s),
        )

    def refuse_unexpired(self, volume: str) -> None:
        """:raises CatalogError: there is unexpired data on the volume."""
        kept = self.unexpired(volume)
        if kept:
            raise CatalogError(
                f"volume: {volume} holds unexpired data (session {kept[0].id} and {len(kept) - 1} more); name another "
                "volume, or wait until they expire.",
                option="volume",
            )

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
        self, session: str, host: str, created_s: Optional[float] = None, expires_s: Optional[float] = None
    ) -> int:
        """Open a session and return its number. What a dead run of the same session left is forgotten.

        :raises CatalogError: the session's archive is on a volume already.
        """
        with self._transaction():
            old = self.session(session)
            if old is not None:
                if old.state != OPEN or any(part.complete for part in self.parts(old.number)):
                    raise CatalogError(
                        f"session: {session} is in the catalog already ({old.state}); begin a new session.",
                        option="session",
                    )
                for table, column in (("members", "session"), ("parts", "session"), ("sessions", "number")):
                    self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (old.number,))  # noqa: S608
            cursor = self._db.execute(
                "INSERT INTO sessions(id, host, state, reason, created_s, expires_s, files, bytes, members, write, "
                "evidence) VALUES(?, ?, ?, '', ?, ?, 0, 0, 0, '{}', '{}')",
                (session, host, OPEN, time.time() if created_s is None else created_s, expires_s),
            )
            return int(cursor.lastrowid or 0)

    def expire_session(self, session: str, now_s: Optional[float] = None) -> bool:
        """Let a session expire now, so that its volume may be overwritten; True when that changed something.

        :raises CatalogError: it is not in the catalog.
        """
        now_s = time.time() if now_s is None else now_s
        with self._transaction():
            old = self.session(session)
            if old is None:
                raise CatalogError(f"session: {session} is not in the catalog.", option="session")
            if old.expires_s is not None and old.expires_s <= now_s:
                return False
            self._db.execute("UPDATE sessions SET expires_s = ? WHERE number = ?", (now_s, old.number))
            return True

    def close_session(self, session: str, verdict: Verdict, evidence: Mapping[str, Any]) -> bool:
        """Make an open session good or failed; True when that changed something.

        :raises CatalogError: it is not in the catalog, or was judged otherwise before.
        """
        with self._transaction():
            old = self.session(session)
            if old is None:
                raise CatalogError(
                    f"session: {session} is not in the catalog; only what tape_write began can be closed.",
                    option="session",
                )
            state = GOOD if verdict.good else FAILED
            if old.state == state:
                return False
            if old.state != OPEN:
                raise CatalogError(
                    f"session: {session} was judged {old.state} before and stays so; begin a new session.",
                    option="session",
                )
            self._db.execute(
                "UPDATE sessions SET state = ?, reason = ?, closed_s = ?, evidence = ? WHERE number = ?",
                (state, verdict.reason, time.time(), json.dumps(evidence), old.number),
            )
            return True

    # -- what is written -----------------------------------------------------------------------------------------

    def parts(self, number: int) -> list[Part]:
        """The pieces of a session's archive, in order."""
        rows = self._db.execute(f"SELECT {_PART} FROM parts WHERE session = ? ORDER BY part", (number,))  # noqa: S608
        return [Part._make((*row[:-1], bool(row[-1]))) for row in rows]

    def unfinished(self, volume: str, file_number: int) -> bool:
        """A writer died, or failed, in this tape file: what is in it is no backup and may be overwritten."""
        query = "SELECT 1 FROM parts WHERE volume = ? AND file_number = ? AND complete = 0"
        return self._one(query, volume, file_number) is not None

    def begin_part(self, part: Part) -> None:
        """Tell that a tape file is about to be written; dead writers' claims on it go."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM parts WHERE volume = ? AND file_number = ? AND complete = 0",
                (part.volume, part.file_number),
            )
            self._db.execute(f"INSERT INTO parts({_PART}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", part)

    def drop_part(self, part: Part) -> None:
        """Tell that a tape file that was begun has been cut off the volume again."""
        self._db.execute("DELETE FROM parts WHERE session = ? AND part = ? AND complete = 0", (part.session, part.part))

    def add_members(self, number: int, part: int, members: Iterable[MemberRecord]) -> None:
        """Enter a batch of members of a session, lying in one part; finish_part makes sure that they are on disk."""
        rows = (
            (number, m[3], part, m[0], m[1], m[2], m[4], bytes.fromhex(m[5]) if m[5] else None, *m[6:]) for m in members
        )
        # what a power failure takes of an open session is no loss, so nobody waits for the disk here
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            with self._transaction():
                self._db.executemany("INSERT INTO members VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def finish_part(self, part: Part, *, files: int, size_bytes: int, write: Mapping[str, Any]) -> None:
        """Tell that a session's archive and its filemark are on the volume; the volume's end moves behind them.

        :param part: with its final number of records.
        :param files: files in the archive.
        :param size_bytes: the length of their contents.
        :param write: the facts for the verdict.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE parts SET records = ?, complete = 1 WHERE session = ? AND part = ?",
                (part.records, part.session, part.part),
            )
            self._db.execute(
                "UPDATE volumes SET files = ?, blocks = ? WHERE name = ?",
                (part.file_number + 1, part.block + part.records + 1, part.volume),
            )
            self._db.execute(
                "UPDATE sessions SET files = ?, bytes = ?, write = ?, "
                "members = (SELECT count(*) FROM members WHERE session = number) WHERE number = ?",
                (files, size_bytes, json.dumps(write), part.session),
            )

    # -- members -------------------------------------------------------------------------------------------------

    def members(self, number: int, wanted: Optional[Sequence[bytes]] = None) -> Iterator[tuple[int, MemberRecord]]:
        """(part, member) of a session in the order of the archive; few are held in memory.

        :param wanted: only these paths (names of members) and what is below them, and what their hard links point
            to. One selection at a time can be read from a catalog.
        """
        columns = "m." + _MEMBER.replace(", ", ", m.")
        if wanted is None:
            query = f"SELECT m.part, {columns} FROM members m WHERE session = ? ORDER BY offset_bytes"  # noqa: S608
            rows = self._db.execute(query, (number,))
        else:
            self._select(number, wanted)
            rows = self._db.execute(
                f"SELECT m.part, {columns} FROM temp.wanted w JOIN members m "  # noqa: S608
                "ON m.session = ? AND m.offset_bytes = w.offset_bytes ORDER BY w.offset_bytes",
                (number,),
            )
        for row in rows:
            yield row[0], MemberRecord._make((*row[1:6], row[6].hex() if row[6] else None, *row[7:]))

    def has_path(self, number: int, path: bytes) -> bool:
        """The session holds this member, or members below it."""
        query = "SELECT 1 FROM members WHERE session = ? AND (path = ? OR (path >= ? AND path < ?)) LIMIT 1"
        return self._one(query, number, path, *_below(path)) is not None

    def _select(self, number: int, wanted: Sequence[bytes]) -> None:
        self._db.execute("DROP TABLE IF EXISTS temp.wanted")
        self._db.execute("CREATE TEMP TABLE wanted(offset_bytes INTEGER PRIMARY KEY)")
        for path in wanted:
            self._db.execute(
                "INSERT OR IGNORE INTO temp.wanted SELECT offset_bytes FROM members "
                "WHERE session = ? AND (path = ? OR (path >= ? AND path < ?))",
                (number, path, *_below(path)),
            )
        self._db.execute(
            "INSERT OR IGNORE INTO temp.wanted SELECT target.offset_bytes FROM temp.wanted w "
            "JOIN members link ON link.session = ?1 AND link.offset_bytes = w.offset_bytes AND link.kind = 'h' "
            "JOIN members target ON target.session = ?1 AND target.path = link.linkname "
            "AND target.offset_bytes < link.offset_bytes",
            (number,),
        )

    # -- inside --------------------------------------------------------------------------------------------------

    def _sessions(self, condition: str, values: Sequence[object]) -> list[Session]:
        rows = self._db.execute(
            f"SELECT {_SESSION} FROM sessions WHERE {condition} ORDER BY created_s, number",  # noqa: S608
            tuple(values),
        )
        return [Session._make((*row[:-2], json.loads(row[-2]), json.loads(row[-1]))) for row in rows]

    def _one(self, query: str, *values: object) -> Any:
        return self._db.execute(query, values).fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; waits for another writer."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _below(path: bytes) -> tuple[bytes, bytes]:
    """Bounds of the names of members below a folder; all names for the root."""
    return (path + b"/", path + b"0") if path else (b"", b"\xff" * 4096)
