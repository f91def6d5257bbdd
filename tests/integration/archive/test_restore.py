# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GNU tar and bsdtar restore from our archive what a read-only mount of the device shows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import read_head, read_member
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry
from tests.support.blockdev import XFS_MIN_MIB, loop_device, make_image, mounted, run
from tests.support.fsload import file_system, make_all_sorts
from tests.support.restoring import TARS, allocated, map_folder, restore, tree, walk, write_from

pytestmark = pytest.mark.root

OPTIONS = WriterOptions(record_bytes=64 << 10, buffer_bytes=2 << 20, queue_depth=3)
#: bsdtar 3.6 adds the fraction of a time before 1970 instead of taking it off, and does not decode "=" in the name
#: of an extended attribute.
BSDTAR_CANNOT = (b"before-1970-and-a-half", b"escaped")


class Case(NamedTuple):
    kind: str
    device: str
    map_path: Path
    mount: Path
    data: Path


def make_hard_cases(root: Path) -> None:
    """What is rare in a tar and therefore goes wrong."""
    root.mkdir()
    for name, mtime_ns in (
        ("before-1970", -86_400 * 10**9),
        ("before-1970-and-a-half", -1_500_000_001),
        ("far-future", 2**33 * 10**9 + 999_999_999),
        ("year-2300", 10_413_792_000 * 10**9 + 1),
        ("one-nanosecond", 1),
        ("whole-second", 1_700_000_000 * 10**9),
    ):
        (root / name).write_text(name)
        os.utime(root / name, ns=(0, mtime_ns))
    (root / "large-ids").write_text("ids")
    os.chown(root / "large-ids", 3_000_000_000, 0o10000000)
    deep = root
    for number in range(12):
        deep = deep / f"a folder with a long name, number {number}"
        deep.mkdir()
    (deep / ("x" * 200)).write_bytes(b"deep")
    (deep / ("ä漢" * 50)).write_bytes(b"deep, not ASCII")
    latin = os.fsencode(deep) + b"/" + b"\xe4\xff" * 60
    Path(os.fsdecode(latin)).write_bytes(b"deep, not UTF-8")
    os.link(latin, latin + b"-link")
    os.symlink(b"\xfc" * 300, root / "long-target-not-utf8")
    os.symlink("t" * 101, root / "long-target")
    os.link(root / "long-target", root / "linked-symlink", follow_symlinks=False)
    os.mknod(root / "block", 0o060600, os.makedev(259, 200_000))
    os.link(root / "block", root / "linked-block")
    (root / "xattrs").write_text("x")
    os.setxattr(root / "xattrs", "user.binary", bytes(range(256)))
    os.setxattr(root / "xattrs", "user.empty", b"")
    os.setxattr(root / "xattrs", "user.100%", b"percent")
    os.setxattr(root / "xattrs", "trusted.note", b"root only")
    os.setxattr(root / "long-target", "trusted.note", b"of a link", follow_symlinks=False)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(root / "xattrs", "security.capability", capability)
    (root / "escaped").write_text("e")
    os.setxattr(root / "escaped", "user.a=b", b"equals")
    os.setxattr(root / "escaped", "user.100%25", b"what an escaped percent sign looks like")
    (root / "acl").write_text("acl")
    run("setfacl", "-m", "u:12345:rw,g:54321:r,m::rw", root / "acl")
    (root / "acl folder").mkdir()
    run("setfacl", "-m", "u:1:rwx,d:u:2000000000:rx,d:g:7:w", root / "acl folder")
    with open(root / "ends-in-a-hole", "wb") as file:
        file.write(b"x" * 5000)
        file.truncate((6 << 20) + 1)
    with open(root / "starts-with-a-hole", "wb") as file:
        file.seek(3 << 20)
        file.write(b"y" * 5001)
    (root / "large").write_bytes(os.urandom((9 << 20) + 77))


@pytest.fixture(params=["xfs", "ext4", "ext4-inline", "ext4-1k"])
def case(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Case]:
    """A file system full of everything, mapped, and then mounted read-only."""
    kind = request.param
    map_path = scratch / "map"
    with file_system(scratch, kind) as (mount, device):
        data = mount / "data"
        make_all_sorts(data)
        make_hard_cases(data / "hard cases")
        map_folder(data, device, map_path)
        run("mount", "-o", "remount,ro", mount)
        yield Case(kind, device, map_path, mount, data)


def test_both_tars_restore_what_the_mount_shows(case: Case, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    written = write_from(case.map_path, case.device, archive, OPTIONS)
    assert archive.stat().st_size == written.result.bytes_archive
    for tar in TARS:
        folder = tmp_path / f"restored-{tar}"
        restore(tar, archive, folder)
        restored = folder / str(case.data)[1:]

        def cannot(name: bytes, tar: str = tar) -> bool:
            return tar == "bsdtar" and name.endswith(BSDTAR_CANNOT)

        expected = tree(case.data, cannot)
        found = tree(restored, cannot)
        assert found.keys() == expected.keys()
        for name, row in expected.items():
            assert found[name] == row, (tar, name)
        before, after = allocated(case.data), allocated(restored)
        assert {name for name in before if after[name] > before[name] + 8192} == set(), tar


def test_members_and_index_say_what_is_in_the_archive(case: Case, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    written = write_from(case.map_path, case.device, archive, OPTIONS)
    expected = tree(case.data)
    seen = []
    sparse = set()
    with open(archive, "rb") as stream:
        for member, record in zip(iterate_members(stream), written.members):
            assert (member.name, member.offset_bytes, len(member.header)) == (
                record.path,
                record.offset_bytes,
                record.header_bytes,
            )
            seen.append(record)
            if member.sparse is not None:
                sparse.add(member.name)
            if record.kind == "f":
                content = b"".join(member.content())
                assert len(content) == record.size
                if member.sparse is None:
                    assert hashlib.sha256(content).hexdigest() == record.sha256
        assert stream.read().strip(b"\0") == b""
    assert seen == written.members
    base = os.fsencode(case.data)[1:]
    names = [record.path for record in seen[:-1]]
    assert names == sorted(names, key=lambda name: name.replace(b"/", b"\0"))
    assert {os.path.relpath(name, base) for name in names} == set(expected)
    for record in seen[:-1]:
        row = expected[os.path.relpath(record.path, base)]
        if record.kind == "f" and record.path not in sparse:
            assert record.sha256 == row[6]
    index = content.splitlines(keepends=True)
    assert seen[-1].path == b".splitmirror/s1/index.jsonl"
    assert read_head(index[0])["host"] == "host"
    assert [read_member(line) for line in index[1:]] == seen[:-1]
    assert written.result.members == len(seen)
    assert written.result.skipped == 1
    with MapFile.open(str(case.map_path), read_only=True) as made:
        inline = {entry.inode for entry, _dummy in made.entries() if entry.source == "content"}
    assert written.result.inline == len(inline)
    assert bool(inline) == (case.kind == "ext4-inline")


def test_one_member_is_restored_from_its_offset(case: Case, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    written = write_from(case.map_path, case.device, archive, OPTIONS)
    for record in written.members:
        if record.path.endswith((b"/sparse", b"/large", b"/xattrs", b"/size-3000001")):
            with open(archive, "rb") as stream:
                stream.seek(record.offset_bytes)
                member = next(iterate_members(stream))
                assert member.name == record.path
                assert member.sha256() == record.sha256


def open_entry(entry: FileEntry) -> BinaryIO:
    return open(entry.path, "rb")


def test_files_that_need_the_mount_are_read_through_it(case: Case, tmp_path: Path) -> None:
    with MapFile.open(str(case.map_path)) as made:
        changed = [
            entry._replace(source="mount", reason="test", content=None)
            for entry, _dummy in made.entries()
            if entry.kind == "f" and entry.size
        ]
        for entry in changed:
            made.put_file(entry, [])
    archive = tmp_path / "archive.tar"
    written = write_from(case.map_path, case.device, archive, OPTIONS, fallback=open_entry)
    assert written.result.fallback > 30
    assert written.result.inline == 0
    restore("tar", archive, tmp_path / "restored")
    restored = tmp_path / "restored" / str(case.data)[1:]
    assert tree(restored) == tree(case.data)
    before, after = allocated(case.data), allocated(restored)
    assert {name for name in before if after[name] > before[name] + 8192} == set()
    with pytest.raises(ArchiveError, match=r"cannot be read by its extents \(test\)"):
        write_from(case.map_path, case.device, archive, OPTIONS)


def test_extras_come_behind_the_files(case: Case, tmp_path: Path) -> None:
    extras = tmp_path / "extras.tar"
    label = tmp_path / "label"
    label.write_text("START WAL LOCATION")
    # tarfile keeps times as floats; half seconds survive that.
    os.utime(label, ns=(0, 1_700_000_000_500_000_000))
    with tarfile.open(extras, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(label, "srv/pg/backup_label")
        tar.add(tmp_path / "label", "srv/pg/" + "l" * 180)
    written = write_from(case.map_path, case.device, tmp_path / "a.tar", OPTIONS, extras=str(extras))
    digest = hashlib.sha256(b"START WAL LOCATION").hexdigest()
    assert [(record.path, record.sha256) for record in written.members[-3:-1]] == [
        (b"srv/pg/backup_label", digest),
        (b"srv/pg/" + b"l" * 180, digest),
    ]
    restore("bsdtar", tmp_path / "a.tar", tmp_path / "restored")
    assert (tmp_path / "restored/srv/pg/backup_label").read_text() == "START WAL LOCATION"
    assert (tmp_path / "restored/srv/pg" / ("l" * 180)).stat().st_mtime_ns == label.stat().st_mtime_ns


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_device_with_sectors_of_4096_bytes_is_read(scratch: Path, kind: str) -> None:
    """The data of members begin at multiples of 512 in memory, which such a device need not take."""
    image = make_image(scratch / "lun.img", XFS_MIN_MIB)
    device = run("losetup", "--find", "--show", "--sector-size=4096", "--direct-io=on", image).stdout.strip()
    try:
        run(f"mkfs.{kind}", "-q", device)
        with mounted(device, scratch / "mnt") as mount:
            make_all_sorts(mount / "data")
            make_hard_cases(mount / "data" / "hard cases")
            map_folder(mount / "data", device, scratch / "map")
            run("mount", "-o", "remount,ro", mount)
            write_from(scratch / "map", device, scratch / "a.tar", OPTIONS)
            restore("tar", scratch / "a.tar", scratch / "restored")
            assert tree(scratch / "restored" / str(mount)[1:] / "data") == tree(mount / "data")
    finally:
        run("losetup", "--detach", device)


def test_a_device_that_is_cut_short_fails_with_file_and_offset(scratch: Path) -> None:
    with file_system(scratch, "ext4") as (mount, device):
        (mount / "data").mkdir()
        for number in range(200):
            (mount / "data" / f"file {number:04}").write_bytes(os.urandom(1 << 20))
        map_folder(mount / "data", device, scratch / "map")
    with MapFile.open(str(scratch / "map")) as made:
        ends = {entry.path: max(e.physical + e.length for e in extents) for entry, extents in made.entries() if extents}
    image = scratch / "ext4.img"
    cut = sorted(ends.values())[len(ends) // 2] - 4096
    os.truncate(image, cut)
    lost = {path.decode() for path, end in ends.items() if end > cut}
    with loop_device(image, read_only=True) as device, contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(ArchiveError, match="cannot be read from /dev/loop"))
        try:
            write_from(scratch / "map", device, scratch / "a.tar", OPTIONS)
        except ArchiveError as exc:
            name, _dummy, rest = exc.message.partition(" cannot be read from ")
            offset = int(rest.split(" at offset ")[1].split()[0])
            assert name in lost
            assert offset >= cut - (1 << 20)
            assert device in rest
            raise


def test_a_bad_block_that_no_file_needs_is_no_error(scratch: Path) -> None:
    """Reads go over gaps between files; a gap that cannot be read must not fail the backup."""
    table = []
    with file_system(scratch, "ext4") as (mount, device):
        (mount / "data").mkdir()
        for number in range(60):
            (mount / "data" / f"file {number:04}").write_bytes(os.urandom(5000))
        map_folder(mount / "data", device, scratch / "map")
        gone = mount / "data" / "file 0030"
        with MapFile.open(str(scratch / "map")) as made:
            found = made.get(os.fsencode(gone))
            assert found is not None
            hole = found[1][0].physical
            made.remove_tree(os.fsencode(gone))
        size = int(run("blockdev", "--getsize64", device).stdout)
    name = f"splitmirror-test-{os.getpid()}"
    with loop_device(scratch / "ext4.img", read_only=True) as device:
        table = [
            f"0 {hole // 512} linear {device} 0",
            f"{hole // 512} 16 error",
            f"{hole // 512 + 16} {size // 512 - hole // 512 - 16} linear {device} {hole // 512 + 16}",
        ]
        if subprocess.run(["dmsetup", "version"], capture_output=True, check=False).returncode:
            pytest.skip("this kernel has no device mapper")
        run("dmsetup", "create", "--readonly", name, input="\n".join(table))
        try:
            written = write_from(scratch / "map", f"/dev/mapper/{name}", scratch / "a.tar", OPTIONS)
            assert written.result.files == 59
            run("tar", "-tf", scratch / "a.tar")
        finally:
            run("dmsetup", "remove", name)


def test_nothing_is_written_to_the_device(case: Case, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        # A loop device that refuses writes: opening it for writing, or any write, would fail.
        image = tmp_path / "copy.img"
        run("cp", "--sparse=always", case.device, image)
        device = stack.enter_context(loop_device(image, read_only=True))
        before = hashlib.sha256(image.read_bytes()).hexdigest()
        written = write_from(case.map_path, device, tmp_path / "a.tar", OPTIONS)
        assert written.result.files > 0
        assert hashlib.sha256(image.read_bytes()).hexdigest() == before
        options = ("ro", "norecovery", "nouuid") if case.kind == "xfs" else ("ro", "noload")
        mirror = stack.enter_context(mounted(device, tmp_path / "mirror", *options))
        assert set(walk(mirror / "data")) == set(walk(case.data))
