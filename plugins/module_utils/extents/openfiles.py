# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find files that may be written without the tracker seeing it: open for writing, or mapped and shared (proc(5))."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container

# address perms offset dev inode path; the last letter of perms shows whether the map is shared. A shared map that is
# not writable now may have been until a moment ago.
_SHARED_MAP = re.compile(rb"^\S+ ...s \S+ ([0-9a-f]+):([0-9a-f]+) (\d+)", re.MULTILINE)


def writable_files(devices: Container[int], proc: str = "/proc") -> set[tuple[int, int]]:
    """(device number, inode number) of all regular files on ``devices`` that any process may be writing now."""
    found: set[tuple[int, int]] = set()
    for pid in os.listdir(proc):
        if pid.isdigit():
            _open_files(f"{proc}/{pid}/fd", devices, found)
            _mapped_files(f"{proc}/{pid}/maps", devices, found)
    return found


def _open_files(folder: str, devices: Container[int], found: set[tuple[int, int]]) -> None:
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # the process is gone
    try:
        for name in os.listdir(folder_fd):
            try:
                # The permissions of the link show how the file was opened.
                if not os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode & stat.S_IWUSR:
                    continue
                file = os.stat(name, dir_fd=folder_fd)
            except OSError:
                continue
            if file.st_dev in devices and stat.S_ISREG(file.st_mode):
                found.add((file.st_dev, file.st_ino))
    except OSError:
        return
    finally:
        os.close(folder_fd)


def _mapped_files(path: str, devices: Container[int], found: set[tuple[int, int]]) -> None:
    try:
        with open(path, "rb") as maps:
            text = maps.read()
    except OSError:
        return
    for major, minor, inode in _SHARED_MAP.findall(text):
        dev = os.makedev(int(major, 16), int(minor, 16))
        if dev in devices:
            found.add((dev, int(inode)))
