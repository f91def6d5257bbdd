# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite: the write lock is held through the window; the write-ahead log belongs to the copy.

https://www.sqlite.org/lockingv3.html and https://www.sqlite.org/wal.html: a copy of the database and its ``-wal`` of
one instant, taken while there are no writes, is a whole database. ``-shm`` is only an index of ``-wal`` and is made
anew. There is no rollback journal while the driver holds the write lock.

A process loses all of its locks on a file when it closes any descriptor of that file (fcntl(2), "advisory record
locking"). The holder also maps files, which opens and closes them, so a connection is opened for the freeze and not
kept before it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional
from urllib.parse import quote

from ..extents.scope import Scope
from .base import Capabilities, DatabaseDriver, DatabaseError, Restored

_MAGIC = b"SQLite format 3\0"
#: How long to wait between two tries to keep writers out.
_AGAIN_S = 0.0005


class SqliteDriver(DatabaseDriver):
    """One SQLite database file."""

    name: ClassVar[str] = "sqlite"
    argument_spec: ClassVar[dict[str, dict[str, Any]]] = {"path": {"type": "path", "required": True}}
    file_options: ClassVar[tuple[str, ...]] = ("path",)

    def __init__(self, title: str, options: Mapping[str, Any], quiesce: str) -> None:
        super().__init__(title, options, quiesce)
        self._path = os.path.realpath(options["path"])
        self._connection: Optional[sqlite3.Connection] = None

    @classmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        return Capabilities(hot_backup=False, freeze=True)

    def preflight(self) -> dict[str, Any]:
        facts = {"path": self._path, "journal_mode": self._journal_mode()}
        self.close()
        return facts

    def files(self) -> list[Scope]:
        label = f"sqlite {self.title}"
        scopes = [Scope(self._path, label=label)]
        if self._journal_mode() == "wal":
            # It exists as long as this connection is open, or any other: until close(), and from in_window() on.
            scopes.append(Scope(self._path + "-wal", label=label))
        return scopes

    def prepare_window(self) -> None:
        connection = self._connected()
        # Moves what it can into the database without waiting for others; does nothing in other journal modes.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self.close()

    def in_window(self, limit_s: float, started: Optional[Callable[[int], None]] = None) -> None:
        connection = self._connected()
        deadline = time.monotonic() + limit_s
        # SQLite's own busy handler sleeps up to 100 ms between two tries, so a writer that pauses for microseconds only
        # would keep the lock; see sqliteDefaultBusyCallback in its main.c.
        connection.execute("PRAGMA busy_timeout = 0").fetchone()
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                if time.monotonic() > deadline:
                    raise self._error(f"was locked by a writer for {limit_s:g} s", exc) from exc
                time.sleep(_AGAIN_S)
            except sqlite3.Error as exc:
                raise self._error("cannot be frozen", exc) from exc

    def thaw(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as exc:
                self.close()
                raise self._error("could not be thawed, so the connection was closed", exc) from exc

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    @classmethod
    def check_restored(cls, restored: Restored) -> dict[str, Any]:
        facts = super().check_restored(restored)
        path = restored.data_directory
        for name in (path, path + "-wal", path + "-shm", path + "-journal"):
            if os.path.lexists(name) and not stat.S_ISREG(os.lstat(name).st_mode):
                raise _unusable(f"{name} is not a file; name the restored database file")
        if not _has_magic(path):
            raise _unusable(f"{path} is not an SQLite database; name the restored database file")
        return facts

    @classmethod
    @contextlib.contextmanager
    def open_restored(
        cls, restored: Restored, facts: Mapping[str, Any], timeout_s: float
    ) -> Iterator[Callable[[str], str]]:
        with _restored(restored.data_directory) as connection:

            def ask(query: str) -> str:
                row = connection.execute(query).fetchone()
                return "" if row is None or row[0] is None else str(row[0])

            yield ask

    @classmethod
    def verify_restored(cls, restored: Restored, facts: Mapping[str, Any]) -> list[str]:
        with _restored(restored.data_directory) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise _unusable(f"{restored.data_directory} is damaged (SQLite says: {found}); restore another session")
        return ["integrity_check"]

    def _journal_mode(self) -> str:
        connection = self._connected()
        try:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as exc:
            raise self._error("cannot be read", exc) from exc
        return str(mode)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                magic = _has_magic(self._path)
            except OSError as exc:
                raise DatabaseError(
                    f"{self.where}: {self._path} cannot be read ({exc.strerror}); set path to the database file.",
                    option="databases",
                    code="option_invalid",
                ) from exc
            if not magic:
                raise DatabaseError(
                    f"{self.where}: {self._path} is not an SQLite database; set path to the database file.",
                    option="databases",
                    code="option_invalid",
                )
            try:
                self._connection = sqlite3.connect(f"file:{quote(self._path)}?mode=rw", uri=True, isolation_level=None)
            except sqlite3.Error as exc:
                raise self._error("cannot be opened", exc) from exc
        return self._connection

    def _error(self, what: str, exc: sqlite3.Error) -> DatabaseError:
        return DatabaseError(f"{self.where}: {self._path} {what}; SQLite says: {exc}", option="databases")


def _has_magic(path: str) -> bool:
    """Whether a file begins as each SQLite database does. :raises OSError: it cannot be read."""
    with open(path, "rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


@contextlib.contextmanager
def _restored(path: str) -> Iterator[sqlite3.Connection]:
    """A restored database; its write-ahead log is recovered. :raises DatabaseError: SQLite refuses what is asked."""
    try:
        address = f"file:{quote(path)}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            # What the schema has, such as views, may call no function that does something outside the database.
            connection.execute("PRAGMA trusted_schema = OFF").fetchone()
            yield connection
    except sqlite3.Error as exc:
        raise _unusable(
            f"{path} does not answer (SQLite says: {exc}); see the queries, or restore another session"
        ) from exc


def _unusable(what: str) -> DatabaseError:
    return DatabaseError(f"data_directory: {what}.", "data_directory", code="restored_data_unusable")
