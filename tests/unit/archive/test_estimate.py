# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Room is counted as it will be written: the estimate is never below what the writer makes of a map, and near it."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.estimate import Estimate, estimate
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners, WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import write_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    Mapped,
    pack_xattrs,
    sort_key,
)

BLOCK = 4096
DISK_BLOCKS = 64
OPTIONS = WriterOptions(record_bytes=512, queue_depth=4, buffer_bytes=1 << 20)
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "60"))
OWNERS = Owners({0: "root", 7: "größer", 8: "x" * 300}, {0: "root", 7: "ö" * 20})
# The end of the archive, the first line of the index and the records of the index's own header.
FIXED_BYTES = 300 << 10
# The longest numbers in a line of the index beside usual ones, and a block of headers.
MEMBER_BYTES = 80 + 1024


class Sink:
    """Counts what is written."""

    size = 0

    def write_record(self, record: memoryview, /) -> None:
        self.size += len(record)


@pytest.fixture(scope="module")
def disk() -> Iterator[str]:
    # Direct I/O wants a real file system; /var/tmp is on one where /tmp may not be.
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="splitmirror-") as image:
        image.write(os.urandom(DISK_BLOCKS * BLOCK))
        image.flush()
        yield image.name


NAMES = st.one_of(
    st.text("abc", min_size=1, max_size=12).map(str.encode),
    st.binary(min_size=1, max_size=120).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
    st.integers(90, 255).map(lambda length: b"n" * length),
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
XATTRS = st.dictionaries(
    st.sampled_from([b"security.selinux", b"user.a", b"user.b%3D="]), st.binary(max_size=400), max_size=3
).map(pack_xattrs)


@st.composite
def regular(draw: st.DrawFn) -> Mapped:
    size = draw(st.one_of(st.integers(0, 3 * BLOCK), st.integers(0, 40 * BLOCK), st.integers(1 << 20, 1 << 25)))
    source = draw(st.sampled_from(["device"] * 6 + ["content", "mount"]))
    if source != "device":
        size %= 20 * BLOCK
    rows: list[ExtentRow] = []
    place = draw(st.sampled_from([0, 0, BLOCK, 1 << 20]))
    while source == "device" and place < size and len(rows) < 12:
        length = draw(st.integers(1, 6)) * BLOCK
        rows.append(ExtentRow(place, 1, draw(st.integers(0, DISK_BLOCKS - 6)) * BLOCK, length))
        place += length + draw(st.sampled_from([0, BLOCK, 1 << 19]))
    content = bytes(size) if source == "content" else None
    # a large file without holes would be written whole: this one is never that
    if not rows and source == "device" and size > 1 << 20:
        rows = [ExtentRow(0, 1, 0, BLOCK)]
    return FileEntry(b"", "f", size=size, source=source, content=content), rows


@st.composite
def maps(draw: st.DrawFn) -> list[Mapped]:
    """Everything that a map can hold, hard links and holes above all."""
    made: dict[bytes, Mapped] = {}
    paths = draw(st.lists(PATHS, unique=True, max_size=25))
    number = 0
    while paths:
        number += 1
        kind = draw(st.sampled_from("ffffdlcps"))
        entry, rows = draw(regular()) if kind == "f" else (FileEntry(b"", kind), [])
        if kind == "s":
            entry = entry._replace(source="skip")
        if kind == "l":
            entry = entry._replace(target=draw(st.binary(min_size=1, max_size=300)).replace(b"\0", b"_"))
        wanted = 1 if kind == "d" else draw(st.sampled_from([1, 1, 1, 3]))
        names = [paths.pop() for _dummy in range(min(len(paths), wanted))]
        entry = entry._replace(
            inode=number,
            nlink=len(names) if kind != "d" else 2,
            uid=draw(st.sampled_from([0, 7, 8, 1 << 31])),
            gid=draw(st.sampled_from([0, 7, 1 << 31])),
            mtime_ns=draw(st.sampled_from([0, 1_700_000_000_123_456_789, -5, -(2**31) * 10**9 + 1])),
            xattrs=draw(st.one_of(st.none(), XATTRS)),
        )
        for name in names:
            made[name] = (entry._replace(path=name), rows)
    return [made[path] for path in sorted(made, key=sort_key)]


def make_map(path: Path, entries: list[Mapped]) -> str:
    with MapFile.create(str(path), "s1", "db1") as map_file:
        map_file.set_owners(OWNERS.users, OWNERS.groups)
        for entry, rows in entries:
            map_file.add_new(entry, rows)
    return str(path)


def written_bytes(map_path: str, disk: str, extras: str | None = None) -> tuple[int, int, int, int]:
    """Write the archive; members, files, their sizes and the archive's length."""

    def fallback(entry: FileEntry) -> BinaryIO:
        return io.BytesIO(bytes(entry.size))

    sink = Sink()
    with MapFile.open(map_path, read_only=True) as map_file:
        done = write_archive(
            map_file.entries(),
            {1: disk},
            sink,
            OPTIONS,
            owners=OWNERS,
            fallback=fallback,
            extras=extras,
            index_meta={"session": "s1"},
        )
    return done.members, done.files, done.bytes_data, sink.size


def estimated(map_path: str, record_bytes: int = 0, extras: str | None = None) -> Estimate:
    with MapFile.open(map_path, read_only=True) as map_file:
        return estimate(map_file, record_bytes, extras)


@pytest.mark.slow
@settings(max_examples=ROUNDS, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(entries=maps())
def test_the_estimate_is_never_too_small_and_near_what_is_written(disk: str, entries: list[Mapped]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        map_path = make_map(Path(folder) / "map", entries)
        told = estimated(map_path, OPTIONS.record_bytes)
        members, files, data, written = written_bytes(map_path, disk)
    assert (told.files, told.data_bytes) == (files, data)
    assert written <= told.archive_bytes <= written + members * MEMBER_BYTES + FIXED_BYTES


def test_each_member_counts_with_its_whole_line_in_the_index(disk: str, tmp_path: Path) -> None:
    last = 2**32 - 1
    entry = FileEntry(b"", "f", nlink=1, mode=0o7777, uid=last, gid=last, size=1, mtime_ns=-(2**31) * 10**9 + 1)
    names = [b"/srv/%04d" % number for number in range(3000)]
    files = [(entry._replace(path=name, source="device"), [ExtentRow(0, 1, 0, BLOCK)]) for name in names]
    none, many = make_map(tmp_path / "none", []), make_map(tmp_path / "many", files)
    written = written_bytes(many, disk)[3] - written_bytes(none, disk)[3]
    assert estimated(many).archive_bytes - estimated(none).archive_bytes >= written


def test_label_files_and_logs_count_too(disk: str, tmp_path: Path) -> None:
    map_path = make_map(tmp_path / "map", [])
    extras = tmp_path / "extras.tar"
    with tarfile.open(extras, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3000):
            info = tarfile.TarInfo(f"label/{number:04}/" + "ä" * 120)
            info.size = number % 700
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    told = estimated(map_path, OPTIONS.record_bytes, str(extras))
    members, _files, _data, written = written_bytes(map_path, disk, str(extras))
    assert written <= told.archive_bytes <= written + members * MEMBER_BYTES + FIXED_BYTES


def test_a_file_of_holes_fits_where_its_data_fit(tmp_path: Path) -> None:
    large = FileEntry(b"/srv/sparse", "f", size=1 << 30, source="device")
    names = [b"/srv/names/%d" % number for number in range(50)]
    one = FileEntry(b"", "f", inode=9, nlink=50, size=8 << 20, source="device")
    rows = [ExtentRow(place * BLOCK, 1, place % DISK_BLOCKS * BLOCK, BLOCK) for place in range(2048)]
    entries = [(one._replace(path=name), rows) for name in sorted(names)]
    ends = [ExtentRow(0, 1, 0, BLOCK), ExtentRow(1 << 29, 1, 0, BLOCK)]
    map_path = make_map(tmp_path / "map", [*entries, (large, ends)])
    told = estimated(map_path)
    assert (told.files, told.data_bytes) == (2, (1 << 30) + (8 << 20))
    assert told.archive_bytes < 9 << 20


@pytest.mark.parametrize("count", [1, 2])
def test_a_map_that_contradicts_itself_is_one_sentence(tmp_path: Path, count: int) -> None:
    rows = [ExtentRow(0, 1, 0, 1000), ExtentRow(BLOCK, 1, 0, BLOCK)][:count]
    entry = FileEntry(b"/f", "f", size=2 * BLOCK, source="device")
    with pytest.raises(SplitMirrorError, match=r"^/f: the extent at 0 in the map ends inside a block"):
        estimated(make_map(tmp_path / "map", [(entry, rows)]))
