# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The window on one host: databases and then file systems are frozen, and thawed in reverse order."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional, Sequence

from ..database.base import DatabaseDriver, DatabaseError
from ..host.strict_json import read_json
from . import freeze
from .freeze import FreezeError, FrozenBySomeoneElse, Needed
from .guard import GuardError, Guards
from .protocol import EventLog
from .rescue import COMMAND_PAUSE_S
from .writes import SHORT_PART, Written, write_out, write_rest

MAX_DEADLINE_S = 3600.0
#: The part of the deadline that the check of the map may take.
CHECK_SHARE = 1 / 3
#: A freeze is tried once, a thaw many times.
THAW_TRIES = 50
_THAW_PAUSE_S = 0.02
_COMMAND_TRIES = 3


@dataclass(frozen=True)
class Closed:
    """A window that is over. :param window_s: from freeze_sent to thaw_acknowledged.

    :param intact: everything stayed frozen until our own thaw. :param error: one sentence, why it did not.
    """

    window_s: float
    intact: bool
    error: Optional[str]


class Window:
    """At most one window at a time. It is closed by close(), or by a guard, and open while something cannot be thawed.

    :param record: a file that names the frozen mount points while there are any, for a recovery after everything died.
    """

    def __init__(self, guards: Guards, log: EventLog, needed: Sequence[Needed], record: str) -> None:
        self._guards = guards
        self._log = log
        self._needed = needed
        self._record = record
        self._opened: list[tuple[str, int]] = []
        self._touched: list[int] = []
        self._written: list[Written] = []
        self._drivers: list[DatabaseDriver] = []
        self._errors: list[str] = []
        self._sent = 0.0
        self.deadline: Optional[float] = None
        self.last: Optional[Closed] = None

    @property
    def is_open(self) -> bool:
        """Whether something is frozen by us."""
        return self.deadline is not None

    @property
    def mount_points(self) -> list[str]:
        """What is frozen."""
        return [self._opened[index][0] for index in self._touched]

    @property
    def devices(self) -> set[int]:
        """Numbers of the devices whose file systems are frozen."""
        return {os.fstat(self._opened[index][1]).st_dev for index in self._touched}

    def own_deadline(self) -> Optional[float]:
        """When the holder thaws by itself if it is not asked to: a little before the guard would kill it and thaw."""
        return None if self.deadline is None else self._guards.holders_time

    def check_budget_s(self) -> Optional[float]:
        """How long a check may take that begins now."""
        deadline = self.own_deadline()
        if deadline is None or self.deadline is None:
            return None
        return min(deadline - time.monotonic(), (self.deadline - self._sent) * CHECK_SHARE)

    def open(
        self,
        mounts: Sequence[str],
        drivers: Sequence[DatabaseDriver],
        deadline_s: float,
        *,
        before: Callable[[set[int]], None],
        unwanted: Callable[[], bool],
    ) -> None:
        """Freeze.

        :param mounts: mount points. :param drivers: databases that do something in the window, before them.
        :param deadline_s: from the freeze until the guard ends it.
        :param before: work that makes the window short; done when the files are written out a first time, and given
            the numbers of the devices that will be frozen.
        :param unwanted: returns whether the task that asked for the freeze is gone.
        :raises SplitMirrorError: nothing stays frozen then, except what could not be thawed.
        """
        if self.is_open:
            raise FreezeError(
                "mounts: this session has frozen already; thaw it first.", option="mounts", code="session_busy"
            )
        if not 0 < deadline_s <= MAX_DEADLINE_S:
            raise FreezeError(
                f"deadline_s: {deadline_s:g} s is out of range; it must be above 0 and at most {MAX_DEADLINE_S:g} s.",
                option="deadline_s",
                code="option_invalid",
            )
        if not mounts and all(driver.quiesce != "freeze" for driver in drivers):
            raise FreezeError(
                "mounts: there is nothing to freeze; name a mount point.", option="mounts", code="option_invalid"
            )
        checked = freeze.check_mounts(mounts, self._needed)
        try:
            for mount in checked:
                self._opened.append((os.fsdecode(mount.mount_point), freeze.open_mount(mount)))
            self._prepare(drivers, deadline_s, lambda: before({mount.dev for mount in checked}))
            if unwanted():
                raise FreezeError("session: the task that asked for the freeze is gone, so nothing is frozen.")
            self._freeze(drivers, deadline_s)
        except BaseException:
            if not self.is_open:
                self._release()
            raise

    def close(self, event: str = "thaw_sent") -> Closed:
        """Thaw everything, whatever happened before; what cannot be thawed is left for another call, or the guard.

        :param event: the name under which the thaw enters the log.
        """
        if not self.is_open:
            return self.last or Closed(0.0, False, "Nothing was frozen.")
        self._log.add(event)
        if event != "thaw_sent":
            self._errors.append(f"The window was ended by {event}, not by its own thaw.")
        self._thaw()
        acknowledged = self._log.add("thaw_acknowledged")
        # The first error stays: a later thaw that succeeds does not make the window good.
        del self._errors[1:]
        error = self._errors[0] if self._errors else None
        self.last = Closed(round(acknowledged - self._sent, 6), error is None, error)
        return self.last

    def _prepare(self, drivers: Sequence[DatabaseDriver], deadline_s: float, before: Callable[[], None]) -> None:
        for driver in drivers:
            driver.prepare_window()
        for _name, fd in self._opened:
            freeze.sync(fd)
        before()
        write_out(self._opened, deadline_s)
        self._written = [Written(os.fstat(fd).st_dev) for _name, fd in self._opened]
        with open(self._record, "w", encoding="utf-8") as stream:
            json.dump([name for name, _fd in self._opened], stream)
        gc.collect()

    def _freeze(self, drivers: Sequence[DatabaseDriver], deadline_s: float) -> None:
        commands = [command for command in (driver.thaw_command() for driver in drivers) if command is not None]
        deadline = time.monotonic() + deadline_s
        self._guards.arm(deadline, [fd for _name, fd in self._opened], commands)
        self._sent = self._log.add("freeze_sent")
        self.deadline = deadline
        self._errors = []
        # No garbage collection in the window: it would touch all memory, and take time.
        gc.disable()
        try:
            for driver in drivers:
                self._drivers.append(driver)
                try:
                    driver.in_window(max(0.1, (deadline - time.monotonic()) / 2), self._guards.command_started)
                finally:
                    self._guards.command_over()
            if time.monotonic() - self._sent > deadline_s * SHORT_PART:
                write_rest(self._opened, self._guards.holders_time or deadline, deadline_s)
            for index in range(len(self._opened)):
                self._freeze_one(index)
        except BaseException:
            self.close("freeze_failed")
            raise
        self._log.add("freeze_acknowledged")

    def _freeze_one(self, index: int) -> None:
        name, fd = self._opened[index]
        self._guards.mark(index, True)
        # Noted before the freeze, so that it is thawed even when the freeze reports an error.
        self._touched.append(index)
        try:
            freeze.freeze(fd, name)
            self._written[index].begin()
        except FrozenBySomeoneElse:
            self._touched.remove(index)
            with contextlib.suppress(GuardError):
                self._guards.mark(index, False)
            raise

    def _thaw(self) -> None:
        """Thaw, note what went wrong, and release everything unless something stays frozen."""
        stuck: list[int] = []
        for index in reversed(self._touched):
            name, fd = self._opened[index]
            went_on = self._written[index].went_on()
            problem, frozen = _thaw_one(fd)
            if problem is not None:
                stuck.insert(0, index)
                self._errors.append(f"mounts: {name} could not be thawed: {problem}.")
            elif not frozen:
                self._errors.append(f"mounts: {name} was thawed by someone else before this thaw.")
            elif went_on:
                self._errors.append(
                    f"mounts: {name} was written to while it was frozen: someone else thawed it and froze it again."
                )
        failed = _thaw_drivers(reversed(self._drivers))
        for _attempt in range(_COMMAND_TRIES - 1):
            if failed:
                time.sleep(COMMAND_PAUSE_S)
                failed = _thaw_drivers(failed)
        self._errors += failed.values()
        self._drivers = [driver for driver in self._drivers if driver in failed and driver.thaw_command() is not None]
        for driver in failed:
            if driver not in self._drivers:
                driver.close()  # the end of its session ends the freeze
        if stuck or self._drivers:  # the guard stays armed: it tries again at the deadline, and after our death
            for index in set(self._touched).difference(stuck):
                with contextlib.suppress(GuardError):
                    self._guards.mark(index, False)
            self._touched = stuck
            return
        self._guards.disarm()
        self._release()

    def _release(self) -> None:
        for _name, fd in self._opened:
            os.close(fd)
        for written in self._written:
            written.close()
        self._opened, self._touched, self._written = [], [], []
        self.deadline = None
        gc.enable()
        with contextlib.suppress(OSError):  # a disk that fails does not matter: all is thawed
            os.unlink(self._record)


def read_record(path: str) -> list[str]:
    """The mount points that a dead holder had frozen, or nothing. :raises FreezeError: the file cannot be read."""
    try:
        mounts: Any = read_json(path)
    except (FileNotFoundError, ValueError):
        return []
    except OSError as exc:
        raise FreezeError(
            f"{path}: it cannot be read ({exc.strerror}), and names what a dead holder has frozen; see that the file "
            "systems of the database are thawed (fsfreeze --unfreeze), and remove it."
        ) from exc
    return [str(mount) for mount in mounts] if isinstance(mounts, list) else []


def _thaw_one(fd: int) -> tuple[Optional[str], bool]:
    """Return what went wrong in the last try, if it failed, and whether the file system was frozen."""
    problem = ""
    for _attempt in range(THAW_TRIES):
        try:
            return None, freeze.thaw(fd)
        except OSError as exc:
            problem = str(exc.strerror)
        time.sleep(_THAW_PAUSE_S)
    return problem, True


def _thaw_drivers(drivers: Iterable[DatabaseDriver]) -> dict[DatabaseDriver, str]:
    """Thaw databases; return those that did not, and why."""
    failed = {}
    for driver in drivers:
        try:
            driver.thaw()
        except DatabaseError as exc:
            failed[driver] = exc.message
    return failed
