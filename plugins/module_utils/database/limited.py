# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command that may hang, and return in time whatever it does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

from ..host.lifeline import die_with
from ..host.tools import start_program

# After SIGKILL a process is gone at once, unless it hangs in the kernel; then it is not waited for.
_KILLED_S = 1.0
#: Waits for a line and then becomes the command; ends without it when the sender of the line is dead.
_GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")


@dataclass(frozen=True)
class Done:
    """How a command ended. :param code: exit code, None when it was ended at its limit."""

    code: Optional[int]
    out: bytes
    err: bytes


def run_limited(
    argv: Sequence[str],
    limit_s: float,
    environment: Optional[Mapping[str, str]] = None,
    *,
    dies_with_us: bool = False,
    started: Optional[Callable[[int], None]] = None,
) -> Done:
    """Run a command, never through a shell; at the limit it is killed with all that it started.

    Its output goes to memory: a pipe would be held open by a child that outlives it, and a file could lie on a file
    system that is frozen.

    :param limit_s: seconds.
    :param environment: variables besides those of own_environment.
    :param dies_with_us: whether the kernel kills it (not what it started) when we die.
    :param started: called with its process group before the command runs; if it raises, the command never runs.
    :raises OSError: it cannot be started.
    """
    us = os.getpid()
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        process = start_program(
            [*(_GATE if started is not None else ()), *argv],
            environment=environment,
            stdin=subprocess.DEVNULL if started is None else subprocess.PIPE,
            bufsize=0,
            stdout=out,
            stderr=err,
            cwd="/",
            start_new_session=True,
            preexec_fn=(lambda: die_with(us)) if dies_with_us else None,  # one system call, no lock
        )
        code: Optional[int] = None
        try:
            if started is not None and process.stdin is not None:
                with process.stdin as gate:
                    started(process.pid)
                    with contextlib.suppress(BrokenPipeError):  # it was killed from outside
                        gate.write(b"\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit_s)
        finally:
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_KILLED_S)
        return Done(code, _content(out), _content(err))
    finally:
        os.close(out)
        os.close(err)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
