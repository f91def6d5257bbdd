# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose turn it is on an array that splits one mirror set after the other.

LVM changes the metadata of a volume group under one lock, so the splits of several database hosts wait for each other
there. Who waits inside the window waits frozen; so the turn is taken before the freeze, and what else takes that lock
(a resync, a clean-up) takes the turn, too.
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

#: How often somebody who waits looks again.
POLL_S = 0.05


class Turn:
    """The turn on one array, for one process. The kernel gives it back when the process dies (flock(2)).

    :param state_dir: the state folder of the array.
    """

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._fd: Optional[int] = None

    def take(self) -> bool:
        """Take the turn if it is free, and return whether it is ours now. Waits for nobody."""
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
        """Give it back; nothing if it is not ours."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def waited_for(self, timeout_s: float) -> Iterator[None]:
        """Wait for the turn, and hold it.

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
