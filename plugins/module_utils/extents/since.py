# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changed between two maps of a host. What is not proved to be unchanged counts as changed.

A path is proved to be unchanged if all that both maps say of it is equal, the inode and its time of change (ctime)
among it, and that time is before the window in which the older map was checked, by more than the clock of any file
system may be wrong: else something may have been written after that window in the same tick, which nothing shows.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from ..host.beneath import is_plain
from .mapcheck import DAMAGED, bound_work, wrong
from .mapfile import MapFile, path_of, tree_bounds
from .maprows import SOURCE_MOUNT, SOURCE_SKIP, MapError, sort_key

#: File systems keep times in ticks of up to 10 ms, or in whole seconds (ext4 with inodes of 128 bytes).
TICK_NS = 2_000_000_000
DEMANDS = "demands"
CHECKED_NS = "checked_ns"
_EQUAL = (
    "ctime_ns mtime_ns inode size extents kind fs nlink mode uid gid rdev_major rdev_minor target xattrs source content"
)
_SCHEMA = """
CREATE TABLE changed(key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE removed(key BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class Demand(NamedTuple):
    """What a database wants to be written whatever is proved: files at or below a path.

    :param path: absolute on the database host, links resolved.
    :param newer_than_ns: those whose content changed at this time (nanoseconds since 1970) or later; None for all.
    """

    path: str
    newer_than_ns: Optional[int] = None


def set_demands(map_file: MapFile, demands: Iterable[Demand]) -> None:
    """Record in a map what databases demand."""
    map_file.set_meta(DEMANDS, json.dumps([list(demand) for demand in demands]))


def demands_of(map_file: MapFile) -> list[Demand]:
    """What a map says that databases demand. :raises MapError: that is nonsense."""
    try:
        found = [Demand(*row) for row in json.loads(map_file.meta(DEMANDS) or "[]")]
        plain = all(is_plain(demand.path.encode("utf-8", "surrogateescape")) for demand in found)
    except (AttributeError, TypeError, ValueError, RecursionError) as exc:
        raise wrong("what databases demand cannot be read") from exc
    if not plain or not all(type(demand.newer_than_ns) in (int, type(None)) for demand in found):
        raise wrong("what databases demand is not plain")
    return found


def is_base(map_file: MapFile) -> bool:
    """Whether a later map can be compared with this one: it has times of change, and was checked in a window."""
    return map_file.meta("state") == "checked" and _checked_ns(map_file) is not None


def _checked_ns(map_file: MapFile) -> Optional[int]:
    """When a map was checked, nanoseconds since 1970; None if it does not say a time."""
    said = map_file.meta(CHECKED_NS) or ""
    # As many digits as fit into an integer of SQLite.
    return int(said) if re.fullmatch("[0-9]{1,18}|[1-8][0-9]{18}", said) is not None else None


@dataclass(frozen=True)
class Since:
    """What changed since a base, in a file beside the map.

    :param path: of that file; MapFile.only takes it.
    :param total: paths of the map that can be in an archive. :param changed: those of them that changed.
    :param removed_bytes: length of the list of what was removed, about.
    """

    path: str
    total: int
    changed: int
    removed_bytes: int = 0

    def removed(self, changes: Iterable[tuple[bytes, str]] = ()) -> Iterator[bytes]:
        """Paths that the base has and the host has not any more, those inside a folder before it.

        :param changes: (path, what) that the proof of the map found.
        """
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute("CREATE TEMP TABLE proved(key BLOB PRIMARY KEY, what TEXT) WITHOUT ROWID")
            rows = ((sort_key(path), what) for path, what in changes)
            db.executemany("INSERT OR REPLACE INTO proved VALUES(?, ?)", rows)
            query = (
                "SELECT key FROM removed WHERE key NOT IN (SELECT key FROM proved WHERE what = 'added') "
                "UNION SELECT key FROM proved WHERE what = 'removed' ORDER BY key DESC"
            )
            for (key,) in db.execute(query):
                yield path_of(key)


def compare_maps(map_path: str, base_path: str, result_path: str) -> Since:
    """Find out what changed since a base.

    :param map_path: a map of the host. :param base_path: an older one for which is_base holds.
    :param result_path: the file for the result, made anew.
    :raises MapError: they cannot be compared.
    """
    with (
        MapFile.open(map_path, read_only=True, foreign=True) as new,
        MapFile.open(base_path, read_only=True, foreign=True) as base,
    ):
        checked_ns = _checked_ns(base)
        if checked_ns is None or not is_base(base):
            raise MapError(f"map: {base_path} cannot be compared with; back up at level full.", code="map_missing")
        same = _same_filesystems(new, base)
        limit_ns = checked_ns - TICK_NS
        demands = demands_of(new)
    try:
        if os.path.lexists(result_path):
            os.unlink(result_path)
        os.close(os.open(result_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(result_path, isolation_level=None)) as db:
            db.executescript(f"PRAGMA trusted_schema=OFF; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")
            for name, path in (("new", map_path), ("base", base_path)):
                db.execute("ATTACH ? AS " + name, (path,))
                db.execute(f"PRAGMA {name}.cache_size=-16384")
            bound_work(db, map_path, base_path)
            db.execute("BEGIN")
            _find(db, same, limit_ns, demands)
            total = db.execute("SELECT count(*) FROM new.files WHERE source != ?", (SOURCE_SKIP,)).fetchone()[0]
            changed = db.execute("SELECT count(*) FROM changed").fetchone()[0]
            removed_bytes = db.execute("SELECT ifnull(sum(length(key) + 1), 0) FROM removed").fetchone()[0]
            db.execute("COMMIT")
    except (OSError, *DAMAGED) as exc:
        raise MapError(
            f"map: {map_path} cannot be compared with that of the base ({exc}); back up at level full.",
            code="map_missing",
        ) from exc
    return Since(result_path, int(total), int(changed), int(removed_bytes))


def _find(db: sqlite3.Connection, same: Sequence[int], limit_ns: int, demands: Sequence[Demand]) -> None:
    equal = " AND ".join(f"b.{name} IS n.{name}" for name in _EQUAL.split())
    db.execute(
        "INSERT INTO changed SELECT n.sort_key FROM new.files n LEFT JOIN base.files b ON b.sort_key = n.sort_key "  # noqa: S608
        f"AND {equal} AND b.ctime_ns > 0 AND b.ctime_ns < ? AND b.source NOT IN (?, ?) "
        f"AND b.fs IN ({', '.join(map(str, same))}) "
        "WHERE b.sort_key IS NULL AND n.source != ? ORDER BY n.sort_key",
        (limit_ns, SOURCE_MOUNT, SOURCE_SKIP, SOURCE_SKIP),
    )
    for demand in demands:
        key, end = tree_bounds(demand.path.encode("utf-8", "surrogateescape"))
        newer = "" if demand.newer_than_ns is None else f"AND mtime_ns >= {demand.newer_than_ns}"
        db.execute(
            "INSERT OR IGNORE INTO changed SELECT sort_key FROM new.files WHERE sort_key >= ? AND sort_key < ? "  # noqa: S608
            f"AND kind = 'f' AND source != ? {newer}",
            (key, end, SOURCE_SKIP),
        )
    # Of a file with several names, all are written, or none.
    db.execute(
        "INSERT OR IGNORE INTO changed SELECT other.sort_key FROM (SELECT DISTINCT n.inode, n.fs FROM changed "
        "CROSS JOIN new.files n ON n.sort_key = changed.key WHERE n.nlink > 1 AND n.kind != 'd') linked "
        "CROSS JOIN new.files other ON other.inode = linked.inode AND other.fs = linked.fs "
        "WHERE other.kind != 'd' AND other.source != ?",
        (SOURCE_SKIP,),
    )
    gone = db.execute(
        "SELECT b.sort_key, b.kind FROM base.files b WHERE b.source != ? AND NOT EXISTS "
        "(SELECT 1 FROM new.files n WHERE n.sort_key = b.sort_key AND n.source != ?)",
        (SOURCE_SKIP, SOURCE_SKIP),
    )
    for key, kind in gone:
        if not is_plain(path_of(key)):
            raise wrong("a path in it is not plain", path_of(key))
        # A folder that is not in the scopes any more may hold what still is.
        if kind != "d" or not _holds_below(db, key):
            db.execute("INSERT INTO removed VALUES(?)", (key,))
    _add_folders(db)


def _holds_below(db: sqlite3.Connection, key: bytes) -> bool:
    query = "SELECT 1 FROM new.files WHERE sort_key > ? AND sort_key < ? LIMIT 1"
    return db.execute(query, (key, tree_bounds(path_of(key))[1])).fetchone() is not None


def _add_folders(db: sqlite3.Connection) -> None:
    """Add the folder of each path that changed or was removed: who unpacks one over the other touches its times."""
    before: Optional[bytes] = None
    # What is added comes before what is in it, so the reading does not meet it.
    for (key,) in db.execute("SELECT key FROM changed UNION ALL SELECT key FROM removed"):
        folder, found, _name = key.rpartition(b"\0")
        if folder != before and (found or key):
            before = folder
            db.execute(
                "INSERT OR IGNORE INTO changed SELECT sort_key FROM new.files WHERE sort_key = ? AND kind = 'd'",
                (folder,),
            )


def _same_filesystems(new: MapFile, base: MapFile) -> list[int]:
    """Numbers of the file systems that are in both maps, where they were, on the same LUNs.

    0 is among them, which is none: an entry that needs nothing but the map.
    """

    def described(map_file: MapFile) -> Mapping[int, tuple[Any, ...]]:
        luns = {lun.id: lun.name for lun in map_file.luns()}
        return {
            fs.id: (
                *(fs.mount_point, fs.fs_type, fs.fs_uuid, fs.block_bytes, fs.root),
                [(*piece, luns.get(piece.lun)) for piece in map_file.segments(fs.id)],
            )
            for fs in map_file.filesystems()
        }

    old = described(base)
    return [0, *(number for number, what in described(new).items() if old.get(number) == what)]
