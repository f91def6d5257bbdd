# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far long work has come: one small JSON file, which any process on the same host may read.

The file is replaced as a whole, so a reader always finds all of it. Status is for people who wait: if it cannot be
written, the work goes on without.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Optional

from .files import replace_file
from .strict_json import number, read_json

#: How often the file is written at most, in seconds.
EVERY_S = 0.5


@dataclass(frozen=True)
class Status:
    """How far work has come.

    :param phase: ``map``, ``sync``, ``resync``, ``prepare``, ``write``, ``verify``, ``restore`` or ``copy``.
    :param done: how much of it is done, in units; never more than ``total``.
    :param total: how much there is; None when that is not known.
    :param unit: ``bytes``, ``files`` or ``percent``.
    :param rate: units per second since the work began, without the time in which it waited.
    :param eta_s: seconds that the rest takes at this rate; None when that is not known.
    :param waiting_for: why nothing happens at this moment; None when something does.
    :param since_s: when the phase began; :param updated_s: when this was written; seconds since 1970.
    """

    phase: str
    done: float
    total: Optional[float]
    unit: str
    rate: float
    eta_s: Optional[float]
    waiting_for: Optional[str]
    since_s: float
    updated_s: float

    @classmethod
    def of(cls, data: Any) -> Status:
        """From JSON. :raises ValueError: it is not a status."""
        try:
            status = cls(**data)
        except TypeError as exc:
            raise ValueError("not a status") from exc
        for value in (status.done, status.rate, status.since_s, status.updated_s):
            number(value)
        for maybe in (status.total, status.eta_s):
            number(0 if maybe is None else maybe)
        if not all(
            isinstance(text, str)
            for text in (status.phase, status.unit, "" if status.waiting_for is None else status.waiting_for)
        ):
            raise ValueError("not a status")
        return status


class StatusWriter:
    """Writes the status of one piece of work, at most every EVERY_S seconds.

    :param path: the file; its folder should exist. None writes nothing.
    :param total: how much there is; None when that is not known.
    """

    def __init__(self, path: Optional[str], phase: str, unit: str, total: Optional[float] = None) -> None:
        self._path = path
        self._phase = phase
        self._unit = unit
        self._total = total
        self._done: float = 0
        self._waiting: Optional[str] = None
        self._since_s = time.time()
        # By the monotonic clock: when the work began, when it began to wait, and how long it waited before that.
        self._begun = self._written = time.monotonic()
        self._waits_since = self._begun
        self._waited_s = 0.0
        self._write()

    def add(self, count: float) -> None:
        """More is done. This is called for each file, so it costs next to nothing."""
        self._done += count
        now = time.monotonic()
        if now - self._written >= EVERY_S:
            self._write(now)

    def set(self, done: float, total: Optional[float] = None) -> None:
        """So much is done, of so much; a total of None leaves the total as it is."""
        if total is not None:
            self._total = total
        self._done = done
        self.add(0)

    def wait_for(self, reason: Optional[str]) -> None:
        """Nothing happens until something else does. :param reason: in words; None when the work goes on."""
        now = time.monotonic()
        if self._waiting is not None:
            self._waited_s += now - self._waits_since
        self._waits_since = now
        if reason != self._waiting:
            self._waiting = reason
            self._write(now)

    def finish(self) -> None:
        """All is done."""
        self._waiting = None
        if self._total is None or self._done < self._total:
            self._total = self._done
        self._write()

    def status(self) -> Status:
        """How far the work has come now."""
        now = time.monotonic()
        waited_s = self._waited_s + (now - self._waits_since if self._waiting is not None else 0.0)
        worked_s = now - self._begun - waited_s
        rate = self._done / worked_s if worked_s > 0 else 0.0
        # What is counted before the work begins is an estimate: there may be more.
        total = None if self._total is None else max(self._total, self._done)
        left = None if total is None else total - self._done
        eta_s = 0.0 if left == 0 else left / rate if left is not None and rate > 0 else None
        if eta_s is not None and not math.isfinite(eta_s):
            eta_s = None
        return Status(
            self._phase,
            self._done,
            total,
            self._unit,
            round(rate, 3),
            None if eta_s is None else round(eta_s, 1),
            self._waiting,
            round(self._since_s, 3),
            round(time.time(), 3),
        )

    def _write(self, now: Optional[float] = None) -> None:
        self._written = time.monotonic() if now is None else now
        if self._path is not None:
            with contextlib.suppress(OSError):
                replace_file(self._path, json.dumps(asdict(self.status())))


def read_status(path: str) -> Optional[Status]:
    """The status in a file; None when there is none that can be read."""
    try:
        return Status.of(read_json(path))
    except (OSError, ValueError):
        return None
