# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kill a process while its children are at work, and see whether they end with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Callable

_PATIENCE_S = 30


def ends_with_its_parent(life: Callable[[Callable[[], None]], None]) -> int:
    """Fork a process that lives ``life(ready)``, kill it when it calls ``ready``, and wait for all that it forked.

    :returns: how many children it had; they are gone.
    """
    # All of them inherit ``alive``: reading ``told`` comes to its end when the last of them is gone.
    told, alive = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(told)
            life(lambda: _wait_for_the_end(alive))
        finally:
            os._exit(1)
    os.close(alive)
    children: list[int] = []
    try:
        try:
            assert os.read(told, 1) == b"+", "it ended before it was ready"
            listed = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
            children = [int(pid) for pid in listed.split()]
        finally:
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)
        gone = bool(select.select([told], [], [], _PATIENCE_S)[0])
        if not gone:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        assert gone, "the children of a killed process are still there"
        assert os.read(told, 1) == b""
        return len(children)
    finally:
        os.close(told)


def _wait_for_the_end(alive: int) -> None:
    os.write(alive, b"+")
    signal.pause()
