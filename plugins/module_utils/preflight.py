# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be known before a backup begins: questions to one host, each with its answer, and nothing is changed."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Callable, Optional

from .errors import SplitMirrorError

#: What a state folder needs at least, for records and sockets; maps and catalogs are larger, and as large as the host.
_ROOM_BYTES = 64 << 20
_OLDEST_PYTHON = (3, 9)


@dataclass(frozen=True)
class Finding:
    """One question. :param right: a backup can begin as far as it is concerned. :param answer: one sentence."""

    question: str
    right: bool
    answer: str


class Preflight:
    """The questions to one host, in the order in which they are asked. :ivar findings: their answers."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ask(self, question: str, look: Callable[[], str]) -> bool:
        """Keep the answer to one question, and return whether it is right.

        :param look: returns what was found; whatever it raises is what is wrong.
        """
        try:
            self.findings.append(Finding(question, True, look()))
        except SplitMirrorError as exc:
            self.findings.append(Finding(question, False, exc.message))
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            self.findings.append(Finding(question, False, f"{where}{exc.strerror or exc}"))
        return self.findings[-1].right

    def ask_common(self, *, root: bool, controller_time_s: Optional[float], clock_tolerance_s: float) -> None:
        """Ask what every host is asked.

        :param root: whether the user has to be root.
        :param controller_time_s: the controller's clock when it asked; None to leave the clock out.
        """
        self.ask("Python", _python)
        if root:
            self.ask("user", _user)
        if controller_time_s is not None:
            ahead_s = time.time() - controller_time_s
            self.ask("clock", lambda: _clock(ahead_s, clock_tolerance_s))


def folder_ready(path: str, option: str, room_bytes: int = _ROOM_BYTES) -> str:
    """Whether a folder is there, or can be made, and has room; it is not made.

    :raises SplitMirrorError: it cannot be used.
    """
    nearest = os.path.abspath(path)
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise SplitMirrorError(
            f"{option}: {nearest} is not a folder; name another folder, or remove what is there.",
            option=option,
            code="state_dir_unusable",
        )
    disk = os.statvfs(nearest)
    if disk.f_flag & os.ST_RDONLY or not os.access(nearest, os.W_OK | os.X_OK):
        raise SplitMirrorError(
            f"{option}: {nearest} cannot be written; name another folder.", option=option, code="state_dir_unusable"
        )
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < room_bytes:
        raise SplitMirrorError(
            f"{option}: {path} has {free_bytes} bytes left and needs {room_bytes} at least; make room there.",
            option=option,
            code="state_dir_unusable",
        )
    return (
        f"{path} {'is there' if nearest == os.path.abspath(path) else 'can be made'}, {free_bytes >> 20} MiB are free."
    )


def _python() -> str:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        raise SplitMirrorError(
            f"Python {found} is too old; set ansible_python_interpreter to one of 3.9 or newer.", code="host_python"
        )
    return f"{sys.executable} is Python {found}."


def _user() -> str:
    if os.geteuid() != 0:
        raise SplitMirrorError(f"the user (uid {os.geteuid()}) is not root; set become: true.", code="needs_root")
    return "The user is root."


def _clock(ahead_s: float, tolerance_s: float) -> str:
    if abs(ahead_s) > tolerance_s:
        raise SplitMirrorError(
            f"the clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the controller's, which "
            "names sessions and lets them expire; set both by NTP.",
            code="host_unfit",
        )
    return f"The clock agrees with the controller's within {tolerance_s:.0f} s."
