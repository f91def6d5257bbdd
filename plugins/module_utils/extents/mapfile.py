# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The extent map of one session: a SQLite file that says what every file is and where its bytes lie.

The database host makes it and the media server reads a copy. All sizes and offsets are bytes; ``physical`` counts
from the start of the LUN. The map holds readable data only: holes and unwritten extents have no row and read as zeros.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Callable, Optional

from .mapcheck import (
    DAMAGED,
    RowCheck,
    bound_work,
    check_changes,
    check_head,
    check_left_out,
    check_owners,
    check_schema,
    wrong,
)
from .maprows import (
    EXTENT_BYTES,
    ExtentRow,
    FileEntry,
    FileSystem,
    Lun,
    MapCounts,
    MapError,
    Mapped,
    MappedFields,
    SegmentRow,
    TableRow,
    mapped_fields,
    sort_key,
    table_row,
)

FORMAT_VERSION = "4"

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE luns(id INTEGER PRIMARY KEY, name TEXT UNIQUE, serial TEXT, wwn TEXT, size_bytes INTEGER);
CREATE TABLE filesystems(id INTEGER PRIMARY KEY, mount_point BLOB, fs_type TEXT, fs_uuid TEXT, block_bytes INTEGER,
  dev INTEGER, lun INTEGER, lun_offset_bytes INTEGER, root BLOB);
CREATE TABLE segments(fs INTEGER, device_offset INTEGER, lun INTEGER, lun_offset INTEGER, length INTEGER,
  PRIMARY KEY(fs, device_offset)) WITHOUT ROWID;
CREATE TABLE files(sort_key BLOB PRIMARY KEY, kind TEXT, fs INTEGER, inode INTEGER, dev INTEGER, nlink INTEGER,
  mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER, mtime_ns INTEGER, rdev_major INTEGER, rdev_minor INTEGER,
  target BLOB, xattrs BLOB, source TEXT, content BLOB, reason TEXT, extents BLOB) WITHOUT ROWID;
CREATE TABLE users(id INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE groups(id INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE changes(path BLOB, layer TEXT, what TEXT);
CREATE TABLE left_out(path BLOB PRIMARY KEY, why TEXT) WITHOUT ROWID;
"""
_INODE_INDEX = "CREATE INDEX files_inode ON files(inode)"

# The fields of FileEntry, with the sort key in place of the path, and the packed extents.
_COLUMNS = (
    "sort_key, kind, fs, inode, dev, nlink, mode, uid, gid, size, mtime_ns, rdev_major, rdev_minor, target, xattrs, "
    "source, content, reason, extents"
)
_INSERT = f"INSERT INTO files({_COLUMNS}) VALUES({', '.join('?' * 19)})"
_UPDATED = [name for name in _COLUMNS.split(", ") if name not in ("sort_key", "inode")]  # these two have indexes
_UPDATE = f"UPDATE files SET {', '.join(f'{name} = ?' for name in _UPDATED)} WHERE sort_key = ?"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM files"  # noqa: S608
_INSIDE = "sort_key >= ? AND sort_key < ?"
_BATCH_ROWS = 4000
#: More LUNs, file systems, pieces of them, or paths that were left out, than any host has.
_MOST_HEAD_ROWS = 1 << 20


def _tree_bounds(path: bytes) -> tuple[bytes, bytes]:
    """The sort keys from which on and up to which (exclusive) a path and all below it lie."""
    key = sort_key(path)
    # Below the root anything may follow, and no name has more than 255 bytes; elsewhere only the separator, zero.
    return (key, key + b"\1") if key else (b"", b"\xff" * 256)


class MapFile:
    """One open map file. Use it as a context manager: leaving it without an error writes what is pending; leaving it
    with one removes a file that was just made.

    One thread at a time may use it. Whatever writes raises MapError when state_dir has no room.
    """

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        """Not for callers: use create or open."""
        self.path = path
        self._db = connection
        self._closed = False
        self._new = False
        self._pending: list[TableRow] = []
        self._take: Callable[[TableRow], MappedFields] = mapped_fields

    # -- open and close ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str, session: str, host: str) -> MapFile:
        """Make an empty map (0600), in place of an older one of the same path.

        :raises MapError: when the file cannot be made.
        """
        try:
            if os.path.lexists(path):
                os.unlink(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise MapError(f"map: {path} cannot be made ({exc}); state_dir must be a writable folder.") from exc
        made = cls(path, db)
        made._new = True
        try:
            # A map that was not closed properly is thrown away, so nothing is paid for crash safety while building.
            for pragma in ("page_size=8192", "journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
                made._write(f"PRAGMA {pragma}")
            with made._writing():
                db.executescript(_SCHEMA)
            made._write("BEGIN")
            for key, value in (("format_version", FORMAT_VERSION), ("session", session), ("host", host)):
                made.set_meta(key, value)
        except BaseException:
            made._abandon()
            raise
        return made

    @classmethod
    def open(
        cls, path: str, session: Optional[str] = None, read_only: bool = False, *, foreign: bool = False
    ) -> MapFile:
        """Open a map that was made before.

        :param session: the session it must belong to, None for any.
        :param foreign: another host made it, so nothing in it is believed: the head is checked now, each row when it is
            read.
        :raises MapError: when it is missing, damaged, of another format, or the map of another session.
        """
        mode = "ro" if read_only else "rw"
        uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"
        unreadable = f"map: {path} is no extent map that can be read (%s); map the session first."
        try:
            opened = cls(path, sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False))
        except sqlite3.Error as exc:
            raise MapError(unreadable % exc) from exc
        try:
            if foreign:
                bound_work(opened._db, path)
            opened._begin(session, read_only)
            if foreign:
                opened._check()
        except DAMAGED as exc:
            opened._abandon()
            raise MapError(unreadable % exc) from exc
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
        if meta.get("format_version") != FORMAT_VERSION:
            raise MapError(
                f"map: {self.path} has format {meta.get('format_version')}, this version reads {FORMAT_VERSION}; "
                "map again."
            )
        if session is not None and meta.get("session") != session:
            raise MapError(
                f"session: {self.path} is the map of another session ({meta.get('session')}, not {session}); "
                "map this session first.",
                option="session",
            )
        if not read_only:
            db.execute("BEGIN")

    def _check(self) -> None:
        """:raises MapError: the map is not what an honest host makes."""
        self._db.execute("PRAGMA trusted_schema=OFF")
        self._db.execute("PRAGMA cell_size_check=ON")
        check_schema(self._db, _SCHEMA + _INODE_INDEX)
        with self._reading():
            filesystems = self.filesystems()
            numbers = [row[0] for row in self._db.execute("SELECT DISTINCT fs FROM segments")]
            segments = {number: self.segments(number) for number in numbers}
            check_head(self._db.execute("SELECT key, value FROM meta"), self.luns(), filesystems, segments)
            for table in ("users", "groups"):
                check_owners(self._db.execute(f"SELECT id, name FROM {table}"))  # noqa: S608
            check_changes(self._db.execute("SELECT path, what FROM changes"))
            check_left_out(self._db.execute("SELECT path, why FROM left_out"))
        self._take = RowCheck(segments).take

    def __enter__(self) -> MapFile:
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
            # Half a map is worth nothing, and nobody shall take it for a whole one.
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

    def set_state(self, state: str) -> None:
        """Set the state: ``mapped``, then ``checked``."""
        self.set_meta("state", state)

    def add_lun(self, name: str, size_bytes: int, serial: Optional[str] = None, wwn: Optional[str] = None) -> int:
        """Add a LUN and return its id."""
        cursor = self._write(
            "INSERT INTO luns(name, serial, wwn, size_bytes) VALUES(?, ?, ?, ?)", (name, serial, wwn, size_bytes)
        )
        return int(cursor.lastrowid or 0)

    def luns(self) -> list[Lun]:
        """All LUNs, in the order they were added."""
        return [Lun(*row) for row in self._all("SELECT id, name, serial, wwn, size_bytes FROM luns ORDER BY id")]

    def add_filesystem(
        self,
        *,
        mount_point: bytes,
        fs_type: str,
        fs_uuid: str,
        block_bytes: int,
        dev: int,
        segments: Sequence[SegmentRow],
        root: bytes = b"/",
    ) -> int:
        """Add a file system and where its device lies on the LUNs, and return its id."""
        cursor = self._write(
            "INSERT INTO filesystems(mount_point, fs_type, fs_uuid, block_bytes, dev, lun, lun_offset_bytes, root) "
            "VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (mount_point, fs_type, fs_uuid, block_bytes, dev, segments[0].lun, segments[0].lun_offset, root),
        )
        number = int(cursor.lastrowid or 0)
        self._write_all("INSERT INTO segments VALUES(?, ?, ?, ?, ?)", [(number, *row) for row in segments])
        return number

    def filesystems(self) -> list[FileSystem]:
        """All file systems, in the order they were added."""
        return [
            FileSystem(*row)
            for row in self._all(
                "SELECT id, mount_point, fs_type, fs_uuid, block_bytes, dev, lun, lun_offset_bytes, root "
                "FROM filesystems ORDER BY id"
            )
        ]

    def segments(self, fs: int) -> list[SegmentRow]:
        """Where the device of a file system lies on the LUNs, by ascending device offset."""
        query = "SELECT device_offset, lun, lun_offset, length FROM segments WHERE fs = ? ORDER BY device_offset"
        return [SegmentRow(*row) for row in self._all(query, fs)]

    def set_owners(self, users: Mapping[int, str], groups: Mapping[int, str]) -> None:
        """Record the names of users and groups, as Python's pwd and grp tell them on the database host."""
        # As bytes, because a name may be no UTF-8.
        for table, names in (("users", users), ("groups", groups)):
            rows = [(number, os.fsencode(name)) for number, name in names.items()]
            self._write_all(f"INSERT OR REPLACE INTO {table} VALUES(?, ?)", rows)

    def users(self) -> dict[int, str]:
        """Names of users by uid; what is no UTF-8 in them is escaped with surrogates."""
        return self._names("users")

    def groups(self) -> dict[int, str]:
        """Names of groups by gid, as users."""
        return self._names("groups")

    # -- files ---------------------------------------------------------------------------------------------------

    def add_new(self, entry: FileEntry, extents: Sequence[ExtentRow]) -> None:
        """Add a file whose path is not in the map yet; the quick way for building one.

        :raises MapError: (perhaps not before the next batch is written) when a path comes twice.
        """
        self._pending.append(table_row(entry, extents))
        if len(self._pending) >= _BATCH_ROWS:
            self._flush()

    def add_rows(self, rows: Sequence[TableRow]) -> None:
        """Add files whose paths are not in the map yet, as table_row makes them; the quickest way.

        :raises MapError: when a path comes twice.
        """
        self._flush()
        self._insert(rows)

    def put_file(self, entry: FileEntry, extents: Sequence[ExtentRow]) -> None:
        """Put a file into the map, in place of what is known of that path."""
        self._flush()
        row = table_row(entry, extents)
        inode = self._one("SELECT inode FROM files WHERE sort_key = ?", row[0])
        if inode == entry.inode:
            # In the window every page counts that has to be read or written.
            key, kind, fs, _inode, *rest = row
            self._write(_UPDATE, (kind, fs, *rest, key))
            return
        self._write("DELETE FROM files WHERE sort_key = ?", (row[0],))
        self._insert([row])

    def remove_tree(self, path: bytes, layer: Optional[str] = None) -> int:
        """Take a path and everything below it out of the map; return how many entries that were.

        :param layer: record each as removed by this layer, see add_changes.
        """
        self._flush()
        bounds = _tree_bounds(path)
        if layer is not None:
            keys = self._db.execute(f"SELECT sort_key FROM files WHERE {_INSIDE}", bounds)  # noqa: S608
            self.add_changes(layer, [(_path_of(key), "removed") for (key,) in keys])
        return self._write(f"DELETE FROM files WHERE {_INSIDE}", bounds).rowcount  # noqa: S608

    def holds_below(self, path: bytes) -> bool:
        """Whether there is anything below a path in the map."""
        self._flush()
        key, end = _tree_bounds(path)
        below = self._db.execute("SELECT 1 FROM files WHERE sort_key > ? AND sort_key < ? LIMIT 1", (key, end))
        return below.fetchone() is not None

    def get(self, path: bytes) -> Optional[Mapped]:
        """A file and its extents, None when the path is not in the map."""
        self._flush()
        with self._reading():
            row = self._db.execute(f"{_SELECT} WHERE sort_key = ?", (sort_key(path),)).fetchone()
            return None if row is None else _mapped(self._take(row))

    def paths_of_inodes(self, dev: int, inodes: Iterable[int]) -> list[bytes]:
        """All paths in the map with one of these inode numbers on the device number ``dev``."""
        self._flush()
        query = "SELECT sort_key FROM files WHERE inode = ? AND dev = ?"
        with self._reading():
            return [_path_of(row[0]) for inode in inodes for row in self._db.execute(query, (inode, dev))]

    def index_inodes(self) -> None:
        """Make the index behind paths_of_inodes; done once, when all files are in."""
        self._flush()
        self._write(_INODE_INDEX.replace("INDEX", "INDEX IF NOT EXISTS"))

    def entries(self, below: bytes = b"/") -> Iterator[Mapped]:
        """All files in logical order, each with its extents by ascending offset; only one is held in memory.

        :param below: only this path and what is below it.
        """
        return map(_mapped, self.rows(below))

    def rows(self, below: bytes = b"/") -> Iterator[MappedFields]:
        """The same as entries, as plain tuples."""
        self._flush()
        take = self._take
        before = None
        with self._reading():
            for row in self._db.execute(f"{_SELECT} WHERE {_INSIDE} ORDER BY sort_key", _tree_bounds(below)):
                key = row[0]
                # A damaged tree of pages may lead round and round.
                if before is not None and key <= before:
                    raise wrong("its files are out of order")
                before = key
                yield take(row)

    def counts(self) -> MapCounts:
        """Count what the map holds; reads all of it."""
        self._flush()
        with self._reading():
            entries, files, size, extents, fallback = self._db.execute(
                "SELECT count(*), total(kind = 'f'), total(CASE kind WHEN 'f' THEN size END), total(length(extents)), "
                "total(source = 'mount') FROM files"
            ).fetchone()
            return MapCounts(entries, int(files), int(size), int(extents) // EXTENT_BYTES, int(fallback))

    # -- what is not in it ---------------------------------------------------------------------------------------

    def leave_out(self, rows: Iterable[tuple[bytes, str]]) -> None:
        """Record (path, why) of what cannot be backed up, and take it out of the map with all that is below it."""
        for path, why in rows:
            self.remove_tree(path)
            self._write("INSERT OR IGNORE INTO left_out VALUES(?, ?)", (path, why))

    def left_out(self) -> list[tuple[bytes, str]]:
        """(path, why) of what cannot be backed up, in logical order."""
        rows = self._all("SELECT path, why FROM left_out")
        return sorted(rows, key=lambda row: sort_key(row[0]))

    # -- what the check and the proof changed ----------------------------------------------------------------------

    def add_changes(self, layer: str, changes: Iterable[tuple[bytes, str]]) -> None:
        """Record (path, what) of ``layer`` ``window`` or ``proof``; what: added, removed, remapped or attributes."""
        self._write_all(
            "INSERT INTO changes(path, layer, what) VALUES(?, ?, ?)", ((path, layer, what) for path, what in changes)
        )

    def changes(self, layer: str) -> list[tuple[bytes, str]]:
        """(path, what) of one layer, in logical order of the paths."""
        with self._reading():
            rows = self._db.execute("SELECT path, what FROM changes WHERE layer = ?", (layer,)).fetchall()
            return sorted(rows, key=lambda row: sort_key(row[0]))

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

    def _names(self, table: str) -> dict[int, str]:
        with self._reading():
            rows = self._db.execute(f"SELECT id, name FROM {table}")  # noqa: S608
            return {number: name.decode("utf-8", "surrogateescape") for number, name in rows}

    def _flush(self) -> None:
        if self._pending:
            rows, self._pending = self._pending, []
            self._insert(rows)

    def _insert(self, rows: Sequence[TableRow]) -> None:
        try:
            self._write_all(_INSERT, rows)
        except sqlite3.IntegrityError as exc:
            raise MapError("map: a path was to be added twice; put each path into one scope only.") from exc

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
        """What goes wrong inside is that there is no room, but for a row that breaks a rule of the table."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as exc:
            raise MapError(f"map: {self.path} cannot be written ({exc}); state_dir needs room.", "state_dir") from exc


def _path_of(key: bytes) -> bytes:
    """The inverse of sort_key."""
    return b"/" + key.replace(b"\0", b"/")


def _mapped(found: MappedFields) -> Mapped:
    return FileEntry._make(found[0]), [ExtentRow._make(extent) for extent in found[1]]
