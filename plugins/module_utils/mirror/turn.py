# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The turn on an array that splits one mirror set after the other.

LVM changes the metadata of a volume group under one lock, so the splits of several database hosts wait for each other.
A session that waits in its window waits while writes are stopped. Sessions therefore take the turn before the freeze,
and everything else that takes the lock (resync, clean-up) takes the turn as well.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Optional

from ..host.files import open_lock, try_lock
from ..session import StateDir
from .base import MirrorError

#: How often to try again, in seconds.
POLL_S = 0.05


class Turn:
    """The turn on one array, for one process. The kernel releases it when the process dies (flock(2)).

    :param state_dir: the state folder of the array.
    """

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._fd: Optional[int] = None

    def take(self) -> bool:
        """Take the turn if it is free; return whether it is ours now. Does not wait."""
        if self._fd is not None:
            return True
        self._state_dir.make_private_dir(self._state_dir.mirrors_dir)
        fd = open_lock(self._state_dir.turn_lock)
        try:
            if try_lock(fd):
                self._fd = fd
        finally:
            if self._fd is None:
                os.close(fd)
        return self._fd is not None

    def give_back(self) -> None:
        """Give the turn back, if it is ours."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def waited_for(self, timeout_s: float) -> Iterator[None]:
        """Wait for the turn, and hold it in the context.

        :raises MirrorError: it did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.take():
            if time.monotonic() > deadline:
                raise MirrorError(
                    f"array: another session has held the turn to split for {timeout_s:.0f} s; try again later.",
                    code="mirror_held",
                )
            time.sleep(POLL_S)
        try:
            yield
        finally:
            self.give_back()
