# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Differences between a map and what is seen, extents of the kernel, superblocks, open files, worker processes."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.extents import fiemap
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.compare import compare
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.filemap import Translation
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.fsinfo import (
    SUPERBLOCK_BYTES,
    parse_superblock,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    FileEntry,
    MapError,
    MappedFields,
    SegmentRow,
    sort_key,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.openfiles import writable_files
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.worker import END, Worker
from ansible_collections.splitmirror.backup.tests.support.fsload import MemoryMap
from ansible_collections.splitmirror.backup.tests.support.killing import ends_with_its_parent

PATHS = st.sampled_from([b"/a", b"/a/b", b"/a/b/c", b"/a!", b"/b", b"/c/d"])
FILES = st.dictionaries(PATHS, st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)))


@given(before=FILES, after=FILES)
def test_findings_tell_what_changed_in_logical_order(
    before: dict[bytes, tuple[int, int, int]], after: dict[bytes, tuple[int, int, int]]
) -> None:
    def entries(files: dict[bytes, tuple[int, int, int]]) -> list[MappedFields]:
        return [
            (FileEntry(path, "f", mode=mode, size=size), [(0, 1, place, 4096, 0)])
            for path, (mode, size, place) in sorted(files.items(), key=lambda item: sort_key(item[0]))
        ]

    found = list(compare(entries(before), [(tuple(entry), rows) for entry, rows in entries(after)]))
    assert [finding.path for finding in found] == sorted(before.keys() | after.keys(), key=sort_key)
    for what, path, seen, _stored in found:
        old, new = before.get(path), after.get(path)
        if new is None:
            assert (what, seen) == ("removed", None)
        elif old is None:
            assert what == "added"
        elif old[1:] != new[1:]:
            assert what == "remapped"
        else:
            assert what == ("same" if old == new else "attributes")


def test_extents_that_differ_in_flags_only_are_the_same() -> None:
    entry = FileEntry(b"/a", "f", size=1, reason="x")
    rows = [(0, 1, 0, 4096, fiemap.SHARED)]
    (finding,) = compare([(entry, rows)], [(tuple(entry._replace(reason=None)), [(0, 1, 0, 4096, 0)])])
    assert finding.what == "same"


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 3), st.sampled_from([0, 0x800, 0x2000])), min_size=2, max_size=9
    )
)
def test_joined_extents_say_the_same_as_single_ones(parts: list[tuple[int, int, int]]) -> None:
    found = []
    logical = 0
    physical = 1000
    for length, gap, flags in parts:
        found.append((logical, physical, length, flags))
        logical += length + gap
        physical += length + gap // 2
    joined = fiemap._joined(found)

    def blocks(extents: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
        return [(row[0] + n, row[1] + n, row[3]) for row in extents for n in range(row[2])]

    assert blocks(joined) == blocks(found)
    for one, two in zip(joined, joined[1:]):
        assert (one[0] + one[2], one[1] + one[2], one[3]) != (two[0], two[1], two[3])


@given(
    pieces=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    start=st.integers(0, 60),
    length=st.integers(1, 60),
)
def test_translated_pieces_cover_an_extent_or_it_is_refused(pieces: list[int], start: int, length: int) -> None:
    segments = [SegmentRow(sum(pieces[:n]), n % 2 + 1, 1000 * (n + 1), size) for n, size in enumerate(pieces)]
    translation = Translation(segments, 1)
    if start + length > sum(pieces):
        with pytest.raises(MapError, match="behind the end"):
            translation.rows(0, start, length, 0)
        return
    told = [(row[0] + n, row[1], row[2] + n) for row in translation.rows(7, start, length, 0) for n in range(row[3])]
    byte = {s.device_offset + n: (s.lun, s.lun_offset + n) for s in segments for n in range(s.length)}
    assert told == [(7 + n, *byte[start + n]) for n in range(length)]


def test_reasons_name_the_flag() -> None:
    assert fiemap.reason_of(fiemap.ENCODED | fiemap.LAST) == "encoded"
    assert fiemap.reason_of(0x4000) == "flags_0x4000"


def superblock(folder: Path, *command: str, size_mib: int = 320) -> bytes:
    image = folder / "image"
    with open(image, "wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run([*command, image], check=True, capture_output=True)
    with open(image, "rb") as file:
        return file.read(SUPERBLOCK_BYTES)


def test_superblocks_tell_type_uuid_and_size(tmp_path: Path) -> None:
    name = str(uuid.uuid4())
    xfs = parse_superblock(superblock(tmp_path, "mkfs.xfs", "-f", "-m", f"uuid={name}"))
    assert xfs == ("xfs", name, 4096, 320 << 20, None)
    for block, option in (("1024", "64bit"), ("4096", "64bit"), ("4096", "^64bit")):
        ext4 = parse_superblock(superblock(tmp_path, "mkfs.ext4", "-F", "-U", name, "-b", block, "-O", option))
        assert ext4 == ("ext4", name, int(block), 320 << 20, None)
    assert parse_superblock(bytes(4096)) is None


@pytest.mark.parametrize("log_block", [7, 64, 1 << 31, (1 << 32) - 1])
def test_a_block_length_that_no_file_system_has_is_no_file_system(tmp_path: Path, log_block: int) -> None:
    block = bytearray(superblock(tmp_path, "mkfs.ext4", "-F"))
    struct.pack_into("<I", block, 1024 + 24, log_block)
    assert parse_superblock(bytes(block)) is None


def test_an_xfs_that_needs_another_device_says_so(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with open(other, "wb") as file:
        file.truncate(100 << 20)
    for option, word in (("-r", "realtime"), ("-l", "log")):
        words = f"rtdev={other}" if option == "-r" else f"logdev={other},size=64m"
        found = parse_superblock(superblock(tmp_path, "mkfs.xfs", "-f", option, words))
        assert found is not None
        assert word in (found.refusal or "")


def test_files_open_for_writing_or_mapped_are_found(tmp_path: Path) -> None:
    def number(name: str) -> tuple[int, int]:
        found = os.stat(tmp_path / name)
        return found.st_dev, found.st_ino

    for name in ("read", "written", "mapped", "private", "closed"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    devices = {os.stat(tmp_path).st_dev}
    with (
        open(tmp_path / "read", "rb"),
        open(tmp_path / "written", "ab"),
        MemoryMap(tmp_path / "mapped") as shared,
        MemoryMap(tmp_path / "private", mmap.MAP_PRIVATE),
    ):
        shared.write(100, b"x")
        found = writable_files(devices)
        assert {number("written"), number("mapped")} <= found
        assert not found & {number("read"), number("private"), number("closed")}
        assert not writable_files({0}) & found


def test_a_worker_sends_what_it_finds_and_what_went_wrong() -> None:
    def work(send):  # type: ignore[no-untyped-def]
        send([b"x" * 3_000_000])
        send(None)

    def refuse(send):  # type: ignore[no-untyped-def]
        raise MapError("paths: no.", option="paths")

    def die(send):  # type: ignore[no-untyped-def]
        os._exit(3)

    worker = Worker(work)
    assert worker.receive() == [b"x" * 3_000_000]
    assert worker.receive() is None
    assert worker.receive() is END
    worker.close()
    worker.close()
    for deed, message in ((refuse, "paths: no."), (die, "died")):
        worker = Worker(deed)
        with pytest.raises(MapError, match=message):
            worker.receive()
        worker.close()


@pytest.mark.parametrize("writes", [True, False])
def test_workers_end_with_a_parent_that_is_killed(writes: bool) -> None:
    def work(send):  # type: ignore[no-untyped-def]
        send(None)
        while writes:
            send(b"x" * 100_000)
        signal.pause()

    def life(ready):  # type: ignore[no-untyped-def]
        # The second one has inherited the pipe of the first.
        workers = [Worker(work), Worker(work)]
        for worker in workers:
            worker.receive()
        ready()

    assert ends_with_its_parent(life) == 2
