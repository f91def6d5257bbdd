# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A load on one tree that does everything to files that Linux has a call for, as repeatable as its seed.

It runs in processes of its own, at a measured pace, so that the file system never rests while it is mapped, frozen,
split and written; what it does meanwhile is the same for the same seed, only when it does it differs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import multiprocessing
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible_collections.splitmirror.backup.tests.support.fsload import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FICLONE,
    fallocate,
)

# linux/falloc.h, linux/fs.h
FALLOC_COLLAPSE_RANGE, FALLOC_ZERO_RANGE, FALLOC_INSERT_RANGE = 0x08, 0x10, 0x20
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)
_ODD = (
    b"-x", b"new\nline", b"\xff\xfe", "grün".encode(), b" blank ", b"*?[", b"back\\slash", b'"', b"'", b"$(id)",
    b"a=b", b"%3D", b"tab\t", b"\x7f", b"...", b"L" * 200, b"\xe2\x80\xae", b"#!", b"~", b"\x01",
)  # fmt: skip
_HELD = 6
_BURST = 100


class Size(NamedTuple):
    """How much a load works with: files at most, bytes of the large files, steps a second of each process."""

    files: int
    large_bytes: int
    sparse_bytes: int
    pace: int


class Load:
    """One process's share of the load, in a folder of its own."""

    def __init__(self, root: Path, seed: int, size: Size) -> None:
        self.root = os.fsencode(root)
        self.dice = random.Random(seed)
        self.size = size
        self.files: list[bytes] = []
        self.folders: list[bytes] = [self.root]
        self._number = 0
        self._maps: list[mmap.mmap] = []
        self._bare: list[int] = []
        self._open: list[int] = []
        self._noise = self.dice.randbytes(4 << 20)
        deeds: list[tuple[int, Callable[[], None]]] = [
            (14, self._create),
            (10, self._append),
            (10, self._overwrite),
            (5, self._scatter),
            (6, self._truncate),
            (8, self._rename),
            (2, self._exchange),
            (8, self._unlink),
            (6, self._punch),
            (6, self._allocate),
            (4, self._shift),
            (6, self._clone),
            (8, self._map),
            (6, self._map_closed),
            (5, self._hold),
            (5, self._link),
            (6, self._attributes),
            (3, self._special),
            (2, self._replace_as_databases_do),
            (2, self._make_folder),
            (1, self._move_folder),
            (1, self._remove_folder),
            (2, self._large),
        ]
        self._deeds = [deed for _weight, deed in deeds]
        self._weights = [weight for weight, _deed in deeds]

    def populate(self) -> None:
        """Make the files that are there before the first map."""
        os.mkdir(self.root)
        for _dummy in range(max(6, self.size.files // 150)):
            self._make_folder()
        with open(self.root + b"/large", "wb") as file:
            left = self.size.large_bytes
            while left > 0:
                left -= file.write(self._noise[: min(left, len(self._noise))])
        with open(self.root + b"/sparse", "wb") as file:
            file.truncate(self.size.sparse_bytes)
            for _dummy in range(40):
                file.seek(self.dice.randrange(self.size.sparse_bytes))
                file.write(self._bytes())
        while len(self.files) < self.size.files * 4 // 5:
            self._create()
            if not self._number % 100:
                self.step()

    def step(self) -> None:
        """Do one thing; what the file or the folder at hand cannot take is passed over."""
        deed = self.dice.choices(self._deeds, self._weights)[0]
        if len(self.files) < self.size.files // 2:
            deed = self._create
        with contextlib.suppress(OSError, ValueError):
            deed()

    def close(self) -> None:
        """Let go of what is held."""
        for memory in self._maps:
            memory.close()
        for fd in self._open:
            os.close(fd)

    # -- what is chosen --------------------------------------------------------------------------------------------

    def _name(self) -> bytes:
        self._number += 1
        name = b"%d" % self._number
        if self.dice.random() < 0.1:
            name = self.dice.choice(_ODD) + name
        return self.dice.choice(self.folders) + b"/" + name

    def _pick(self) -> bytes:
        """A path that was a file once; it may be gone."""
        return self.dice.choice(self.files)

    def _take(self) -> bytes:
        """The same, and it is on the list no more."""
        place = self.dice.randrange(len(self.files))
        self.files[place], self.files[-1] = self.files[-1], self.files[place]
        return self.files.pop()

    def _length(self) -> int:
        dice = self.dice
        limits = dice.choices(((0, 1), (1, 600), (600, 4097), (4096, 20_000), (20_000, 300_000), (1 << 20, 4 << 20)),
                              (10, 15, 25, 35, 14, 1))[0]  # fmt: skip
        return dice.randrange(*limits)

    def _bytes(self) -> bytes:
        length = self._length()
        start = self.dice.randrange(len(self._noise) - length + 1)
        return self._noise[start : start + length]

    @contextlib.contextmanager
    def _writable(self, path: bytes, flags: int = 0) -> Iterator[int]:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _place(self, fd: int) -> int:
        return self.dice.randrange(os.fstat(fd).st_size + 20_000)

    # -- files -----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if len(self.files) > self.size.files:
            self._unlink()
        path = self._name()
        with open(path, "xb") as file:
            file.write(self._bytes())
            if self.dice.random() < 0.02:
                os.fsync(file.fileno())
        self.files.append(path)

    def _append(self) -> None:
        with self._writable(self._pick(), os.O_APPEND) as fd:
            os.write(fd, self._bytes())

    def _overwrite(self) -> None:
        with self._writable(self._pick()) as fd:
            os.pwrite(fd, self._bytes(), self._place(fd))

    def _scatter(self) -> None:
        """Make fragments and holes: every third block, written back in between."""
        with self._writable(self._pick()) as fd:
            for number in range(self.dice.randrange(2, 12)):
                os.pwrite(fd, self._noise[:4096], number * 3 * 4096)
                if number % 4 == 3:
                    os.fdatasync(fd)

    def _truncate(self) -> None:
        with self._writable(self._pick()) as fd:
            os.ftruncate(fd, self.dice.choice((0, 10, 4096, 6000, 200_000, self._place(fd))))

    def _rename(self) -> None:
        old, new = self._take(), self._pick() if self.dice.random() < 0.3 else self._name()
        os.rename(old, new)
        self.files.append(new)

    def _exchange(self) -> None:
        first, second = self._pick(), self._pick()
        _LIBC.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)

    def _unlink(self) -> None:
        os.unlink(self._take())

    def _punch(self) -> None:
        with self._writable(self._pick()) as fd:
            length = self.dice.choice((100, 4096, 8000, 100_000))
            fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, self._place(fd), length)

    def _allocate(self) -> None:
        with self._writable(self._pick()) as fd:
            mode = self.dice.choice((0, FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE))
            fallocate(fd, mode, self._place(fd), self.dice.choice((5000, 100_000)))
            if self.dice.random() < 0.5:
                os.pwrite(fd, self._noise[:5000], self._place(fd))

    def _shift(self) -> None:
        """Take blocks out of the middle of a file, or put some in: everything behind moves."""
        with self._writable(self._pick()) as fd:
            mode = self.dice.choice((FALLOC_COLLAPSE_RANGE, FALLOC_INSERT_RANGE))
            fallocate(fd, mode, self.dice.randrange(4) * 4096, self.dice.randrange(1, 4) * 4096)

    def _clone(self) -> None:
        """Share blocks (where the file system can), then write into one of the two."""
        path = self._name()
        with self._writable(self._pick()) as old, open(path, "x+b") as new:
            self.files.append(path)
            try:
                fcntl.ioctl(new.fileno(), FICLONE, old)
            except OSError:
                os.copy_file_range(old, new.fileno(), 1 << 20)
            os.pwrite(self.dice.choice((old, new.fileno())), self._bytes(), self._place(old))

    def _map(self) -> None:
        """Write through memory that stays mapped for a while, when the file itself is long closed."""
        while len(self._maps) >= _HELD:
            self._maps.pop(self.dice.randrange(len(self._maps))).close()
        with self._writable(self._pick()) as fd:
            if not os.fstat(fd).st_size:
                os.ftruncate(fd, 20_000)
            self._maps.append(mmap.mmap(fd, min(os.fstat(fd).st_size, 1 << 20)))
        for memory in self._maps:
            with contextlib.suppress(ValueError):
                # Only where the file still reaches: memory behind its end would kill this process.
                if memory.size() >= len(memory):
                    memory[self.dice.randrange(len(memory))] = self.dice.randrange(256)
        if self.dice.random() < 0.2:
            self._maps[0].flush()

    def _map_closed(self) -> None:
        """Write through memory to files that nobody has open and nobody else touches, also into their holes."""
        length = 200_000
        if len(self._bare) < _HELD // 2:
            with open(self._name(), "xb") as file:
                file.truncate(length)
                file.write(self._noise[: length // 3])
                file.flush()
                # Python's own mmap keeps the file open; this one does not.
                with open(file.name, "r+b") as again:
                    self._bare.append(_mapped(again.fileno(), length))
        for address in self._bare:
            ctypes.memset(address + self.dice.randrange(length), self.dice.randrange(256), 1)
        if self.dice.random() < 0.1:
            _LIBC.munmap(ctypes.c_void_p(self._bare.pop(0)), ctypes.c_size_t(length))

    def _hold(self) -> None:
        """Write to a file that stays open, perhaps without any name by now."""
        while len(self._open) >= _HELD:
            os.close(self._open.pop(self.dice.randrange(len(self._open))))
        self._open.append(os.open(self._pick(), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK))
        for fd in self._open:
            with contextlib.suppress(OSError):
                os.pwrite(fd, self._bytes(), self._place(fd))

    def _link(self) -> None:
        path = self._name()
        os.link(self._pick(), path, follow_symlinks=False)
        self.files.append(path)

    def _attributes(self) -> None:
        path = self.dice.choice((self._pick, self._pick, lambda: self.dice.choice(self.folders)))()
        dice = self.dice
        deed = dice.randrange(6)
        if deed == 0 and not os.path.islink(path):
            os.chmod(path, dice.choice((0o600, 0o644, 0o755, 0o4711, 0o1777, 0)))
        elif deed == 1:
            os.chown(path, dice.choice((0, 1, 12345, 3_000_000)), dice.choice((0, 33, 54321)), follow_symlinks=False)
        elif deed == 2:
            os.setxattr(path, dice.choice(("user.a", "user.b=c", "trusted.t")), dice.randbytes(dice.randrange(60)),
                        follow_symlinks=False)  # fmt: skip
        elif deed == 3:
            os.removexattr(path, "user.a", follow_symlinks=False)
        elif deed == 4:
            os.utime(path, ns=(0, dice.choice((0, 1, 999_999_999, 1_234_567_890_123_456_789, -5_000_000_001))),
                     follow_symlinks=False)  # fmt: skip
        else:
            os.setxattr(path, "system.posix_acl_access", _acl(dice.randrange(1, 1000)), follow_symlinks=False)

    def _special(self) -> None:
        path, sort = self._name(), self.dice.randrange(5)
        if sort == 0:
            os.mkfifo(path)
        elif sort == 1:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        elif sort == 2 and len(path) < 100:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as door:
                door.bind(path)
        else:
            os.symlink(self.dice.choice((self._pick(), b"nowhere", b"/" + b"t" * 150, b"../odd \xff\n")), path)
        self.files.append(path)

    def _replace_as_databases_do(self) -> None:
        """Write a new file beside, make it durable, put it in the place of the old one, make the folder durable."""
        path = self._pick()
        beside = self._name()
        with open(beside, "xb") as file:
            file.write(self._bytes())
            os.fsync(file.fileno())
        os.rename(beside, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _large(self) -> None:
        """A page here and there of the large file, and of the one that is nearly all hole."""
        for name in (b"/large", b"/sparse"):
            with self._writable(self.root + name) as fd:
                for _dummy in range(4):
                    os.pwrite(fd, self._noise[:8192], self.dice.randrange(os.fstat(fd).st_size // 8192) * 8192)

    # -- folders ---------------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        self._number += 1
        parent = self.dice.choice(self.folders)
        if parent.count(b"/") > self.root.count(b"/") + 8:
            parent = self.root
        name = self.dice.choice((b"", *_ODD[:15])) if self.dice.random() < 0.3 else b""
        path = parent + b"/d" + name + b"%d" % self._number
        os.mkdir(path)
        self.folders.append(path)
        if self.dice.random() < 0.1:
            os.setxattr(path, "system.posix_acl_default", _acl(7))

    def _move_folder(self) -> None:
        if len(self.folders) < 3:
            return
        old = self.dice.choice(self.folders[1:])
        self._number += 1
        new = self.dice.choice(self.folders) + b"/m%d" % self._number
        os.rename(old, new)
        for paths in (self.files, self.folders):
            paths[:] = [
                new + path[len(old) :] if path == old or path.startswith(old + b"/") else path for path in paths
            ]

    def _remove_folder(self) -> None:
        """A folder that happens to hold little, with all that is in it."""
        path = self.dice.choice(self.folders)
        found = sum(len(names) for _folder, _folders, names in os.walk(path))
        if path == self.root or found > self.size.files // 200:
            return
        shutil.rmtree(path)
        for paths in (self.files, self.folders):
            paths[:] = [other for other in paths if not (other + b"/").startswith(path + b"/")]


def _mapped(fd: int, length: int) -> int:
    """mmap(2) of a file, shared, for reading and writing; returns the address."""
    _LIBC.mmap.restype = ctypes.c_void_p
    address = _LIBC.mmap(None, ctypes.c_size_t(length), 3, 1, fd, ctypes.c_long(0))
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def _acl(user: int) -> bytes:
    """A posix_acl attribute with an entry for one user; linux/posix_acl_xattr.h."""
    none = 0xFFFFFFFF
    entries = ((1, 6, none), (2, 5, user), (4, 4, none), (0x10, 7, none), (0x20, 0, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _work(root: Path, seed: int, size: Size, ready: Any, stop: Any) -> None:
    parent = os.getppid()
    load = Load(root, seed, size)
    load.populate()
    ready.set()
    began, steps = time.monotonic(), 0
    while not stop.is_set() and os.getppid() == parent:
        for _dummy in range(_BURST):
            load.step()
        steps += _BURST
        ahead_s = began + steps / size.pace - time.monotonic()
        if ahead_s > 0:
            stop.wait(ahead_s)
        else:
            began, steps = time.monotonic(), 0
    load.close()


def _defragment(mount: Path, fs_type: str, seed: int, stop: Any) -> None:
    """Move the blocks of files that are in pieces, which changes no time and gives no event."""
    parent = os.getppid()
    dice = random.Random(seed)
    tool = {"xfs": ["xfs_fsr"], "ext4": ["e4defrag"]}[fs_type]
    if shutil.which(tool[0]) is None:
        return
    while not stop.is_set() and os.getppid() == parent:
        files = []
        for folder, _folders, names in os.walk(os.fsencode(mount)):
            # A fifo would make the tools wait.
            files += [path for name in names if stat.S_ISREG(_mode(path := os.path.join(folder, name)))]
            if len(files) > 20_000:
                break
        for _dummy in range(20):
            if files and not stop.is_set():
                chosen = dice.sample(files, min(20, len(files)))
                subprocess.run([*tool, *chosen], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        stop.wait(0.2)


def _mode(path: bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


@contextlib.contextmanager
def under_load(mount: Path, fs_type: str, seed: int, size: Size, processes: int = 2) -> Iterator[Path]:
    """Fill the folder ``data`` of a mount, then keep the load going inside; yields that folder."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    root = mount / "data"
    root.mkdir()
    share = Size(size.files // processes, size.large_bytes // processes, size.sparse_bytes, size.pace // processes)
    ready = [context.Event() for _dummy in range(processes)]
    workers = [
        context.Process(target=_work, args=(root / f"load {number}", seed * 1000 + number, share, ready[number], stop))
        for number in range(processes)
    ]
    workers.append(context.Process(target=_defragment, args=(mount, fs_type, seed, stop)))
    try:
        for worker in workers[:-1]:
            worker.start()
        for worker, event in zip(workers, ready):
            while not event.wait(0.2):
                assert worker.is_alive(), "a process of the load died while it filled the file system"
        workers[-1].start()
        yield root
        assert all(worker.is_alive() for worker in workers[:-1]), "a process of the load died"
    finally:
        stop.set()
        for worker in workers:
            if worker.pid is not None:
                worker.join()
