# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems full of every sort of file, freezes, and reading files by their map past every cache."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import ExtentRow, FileEntry

from .blockdev import loop_device, make_image, mounted, run

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FICLONE = 0x40049409
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
KINDS = ("xfs", "ext4", "ext4-inline", "ext4-1k")
_LIBC = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with flags; os.posix_fallocate has none."""
    if _LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def file_system(folder: Path, kind: str, size_mib: int = 320) -> Iterator[tuple[Path, str]]:
    """A file system on a loop device of its own; yields where it is mounted, and the device."""
    image = make_image(folder / f"{kind}.img", size_mib, "xfs" if kind == "xfs" else "")
    if kind != "xfs":
        options = {"ext4": [], "ext4-inline": ["-O", "inline_data"], "ext4-1k": ["-b", "1024"]}[kind]
        run("mkfs.ext4", "-q", "-F", *options, image)
    with loop_device(image) as device, mounted(device, folder / f"mnt-{kind}") as mount:
        yield mount, device


@contextlib.contextmanager
def frozen(mount: Path) -> Iterator[None]:
    """The file system is frozen inside."""
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


def make_all_sorts(root: Path) -> None:
    """Files of every sort in ``root``, some of them not written back yet."""
    dice = random.Random(7)
    root.mkdir()
    for size in (0, 1, 59, 100, 4095, 4096, 4097, 70_000, 3_000_001):
        (root / f"size-{size}").write_bytes(dice.randbytes(size))
    with open(root / "sparse", "wb") as file:
        for place in (1 << 20, 5 << 20, (9 << 20) + 5):
            file.seek(place)
            file.write(dice.randbytes(6000))
        file.truncate(20 << 20)
    with open(root / "only-a-hole", "wb") as file:
        file.truncate(1 << 20)
    with open(root / "fallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 << 20)
        file.seek(2 << 20)
        file.write(dice.randbytes(10_000))
    with open(root / "beyond-eof", "wb") as file:
        file.write(dice.randbytes(5000))
        file.flush()
        fallocate(file.fileno(), FALLOC_KEEP_SIZE, 0, 2 << 20)
    with open(root / "punched", "wb") as file:
        file.write(dice.randbytes(1 << 20))
        file.flush()
        fallocate(file.fileno(), FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 100_000, 300_000)
    with open(root / "many-extents", "wb") as file:
        for number in range(200):
            file.seek(number * 3 * 4096)
            file.write(dice.randbytes(4096))
            if number % 10 == 0:
                os.fsync(file.fileno())
    with open(root / "mapped", "w+b") as file:
        file.truncate(100_000)
        with mmap.mmap(file.fileno(), 100_000) as memory:
            memory[5000:5100] = b"m" * 100
    with contextlib.suppress(OSError), open(root / "size-70000", "rb") as old, open(root / "reflink", "w+b") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        os.fsync(new.fileno())
        new.seek(8192)
        new.write(dice.randbytes(5000))
    os.link(root / "size-4097", root / "hard-link")
    os.symlink("nowhere/at all", root / "symlink")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as door, contextlib.chdir(root):
        door.bind("socket")
    odd = os.fsencode(root) + b"/odd \xff\n\\name"
    os.mkdir(odd)
    for name in (b"-x", b"new\nline", b"\xe4\xf6", b"a" * 255, b"*?["):
        with open(odd + b"/" + name, "wb") as file:
            file.write(name)
    owned = root / "owned"
    owned.write_bytes(b"owned")
    os.chown(owned, 12345, 23456)
    os.chmod(owned, 0o4751)
    os.utime(owned, ns=(1, 1_234_567_890_123_456_789))
    os.setxattr(owned, "user.comment", b"bin\0ary")
    os.setxattr(owned, "trusted.note", b"t")
    run("setfacl", "-m", "u:1:r,g:2:w", owned)
    run("setfacl", "-d", "-m", "u:1:r", root)


def read_by_map(entry: FileEntry, extents: Iterable[ExtentRow], devices: Mapping[int, str]) -> bytes:
    """The content of a regular file as its map tells it, read from the devices with O_DIRECT."""
    if entry.source == "content":
        return entry.content or b""
    assert entry.source in ("none", "device"), entry
    content = bytearray(entry.size)
    for row in extents:
        assert row.logical < entry.size
        data = read_direct(devices[row.lun], row.physical, row.length)
        usable = min(row.length, entry.size - row.logical)
        content[row.logical : row.logical + usable] = data[:usable]
    return bytes(content)


def read_direct(device: str, offset: int, length: int) -> bytes:
    """Bytes of a device past the page cache; offset and length are multiples of 512."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as buffer:
            assert os.preadv(fd, [buffer], offset) == length
            return bytes(buffer)
    finally:
        os.close(fd)


def tree_of(root: bytes) -> dict[bytes, tuple[object, ...]]:
    """What a plain walk sees of a tree: per path kind, attributes, and content, target or device number."""
    found: dict[bytes, tuple[object, ...]] = {}

    def look(path: bytes) -> None:
        seen = os.lstat(path)
        kind = {"r": "f", "s": "s"}.get(
            stat.filemode(seen.st_mode)[0].replace("-", "r"), stat.filemode(seen.st_mode)[0]
        )
        body: object = None
        if kind == "f":
            body = Path(os.fsdecode(path)).read_bytes()
        elif kind == "l":
            body = os.readlink(path)
        elif kind in "cb":
            body = (os.major(seen.st_rdev), os.minor(seen.st_rdev))
        xattrs = {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        found[path] = (
            kind,
            stat.S_IMODE(seen.st_mode),
            seen.st_uid,
            seen.st_gid,
            seen.st_mtime_ns,
            seen.st_nlink,
            seen.st_ino,
            xattrs,
            body,
        )
        if kind == "d":
            for name in os.listdir(path):
                look(path + b"/" + name)

    look(root)
    return found


def tree_of_map(
    entries: Iterable[tuple[FileEntry, list[ExtentRow]]], devices: Mapping[int, str]
) -> dict[bytes, tuple[object, ...]]:
    """The same from a map, with contents read from the devices."""
    from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import unpack_xattrs

    found: dict[bytes, tuple[object, ...]] = {}
    for entry, extents in entries:
        body: object = None
        if entry.kind == "f":
            body = read_by_map(entry, extents, devices)
        elif entry.kind == "l":
            body = entry.target
        elif entry.kind in "cb":
            body = (entry.rdev_major, entry.rdev_minor)
        found[entry.path] = (
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.nlink,
            entry.inode,
            unpack_xattrs(entry.xattrs),
            body,
        )
    return found
