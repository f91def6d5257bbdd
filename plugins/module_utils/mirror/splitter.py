# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The splitter: a process on the array that has prepared the split, so that the window waits only for the split itself.

It answers requests on ``sessions/<id>/splitter.sock``: ``ping`` (which also writes cached data to disk), ``status``,
``turn``, ``split`` and ``stop``. ``turn`` takes the turn on an array that splits one mirror set after the other, for a
number of seconds. The splitter ends when its split is recorded, at ``stop``, or after its time limit. In the last two
cases it undoes its preparations.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from typing import Any, Optional

from ..host.daemon import (
    Ready,
    daemonize,
    is_alive,
    is_called,
    read_record,
    terminate,
)
from ..host.lineclient import LineError, call
from ..host.lineserver import LineServer, Service
from ..host.strict_json import number
from ..session import StateDir
from .base import MirrorError, MirrorProvider, PreparedSplit, SplitResult
from .journal import Journal
from .turn import Turn

NAME = "splitter"
CALL_TIMEOUT_S = 10.0
#: A split may take as long as the array needs. This limit only ends a request to a splitter that hangs.
SPLIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class ReadySplitter:
    """A splitter that is ready to split. :param deadline_s: seconds until it ends. :param method: see SplitResult."""

    pid: int
    deadline_s: float
    method: str


class SplitterService(Service):
    """The service: it splits once, then it ends.

    :param turn: the turn on the array; None if the array can split several sets at once.
    """

    def __init__(self, prepared: PreparedSplit, timeout_s: float, turn: Optional[Turn] = None) -> None:
        self._prepared = prepared
        self._deadline = time.monotonic() + timeout_s
        self._state = "armed"
        self._turn = turn
        self._turn_ends: Optional[float] = None
        self._stay_due: Optional[float] = self._next_stay()
        self.server: Optional[LineServer] = None

    def handle(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        """Answer ``ping``, ``status``, ``turn``, ``split`` and ``stop``."""
        if op == "ping" and self._state == "armed":
            self._prepared.flush()
        elif op == "turn":
            return {"granted": self._take_turn(number(args["hold_s"]))}
        elif op == "split":
            return self._split().as_dict()
        elif op == "stop":
            self._end("stopped")
        elif op not in ("ping", "status"):
            raise MirrorError(f"{op!r} is not a request of the splitter; use ping, status, turn, split or stop.")
        left_s = max(0.0, self._deadline - time.monotonic())
        return {"state": self._state, "method": self._prepared.method, "deadline_s": round(left_s, 3)}

    def next_wakeup(self) -> Optional[float]:
        """The time limit, or that of the turn; now, if only the end is left to do."""
        if self._state != "armed":
            return 0.0
        return min(due for due in (self._deadline, self._turn_ends, self._stay_due) if due is not None)

    def on_wakeup(self) -> None:
        """An answer has been sent, or a time limit has passed."""
        now = time.monotonic()
        if self._turn_ends is not None and now >= self._turn_ends:
            self._give_turn_back()
        if self._stay_due is not None and now >= self._stay_due:
            # One that fails here may succeed later; what it comes to is asked by ``ping`` just before the freeze.
            with contextlib.suppress(MirrorError):
                self._prepared.flush()
            self._stay_due = self._next_stay()
        if self._state != "armed" or now >= self._deadline:
            self._end(self._state if self._state != "armed" else "timed out")

    def finish(self) -> None:
        """After the loop: make the split durable, or undo the preparations."""
        if self._state == "split":
            self._prepared.settle()
        else:
            self._prepared.cancel()

    def _split(self) -> SplitResult:
        if self._state != "armed":
            raise MirrorError(f"the splitter is not ready any more; its state is {self._state}.", code="not_split")
        # Only one attempt, whatever goes wrong from here on.
        self._state = "failed"
        result = self._prepared.split()
        self._state = "split"
        self._give_turn_back()
        return result

    def _take_turn(self, hold_s: float) -> bool:
        """Take the turn if it is free. It ends by itself, because the controller may die."""
        if self._turn is None:
            return True
        granted = self._turn.take()
        if granted:
            self._turn_ends = time.monotonic() + hold_s
        return granted

    def _give_turn_back(self) -> None:
        self._turn_ends = None
        if self._turn is not None:
            self._turn.give_back()

    def _next_stay(self) -> Optional[float]:
        return None if self._prepared.stay_s is None else time.monotonic() + self._prepared.stay_s

    def _end(self, state: str) -> None:
        if self._state != "split":
            self._state = state
        if self.server is not None:
            self.server.stop()


def armed(state_dir: StateDir, session: str) -> Optional[ReadySplitter]:
    """The session's splitter if it is ready to split, else None."""
    record = read_record(state_dir.session_dir(session), NAME)
    if record is None or not is_alive(record):
        return None
    try:
        status = call(state_dir.socket_file(session, NAME), "status", CALL_TIMEOUT_S)["result"]
    except LineError:  # it is ending
        return None
    return ReadySplitter(record.pid, status["deadline_s"], status["method"]) if status["state"] == "armed" else None


def arm(provider: MirrorProvider, session: str, timeout_s: float) -> ReadySplitter:
    """Prepare the split in a process of its own, which waits ``timeout_s`` for the request to split.

    :raises MirrorError: the mirror set cannot be split now.
    :raises DaemonError: the preparations failed; the message is that of the provider.
    """
    provider.check_splittable(session)  # before anything is made
    folder = provider.state_dir.make_session_dir(session)
    path = provider.state_dir.socket_file(session, NAME)

    def run(ready: Ready) -> None:
        turn = Turn(provider.state_dir) if provider.capabilities.takes_turns else None
        splitter = SplitterService(provider.prepare(session), timeout_s, turn)
        try:
            server = splitter.server = LineServer(path, splitter)
            signal.signal(signal.SIGTERM, lambda number, frame: server.stop())
            ready()
            server.serve()
        finally:
            splitter.finish()

    # Writing out the cached data of a busy array takes long.
    daemonize(folder, NAME, run, timeout_s=60.0 + timeout_s)
    ready = armed(provider.state_dir, session)
    if ready is None:
        raise MirrorError(
            f"session {session}: its splitter ended at once; see {provider.state_dir.log_file(session, NAME)}."
        )
    return ready


def split(state_dir: StateDir, session: str) -> SplitResult:
    """Ask the session's splitter to split.

    :raises NotRunning: there is no splitter.
    :raises Refused: the split failed, and nothing is split.
    """
    return SplitResult.from_dict(call(state_dir.socket_file(session, NAME), "split", SPLIT_TIMEOUT_S)["result"])


def disarm(state_dir: StateDir, session: str) -> bool:
    """End the session's splitter, which undoes its preparations; return whether there was one.

    A splitter that has split already gets the time to record the split.
    """
    record = read_record(state_dir.session_dir(session), NAME)
    if record is None:
        # Its folder may be gone. The process that holds the pairs is also in the journal; it may not be a splitter.
        held = Journal(state_dir).read(session)
        record = held.process if held and is_called(held.process, NAME) else None
    if record is None or not is_alive(record):
        return False
    # SIGTERM has the same effect as the request stop, and needs no answer.
    return terminate(record, timeout_s=30.0)
