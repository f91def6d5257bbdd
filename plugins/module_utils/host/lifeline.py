# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that must not outlive the one that forked it."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
# Found beforehand: a child that was forked beside a thread should not have to look for it.
_prctl = ctypes.CDLL(None).prctl


def die_with(parent: int) -> None:
    """Call it in a forked process: the kernel kills it when the thread that forked it ends, however that ends.

    It outlasts an exec, unless that of a program with rights of its own (setuid, file capabilities).

    :param parent: pid of the process that forked.
    """
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    # It may have died before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)
