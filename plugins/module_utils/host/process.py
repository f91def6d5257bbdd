# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making a process fit to stand by while file systems are frozen."""

from __future__ import annotations

import contextlib
import ctypes

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_NAME = 15


def harden(name: str) -> None:
    """Name the process, lock its memory, and ask to be spared when memory runs out; all of it as far as allowed.

    Locked memory needs no page from a disk. Pages are locked as they are touched (Linux 4.4), so that the stacks of
    threads do not count whole.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)
    libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("-1000")
