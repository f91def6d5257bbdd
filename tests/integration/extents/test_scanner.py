# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a scanner reads from the inode tables of an ext4 is what the kernel says of each file."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.ext4 import InodeTables
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.filemap import FileMapper, Translation
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    FileSystem,
    MapError,
    MappedFields,
    SegmentRow,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.proof import Proof
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.rules import ScopeTree
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scanner import Scanner
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.walk import FileSystems, Run, walk
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    FALLOC_KEEP_SIZE,
    Load,
    fallocate,
    frozen,
    make_all_sorts,
)

pytestmark = pytest.mark.root

SIZE_MIB = 320
SEGMENT = SegmentRow(0, 7, 1 << 20, SIZE_MIB << 20)

KNOWN = {
    "default": [],
    "1k": ["-b", "1024"],
    "2k": ["-b", "2048"],
    "32bit": ["-O", "^64bit"],
    "no flex_bg": ["-O", "^flex_bg"],
    "no checksums": ["-O", "^metadata_csum"],
    "large inodes": ["-I", "1024"],
    "inline": ["-O", "inline_data"],
    "large xattrs": ["-O", "ea_inode"],
    "many inodes": ["-N", "60000", "-G", "4"],
}
UNKNOWN = {
    "small inodes": ["-I", "128"],
    "meta_bg": ["-O", "meta_bg,^resize_inode"],
    "bigalloc": ["-O", "bigalloc"],
}


class Asked(FileMapper):
    """A FileMapper that remembers what it was asked for."""

    names: set[bytes]

    def map_run(self, run: Run) -> Iterator[MappedFields]:
        self.names = getattr(self, "names", set()) | set(run.names)
        return super().map_run(run)


@contextlib.contextmanager
def ext4(folder: Path, *options: str) -> Iterator[tuple[Path, Path]]:
    """An ext4 that is mounted; yields the image, too."""
    image = make_image(folder / "ext4.img", SIZE_MIB)
    run("mkfs.ext4", "-q", "-F", *options, image)
    with loop_device(image) as device, mounted(device, folder / "primary") as mount:
        yield mount, image


def make_odd(root: Path) -> None:
    """What make_all_sorts has not: limits of numbers, of inodes and of extents."""
    root.mkdir()
    for name, seconds in (("old", -(1 << 31)), ("before", -1), ("2038", 1 << 31), ("late", (1 << 33) + 5)):
        (root / name).write_bytes(b"x" * 9000)
        os.utime(root / name, ns=(0, seconds * 10**9 + 999_999_999))
    for count in (2, 4, 5):
        # Blocks of other files between them keep extents apart.
        with open(root / f"extents-{count}", "wb") as file:
            for number in range(count):
                file.seek(number * 3 * 4096)
                file.write(b"e" * 4096)
    for name, flags in (("begins-unwritten", 0), ("ends-unwritten", FALLOC_KEEP_SIZE)):
        with open(root / name, "wb") as file:
            fallocate(file.fileno(), flags, 0, 1 << 20)
            file.seek(0 if flags else 1 << 19)
            file.write(b"u" * 5000)
    with open(root / "far", "wb") as file:
        file.seek(10 << 30)
        file.write(b"far")
    os.chown(root / "old", 70_000, 4_000_000_000)
    os.symlink("t" * 59, root / "fast")
    os.symlink("t" * 60, root / "slow")
    for name, size in (("a", 0), ("b", 300), ("c", 700)):
        (root / f"xattr-{name}").write_bytes(b"x" * 9000)
        os.setxattr(root / f"xattr-{name}", "security.selinux", b"system_u:object_r:postgresql_db_t:s0\0")
        if size:
            os.setxattr(root / f"xattr-{name}", "user.note", b"n" * size)
    os.setxattr(root / "fast", "trusted.l", b"", follow_symlinks=False)
    os.setxattr(root, "user.folder", b"f")
    (root / "many").mkdir()
    for number in range(1200):
        (root / "many" / f"{number}").write_bytes(b"%d" % number)
    (root / "flagged").write_bytes(b"flags" * 2000)
    run("chattr", "+adA", root / "flagged")
    # While it is empty: ext4 refuses this for a file that got more than one extent (ext4_ind_migrate).
    (root / "blocks").touch()
    run("chattr", "-e", root / "blocks")
    (root / "blocks").write_bytes(b"flags" * 2000)


def both_ways(
    mount: Path, device: str, fs_type: str = "ext4"
) -> tuple[list[MappedFields], list[MappedFields], set[bytes]]:
    """Rows of a scanner, rows of the kernel, and the names that the scanner did not understand."""
    fs = FileSystem(1, b"/host", fs_type, "u", 4096, 99, 7, 1 << 20, b"/")
    block_bytes = os.statvfs(mount).f_bsize
    here = FileSystems.live([fs._replace(mount_point=os.fsencode(mount), dev=os.stat(mount).st_dev)])
    translation = Translation([SEGMENT], block_bytes)
    tables = InodeTables.open(device)
    assert tables is not None
    with contextlib.closing(tables):
        asked = Asked(here, {1: translation})
        scanner = Scanner(tables, here.by_id[1], translation, asked)
        mapper = FileMapper(here, {1: translation})
        scanned: list[MappedFields] = []
        told: list[MappedFields] = []
        for found in walk(
            ScopeTree([Scope(str(mount))]), here, expect=lambda _fs, folders: scanner.expect_folders(folders)
        ):
            scanner.expect(found)
            scanned += scanner.map_run(found)
            told += mapper.map_run(found)
        return scanned, told, asked.names


@pytest.mark.parametrize("options", KNOWN.values(), ids=KNOWN)
def test_the_scanner_says_what_the_kernel_says(scratch: Path, options: list[str]) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    with ext4(scratch, *options) as (mount, image):
        make_all_sorts(mount / "sorts")
        make_odd(mount / "odd")
        (mount / "load").mkdir()
        load = Load(mount / "load", random.Random(seed))
        for _dummy in range(400):
            load.step()
        load.close()
    with loop_device(image, read_only=True) as device, mounted(device, scratch / "mirror", "ro", "noload") as mirror:
        scanned, told, asked = both_ways(mirror, device)
        assert scanned == told
        # To the kernel are left what is no file, what has other extents, and what lies inside or outside an inode.
        assert {b"fifo", b"device", b"slow", b"blocks", b"many-extents", b"extents-5"} <= asked
        assert (b"xattr-c" in asked) == (options != KNOWN["large inodes"])
        assert not asked & {b"fast", b"many", b"late", b"size-4096", b"size-70000", b"sparse", b"far"}
        assert not asked & {b"extents-4", b"flagged", b"begins-unwritten", b"ends-unwritten", b"xattr-a"}
        assert (b"1199" in asked) == (options == KNOWN["inline"])


@pytest.mark.parametrize("options", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_layout_is_left_to_the_kernel(scratch: Path, options: list[str]) -> None:
    with ext4(scratch, *options) as (mount, image):
        make_all_sorts(mount / "sorts")
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "sorts"))], [LunSpec("lun", os.fspath(device_of(mount)))])
            stored = list(made.entries())
    with loop_device(image, read_only=True) as device, mounted(device, scratch / "mirror", "ro", "noload") as mirror:
        assert InodeTables.open(device) is None
        with Proof(str(scratch / "map"), {1: str(mirror)}) as proof:
            assert list(proof.entries()) == stored


def test_a_journal_that_holds_newer_inodes_is_left_to_the_kernel(scratch: Path) -> None:
    with ext4(scratch) as (mount, _image):
        (mount / "file").write_bytes(b"x")
        os.sync()
        device = device_of(mount)
        assert InodeTables.open(device) is None
        with frozen(mount):
            tables = InodeTables.open(device)
            assert tables is not None
            tables.close()


def test_a_damaged_inode_is_no_change(scratch: Path) -> None:
    with ext4(scratch) as (mount, image):
        (mount / "data").mkdir()
        (mount / "data/file").write_bytes(b"x" * 5000)
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device_of(mount))])
            entry, _extents = made.get(os.fsencode(mount / "data/file")) or pytest.fail("not mapped")
    # The inode's size, where it is the only one of its size and time.
    content = image.read_bytes()
    at = content.index(struct.pack("<HHI", 0o100000 | entry.mode, entry.uid, 5000))
    with open(image, "r+b") as file:
        file.seek(at + 4)
        file.write(struct.pack("<I", 4000))
    with (
        loop_device(image, read_only=True) as device,
        mounted(device, scratch / "mirror", "ro", "noload") as mirror,
        Proof(str(scratch / "map"), {1: str(mirror)}) as proof,
        pytest.raises(MapError, match="cannot be mapped"),
    ):
        list(proof.entries())


def device_of(mount: Path) -> str:
    return run("findmnt", "--noheadings", "--output=SOURCE", "--mountpoint", mount).stdout.strip()
