# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The holder's side of the guard and the backstop; their own side is in standby."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import asdict
from typing import Any, Callable, NoReturn, Optional, Sequence

from ..database.base import ThawCommand
from ..errors import SplitMirrorError
from ..host.daemon import DaemonRecord
from ..host.forking import fork, fork_orphan
from .rescue import kill
from .standby import run_backstop, run_guard

ANSWER_S = 2.0
#: For a start, which may take longer because the backstop leaves its control group; writes do not stand still then.
START_S = 10.0
#: How long before the deadline the guard thaws: this part of the deadline, and at most so many seconds. The holder
#: thaws twice as early. So each has time to finish before the next one acts, and the backstop acts at the deadline.
_EARLIER_PART, _EARLIER_S = 0.05, 0.5


class GuardError(SplitMirrorError):
    """A guard or backstop that is gone or does not answer: nothing may be frozen."""

    code = "process_failed"


class End:
    """The holder's connection to one of them. :param name: for messages and events. :param reap: ends the process."""

    def __init__(self, name: str, record: DaemonRecord, channel: socket.socket, reap: Callable[[], None]) -> None:
        self.name = name
        self.record = record
        self._channel = channel
        self._reap = reap
        self._alive = True

    @property
    def alive(self) -> bool:
        """Whether the process is still alive, as far as is known."""
        return self._alive

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process dies: it sends nothing unless it is asked."""
        return self._channel.fileno()

    def ask(self, message: dict[str, Any], fds: Sequence[int] = (), patience_s: float = ANSWER_S) -> None:
        """Send a message and wait for the answer. :raises GuardError: the process is gone or does not answer."""
        self._channel.settimeout(max(0.01, patience_s))
        try:
            self._send({**message, "answer": True}, fds)
            answer = self._channel.recv(64)
        except OSError:
            answer = b""
        if answer != b"ok":
            self._lose()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message without waiting; messages are handled in order. :raises GuardError: the process is gone."""
        self._channel.settimeout(0.0)
        try:
            self._send({**message, "answer": False})
        except OSError:
            self._lose()

    def reap(self) -> None:
        """Kill and reap a process that is dead or does not answer: it must not thaw a later freeze."""
        if self._alive:
            self._alive = False
            self._reap()

    def close(self) -> None:
        """Close the connection; unless the process is armed, it ends."""
        self._channel.close()
        self._alive = False

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        self._channel.sendmsg([json.dumps(message).encode()], rights)

    def _lose(self) -> NoReturn:
        self.reap()
        raise GuardError(f"the {self.name} of the holder is gone, so nothing is frozen; run extent_map again.")


class Guards:
    """Guard and backstop. Made by start()."""

    def __init__(self, guard: End, backstop: End) -> None:
        self.guard = guard
        self.backstop = backstop
        self._holders_time: Optional[float] = None
        self._in_command = False

    @classmethod
    def start(cls) -> Guards:
        """Fork both, while this process has only one thread.

        :raises GuardError: one of them does not start.
        """
        holder = _record(os.getpid(), "holder")
        to_backstop, to_guard = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with to_backstop, to_guard:
            guard = _start_guard(to_backstop, holder)
            try:
                return cls(guard, _start_backstop(to_guard, holder, guard.record))
            except BaseException:
                guard.close()
                raise

    def ends(self) -> tuple[End, End]:
        """Both of them."""
        return self.guard, self.backstop

    def arm(self, deadline: float, fds: Sequence[int], commands: Sequence[ThawCommand]) -> None:
        """Send both what to thaw and when, and wait until both are ready.

        :param deadline: instant, time.monotonic, at which the backstop thaws. :param fds: open mount points, in the
            order of freezing. :param commands: of the databases, likewise.
        :raises GuardError: one is gone or does not answer.
        """
        message = {"op": "arm", "commands": [asdict(command) for command in commands]}
        earlier_s = min(_EARLIER_S, (deadline - time.monotonic()) * _EARLIER_PART)
        self._holders_time = deadline - 2 * earlier_s
        try:
            self.guard.ask({**message, "deadline": deadline - earlier_s}, fds)
            self.backstop.ask({**message, "deadline": deadline}, fds)
        except BaseException:
            self.disarm()  # one that stayed armed would kill us at a deadline of nothing
            raise

    @property
    def holders_time(self) -> Optional[float]:
        """When the holder has to thaw by itself, so that neither of them must; None when nothing is armed."""
        return self._holders_time

    def mark(self, index: int, ours: bool) -> None:
        """Tell both that this mount is about to be frozen by us, or that somebody else had frozen it.

        :raises GuardError: see arm.
        """
        self._both({"op": "mark", "index": index, "ours": ours})

    def command_started(self, group: int) -> None:
        """Tell both the process group of a running freeze command: it must not stop writes after the thaw.

        :raises GuardError: see arm.
        """
        self._in_command = True
        self._both({"op": "command", "group": group})

    def command_over(self) -> None:
        """Tell both that the freeze command is over, if there was one: its group's number may be used again.

        :raises GuardError: see arm.
        """
        if self._in_command:
            self._in_command = False
            self._both({"op": "command", "group": None})

    def disarm(self) -> None:
        """Tell both that all is thawed, so that they close their descriptors. One that does not answer is killed."""
        self._holders_time = None
        for end in (self.backstop, self.guard):
            if end.alive:
                with contextlib.suppress(GuardError):
                    end.ask({"op": "disarm"})

    def close(self) -> None:
        """Close both connections; unless they are armed, both processes end."""
        for end in self.ends():
            end.close()

    def _both(self, message: dict[str, Any]) -> None:
        # Without waiting for the backstop's answer, because writes stand still.
        self.backstop.tell(message)
        left_s = ANSWER_S if self._holders_time is None else self._holders_time - time.monotonic()
        self.guard.ask(message, patience_s=min(ANSWER_S, left_s))


def _start_guard(link: socket.socket, holder: DaemonRecord) -> End:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork(lambda: run_guard(theirs, link, holder))
    theirs.close()

    def reap() -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    return End("guard", _record(pid, "guard"), ours, reap)


def _start_backstop(link: socket.socket, holder: DaemonRecord, guard: DaemonRecord) -> End:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fork_orphan(lambda: run_backstop(theirs, link, holder, guard))
    theirs.close()
    ours.settimeout(START_S)
    try:
        record = _record(int(ours.recv(64) or b"0"), "backstop")
    except (OSError, ValueError):
        record = _record(0, "backstop")
    return End("backstop", record, ours, lambda: _kill(record))


def _kill(record: DaemonRecord) -> None:
    kill(record)


def _record(pid: int, name: str) -> DaemonRecord:
    record = DaemonRecord.of(pid) if pid else None
    if record is None:
        raise GuardError(f"the {name} of the holder did not start; see holder.log in the session's folder.")
    return record
