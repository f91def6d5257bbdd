# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file systems lie in files of other file systems: freezing both deadlocks in the kernel.

The freeze of the upper one writes its superblock, which waits for the lower one to be thawed.
"""

from __future__ import annotations

import contextlib
import os


def lies_on(dev: int, sysfs: str = "/sys") -> set[int]:
    """Device numbers of the file systems whose files carry a block device, through loop devices and what is below.

    :param dev: st_dev of the file system. :param sysfs: where sysfs is mounted.
    """
    found: set[int] = set()
    seen: set[str] = set()
    todo = [_folder(dev, sysfs)]
    while todo:
        folder = todo.pop()
        if folder in seen or not os.path.isdir(folder):
            continue
        seen.add(folder)
        if os.path.exists(os.path.join(folder, "partition")):
            todo.append(os.path.dirname(folder))
        with contextlib.suppress(FileNotFoundError):
            slaves = os.path.join(folder, "slaves")
            todo += [os.path.realpath(os.path.join(slaves, name)) for name in os.listdir(slaves)]
        with contextlib.suppress(OSError):
            with open(os.path.join(folder, "loop", "backing_file"), "rb") as stream:
                below = os.stat(stream.read().rstrip(b"\n")).st_dev
            found.add(below)
            todo.append(_folder(below, sysfs))
    return found


def _folder(dev: int, sysfs: str) -> str:
    return os.path.realpath(os.path.join(sysfs, "dev", "block", f"{os.major(dev)}:{os.minor(dev)}"))
