# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The map of another host: whatever stands in it, it is read as an honest one is, or refused in a sentence."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.estimate import estimate
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapcheck import (
    parse_names,
    parse_scopes,
    parse_seals,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    MapError,
    SegmentRow,
    pack_xattrs,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import WriteJob, write_session
from ansible_collections.splitmirror.backup.tests.support.limits import within
from ansible_collections.splitmirror.backup.tests.support.tape import Library

ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "60"))
LUN_BYTES = 1 << 20
#: One of each type of SQLite, the borders of numbers, and names that lead elsewhere.
VALUES: list[Any] = [
    None, -1, 0, 1, 7, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63), 1.5, math.inf, "", "f", "x", "none", "device",
    "mount", "/../etc", "\0", b"", b"\0", b"/", b"a", b"a\0..\0etc", b"..", b"a//b", b"/..", b"/srv/../etc",
    b"\xff" * 33, "[]", "{}", '[{"root": 1}]', "[" * 100_000,
]  # fmt: skip


def honest(path: Path) -> None:
    """Make a map with one of each kind."""
    with MapFile.create(str(path), "s1", "db1") as made:
        lun = made.add_lun("data", LUN_BYTES, "serial", None)
        fs = made.add_filesystem(
            mount_point=b"/srv", fs_type="ext4", fs_uuid="u", block_bytes=4096, dev=2049,
            segments=[SegmentRow(0, lun, 4096, LUN_BYTES - 4096)], root=b"/in",
        )  # fmt: skip
        xattrs = pack_xattrs({b"user.x": b"1"})
        for entry, extents in (
            (FileEntry(b"/srv", "d", fs, 2, 2049, 3, 0o755), []),
            (FileEntry(b"/srv/c", "f", fs, 3, 2049, size=5, source="content", content=b"hello"), []),
            (FileEntry(b"/srv/dev", "c", fs, 4, 2049, rdev_major=1, rdev_minor=3), []),
            (FileEntry(b"/srv/f", "f", fs, 5, 2049, size=9, source="device", xattrs=xattrs), [(0, lun, 8192, 4096, 0)]),
            (FileEntry(b"/srv/g", "f", fs, 6, 2049, size=9, source="mount", reason="tail"), []),
            (FileEntry(b"/srv/l", "l", fs, 7, 2049, target=b"f"), []),
            (FileEntry(b"/srv/s", "s", fs, 8, 2049, source="skip"), []),
        ):
            made.add_new(entry, [ExtentRow(*row) for row in extents])
        made.index_inodes()
        made.set_owners({0: "root"}, {0: "root"})
        made.add_changes("window", [(b"/srv/f", "added")])
        made.set_meta("scopes", '[{"root": "/srv", "empty": [], "exclude": ["*.tmp"], "label": "paths"}]')
        made.set_meta("seals", '{"1": "00"}')
        made.set_meta("names", '{"/data": "/srv"}')
        made.set_state("checked")


def read_all(path: Path) -> list[Any]:
    """Everything that the media server asks of a map."""
    with MapFile.open(str(path), "s1", read_only=True, foreign=True) as opened:
        read: list[Any] = [opened.luns(), opened.filesystems(), opened.users(), opened.groups(), opened.counts()]
        read += [opened.segments(fs.id) for fs in opened.filesystems()]
        read += [opened.changes("window"), opened.get(b"/srv/f"), opened.meta("state"), opened.meta("host")]
        read += [parse_scopes(opened.meta("scopes") or "[]"), parse_seals(opened.meta("seals") or "{}")]
        read += [parse_names(opened.meta("names") or "{}")]
        read.append(estimate(opened, 512))
        for entry, extents in opened.entries():
            assert entry.path.startswith(b"/")
            assert b".." not in entry.path.split(b"/")
            assert all(isinstance(number, int) and number >= 0 for number in entry[2:10])
            assert all(0 <= row.physical <= row.physical + row.length <= LUN_BYTES for row in extents)
            read.append((entry, extents))
    return read


def columns(path: Path) -> list[tuple[str, str]]:
    db = sqlite3.connect(path)
    with contextlib.closing(db):
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")]


def test_an_honest_map_is_read(tmp_path: Path) -> None:
    honest(tmp_path / "map")
    assert len(read_all(tmp_path / "map")) == 21


@pytest.mark.slow
def test_a_wrong_value_in_any_column_is_a_sentence_or_harmless(tmp_path: Path) -> None:
    honest(tmp_path / "map")
    whole = (tmp_path / "map").read_bytes()
    refused = 0
    for table, column in columns(tmp_path / "map"):
        for value in VALUES:
            (tmp_path / "map").write_bytes(whole)
            db = sqlite3.connect(tmp_path / "map", isolation_level=None)
            with contextlib.closing(db), contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA synchronous=OFF")
                db.execute("PRAGMA journal_mode=MEMORY")
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
            try:
                read_all(tmp_path / "map")
            except SplitMirrorError:
                refused += 1
    assert refused > 300


@pytest.mark.slow
def test_flipped_bits_are_a_sentence_or_harmless(tmp_path: Path) -> None:
    honest(tmp_path / "map")
    whole = (tmp_path / "map").read_bytes()
    # Most of the pages is empty.
    places = [place for place in range(len(whole)) if any(whole[max(0, place - 8) : place + 8])]
    chosen = random.Random(ROUNDS)
    for _round in range(ROUNDS * 10):
        flipped = bytearray(whole)
        for _bit in range(chosen.choice((1, 1, 1, 2, 8))):
            flipped[chosen.choice(places)] ^= 1 << chosen.randrange(8)
        (tmp_path / "map").write_bytes(flipped)
        with contextlib.suppress(SplitMirrorError):
            read_all(tmp_path / "map")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON changes BEGIN DELETE FROM files; END",
        "ALTER TABLE files RENAME TO other; CREATE VIEW files AS SELECT * FROM other",
        "CREATE TABLE more(x)",
        "CREATE INDEX i ON files(path_of_nothing('x'))",
        "DROP TABLE users; CREATE TABLE users(id, name)",
    ],
)
def test_other_tables_than_those_of_a_map_are_refused(tmp_path: Path, statement: str) -> None:
    honest(tmp_path / "map")
    db = sqlite3.connect(tmp_path / "map")
    db.create_function("path_of_nothing", 1, lambda value: value, deterministic=True)
    with contextlib.closing(db):
        db.executescript(statement)
    with pytest.raises(MapError, match="its tables are not those of an extent map"):
        read_all(tmp_path / "map")


def test_a_wrong_value_never_reaches_a_volume_as_a_traceback(tmp_path: Path) -> None:
    """All of it, with what needs no mirror: a writer that believes a map would fail in its threads."""
    library = Library(tmp_path)
    library.make(capacity_bytes=4 << 20)
    library.label()
    lines = [b"/srv/a", b"/srv/b"]
    with MapFile.create(str(tmp_path / "map"), "s1", "db1") as made:
        for line in lines:
            made.add_new(FileEntry(line, "f", size=5, source="content", content=b"hello"), [])
        made.set_state("checked")
    whole = (tmp_path / "map").read_bytes()
    wanted = {name for table, name in columns(tmp_path / "map") if table == "files"}
    chosen = random.Random(ROUNDS)
    for column in sorted(wanted):
        for value in chosen.sample(VALUES, 4):
            (tmp_path / "map").write_bytes(whole)
            db = sqlite3.connect(tmp_path / "map", isolation_level=None)
            with contextlib.closing(db), contextlib.suppress(sqlite3.Error):
                db.execute(f"UPDATE OR IGNORE files SET {column} = ? WHERE sort_key LIKE '%b'", (value,))
            job = WriteJob(
                "s1", str(library.state_dir), str(tmp_path / "map"), {}, str(tmp_path / "mounts"), proof="none",
                buffer_bytes=1 << 20,
            )  # fmt: skip
            with contextlib.suppress(SplitMirrorError), library.drive() as drive:
                write_session(job, library.on(drive))
    library.catalog.close()


def bend(path: Path, table: str) -> None:
    """Lead the tree of a table through a few pages so often that nobody ever gets to its end (SQLite's file format)."""
    depth, fan = 12, 200
    db = sqlite3.connect(path)
    with contextlib.closing(db):
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    raw = bytearray(path.read_bytes())
    pages = len(raw) // page_bytes

    def inner(child: int) -> bytes:
        page = bytearray(page_bytes)
        struct.pack_into(">BHHHBI", page, 0, 5, 0, fan, page_bytes - 5 * fan, 0, child)
        for number in range(fan):
            place = page_bytes - 5 * (number + 1)
            struct.pack_into(">IB", page, place, child, 1)
            struct.pack_into(">H", page, 12 + 2 * number, place)
        return bytes(page)

    begin = (root - 1) * page_bytes
    raw += raw[begin : begin + page_bytes]
    for level in range(1, depth):
        raw += inner(pages + level)
    raw[begin : begin + page_bytes] = inner(pages + depth)
    struct.pack_into(">I", raw, 28, len(raw) // page_bytes)
    path.write_bytes(raw)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["meta", "luns", "filesystems", "users", "groups", "changes"])
def test_a_map_that_leads_round_and_round_is_refused(tmp_path: Path, table: str) -> None:
    honest(tmp_path / "map")
    bend(tmp_path / "map", table)
    with within(100), pytest.raises(MapError, match="map: "):
        read_all(tmp_path / "map")


@pytest.mark.parametrize(
    "text", ["[]", "1", "{", '{"/a": 1}', '{"/a": "b"}', '{"a": "/b"}', '{"/a": "/b/../c"}', "[" * 9999]
)
def test_other_names_must_be_plain_paths(text: str) -> None:
    with pytest.raises(MapError, match="other names"):
        parse_names(text)
