# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that a FUSE server shows in place of an empty file of ours, and read-only loop devices over them.

When the server dies, such a file stays mounted and answers nothing any more; so nothing here asks the file itself. When
the server ends, it takes its mount away, also under a loop device, which then has lost the name of its file. A note
beside the file therefore says which loop device it was: its name, and the number by which the kernel tells one disk
from a later one of that name (``diskseq``, Linux 5.15).
"""

from __future__ import annotations

import contextlib
import glob
import os
import time

from ..errors import SplitMirrorError
from .blockdev import SETTLE_S, users
from .files import replace_file
from .tools import run_tool

_POLL_S = 0.05


def attach_loop(path: str, sector_bytes: int = 512) -> str:
    """Lay a read-only loop device over the file, and return the device. :raises ToolError: losetup failed."""
    words = ["--find", "--show", "--read-only", "--direct-io=on", f"--sector-size={sector_bytes}", "--", path]
    device = run_tool("losetup", *words).strip()
    replace_file(_note(path), f"{device} {_diskseq(device)}")
    return device


def loops_over(path: str) -> list[str]:
    """The loop devices over the file, also when its server is gone."""
    found = set()
    for entry in glob.glob("/sys/class/block/loop*/loop/backing_file"):
        with contextlib.suppress(OSError), open(entry, "rb") as stream:  # detached meanwhile
            if os.fsdecode(stream.read().rstrip(b"\n")) == path:
                found.add("/dev/" + entry.split("/")[-3])
    with contextlib.suppress(FileNotFoundError), open(_note(path), encoding="utf-8") as stream:
        device, _space, diskseq = stream.read().partition(" ")
        if diskseq and diskseq == _diskseq(device) and os.path.exists(f"{_sysfs(device)}/loop"):
            found.add(device)
    return sorted(found)


def detach_loop(device: str, path: str) -> None:
    """Detach a loop device of the file, and wait until it is gone.

    :raises SplitMirrorError: somebody has opened it, so it stays.
    """
    run_tool("losetup", "--detach", device)
    deadline = time.monotonic() + SETTLE_S
    while device in loops_over(path):
        if time.monotonic() > deadline:
            who = "; ".join(users(device)) or "somebody"
            raise SplitMirrorError(f"{device}: it is in use by {who} and stays attached.", code="mirror_in_use")
        time.sleep(_POLL_S)


def remove(path: str) -> None:
    """Remove the file, and what is mounted over it; neither need be there. Its loop device is gone.

    :raises ToolError: it is in use.
    """
    if _is_mounted(path):
        run_tool("umount", path)
    # Also what a process has left that died while it wrote the note.
    for name in (*glob.glob(f"{glob.escape(_note(path))}*"), path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _is_mounted(path: str) -> bool:
    """Whether a file is mounted over this one, alive or dead."""
    try:
        return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev
    except FileNotFoundError:
        return False
    except OSError:  # its server is dead
        return True


def _note(path: str) -> str:
    return f"{path}.loop"


def _sysfs(device: str) -> str:
    return f"/sys/class/block/{os.path.basename(device)}"


def _diskseq(device: str) -> str:
    """Empty before Linux 5.15, or without such a device."""
    try:
        with open(f"{_sysfs(device)}/diskseq", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""
