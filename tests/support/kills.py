# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Strike the processes of a freeze at any line of their code, and see whether anything stays frozen.

Holder, guard and backstop are forked from here, so each of them can count the lines that it executes. At the line of
the plan it sends the signals of the plan, to itself or to the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import signal
import sqlite3
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional
from unittest import mock

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import (
    freeze,
    guard,
    recovery,
    server,
    spawn,
    standby,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import ask
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import is_alive, read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import LineError
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

HOLDER, GUARD, BACKSTOP = SIDES = ("holder", "guard", "backstop")
K, S = int(signal.SIGKILL), int(signal.SIGSTOP)
DEADLINE_S = 1.0
#: What a loaded machine may add to the deadline before a file system counts as frozen behind it.
SLACK_S = 4.0
NEVER = 1 << 30
_CODE = os.path.dirname(os.path.abspath(guard.__file__)) + os.sep

#: All that may be hit at once: one always lives.
BLOWS: tuple[dict[str, int], ...] = (
    *({side: number} for side in SIDES for number in (K, S)),
    *(
        {one: first, other: second}
        for one, other in itertools.combinations(SIDES, 2)
        for first, second in itertools.product((K, S), (K, S))
    ),
)


@dataclass(frozen=True)
class Plan:
    """What happens in one round. :param side: whose lines are counted. :param line: the number of the fatal one.

    :param blow: signals by side. :param first: sent as soon as all is frozen. :param thaw: ask for it afterwards.
    """

    side: str
    line: int
    blow: dict[str, int]
    first: dict[str, int] = field(default_factory=dict)
    thaw: bool = True


class Round:
    """A place for rounds, one after the other. :param folder: for state and databases. :param mounts: to freeze."""

    def __init__(self, folder: Path, mounts: Sequence[Path]) -> None:
        self._folder = folder
        self._mounts = mounts
        self._state = StateDir(os.fspath(folder / "state"))
        self._flag = folder / "frozen by a command"
        self._sqlite = folder / "d.sqlite"
        with contextlib.closing(sqlite3.connect(self._sqlite)) as made:
            made.execute("CREATE TABLE IF NOT EXISTS t (n)")
        self._number = 0

    def run(self, plan: Plan) -> tuple[list[str], int]:
        """Play it; return what was still frozen when the deadline was over, and how many lines were counted."""
        self._number += 1
        session = f"round-{self._number}"
        folder = self._state.make_session_dir(session)
        with _struck(plan, folder) as counter:
            spawn.ensure_holder(self._state, session)
        try:
            self._ask(session, "begin", databases=self._databases())
            _write_some(self._mounts)
            Path(folder, "go").touch()
            frozen = self._ask(session, "freeze", mounts=[str(m) for m in self._mounts], deadline_s=DEADLINE_S)
            over = time.monotonic() + DEADLINE_S + SLACK_S
            if frozen:
                strike(folder, plan.first)
                if plan.thaw:
                    self._ask(session, "thaw")
            return self._still_frozen(over), counter.value
        finally:
            for side in SIDES:  # also those that are stopped
                record = read_record(folder, side)
                if record is not None and is_alive(record):
                    os.kill(record.pid, signal.SIGKILL)
            recovery.recover(self._state, session)

    def _databases(self) -> list[dict[str, Any]]:
        touch, remove = ["/usr/bin/touch", str(self._flag)], ["/bin/rm", "-f", str(self._flag)]
        return [
            {"name": "file", "driver": "sqlite", "sqlite": {"path": str(self._sqlite)}},
            {"name": "any", "driver": "commands", "commands": {"freeze": touch, "thaw": remove}},
        ]

    def _ask(self, session: str, op: str, **args: Any) -> bool:
        try:
            ask(self._state, session, op, DEADLINE_S + SLACK_S / 2, **args)
        except LineError:  # dead, stopped, or it refuses because another one is
            return False
        return True

    def _still_frozen(self, over: float) -> list[str]:
        left: list[str] = []
        writers = [(mount, threading.Thread(target=_write_some, args=([mount],))) for mount in self._mounts]
        for _mount, writer in writers:
            writer.start()
        for mount, writer in writers:
            writer.join(max(0.0, over - time.monotonic()))
            fd = os.open(mount, os.O_RDONLY)
            try:
                if writer.is_alive() or freeze.thaw(fd):
                    left.append(str(mount))
                    freeze.thaw(fd)
            finally:
                os.close(fd)
            writer.join()
        with contextlib.closing(sqlite3.connect(self._sqlite, timeout=0, isolation_level=None)) as database:
            if not _in_time(over, lambda: _writes(database)):
                left.append("sqlite")
        if not _in_time(over, lambda: not self._flag.exists()):
            left.append("commands")
            self._flag.unlink()
        return left


def strike(folder: str, blow: dict[str, int]) -> None:
    """Send the signals, the last one to ourselves if we are among them."""
    records = [(read_record(folder, side), number) for side, number in blow.items()]
    for record, number in sorted(records, key=lambda pair: pair[0] is not None and pair[0].pid == os.getpid()):
        if record is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, number)


def play(folder: Path, mounts: Sequence[Sequence[Path]], plans: Sequence[Plan]) -> list[str]:
    """Play all plans, in as many processes as there are groups of mounts; return what stayed frozen, and where."""
    workers = []
    for number, group in enumerate(mounts):
        place = folder / f"worker-{number}"
        place.mkdir(exist_ok=True)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with os.fdopen(write_end, "w", encoding="utf-8") as stream:
                    round_ = Round(place, group)
                    for plan in plans[number :: len(mounts)]:
                        try:
                            left, _lines = round_.run(plan)
                        except Exception:
                            stream.write(f"{plan}: {traceback.format_exc()}\n")
                            raise
                        if left:
                            stream.write(f"{plan}: {', '.join(left)}\n")
                    stream.write("played\n")
                code = 0
            finally:
                os._exit(code)
        os.close(write_end)
        workers.append((pid, read_end))
    found: list[str] = []
    for pid, read_end in workers:
        with os.fdopen(read_end, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        os.waitpid(pid, 0)
        found += lines[:-1] if lines and lines[-1] == "played" else [*lines, f"worker {pid} failed"]
    return found


@contextlib.contextmanager
def _struck(plan: Plan, folder: str) -> Iterator[ctypes.c_int]:
    """Make the three count their lines if they are forked within; yield the shared counter."""
    counter = ctypes.c_int.from_buffer(mmap.mmap(-1, struct.calcsize("i")))

    def counting(side: str, run: Callable[..., None]) -> Callable[..., None]:
        def life(*args: Any) -> None:
            # The others are forked by the holder, and count for themselves.
            tracer = _Counter(plan, folder, counter) if side == plan.side else None
            threading.settrace(tracer)
            sys.settrace(tracer)
            run(*args)

        return life

    with (
        mock.patch.object(spawn, "run_holder", counting(HOLDER, server.run_holder)),
        mock.patch.object(guard, "run_guard", counting(GUARD, standby.run_guard)),
        mock.patch.object(guard, "run_backstop", counting(BACKSTOP, standby.run_backstop)),
    ):
        yield counter


class _Counter:
    """A trace function (sys.settrace) that strikes at the line of the plan."""

    def __init__(self, plan: Plan, folder: str, counter: ctypes.c_int) -> None:
        self._plan = plan
        self._folder = folder
        self._counter = counter
        self._going = False

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Optional[Callable[..., Any]]:
        if not frame.f_code.co_filename.startswith(_CODE):
            return None
        self._going = self._going or os.path.exists(f"{self._folder}/go")
        if event == "line" and self._going:
            self._counter.value += 1
            if self._counter.value == self._plan.line:
                strike(self._folder, self._plan.blow)
        return self


def _write_some(mounts: Sequence[Path]) -> None:
    for mount in mounts:
        fd = os.open(mount / "file", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(fd, os.urandom(4096))
        finally:
            os.close(fd)


def _writes(database: sqlite3.Connection) -> bool:
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    return True


def _in_time(over: float, condition: Callable[[], bool]) -> bool:
    while not condition():
        if time.monotonic() > over:
            return False
        time.sleep(0.01)
    return True
