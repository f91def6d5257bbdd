# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files to back up, the same for the same seed."""

from __future__ import annotations

import os
import random
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import sync_filesystem

_IN_A_FOLDER = 1000
_SMALLEST, _LARGEST = 4 << 10, 16 << 10


def small_files(root: Path, count: int, *, aged: bool = False, seed: int = 1) -> None:
    """Files of 4 to 16 KiB, a thousand in each folder.

    Fresh ones are written in the order of their paths. Aged ones are written in any order, and a third of them again
    later, with other sizes, in another order.
    """
    dice = random.Random(seed)
    paths = _paths(root, count)
    noise = dice.randbytes(4 * _LARGEST)
    if aged:
        dice.shuffle(paths)
    _write(paths, noise, dice)
    if aged:
        sync_filesystem(os.fsencode(root))
        _write(dice.sample(paths, count // 3), noise, dice)
    sync_filesystem(os.fsencode(root))


def tiny_files(root: Path, count: int) -> None:
    """Files of one block each: many of them, for what grows with their number."""
    for path in _paths(root, count):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, path)
        os.close(fd)
    sync_filesystem(os.fsencode(root))


def large_files(root: Path, count: int, size_bytes: int) -> None:
    """Files without holes, written one after another."""
    root.mkdir()
    noise = random.Random(1).randbytes(8 << 20)
    for number in range(count):
        with open(root / f"large{number}", "wb") as file:
            left = size_bytes
            while left:
                left -= file.write(noise[: min(left, len(noise))])
            os.fsync(file.fileno())


def _paths(root: Path, count: int) -> list[bytes]:
    root.mkdir()
    paths = []
    for first in range(0, count, _IN_A_FOLDER):
        folder = os.fsencode(root / f"d{first // _IN_A_FOLDER:04d}")
        os.mkdir(folder)
        paths += [folder + b"/f%04d" % number for number in range(min(_IN_A_FOLDER, count - first))]
    return paths


def _write(paths: list[bytes], noise: bytes, dice: random.Random) -> None:
    for path in paths:
        size = dice.randint(_SMALLEST, _LARGEST)
        start = dice.randrange(len(noise) - size)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, noise[start : start + size])
        os.close(fd)
