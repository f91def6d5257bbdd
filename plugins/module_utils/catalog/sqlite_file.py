# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of a catalog: made, opened and checked, with transactions and with SQLite's errors as sentences."""

from __future__ import annotations

import errno
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Optional, TypeVar

from ..errors import SplitMirrorError
from .records import CatalogChanged, CatalogError

FORMAT_VERSION = "4"
#: Older formats. 1: without digests of headers. 2: what was added for sessions over several volumes is missing. 3:
#: without what was added for copies, for incremental sessions and for keys of drives.
_OLD_FORMATS = ("1", "2", "3")
#: What the next writer makes of an older format: table, column, its type, and its value in old rows.
ADDED_COLUMNS = (
    ("members", "header_digest", "BLOB", "NULL"),
    ("volumes", "out_of_use", "TEXT NOT NULL DEFAULT ''", "''"),
    ("volumes", "capacity_bytes", "INTEGER", "NULL"),
    ("volumes", "place", "TEXT NOT NULL DEFAULT ''", "''"),
    ("volumes", "place_s", "REAL", "NULL"),
    ("parts", "archive_bytes", "INTEGER NOT NULL DEFAULT 0", "records * record_bytes"),
    ("parts", "lead_bytes", "INTEGER NOT NULL DEFAULT 0", "0"),
    ("parts", "age_head", "BLOB NOT NULL DEFAULT x''", "x''"),
    ("parts", "age_keys", "TEXT NOT NULL DEFAULT ''", "''"),
    ("sessions", "level", "TEXT NOT NULL DEFAULT 'full'", "'full'"),
    ("sessions", "base", "TEXT NOT NULL DEFAULT ''", "''"),
    ("parts", "drive_key", "TEXT NOT NULL DEFAULT ''", "''"),
    ("parts", "sha256", "BLOB NOT NULL DEFAULT x''", "x''"),
)

#: The catalog is written by several sessions at once; what takes longest is to forget a volume with millions of files,
#: or to enter a session with as many that was found on one.
_BUSY_S = 300

#: SQLite's errors have classes of their own, but for what is damaged or no database at all.
_OTHER_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InternalError,
    sqlite3.NotSupportedError,
    sqlite3.OperationalError,
    sqlite3.ProgrammingError,
)

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE volumes(name TEXT PRIMARY KEY, uuid TEXT NOT NULL, pool TEXT, record_bytes INTEGER, created TEXT,
  files INTEGER, blocks INTEGER, out_of_use TEXT NOT NULL DEFAULT '', capacity_bytes INTEGER,
  place TEXT NOT NULL DEFAULT '', place_s REAL);
CREATE TABLE sessions(number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, host TEXT, state TEXT, reason TEXT,
  created_s REAL, closed_s REAL, expires_s REAL, files INTEGER, bytes INTEGER, members INTEGER, write TEXT,
  evidence TEXT, level TEXT NOT NULL DEFAULT 'full', base TEXT NOT NULL DEFAULT '');
CREATE TABLE parts(session INTEGER, part INTEGER, volume TEXT, file_number INTEGER, block INTEGER,
  record_bytes INTEGER, offset_bytes INTEGER, records INTEGER, complete INTEGER,
  archive_bytes INTEGER NOT NULL DEFAULT 0, lead_bytes INTEGER NOT NULL DEFAULT 0,
  age_head BLOB NOT NULL DEFAULT x'', age_keys TEXT NOT NULL DEFAULT '',
  drive_key TEXT NOT NULL DEFAULT '', sha256 BLOB NOT NULL DEFAULT x'', PRIMARY KEY(session, part));
CREATE TABLE members(session INTEGER, offset_bytes INTEGER, part INTEGER, path BLOB, kind TEXT, size INTEGER,
  header_bytes INTEGER, sha256 BLOB, mtime_ns INTEGER, mode INTEGER, uid INTEGER, gid INTEGER, linkname BLOB,
  header_digest BLOB, PRIMARY KEY(session, offset_bytes)) WITHOUT ROWID;
CREATE INDEX members_path ON members(session, path);
"""
#: Tables that formats 3 and 4 added.
ADDED_TABLES = (
    "volume_uses(number INTEGER PRIMARY KEY, volume TEXT NOT NULL, drive TEXT NOT NULL, what TEXT, session TEXT, "
    "used_s REAL, facts TEXT)",
    "removed(session INTEGER, path BLOB, PRIMARY KEY(session, path)) WITHOUT ROWID",
    "copies(session INTEGER, part INTEGER, volume TEXT, file_number INTEGER, block INTEGER, copied_s REAL, "
    "expires_s REAL, drive_key TEXT NOT NULL DEFAULT '', PRIMARY KEY(volume, file_number))",
)
#: Indexes that formats 3 and 4 added; they make nothing possible, but the choice of a volume among hundreds quick.
_ADDED_INDEXES = (
    "parts_volume ON parts(volume)",
    "sessions_newest ON sessions(host, state, created_s)",
    "sessions_base ON sessions(base) WHERE base != ''",
    "copies_session ON copies(session)",
)

_Self = TypeVar("_Self", bound="CatalogDatabase")


class CatalogDatabase:
    """An open file. Use it as a context manager; every change is on disk when its method returns."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        """Not for callers: use open."""
        self.path = path
        self._db = connection
        self._stamp: Optional[tuple[int, int]] = None

    @classmethod
    def open(cls: type[_Self], path: str, *, writable: bool = False, no_trace: bool = False) -> _Self:
        """Open the catalog; for writing, make it when it is missing.

        :param no_trace: make no file beside it, which SQLite does even for reading; for a quick look.
        :raises CatalogError: it is missing (for reading), damaged, of another format, or cannot be used now.
        """
        try:
            if writable and not os.path.exists(path):
                cls._create(path)
            mode, stamp = "rw" if writable else "ro", None
            if no_trace and not writable and not _has_log(path):
                # Nothing writes now. If a writer comes while we read, the stamp changes (sqlite.org/uri.html).
                mode, stamp = "ro&immutable=1", _stamp_of(path)
            uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"
            # Who writes a session uses it in two threads, but not at once.
            db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            if not os.access(path, os.R_OK) and (os.path.exists(path) or not os.access(os.path.dirname(path), os.X_OK)):
                raise CatalogError(
                    f"state_dir: the catalog {path} may not be read ({os.strerror(errno.EACCES)}); set become: true.",
                    option="state_dir",
                ) from exc
            raise CatalogError(
                f"state_dir: the catalog {path} cannot be opened ({exc}); rebuild it from the volumes "
                "with catalog_rebuild, or name the state folder of the media server.",
                option="state_dir",
            ) from exc
        catalog = cls(path, db)
        catalog._stamp = stamp
        try:
            if writable:
                catalog._make()
            catalog._check()
        except BaseException:
            db.close()
            raise
        return catalog

    @classmethod
    def open_for(cls: type[_Self], path: str, *, writable: bool, no_trace: bool = False) -> _Self:
        """Open the catalog, whether there is one yet or not; for reading, a missing one is an empty one in memory.

        :param no_trace: as for open.
        :raises CatalogError: it is damaged, or of another format.
        """
        if writable or os.path.exists(path):
            return cls.open(path, writable=writable, no_trace=no_trace)
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
        with self._in_words():
            if not self._has_meta() and self._one("SELECT 1 FROM sqlite_master") is not None:
                raise sqlite3.DatabaseError("it is a database of something else")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            # a checkpoint syncs twice; a session's members are entered without waiting for many of them
            self._db.execute("PRAGMA wal_autocheckpoint=16384")
        with self._transaction():
            if not self._has_meta():
                for statement in (*_SCHEMA.split(";\n"), *(f"CREATE TABLE {table}" for table in ADDED_TABLES)):
                    self._db.execute(statement)
                self._add_indexes()
                self._db.execute("INSERT INTO meta VALUES('format_version', ?)", (FORMAT_VERSION,))
            elif self._format() in _OLD_FORMATS:
                for table, column, kind, value in self._missing():
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
                    self._db.execute(f"UPDATE {table} SET {column} = {value}")  # noqa: S608
                for table in self._missing_tables():
                    self._db.execute(f"CREATE TABLE {table}")
                self._add_indexes()
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'format_version'", (FORMAT_VERSION,))

    def _add_indexes(self) -> None:
        for index in _ADDED_INDEXES:
            self._db.execute(f"CREATE INDEX IF NOT EXISTS {index}")

    def _check(self) -> None:
        """:raises CatalogError: it is not a catalog, or has another format."""
        with self._in_words():
            if not self._has_meta():
                raise sqlite3.DatabaseError("it is a database of something else")
            found = self._format()
            if found in _OLD_FORMATS:
                # Who may only read takes the old tables for new ones; the next writer makes them such.
                missing = self._missing()
                for table in dict.fromkeys(table for table, *_more in missing):
                    added = ", ".join(f"{value} AS {column}" for name, column, _kind, value in missing if name == table)
                    self._db.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {added} FROM main.{table}")  # noqa: S608
                for table in self._missing_tables():
                    self._db.execute(f"CREATE TEMP TABLE {table}")
                return
        if found != FORMAT_VERSION:
            raise CatalogError(
                f"state_dir: {self.path} is a catalog of another format; use the version of this collection that made "
                "it.",
                option="state_dir",
            )

    def _missing(self) -> list[tuple[str, str, str, str]]:
        """The rows of ADDED_COLUMNS that a catalog of an older format does not have."""
        columns = {
            (table, row[1])
            for table in dict.fromkeys(table for table, *_more in ADDED_COLUMNS)
            for row in self._rows(f"PRAGMA main.table_info({table})")
        }
        return [row for row in ADDED_COLUMNS if row[:2] not in columns]

    def _missing_tables(self) -> list[str]:
        """The rows of ADDED_TABLES that a catalog of an older format does not have."""
        there = {row[0] for row in self._rows("SELECT name FROM main.sqlite_master WHERE type = 'table'")}
        return [table for table in ADDED_TABLES if table.partition("(")[0] not in there]

    def _format(self) -> Optional[str]:
        row = self._one("SELECT value FROM meta WHERE key = 'format_version'")
        return None if row is None else str(row[0])

    def _has_meta(self) -> bool:
        return self._one("SELECT 1 FROM sqlite_master WHERE name = 'meta'") is not None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
        # An error of ours may be caused by reading what was half written.
        if kind is None or issubclass(kind, SplitMirrorError):
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        """:raises CatalogChanged: what was looked at without a lock was written meanwhile."""
        if self._stamp is not None and _stamp_of(self.path) != self._stamp:
            raise CatalogChanged(
                f"state_dir: the catalog at {self.path} was written to while it was looked at; look again.",
                option="state_dir",
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, query: str, *values: object) -> Iterator[Any]:
        """What a query finds; few rows are held in memory. :raises CatalogError: the catalog cannot be read."""
        with self._in_words():
            # a reader may stop after the catalog is closed; `map` hands that on to no cursor, which would fail then
            yield from map(tuple, self._db.execute(query, values))

    def _one(self, query: str, *values: object) -> Any:
        """The first row that a query finds, or None. :raises CatalogError: the catalog cannot be read."""
        return next(self._rows(query, *values), None)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; waits for another writer. :raises CatalogError: the catalog cannot be written."""
        with self._in_words():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # when the disk is full, SQLite has done so by itself
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Errors of SQLite as one sentence. :raises CatalogError: it is not a catalog, or cannot be used now."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            self._refuse_changed()
            # Python fails on SQLite's own message when that quotes damaged bytes.
            damaged = isinstance(exc, UnicodeDecodeError) or "decode to UTF-8" in str(exc)
            if damaged or (isinstance(exc, sqlite3.DatabaseError) and not isinstance(exc, _OTHER_ERRORS)):
                said = (
                    f"{self.path} is not a catalog ({exc}); move it away and rebuild the catalog with catalog_rebuild."
                )
            elif isinstance(exc, sqlite3.IntegrityError):
                said = (
                    f"the catalog at {self.path} has already what was to be entered ({exc}); move it away and rebuild "
                    "it with catalog_rebuild."
                )
            else:
                said = (
                    f"the catalog at {self.path} cannot be used now ({exc}); make room on its disk, or wait until "
                    "other tasks have written to it."
                )
            raise CatalogError(f"state_dir: {said}", option="state_dir") from exc


def _stamp_of(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _has_log(path: str) -> bool:
    """Whether something is in the write-ahead log beside a catalog."""
    try:
        return os.stat(path + "-wal").st_size > 0
    except FileNotFoundError:
        return False
