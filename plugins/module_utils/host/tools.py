# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the host that others wrote: run to their end, without a shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..errors import SplitMirrorError

_KEPT = ("HOME", "LOGNAME", "TMPDIR", "TZ", "USER")


class ToolError(SplitMirrorError):
    """A program that is missing or that failed.

    :ivar exit_code: None when it is missing. :ivar output: what it printed on its standard output.
    """

    code = "program_failed"

    def __init__(self, message: str, exit_code: Optional[int], output: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.output = output


def own_environment(more: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """The environment of every program that we start.

    Variables that tell programs what to do (``TAR_OPTIONS``, ``LVM_SYSTEM_DIR``, ``LD_PRELOAD``, …) may stand in ours,
    and would change what is written, restored or frozen; so only those pass that every login has.

    :param more: further variables, of ours.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**kept, "LC_ALL": "C", "PATH": path, **(more or {})}


def run_program(
    command: Sequence[str], *, environment: Optional[Mapping[str, str]] = None, timeout_s: Optional[float] = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end without input, whatever its exit code.

    :param environment: variables besides those of own_environment. :param timeout_s: kill it after this time.
    :raises OSError: it cannot be started. :raises subprocess.TimeoutExpired: it was killed.
    """
    # run_command belongs to a module, and these packages do not know Ansible.
    return subprocess.run(  # pylint: disable=ansible-bad-function
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=timeout_s,
        env=own_environment(environment),
    )


def start_program(
    command: Sequence[str], *, environment: Optional[Mapping[str, str]] = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program and return at once.

    :param environment: see run_program. :param options: of subprocess.Popen. :raises OSError: it cannot be started.
    """
    # run_command would wait for its end.
    return subprocess.Popen(  # pylint: disable=ansible-bad-function
        list(command), env=own_environment(environment), **options
    )


def run_tool(*command: str, environment: Optional[Mapping[str, str]] = None) -> str:
    """Run a program to its end and return its output. It is never killed: that could leave I/O suspended.

    :param environment: variables besides those of own_environment.
    :raises ToolError: it is not there, or it failed; with its own words.
    """
    try:
        done = run_program(command, environment=environment)
    except FileNotFoundError as exc:
        raise ToolError(f"{command[0]}: it is not installed on this host.", None) from exc
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ToolError(f"{' '.join(command)}: {words}", done.returncode, done.stdout)
    return done.stdout
