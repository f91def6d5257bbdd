# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Loop devices over image files, found by the file itself (device and inode), never by a remembered name."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from ..host.blockdev import SETTLE_S, users
from ..host.tools import run_program
from .base import MirrorError


@dataclass(frozen=True)
class LoopDevice:
    """One attached loop device. :param backing: major, minor and inode of the image file."""

    path: str
    backing: tuple[int, int, int]
    read_only: bool


def loop_devices() -> list[LoopDevice]:
    """All attached loop devices."""
    text = _losetup("--list", "--json", "--output", "NAME,BACK-INO,BACK-MAJ:MIN,RO")
    if not text.strip():
        return []
    devices = []
    for row in json.loads(text)["loopdevices"]:
        major, _colon, minor = str(row["back-maj:min"]).strip().partition(":")
        if minor:  # a device that is being detached has none
            # Numbers and booleans came as strings before util-linux 2.33 or so.
            backing = (int(major), int(minor), int(row["back-ino"]))
            devices.append(LoopDevice(row["name"], backing, row["ro"] in (True, "1")))
    return devices


def loops_of(path: str) -> list[LoopDevice]:
    """The loop devices of this file; none if the file does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return []
    except OSError:  # it is of a FUSE server that died, and can be told from others by its name alone
        return [device for device in loop_devices() if _backing_name(device.path) == path]
    backing = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    return [device for device in loop_devices() if device.backing == backing]


def _backing_name(device: str) -> str:
    try:
        with open(f"/sys/class/block/{os.path.basename(device)}/loop/backing_file", "rb") as stream:
            return os.fsdecode(stream.read().rstrip(b"\n"))
    except FileNotFoundError:  # it was detached meanwhile
        return ""


def attach(path: str, sector_bytes: int = 512, offset_bytes: int = 0, size_bytes: int = 0) -> str:
    """Attach a file or a block device as a read-only loop device; return the loop device.

    :param offset_bytes: where in the file the device begins.
    :param size_bytes: how long the device is; 0 for up to the end.

    Direct I/O is requested. The kernel silently does without it if the sectors are smaller than what the file accepts:
    files that share blocks on XFS need whole blocks (seen on Linux 6.18). Such a device reads through the page cache of
    the image, which cannot be stale, because a clone never changes. The sector size is always given: otherwise the
    kernel would choose 4096 in this case, and an XFS that was made on 512-byte sectors could not be mounted.

    :raises MirrorError: losetup failed.
    """
    options = ["--read-only", "--direct-io=on", f"--sector-size={sector_bytes}"]
    options += [f"--offset={offset_bytes}", f"--sizelimit={size_bytes}"]
    return _losetup("--find", "--show", *options, "--", path).strip()


def sector_bytes(path: str) -> int:
    """The logical sector size of the loop device of a file; 512, the usual one, if the file is not attached."""
    for device in loops_of(path):
        with open(f"/sys/class/block/{os.path.basename(device.path)}/queue/logical_block_size", "rb") as stream:
            return int(stream.read())
    return 512


def detach(device: str, path: str) -> None:
    """Detach the loop device of a file, and wait until it is gone.

    :raises MirrorError: somebody has opened it, so it stays attached.
    """
    _losetup("--detach", device)
    deadline = time.monotonic() + SETTLE_S
    while any(loop.path == device for loop in loops_of(path)):
        if time.monotonic() > deadline:
            raise MirrorError(
                f"{device}: it is in use by {'; '.join(users(device)) or 'somebody'} and stays attached.",
                code="mirror_in_use",
            )
        time.sleep(0.05)


def _losetup(*words: str) -> str:
    try:
        done = run_program(["losetup", *words])
    except FileNotFoundError as exc:
        raise MirrorError("losetup: it is not installed; install util-linux.", code="host_program") from exc
    if done.returncode:
        raise MirrorError(f"losetup {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
