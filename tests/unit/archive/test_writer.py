# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pipeline from map to records: contents, order, errors, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import random
import resource
import select
import signal
import sys
import tempfile
import threading
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import (
    ArchiveError,
    ArchiveResult,
    MemberRecord,
    WriterOptions,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import write_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import ExtentRow, FileEntry

BLOCK = 4096
DISK_BLOCKS = 2000
DISK = random.Random(3).randbytes(DISK_BLOCKS * BLOCK)
META = {"session": "s1"}


class Sink:
    """Keeps records. :param fail_at: the record at which it raises."""

    def __init__(self, record_bytes: int, fail_at: int = -1) -> None:
        self.records: list[bytes] = []
        self._record_bytes = record_bytes
        self._fail_at = fail_at

    def write_record(self, record: memoryview, /) -> None:
        assert len(record) == self._record_bytes
        if len(self.records) == self._fail_at:
            raise BrokenPipeError("the tape tore")
        self.records.append(bytes(record))


@pytest.fixture(scope="module")
def disk() -> Iterator[str]:
    # Direct I/O wants a real file system; /var/tmp is on one where /tmp may not be.
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="splitmirror-") as image:
        image.write(DISK)
        image.flush()
        yield image.name


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    threads = set(threading.enumerate())
    interval = sys.getswitchinterval()
    before = children()
    yield
    assert set(threading.enumerate()) == threads
    assert sys.getswitchinterval() == interval
    assert children() <= before  # what other tests left may end meanwhile


def children() -> set[str]:
    """Processes of this one: other tests of it may have some that stay."""
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


class Made(NamedTuple):
    """A file, where its data lie, and what they are."""

    entry: FileEntry
    extents: list[ExtentRow]
    content: bytes


@st.composite
def files(draw: st.DrawFn) -> list[Made]:
    """Files with scattered extents and holes on the disk, in logical order, and what is in them."""
    made = []
    for number in range(draw(st.integers(0, 25))):
        size = draw(st.one_of(st.integers(0, 3 * BLOCK), st.integers(0, 100 * BLOCK)))
        content = bytearray(size)
        rows = []
        place = 0
        while place < size:
            length = draw(st.integers(1, 40)) * BLOCK
            if draw(st.integers(0, 3)):
                physical = draw(st.integers(0, DISK_BLOCKS - length // BLOCK)) * BLOCK
                rows.append(ExtentRow(place, 1 + number % 2, physical, length))
                content[place : place + length] = DISK[physical : physical + min(length, size - place)]
            place += length
        source = draw(st.sampled_from(["device"] * 4 + ["content", "mount"]))
        stored = bytes(content) if source == "content" else None
        entry = FileEntry(
            b"/data/%03d" % number, "f", size=size, mtime_ns=10**18 + number, source=source, content=stored
        )
        made.append(Made(entry, rows, bytes(content)))
    return made


def write(made: list[Made], disk: str, sink: Sink, options: WriterOptions, **more: Any) -> ArchiveResult:
    contents = {file.entry.path: file.content for file in made}

    def fallback(entry: FileEntry) -> BinaryIO:
        return io.BytesIO(contents[entry.path])

    entries = [(file.entry, file.extents) for file in made]
    return write_archive(entries, {1: disk, 2: disk}, sink, options, fallback=fallback, index_meta=META, **more)


OPTIONS = st.tuples(st.sampled_from([1, 2, 20, 128, 2048]), st.integers(4, 40)).flatmap(
    lambda drawn: st.builds(
        WriterOptions,
        record_bytes=st.just(drawn[0] * 512),
        queue_depth=st.integers(1, 4),
        buffer_bytes=st.just(drawn[0] * 512 * drawn[1]),
        gap_bytes=st.sampled_from([0, 4096, 100_000]),
        streams=st.booleans(),
    )
)


@pytest.mark.slow
@settings(max_examples=60)
@given(made=files(), options=OPTIONS, machine=st.sampled_from([platform.machine(), "without asynchronous I/O"]))
def test_the_archive_holds_every_file_in_logical_order(
    disk: str, made: list[Made], options: WriterOptions, machine: str
) -> None:
    sink = Sink(options.record_bytes)
    members: list[MemberRecord] = []
    with unittest.mock.patch.object(platform, "machine", return_value=machine):
        result = write(made, disk, sink, options, member=members.append)
    archive = b"".join(sink.records)
    assert (result.records, result.bytes_archive) == (len(sink.records), len(archive))
    assert archive.endswith(bytes(1024))
    found = []
    for member, record in zip(iterate_members(io.BytesIO(archive)), members):
        assert (member.name, member.offset_bytes, len(member.header)) == (
            record.path,
            record.offset_bytes,
            record.header_bytes,
        )
        assert record.header_digest == hashlib.sha256(member.header).digest()[:16]
        data = archive[record.offset_bytes + record.header_bytes :][: member.size]
        assert record.sha256 == hashlib.sha256(data).hexdigest()
        found.append((b"/" + member.name, b"".join(member.content())))
    assert found[:-1] == [(file.entry.path, file.content) for file in made]
    assert len(members) == len(made) + 1 == result.members
    assert result.files == len(made)
    assert result.bytes_data == sum(file.entry.size for file in made)
    assert result.fallback == sum(file.entry.source == "mount" for file in made)


def plain(count: int, size: int = 10_000) -> list[Made]:
    made = []
    for number in range(count):
        physical = number * 7 % (DISK_BLOCKS - 10) * BLOCK
        entry = FileEntry(b"/data/%06d" % number, "f", size=size, source="device", mtime_ns=10**18)
        made.append(Made(entry, [ExtentRow(0, 1, physical, size)], DISK[physical : physical + size]))
    return made


SMALL = WriterOptions(record_bytes=10240, buffer_bytes=1 << 20, queue_depth=2)


def test_each_member_gets_the_checksum_of_its_content(disk: str) -> None:
    sink = Sink(10240)
    members: list[MemberRecord] = []
    made = plain(500)
    result = write(made, disk, sink, SMALL, member=members.append)
    assert len(sink.records) == result.records
    assert [member.sha256 for member in members[:-1]] == [hashlib.sha256(file.content).hexdigest() for file in made]


def test_what_the_sink_raises_comes_out_unchanged(disk: str) -> None:
    with pytest.raises(BrokenPipeError, match="the tape tore"):
        write(plain(2000), disk, Sink(10240, fail_at=100), SMALL)


def test_what_a_member_sink_raises_comes_out_unchanged(disk: str) -> None:
    def refuse(member: MemberRecord) -> None:
        if member.path == b"data/000700":
            raise KeyError("the catalog is full")

    with pytest.raises(KeyError, match="the catalog is full"):
        write(plain(2000), disk, Sink(10240), SMALL, member=refuse)


def test_what_the_entries_raise_comes_out_unchanged(disk: str) -> None:
    def entries() -> Iterator[tuple[FileEntry, list[ExtentRow]]]:
        for number, (entry, rows, _dummy) in enumerate(plain(2000)):
            if number == 1500:
                raise ZeroDivisionError("the proof failed")
            yield entry, rows

    with pytest.raises(ZeroDivisionError, match="the proof failed"):
        write_archive(entries(), {1: disk}, Sink(10240), SMALL, index_meta=META)


def test_a_missing_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"device: .*nowhere cannot be opened"):
        write(plain(20), str(tmp_path / "nowhere"), Sink(10240), SMALL)


def test_data_beyond_the_end_of_the_device_name_file_and_offset(disk: str) -> None:
    made = plain(3000)
    entry = made[2000][0]
    made[2000] = Made(entry, [ExtentRow(0, 1, DISK_BLOCKS * BLOCK - 4096, entry.size)], b"")
    with pytest.raises(ArchiveError) as caught:
        write(made, disk, Sink(10240), SMALL)
    assert caught.value.message.startswith(
        f"/data/002000 cannot be read from {disk} at offset {DISK_BLOCKS * BLOCK} (the device ends there); "
    )


def test_a_file_that_is_shorter_behind_the_mount_is_named(disk: str) -> None:
    entry = FileEntry(b"/data/short", "f", size=5000, source="mount")
    with pytest.raises(ArchiveError, match="/data/short is shorter on the mounted mirror than in the map"):
        write([Made(entry, [], b"x" * 4999)], disk, Sink(10240), SMALL)


@pytest.mark.parametrize(("count", "room"), [(5, 0), (3000, 100_000)], ids=["at the end", "on the way"])
def test_an_index_that_finds_no_room_is_said_with_its_folder(disk: str, tmp_path: Path, count: int, room: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    made, sink = plain(count), Sink(10240)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(ArchiveError) as caught:
            write(made, disk, sink, SMALL, spool_dir=str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.message.startswith(f"the index of the archive cannot be kept in {tmp_path} (")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArchiveError, match=r"cannot be kept in .*nowhere \("):
        write(made, disk, sink, SMALL, spool_dir=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "bad", [{"record_bytes": 1000}, {"record_bytes": 0}, {"buffer_bytes": 4096}, {"queue_depth": 0}, {"gap_bytes": -1}]
)
def test_options_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError) as caught:
        WriterOptions(**bad)
    assert caught.value.option in bad


def test_members_are_told_in_the_calling_thread(disk: str) -> None:
    threads = set()
    write(plain(3000), disk, Sink(10240), SMALL, member=lambda _dummy: threads.add(threading.current_thread()))
    assert threads == {threading.current_thread()}


def test_extras_that_are_no_archive_are_refused(disk: str, tmp_path: Path) -> None:
    (tmp_path / "extras.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ArchiveError, match="no tar header"):
        write(plain(5), disk, Sink(10240), SMALL, extras=str(tmp_path / "extras.tar"))
    with pytest.raises(ArchiveError, match=r"extras: .*missing\.tar cannot be read"):
        write(plain(5), disk, Sink(10240), SMALL, extras=str(tmp_path / "missing.tar"))


def test_a_lun_without_a_device_is_refused(disk: str) -> None:
    entry = FileEntry(b"/data/lost", "f", size=5000, source="device")
    with pytest.raises(ArchiveError, match="LUN 9 of the map has no device"):
        write([Made(entry, [ExtentRow(0, 9, 0, 8192)], b"")], disk, Sink(10240), SMALL)


def test_a_reading_process_that_is_killed_over_unread_turns_ends_the_archive_with_a_sentence(disk: str) -> None:
    before = children()

    def entries() -> Iterator[tuple[FileEntry, list[ExtentRow]]]:
        (engine,) = map(int, children() - before)
        for number, file in enumerate(plain(2000)):
            if number == 0:
                os.kill(engine, signal.SIGSTOP)
                os.waitpid(engine, os.WUNTRACED)
            if number == 30:  # one turn has been sent, and there is still room for another
                os.kill(engine, signal.SIGKILL)
            yield file[:2]

    with pytest.raises(ArchiveError, match="the reading process ended unexpectedly"):
        write_archive(entries(), {1: disk}, Sink(10240), SMALL, index_meta=META)


def test_the_reading_process_ends_with_a_writer_that_is_killed(disk: str) -> None:
    told, tell = os.pipe()
    writer = os.fork()
    if writer == 0:

        class Stuck:
            def write_record(self, record: memoryview, /) -> None:
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii")
                os.write(tell, children.encode())
                threading.Event().wait()

        try:
            write_archive([file[:2] for file in plain(2000)], {1: disk}, Stuck(), SMALL, index_meta=META)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        engine = os.pidfd_open(int(os.read(told, 100)))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert select.select([engine], [], [], 30)[0] == [engine]
    os.close(engine)
    os.close(told)
