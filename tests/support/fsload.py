# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems full of every sort of file, freezes, and reading files by their map past every cache."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import multiprocessing
import os
import random
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    ExtentRow,
    FileEntry,
    unpack_xattrs,
)
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FICLONE = 0x40049409
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FREEZE_LIMIT_S = 30.0
KINDS = ("xfs", "ext4", "ext4-inline", "ext4-1k")
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with flags; os.posix_fallocate has none."""
    if _LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class MemoryMap:
    """A file mapped into memory for writing, with no descriptor kept open, unlike Python's own mmap."""

    def __init__(self, path: Path, kind: int = mmap.MAP_SHARED) -> None:
        with open(path, "r+b") as file:
            self.size = os.fstat(file.fileno()).st_size
            prot = mmap.PROT_READ | mmap.PROT_WRITE
            self._address = _LIBC.mmap(None, ctypes.c_size_t(self.size), prot, kind, file.fileno(), ctypes.c_long(0))
        if self._address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def write(self, place: int, data: bytes) -> None:
        """Store into the memory; a file that became shorter meanwhile kills the process, as mmap(2) says."""
        ctypes.memmove(self._address + place, data, len(data))

    def close(self) -> None:
        """Unmap it."""
        _LIBC.munmap(ctypes.c_void_p(self._address), ctypes.c_size_t(self.size))

    def __enter__(self) -> MemoryMap:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def file_system(folder: Path, kind: str, size_mib: int = 320) -> Iterator[tuple[Path, str]]:
    """A file system on a loop device of its own; yields where it is mounted, and the device."""
    image = make_image(folder / f"{kind}.img", size_mib, "xfs" if kind == "xfs" else "")
    if kind != "xfs":
        options = {"ext4": [], "ext4-inline": ["-O", "inline_data"], "ext4-1k": ["-b", "1024"]}[kind]
        run("mkfs.ext4", "-q", "-F", *options, image)
    with loop_device(image) as device, mounted(device, folder / f"mnt-{kind}") as mount:
        yield mount, device


def split(folder: Path, kind: str) -> None:
    """Copy the image of a frozen file system, as a split does."""
    run("cp", "--sparse=always", folder / f"{kind}.img", folder / "mirror.img")


@contextlib.contextmanager
def mirror(folder: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """What split copied, mounted read-only on a device of its own; yields where, and the device."""
    options = ("ro", "norecovery", "nouuid") if kind == "xfs" else ("ro", "noload")
    with (
        loop_device(folder / "mirror.img", read_only=True) as device,
        mounted(device, folder / "mirror", *options) as mount,
    ):
        yield mount, device


@contextlib.contextmanager
def frozen(mount: Path) -> Iterator[None]:
    """The file system is frozen inside, at most for FREEZE_LIMIT_S; when that was not enough, leaving it raises.

    The limit is needed: on a frozen XFS, looking at a file that the kernel just threw out of its cache waits until
    the thaw, and so would we.
    """
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    guard = threading.Timer(FREEZE_LIMIT_S, fcntl.ioctl, (fd, FITHAW, 0))
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        guard.start()
        try:
            yield
        finally:
            guard.cancel()
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


def tree_of(root: bytes, called: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """What a plain walk sees of a tree: per path kind, attributes, and content, target or device number.

    :param called: the root in the paths found, its own path when empty.
    """
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
        found[(called or root) + path[len(root) :]] = (
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


class Stepping(Protocol):
    """What changes a file system step by step."""

    def step(self) -> None:
        """One change."""


@contextlib.contextmanager
def at_work(
    kind: Callable[[Path, random.Random], Stepping], root: Path, seed: int, steps_before: int = 200
) -> Iterator[None]:
    """Something takes steps in a process of its own while inside, after it has done some.

    :param kind: the class of what takes them.
    """
    with multiprocessing.Pool(1) as pool, tempfile.TemporaryDirectory() as door:
        stop = Path(door) / "stop"
        pool.apply(_begin, (kind, root, seed, steps_before))
        done = pool.apply_async(_go_on, (stop,))
        try:
            yield
        finally:
            stop.touch()
            done.get()


_AT_WORK: list[Stepping] = []


def _begin(kind: Callable[[Path, random.Random], Stepping], root: Path, seed: int, steps: int) -> None:
    _AT_WORK.append(kind(root, random.Random(seed)))
    for _dummy in range(steps):
        _AT_WORK[0].step()


def _go_on(stop: Path) -> None:
    while not stop.exists():
        _AT_WORK[0].step()


class Load:
    """A mixed load on one tree, as repeatable as its dice; keeps some files open and mapped between steps."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self.root = root
        self.dice = dice
        self._number = 0
        self._maps: list[MemoryMap] = []

    def step(self) -> None:
        """Do one random thing; what meets a file or folder that cannot take it does nothing."""
        deed = self.dice.choice(
            (
                self._write,
                self._write,
                self._append,
                self._truncate,
                self._rename,
                self._unlink,
                self._punch,
                self._allocate,
                self._reflink,
                self._map,
                self._link,
                self._attributes,
                self._folder,
                self._move_folder,
            )
        )
        with contextlib.suppress(OSError, ValueError):
            deed()

    def close(self) -> None:
        """Let go of what is held."""
        for memory in self._maps:
            memory.close()
        self._maps.clear()

    def _name(self) -> Path:
        self._number += 1
        return self.dice.choice(self._folders()) / f"load-{self._number}"

    def _folders(self) -> list[Path]:
        return [self.root, *sorted(path for path in self.root.glob("load-dir-*/**/") if path.is_dir())]

    def _pick(self) -> Path:
        files = [path for path in self.dice.choice(self._folders()).glob("load-*") if path.is_file()]
        return self.dice.choice(sorted(files)) if files else self.root / "owned"

    def _bytes(self) -> bytes:
        return self.dice.randbytes(self.dice.choice((1, 100, 5000, 40_000)))

    def _write(self) -> None:
        self._name().write_bytes(self._bytes())

    def _append(self) -> None:
        with open(self._pick(), "ab") as file:
            file.write(self._bytes())

    def _truncate(self) -> None:
        os.truncate(self._pick(), self.dice.choice((0, 10, 6000, 200_000)))

    def _rename(self) -> None:
        os.rename(self._pick(), self.dice.choice((self._name(), self._pick())))

    def _unlink(self) -> None:
        os.unlink(self._pick())

    def _punch(self) -> None:
        with open(self._pick(), "r+b") as file:
            fallocate(file.fileno(), FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, self.dice.randrange(40_000), 8000)

    def _allocate(self) -> None:
        with open(self._pick(), "r+b") as file:
            fallocate(file.fileno(), self.dice.choice((0, FALLOC_KEEP_SIZE)), self.dice.randrange(40_000), 100_000)

    def _reflink(self) -> None:
        with open(self._pick(), "rb") as old, open(self._name(), "w+b") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            new.write(self._bytes())

    def _map(self) -> None:
        while len(self._maps) > 3:
            self._maps.pop(0).close()
        memory = MemoryMap(self._pick())
        self._maps.append(memory)
        memory.write(self.dice.randrange(memory.size), b"M")

    def _link(self) -> None:
        os.link(self._pick(), self._name())

    def _attributes(self) -> None:
        path = self._pick()
        os.chmod(path, self.dice.choice((0o600, 0o644, 0o4755)))
        os.setxattr(path, "user.load", self.dice.randbytes(20))

    def _folder(self) -> None:
        self._number += 1
        (self.dice.choice(self._folders()) / f"load-dir-{self._number}").mkdir()

    def _move_folder(self) -> None:
        folders = self._folders()
        self._number += 1
        os.rename(self.dice.choice(folders[1:] or folders), self.dice.choice(folders) / f"load-dir-{self._number}")
