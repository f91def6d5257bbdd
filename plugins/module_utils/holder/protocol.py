# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names that the holder and its callers share. The lines themselves are those of lineserver."""

from __future__ import annotations

import time
from typing import Any

from ..lineserver import NotRunning, call
from ..session import StateDir

NAME = "holder"
GUARD = "guard"
SOCKET = "holder.sock"
MAP = "map.sqlite"
EXTRAS = "extras.tar"
FROZEN = "frozen.json"
#: For work that has no limit of its own: a checkpoint, a check of many files.
LONG_S = 3600.0

Json = dict[str, Any]


def ask(state: StateDir, session: str, op: str, timeout_s: float = LONG_S, **args: Any) -> Json:
    """Ask the holder of a session; return its whole answer.

    :raises NotRunning: the session has no holder. :raises Refused: it said no. :raises LineError: no answer.
    """
    try:
        return call(state.session_file(session, SOCKET), op, timeout_s, **args)
    except NotRunning as exc:
        raise NotRunning(
            f"session: {session} has no holder on this host, so it cannot {op}; extent_map with state mapped (or "
            "write_freeze) starts one."
        ) from exc


class EventLog:
    """What happened in the holder, in order: events with ascending numbers and the host's monotonic clock."""

    def __init__(self) -> None:
        self.entries: list[Json] = []

    def add(self, name: str, **details: Any) -> float:
        """Add an event and return its instant (time.monotonic, seconds)."""
        now = time.monotonic()
        self.entries.append({"seq": len(self.entries), "name": name, "mono_s": now, **details})
        return now
