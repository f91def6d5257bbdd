# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the holder and its callers share: names, how to ask, events. The format of the lines is that of lineserver."""

from __future__ import annotations

import time
from typing import Any, Optional

from ..errors import SplitMirrorError
from ..host.daemon import is_alive, read_record
from ..host.lineclient import LineError, NotRunning, Refused, call
from ..session import StateDir

NAME = "holder"
GUARD = "guard"
BACKSTOP = "backstop"
#: For work that has no limit of its own: a checkpoint, a check of many files.
LONG_S = 3600.0
#: For a short answer: the holder may be busy with a command of a database, whose limit is a minute by default.
BUSY_S = 150.0

Json = dict[str, Any]


def ask(state: StateDir, session: str, op: str, timeout_s: float = LONG_S, **args: Any) -> Json:
    """Ask the holder of a session; return its whole answer.

    :raises NotRunning: the session has no holder. :raises Refused: the holder refuses. :raises LineError: no answer.
    """
    try:
        return call(state.socket_file(session, NAME), op, timeout_s, **args)
    except NotRunning as exc:
        raise NotRunning(
            f"session: {session} has no holder on this host, so it cannot {op}; run extent_map with state mapped "
            "(or write_freeze), which starts one."
        ) from exc


class NoAnswer(SplitMirrorError):
    """A holder that lives and does not answer."""

    code = "no_answer"


def ask_if_running(state: StateDir, session: str, op: str, patience_s: Optional[float] = None) -> Optional[Json]:
    """Ask the holder of a session something that it can answer at once; return None when the session has no holder.

    :param patience_s: how long to wait for the answer, BUSY_S unless given.
    :returns: the result alone.
    :raises NoAnswer: the holder lives but has not answered in time. It is left alone: it may be busy with a hot backup.
    """
    patience_s = BUSY_S if patience_s is None else patience_s
    try:
        result: Json = ask(state, session, op, patience_s)["result"]
    except Refused:
        raise
    except NotRunning:
        return None
    except LineError as exc:
        record = read_record(state.session_dir(session), NAME)
        if record is None or not is_alive(record):
            return None
        raise NoAnswer(
            f"session: the holder of {session} has not answered for {patience_s:g} s; a command of a database may take "
            "long. Try again later, or give up what the holder keeps with hot_backup, state recovered."
        ) from exc
    return result


class EventLog:
    """What happened in the holder, in order: events with ascending numbers and the host's monotonic clock."""

    def __init__(self) -> None:
        self.entries: list[Json] = []

    def add(self, name: str, **details: Any) -> float:
        """Add an event and return its instant (time.monotonic, seconds)."""
        now = time.monotonic()
        self.entries.append({"seq": len(self.entries), "name": name, "mono_s": now, **details})
        return now
