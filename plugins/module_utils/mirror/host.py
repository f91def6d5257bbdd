# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""For providers whose array is this host itself: run its tools, and count what is written to its disks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from ..host import tools
from .base import MirrorError, Pair

#: /sys/dev/block/*/stat counts in these units whatever the device's own, see Documentation/block/stat.rst.
STAT_SECTOR_BYTES = 512
#: How long udev may take to name a device.
_UDEV_TIMEOUT_S = 30.0


def run_tool(*command: str) -> str:
    """Run a tool of the array and return its output.

    :raises MirrorError: the tool is missing, or it failed; the message contains its output.
    """
    try:
        return tools.run_tool(*command, environment={"LVM_SUPPRESS_FD_WARNINGS": "1"})
    except tools.ToolError as exc:
        raise MirrorError(exc.message) from exc


def await_device(pair: Pair, device: str) -> str:
    """The device of a mirror, as soon as udev has named it. :raises MirrorError: it has not."""
    _await(lambda: os.path.exists(device), f"pair {pair.name}: udev has not made {device}; see the log of udev.")
    return device


def await_no_device(pair: Pair, device: str) -> None:
    """Wait until udev has removed the name of a device that is gone: meanwhile it may lead to another one.

    :raises MirrorError: it has not.
    """
    _await(
        lambda: not os.path.lexists(device),
        f"pair {pair.name}: {device} is still there, and its device is not; see the log of udev.",
    )


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _UDEV_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise MirrorError(otherwise)
        time.sleep(0.05)


def leg_number(pair: Pair) -> str:
    """The block device that a pair names as its mirror, as ``major:minor``. :raises MirrorError: there is none."""
    try:
        number = os.stat(pair.mirror).st_rdev
    except OSError as exc:
        raise MirrorError(f"pair {pair.name}: its mirror {pair.mirror} cannot be found ({exc.strerror}).") from exc
    return f"{os.major(number)}:{os.minor(number)}"


class Written(NamedTuple):
    """Bytes written to a device. :param disk: differs for a later device with the same number."""

    disk: str
    bytes: int


def written(number: str) -> Written:
    """How much has been written to a block device so far. :param number: ``major:minor``."""
    folder = f"/sys/dev/block/{number}"
    with open(f"{folder}/stat", encoding="ascii") as stream:
        count = int(stream.read().split()[6]) * STAT_SECTOR_BYTES
    try:
        with open(f"{folder}/diskseq", encoding="ascii") as stream:
            return Written(stream.read().strip(), count)
    except FileNotFoundError:  # before Linux 5.15
        return Written("", count)


def written_between(before: Written, after: Written) -> int:
    """Bytes written between two counts. A device that was made anew has begun at zero."""
    if before.disk == after.disk and before.bytes <= after.bytes:
        return after.bytes - before.bytes
    return after.bytes
