# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fork a process whose whole life is one function."""

from __future__ import annotations

import contextlib
import os
from typing import Callable

Life = Callable[[], None]


def fork(life: Life) -> int:
    """Return the pid of a child that calls ``life`` and then ends, with 0, or with 1 when ``life`` has failed.

    The child is a copy of the parent, and nothing of the parent's clean-up runs in it.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        life()
        code = 0
    finally:
        os._exit(code)


def fork_orphan(life: Life) -> None:
    """Like fork, but the process has a session of its own and is not our child, so we need not wait for it.

    Whether it has come up is for the process to say.
    """

    def between() -> None:
        os.setsid()
        fork(life)

    os.waitpid(fork(between), 0)


def close_inherited(*kept: int) -> None:
    """Close all open files of the parent but these and the three standard ones: a tape must not stay open."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing is closed already
                os.close(int(entry))
