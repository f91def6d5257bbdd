# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The databases that the tests of the seam run on: one class for each driver, and a row in CASES."""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.splitmirror.backup.tests.support.postgres import cluster, passable_folder


class Case(ABC):
    """A real database with something in it, and how the tests reach it without the driver.

    :param folder: empty, 0755, for whatever it needs.
    """

    #: The driver's name, the ways to quiesce that it has, and those of them in which its in_window stops writes.
    driver: ClassVar[str]
    quiesces: ClassVar[tuple[str, ...]] = ("freeze",)
    stops_writes: ClassVar[tuple[str, ...]] = ("freeze",)
    #: Whether a hot backup is bound to a session that can be lost, and whether the database can only be run as root.
    has_session: ClassVar[bool] = False
    needs_root: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the database, and stop it at the end."""
        yield

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The driver's options that reach it."""

    @abstractmethod
    def write(self) -> bool:
        """Commit something, without waiting; return whether that was possible."""

    @abstractmethod
    def state(self) -> object:
        """What preflight must leave as it is."""

    def in_hot_backup(self) -> bool:
        """Whether the database takes part in a hot backup."""
        return False

    def lose_session(self) -> None:  # noqa: B027
        """End the session of hot backup from the database's side."""

    @contextlib.contextmanager
    def obstacle(self) -> Iterator[None]:
        """Do what in_window has to wait for."""
        yield


class Sqlite(Case):
    driver = "sqlite"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._path = self.folder / "d.sqlite"
        # It stays open, so that the write-ahead log is there.
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, timeout=0)) as self._client:
            self._client.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1)")
            yield

    def options(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def write(self) -> bool:
        try:
            self._client.execute("INSERT INTO t VALUES (2)")
        except sqlite3.OperationalError:
            return False
        return True

    def state(self) -> object:
        return self._path.read_bytes(), self._path.with_name("d.sqlite-wal").read_bytes()

    @contextlib.contextmanager
    def obstacle(self) -> Iterator[None]:
        self._client.execute("BEGIN IMMEDIATE")
        yield
        self._client.execute("ROLLBACK")


class Commands(Case):
    """A database whose whole state is which of three files are there: hot, frozen, busy."""

    driver = "commands"
    quiesces = ("hot_backup", "freeze")

    def options(self) -> dict[str, Any]:
        scripts = {
            "begin": "touch hot",
            "end": "rm hot",
            "freeze": "while test -e busy; do sleep 0.01; done; touch frozen",
            "thaw": "rm -f frozen",
            "ping": "test -e hot",
            "recover": "rm -f hot frozen",
            "files": "pwd",
        }
        return {name: ["/bin/sh", "-c", f"cd '{self.folder}' && {script}"] for name, script in scripts.items()}

    def write(self) -> bool:
        return not (self.folder / "frozen").exists()

    def state(self) -> object:
        return sorted(self.folder.iterdir())

    def in_hot_backup(self) -> bool:
        return (self.folder / "hot").exists()

    @contextlib.contextmanager
    def obstacle(self) -> Iterator[None]:
        busy = self.folder / "busy"
        busy.touch()
        yield
        busy.unlink()


class Postgresql(Case):
    driver = "postgresql"
    quiesces = ("hot_backup", "freeze")
    stops_writes = ()
    has_session = True
    needs_root = True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with cluster(self.folder / "data") as self._server:
            self._server.sql("CREATE TABLE t (n int)")
            yield

    def options(self) -> dict[str, Any]:
        return self._server.options()

    def write(self) -> bool:
        return self._server.sql("INSERT INTO t VALUES (1) RETURNING n") == "1"

    def state(self) -> object:
        return self._server.sql("SELECT redo_lsn FROM pg_control_checkpoint()"), self.in_hot_backup()

    def in_hot_backup(self) -> bool:
        return self._sessions("count(*)") != "0"

    def lose_session(self) -> None:
        self._sessions("pg_terminate_backend(pid)")

    def _sessions(self, what: str) -> str:
        return self._server.sql(f"SELECT {what} FROM pg_stat_activity WHERE application_name = 'splitmirror'")


#: One for each driver.
CASES: tuple[type[Case], ...] = (Commands, Postgresql, Sqlite)


@contextlib.contextmanager
def started(case: type[Case]) -> Iterator[Case]:
    """A running database, in a folder that the users of servers can reach."""
    with passable_folder() as folder:
        one = case(folder)
        with one.running():
            yield one
