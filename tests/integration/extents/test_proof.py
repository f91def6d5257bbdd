# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof makes the map what the mirror is, whatever the check missed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    MapError,
    sort_key,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.proof import Proof, ProofCounts
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, mounted, run
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    Load,
    file_system,
    frozen,
    make_all_sorts,
    mirror,
    split,
    tree_of,
    tree_of_map,
)
from ansible_collections.splitmirror.backup.tests.support.trackedmap import Mapped, make_some, mapped_tree

pytestmark = pytest.mark.root


def prove(mapped: Mapped, mode: str = "full") -> tuple[list[tuple[FileEntry, list[ExtentRow]]], ProofCounts]:
    """Split without any check and prove; in mode full the outcome must be the mirror, byte for byte."""
    mapped.map_file.close()
    with frozen(mapped.mount):
        split(mapped.folder, mapped.kind)
    with mirror(mapped.folder, mapped.kind) as (mount, device):
        with Proof(mapped.map_file.path, {1: str(mount)}, mode) as proof:
            proved = list(proof.entries())
            counts = proof.counts()
        if mode == "full":
            assert tree_of_map(proved, {1: device}) == tree_of(os.fsencode(mount / "data"), os.fsencode(mapped.root))
    assert [entry.path for entry, _dummy in proved] == sorted((entry.path for entry, _dummy in proved), key=sort_key)
    return proved, counts


@pytest.mark.parametrize("kind", ["xfs", "ext4", "ext4-inline"])
def test_a_true_map_is_proved_without_a_difference(scratch: Path, kind: str) -> None:
    with mapped_tree(scratch, kind) as mapped:
        stored = list(mapped.map_file.entries())
        proved, counts = prove(mapped)
        assert proved == stored
        assert counts == ("full", len(stored), 0, 0, 0, 0)


def test_every_sort_of_change_is_found_and_told(scratch: Path) -> None:
    with mapped_tree(scratch, "xfs", make_some) as mapped:
        root = mapped.root
        with open(root / "a/one", "ab") as file:
            file.write(b"x" * 9000)
        os.chmod(root / "a/two", 0o640)
        shutil.rmtree(root / "b/deep/er")
        (root / "c/five").write_bytes(b"5")
        (root / "zz").mkdir()
        _dummy, counts = prove(mapped)
        # The times of the folders that hold what came and went differ, too.
        assert counts == ("full", 12, 1, 2, 2, 4)
        with MapFile.open(mapped.map_file.path) as opened:
            told = {os.fsdecode(path)[len(str(root)) :]: what for path, what in opened.changes("proof")}
        assert told == {
            "": "attributes",
            "/a/one": "remapped",
            "/a/two": "attributes",
            "/b/deep": "attributes",
            "/b/deep/er": "removed",
            "/b/deep/er/three": "removed",
            "/c": "attributes",
            "/c/five": "added",
            "/zz": "added",
        }


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_thousands_of_changes_are_corrected_in_order(scratch: Path, kind: str) -> None:
    def many(root: Path) -> None:
        make_all_sorts(root)
        for number in range(1500):
            (root / f"load-{number}").write_bytes(b"%d" % number * 100)

    with mapped_tree(scratch, kind, many) as mapped:
        load = Load(mapped.root, random.Random(3))
        for _dummy in range(500):
            load.step()
        load.close()
        for number in range(0, 1500, 3):
            (mapped.root / f"load-{number}").unlink(missing_ok=True)
            (mapped.root / f"new-{number}").write_bytes(b"n" * number)
        counts = prove(mapped)[1]
        assert counts.added >= 500


def test_moved_blocks_of_an_unchanged_file_are_found(scratch: Path) -> None:
    with mapped_tree(scratch, "ext4", make_some) as mapped:
        path = os.fsencode(mapped.root / "a/one")
        entry, (extent,) = mapped.map_file.get(path) or pytest.fail("not mapped")
        mapped.map_file.put_file(entry, [extent._replace(physical=extent.physical + 4096)])
        proved, counts = prove(mapped)
        assert counts.remapped == 1
        assert (entry, [extent]) in proved


def test_changed_proves_what_the_check_changed_and_none_nothing(scratch: Path) -> None:
    with mapped_tree(scratch, "xfs", make_some) as mapped:
        entries = {}
        for name in ("a/one", "a/two", "c/four"):
            path = os.fsencode(mapped.root / name)
            entry, extents = entries[name] = mapped.map_file.get(path) or pytest.fail("not mapped")
            mapped.map_file.put_file(entry._replace(mode=0), extents)
        changes = [(entries["a/one"][0].path, "remapped"), (entries["c/four"][0].path, "attributes")]
        mapped.map_file.add_changes("window", [*changes, (os.fsencode(mapped.root / "gone"), "removed")])
        stored = list(mapped.map_file.entries())
        assert prove(mapped, "none") == (stored, ("none", 0, 0, 0, 0, 0))
        proved, counts = prove(mapped, "changed")
        assert counts == ("changed", 2, 0, 0, 0, 2)
        assert entries["a/one"] in proved
        assert entries["c/four"] in proved
        assert entries["a/two"] not in proved


def test_nested_and_bound_file_systems_are_proved_through_their_own_mirrors(scratch: Path) -> None:
    with file_system(scratch, "xfs") as (outer, outer_device):
        (outer / "data").mkdir()
        image = scratch / "inner.img"
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        run("mkfs.ext4", "-q", image)
        with (
            loop_device(image) as inner_device,
            mounted(inner_device, outer / "data/inner") as inner,
        ):
            make_all_sorts(inner / "sorts")
            make_some(outer / "data/some")
            with mounted(str(inner / "sorts"), outer / "data/bound", "bind"):
                path = str(scratch / "map")
                with MapFile.create(path, "s1", "host") as made:
                    scopes = [Scope(str(outer / "data"), exclude=("lost+found",))]
                    map_scopes(made, scopes, [LunSpec("outer", outer_device), LunSpec("inner", inner_device)])
                    stored = list(made.entries())
                with frozen(inner), frozen(outer):
                    run("cp", "--sparse=always", image, scratch / "inner-mirror.img")
                    split(scratch, "xfs")
        with (
            mirror(scratch, "xfs") as (outer_mirror, _dummy),
            loop_device(scratch / "inner-mirror.img", read_only=True) as device,
            mounted(device, scratch / "inner-mirror", "ro", "noload") as inner_mirror,
        ):
            mounts = {1: str(outer_mirror), 2: str(inner_mirror), 3: str(inner_mirror)}
            with Proof(path, mounts) as proof:
                proved = list(proof.entries())
                assert proof.counts() == ("full", len(stored), 0, 0, 0, 0)
            assert proved == stored
            with pytest.raises(MapError, match="not mounted"):
                Proof(path, {1: str(outer_mirror)})


def test_an_unknown_mode_is_refused(scratch: Path) -> None:
    with pytest.raises(MapError, match="full, changed, none") as error:
        Proof(str(scratch / "map"), {}, "some")
    assert error.value.option == "proof"
