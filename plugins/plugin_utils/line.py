# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program on another host that answers several requests: a line in, a line out.

A connection plugin runs one command to its end. Inside the window, each such command would cost an ssh channel, a sudo
and the start of Python while writes are stopped. So one program is started beforehand, and gets all requests.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import IO, Optional, cast

from ansible.errors import AnsibleError
from ansible.plugins.become import BecomeBase

from .errors import ActionError

MAX_ANSWER_BYTES = 16 << 20
#: How long the program may take to end after its input has ended.
_END_S = 5.0
#: How much of its standard error is kept.
_KEPT_ERRORS_BYTES = 65536
#: How much may be printed before the privileges are escalated: greetings, lectures, prompts.
_MOST_BEFORE_BYTES = 1 << 20
#: How long to wait for its standard error after it has ended.
_LAST_WORDS_S = 1.0


class NotEscalated(ActionError):
    """The connection ended before the privileges were escalated, and not because of a password."""


class StandingLine:
    """A running program.

    :param argv: the local command that starts it, such as ssh.
    :param host: for messages.
    :param greeting: the first line of the program. Everything before it is skipped, such as a message of the day.
    :param timeout_s: how long it may take until the greeting.
    :param become: the become plugin that is part of the command, if there is one. It knows prompts and password.
    :param terminal: whether the program has a terminal; then the end of our input does not end the program.
    :raises NotEscalated: the privileges were not escalated.
    :raises AnsibleError: the greeting does not come in time, or the password is wrong or missing.
    """

    def __init__(
        self,
        argv: list[bytes],
        host: str,
        greeting: bytes,
        timeout_s: float,
        become: Optional[BecomeBase] = None,
        *,
        terminal: bool = False,
    ) -> None:
        self._host = host
        self._terminal = terminal
        self._inbox = bytearray()
        self._errors = bytearray()
        self._program = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._input = cast(IO[bytes], self._program.stdin)
        self._output = cast(IO[bytes], self._program.stdout)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ, self._inbox)
        self._selector.register(cast(IO[bytes], self._program.stderr), selectors.EVENT_READ, self._errors)
        deadline = time.monotonic() + timeout_s
        try:
            if become is not None:
                self._escalate(become, deadline)
            while self._next_line(deadline) != greeting:
                pass
        except AnsibleError:
            self.close()
            raise

    def exchange(self, line: str, timeout_s: Optional[float] = None) -> bytes:
        """Send a line and return the answer, without its newline.

        :param timeout_s: how long to wait for the answer; None: without limit.
        :raises AnsibleError: the connection is lost, or there is no answer in time.
        """
        self.send(line.encode() + b"\n")
        return self.read_line(timeout_s)

    def send(self, data: bytes) -> None:
        """Send bytes to the program.

        :raises AnsibleError: the connection is lost.
        """
        try:
            self._input.write(data)
            self._input.flush()
        except OSError as exc:
            raise self._lost(exc.strerror) from exc

    def read_line(self, timeout_s: Optional[float] = None) -> bytes:
        """Return the next line, without its newline; see exchange."""
        return self._next_line(None if timeout_s is None else time.monotonic() + timeout_s)

    def read(self, size_bytes: int) -> bytes:
        """Return exactly this many bytes that the program sends after a line.

        :raises AnsibleError: it ends before that.
        """
        while len(self._inbox) < size_bytes:
            self._receive(None)
            del self._errors[:-_KEPT_ERRORS_BYTES]
        data = bytes(self._inbox[:size_bytes])
        del self._inbox[:size_bytes]
        return data

    def close(self) -> None:
        """End the program, if it still runs."""
        try:
            self._input.close()
        except OSError:
            pass  # it ended before it had read everything
        try:
            # A terminal does not pass on the end of our input, but it does pass on a hang-up.
            self._program.wait(0 if self._terminal else _END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._program.pid, signal.SIGKILL)
            self._program.wait()
        self._selector.close()
        self._output.close()
        cast(IO[bytes], self._program.stderr).close()

    def _escalate(self, become: BecomeBase, deadline: float) -> None:
        """Answer the prompt for a password, and wait until privileges are escalated, as Ansible's connections do."""
        asked = False
        out_seen = err_seen = 0
        while not become.check_success(bytes(self._inbox)):
            out, err = bytes(self._inbox[out_seen:]), bytes(self._errors[err_seen:])
            prompted = become.expect_prompt() and (
                become.check_password_prompt(out) or become.check_password_prompt(err)
            )
            if become.check_incorrect_password(out + err) or (prompted and asked):
                raise ActionError(f"{self._host}: {become.name} refuses the become password; give the right one.")
            if become.check_missing_password(out + err):
                raise ActionError(
                    f"{self._host}: {become.name} asks for a password; give it as ansible_become_password, or with "
                    "--ask-become-pass."
                )
            if prompted:
                asked = True
                out_seen, err_seen = len(self._inbox), len(self._errors)
                self.send(str(become.get_option("become_pass")).encode() + b"\n")
            if not self._receive(deadline, ended_is_error=False):
                raise NotEscalated(
                    f"{self._host}: {become.name} failed: {self._last_words() or 'it ended'}", code=self._code()
                )
            if len(self._inbox) + len(self._errors) > _MOST_BEFORE_BYTES:
                raise self._lost(f"it sends more than {_MOST_BEFORE_BYTES} bytes before {become.name} is done")

    def _next_line(self, deadline: Optional[float]) -> bytes:
        while (end := self._inbox.find(b"\n")) < 0:
            self._receive(deadline)
            del self._errors[:-_KEPT_ERRORS_BYTES]
            if len(self._inbox) > MAX_ANSWER_BYTES:
                raise self._lost(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line.rstrip(b"\r")

    def _receive(self, deadline: Optional[float], ended_is_error: bool = True) -> bool:
        """Wait for output or errors, and read them; return False if the program has ended."""
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = self._selector.select(left_s)
        # A program that never stops sending has not answered in time either.
        if not ready or left_s == 0.0:
            raise self._lost("no answer in time")
        for key, _events in ready:
            part = os.read(key.fd, 1 << 20)
            key.data.extend(part)
            if not part:
                self._selector.unregister(key.fileobj)
        if self._output in self._selector.get_map():
            return True
        self._drain_errors(_LAST_WORDS_S)
        if ended_is_error:
            raise self._lost("it ended")
        return False

    def _drain_errors(self, patience_s: float) -> None:
        """Read standard error until it ends, pauses, or is long enough; a persistent ssh keeps it open."""
        fd = cast(IO[bytes], self._program.stderr).fileno()
        enough = len(self._errors) + _KEPT_ERRORS_BYTES
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while len(self._errors) < enough and selector.select(patience_s) and (part := os.read(fd, 65536)):
                self._errors += part

    def _last_words(self) -> str:
        return self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2].strip()

    def _lost(self, reason: Optional[str]) -> ActionError:
        self._drain_errors(0)
        return ActionError(
            f"{self._host}: the connection to it is lost: {self._last_words() or reason}", code=self._code()
        )

    def _code(self) -> str:
        """What it means that there is no answer: ssh(1) ends with 255 where it cannot reach the host, or loses it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its output has ended, so it is about to end itself. One that hangs has not ended its output.
            if self._output not in self._selector.get_map() and self._program.wait(_LAST_WORDS_S) == 255:
                return "unreachable"
        return "no_answer"
