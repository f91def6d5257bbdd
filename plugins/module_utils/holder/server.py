# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The holder: the process on the database host that keeps what must stay open between tasks.

It keeps the change tracking from before the first file is mapped, the databases' sessions from begin to end, and the
freeze, whose deadline it, its guard and its backstop watch over. It has a lifetime of its own, after which it lets
everything go.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import time
from dataclasses import dataclass, field
from typing import Callable, Optional

from ..host.daemon import write_record
from ..host.lineclient import Json
from ..host.lineserver import LineServer, Service
from ..host.process import harden
from ..session import StateDir
from .checking import MapChecker
from .databases import Databases
from .freeze import FreezeError, Needed
from .guard import End, Guards
from .protocol import NAME, EventLog
from .window import CHECK_SHARE, Closed, Window

#: How often the holder pings the databases, and looks whether its own socket is still there.
LOOK_S = 30.0


class HolderError(FreezeError):
    """A request that the holder cannot do."""

    code = "freeze_refused"


@dataclass(frozen=True)
class HolderConfig:
    """What a holder must know from its beginning.

    :param session: id. :param state: the state folder of this host. :param needed: folders that are never frozen.
    :param lifetime_s: after which it ends by itself.
    """

    session: str
    state: StateDir
    lifetime_s: float
    needed: list[Needed] = field(default_factory=list)


class Holder(Service):
    """Answers the tasks of one session. Everything happens in one thread, one request after the other."""

    def __init__(self, config: HolderConfig, guards: Guards) -> None:
        self._config = config
        self._guards = guards
        self._log = EventLog()
        self._ends = time.monotonic() + config.lifetime_s
        self._server = LineServer(config.state.socket_file(config.session, NAME), self)
        self._window = Window(guards, self._log, config.needed, config.state.frozen_file(config.session))
        self._databases = Databases(self._log, self._server.watch, self._server.unwatch)
        self._checker = MapChecker(config.state.map_file(config.session), config.session, self._log)
        self._socket = self._server.path
        self._socket_inode = os.stat(self._socket).st_ino
        self._next_look = time.monotonic() + LOOK_S
        #: The id of the freeze. A split that knows it was made after the freeze.
        self._token: Optional[str] = None
        self._ops: dict[str, Callable[..., Json]] = {
            "ping": self._ping,
            "status": self._status,
            "track": self._track,
            "begin": self._begin,
            "freeze": self._freeze,
            "check": self._check,
            "check_thaw": self._check_thaw,
            "thaw": self._thaw,
            "end": self._end,
            "stop": self._stop,
        }
        for end in guards.ends():
            self._server.watch(end.fileno(), functools.partial(self._on_lost, end))

    def serve(self) -> None:
        """Answer until a request to stop, SIGTERM, or the end of the lifetime; then thaw, end and close everything."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._server.stop())
        with contextlib.ExitStack() as last:
            # these run from the last to the first, and all of them even if one fails
            last.callback(self._guards.close)
            last.callback(self._checker.close)
            last.callback(self._databases.close)
            last.callback(self._window.close, "stop_thaw")
            self._server.serve()

    def handle(self, op: str, args: Json) -> Json:
        if op not in self._ops:
            raise HolderError(f"the holder does not know the request {op!r}; it knows {', '.join(sorted(self._ops))}.")
        return self._ops[op](**args)

    def events(self) -> list[Json]:
        return self._log.entries

    def orphaned(self, op: str, *, done: bool) -> None:
        """The task is gone: a freeze that it does not know of ends, and a request that ends a freeze is done anyway."""
        if done and op == "freeze":
            self._close_window("orphan_thaw")
        elif not done and op in ("thaw", "check_thaw"):
            self._close_window()
        elif not done and op == "stop":
            self._stop()

    def next_wakeup(self) -> Optional[float]:
        deadline = self._window.own_deadline()
        return min(self._ends, self._next_look if deadline is None else deadline)

    def on_wakeup(self) -> None:
        now = time.monotonic()
        deadline = self._window.own_deadline()
        if deadline is not None and now >= deadline:
            self._close_window("deadline_thaw")
        if now >= self._ends:
            self._log.add("lifetime_over")
            self._server.stop()
        if now >= self._next_look and not self._window.is_open:
            self._databases.ping()
            if not self._is_reachable():
                self._server.stop()
            self._next_look = time.monotonic() + LOOK_S

    def _is_reachable(self) -> bool:
        """Whether our socket is still there. Without it no task could ever end this holder and its hot backup."""
        try:
            return os.stat(self._socket).st_ino == self._socket_inode
        except OSError:
            return False

    def _on_lost(self, end: End) -> None:
        self._server.unwatch(end.fileno())
        end.reap()
        self._log.add(f"{end.name}_lost")
        self._close_window(f"{end.name}_thaw")

    def _close_window(self, event: str = "thaw_sent") -> Closed:
        """Close the window if it is open, and watch the databases again unless something stays frozen."""
        was_open = self._window.is_open
        closed = self._window.close(event)
        if was_open and not self._window.is_open:
            self._databases.resume()
            self._checker.thawed()
        return closed

    def _ping(self) -> Json:
        return {"session": self._config.session, "pid": os.getpid()}

    def _status(self) -> Json:
        now = time.monotonic()
        deadline = self._window.deadline
        return {
            "session": self._config.session,
            "pid": os.getpid(),
            **{f"{end.name}_pid": end.record.pid if end.alive else None for end in self._guards.ends()},
            "tracking": self._checker.tracked,
            "databases": self._databases.names(),
            "hot_backup": self._databases.begun,
            "connection_lost": self._databases.lost(),
            "frozen": self._window.is_open,
            "freeze": self._token if self._window.is_open else None,
            "mounts": self._window.mount_points,
            "deadline_left_s": None if deadline is None else round(deadline - now, 3),
            "lifetime_left_s": round(self._ends - now, 3),
        }

    def _track(self, mounts: list[str]) -> Json:
        return self._checker.track(mounts)

    def _begin(self, databases: list[Json]) -> Json:
        facts = self._databases.begin(databases, f"splitmirror {self._config.session}")
        return {"databases": facts}

    def _freeze(self, mounts: list[str], deadline_s: float) -> Json:
        self._databases.ping()
        for reason in self._databases.lost().values():
            raise HolderError(f"hot backup is lost already, so nothing is frozen: {reason}", code="hot_backup_lost")
        self._databases.pause()
        try:
            before = functools.partial(self._checker.pre_check, budget_s=deadline_s * CHECK_SHARE)
            self._window.open(
                mounts,
                self._databases.drivers,
                deadline_s,
                before=before,
                unwanted=self._server.client_is_gone,
            )
        except BaseException:
            if not self._window.is_open:
                self._databases.resume()
            raise
        # It cannot be known before the freeze is complete, so whoever knows it acts after that.
        self._token = secrets.token_hex(16)
        return {"mounts": self._window.mount_points, "freeze": self._token}

    def _check(self, split: Optional[str] = None) -> Json:
        """:param split: the id of the freeze that the split was given, if the task knows of a split."""
        if split is not None:
            if not self._window.is_open or split != self._token:
                raise HolderError(
                    "split: the mirror was not split in this freeze, so this session is not a backup; split it between "
                    "write_freeze and this check, with the freeze that write_freeze returned.",
                    code="not_split",
                )
            self._log.add("split_sent")
            self._log.add("split_returned")
        try:
            return self._checker.check(self._window.devices, self._window.check_budget_s())
        finally:
            self._checker.close_map()

    def _check_thaw(self) -> Json:
        """Check the map, then thaw, even when the check fails."""
        if self._window.is_open:
            try:
                check = self._checker.checked_or_why_not(self._window.devices, self._window.check_budget_s())
            finally:
                closed = self._close_window()
                self._checker.close_map()
        elif self._window.last is not None:
            closed = self._window.last
            check = {"complete": False, "error": "The window was over before the check."}
        else:
            raise HolderError("nothing was frozen in this session; freeze first.", code="deadline_over")
        return {
            "check": check,
            "window_s": closed.window_s,
            "intact": closed.intact,
            "error": closed.error or check.get("error"),
        }

    def _thaw(self) -> Json:
        was_open = self._window.is_open
        closed = self._close_window()
        return {
            "thawed": was_open,
            "frozen": self._window.is_open,
            "window_s": closed.window_s,
            "intact": closed.intact,
            "error": closed.error,
        }

    def _end(self) -> Json:
        if self._window.is_open:
            raise HolderError("the window is still open; thaw before hot backup is ended.")
        return self._databases.end(self._config.state.extras_file(self._config.session))

    def _stop(self) -> Json:
        self._close_window("stop_thaw")
        self._server.stop()
        return {}


def run_holder(config: HolderConfig, ready: Callable[[], None]) -> None:
    """The whole life of the process, called in a new daemon.

    :param ready: called as soon as it answers.
    """
    guards = Guards.start()
    harden("splitmirror-hld")
    for end in guards.ends():
        write_record(config.state.session_dir(config.session), end.name, end.record)
    holder = Holder(config, guards)
    ready()
    holder.serve()
