# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What providers need of the host when it is the array itself: its tools, and its block devices."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from typing import NamedTuple

from .base import MirrorError

#: From linux/fs.h: set or clear the read-only flag of a block device.
BLKROSET = 0x125D
#: /sys/dev/block/*/stat counts in these units whatever the device's own, see Documentation/block/stat.rst.
STAT_SECTOR_BYTES = 512


def run_tool(*command: str) -> str:
    """Run a tool of the array to its end and return its output. It is never killed: that could leave I/O suspended.

    :raises MirrorError: it is not there, or it failed; with its own words.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, "LC_ALL": "C", "PATH": path, "LVM_SUPPRESS_FD_WARNINGS": "1"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
        )
    except FileNotFoundError as exc:
        raise MirrorError(f"{command[0]}: it is not installed on this host, and the provider works by it.") from exc
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise MirrorError(f"{' '.join(command)}: {words}")
    return done.stdout


def kernel_device(number: str) -> str:
    """The device node that the kernel itself makes. :param number: ``major:minor``."""
    return "/dev/" + os.path.basename(os.path.realpath(f"/sys/dev/block/{number}"))


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
        raise MirrorError(f"{device}: its read-only flag cannot be changed ({exc.strerror}).") from exc


class Written(NamedTuple):
    """Bytes written to a device. :param disk: tells this device from a later one with its number."""

    disk: str
    bytes: int


def written(number: str) -> Written:
    """What was written to a block device so far. :param number: ``major:minor``."""
    folder = f"/sys/dev/block/{number}"
    with open(f"{folder}/stat", encoding="ascii") as stream:
        count = int(stream.read().split()[6]) * STAT_SECTOR_BYTES
    try:
        with open(f"{folder}/diskseq", encoding="ascii") as stream:
            return Written(stream.read().strip(), count)
    except FileNotFoundError:  # before Linux 5.15
        return Written("", count)


def written_between(before: Written, after: Written) -> int:
    """Bytes written from one look to the next; a device that was made anew has counted from nothing."""
    if before.disk == after.disk and before.bytes <= after.bytes:
        return after.bytes - before.bytes
    return after.bytes
