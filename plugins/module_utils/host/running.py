# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program that runs beside us: it may be sent lines, what it writes is kept within bounds, and it can be killed."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Optional

from .lifeline import die_with
from .tools import start_program

#: The longest output that is accepted.
OUTPUT_BYTES = 1 << 20
#: Of what a program writes to its standard error, the end that is kept.
ERROR_BYTES = 1 << 16
#: The variable by which all that a program has started is known.
_MARK = "SPLITMIRROR_RUN"
#: How often in a row nothing must be found of a program that was killed, and how long to wait in between.
_LOOKS = 3
_LOOK_S = 0.01
#: How long one that was killed may take to die.
_DEATH_S = 2.0
#: How often we look whether it has ended, where the kernel cannot report it.
_POLL_S = 0.05
#: See fcntl(2); Python has a name for it from 3.10 on.
_F_SETPIPE_SZ = 1031


class Silent(Exception):
    """There will be no answer; says why, unless it is late."""


class Running:
    """A program in a session of its own.

    :param takes_lines: whether it has a standard input.
    :param outlives_us: whether it ends by itself when its standard input does. Any other is killed when we die.
    :ivar said: what it has written to its standard output and nobody has taken.
    :ivar errors: the end of what it has written to its standard error.
    :raises OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Optional[Mapping[str, str]] = None,
        takes_lines: bool = False,
        outlives_us: bool = False,
    ) -> None:
        mark = secrets.token_hex(8)
        self._mark = f"{_MARK}={mark}".encode()
        self._process = start_program(
            command,
            environment={**(environment or {}), _MARK: mark},
            stdin=subprocess.PIPE if takes_lines else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            # One system call, no lock. What nobody waits for any more must not go on beside the clean-up.
            preexec_fn=None if outlives_us else partial(die_with, os.getpid()),
        )
        self.said = bytearray()
        self.errors = bytearray()
        self._open = {
            stream.fileno(): kept
            for stream, kept in ((self._process.stdout, self.said), (self._process.stderr, self.errors))
            if stream is not None
        }
        for fd in self._open:
            # While we listen to another one it should not have to wait. The kernel may allow less.
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, OUTPUT_BYTES)
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)

    def ask(self, line: bytes, timeout_s: float) -> bytes:
        """Send a line, and return the one that answers it. :raises Silent: there is none in time, or never will be."""
        self._listen(lambda: b"\n" in self.said or not self._can_answer(), time.monotonic() + timeout_s, line)
        text, newline, rest = bytes(self.said).partition(b"\n")
        if not newline:
            raise Silent("it has ended without an answer")
        self.said[:] = rest
        return text

    def is_quiet(self) -> bool:
        """Whether it has written nothing that nobody has asked for."""
        with contextlib.suppress(Silent):
            self._listen(lambda: bool(self.said), time.monotonic())
        return not self.said

    def result(self, deadline: float) -> int:
        """Wait for its end, and return its exit status. What it has left in the background may go on.

        :raises Silent: it does not end in time, or its output is too long.
        """
        self._listen(lambda: False, deadline)
        return self._process.wait()

    def has_ended(self) -> bool:
        """Whether it has ended, or has closed its output, as it does just before; it keeps its number."""
        return self._is_dead() or not self._can_answer()

    def stop(self, line: bytes, timeout_s: float) -> None:
        """Send a last line, end its input, and wait for its end; kill it after a time."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError), self._process.stdin as stream:
                stream.write(line)
        try:
            self.result(time.monotonic() + timeout_s)
        except Silent:
            self.kill()
        self.close()

    def kill(self) -> None:
        """Kill it, if it still runs, and all that it has started.

        What has been started with another environment (``sudo``, ``env -i``) in a session of its own is not found. One
        of another user (``sudo``) cannot be killed, and one that waits for a device that hangs does not die.
        """
        # One that was waited for may have given its number to another.
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._kill_escaped()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEATH_S)
        with contextlib.suppress(Silent):
            self._listen(lambda: not self._open, time.monotonic())  # its last words

    def close(self) -> None:
        """Kill it if it still runs, and close all that is open."""
        if self._process.returncode is None:
            self.kill()
        self._open.clear()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _kill_escaped(self) -> None:
        """Kill what has left the session (``setsid``): it still has the environment that it was started with."""
        stopped: set[str] = set()
        quiet = 0
        # A process that is just being started shows no environment, so a single look may miss it.
        while quiet < _LOOKS:
            found = {path for path in glob.glob("/proc/[0-9]*") if self._is_marked(path)} - stopped
            # All are stopped before one is killed, for a script goes on when the program that it waits for is killed.
            self._send(found, signal.SIGSTOP)
            stopped |= found
            quiet = 0 if found else quiet + 1
            time.sleep(_LOOK_S)
        self._send(stopped, signal.SIGKILL)

    def _is_marked(self, path: str) -> bool:
        try:
            with open(f"{path}/environ", "rb") as stream:
                return self._mark in stream.read().split(b"\0")
        except OSError:  # it has ended, or is another user's
            return False

    def _send(self, paths: set[str], number: signal.Signals) -> None:
        """Send a signal to marked processes, and to none that has got the number of one that ended meanwhile.

        :param paths: their folders in /proc.
        """
        for path in paths:
            pid = int(path[len("/proc/") :])
            pidfd = _pidfd(pid)
            with contextlib.suppress(OSError):
                if self._is_marked(path):
                    if pidfd is None:
                        os.kill(pid, number)
                    else:
                        signal.pidfd_send_signal(pidfd, number)
            if pidfd is not None:
                os.close(pidfd)

    def _is_dead(self) -> bool:
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _can_answer(self) -> bool:
        return self._process.stdout is not None and self._process.stdout.fileno() in self._open

    def _listen(self, until: Callable[[], bool], deadline: float, data: bytes = b"") -> None:
        """Write ``data`` and take what it writes until a condition holds, or until it has ended.

        :raises Silent: neither is so in time, it takes no data, or its output is too long.
        """
        # One that was waited for may have given its number to another.
        ending = None if self._process.returncode is not None else _pidfd(self._process.pid)
        try:
            while not until():
                left_s = max(0.0, deadline - time.monotonic())
                ready = self._poll(left_s, ending, bool(data))
                # What it has started may hold its output open, so the end of that is not waited for.
                if ending in ready or (ending is None and self._is_dead()):
                    self._take(self._poll(0.0, None, False))  # all that it has written, for it writes no more
                    return
                self._take(ready)
                if data and self._process.stdin is not None and self._process.stdin.fileno() in ready:
                    try:
                        data = data[os.write(self._process.stdin.fileno(), data) :]
                    except OSError as exc:
                        raise Silent("it has ended") from exc
                # Looked at after each read, for one that writes without a pause would never be late else.
                if not left_s and not until():
                    raise Silent
        finally:
            if ending is not None:
                os.close(ending)

    def _poll(self, wait_s: float, ending: Optional[int], writes: bool) -> set[int]:
        """What can be read or written."""
        poll = select.poll()
        for fd in (*self._open, *([] if ending is None else [ending])):
            poll.register(fd, select.POLLIN)
        if writes and self._process.stdin is not None:
            poll.register(self._process.stdin, select.POLLOUT)
        return {fd for fd, _event in poll.poll((wait_s if ending is not None else min(wait_s, _POLL_S)) * 1000)}

    def _take(self, ready: set[int]) -> None:
        """Read what there is, as much as a pipe holds. :raises Silent: it is too long."""
        for fd in ready & set(self._open):
            kept, data = self._open[fd], os.read(fd, OUTPUT_BYTES)
            kept += data
            if not data:
                del self._open[fd]
            elif kept is self.errors:
                del kept[:-ERROR_BYTES]
            elif len(kept) > OUTPUT_BYTES:
                raise Silent(f"its answer is longer than {OUTPUT_BYTES} bytes")


def _pidfd(pid: int) -> Optional[int]:
    """A descriptor of the process that has this number, readable when it has ended.

    None on kernels before 5.3, and if there is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
