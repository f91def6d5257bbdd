# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SQLite file of an extent map: how it is made, opened, closed and written to; mapfile says what is in it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

from .mapcheck import DAMAGED, bound_work, wrong
from .maprows import MapError, MappedFields, TableRow, mapped_fields

FORMAT_VERSION = "5"
#: Without ctime_ns; it is read as 0.
_WITHOUT_CTIME = "4"

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE luns(id INTEGER PRIMARY KEY, name TEXT UNIQUE, serial TEXT, wwn TEXT, size_bytes INTEGER);
CREATE TABLE filesystems(id INTEGER PRIMARY KEY, mount_point BLOB, fs_type TEXT, fs_uuid TEXT, block_bytes INTEGER,
  dev INTEGER, lun INTEGER, lun_offset_bytes INTEGER, root BLOB);
CREATE TABLE segments(fs INTEGER, device_offset INTEGER, lun INTEGER, lun_offset INTEGER, length INTEGER,
  PRIMARY KEY(fs, device_offset)) WITHOUT ROWID;
CREATE TABLE files(sort_key BLOB PRIMARY KEY, kind TEXT, fs INTEGER, inode INTEGER, dev INTEGER, nlink INTEGER,
  mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, rdev_major INTEGER,
  rdev_minor INTEGER, target BLOB, xattrs BLOB, source TEXT, content BLOB, reason TEXT, extents BLOB) WITHOUT ROWID;
CREATE TABLE users(id INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE groups(id INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE changes(path BLOB, layer TEXT, what TEXT);
CREATE TABLE left_out(path BLOB PRIMARY KEY, why TEXT) WITHOUT ROWID;
"""
_CTIME_COLUMN = "ctime_ns INTEGER, rdev_major INTEGER,\n  rdev_minor INTEGER, target"
#: That of format 4.
SCHEMA_WITHOUT_CTIME = SCHEMA.replace(_CTIME_COLUMN, "rdev_major INTEGER, rdev_minor INTEGER,\n  target")
INODE_INDEX = "CREATE INDEX files_inode ON files(inode)"

# The fields of FileEntry, with the sort key in place of the path, and the packed extents.
_COLUMNS = (
    "sort_key, kind, fs, inode, dev, nlink, mode, uid, gid, size, mtime_ns, ctime_ns, rdev_major, rdev_minor, target, "
    "xattrs, source, content, reason, extents"
)
_INSERT = f"INSERT INTO files({_COLUMNS}) VALUES({', '.join('?' * 20)})"
_UPDATED = [name for name in _COLUMNS.split(", ") if name not in ("sort_key", "inode")]  # these two have indexes
UPDATE = f"UPDATE files SET {', '.join(f'{name} = ?' for name in _UPDATED)} WHERE sort_key = ?"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM files"  # noqa: S608
#: More LUNs, file systems, pieces of them, or paths that were left out, than any host has.
_MOST_HEAD_ROWS = 1 << 20
_Self = TypeVar("_Self", bound="MapSqlite")


class MapSqlite:
    """An open map as a file; MapFile is what others use.

    Use it as a context manager: leaving it without an error writes what is pending; leaving it
    with one removes a file that was just made.
    """

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        """Not for callers: use create or open."""
        self.path = path
        self._db = connection
        self._closed = False
        self._new = False
        self._pending: list[TableRow] = []
        self._take: Callable[[TableRow], MappedFields] = mapped_fields
        # It has the format before this one.
        self._old = False
        self._select = _SELECT
        # Where the entries are, and what gives their order.
        self._files, self._order = "files", "sort_key"

    @classmethod
    def create(cls: type[_Self], path: str, session: str, host: str) -> _Self:
        """Make an empty map (0600), in place of an older one of the same path.

        :raises MapError: when the file cannot be made.
        """
        try:
            if os.path.lexists(path):
                os.unlink(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise MapError(
                f"map: {path} cannot be made ({exc}); state_dir must be a writable folder.", code="state_dir_unusable"
            ) from exc
        made = cls(path, db)
        made._new = True
        try:
            # A map that was not closed properly is thrown away, so nothing is paid for crash safety while building.
            for pragma in ("page_size=8192", "journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
                made._write(f"PRAGMA {pragma}")
            with made._writing():
                db.executescript(SCHEMA)
            made._write("BEGIN")
            for key, value in (("format_version", FORMAT_VERSION), ("session", session), ("host", host)):
                made.set_meta(key, value)
        except BaseException:
            made._abandon()
            raise
        return made

    @classmethod
    def open(
        cls: type[_Self], path: str, session: Optional[str] = None, read_only: bool = False, *, foreign: bool = False
    ) -> _Self:
        """Open a map that was made before.

        :param session: the session it must belong to, None for any.
        :param foreign: another host made it, so nothing in it is believed: the head is checked now, each row when it is
            read.
        :raises MapError: when it is missing, damaged, of another format, or the map of another session.
        """
        mode = "ro" if read_only else "rw"
        uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"
        unreadable = f"map: {path} cannot be read as an extent map (%s); map the session first."
        try:
            opened = cls(path, sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False))
        except sqlite3.Error as exc:
            raise MapError(unreadable % exc, code="map_missing") from exc
        try:
            if foreign:
                bound_work(opened._db, path)
            opened._begin(session, read_only)
            if foreign:
                opened._check()
        except DAMAGED as exc:
            opened._abandon()
            raise MapError(unreadable % exc, code="map_missing") from exc
        except BaseException:
            opened._abandon()
            raise
        return opened

    def _begin(self, session: Optional[str], read_only: bool) -> None:
        """Make ready what was opened. :raises MapError: it is of another format, or of another session."""
        db = self._db
        db.execute("PRAGMA cache_size=-16384")
        if not read_only:
            # Nothing but the map itself may be written: other file systems may be frozen.
            db.execute("PRAGMA temp_store=MEMORY")
            db.execute("PRAGMA journal_mode=MEMORY")
            db.execute("PRAGMA synchronous=OFF")
        meta = dict(db.execute("SELECT key, value FROM meta"))
        self._old = meta.get("format_version") == _WITHOUT_CTIME and read_only
        if self._old:
            self._select = _SELECT.replace("ctime_ns", "0 AS ctime_ns")
        elif meta.get("format_version") != FORMAT_VERSION:
            raise MapError(
                f"map: {self.path} has format {meta.get('format_version')}, this version reads {FORMAT_VERSION}; "
                "map again.",
                code="map_missing",
            )
        if session is not None and meta.get("session") != session:
            raise MapError(
                f"session: {self.path} is the map of another session ({meta.get('session')}, not {session}); "
                "map this session first.",
                option="session",
                code="map_missing",
            )
        if not read_only:
            db.execute("BEGIN")

    def _check(self) -> None:
        """:raises MapError: the map is not what an honest host makes."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def close(self) -> None:
        """Write what is pending and close the file; closing it again does nothing."""
        if self._closed:
            return
        try:
            self._flush()
            if self._db.in_transaction:
                self._write("COMMIT")
        except BaseException:
            self._abandon()
            raise
        self._db.close()
        self._closed = True

    def _abandon(self) -> None:
        """Close the file without what is pending, and remove it if it was just made."""
        if self._closed:
            return
        self._db.close()
        self._closed = True
        if self._new:
            # Half a map is useless, and must not be taken for a whole one.
            os.unlink(self.path)

    def commit(self) -> None:
        """Write what is pending, so that another process that opens the file sees it."""
        self._flush()
        if self._db.in_transaction:
            self._write("COMMIT")
            self._write("BEGIN")

    # -- the head ------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> Optional[str]:
        """A value of the head (``session``, ``host``, ``state``, ``tracker``, ``scopes``, …), None when not set."""
        value = self._one("SELECT value FROM meta WHERE key = ?", key)
        return None if value is None else str(value)

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the head."""
        self._write("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _one(self, query: str, *values: object) -> Any:
        with self._reading():
            row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _all(self, query: str, *values: object) -> list[Any]:
        with self._reading():
            rows = self._db.execute(query, values).fetchmany(_MOST_HEAD_ROWS)
        if len(rows) == _MOST_HEAD_ROWS:
            raise wrong("it has far too many LUNs, file systems or paths that were left out")
        return rows

    def _flush(self) -> None:
        if self._pending:
            rows, self._pending = self._pending, []
            self._insert(rows)

    def _insert(self, rows: Sequence[TableRow]) -> None:
        try:
            self._write_all(_INSERT, rows)
        except sqlite3.IntegrityError as exc:
            raise MapError("map: a path would be in it twice; put each path into one scope only.") from exc

    def _write(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._writing():
            return self._db.execute(query, values)

    def _write_all(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._writing():
            self._db.executemany(query, rows)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What goes wrong inside is that the map is damaged."""
        try:
            yield
        except DAMAGED as exc:
            raise wrong(f"it cannot be read ({exc})") from exc

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors inside into: there is no room; except that of a row that breaks a rule of the table."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as exc:
            raise MapError(
                f"map: {self.path} cannot be written ({exc}); state_dir needs room.",
                "state_dir",
                code="state_dir_unusable",
            ) from exc
