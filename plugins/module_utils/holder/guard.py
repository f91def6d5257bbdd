# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dead-man timer of a freeze: a second process that thaws when the holder cannot.

It is forked before any freeze, has its memory locked and knows the folders by open descriptors, so that it needs
nothing from a frozen file system. It thaws when its deadline passes or the holder dies, and then kills a holder that
still lives: with it go the locks and database sessions that it holds. The holder in turn thaws when the guard dies.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, Iterable, NoReturn, Optional, Sequence

from ..database.base import DatabaseError, ThawCommand
from ..database.commands import run_command
from ..errors import SplitMirrorError
from . import freeze
from .process import harden

ANSWER_S = 2.0
#: For how long a thaw command that fails is repeated by the guard, and how long it waits before the next try.
COMMANDS_S = 120.0
COMMAND_PAUSE_S = 0.5
_MAX_MESSAGE_BYTES = 1 << 20
_PAUSE_S = 0.05


class GuardError(SplitMirrorError):
    """A guard that is gone or does not answer: nothing may be frozen."""


class Guard:
    """The holder's end. Make it by start()."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel
        self._alive = True

    @classmethod
    def start(cls) -> Guard:
        """Fork the guard; call it while the process has one thread only."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        holder = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run(theirs, holder)
        theirs.close()
        ours.settimeout(ANSWER_S)
        return cls(pid, ours)

    @property
    def alive(self) -> bool:
        """Whether it still lives, as far as was noticed."""
        return self._alive

    def fileno(self) -> int:
        """A descriptor that becomes readable when the guard dies."""
        return self._channel.fileno()

    def arm(self, deadline: float, fds: Sequence[int], commands: Sequence[ThawCommand]) -> None:
        """Give it what to thaw and when; it returns once the guard stands ready.

        :param deadline: instant, time.monotonic. :param fds: open mount points, in the order of freezing.
        :param commands: of the databases, likewise.
        :raises GuardError: it is gone or does not answer.
        """
        message = {"op": "arm", "deadline": deadline, "commands": [asdict(command) for command in commands]}
        self._ask(message, fds)

    def mark(self, index: int, ours: bool) -> None:
        """Tell it that this one of the mounts is about to be frozen by us, or that it turned out not to be ours.

        :raises GuardError: see arm.
        """
        self._ask({"op": "mark", "index": index, "ours": ours})

    def command_started(self, group: int) -> None:
        """Tell it the process group of a freeze command under way: it must not come true after the thaw.

        :raises GuardError: see arm.
        """
        self._ask({"op": "command", "group": group})

    def command_over(self) -> None:
        """Tell it that no freeze command is under way: the number of its group may be given to another.

        :raises GuardError: see arm.
        """
        self._ask({"op": "command", "group": None})

    def disarm(self) -> None:
        """Tell it that all is thawed; it closes its descriptors. :raises GuardError: see arm."""
        self._ask({"op": "disarm"})

    def reap(self) -> None:
        """Be done with a guard that is dead, or as good as dead: it must not come back and thaw a later freeze.

        Call it when the guard's descriptor has become readable, for it never speaks unasked.
        """
        if self._alive:
            self._alive = False
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Let it go; unless it is armed, it just ends."""
        self._channel.close()
        self._alive = False

    def _ask(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        try:
            self._channel.sendmsg([json.dumps(message).encode()], rights)
            answer = self._channel.recv(64)
        except OSError:
            answer = b""
        if answer != b"ok":
            self.reap()
            raise GuardError("the guard of the holder is gone, so nothing is frozen; run extent_map again.")


class _Armed:
    """What the guard has to thaw."""

    def __init__(self, deadline: float, fds: list[int], commands: list[ThawCommand]) -> None:
        self.deadline = deadline
        self.fds = fds
        self.ours: set[int] = set()
        self.commands = commands
        #: Process group of a freeze command under way.
        self.group: Optional[int] = None


def _run(channel: socket.socket, holder: int) -> NoReturn:
    """The guard's whole life, in the forked child."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) > 2 and int(entry) != channel.fileno():
                with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                    os.close(int(entry))
        harden("splitmirror-grd")
        gc.disable()
        _watch(channel, holder)
        code = 0
    finally:
        os._exit(code)


def _watch(channel: socket.socket, holder: int) -> None:
    armed: Optional[_Armed] = None
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        left_ms = None if armed is None else max(0, int((armed.deadline - time.monotonic()) * 1000) + 1)
        if not poll.poll(left_ms):
            if armed is not None and time.monotonic() >= armed.deadline:
                _rescue(armed, holder)
                return
            continue
        data, rights, _flags, _address = channel.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * freeze.MAX_MOUNTS))
        if not data:
            if armed is not None:
                _rescue(armed, holder)
            return
        message = json.loads(data)
        if message["op"] == "arm":
            commands = [ThawCommand(c["database"], tuple(c["argv"]), c["timeout_s"]) for c in message["commands"]]
            armed = _Armed(message["deadline"], _descriptors(rights), commands)
        elif armed is not None and message["op"] == "mark":
            (armed.ours.add if message["ours"] else armed.ours.discard)(message["index"])
        elif armed is not None and message["op"] == "command":
            armed.group = message["group"]
        elif armed is not None and message["op"] == "disarm":
            for fd in armed.fds:
                os.close(fd)
            armed = None
        with contextlib.suppress(OSError):  # a holder that died meanwhile is seen at the next turn
            channel.send(b"ok")


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _level, _kind, data in rights:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _rescue(armed: _Armed, holder: int) -> None:
    """End the holder, thaw, and go on thawing until nothing can be frozen any more.

    The signal comes first: a holder that hangs in a freeze must not be able to report it as good afterwards. With it
    goes a freeze command of a database that is under way, with all that it started.

    A freeze under way in the holder answers EINVAL to a thaw and may be complete a moment later, so only a thaw after
    the holder's death is the last word. Each file system has its own thread: a thaw waits in the kernel for a freeze
    under way, and that freeze may itself wait for the thaw of another file system. The databases come after a first
    try of each, because they write when they go on; they have a thread of their own, for they may take long.
    """
    _kill(holder)
    _kill_group(armed.group)
    holder_gone = threading.Event()
    thaws = [_Thaw(armed.fds[index], holder_gone) for index in sorted(armed.ours, reverse=True)]
    patience = time.monotonic() + ANSWER_S
    for thaw in thaws:
        thaw.tried.wait(max(0.0, patience - time.monotonic()))
    databases = threading.Thread(target=_thaw_databases, args=(armed.commands, armed.group), daemon=True)
    databases.start()
    while not _kill(holder):
        time.sleep(_PAUSE_S)
    holder_gone.set()
    for thaw in thaws:
        thaw.join()
    for fd in armed.fds:
        os.close(fd)
    databases.join()


def _thaw_databases(commands: Sequence[ThawCommand], group: Optional[int]) -> None:
    """Run the thaw commands, the last that was frozen first, each until it succeeds; tell of those that never did.

    :param group: of a freeze command that was killed; its end is awaited before, but not for ever: it may hang in the
        kernel, and a zombie that nobody reaps counts as well.
    """
    patience = time.monotonic() + ANSWER_S
    while not _kill_group(group) and time.monotonic() < patience:
        time.sleep(_PAUSE_S)
    deadline = time.monotonic() + COMMANDS_S
    failed = _run_thaws(reversed(commands))
    while failed and time.monotonic() < deadline:
        time.sleep(COMMAND_PAUSE_S)
        failed = _run_thaws(failed)
    for error in failed.values():
        with contextlib.suppress(OSError):  # the disk of holder.log may be full
            sys.stderr.write(f"{error} The guard has given up; thaw it by hand.\n")
            sys.stderr.flush()


def _run_thaws(commands: Iterable[ThawCommand]) -> dict[ThawCommand, str]:
    """Run each once; return those that failed, and why."""
    failed = {}
    for command in commands:
        try:
            run_command(command.database, "thaw", command.argv, command.timeout_s)
        except DatabaseError as exc:
            failed[command] = exc.message
    return failed


def _kill(holder: int) -> bool:
    """Kill the holder if it lives; return whether it is gone."""
    if os.getppid() != holder:  # a dead parent is replaced by another
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder, signal.SIGKILL)
    return False


def _kill_group(group: Optional[int]) -> bool:
    """Kill a process group, if there is one; return whether all of it is gone."""
    if group is None:
        return True
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # or it runs as another user, and we may not
        return True
    return False


class _Thaw(threading.Thread):
    """Thaws one file system until the holder is gone and the kernel has said that it is not frozen."""

    def __init__(self, fd: int, holder_gone: threading.Event) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._holder_gone = holder_gone
        self.tried = threading.Event()
        self.start()

    def run(self) -> None:
        while True:
            last = self._holder_gone.is_set()
            done = False
            with contextlib.suppress(OSError):
                freeze.thaw(self._fd)
                done = True
            self.tried.set()
            if done and last:
                return
            self._holder_gone.wait(_PAUSE_S)
