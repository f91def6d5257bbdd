# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The map file: what goes in comes out, in logical order, and a wrong file is refused."""

from __future__ import annotations

import io
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import REGULAR, HeaderMaker
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    MapError,
    SegmentRow,
    mapped_fields,
    pack_xattrs,
    sort_key,
    table_row,
    unpack_xattrs,
)

FILES_OF_FORMAT_4 = """CREATE TABLE files(sort_key BLOB PRIMARY KEY, kind TEXT, fs INTEGER, inode INTEGER, dev INTEGER, nlink INTEGER,
  mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER, mtime_ns INTEGER, rdev_major INTEGER, rdev_minor INTEGER,
  target BLOB, xattrs BLOB, source TEXT, content BLOB, reason TEXT, extents BLOB) WITHOUT ROWID"""  # noqa: E501
NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
EXTENTS = st.lists(st.integers(1, 9), max_size=4).map(
    lambda sizes: [ExtentRow(sum(sizes[:n]) * 4096, 1, n << 20, size * 4096, n) for n, size in enumerate(sizes)]
)


@settings(deadline=None, max_examples=60)
@given(files=st.dictionaries(PATHS, EXTENTS, max_size=12), removed=PATHS)
def test_a_map_gives_back_what_was_put_in_in_logical_order(files: dict[bytes, list[ExtentRow]], removed: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/map ?#%.sqlite"
        with MapFile.create(path, "s1", "host") as made:
            for number, (name, extents) in enumerate(files.items()):
                entry = FileEntry(name, "f", size=number, target=b"\n", xattrs=b"x", source="device", reason="r")
                (made.add_new if number % 2 else made.put_file)(entry, extents)
        with MapFile.open(path, "s1") as opened:
            stored = {entry.path: extents for entry, extents in opened.entries()}
            assert stored == files
            assert list(stored) == sorted(files, key=lambda name: name.split(b"/"))
            below = [name for name in files if name == removed or name.startswith(removed + b"/")]
            assert [entry.path for entry, _dummy in opened.entries(removed)] == sorted(below, key=sort_key)
            assert opened.remove_tree(removed, "window") == len(below)
            assert opened.changes("window") == [(name, "removed") for name in sorted(below, key=sort_key)]
            assert {entry.path for entry, extents in opened.entries()} == set(files) - set(below)
            assert opened.counts().extents == sum(len(files[name]) for name in set(files) - set(below))


@given(st.integers(-(2**31) * 10**9, 16_299_260_424 * 10**9 + 999_999_999))  # from 1901 to XFS's last, in 2486
@example(10_413_792_000 * 10**9)
@example(2**63 - 1)
@example(2**63)
def test_a_row_keeps_any_time_that_a_file_can_have_in_64_bits(mtime_ns: int) -> None:
    entry = FileEntry(b"/a/b", "f", size=1, mtime_ns=mtime_ns, target=b"t", reason="r")
    extents = [ExtentRow(0, 1, 4096, 512)]
    row = table_row(entry, extents)
    assert -(2**63) <= row[FileEntry._fields.index("mtime_ns")] < 2**63
    assert mapped_fields(row) == (entry, extents)


@given(st.dictionaries(st.binary(min_size=1, max_size=300), st.binary(max_size=300), max_size=5))
def test_xattrs_survive_packing(xattrs: dict[bytes, bytes]) -> None:
    assert unpack_xattrs(pack_xattrs(xattrs)) == xattrs


def test_damaged_xattrs_are_refused() -> None:
    blob = pack_xattrs({b"user.a": b"value"})
    assert blob is not None
    for cut in (3, len(blob) - 1):
        with pytest.raises(MapError, match="cut short"):
            unpack_xattrs(blob[:cut])


def test_put_file_replaces_and_get_finds(tmp_path: Path) -> None:
    with MapFile.create(str(tmp_path / "map"), "s1", "host") as made:
        made.put_file(
            FileEntry(b"/a", "f", inode=7, dev=1, size=5), [ExtentRow(0, 1, 0, 4096), ExtentRow(8192, 1, 1, 9)]
        )
        made.put_file(FileEntry(b"/a", "f", inode=7, dev=1, size=6), [ExtentRow(0, 1, 4096, 4096)])
        made.add_new(FileEntry(b"/b", "f", inode=7, dev=1), [])
        made.index_inodes()
        assert made.get(b"/a") == (FileEntry(b"/a", "f", inode=7, dev=1, size=6), [ExtentRow(0, 1, 4096, 4096)])
        assert made.get(b"/c") is None
        assert made.paths_of_inodes(1, [7, 8]) == [b"/a", b"/b"]
        assert [entry.path for entry, extents in made.entries(b"/b")] == [b"/b"]
        assert made.remove_tree(b"/") == 2
        assert list(made.entries()) == []


def test_a_path_added_twice_is_refused(tmp_path: Path) -> None:
    made = MapFile.create(str(tmp_path / "map"), "s1", "host")
    made.add_new(FileEntry(b"/a", "f"), [])
    made.add_new(FileEntry(b"/a", "f"), [])
    with pytest.raises(MapError, match="twice"):
        made.close()


def test_the_head_tells_luns_file_systems_owners_and_changes(tmp_path: Path) -> None:
    path = tmp_path / "map"
    with MapFile.create(str(path), "s1", "db.example") as made:
        lun = made.add_lun("data", 1 << 30, "serial-1")
        segments = [SegmentRow(0, lun, 1 << 20, 1 << 24), SegmentRow(1 << 24, lun, 1 << 26, 1 << 24)]
        fs = made.add_filesystem(
            mount_point=b"/m\xff", fs_type="xfs", fs_uuid="u-1", block_bytes=4096, dev=66, segments=segments
        )
        made.set_owners({0: "root"}, {0: "root", 5: "tty"})
        made.add_changes("window", [(b"/b", "added"), (b"/a/b", "removed")])
        made.set_state("mapped")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with MapFile.open(str(path), read_only=True) as opened:
        assert (opened.meta("host"), opened.meta("state"), opened.meta("tracker")) == ("db.example", "mapped", None)
        assert [(row.name, row.serial, row.size_bytes) for row in opened.luns()] == [("data", "serial-1", 1 << 30)]
        (row,) = opened.filesystems()
        assert (row.mount_point, row.lun_offset_bytes, row.root) == (b"/m\xff", 1 << 20, b"/")
        assert opened.segments(fs) == segments
        assert (opened.users(), opened.groups()) == ({0: "root"}, {0: "root", 5: "tty"})
        assert opened.changes("window") == [(b"/a/b", "removed"), (b"/b", "added")]
        assert opened.changes("proof") == []


def test_owners_whose_names_are_no_utf8_come_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xfcller")  # as pwd tells what stands in Latin-1 in /etc/passwd
    with MapFile.create(str(tmp_path / "map"), "s1", "host") as made:
        made.set_owners({5: name}, {6: name})
    with MapFile.open(str(tmp_path / "map"), read_only=True) as opened:
        owners = Owners(opened.users(), opened.groups())
    assert (owners.users, owners.groups) == ({5: name}, {6: name})
    header = HeaderMaker(owners).header(b"file", REGULAR, (0o600, 5, 6), 0, 0)
    member = next(iterate_members(io.BytesIO(header)))
    assert (member.uname, member.gname) == (b"m\xfcller", b"m\xfcller")


def test_a_map_of_another_session_is_refused(tmp_path: Path) -> None:
    MapFile.create(str(tmp_path / "map"), "s1", "host").close()
    with pytest.raises(MapError, match="another session") as error:
        MapFile.open(str(tmp_path / "map"), "s2")
    assert error.value.option == "session"


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, just some text that is long enough to be read as one\n" * 99)
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t(x)")
    for name in ("missing", "text", "other"):
        with pytest.raises(MapError, match="cannot be read as an extent map"):
            MapFile.open(str(tmp_path / name), "s1")
    with MapFile.create(str(tmp_path / "map"), "s1", "host") as made:
        made.set_meta("format_version", "99")
    with pytest.raises(MapError, match="format 99"):
        MapFile.open(str(tmp_path / "map"), "s1")


def test_logical_order_needs_no_sorting_in_memory(tmp_path: Path) -> None:
    made = MapFile.create(str(tmp_path / "map"), "s1", "host")
    plan = made._db.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM files WHERE sort_key >= x'00' AND sort_key < x'01' ORDER BY sort_key"
    )
    assert not [row for row in plan if "TEMP B-TREE" in row[3]]


def test_a_map_of_the_format_before_is_read_and_knows_no_time_of_change(tmp_path: Path) -> None:
    entry = FileEntry(b"/srv/a", "f", fs=1, size=4096, mtime_ns=7, ctime_ns=9, source="device")
    extents = [ExtentRow(0, 1, 1 << 20, 4096)]
    path = tmp_path / "map.sqlite"
    with MapFile.create(str(path), "s1", "db1") as made:
        made.add_lun("data", 1 << 30)
        made.add_filesystem(
            mount_point=b"/srv",
            fs_type="ext4",
            fs_uuid="u",
            block_bytes=4096,
            dev=7,
            segments=[SegmentRow(0, 1, 0, 1 << 30)],
        )
        made.add_new(entry, extents)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE kept AS SELECT * FROM files")
        db.execute("DROP TABLE files")
        db.execute(FILES_OF_FORMAT_4)
        columns = [row[1] for row in db.execute("PRAGMA table_info(files)")]
        db.execute(f"INSERT INTO files SELECT {', '.join(columns)} FROM kept")
        db.execute("DROP TABLE kept")
        db.execute("UPDATE meta SET value = '4' WHERE key = 'format_version'")
    db.close()
    with MapFile.open(str(path), "s1", read_only=True, foreign=True) as opened:
        assert list(opened.entries()) == [(entry._replace(ctime_ns=0), extents)]
        assert opened.counts().entries == 1
    with pytest.raises(MapError, match="format 4"):
        MapFile.open(str(path), "s1")
