# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The extent map of one session: a SQLite file that says what every file is and where its bytes lie.

The database host makes it and the media server reads a copy. All sizes and offsets are bytes; ``physical`` counts
from the start of the LUN. The map holds readable data only: holes and unwritten extents have no row and read as zeros.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

from ..errors import SplitMirrorError
from .mapcheck import (
    RowCheck,
    check_changes,
    check_head,
    check_left_out,
    check_owners,
    check_schema,
    wrong,
)
from .maprows import (
    EXTENT_BYTES,
    SOURCE_DEVICE,
    ExtentRow,
    FileEntry,
    FileSystem,
    Lun,
    MapCounts,
    Mapped,
    MappedFields,
    Measured,
    SegmentRow,
    TableRow,
    sort_key,
    table_row,
)
from .mapsqlite import INODE_INDEX, SCHEMA, SCHEMA_WITHOUT_CTIME, UPDATE, MapSqlite

_INSIDE = "sort_key >= ? AND sort_key < ?"
_BATCH_ROWS = 4000
# A file with one name and one extent.
_PLAIN = f"kind = 'f' AND nlink = 1 AND source = '{SOURCE_DEVICE}' AND ifnull(length(extents), 0) = {EXTENT_BYTES}"


def tree_bounds(path: bytes) -> tuple[bytes, bytes]:
    """The sort keys from which on and up to which (exclusive) a path and all below it lie."""
    key = sort_key(path)
    # Below the root anything may follow, and no name has more than 255 bytes; elsewhere only the separator, zero.
    return (key, key + b"\1") if key else (b"", b"\xff" * 256)


class MapFile(MapSqlite):
    """One open map file. Use it as a context manager: leaving it without an error writes what is pending; leaving it
    with one removes a file that was just made.

    One thread at a time may use it. Whatever writes raises MapError when state_dir has no room.
    """

    def _check(self) -> None:
        """:raises MapError: the map is not what an honest host makes."""
        self._db.execute("PRAGMA trusted_schema=OFF")
        self._db.execute("PRAGMA cell_size_check=ON")
        check_schema(self._db, (SCHEMA_WITHOUT_CTIME if self._old else SCHEMA) + INODE_INDEX)
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

    # -- the head ------------------------------------------------------------------------------------------------

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
        """Record the names of users and groups, as Python's pwd and grp know them on the database host."""
        # As bytes, because a name may be no UTF-8.
        for table, names in (("users", users), ("groups", groups)):
            rows = [(number, os.fsencode(name)) for number, name in names.items()]
            self._write_all(f"INSERT OR REPLACE INTO {table} VALUES(?, ?)", rows)

    def users(self) -> dict[int, str]:
        """Names of users by uid; bytes in them that are not UTF-8 are escaped with surrogates."""
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
            self._write(UPDATE, (kind, fs, *rest, key))
            return
        self._write("DELETE FROM files WHERE sort_key = ?", (row[0],))
        self._insert([row])

    def remove_tree(self, path: bytes, layer: Optional[str] = None) -> int:
        """Take a path and everything below it out of the map; return the number of entries.

        :param layer: record each as removed by this layer, see add_changes.
        """
        self._flush()
        bounds = tree_bounds(path)
        if layer is not None:
            keys = self._db.execute(f"SELECT sort_key FROM files WHERE {_INSIDE}", bounds)  # noqa: S608
            self.add_changes(layer, [(path_of(key), "removed") for (key,) in keys])
        return self._write(f"DELETE FROM files WHERE {_INSIDE}", bounds).rowcount  # noqa: S608

    def remove_entry(self, path: bytes) -> None:
        """Take one path out of the map, whatever is below it."""
        self._flush()
        self._write("DELETE FROM files WHERE sort_key = ?", (sort_key(path),))

    def forget_change(self, path: bytes) -> None:
        """Note that it is not known when a path changed."""
        self._flush()
        self._write("UPDATE files SET ctime_ns = 0 WHERE sort_key = ?", (sort_key(path),))

    def holds_below(self, path: bytes) -> bool:
        """Whether there is anything below a path in the map."""
        self._flush()
        key, end = tree_bounds(path)
        below = self._db.execute("SELECT 1 FROM files WHERE sort_key > ? AND sort_key < ? LIMIT 1", (key, end))
        return below.fetchone() is not None

    def get(self, path: bytes) -> Optional[Mapped]:
        """A file and its extents, None when the path is not in the map."""
        self._flush()
        with self._reading():
            row = self._db.execute(f"{self._select} WHERE sort_key = ?", (sort_key(path),)).fetchone()
            return None if row is None else _mapped(self._take(row))

    def paths_of_inodes(self, dev: int, inodes: Iterable[int]) -> list[bytes]:
        """All paths in the map with one of these inode numbers on the device number ``dev``."""
        self._flush()
        query = "SELECT sort_key FROM files WHERE inode = ? AND dev = ?"
        with self._reading():
            return [path_of(row[0]) for inode in inodes for row in self._db.execute(query, (inode, dev))]

    def index_inodes(self) -> None:
        """Make the index behind paths_of_inodes; done once, when all files are in."""
        self._flush()
        self._write(INODE_INDEX.replace("INDEX", "INDEX IF NOT EXISTS"))

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
            for row in self._db.execute(f"{self._select} WHERE {_INSIDE} ORDER BY {self._order}", tree_bounds(below)):
                key = row[0]
                # A damaged tree of pages may lead round and round.
                if before is not None and key <= before:
                    raise wrong("its files are out of order")
                before = key
                yield take(row)

    def only(self, since: str) -> None:
        """Let entries, rows, counts and add_up give from now on only what changed.

        :param since: the file that compare_maps made.
        """
        with self._reading():
            self._db.execute("ATTACH ? AS since", (f"file:{urllib.parse.quote(since)}?mode=ro",))
        changed = "since.changed CROSS JOIN files ON sort_key = key"
        self._select, self._files = self._select.replace("FROM files", f"FROM {changed}"), changed
        self._order = "key"

    def counts(self) -> MapCounts:
        """Count what the map holds; reads all of it."""
        self._flush()
        with self._reading():
            entries, files, size, extents, fallback = self._db.execute(
                "SELECT count(*), total(kind = 'f'), total(CASE kind WHEN 'f' THEN size END), total(length(extents)), "  # noqa: S608
                f"total(source = 'mount') FROM {self._files}"
            ).fetchone()
            return MapCounts(entries, int(files), int(size), int(extents) // EXTENT_BYTES, int(fallback))

    def add_up(
        self,
        plain_bytes: Callable[[bytes, int, bytes, int, int, Optional[bytes]], int],
        measure: Callable[[FileEntry, Sequence[ExtentRow]], Measured],
    ) -> tuple[int, int, int]:
        """Add up what the entries take in an archive; reads all of the map.

        :param plain_bytes: gets the sort key, the size, the packed extent, uid, gid and the packed attributes of a file
            with one name and one extent, and returns what it takes in the archive. Nearly all files are such.
        :param measure: gets each other entry, in logical order.
        :returns: number of files, length of their contents, bytes of the archive.
        :raises SplitMirrorError: the map is damaged, or one of the two raised it.
        """
        failed: list[SplitMirrorError] = []

        def plain(*values: Any) -> Optional[int]:
            # SQLite reports of an error in a function only that there was one.
            try:
                return plain_bytes(*values)
            except SplitMirrorError as exc:
                failed.append(exc)
                return None

        self._flush()
        with self._reading():
            self._db.create_function("plain_bytes", 6, plain)
            found = self._db.execute(
                "SELECT count(*), total(size), total(plain_bytes(sort_key, size, extents, uid, gid, xattrs)) "  # noqa: S608
                f"FROM {self._files} WHERE {_PLAIN}"
            ).fetchone()
            if failed:
                raise failed[0]
            files, data_bytes, archive_bytes = map(int, found)
            for row in self._db.execute(f"{self._select} WHERE NOT ({_PLAIN}) ORDER BY {self._order}"):
                fields, extents = self._take(row)
                is_file, length, taken = measure(
                    FileEntry._make(fields), [ExtentRow._make(extent) for extent in extents]
                )
                files += is_file
                data_bytes += length
                archive_bytes += taken
        return files, data_bytes, archive_bytes

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

    def _names(self, table: str) -> dict[int, str]:
        with self._reading():
            rows = self._db.execute(f"SELECT id, name FROM {table}")  # noqa: S608
            return {number: name.decode("utf-8", "surrogateescape") for number, name in rows}


def path_of(key: bytes) -> bytes:
    """The inverse of sort_key."""
    return b"/" + key.replace(b"\0", b"/")


def _mapped(found: MappedFields) -> Mapped:
    return FileEntry._make(found[0]), [ExtentRow._make(extent) for extent in found[1]]
