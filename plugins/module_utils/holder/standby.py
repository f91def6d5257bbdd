# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two processes that end a freeze when the holder cannot: the guard and the backstop.

Both are forked before any freeze, have their memory locked and know the folders by open descriptors, so that they need
nothing from a frozen file system. The guard is the holder's child. It thaws when its time has come or the holder dies,
and then kills a holder that still lives: with it go the locks and database sessions that it holds. The backstop has a
session and a control group of its own, so that nothing that ends or stops a login session, a service or a container's
group hits all three. It thaws at the deadline, and at once when both others are gone; the databases it leaves to a
guard that is at work. The holder in turn thaws when one of the two dies.
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
import time
import traceback
from typing import Callable, Optional

from ..database.base import ThawCommand
from ..host.daemon import DaemonRecord
from ..host.forking import close_inherited
from ..host.process import harden
from . import freeze
from .outside import leave_group
from .rescue import Armed, kill, rescue, start

#: How often a guard that thaws reports that it is alive, and after what silence the backstop takes it for dead.
BEAT_S = 0.1
SILENCE_S = 1.0
_MAX_MESSAGE_BYTES = 1 << 20
_BEAT, _THAWED, _DONE = b".", b"~", b"+"


class Station:
    """What a guard or backstop knows of the freeze. :param channel: to the holder."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.armed: Optional[Armed] = None

    def left_ms(self, until: Optional[float] = None) -> Optional[int]:
        """How many milliseconds to wait for messages: until the deadline or an earlier instant; None is for ever."""
        deadline = None if self.armed is None else self.armed.deadline
        instants = [instant for instant in (deadline, until) if instant is not None]
        return max(0, int((min(instants) - time.monotonic()) * 1000) + 1) if instants else None

    @property
    def is_due(self) -> bool:
        """Whether the deadline has passed."""
        return self.armed is not None and time.monotonic() >= self.armed.deadline

    def take(self) -> bool:
        """Handle one message; return False when no more can come, however the holder ended.

        A holder that dies with an answer unread leaves ECONNRESET behind (unix(7)), not an end of file.
        """
        try:
            space = socket.CMSG_SPACE(4 * freeze.MAX_MOUNTS)
            data, rights, _flags, _address = self.channel.recvmsg(_MAX_MESSAGE_BYTES, space)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "arm":
            commands = [ThawCommand(c["database"], tuple(c["argv"]), c["timeout_s"]) for c in message["commands"]]
            self.armed = Armed(message["deadline"], _descriptors(rights), commands)
        elif self.armed is not None and message["op"] == "mark":
            (self.armed.ours.add if message["ours"] else self.armed.ours.discard)(message["index"])
        elif self.armed is not None and message["op"] == "command":
            self.armed.group = message["group"]
        elif self.armed is not None and message["op"] == "disarm":
            self.armed.close()
            self.armed = None
        if message["answer"]:
            with contextlib.suppress(OSError):  # a holder that died meanwhile is seen at the next turn
                self.channel.send(b"ok")
        return True


def run_guard(channel: socket.socket, link: socket.socket, holder: DaemonRecord) -> None:
    """The guard's whole life, in the forked child. :param link: to the backstop."""
    _live("splitmirror-grd", channel, link, lambda: None, lambda station: _guard(station, link, holder))


def run_backstop(channel: socket.socket, link: socket.socket, holder: DaemonRecord, guard: DaemonRecord) -> None:
    """The backstop's whole life, in a process that is not the holder's child. :param link: to the guard."""

    def begin() -> None:
        leave_group(f"splitmirror-backstop-{os.getpid()}")
        channel.send(str(os.getpid()).encode())

    _live("splitmirror-bks", channel, link, begin, lambda station: _backstop(station, link, holder, guard))


def _live(
    name: str,
    channel: socket.socket,
    link: socket.socket,
    begin: Callable[[], None],
    watch: Callable[[Station], None],
) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    close_inherited(channel.fileno(), link.fileno())
    harden(name)
    gc.disable()
    begin()
    watch(Station(channel))


def _guard(station: Station, link: socket.socket, holder: DaemonRecord) -> None:
    poll = select.poll()
    poll.register(station.channel, select.POLLIN)

    def watch() -> None:
        while not station.is_due or poll.poll(0):
            if poll.poll(station.left_ms()) and not station.take():
                return

    _whatever_happens(watch)
    if station.armed is not None:
        # If the thread cannot start, the backstop takes over after a while, which does no harm.
        start(lambda: _beat(link))
        rescue(station.armed, holder, thawed=lambda: _say(link, _THAWED))
        _say(link, _DONE)


def _backstop(station: Station, link: socket.socket, holder: DaemonRecord, guard: DaemonRecord) -> None:
    view = _View(station, link)
    _whatever_happens(view.watch)
    if station.armed is not None and not view.guard_is_done:
        rescue(station.armed, holder, lambda: view.guard_gives_up(guard))


def _whatever_happens(watch: Callable[[], None]) -> None:
    """Watch; an unexpected error must not end the process while something is frozen."""
    try:
        watch()
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc(file=sys.stderr)


class _View:
    """What the backstop knows of holder and guard. :param link: to the guard."""

    def __init__(self, station: Station, link: socket.socket) -> None:
        self._station = station
        self._link = link
        self._holder_lives = True
        self._guard_lives = True
        #: The guard has thawed everything.
        self.guard_is_done = False
        #: When the guard last reported, or when it had to begin to report.
        self._heard = 0.0
        self._poll = select.poll()
        self._poll.register(station.channel, select.POLLIN)
        self._poll.register(link, select.POLLIN)

    def watch(self) -> None:
        """Return when nothing is left to guard, or when nobody else can thaw it."""
        station = self._station
        while self._holder_lives or (station.armed is not None and self._guard_lives):
            # When the holder is dead, the guard thaws and reports that it is alive.
            silent_at = None if self._holder_lives or not self._guard_lives else self._heard + SILENCE_S
            ready = {fd for fd, _event in self._poll.poll(station.left_ms(silent_at))}
            if self._link.fileno() in ready:
                self._listen()
            if station.channel.fileno() in ready and not station.take():
                self._poll.unregister(station.channel)
                self._holder_lives = False
                self._heard = time.monotonic()
            if self.guard_is_done or (not ready and (station.is_due or _has_come(silent_at))):
                return

    def guard_gives_up(self, guard: DaemonRecord) -> bool:
        """Wait for a guard that thaws; return True when it is dead, or stuck and killed, and False when it is done."""
        self._heard = max(self._heard, time.monotonic() - SILENCE_S / 2)
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        while self._guard_lives and not self.guard_is_done and not _has_come(self._heard + SILENCE_S):
            if poll.poll(int(SILENCE_S * 100)):
                self._listen()
        if self.guard_is_done:
            return False
        # A guard that is frozen with its control group dies later, but does nothing before that.
        patience = time.monotonic() + SILENCE_S
        while not kill(guard) and not _has_come(patience):
            time.sleep(BEAT_S)
        return True

    def _listen(self) -> None:
        """Take one report of the guard, or note its end."""
        try:
            said = self._link.recv(64)
        except OSError:
            said = b""
        self._heard = time.monotonic()
        if said == _DONE:
            self.guard_is_done = True
        elif said == _THAWED and self._station.armed is not None:
            # What is frozen from now on is not ours. The guard may be busy with databases beyond the deadline.
            self._station.armed.ours.clear()
        elif not said:
            self._poll.unregister(self._link)
            self._guard_lives = False


def _has_come(instant: Optional[float]) -> bool:
    return instant is not None and time.monotonic() >= instant


def _beat(link: socket.socket) -> None:
    while _say(link, _BEAT):
        time.sleep(BEAT_S)


def _say(link: socket.socket, what: bytes) -> bool:
    """Report to the backstop; return whether it is there."""
    try:
        link.send(what, socket.MSG_DONTWAIT)
    except BlockingIOError:  # it is stopped
        return True
    except OSError:
        return False
    return True


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _level, _kind, data in rights:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
