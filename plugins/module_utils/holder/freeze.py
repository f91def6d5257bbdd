# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Freeze and thaw mounted file systems, and refuse those that must never be frozen.

ioctl_fsfreeze is in <linux/fs.h>. Its errors are in the kernel's fs/super.c: EBUSY for a file system that is frozen
already, EINVAL for the thaw of one that is not frozen.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Optional, Sequence

from ..errors import SplitMirrorError
from ..extents.stack import Mount, read_mounts
from ..session import StateDir
from .nested_mounts import lies_on

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
MAX_MOUNTS = 100

# Code is loaded from these, Ansible puts modules there, logs are written there. With one of them frozen, no task could
# thaw it.
SYSTEM_FOLDERS = ("/", "/usr", "/etc", "/run", "/var", "/var/log", "/var/tmp", "/tmp", "/home", "/root")  # noqa: S108

_LIBC = ctypes.CDLL(None, use_errno=True)


class FreezeError(SplitMirrorError):
    """A file system that must not or cannot be frozen or thawed."""

    code = "freeze_refused"


class FrozenBySomeoneElse(FreezeError):
    """A file system that somebody else has frozen, so that this freeze must not thaw it."""

    code = "frozen_by_others"


@dataclass(frozen=True)
class Needed:
    """A folder that must stay writable. :param path: of the folder. :param reason: for the message."""

    path: str
    reason: str


def state_needed(state: StateDir, needed: Sequence[Needed]) -> list[Needed]:
    """All folders that are never frozen besides the system's own."""
    return [Needed(state.root, "the state folder of the sessions"), *needed]


def ansible_folders(remote_tmp: Optional[str]) -> list[Needed]:
    """The folders that Ansible works in on this host. :param remote_tmp: the setting, which may begin with ``~``."""
    reason = "where Ansible puts its modules"
    return [Needed(os.path.expanduser(remote_tmp or "~/.ansible/tmp"), reason), Needed(tempfile.gettempdir(), reason)]


def check_mounts(mounts: Sequence[str], needed: Sequence[Needed], swaps: str = "/proc/swaps") -> list[Mount]:
    """Return the mounts in the order in which they are frozen, each file system once.

    :param mounts: mount points. :param needed: what must stay writable besides the system's own folders.
    :raises FreezeError: one of them is not a mount point, not local, or must stay writable.
    """
    if len(mounts) > MAX_MOUNTS:
        raise FreezeError(
            f"mounts: {len(mounts)} file systems are too many; at most {MAX_MOUNTS} can be frozen together.",
            "mounts",
            code="option_invalid",
        )
    known = {os.fsdecode(mount.mount_point): mount for mount in read_mounts()}
    writable = [Needed(path, "which the system and Ansible need") for path in SYSTEM_FOLDERS]
    writable += list(needed) + [Needed(path, "which is swapped to") for path in _swap_files(swaps)]
    kept: dict[int, Mount] = {}
    for path in sorted(os.path.realpath(mount) for mount in mounts):
        mount = known.get(path)
        if mount is None:
            raise FreezeError(
                f"mounts: {path} is not a mount point; name the mount point above it.", "mounts", code="option_invalid"
            )
        _check_local(path, mount.fs_type)
        for other in writable:
            if _device(other.path) == mount.dev:
                raise FreezeError(
                    f"mounts: {path} is never frozen: it contains {other.path}, {other.reason}; put the data on a file "
                    "system of its own.",
                    option="mounts",
                )
        kept.setdefault(mount.dev, mount)
    for upper in kept.values():
        for lower in (kept[dev] for dev in lies_on(upper.dev) if dev in kept):
            raise FreezeError(
                f"mounts: {os.fsdecode(upper.mount_point)} lies in a file on {os.fsdecode(lower.mount_point)}; the two "
                "would wait for each other, so they are not frozen together: leave one out.",
                option="mounts",
            )
    return list(kept.values())


def _check_local(path: str, fs_type: str) -> None:
    with open("/proc/filesystems", encoding="ascii") as stream:
        without_device = {line.split()[1] for line in stream if line.startswith("nodev")}
    if fs_type in without_device or fs_type.startswith("fuse"):
        raise FreezeError(
            f"mounts: {path} is {fs_type}, which is not on a local block device and is never frozen; leave it out.",
            option="mounts",
        )


def _device(path: str) -> Optional[int]:
    """The device of a folder. For one that does not exist yet it is that of the nearest folder above it."""
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            parent = os.path.dirname(path)
            if parent == path:
                return None
            path = parent


def _swap_files(swaps: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), open(swaps, encoding="utf-8") as stream:
        rows = [line.split() for line in stream.readlines()[1:]]
        return [_unescape(row[0]) for row in rows if row[1] == "file"]
    return []


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), word)


def open_mount(mount: Mount) -> int:
    """Open a mount point for the functions below; the caller closes it."""
    try:
        return os.open(mount.mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise FreezeError(f"mounts: {os.fsdecode(mount.mount_point)} cannot be opened ({exc.strerror}).") from exc


def sync(fd: int) -> None:
    """Write out what the file system has in memory (syncfs(2)), so that the freeze has little left to write."""
    if _LIBC.syncfs(fd):
        number = ctypes.get_errno()
        raise FreezeError(f"mounts: the file system cannot be written out ({os.strerror(number)}).")


def freeze(fd: int, name: str) -> None:
    """Stop all writes of a file system, and write out what is in memory.

    :raises FrozenBySomeoneElse: it is frozen already.
    :raises FreezeError: it cannot be frozen.
    """
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise FrozenBySomeoneElse(
                f"mounts: {name} is already frozen by someone else; let them thaw it first (fsfreeze --unfreeze)."
            ) from exc
        raise FreezeError(
            f"mounts: {name} cannot be frozen ({exc.strerror}); that needs root, and ext4 or XFS."
        ) from exc


def thaw(fd: int) -> bool:
    """Let writes go on.

    :returns: False when it was not frozen.
    :raises OSError: any other error of the kernel; try again.
    """
    try:
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return False
        raise
    return True
