# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A map made on a real file system tells where every byte lies."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import EXTENT_BYTES, sort_key
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.tests.support.blockdev import (
    loop_device,
    make_image,
    mounted,
    partition,
    run,
)
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    KINDS,
    file_system,
    frozen,
    make_all_sorts,
    tree_of,
    tree_of_map,
)
from ansible_collections.splitmirror.backup.tests.support.killing import ends_with_its_parent

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_files_read_from_the_device_by_their_map_are_the_files(scratch: Path, kind: str, workers: int) -> None:
    with file_system(scratch, kind) as (mount, device):
        make_all_sorts(mount / "data")
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            counts = map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device)], workers=workers)
            with frozen(mount):
                stored = list(made.entries())
                assert counts == made.counts()
                found = tree_of_map(stored, {1: device})
                expected = tree_of(os.fsencode(mount / "data"))
        assert found == expected
        assert [entry.path for entry, _dummy in stored] == sorted(expected, key=sort_key)
        assert counts.entries == len(expected)
        assert counts.files == sum(row[0] == "f" for row in expected.values())
        assert counts.fallback == 0
        sources = {entry.path.rsplit(b"/", 1)[1]: entry.source for entry, _dummy in stored}
        assert sources[b"socket"] == "skip"
        assert sources[b"size-100"] == ("content" if kind == "ext4-inline" else "device")


def test_fragmented_files_are_not_held_in_memory_together(scratch: Path) -> None:
    fragments, names = 4000, 80
    told: list[int] = []
    with file_system(scratch, "ext4") as (mount, device):
        (mount / "data").mkdir()
        first = mount / "data" / "0"
        with open(first, "wb") as file:
            for number in range(fragments):
                os.pwrite(file.fileno(), b"x" * 4096, number * 16384)
        for number in range(1, names):
            os.link(first, mount / "data" / str(number))
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            tracemalloc.start()
            try:
                scopes, luns = [Scope(str(mount / "data"))], [LunSpec("lun", device)]
                counts = map_scopes(made, scopes, luns, told.append, workers=0)
                peak_bytes = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        with MapFile.open(str(scratch / "map"), read_only=True) as opened:
            assert opened.counts() == counts
    assert counts.extents == fragments * names
    assert told[0] * fragments * EXTENT_BYTES < 9 << 20
    # A batch of packed rows, and one file as Python's numbers.
    assert peak_bytes < 24 << 20


def test_the_head_of_a_map_says_where_it_belongs(scratch: Path) -> None:
    with file_system(scratch, "xfs") as (mount, device):
        uuid = run("blkid", "-p", "-s", "UUID", "-o", "value", device).stdout.strip()
        (mount / "file").write_bytes(b"x")
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount))], [LunSpec("lun", device, "serial")])
            (fs,) = made.filesystems()
            (lun,) = made.luns()
            assert (fs.fs_type, fs.fs_uuid, fs.block_bytes) == ("xfs", uuid, 4096)
            assert (fs.mount_point, fs.lun, fs.lun_offset_bytes) == (os.fsencode(mount), lun.id, 0)
            assert (lun.name, lun.serial, lun.size_bytes) == ("lun", "serial", 320 << 20)
            assert made.users()[0] == "root"
            assert (made.meta("state"), made.meta("session")) == ("mapped", "s1")


def test_a_partition_and_a_nested_mount_are_translated(scratch: Path) -> None:
    # Partitions as the kernel knows them; a partition table would change nothing in the way they are found.
    with (
        loop_device(make_image(scratch / "disk.img", 700)) as disk,
        partition(disk, 1, 4096 * 512, 700000 * 512) as first,
        partition(disk, 2, 704512 * 512, 400000 * 512) as second,
    ):
        run("mkfs.xfs", "-q", first)
        run("mkfs.ext4", "-q", second)
        with mounted(first, scratch / "outer") as outer, mounted(second, outer / "inner") as inner:
            make_all_sorts(outer / "data")
            make_all_sorts(inner / "data")
            (inner / "data2").mkdir()
            with mounted(str(inner / "data"), outer / "bound", "bind") as bound:
                with MapFile.create(str(scratch / "map"), "s1", "host") as made:
                    map_scopes(made, [Scope(str(outer), exclude=("lost+found",))], [LunSpec("lun", disk)])
                    offsets = {fs.mount_point: (fs.lun_offset_bytes, fs.root) for fs in made.filesystems()}
                    with frozen(inner), frozen(outer):
                        found = tree_of_map(made.entries(), {1: disk})
                        expected = tree_of(os.fsencode(outer))
                del expected[os.fsencode(inner / "lost+found")]
                assert found == expected
                assert offsets == {
                    os.fsencode(outer): (4096 * 512, b"/"),
                    os.fsencode(inner): (704512 * 512, b"/"),
                    os.fsencode(bound): (704512 * 512, b"/data"),
                }


def test_scopes_inside_one_another(scratch: Path) -> None:
    with file_system(scratch, "ext4") as (mount, device):
        for name in (
            "a/b/c/deep",
            "a/b/other",
            "a/temp/x",
            "a/z.log",
            "b/x.log",
            "b/keep",
            "b/wal/seg",
            "single",
            "out",
        ):
            (mount / name).parent.mkdir(parents=True, exist_ok=True)
            (mount / name).write_bytes(b"x")
        top = str(mount)
        scopes = [
            Scope(f"{top}/a", empty=("temp",), exclude=("*.log", "b")),
            Scope(f"{top}/a/b/c", label="inner"),
            Scope(f"{top}/b", empty=("wal",)),
            Scope(f"{top}/single"),
        ]
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, scopes, [LunSpec("lun", device)])
            names = [os.fsdecode(entry.path)[len(top) + 1 :] for entry, _dummy in made.entries()]
        assert names == ["a", "a/b/c", "a/b/c/deep", "a/temp", "b", "b/keep", "b/wal", "b/x.log", "single"]


def test_nobody_goes_on_mapping_for_a_process_that_is_killed(scratch: Path) -> None:
    with file_system(scratch, "ext4") as (mount, device):
        # With names so long, the rows of so many files are more than all pipes between the processes hold.
        for number in range(15_000):
            (mount / f"{number:06}{'x' * 240}").touch()

        def life(ready):  # type: ignore[no-untyped-def]
            with MapFile.create(str(scratch / "map"), "s1", "host") as made:
                map_scopes(made, [Scope(str(mount))], [LunSpec("lun", device)], progress=lambda _files: ready())

        assert ends_with_its_parent(life) == 3
