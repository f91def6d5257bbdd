# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small file that says how far long work has come, for whoever waits for it."""

from __future__ import annotations

import json
import time
from typing import Optional

from ..host.files import replace_file

_EVERY_S = 0.5


class Waiting:
    """Tells in the same file, before there is any progress, why nothing happens. :param path: its folder must exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._begun = time.monotonic()

    def tell(self, reason: Optional[str]) -> None:
        """Write the reason; None when the waiting is over."""
        numbers = dict.fromkeys(("files", "bytes", "total_files", "total_bytes", "bytes_per_s"), 0)
        seconds = round(time.monotonic() - self._begun, 3)
        replace_file(self._path, json.dumps({**numbers, "seconds": seconds, "done": False, "waiting": reason}))


class Progress:
    """Writes ``{"files", "bytes", "total_bytes", "total_files", "bytes_per_s", "seconds", "done", "waiting"}`` as JSON.

    The file is replaced as a whole, at most twice a second, so that a reader always finds all of it.

    :param path: where; its folder must exist.
    """

    def __init__(self, path: str, total_files: int, total_bytes: int) -> None:
        self._path = path
        self._total_files = total_files
        self._total_bytes = total_bytes
        self._begun = self._last = time.monotonic()
        self._files = 0
        self._bytes = 0
        self._save(done=False)

    def add(self, size_bytes: int) -> None:
        """One more file is done."""
        self._files += 1
        self._bytes += size_bytes
        now = time.monotonic()
        if now - self._last >= _EVERY_S:
            self._last = now
            self._save(done=False)

    def finish(self) -> None:
        """All is done."""
        self._save(done=True)

    def _save(self, *, done: bool) -> None:
        seconds = time.monotonic() - self._begun
        data = {
            "files": self._files,
            "bytes": self._bytes,
            "total_files": self._total_files,
            "total_bytes": self._total_bytes,
            "bytes_per_s": round(self._bytes / seconds) if seconds > 0 else 0,
            "seconds": round(seconds, 3),
            "done": done,
            "waiting": None,
        }
        replace_file(self._path, json.dumps(data))
