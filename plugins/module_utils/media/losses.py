# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of members that are missing or doubtful: the first ones in memory, all of them in a file."""

from __future__ import annotations

import json
import os
import tempfile
from typing import IO, Any, Optional

from ..catalog.lookup import show_path
from ..session import StateDir

MISSING = "missing"
DOUBTFUL = "doubtful"

_LISTED = 100
_SHOWN = 5


class Losses:
    """Collects members that are not what was backed up.

    :param state_dir: the report is made in its folder ``reports`` with the first of them; None keeps none.
    :param name: what the report's name begins with.
    :ivar report: path of the file: a JSON object a line with ``state``, ``path``, ``volume`` and ``reason``; None
        without one.
    """

    def __init__(self, state_dir: Optional[str], name: str) -> None:
        self._state_dir = state_dir
        self._name = name
        self._file: Optional[IO[str]] = None
        self.report: Optional[str] = None
        self._counts = {MISSING: 0, DOUBTFUL: 0}
        self._first: dict[str, list[dict[str, str]]] = {MISSING: [], DOUBTFUL: []}

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def add(self, state: str, path: bytes, volume: str, reason: str) -> None:
        """Take one member. :param state: ``missing`` or ``doubtful``. :param volume: where it lies."""
        row = {"path": show_path(path), "volume": volume, "reason": reason}
        self._counts[state] += 1
        if len(self._first[state]) < _LISTED:
            self._first[state].append(row)
        self._write(json.dumps({"state": state, **row}) + "\n")

    def facts(self) -> dict[str, Any]:
        """What a module returns of it."""
        return {
            "missing": self._first[MISSING],
            "missing_count": self._counts[MISSING],
            "doubtful": self._first[DOUBTFUL],
            "doubtful_count": self._counts[DOUBTFUL],
            "report": self.report,
        }

    def words(self, state: str) -> str:
        """The first of a state, each with its reason."""
        shown = "; ".join(f"{row['path']}: {row['reason']}" for row in self._first[state][:_SHOWN])
        return shown + ("; …" if self._counts[state] > _SHOWN else "")

    def where(self) -> str:
        """The end of a sentence: where the whole list is."""
        return f" ({self.report} names all of them)" if self.report is not None else ""

    def close(self) -> None:
        """Write the report to its end."""
        if self._file is not None:
            self._give_up_on_error(self._file.close)
            self._file = None

    def _write(self, line: str) -> None:
        if self.count == 1 and self._state_dir is not None and os.path.isdir(self._state_dir):
            self._give_up_on_error(self._begin)
        if self._file is not None:
            file = self._file
            self._give_up_on_error(lambda: file.write(line))

    def _begin(self) -> None:
        folder = StateDir(self._state_dir or "").reports_dir
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, self.report = tempfile.mkstemp(prefix=f"{self._name}-", suffix=".jsonl", dir=folder)
        self._file = os.fdopen(handle, "w", encoding="utf-8")

    def _give_up_on_error(self, call: Any) -> None:
        """If the report cannot be written, the task still returns the first members."""
        try:
            call()
        except OSError:
            self.report = self._file = None
