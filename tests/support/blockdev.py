# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real loop devices and file systems for tests; all of it goes away again, also when a test fails."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


def run(*command: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it; a failure raises with its stderr in the message."""
    words = [os.fspath(word) for word in command]
    done = subprocess.run(words, text=True, capture_output=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done  # type: ignore[no-any-return]


@contextlib.contextmanager
def loop_device(image: Path, *, read_only: bool = False, direct_io: bool = True) -> Iterator[str]:
    """Attach an image file to a loop device and yield the device's path."""
    command = ["losetup", "--find", "--show", f"--direct-io={'on' if direct_io else 'off'}"]
    if read_only:
        command.append("--read-only")
    device = run(*command, image).stdout.strip()
    try:
        if not read_only:
            # A flag that was set on the device before may have outlived the detach (seen on Linux 6.18).
            run("blockdev", "--setrw", device)
        yield device
    finally:
        run("losetup", "--detach", device)


class _Partition(ctypes.Structure):
    """struct blkpg_partition of <linux/blkpg.h>."""

    _fields_ = [
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("pno", ctypes.c_int),
        ("devname", ctypes.c_char * 64),
        ("volname", ctypes.c_char * 64),
    ]


class _PartitionCall(ctypes.Structure):
    """struct blkpg_ioctl_arg of <linux/blkpg.h>."""

    _fields_ = [
        ("op", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("datalen", ctypes.c_int),
        ("data", ctypes.POINTER(_Partition)),
    ]


_BLKPG, _ADD, _DELETE = 0x1269, 1, 2


@contextlib.contextmanager
def partition(disk: str, number: int, start_bytes: int, length_bytes: int) -> Iterator[str]:
    """Tell the kernel of a partition, without a table on the disk, and yield its device's path."""

    def call(op: int) -> None:
        part = _Partition(start_bytes, length_bytes, number)
        with open(disk, "rb") as device:
            fcntl.ioctl(device, _BLKPG, _PartitionCall(op, 0, ctypes.sizeof(part), ctypes.pointer(part)))

    call(_ADD)
    try:
        yield f"{disk}p{number}"
    finally:
        call(_DELETE)


@contextlib.contextmanager
def mounted(device: str, folder: Path, *options: str) -> Iterator[Path]:
    """Mount a device on a folder (made if missing) and yield the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount"]
    if options:
        words += ["-o", ",".join(options)]
    run(*words, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def make_image(path: Path, size_mib: int, fs_type: str = "") -> Path:
    """Make a sparse image file, with a file system on it if one is named (``xfs`` or ``ext4``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as image:
        image.truncate(size_mib << 20)
    if fs_type == "xfs":
        run("mkfs.xfs", "-q", "-f", path)
    elif fs_type == "ext4":
        run("mkfs.ext4", "-q", "-F", path)
    elif fs_type:
        run(f"mkfs.{fs_type}", path)
    return path


#: XFS refuses to be made smaller than this.
XFS_MIN_MIB = 300
