# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changed between two maps: only what is proved to be unchanged is left out."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.estimate import estimate
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    MapError,
    SegmentRow,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.proof import NONE, Proof
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.since import (
    TICK_NS,
    Demand,
    Since,
    compare_maps,
    set_demands,
)

CHECKED_NS = 1_700_000_000_000_000_000
OLD_NS = CHECKED_NS - TICK_NS - 1
EXTENT = ExtentRow(0, 1, 1 << 20, 4096)


def file(path: str, **values: Any) -> tuple[FileEntry, list[ExtentRow]]:
    extents = values.pop("extents", [EXTENT])
    entry = FileEntry(path.encode(), "f", fs=1, inode=11, size=4096, mtime_ns=5, ctime_ns=OLD_NS, source="device")
    return entry._replace(**values), extents


def folder(path: str, **values: Any) -> tuple[FileEntry, list[ExtentRow]]:
    return FileEntry(path.encode(), "d", fs=1, inode=5, nlink=2, ctime_ns=OLD_NS)._replace(**values), []


def make(
    where: Path,
    name: str,
    rows: Sequence[tuple[FileEntry, list[ExtentRow]]],
    demands: Sequence[Demand] = (),
    *,
    uuid: str = "u",
    pair: str = "data",
) -> str:
    path = str(where / name)
    with MapFile.create(path, name, "db1") as made:
        lun = made.add_lun(pair, 1 << 30)
        made.add_filesystem(
            mount_point=b"/srv",
            fs_type="ext4",
            fs_uuid=uuid,
            block_bytes=4096,
            dev=7,
            segments=[SegmentRow(0, lun, 0, 1 << 30)],
        )
        for entry, extents in rows:
            made.add_new(entry, extents)
        set_demands(made, demands)
        made.set_meta("checked_ns", str(CHECKED_NS))
        made.set_state("checked")
    return path


def changed(since: Since) -> list[str]:
    with closing(sqlite3.connect(since.path)) as db:
        return ["/" + row[0].replace(b"\0", b"/").decode() for row in db.execute("SELECT key FROM changed ORDER BY 1")]


def compared(
    where: Path,
    old: Sequence[tuple[FileEntry, list[ExtentRow]]],
    new: Sequence[tuple[FileEntry, list[ExtentRow]]],
    demands: Sequence[Demand] = (),
    *,
    uuid: str = "u",
    pair: str = "data",
) -> Since:
    base = make(where, "s0", old)
    return compare_maps(make(where, "s1", new, demands, uuid=uuid, pair=pair), base, str(where / "since"))


@pytest.mark.parametrize(
    "values",
    [
        {"ctime_ns": OLD_NS - 1},
        {"mtime_ns": 6},
        {"inode": 12},
        {"size": 4095},
        {"mode": 0o640},
        {"uid": 1},
        {"gid": 1},
        {"xattrs": b"x"},
        {"extents": [EXTENT._replace(physical=2 << 20)]},
        {"extents": []},
        {"kind": "p", "size": 0, "source": "none", "extents": []},
        {"source": "mount", "extents": [], "reason": "leased"},
    ],
)
def test_a_difference_in_anything_makes_a_file_changed(tmp_path: Path, values: dict[str, Any]) -> None:
    since = compared(tmp_path, [file("/srv/a"), file("/srv/b")], [file("/srv/a"), file("/srv/b", **values)])
    assert changed(since) == ["/srv/b"]
    assert (since.total, since.changed) == (2, 1)


def test_what_changed_in_the_tick_of_the_window_is_written_though_nothing_differs(tmp_path: Path) -> None:
    times = {"/srv/a": OLD_NS, "/srv/b": OLD_NS + 1, "/srv/c": CHECKED_NS, "/srv/d": CHECKED_NS * 2, "/srv/e": 0}
    rows = [file(path, ctime_ns=ctime_ns) for path, ctime_ns in times.items()]
    assert changed(compared(tmp_path, rows, rows)) == ["/srv/b", "/srv/c", "/srv/d", "/srv/e"]


def test_what_is_read_through_the_mount_is_never_proved(tmp_path: Path) -> None:
    rows = [file("/srv/a", source="mount", extents=[], reason="inline")]
    assert changed(compared(tmp_path, rows, rows)) == ["/srv/a"]


def test_on_another_file_system_nothing_is_proved(tmp_path: Path) -> None:
    rows = [file("/srv/a")]
    assert changed(compared(tmp_path, rows, rows)) == []
    assert changed(compared(tmp_path, rows, rows, uuid="other")) == ["/srv/a"]
    assert changed(compared(tmp_path, rows, rows, pair="other")) == ["/srv/a"]


def test_all_names_of_a_file_are_written_if_one_is(tmp_path: Path) -> None:
    linked = {"inode": 20, "nlink": 3}
    old = [file("/srv/a", **linked), file("/srv/b"), file("/srv/c", **linked), file("/srv/z", **linked)]
    new = [*old[:3], file("/srv/z", **linked, mode=0o777)]
    assert changed(compared(tmp_path, old, new)) == ["/srv/a", "/srv/c", "/srv/z"]


def test_a_database_may_demand_files_whatever_is_proved(tmp_path: Path) -> None:
    rows = [
        folder("/srv/db"),
        file("/srv/db/a", mtime_ns=100),
        file("/srv/db/b", mtime_ns=200),
        file("/srv/dbx", mtime_ns=300),
    ]
    assert changed(compared(tmp_path, rows, rows, [Demand("/srv/db")])) == ["/srv/db", "/srv/db/a", "/srv/db/b"]
    assert changed(compared(tmp_path, rows, rows, [Demand("/srv/db", 200)])) == ["/srv/db", "/srv/db/b"]


@pytest.mark.parametrize("text", ["[1]", '[["a", null]]', '[["/a", 1.5]]', '[["/../a", null]]', "{"])
def test_demands_that_are_nonsense_are_refused(tmp_path: Path, text: str) -> None:
    base, path = make(tmp_path, "s0", []), make(tmp_path, "s1", [])
    with MapFile.open(path) as made:
        made.set_meta("demands", text)
    with pytest.raises(MapError, match="demand"):
        compare_maps(path, base, str(tmp_path / "since"))


def test_what_is_gone_is_listed_with_what_was_in_it_first(tmp_path: Path) -> None:
    old = [
        folder("/srv/d"),
        file("/srv/d/x"),
        folder("/srv/d/y"),
        folder("/srv/e"),
        file("/srv/e/kept"),
        file("/srv/s"),
        file("/srv/t", kind="s", size=0, source="skip", extents=[]),
    ]
    new = [file("/srv/e/kept"), file("/srv/s", kind="s", size=0, source="skip", extents=[])]
    since = compared(tmp_path, old, new)
    # A folder that is not in the scopes any more holds what still is; a socket is in no archive.
    assert list(since.removed()) == [b"/srv/s", b"/srv/d/y", b"/srv/d/x", b"/srv/d"]
    proof = [(b"/srv/d", "added"), (b"/srv/e/kept", "removed"), (b"/srv/s", "remapped")]
    assert list(since.removed(proof)) == [b"/srv/s", b"/srv/e/kept", b"/srv/d/y", b"/srv/d/x"]


def test_only_what_changed_is_read_and_estimated(tmp_path: Path) -> None:
    rows = [folder("/srv/d"), *(file(f"/srv/d/{number}", inode=number + 20) for number in range(9))]
    since = compared(tmp_path, rows, [*rows[:-1], file("/srv/d/8", inode=28, mode=0o777)])
    path = str(tmp_path / "s1")
    with MapFile.open(path, read_only=True, foreign=True) as whole, MapFile.open(path, read_only=True) as part:
        part.only(since.path)
        assert [entry.path for entry, _extents in part.entries()] == [b"/srv/d", b"/srv/d/8"]
        assert part.counts().files == 1
        assert estimate(part).data_bytes == 4096
        assert estimate(part).archive_bytes < estimate(whole).archive_bytes
    with Proof(path, {}, NONE, since.path) as proof:
        assert [entry.path for entry, _extents in proof.entries()] == [b"/srv/d", b"/srv/d/8"]
        assert not proof.changes()


def test_a_map_without_times_of_change_is_no_base(tmp_path: Path) -> None:
    base = make(tmp_path, "s0", [])
    with MapFile.open(base) as made:
        made.set_meta("checked_ns", "")
    with pytest.raises(MapError, match="level full"):
        compare_maps(make(tmp_path, "s1", []), base, str(tmp_path / "since"))


def test_a_small_map_can_be_compared_with_a_large_base(tmp_path: Path) -> None:
    base, new = make(tmp_path, "base", [folder("/srv"), file("/srv/a")]), make(tmp_path, "new", [folder("/srv")])
    with closing(sqlite3.connect(base, isolation_level=None)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(files)")][1:]
        db.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 90000) INSERT INTO files "
            f"SELECT CAST(sort_key || n AS BLOB), {', '.join(columns)} FROM files, n WHERE kind = 'f'"
        )
    since = compare_maps(new, base, str(tmp_path / "since"))
    assert (since.total, since.changed, len(list(since.removed()))) == (1, 1, 90001)
