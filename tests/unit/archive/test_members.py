# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From entries of the map to plans of members."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.members import (
    DevicePiece,
    MemberPlanner,
    device_pieces,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import HeaderMaker
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    pack_xattrs,
)


def planner() -> MemberPlanner:
    return MemberPlanner(HeaderMaker(Owners()), None)


def test_extents_are_cut_at_the_size_of_the_file() -> None:
    entry = FileEntry(b"/f", "f", size=10_000, source="device")
    rows = [ExtentRow(0, 1, 4096, 4096), ExtentRow(8192, 2, 0, 8192), ExtentRow(16384, 2, 16384, 4096)]
    assert device_pieces(entry, rows) == [DevicePiece(0, 4096, 1, 4096), DevicePiece(8192, 1808, 2, 0)]


@pytest.mark.parametrize(
    "rows",
    [
        [ExtentRow(0, 1, 0, 8192), ExtentRow(4096, 1, 0, 4096)],
        [ExtentRow(100, 1, 0, 4096)],
        [ExtentRow(0, 1, 0, 0)],
        [ExtentRow(0, 1, 0, 1000), ExtentRow(4096, 1, 0, 4096)],
    ],
    ids=["overlap", "begins in a block", "empty", "ends in a block"],
)
def test_extents_that_no_file_system_makes_are_refused(rows: Sequence[ExtentRow]) -> None:
    with pytest.raises(ArchiveError, match=r"^/a folder/f\\xff: the extent at"):
        device_pieces(FileEntry(b"/a folder/f\xff", "f", size=10_000, source="device"), rows)


def test_the_second_name_of_a_file_is_a_link_to_the_first() -> None:
    plans = planner()
    names = [b"/a", b"/b", b"/c"]
    entries = [FileEntry(name, "f", inode=5, dev=1, nlink=3, size=0) for name in names]
    entries.insert(2, FileEntry(b"/bb", "f", inode=5, dev=2, nlink=2, size=0))
    made = [plans.plan(entry, []) for entry in entries]
    assert [(plan.name, plan.kind, plan.linkname) for plan in made if plan] == [
        (b"a", "f", None),
        (b"b", "h", b"a"),
        (b"bb", "f", None),
        (b"c", "h", b"a"),
    ]


def test_sockets_and_skipped_files_have_no_member() -> None:
    assert planner().plan(FileEntry(b"/s", "s"), []) is None
    assert planner().plan(FileEntry(b"/f", "f", source="skip"), []) is None


def test_a_hole_that_saves_a_block_is_left_out_and_a_smaller_one_is_not() -> None:
    sparse = planner().plan(FileEntry(b"/f", "f", size=8192, source="device"), [ExtentRow(0, 1, 0, 4096)])
    whole = planner().plan(FileEntry(b"/f", "f", size=5000, source="device"), [ExtentRow(0, 1, 0, 4096)])
    assert sparse is not None
    assert whole is not None
    assert (sparse.sparse, whole.sparse) == (True, False)


def test_what_contradicts_itself_is_refused_with_the_name_of_the_file() -> None:
    with pytest.raises(ArchiveError, match=r"^/f: the map carries 3 bytes of its content, not 5"):
        planner().plan(FileEntry(b"/f", "f", size=5, source="content", content=b"abc"), [])
    with pytest.raises(ArchiveError, match=r"^/f cannot be read by its extents \(encoded\); mount the mirror"):
        planner().plan(FileEntry(b"/f", "f", size=5, source="mount", reason="encoded"), [])
    with pytest.raises(ArchiveError, match=r"^/f: an ACL"):
        planner().plan(FileEntry(b"/f", "f", xattrs=pack_xattrs({b"system.posix_acl_access": b"?"})), [])


@pytest.mark.parametrize("there", [b"", b"x" * 5000], ids=["a hole", "data"])
def test_a_file_that_is_shorter_on_the_mirror_is_no_file_with_a_hole(tmp_path: Path, there: bytes) -> None:
    (tmp_path / "f").write_bytes(there)
    with open(tmp_path / "f", "rb") as stream:
        plans = MemberPlanner(HeaderMaker(Owners()), lambda _entry: stream)
        with pytest.raises(ArchiveError, match=r"^/f is shorter on the mounted mirror than in the map \(8192 bytes\)"):
            plans.plan(FileEntry(b"/f", "f", size=8192, source="mount"), [])
        assert stream.closed
        assert (tmp_path / "f").stat().st_size < 8192


def test_a_mount_that_does_not_tell_where_data_lie_is_not_taken_for_a_hole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 8192)
    # Such a descriptor knows the size of its file, and refuses to seek in it.
    with open(os.open(tmp_path / "f", os.O_PATH), "rb", buffering=0) as stream:
        plans = MemberPlanner(HeaderMaker(Owners()), lambda _entry: cast(BinaryIO, stream))
        with pytest.raises(ArchiveError, match=r"^/f cannot be read through the mounted mirror \(Bad file"):
            plans.plan(FileEntry(b"/f", "f", size=8192, source="mount"), [])
        assert stream.closed


def test_where_only_a_hole_follows_the_data_end(tmp_path: Path) -> None:
    with open(tmp_path / "f", "w+b") as stream:
        stream.write(b"x" * 5000)
        stream.truncate(1 << 20)
        plan = MemberPlanner(HeaderMaker(Owners()), lambda _entry: stream).plan(
            FileEntry(b"/f", "f", size=1 << 20, source="mount"), []
        )
        assert plan is not None
        assert plan.sparse
        assert sum(piece.length for piece in plan.pieces) < 65536


def test_special_files_keep_their_numbers() -> None:
    plan = planner().plan(FileEntry(b"/dev/x", "b", rdev_major=259, rdev_minor=70_000, mode=0o60640), [])
    assert plan is not None
    (member,) = iterate_members(io.BytesIO(plan.header))
    assert (member.name, member.kind, member.rdev, member.mode) == (b"dev/x", "b", (259, 70_000), 0o640)
