# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The splitter: a process on the array that stands ready, so that the window waits for one exchange and the split only.

It answers on ``sessions/<id>/splitter.sock``: ``ping`` (also writes out caches), ``status``, ``turn``, ``split`` and
``stop``. ``turn`` takes the turn on an array that splits one mirror set after the other, for a number of seconds.
It ends by itself: after its split is on disk, at ``stop``, or when its time is over; in the last two cases without a
trace.
"""

from __future__ import annotations

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
from ..session import StateDir
from .base import MirrorError, MirrorProvider, PreparedSplit, SplitResult
from .journal import Journal
from .turn import Turn

NAME = "splitter"
CALL_TIMEOUT_S = 10.0
#: A split may take as long as the array takes; this only ends a call to a splitter that hangs.
SPLIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class ReadySplitter:
    """A splitter that stands ready. :param deadline_s: seconds until it gives up. :param method: see SplitResult."""

    pid: int
    deadline_s: float
    method: str


class SplitterService(Service):
    """The service; one split, then the end.

    :param turn: the turn on the array; None where sets are split side by side.
    """

    def __init__(self, prepared: PreparedSplit, timeout_s: float, turn: Optional[Turn] = None) -> None:
        self._prepared = prepared
        self._deadline = time.monotonic() + timeout_s
        self._state = "armed"
        self._turn = turn
        self._turn_ends: Optional[float] = None
        self.server: Optional[LineServer] = None

    def handle(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        """Answer ``ping``, ``status``, ``split`` and ``stop``."""
        if op == "ping" and self._state == "armed":
            self._prepared.flush()
        elif op == "turn":
            return {"granted": self._take_turn(float(args["hold_s"]))}
        elif op == "split":
            return self._split().as_dict()
        elif op == "stop":
            self._end("stopped")
        elif op not in ("ping", "status"):
            raise MirrorError(f"{op!r} is not a request of the splitter; use ping, status, turn, split or stop.")
        left_s = max(0.0, self._deadline - time.monotonic())
        return {"state": self._state, "method": self._prepared.method, "deadline_s": round(left_s, 3)}

    def next_wakeup(self) -> Optional[float]:
        """The deadline, or that of the turn; or at once, when only the end is left to do."""
        if self._state != "armed":
            return 0.0
        return self._deadline if self._turn_ends is None else min(self._deadline, self._turn_ends)

    def on_wakeup(self) -> None:
        """The answer is sent, or a time is over."""
        now = time.monotonic()
        if self._turn_ends is not None and now >= self._turn_ends:
            self._give_turn_back()
        if self._state != "armed" or now >= self._deadline:
            self._end(self._state if self._state != "armed" else "timed out")

    def finish(self) -> None:
        """After the loop: make the split durable, or leave no trace."""
        if self._state == "split":
            self._prepared.settle()
        else:
            self._prepared.cancel()

    def _split(self) -> SplitResult:
        if self._state != "armed":
            raise MirrorError(f"the splitter is not ready any more; its state is {self._state}.", code="not_split")
        # Whatever goes wrong from here on, this splitter has had its try.
        self._state = "failed"
        result = self._prepared.split()
        self._state = "split"
        self._give_turn_back()
        return result

    def _take_turn(self, hold_s: float) -> bool:
        """Take the turn if it is free; who asked for it may die, so it ends by itself."""
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

    def _end(self, state: str) -> None:
        if self._state != "split":
            self._state = state
        if self.server is not None:
            self.server.stop()


def armed(state_dir: StateDir, session: str) -> Optional[ReadySplitter]:
    """The session's splitter if it stands ready, else None."""
    record = read_record(state_dir.session_dir(session), NAME)
    if record is None or not is_alive(record):
        return None
    try:
        status = call(state_dir.socket_file(session, NAME), "status", CALL_TIMEOUT_S)["result"]
    except LineError:  # it is about to end
        return None
    return ReadySplitter(record.pid, status["deadline_s"], status["method"]) if status["state"] == "armed" else None


def arm(provider: MirrorProvider, session: str, timeout_s: float) -> ReadySplitter:
    """Prepare the split in a process of its own, which waits ``timeout_s`` for the word.

    :raises MirrorError: the mirror set cannot be split now.
    :raises DaemonError: preparing failed; the message is the provider's.
    """
    provider.check_splittable(session)  # refused here, nothing has been made yet
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

    # Writing out the caches of a busy array takes its time.
    daemonize(folder, NAME, run, timeout_s=60.0 + timeout_s)
    ready = armed(provider.state_dir, session)
    if ready is None:
        raise MirrorError(
            f"session {session}: its splitter ended at once; see {provider.state_dir.log_file(session, NAME)}."
        )
    return ready


def split(state_dir: StateDir, session: str) -> SplitResult:
    """Tell the session's splitter to split.

    :raises NotRunning: none stands ready.
    :raises Refused: the split failed, and nothing is split.
    """
    return SplitResult.from_dict(call(state_dir.socket_file(session, NAME), "split", SPLIT_TIMEOUT_S)["result"])


def disarm(state_dir: StateDir, session: str) -> bool:
    """End the session's splitter and its preparations; return whether there was one.

    A splitter that has split already is given the time to put that on disk.
    """
    record = read_record(state_dir.session_dir(session), NAME)
    if record is None:
        # Its folder may be gone. Who holds the pairs is on record, too, be it a splitter or one who splits without.
        held = Journal(state_dir).read(session)
        record = held.process if held and is_called(held.process, NAME) else None
    if record is None or not is_alive(record):
        return False
    # SIGTERM ends its loop just like the op stop, and needs no answer from it.
    return terminate(record, timeout_s=30.0)
