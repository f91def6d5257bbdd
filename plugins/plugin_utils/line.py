# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program on another host that stays for several questions: a line in, a line out.

A connection plugin runs one command to its end. Inside the window each such command would cost an ssh channel, a sudo
and the start of a Python, while writes stand still; so one program is started beforehand and asked again and again.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from typing import IO, Optional, cast

from ansible.errors import AnsibleError

MAX_ANSWER_BYTES = 16 << 20
#: After its input has ended the program has nothing left to do.
_END_S = 5.0


class StandingLine:
    """A running program.

    :param argv: the local command that leads to it, such as ssh.
    :param host: for messages.
    :param greeting: the line that tells that it is there; what comes before it is not ours (a message of the day).
    :raises AnsibleError: it does not greet in time.
    """

    def __init__(self, argv: list[bytes], host: str, greeting: bytes, timeout_s: float) -> None:
        self._host = host
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._inbox = bytearray()
        self._program = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        self._input = cast(IO[bytes], self._program.stdin)
        self._output = cast(IO[bytes], self._program.stdout)
        try:
            while self._next_line(time.monotonic() + timeout_s) != greeting:
                pass
        except AnsibleError:
            self.close()
            raise

    def ask(self, line: str, timeout_s: Optional[float] = None) -> bytes:
        """Send a line and return the answer, without its newline.

        :param timeout_s: how long to wait for it; None waits for ever.
        :raises AnsibleError: the program or the way to it is gone, or it does not answer in time.
        """
        data = line.encode() + b"\n"
        try:
            self._input.write(data)
            self._input.flush()
        except OSError as exc:
            raise self._lost(exc.strerror) from exc
        return self._next_line(None if timeout_s is None else time.monotonic() + timeout_s)

    def close(self) -> None:
        """End the program; nothing if it has ended."""
        try:
            self._input.close()
        except OSError:
            pass  # it was gone before it had read everything
        try:
            self._program.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._program.pid, signal.SIGKILL)
            self._program.wait()
        self._output.close()
        self._errors.close()

    def _next_line(self, deadline: Optional[float]) -> bytes:
        fd = self._output.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._inbox:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not selector.select(left_s):
                    raise self._lost("no answer in time")
                part = os.read(fd, 65536)
                if not part:
                    raise self._lost("it ended")
                self._inbox += part
                if len(self._inbox) > MAX_ANSWER_BYTES:
                    raise self._lost(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        line, _newline, self._inbox = self._inbox.partition(b"\n")
        return bytes(line.rstrip(b"\r"))

    def _lost(self, reason: Optional[str]) -> AnsibleError:
        said = ""
        if not self._errors.closed:
            self._errors.seek(0)
            said = self._errors.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        return AnsibleError(f"{self._host}: the line to it is lost: {said or reason}")
