# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writing around a freeze: as much as possible before it, so that it is short, and nothing while it lasts."""

from __future__ import annotations

import os
import time
from typing import Optional, Sequence

from ..extents.fsinfo import read_superblock
from ..extents.maprows import MapError
from ..extents.seal import device_path
from . import freeze
from .freeze import FreezeError

#: A round of writing out is short when it takes no more than this part of the deadline. The freeze writes out once more
#: what was written since, and cannot be ended meanwhile (fs/super.c: thaw_super refuses until freeze_super is done).
SHORT_PART = 0.1
MAX_ROUNDS = 10
_WRITE_SECTORS = 6


def write_out(opened: Sequence[tuple[str, int]], deadline_s: float) -> float:
    """Write out what is in memory, in rounds, until a round is short compared with the deadline.

    :param opened: mount points and their descriptors.
    :returns: how many seconds the last round took.
    :raises FreezeError: no round was short; a freeze could last longer than its deadline.
    """
    for _round in range(MAX_ROUNDS):
        took = [(_sync(fd), name) for name, fd in opened]
        round_s = sum(seconds for seconds, _name in took)
        if round_s <= deadline_s * SHORT_PART:
            return round_s
    slowest = max(took)[1]
    raise FreezeError(
        f"deadline_s: {deadline_s:g} s is too short for what is written now: after {MAX_ROUNDS} rounds of writing out "
        f"memory, a round still took {round_s:.2f} s, most of it for {slowest}, and a freeze cannot be ended while "
        f"it writes; begin when less is written, or set a deadline of at least {round_s / SHORT_PART:.0f} s.",
        option="deadline_s",
        code="deadline_too_short",
    )


def write_rest(opened: Sequence[tuple[str, int]], ends: float, deadline_s: float) -> None:
    """Write out what was written since write_out because databases were slow to freeze; the deadline is running.

    :param ends: instant, time.monotonic, by which the file systems have to be thawed again.
    :raises FreezeError: a freeze, which writes out once more, could last longer.
    """
    round_s = sum(_sync(fd) for _name, fd in opened)
    if time.monotonic() + round_s > ends:
        raise FreezeError(
            f"deadline_s: {deadline_s:g} s is too short: the databases took long to freeze, and what was written "
            f"meanwhile took {round_s:.2f} s to write out, so the file systems could not be frozen and thawed in "
            "time; begin when less is written, or set a longer deadline.",
            option="deadline_s",
            code="deadline_too_short",
        )


def _sync(fd: int) -> float:
    began = time.monotonic()
    freeze.sync(fd)
    return time.monotonic() - began


class Written:
    """Whether anything was written to a device between begin() and now.

    A file system that is thawed and frozen again writes out what was written meanwhile, which its device shows. The
    kernel counts the sectors that were written to a device (Documentation/ABI/stable/sysfs-block, stat). For a device
    without a count (queue/iostats) the superblock is compared, which ext4 writes at each thaw and freeze.

    :param dev: number of the device.
    """

    def __init__(self, dev: int) -> None:
        self._fd: Optional[int] = None
        folder = f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}"
        self._device: Optional[str] = None
        self._before: object = None
        try:
            if _counts(folder):
                self._fd = os.open(f"{folder}/stat", os.O_RDONLY | os.O_CLOEXEC)
            else:
                self._device = device_path(dev)
        except (OSError, MapError):  # such a device could not have been mapped
            pass

    def begin(self) -> None:
        """Remember the present state: nothing may be written from now on."""
        self._before = self._now()

    def went_on(self) -> bool:
        """Whether something was written, or whether that can no longer be known; an error must not stop the thaw."""
        try:
            return self._before is not None and self._now() != self._before
        except (OSError, MapError):
            return True

    def close(self) -> None:
        """Close the device."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _now(self) -> object:
        if self._fd is not None:
            return os.pread(self._fd, 4096, 0).split()[_WRITE_SECTORS]
        return None if self._device is None else read_superblock(self._device)


def _counts(folder: str) -> bool:
    """Whether the kernel counts what is written to a device; for a partition, its disk does."""
    for place in (folder, os.path.join(os.path.realpath(folder), os.pardir)):
        try:
            with open(os.path.join(place, "queue", "iostats"), encoding="ascii") as stream:
                return stream.read().strip() != "0"
        except OSError:
            continue
    return False
