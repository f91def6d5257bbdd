# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""End a freeze that its holder cannot end: kill the holder, thaw the file systems, then the databases.

All of it is done by processes that were forked before the freeze, with open descriptors and locked memory: nothing
here reads a file outside /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Iterable, Optional, Sequence

from ..database.base import DatabaseError, ThawCommand
from ..database.commands import run_command
from ..host.daemon import DaemonRecord, is_alive
from . import freeze
from .hanging import hanging_processes

#: For how long a thaw command that fails is repeated, and how long to wait before the next try.
COMMANDS_S = 120.0
COMMAND_PAUSE_S = 0.5
#: How long a first try to thaw may take before what hangs in the kernel is reported and the databases are thawed.
PATIENCE_S = 2.0
_PAUSE_S = 0.05


@dataclass
class Armed:
    """What has to be thawed. :param deadline: instant, time.monotonic. :param fds: open mount points.

    :param commands: of the databases, in the order of freezing. :param ours: which of ``fds`` we have frozen.
    :param group: process group of a freeze command under way.
    """

    deadline: float
    fds: list[int]
    commands: list[ThawCommand]
    ours: set[int] = field(default_factory=set)
    group: Optional[int] = None

    def close(self) -> None:
        """Close the mount points."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def rescue(
    armed: Armed,
    holder: DaemonRecord,
    before_databases: Callable[[], bool] = lambda: True,
    thawed: Callable[[], object] = lambda: None,
) -> None:
    """Kill the holder and thaw, again and again until nothing can be frozen any more.

    The signal comes first: a holder that hangs in a freeze must not be able to report it as good afterwards. A freeze
    command of a database that still runs is killed as well, with all that it started.

    A freeze under way in the holder answers EINVAL to a thaw and may be complete a moment later, so only a thaw after
    the holder's death is final. Each file system has its own thread: a thaw waits in the kernel for a freeze
    under way, and that freeze may itself wait for the thaw of another file system. The databases come after a first
    try of each, because they write when they go on; they have a thread of their own, because they may take long.

    :param before_databases: called before them; False leaves them to another.
    :param thawed: called when the file systems are thawed for good; databases may take longer.
    """
    kill(holder)
    _kill_group(armed.group)
    holder_gone = threading.Event()
    thaws = [_Thaw(armed.fds[index], holder_gone) for index in sorted(armed.ours, reverse=True)]
    by_hand = [thaw for thaw in thaws if not start(thaw.run)]
    for thaw in by_hand:
        thaw.turn()
    patience = time.monotonic() + PATIENCE_S
    for thaw in thaws:
        thaw.tried.wait(max(0.0, patience - time.monotonic()))
    databases_over = threading.Event()

    def databases() -> None:
        try:
            _databases(armed, before_databases)
        finally:
            databases_over.set()

    under_way = start(databases)
    told = False
    while not kill(holder):
        if not told and time.monotonic() >= patience:
            told = True
            _tell(_hangs(holder))
        for thaw in by_hand:
            thaw.turn()
        under_way = under_way or start(databases)
        time.sleep(_PAUSE_S)
    holder_gone.set()
    for thaw in by_hand:
        thaw.run()
    for thaw in thaws:
        thaw.over.wait()
    armed.close()
    thawed()
    if not under_way:
        databases()
    databases_over.wait()


def start(work: Callable[[], None]) -> bool:
    """Do the work in a thread; return False when no thread can be started, for lack of processes or of memory.

    While writes stand still, other programs may start processes until the host has no more to give.
    """
    try:
        threading.Thread(target=work, daemon=True).start()
    except (RuntimeError, MemoryError):
        return False
    return True


def kill(victim: DaemonRecord) -> bool:
    """Kill this process if it lives; return whether it is gone for certain."""
    try:
        if not is_alive(victim):
            return True
    except OSError:  # /proc cannot be read now
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)
    return False


def _databases(armed: Armed, before: Callable[[], bool]) -> None:
    if before():
        _thaw_databases(armed.commands, armed.group)


def _thaw_databases(commands: Sequence[ThawCommand], group: Optional[int]) -> None:
    """Run the thaw commands, the last that was frozen first, each until it succeeds; report those that never did.

    :param group: of a freeze command that was killed. Its end is awaited before, but not for ever: it may hang in the
        kernel, or be a zombie that is never reaped.
    """
    patience = time.monotonic() + PATIENCE_S
    while not _kill_group(group) and time.monotonic() < patience:
        time.sleep(_PAUSE_S)
    deadline = time.monotonic() + COMMANDS_S
    failed = _run_thaws(reversed(commands))
    while failed and time.monotonic() < deadline:
        time.sleep(COMMAND_PAUSE_S)
        failed = _run_thaws(failed)
    for error in failed.values():
        _tell(f"{error} The guard has given up; thaw it by hand.")


def _run_thaws(commands: Iterable[ThawCommand]) -> dict[ThawCommand, str]:
    """Run each command once; return those that failed, and why."""
    failed = {}
    for command in commands:
        try:
            run_command(command.database, "thaw", command.argv, command.timeout_s)
        except DatabaseError as exc:
            failed[command] = exc.message
    return failed


def _hangs(holder: DaemonRecord) -> str:
    hanging = "none that /proc shows"
    with contextlib.suppress(OSError):
        hanging = ", ".join(hanging_processes()) or hanging
    return (
        f"The kernel has not finished the freeze that the holder (process {holder.pid}) began, so it cannot be thawed "
        f"yet; it will be as soon as the kernel has finished. Processes that hang in the kernel: {hanging}."
    )


def _tell(sentence: str) -> None:
    with contextlib.suppress(OSError):  # the disk of holder.log may be full
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()


def _kill_group(group: Optional[int]) -> bool:
    """Kill a process group, if there is one; return whether all of it is gone."""
    if group is None:
        return True
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # it is gone, or it runs as another user and may not be signalled
        return True
    return False


class _Thaw:
    """Thaws one file system until the holder is gone and the kernel has said that it is not frozen."""

    def __init__(self, fd: int, holder_gone: threading.Event) -> None:
        self._fd = fd
        self._holder_gone = holder_gone
        self.tried = threading.Event()
        self.over = threading.Event()

    def run(self) -> None:
        """Try until the last try is done."""
        try:
            while not self.turn():
                self._holder_gone.wait(_PAUSE_S)
        finally:
            self.over.set()

    def turn(self) -> bool:
        """Try once; return whether that was the last try that was needed."""
        last = self._holder_gone.is_set()
        done = False
        with contextlib.suppress(OSError):
            freeze.thaw(self._fd)
            done = True
        self.tried.set()
        return done and last
