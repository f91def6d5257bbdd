# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the sink gets records: a tape drive is fed at full speed, or rests.

A drive whose records come too slowly stops the tape, winds it back and starts again, which takes seconds and wears tape
and heads. So the sink gets all that is ready until nothing is left, and then nothing until the buffer has filled up to
its high water mark. The end of the archive is written whatever its length.
"""

from __future__ import annotations

import time
from typing import Callable, Optional


class Feed:
    """Decides from the level of the buffer whether the sink is written to.

    :param record_bytes: length of a record.
    :param high_bytes: the high water mark; None for a sink that takes each record as soon as it is ready.
    :param clock: seconds.
    :ivar writing_s: seconds in which the sink was written to.
    """

    def __init__(
        self, record_bytes: int, high_bytes: Optional[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record_bytes = record_bytes
        self._streams = high_bytes is not None
        self._high_bytes = record_bytes if high_bytes is None else max(high_bytes, record_bytes)
        self._clock = clock
        self._since: Optional[float] = None  # when the sink began to be written to; None while it rests
        self._begins = 0
        self.writing_s = 0.0

    @property
    def stops(self) -> Optional[int]:
        """How often the sink had to wait between two records; None when it does not stream."""
        return max(self._begins - 1, 0) if self._streams else None

    def goes_on(self, level_bytes: int, ended: bool) -> bool:
        """Whether the sink gets the next record now.

        :param level_bytes: how much is ready for it. :param ended: nothing comes behind that.
        """
        if level_bytes < self._record_bytes:
            self.rest()
        elif self._since is None and (ended or level_bytes >= self._high_bytes):
            self._since = self._clock()
            self._begins += 1
        return self._since is not None

    def rest(self) -> None:
        """Nothing is ready for the sink."""
        if self._since is not None:
            self.writing_s += self._clock() - self._since
            self._since = None
