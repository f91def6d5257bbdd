# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find processes that hang in the kernel: a writer among them may delay a freeze, the others wait for the thaw."""

from __future__ import annotations

import contextlib
import os

#: At most so many are named, so that the sentence stays readable.
MOST = 20


def hanging_processes(proc: str = "/proc") -> list[str]:
    """Name the processes in uninterruptible sleep, each with the kernel's function that it sleeps in (proc(5)).

    Only files that need no lock of the process are read: its command line, for one, may hang with it.

    :param proc: where procfs is mounted.
    """
    found = []
    for pid in sorted((int(name) for name in os.listdir(proc) if name.isdigit()), key=int):
        with contextlib.suppress(OSError):
            with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
                name, _parenthesis, rest = stream.read().partition("(")[2].rpartition(")")
            if rest.split()[0] == "D":
                found.append(f"{pid} ({name}{_sleeps_in(f'{proc}/{pid}/wchan')})")
    if len(found) > MOST:
        return [*found[:MOST], f"and {len(found) - MOST} others"]
    return found


def _sleeps_in(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as stream:
        function = stream.read().strip()
        if function not in ("", "0"):
            return f" in {function}"
    return ""
