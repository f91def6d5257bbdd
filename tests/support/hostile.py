# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trees such as a malicious or unlucky user makes, as repeatable as their dice, and a process that goes on making them.

Folders may lie deeper than the kernel takes a path, so everything here goes by descriptors of folders.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import resource
import signal
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import MOST_PATH_BYTES
from ansible_collections.splitmirror.backup.tests.support.fsload import FALLOC_KEEP_SIZE, fallocate

_F_SETLEASE = 1024
_MNT_DETACH = 2
_USER = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)
#: The largest files: 2**32 - 1 blocks on ext4, of 1024 bytes as mkfs makes them on small devices; 8 EiB on XFS.
LARGEST = {"ext4": (1 << 42) - 1024, "xfs": (1 << 63) - 1}


class Hostile:
    """A tree below ``root``; ``unreadable`` are the paths of it that cannot be backed up."""

    def __init__(self, root: Path, kind: str, dice: random.Random, most_sparse_bytes: int) -> None:
        self.root = root
        self.dice = dice
        self.unreadable: set[bytes] = set()
        self._largest = min(LARGEST[kind], most_sparse_bytes)
        self._held = contextlib.ExitStack()
        self._number = 0

    def make(self) -> None:
        """Make some of all sorts of things."""
        self.root.mkdir()
        deeds: list[Callable[[Path], None]] = [
            self._names,
            self._long_names,
            self._deep,
            self._narrow,
            self._too_deep,
            self._sparse,
            self._fuse,
            self._fuse_on_a_file,
            self._leases,
            self._no_files,
            self._links,
            self._attributes,
            self._many,
            self._extents,
        ]
        for deed in self.dice.sample(deeds, self.dice.randint(5, len(deeds))):
            self._number += 1
            folder = self.root / f"{self._number}{deed.__name__}"
            folder.mkdir()
            deed(folder)

    def make_sparse_only(self) -> None:
        """Make large sparse files alone."""
        self.root.mkdir()
        self._sparse(self.root)

    def let_go(self) -> None:
        """Give up leases and mounts."""
        self._held.close()

    def _bytes(self) -> bytes:
        return self.dice.randbytes(self.dice.choice((0, 1, 512, 5000, 20_000)))

    def _file(self, folder: int, name: bytes) -> None:
        fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder)
        with open(fd, "wb") as file:
            file.write(self._bytes())

    def _names(self, folder: Path) -> None:
        with _opened(folder) as fd:
            for number in range(1, 256):
                if number not in b"/.":
                    self._file(fd, bytes([number]))
            for _dummy in range(20):
                name = self.dice.randbytes(self.dice.randint(3, 255)).replace(b"/", b"x").replace(b"\0", b"\n")
                self._file(fd, name)

    def _long_names(self, folder: Path) -> None:
        with _opened(folder) as fd:
            for name in (b"n" * 255, "\u00fc".encode() * 127, b"\xff" * 255, b" ", b"-rf *", b"..."):
                self._file(fd, name)

    def _chain(self, folder: Path, names: list[bytes]) -> None:
        """Folders in one another, with a file and a link in each fifth and in the last, which has a lease, too."""
        inner = os.open(folder, os.O_RDONLY)
        for number, name in enumerate(names):
            os.mkdir(name, dir_fd=inner)
            outer, inner = inner, os.open(name, os.O_RDONLY, dir_fd=inner)
            os.close(outer)
            if number % 5 == 0 or number == len(names) - 1:
                self._file(inner, b"file")
                os.symlink("../..", "link", dir_fd=inner)
        self._file(inner, b"leased")
        self._held.enter_context(lease(Path(f"/proc/self/fd/{inner}/leased"), fcntl.F_WRLCK))
        os.close(inner)

    def _deep(self, folder: Path) -> None:
        self._chain(folder, [b"d" * 255] * self.dice.choice((15, 17, 40)))

    def _narrow(self, folder: Path) -> None:
        self._chain(folder, [b"d"] * self.dice.choice((500, 2100)))

    def _too_deep(self, folder: Path) -> None:
        names = [b"t" * 250] * 70
        self._chain(folder, names)
        path = os.fsencode(folder)
        while len(path) <= MOST_PATH_BYTES - 255:
            path += b"/" + names.pop()
        self.unreadable.add(path)

    def _sparse(self, folder: Path) -> None:
        for size in (self._largest, self._largest // 3 * 2, 1 << 20):
            with open(folder / f"sparse-{size}", "wb") as file:
                file.truncate(size)
                for place in (0, size // 2, size - 4000):
                    if self.dice.random() < 0.7:
                        os.pwrite(file.fileno(), self._bytes()[:4000], place)
        with open(folder / "allocated", "wb") as file:
            file.write(b"a")
            file.flush()
            fallocate(file.fileno(), FALLOC_KEEP_SIZE, 0, 1 << 20)

    def _fuse(self, folder: Path) -> None:
        (folder / "mnt").mkdir()
        (folder / "mnt/below").write_bytes(b"hidden by the mount")
        self._mount(folder / "mnt", stat.S_IFDIR)

    def _fuse_on_a_file(self, folder: Path) -> None:
        (folder / "file").write_bytes(b"hidden by the mount")
        self._mount(folder / "file", stat.S_IFREG)

    def _mount(self, path: Path, kind: int) -> None:
        self._held.enter_context(fuse_mount(path, kind))
        self.unreadable.add(os.fsencode(path))

    def _leases(self, folder: Path) -> None:
        for name in ("written", "read"):
            (folder / name).write_bytes(self._bytes())
        (folder / "locked").write_bytes(b"locked")
        fcntl.flock(self._held.enter_context(_opened(folder / "locked", os.O_RDWR)), fcntl.LOCK_EX)
        for name, kind in (("written", fcntl.F_WRLCK), ("read", fcntl.F_RDLCK)):
            self._held.enter_context(lease(folder / name, kind))

    def _no_files(self, folder: Path) -> None:
        os.mkfifo(folder / "fifo")
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(folder / "nowhere", stat.S_IFBLK | 0o666, os.makedev(259, 12345))
        bind(folder / "socket")
        (folder / "empty").mkdir()

    def _links(self, folder: Path) -> None:
        (folder / "loop").symlink_to("loop")
        (folder / "up").symlink_to("../../../../../../../etc")
        os.symlink(self.dice.randbytes(1000).replace(b"\0", b"\n"), os.fsencode(folder) + b"/odd target")
        (folder / "first").write_bytes(self._bytes())
        for number in range(50):
            os.link(folder / "first", folder / f"hard-{number}")

    def _attributes(self, folder: Path) -> None:
        for number, mode in enumerate((0, 0o7777, 0o4000, 0o1111)):
            path = folder / f"mode-{number}"
            path.write_bytes(self._bytes())
            os.chown(path, self.dice.choice((0, _USER, (1 << 32) - 2)), _USER)
            path.chmod(mode)
            os.utime(path, ns=(0, self.dice.choice((-(1 << 31), 0, (1 << 31) + 1, 9_999_999_999)) * 10**9 + 1))
            with contextlib.suppress(OSError):
                os.setxattr(path, f"user.{'x' * self.dice.randint(1, 200)}", self.dice.randbytes(1000))

    def _many(self, folder: Path) -> None:
        with _opened(folder) as fd:
            for number in range(self.dice.choice((10, 1500))):
                self._file(fd, b"%d" % number)

    def _extents(self, folder: Path) -> None:
        with open(folder / "pieces", "wb") as file:
            for number in range(300):
                os.pwrite(file.fileno(), b"p" * 4096, number * 3 * 4096)


class Mutator:
    """Changes all the time what is below its folder, in kind, place and name."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self._root = root
        self._dice = dice
        (root / "away").mkdir(parents=True)
        for number in range(30):
            (root / f"n{number}").write_bytes(b"begin")

    def step(self) -> None:
        """Do one thing; what cannot be done is not."""
        deeds = (self._write, self._write, self._turn, self._turn, self._swap, self._rename, self._chain, self._lease)
        with contextlib.suppress(OSError):
            self._dice.choice(deeds)()

    def _pick(self) -> Path:
        return self._root / f"n{self._dice.randrange(30)}"

    def _write(self) -> None:
        with open(os.open(self._pick(), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW), "wb") as file:
            file.truncate(self._dice.randrange(10_000))
            file.write(self._dice.randbytes(self._dice.choice((10, 6000, 30_000))))

    def _turn(self) -> None:
        """Make a name something else."""
        path = self._pick()
        if path.is_dir() and not path.is_symlink():
            path.rename(self._root / "away" / f"{self._dice.randrange(50)}")
        else:
            path.unlink(missing_ok=True)
        makers: tuple[Callable[[], Any], ...] = (
            lambda: path.write_bytes(self._dice.randbytes(5000)),
            lambda: (path / "deep").mkdir(parents=True),
            lambda: path.symlink_to(self._dice.choice(("/etc", "n1", "nowhere", "away"))),
            lambda: os.mkfifo(path),
            lambda: bind(path),
        )
        self._dice.choice(makers)()

    def _swap(self) -> None:
        """Exchange two names at once, whatever they are (renameat2(2), RENAME_EXCHANGE)."""
        _LIBC.renameat2(-100, os.fsencode(self._pick()), -100, os.fsencode(self._pick()), 2)

    def _rename(self) -> None:
        self._pick().rename(self._pick() / "moved" if self._dice.random() < 0.5 else self._pick())

    def _chain(self) -> None:
        path = self._root / "/".join(["c" * 200] * self._dice.randint(1, 12))
        path.mkdir(parents=True, exist_ok=True)
        (path / f"f{self._dice.randrange(5)}").write_bytes(self._dice.randbytes(100))

    def _lease(self) -> None:
        with lease(self._pick(), fcntl.F_WRLCK):
            self._write()


@contextlib.contextmanager
def hostile_tree(root: Path, kind: str, seed: int, most_sparse_bytes: int = 1 << 63) -> Iterator[Hostile]:
    """Such a tree on a file system of this kind (xfs, ext4), with its leases and mounts for as long as this lasts."""
    made = Hostile(root, kind, random.Random(seed), most_sparse_bytes)
    try:
        made.make()
        yield made
    finally:
        made.let_go()


@contextlib.contextmanager
def fuse_mount(path: Path, kind: int = stat.S_IFDIR) -> Iterator[None]:
    """A FUSE mount of another user that nobody serves, as fusermount makes it: root is kept out."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode={kind:o},user_id={_USER},group_id={_USER}"
        if _LIBC.mount(b"hostile", os.fsencode(path), b"fuse.hostile", 6, options.encode()):  # nosuid, nodev
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        try:
            yield
        finally:
            _LIBC.umount2(os.fsencode(path), _MNT_DETACH)
    finally:
        os.close(device)


@contextlib.contextmanager
def lease(path: Path, kind: int) -> Iterator[None]:
    """A lease that is not given up when somebody else opens the file (fcntl(2), F_SETLEASE)."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, (os.O_RDONLY if kind == fcntl.F_RDLCK else os.O_RDWR) | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.fcntl(fd, _F_SETLEASE, kind)
        yield
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def bind(path: Path) -> None:
    """Leave a socket behind."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as door, _opened(path.parent) as folder:
        door.bind(f"/proc/self/fd/{folder}/{path.name}")


class Seen(NamedTuple):
    """What a tree or an archive says of a path; ``data`` are the stored parts of a regular file, joined."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: object
    data: object


def look(root: Path, called: bytes) -> dict[bytes, Seen]:
    """A tree that is mounted read-only, by paths as they are called; sockets are left away."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[bytes, Seen] = {}
    top = os.open(root, os.O_RDONLY)
    found[called] = _see(top, b".")
    open_folders = [(top, called, iter(os.listdir(top)))]
    while open_folders:
        folder, path, names = open_folders[-1]
        text = next(names, None)
        if text is None:
            os.close(folder)
            open_folders.pop()
            continue
        name = os.fsencode(text)
        seen = _see(folder, name)
        if seen.kind == "s":
            continue
        found[path + b"/" + name] = seen
        if seen.kind == "d":
            inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            open_folders.append((inner, path + b"/" + name, iter(os.listdir(inner))))
    return found


_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


def _see(folder: int, name: bytes) -> Seen:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    target: object = None
    data: object = None
    size = 0
    if kind == "l":
        target = os.readlink(name, dir_fd=folder)
    elif kind in "cb":
        target = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif kind == "f":
        size = status.st_size
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            data = without_zeros((place, os.pread(fd, length, place)) for place, length in _stored(fd, size))
        finally:
            os.close(fd)
    mode = stat.S_IMODE(status.st_mode)
    return Seen(kind, mode, status.st_uid, status.st_gid, status.st_mtime_ns, size, target, data)


def _stored(fd: int, size: int) -> Iterator[tuple[int, int]]:
    place = 0
    while place < size:
        try:
            place = os.lseek(fd, place, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, place, os.SEEK_HOLE)
        yield place, end - place
        place = end


def without_zeros(parts: Iterator[tuple[int, bytes]]) -> dict[int, bytes]:
    """By place, pieces of 512 bytes that are not all zeros: these are the same wherever a hole is told to begin."""
    found = {}
    for place, data in parts:
        assert place % 512 == 0 or not data
        for begin in range(0, len(data), 512):
            piece = data[begin : begin + 512].rstrip(b"\0")
            if piece:
                found[place + begin] = piece
    return found


def read_archive(path: Path) -> dict[bytes, Seen]:
    """An archive as Python's tarfile reads it, by absolute paths; the index is left away."""
    found: dict[bytes, Seen] = {}
    kinds = {tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.CHRTYPE: "c"}
    kinds.update({tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p", tarfile.GNUTYPE_SPARSE: "f"})
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive, open(path, "rb") as stream:
        for member in archive:
            name = b"/" + os.fsencode(member.name)
            if name.startswith(b"/.splitmirror"):
                continue
            if member.islnk():
                found[name] = found[b"/" + os.fsencode(member.linkname)]
                continue
            kind = kinds[member.type]
            target: object = None
            data: object = None
            if kind == "l":
                target = os.fsencode(member.linkname)
            elif kind in "cb":
                target = (member.devmajor, member.devminor)
            elif kind == "f":
                stream.seek(member.offset_data)
                sparse: Any = member.sparse
                parts = [(0, member.size)] if sparse is None else sparse
                data = without_zeros((place, stream.read(length)) for place, length in parts)
            mtime = Decimal(member.pax_headers.get("mtime", member.mtime))
            size = member.size if kind == "f" else 0
            found[name] = Seen(kind, member.mode, member.uid, member.gid, int(mtime * 10**9), size, target, data)
    return found


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
