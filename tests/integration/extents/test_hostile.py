# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a user puts into a scope: the archive is what the mirror shows, and what cannot be backed up is named.

SPLITMIRROR_ROUNDS says how many trees are made on each kind of file system, SPLITMIRROR_SEED which is the first, and
SPLITMIRROR_SPARSE_BYTES how large the largest files in them are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import write_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, LEAVE_OUT
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError, Mapped
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.proof import FULL, NONE, Proof
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec, is_below
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import ReadOnlyMounts
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    at_work,
    file_system,
    frozen,
    mirror,
    read_direct,
    split,
)
from ansible_collections.splitmirror.backup.tests.support.hostile import (
    LARGEST,
    Hostile,
    Mutator,
    Seen,
    hostile_tree,
    look,
    read_archive,
    without_zeros,
)
from ansible_collections.splitmirror.backup.tests.support.restoring import FileSink

pytestmark = pytest.mark.root

OPTIONS = WriterOptions(record_bytes=64 << 10, buffer_bytes=2 << 20, queue_depth=8)
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "2"))
FIRST = int(os.environ.get("SPLITMIRROR_SEED", "0"))
SPARSE_BYTES = int(os.environ.get("SPLITMIRROR_SPARSE_BYTES", str(64 << 20)))


def write(folder: Path, device: str, mode: str) -> dict[bytes, Seen]:
    """The archive of the map in a folder, proved or not; the mirror is mounted where paths get long."""
    with contextlib.ExitStack() as stack:
        map_file = stack.enter_context(MapFile.open(str(folder / "map"), read_only=True))
        mounts = stack.enter_context(ReadOnlyMounts(str(folder / ("m" * 200)), map_file, {1: device}))
        proof = stack.enter_context(Proof(map_file.path, mounts.folders, mode))
        sink = stack.enter_context(contextlib.closing(FileSink(folder / f"{mode}.tar", OPTIONS.record_bytes)))
        meta = {"session": "s1", "host": "host"}
        write_archive(proof.entries(), {1: device}, sink, OPTIONS, fallback=mounts.open, index_meta=meta)
    return read_archive(folder / f"{mode}.tar")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_largest_sparse_files_are_mapped_and_proved(scratch: Path, kind: str) -> None:
    def compare(rows: Iterable[Mapped], device: str) -> None:
        found = {entry.path: (entry, extents) for entry, extents in rows}
        assert found.keys() == expected.keys()
        for path, seen in expected.items():
            entry, extents = found[path]
            assert (entry.kind, entry.size) == (seen.kind, seen.size)
            parts = ((row.logical, read_direct(device, row.physical, row.length)) for row in extents)
            assert without_zeros(parts) == (seen.data or {}), path

    with file_system(scratch, kind) as (mount, device):
        root = mount / "data"
        Hostile(root, kind, Random(kind), LARGEST[kind]).make_sparse_only()
        tracker = Tracker([str(mount)])
        tracker.start()
        with contextlib.closing(tracker):
            with MapFile.create(str(scratch / "map"), "s1", "host") as map_file:
                map_scopes(map_file, [Scope(str(root))], [LunSpec("lun", device)])
            with MapFile.open(str(scratch / "map"), "s1") as map_file:
                pre_check(map_file, tracker)
                unclosed: list[int] = []
                with frozen(mount):
                    split(scratch, kind)
                    check_map(map_file, tracker, unclosed)
                for fd in unclosed:
                    os.close(fd)
        with mirror(scratch, kind) as (mirrored, mirror_device):
            expected = look(mirrored / "data", os.fsencode(root))
            assert max(seen.size for seen in expected.values()) == LARGEST[kind]
            with Proof(str(scratch / "map"), {1: str(mirrored)}) as proof:
                compare(proof.entries(), mirror_device)
            with MapFile.open(str(scratch / "map"), read_only=True) as map_file:
                compare(map_file.entries(), mirror_device)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + ROUNDS))
def test_the_archive_is_the_mirror_or_names_the_file(scratch: Path, kind: str, seed: int) -> None:
    with file_system(scratch, kind) as (mount, device), contextlib.ExitStack() as stack:
        root = mount / "data"
        scopes, luns = [Scope(str(root))], [LunSpec("lun", device)]
        made = stack.enter_context(hostile_tree(root, kind, seed, SPARSE_BYTES))
        if made.unreadable:
            with pytest.raises(MapError) as refused, MapFile.create(str(scratch / "refused"), "s1", "host") as map_file:
                map_scopes(map_file, scopes, luns, on_unreadable=FAIL)
            assert str(refused.value).isprintable()
        tracker = Tracker([str(mount)])
        tracker.start()
        stack.callback(tracker.close)
        with at_work(Mutator, root / "changes", seed):
            with MapFile.create(str(scratch / "map"), "s1", "host") as map_file:
                map_scopes(map_file, scopes, luns, on_unreadable=LEAVE_OUT)
            unclosed: list[int] = []
            with MapFile.open(str(scratch / "map"), "s1") as map_file:
                pre_check(map_file, tracker)
                with frozen(mount):
                    split(scratch, kind)
                    check_map(map_file, tracker, unclosed)
                for fd in unclosed:
                    os.close(fd)
                assert {path for path, _why in map_file.left_out()} == made.unreadable
        with mirror(scratch, kind) as (mirrored, _device):
            expected = {
                path: seen
                for path, seen in look(mirrored / "data", os.fsencode(root)).items()
                if not any(is_below(path, left) for left in made.unreadable)
            }
        with loop_device(scratch / "mirror.img", read_only=True) as mirror_device:
            for mode in (FULL, NONE):
                archive = write(scratch, mirror_device, mode)
                assert archive.keys() == expected.keys()
                for path, seen in expected.items():
                    assert archive[path] == seen, (mode, path)
