# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tracker sees what changes, and the check makes the map what the frozen file system is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents import tracker as tracker_module
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    Load,
    MemoryMap,
    at_work,
    fallocate,
    file_system,
    frozen,
    make_all_sorts,
)
from ansible_collections.splitmirror.backup.tests.support.trackedmap import Mapped, make_some, mapped_tree

pytestmark = pytest.mark.root


def append(root: Path) -> None:
    with open(root / "a/one", "ab") as file:
        file.write(b"more" * 5000)


def overwrite_through_another_link(root: Path) -> None:
    os.link(root / "a/one", root / "c/link")
    with open(root / "c/link", "r+b") as file:
        file.write(b"new")


def truncate(root: Path) -> None:
    os.truncate(root / "a/one", 100)


def punch(root: Path) -> None:
    with open(root / "a/one", "r+b") as file:
        fallocate(file.fileno(), FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 0, 4096)


def rename_over(root: Path) -> None:
    (root / "new").write_bytes(b"n" * 9999)
    os.rename(root / "new", root / "a/two")


def folder_moved(root: Path) -> None:
    os.rename(root / "b", root / "a/moved")
    (root / "a/moved/deep/more").write_bytes(b"more")
    append(root)


def folders_swapped(root: Path) -> None:
    os.rename(root / "a", root / "x")
    os.rename(root / "b", root / "a")
    os.rename(root / "x", root / "b")


def folder_away_and_back(root: Path) -> None:
    os.rename(root / "b", root.parent / "outside")
    (root.parent / "outside/deep/fresh").write_bytes(b"fresh")
    os.unlink(root.parent / "outside/deep/er/three")
    os.rename(root.parent / "outside", root / "b")


def whole_scope_replaced(root: Path) -> None:
    os.rename(root, root.parent / "old")
    make_some(root)
    (root / "fresh").write_bytes(b"fresh")


def file_becomes_folder(root: Path) -> None:
    os.unlink(root / "a/one")
    (root / "a/one/in/side").mkdir(parents=True)
    (root / "a/one/in/file").write_bytes(b"f")


def folder_becomes_file_and_link(root: Path) -> None:
    shutil.rmtree(root / "b")
    (root / "b").write_bytes(b"now a file")
    shutil.rmtree(root / "c")
    os.symlink("a", root / "c")


def hard_link_added(root: Path) -> None:
    os.link(root / "a/one", root / "c/second")


def unlinked(root: Path) -> None:
    os.unlink(root / "a/one")
    shutil.rmtree(root / "b/deep")


def attributes(root: Path) -> None:
    os.chmod(root / "a/one", 0o4711)
    os.chown(root / "a/two", 4321, 8765)
    os.setxattr(root / "c/four", "user.x", b"1")
    os.utime(root / "b/deep", ns=(1, 1))
    run("setfacl", "-m", "u:5:rwx", root / "c")


def truncate_and_write_as_databases_do(root: Path) -> None:
    for number in range(30):
        with open(root / f"a/base.{number}", "wb") as file:
            file.write(os.urandom(8192))
            os.fsync(file.fileno())
        os.rename(root / f"a/base.{number}", root / f"c/{number}")
    for number in range(0, 30, 2):
        os.unlink(root / f"c/{number}")


CHANGES = [
    append,
    overwrite_through_another_link,
    truncate,
    punch,
    rename_over,
    folder_moved,
    folders_swapped,
    folder_away_and_back,
    whole_scope_replaced,
    file_becomes_folder,
    folder_becomes_file_and_link,
    hard_link_added,
    unlinked,
    attributes,
    truncate_and_write_as_databases_do,
]


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_each_change_alone_is_found(scratch: Path, kind: str) -> None:
    for change in CHANGES:
        with mapped_tree(scratch, kind, make_some) as mapped:
            change(mapped.root)
            counts = mapped.check()
            assert counts.tracker == "some"
            assert counts.remapped + counts.added + counts.removed + counts.attributes > 0, change.__name__
            assert len(mapped.map_file.changes("window")) == sum(counts[:4]), change.__name__
            assert mapped.check()[:4] == (0, 0, 0, 0), change.__name__
            assert mapped.map_file.meta("state") == "checked"


@pytest.mark.parametrize(("moved", "missed"), [("data/b", "data/b/deep"), ("data", "data/a")])
def test_a_folder_that_was_away_while_it_was_mapped_is_found(scratch: Path, moved: str, missed: str) -> None:
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        # What a walk misses when the folder goes away between the look at it and the look into it.
        mapped.map_file.remove_tree(os.fsencode(mapped.mount / missed))
        os.rename(mapped.mount / moved, mapped.mount / "away")
        os.rename(mapped.mount / "away", mapped.mount / moved)
        assert mapped.check().added == 3


def test_what_is_below_a_folder_the_map_does_not_know_goes_with_it(scratch: Path) -> None:
    # As it is when a folder moves while two processes map, and only one of them finds it in time.
    with mapped_tree(scratch, "xfs", make_some) as mapped:
        folder = os.fsencode(mapped.root / "b")
        below = mapped.map_file.get(folder + b"/deep/er/three")
        assert below is not None
        mapped.map_file.remove_tree(folder)
        mapped.map_file.put_file(*below)
        os.rename(mapped.root / "b", mapped.mount / "outside")
        assert mapped.check().removed == 1


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_what_gives_no_event_is_found_while_it_is_held(scratch: Path, kind: str) -> None:
    def sparse(root: Path) -> None:
        root.mkdir()
        for name in ("mapped", "untouched"):
            with open(root / name, "wb") as file:
                file.truncate(1 << 20)

    with mapped_tree(scratch, kind, sparse) as mapped, MemoryMap(mapped.root / "mapped") as memory:
        pre_check(mapped.map_file, mapped.tracker)
        memory.write(500_000, b"0123456789")
        assert mapped.check().remapped == 1


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_what_was_mapped_and_let_go_is_found(scratch: Path, kind: str) -> None:
    with mapped_tree(scratch, kind, make_some) as mapped:
        os.truncate(mapped.root / "a/one", 1 << 20)
        pre_check(mapped.map_file, mapped.tracker)
        with MemoryMap(mapped.root / "a/one") as memory:
            memory.write(500_000, b"0123456789")
        assert mapped.check().remapped == 1


def test_a_file_opened_and_mapped_after_the_first_check_is_found(scratch: Path) -> None:
    def sparse(root: Path) -> None:
        root.mkdir()
        with open(root / "mapped", "wb") as file:
            file.truncate(1 << 20)

    with mapped_tree(scratch, "xfs", sparse) as mapped:
        pre_check(mapped.map_file, mapped.tracker)
        # Our own opens are not told, so somebody else has to do it.
        script = (
            "import sys; from pathlib import Path; "
            "from ansible_collections.splitmirror.backup.tests.support.fsload import MemoryMap; "
            "MemoryMap(Path(sys.argv[1])).write(9000, b'x'); print('written', flush=True); sys.stdin.read()"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(
            [sys.executable, "-c", script, mapped.root / "mapped"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"written\n"
            assert mapped.check().remapped == 1
            child.communicate()


# Not on ext4 with inline data: under this load a truncate made Linux 6.18 dereference NULL in ext4_convert_inline_data,
# and the journal of that mount then blocked every sync of the machine.
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_check_is_right_under_load(scratch: Path, kind: str, seed: int) -> None:
    with file_system(scratch, kind) as (mount, device):
        make_all_sorts(mount / "data")
        tracker = Tracker([str(mount)])
        tracker.start()
        try:
            with at_work(Load, mount / "data", seed):
                with MapFile.create(str(scratch / "map"), "s1", "host") as made:
                    map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device)])
                with MapFile.open(str(scratch / "map"), "s1") as opened:
                    mapped = Mapped(scratch, kind, mount, opened, tracker)
                    pre_check(opened, tracker)
                    for _dummy in range(3):
                        mapped.check()
        finally:
            tracker.close()


def test_only_what_has_blocks_behind_its_end_stays_open_until_the_thaw(scratch: Path) -> None:
    with mapped_tree(scratch, "xfs", make_some) as mapped, open(mapped.root / "grows", "wb", buffering=0) as file:
        for _dummy in range(20):
            file.write(bytes(8192))
            os.fsync(file.fileno())
        (mapped.root / "written").write_bytes(b"x" * 5000)
        unclosed: list[int] = []
        try:
            with frozen(mapped.mount):
                assert check_map(mapped.map_file, mapped.tracker, unclosed).added == 2
            assert [os.readlink(f"/proc/self/fd/{fd}") for fd in unclosed] == [file.name]
        finally:
            for fd in unclosed:
                os.close(fd)


@pytest.mark.parametrize("before", [True, False])
def test_what_is_lost_by_the_tracker_is_looked_for_everywhere(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(tracker_module, "_MOST_EVENTS", 20)
    with mapped_tree(scratch, "xfs", make_some) as mapped:
        for number in range(50):
            (mapped.root / f"f{number}").write_bytes(b"x")
        append(mapped.root)
        shutil.rmtree(mapped.root / "b")
        if before:
            counts = pre_check(mapped.map_file, mapped.tracker)
            assert mapped.check()[:4] == (0, 0, 0, 0)
        else:
            counts = mapped.check()
        assert (counts.tracker, counts.added, counts.removed) == ("all", 50, 4)


def test_where_the_kernel_has_no_fanotify_all_is_looked_at(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "_INIT_FLAGS", 1 << 30)
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        assert mapped.tracker.kind == "sweep"
        folders_swapped(mapped.root)
        pre_check(mapped.map_file, mapped.tracker)
        (mapped.root / "late").write_bytes(b"x" * 5000)
        assert (mapped.check().tracker, mapped.map_file.meta("tracker")) == ("all", "sweep")


@pytest.mark.parametrize("lost", [False, True])
def test_a_check_that_cannot_end_in_its_budget_is_given_up(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        pre_check(mapped.map_file, mapped.tracker)
        if lost:
            monkeypatch.setattr(tracker_module, "_MOST_EVENTS", 20)
        for number in range(300):
            (mapped.root / f"f{number}").write_bytes(b"x")
        with frozen(mapped.mount), pytest.raises(MapError, match=r"deadline_s: .* was not done, .* were thawed"):
            check_map(mapped.map_file, mapped.tracker, budget_s=0.0)
        assert mapped.map_file.meta("state") == "mapped"


@pytest.mark.parametrize("lost", [False, True])
def test_a_check_that_would_not_end_in_its_budget_is_not_begun(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        for number in range(1500):
            (mapped.root / f"before-{number}").write_bytes(b"x")
        pre_check(mapped.map_file, mapped.tracker)
        assert mapped.tracker.pace_s is not None
        mapped.tracker.pace_s = 1000.0
        if lost:
            monkeypatch.setattr(tracker_module, "_MOST_EVENTS", 20)
        for number in range(300):
            (mapped.root / f"f{number}").write_bytes(b"x")
        counts = mapped.map_file.counts()
        with frozen(mapped.mount), pytest.raises(MapError, match=r"deadline_s: .* would take about .* was not begun"):
            check_map(mapped.map_file, mapped.tracker, budget_s=100.0)
        assert (mapped.map_file.meta("state"), mapped.map_file.counts()) == ("mapped", counts)


def test_nothing_is_frozen_for_a_check_that_is_too_slow_already(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "_INIT_FLAGS", 1 << 30)
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        pre_check(mapped.map_file, mapped.tracker, 100.0)
        with pytest.raises(MapError, match=r"deadline_s: .* so nothing is frozen"):
            pre_check(mapped.map_file, mapped.tracker, 0.0)


@pytest.mark.parametrize("known", [True, False], ids=["link in the map", "link not in the map"])
def test_nothing_stays_below_what_is_no_folder_any_more(scratch: Path, known: bool) -> None:
    """A folder that became a link while it was mapped may have left what was in it behind."""
    with mapped_tree(scratch, "ext4", make_some) as tree:
        link = tree.root / "a" / "link"
        link.symlink_to("nowhere")
        if known:
            pre_check(tree.map_file, tree.tracker)
        deep = tree.map_file.get(os.fsencode(tree.root / "b" / "deep"))
        assert deep is not None
        tree.map_file.put_file(deep[0]._replace(path=os.fsencode(link / "deep")), [])
        os.utime(link, (1, 1), follow_symlinks=False)
        tree.check()
