# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices of this host: their names, who uses them, whether they take writes, what is cached of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time

from ..errors import SplitMirrorError

#: From linux/fs.h: set or clear the read-only flag of a block device, and throw away what is cached of it.
BLKROSET = 0x125D
BLKFLSBUF = 0x1261
#: How long those who look at a new device (udev, blkid) may need to let go of it.
SETTLE_S = 5.0


class BlockDeviceError(SplitMirrorError):
    """A block device that cannot be used as asked."""

    code = "device_failed"


def kernel_device(number: str) -> str:
    """The device node that the kernel itself makes. :param number: ``major:minor``."""
    return "/dev/" + os.path.basename(os.path.realpath(f"/sys/dev/block/{number}"))


def sector_bytes(device: str) -> int:
    """The logical sector size of a block device. :raises BlockDeviceError: there is none of that name."""
    name = os.path.basename(os.path.realpath(device))
    try:
        with open(f"/sys/class/block/{name}/queue/logical_block_size", encoding="ascii") as stream:
            return int(stream.read())
    except OSError as exc:
        raise BlockDeviceError(f"{device} is not a block device of this host.") from exc


def plain_identifier(name: str) -> str:
    """A serial number or WWN without its type in front, in small letters: some write it, some do not."""
    text = name.strip().lower()
    for prefix in ("naa.", "eui.", "t10.", "uuid.", "0x"):
        if text.startswith(prefix):
            return text[len(prefix) :].strip()
    return text


def is_read_only(number: str) -> bool:
    """Whether a block device refuses writes. :param number: ``major:minor``."""
    with open(f"/sys/dev/block/{number}/ro", encoding="ascii") as stream:
        return stream.read().strip() == "1"


def set_read_only(device: str, read_only: bool) -> None:
    """Let a block device refuse writes, or take them again."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, BLKROSET, struct.pack("i", read_only))
        finally:
            os.close(fd)
    except OSError as exc:
        raise BlockDeviceError(f"{device}: its read-only flag cannot be changed ({exc.strerror}).") from exc


def drop_cache(device: str) -> None:
    """Throw away what the kernel caches of a block device.

    :raises BlockDeviceError: it cannot be opened, or is none.
    """
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, BLKFLSBUF, 0)
        finally:
            os.close(fd)
    except OSError as exc:
        raise BlockDeviceError(f"{device}: its cache cannot be dropped ({exc.strerror}).") from exc


def users(device: str) -> list[str]:
    """Who uses a block device now: a mount or another kernel user, and every process that has it open."""
    found = []
    try:
        # O_EXCL without O_CREAT on a block device fails when a file system or dm/md holds it, see open(2).
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise BlockDeviceError(f"{device}: it cannot be opened ({exc.strerror}).") from exc
        found.append(_mount_of(device) or "the kernel (a mount in another namespace, or device mapper)")
    return found + processes_with(device)


def busy_users(device: str) -> list[str]:
    """As users, but gives those who look only for a moment the time to go away."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = users(device)
        if not found or time.monotonic() > deadline or any(name.startswith("mount ") for name in found):
            return found
        time.sleep(0.05)


def _mount_of(device: str) -> str:
    number = os.stat(device).st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        points = [fields[4] for fields in map(str.split, stream) if fields[2] == wanted]
    return f"mount {', '.join(points)}" if points else ""


def processes_with(device: str) -> list[str]:
    """The processes that have a block device open. The device itself is not asked for anything."""
    rdev = os.stat(device).st_rdev
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # the process ended meanwhile
            if any(_is_device(f"/proc/{pid}/fd/{fd}", rdev) for fd in os.listdir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    found.append(f"process {pid} ({comm.read().strip()})")
    return found


def _is_device(link: str, rdev: int) -> bool:
    try:
        # The link is read first: stat on a descriptor of a dead network file system would hang.
        if not os.readlink(link).startswith("/dev/"):
            return False
        status = os.stat(link)
    except OSError:  # closed meanwhile
        return False
    return stat.S_ISBLK(status.st_mode) and status.st_rdev == rdev
