# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The databases of a session in its holder: hot backups under way, and what happens to each in the window."""

from __future__ import annotations

import contextlib
import select
from typing import Any, Callable, Mapping, Sequence

from ..database.base import DatabaseDriver, DatabaseError, EndResult, SessionLost
from ..database.registry import make_drivers
from ..errors import SplitMirrorError
from .extras import write_extras
from .protocol import EventLog


class Databases:
    """All databases of a session.

    :param watch: called with a descriptor and what to do when it becomes readable. :param unwatch: ends that.
    """

    def __init__(
        self, log: EventLog, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]
    ) -> None:
        self._log = log
        self._watch = watch
        self._unwatch = unwatch
        self._watched: dict[str, int] = {}
        self._lost: dict[str, str] = {}
        #: All that have begun or are ready for the window, in the user's order.
        self.drivers: list[DatabaseDriver] = []
        self.begun = False

    @property
    def _hot(self) -> list[DatabaseDriver]:
        return [driver for driver in self.drivers if driver.quiesce == "hot_backup"]

    def names(self) -> dict[str, str]:
        """Names of the databases, and how each is quiesced."""
        return {driver.title: driver.quiesce for driver in self.drivers}

    def lost(self) -> dict[str, str]:
        """Names of the databases whose session was lost, and why."""
        return dict(self._lost)

    def begin(self, descriptions: Sequence[Mapping[str, Any]], backup_name: str) -> dict[str, Any]:
        """Begin the hot backups, and make the other databases ready for the window.

        :returns: the facts of each database's preflight, by name.
        :raises SplitMirrorError: one of them cannot; nothing has begun then.
        """
        if self.begun:
            raise DatabaseError(
                "databases: hot backup of this session has begun already.", option="databases", code="session_busy"
            )
        drivers = make_drivers(descriptions)
        facts = {}
        try:
            for driver in drivers:
                facts[driver.title] = driver.preflight()
            for driver in drivers:
                if driver.quiesce == "hot_backup":
                    driver.begin(backup_name)
                    self._log.add("backup_begun", database=driver.title)
        except BaseException:
            for driver in drivers:
                driver.close()
            raise
        self.drivers = drivers
        self.begun = True
        for driver in self._hot:
            self._watch_driver(driver)
        return facts

    def ping(self) -> None:
        """Ping the session of every hot backup, and note those that are lost."""
        for driver in self._hot:
            self._ping(driver)

    def pause(self) -> None:
        """Do not ping until resume(): while file systems are frozen, an answer may not come."""
        for driver in self._hot:
            self._unwatch_driver(driver)

    def resume(self) -> None:
        """Undo pause(), and note the sessions that were closed meanwhile, as far as that is seen without a ping."""
        for driver in self._hot:
            if driver.title not in self._lost:
                fd = driver.fileno()
                if fd is not None and _hung_up(fd):
                    self._ping(driver)
                else:
                    self._watch_driver(driver)

    def end(self, extras_path: str) -> dict[str, Any]:
        """End every hot backup and keep what belongs to it.

        :param extras_path: where extras.tar is made if there is anything to keep.
        :returns: ``evidence`` (required, ended_cleanly, same_session, error), ``extras`` (path or None),
            ``extras_bytes``, ``databases`` (details by name).
        """
        errors: list[str] = []
        results: list[EndResult] = []
        details: dict[str, Any] = {}
        required, same_session = bool(self._hot), True
        for driver in self._hot:
            self._unwatch_driver(driver)
            if driver.title in self._lost:
                same_session = False
                errors.append(self._lost[driver.title])
                continue
            try:
                result = driver.end()
            except DatabaseError as exc:
                same_session = same_session and not isinstance(exc, SessionLost)
                errors.append(exc.message)
                continue
            results.append(result)
            details[driver.title] = result.details
        size = 0
        if not errors and any(result.label_files or result.log_files for result in results):
            try:
                size = write_extras(extras_path, results)
            except SplitMirrorError as exc:
                errors.append(exc.message)
        # Not earlier: the sessions keep the server from removing the log files.
        self.close()
        if required:
            self._log.add("backup_ended", ended_cleanly=not errors)
        return {
            "evidence": {
                "required": required,
                "ended_cleanly": not errors,
                "same_session": same_session,
                "error": errors[0] if errors else None,
            },
            "extras": extras_path if size else None,
            "extras_bytes": size,
            "databases": details,
        }

    def close(self) -> None:
        """Drop all sessions; hot backups that have not ended are given up."""
        with contextlib.ExitStack() as each:  # one that fails leaves none of the others open
            for driver in self.drivers:
                each.callback(driver.close)
                each.callback(self._unwatch_driver, driver)
            self.drivers = []
            self._lost = {}
            self.begun = False

    def _ping(self, driver: DatabaseDriver) -> None:
        if driver.title in self._lost:
            return
        try:
            driver.ping()
        except DatabaseError as exc:
            self._unwatch_driver(driver)
            self._lost[driver.title] = exc.message
            self._log.add("connection_lost", database=driver.title)

    def _watch_driver(self, driver: DatabaseDriver) -> None:
        fd = driver.fileno()
        if fd is not None:
            self._watched[driver.title] = fd
            self._watch(fd, lambda: self._ping(driver))

    def _unwatch_driver(self, driver: DatabaseDriver) -> None:
        fd = self._watched.pop(driver.title, None)
        if fd is not None:
            self._unwatch(fd)


def _hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
