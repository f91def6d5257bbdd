# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tape of a virtual drive that has a speed: it moves at that speed, or stops and starts again."""

from __future__ import annotations

import time
from typing import Callable

#: What the drive takes before the tape has it; a real one has about 1 GiB.
BUFFER_BYTES = 16 << 20


class Motion:
    """How long records take to get to the tape.

    :param bytes_per_s: the speed of the tape; there is no other one.
    :param stop_s: seconds to stop, wind back and start again.
    :param clock: seconds. :param pause: lets that many seconds go by.
    :ivar stops: how often the tape stopped between two records, because the next one came too late.
    """

    def __init__(
        self,
        bytes_per_s: float,
        stop_s: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._stop_s = stop_s
        self._clock = clock
        self._pause = pause
        self._moving = False
        self._until_s = 0.0  # when all that the drive has taken is on the tape
        self.stops = 0

    def take(self, length: int) -> None:
        """Take a record of this many bytes; wait while the drive's buffer is full."""
        now = self._clock()
        if not self._moving:
            self._until_s = now
        elif now > self._until_s:
            self.stops += 1
            self._until_s = now + self._stop_s
        self._moving = True
        self._until_s += length / self._bytes_per_s
        late_s = self._until_s - now - BUFFER_BYTES / self._bytes_per_s
        if late_s > 0:
            self._pause(late_s)

    def end(self) -> None:
        """Wait until the tape has everything; a stop that the caller wants, behind a filemark or for another place."""
        late_s = self._until_s - self._clock()
        if self._moving and late_s > 0:
            self._pause(late_s)
        self._moving = False
