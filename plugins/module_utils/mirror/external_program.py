# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kind ``program`` of provider ``external``: a program of the user's stands ready, and answers lines.

It is started when the split is armed. Each line that it gets and each that it writes is one JSON object; the page of
provider external has the protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO, ClassVar, Optional

from ..host.lifeline import die_with
from ..host.strict_json import parse_json
from ..host.tools import start_program
from ..options import Spec
from .base import MirrorError
from .external_link import Answers, Job, Link, answers_of, command_of, tail_of, unknown_names, wrong_shape

PROTOCOL = 1
OPTIONAL = ("look", "present", "withdraw")
_LINE_BYTES = 1 << 20
_STOP_S = 5.0


class ProgramLink(Link):
    """A program that stands ready."""

    kind = "program"
    argument_spec: ClassVar[Spec] = {
        "program": {"type": "list", "elements": "str"},
        "program_answers": {"type": "list", "elements": "str"},
    }

    def __init__(self, options: Mapping[str, Any], job: Job) -> None:
        super().__init__(options, job)
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._errors: Optional[BinaryIO] = None
        self._inbox = bytearray()

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """See Link."""
        if options["program"] is None:
            return ["program: kind program needs it."]
        return (
            command_of("program", options["program"])
            + unknown_names("program", options["program"], ())
            + [
                f"program_answers: {step!r} is not a line that may be left out; name some of {', '.join(OPTIONAL)}."
                for step in options["program_answers"] or ()
                if step not in OPTIONAL
            ]
        )

    @classmethod
    def does(cls, options: Mapping[str, Any], step: str) -> bool:
        """See Link."""
        return step not in OPTIONAL or step in (options["program_answers"] or ())

    @classmethod
    def splits_as_one(cls, options: Mapping[str, Any]) -> bool:
        """See Link; how the program does it is its own business."""
        return True

    def open(self) -> None:
        """See Link."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        try:
            self._process = start_program(
                self.options["program"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,
                # A split that nobody waits for any more must not come after the clean-up.
                preexec_fn=partial(die_with, os.getpid()),  # one system call, no lock
            )
        except OSError as exc:
            raise MirrorError(
                f"program: {self.options['program'][0]} cannot be started ({exc.strerror}).", option="provider_options"
            ) from exc
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
        pairs = [{"name": pair.name, "primary": pair.primary, "mirror": pair.mirror} for pair in self.job.pairs]
        hello = {"protocol": PROTOCOL, "session": self.job.session, "short": self.job.short, "pairs": pairs}
        said = self._say("ready line", {**hello, "secrets": dict(self.job.secrets)}, self.limit_s("open"))
        if said.get("ready") is not True:
            raise self._refused("ready line", "ready", said)

    def stay(self) -> None:
        """See Link."""
        if self._process is None or _has_ended(self._process):
            raise self._failed("it has ended")
        self._refuse_unasked(self._process)

    def ask(self, step: str) -> Answers:
        """See Link."""
        said = self._say(step, {"op": step}, self.limit_s(step))
        if said.get("ok") is not True:
            raise self._refused(step, "ok", said)
        if step == "split":
            names = said.get("pairs")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise wrong_shape(self.job, step, "a list 'pairs' of the names of all pairs that are split", said)
            return {name: {} for name in names}
        return answers_of(self.job, step, said, set_wise=True) if step in ("look", "present") else {}

    def close(self) -> None:
        """See Link."""
        process, self._process = self._process, None
        if process is not None and process.stdin and process.stdout:
            with contextlib.suppress(OSError), process.stdin as stream:
                stream.write(b'{"op": "stop"}\n')
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                _kill(process)
            process.stdout.close()
        if self._errors is not None:
            self._errors.close()

    def _say(self, step: str, line: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        """Send a line, and return the one that answers it. After an answer that is late nothing more is asked."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise MirrorError(f"{step}: the program does not run any more.", option="provider_options")
        deadline = time.monotonic() + timeout_s
        if "op" in line:
            self._refuse_unasked(process)
        try:
            self._exchange(process, json.dumps(line).encode() + b"\n", deadline)
        except _Silent as exc:
            # Whatever it has begun, it must not go on beside the clean-up.
            _kill(process)
            raise self._failed(f"{step}: {str(exc) or f'it gave no answer in {timeout_s:g} s'}") from exc
        text, _newline, rest = bytes(self._inbox).partition(b"\n")
        self._inbox = bytearray(rest)
        try:
            said = parse_json(text)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise wrong_shape(self.job, f"program: {step}", "one JSON object in a line", text.decode(errors="replace"))
        return said

    def _exchange(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        """Write, and read until a line is in the inbox. :raises _Silent: it is not in time, or never will be."""
        if process.stdin is None or process.stdout is None:  # both are pipes
            raise AssertionError(process)
        ending = _pidfd(process)
        try:
            while b"\n" not in self._inbox:
                poll = select.poll()
                poll.register(process.stdout, select.POLLIN)
                if data:
                    poll.register(process.stdin, select.POLLOUT)
                if ending is not None:
                    poll.register(ending, select.POLLIN)
                ready = {fd for fd, _event in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
                if not ready:
                    raise _Silent
                if process.stdout.fileno() in ready:
                    said = os.read(process.stdout.fileno(), 1 << 16)
                    if not said:
                        raise _Silent("it has ended without an answer")
                    self._inbox += said
                    if len(self._inbox) > _LINE_BYTES:
                        raise _Silent(f"its answer is longer than {_LINE_BYTES} bytes")
                elif ending in ready:
                    # What it has started may hold its output open.
                    raise _Silent("it has ended without an answer")
                elif data:
                    try:
                        data = data[os.write(process.stdin.fileno(), data) :]
                    except OSError as exc:
                        raise _Silent("it has ended") from exc
        finally:
            if ending is not None:
                os.close(ending)

    def _refuse_unasked(self, process: subprocess.Popen[bytes]) -> None:
        """A line that answers nothing would be taken for the next answer. :raises MirrorError: there is one."""
        poll = select.poll()
        if process.stdout is not None:
            poll.register(process.stdout, select.POLLIN)
            if poll.poll(0):
                self._inbox += os.read(process.stdout.fileno(), 1 << 16)
        if self._inbox:
            said = self.job.quote(bytes(self._inbox).decode(errors="replace"))
            _kill(process)
            raise self._failed(
                f"it has written what nobody has asked for ({said}); write one line for each that it reads, and "
                "everything else to its standard error"
            )

    def _refused(self, step: str, key: str, said: Mapping[str, Any]) -> MirrorError:
        error = said.get("error")
        if said.get(key) is not False or not isinstance(error, str):
            return wrong_shape(self.job, f"program: {step}", f"{key!r}: true, or false and an 'error'", said)
        return MirrorError(f"{step}: the program refuses: {self.job.quote(error)}", option="provider_options")

    def _failed(self, what: str) -> MirrorError:
        """An error with the last words of the program."""
        words = ""
        if self._errors is not None and not self._errors.closed:
            words = self.job.quote(tail_of(self._errors), end=True)
        return MirrorError(
            f"program: {self.options['program'][0]}: {what}{f' ({words})' if words else ''}.", option="provider_options"
        )


class _Silent(Exception):
    """There will be no answer; says why, unless it is late."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it with all that it has started. One that has been waited for may have given its number to another."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it keeps its number."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _pidfd(process: subprocess.Popen[bytes]) -> Optional[int]:
    """A descriptor that can be read when it has ended; None on kernels before 5.3."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        return None
