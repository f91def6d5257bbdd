# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One connection to a local PostgreSQL server, and clear errors when it cannot be made."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Mapping, Optional, Sequence

from .base import DatabaseError, SessionLost
from .login import as_os_user, login_password

try:
    import psycopg2
except ImportError:  # connect() reports it, because only this driver needs it
    psycopg2 = None

CONNECT_TIMEOUT_S = 10


class PgSession:
    """A connection in autocommit mode that may be idle for hours.

    :param where: for messages. :param options: the driver's options.
    """

    def __init__(self, where: str, options: Mapping[str, Any]) -> None:
        self._where = where
        self._options = options
        self._connection: Any = None
        self.version = 0

    def connect(self) -> None:
        """Open the connection.

        :raises DatabaseError: no server listens, the server refuses the login, or psycopg2 is missing.
        """
        if psycopg2 is None:
            raise DatabaseError(
                f"{self._where}: the Python of this host has no psycopg2; install it (Debian and Red Hat: "
                "python3-psycopg2) for the interpreter that ansible_python_interpreter names.",
                code="host_program",
            )
        options = self._options
        target = {
            "host": options["login_host"] or options["unix_socket"],
            "port": options["port"],
            "user": options["login_user"],
            "password": login_password(self._where, options),
            "dbname": options["login_db"],
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "splitmirror",
            "keepalives_idle": 60,
            "keepalives_interval": 10,
        }
        with as_os_user(self._where, "" if options["login_host"] else options["os_user"]):
            self._probe(target["host"], target["port"])
            try:
                self._connection = psycopg2.connect(**{key: value for key, value in target.items() if value})
            except psycopg2.OperationalError as exc:
                words = " ".join(str(exc).split())
                raise DatabaseError(
                    f"{self._where}: PostgreSQL refuses the login of {target['user']!r}; check login_user, "
                    f"login_password, os_user and pg_hba.conf. The server says: {words}",
                    option="databases",
                    code="database_login",
                ) from exc
        self._connection.autocommit = True
        self.version = self._connection.server_version
        # A parallel worker, an idle limit or a statement limit of the role or the database must not end a backup.
        self.execute("SET max_parallel_workers_per_gather = 0")
        self.execute("SET idle_in_transaction_session_timeout = 0")
        self.execute("SET statement_timeout = 0")
        self.execute("SET lock_timeout = 0")
        if self.version >= 140000:
            self.execute("SET idle_session_timeout = 0")

    def _probe(self, host: str, port: int) -> None:
        """Find out first whether a server listens: libpq's errors do not say so in a fixed language."""
        try:
            if host.startswith("/"):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(CONNECT_TIMEOUT_S)
                    probe.connect(os.path.join(host, f".s.PGSQL.{port}"))
            else:
                socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
        except OSError as exc:
            place = os.path.join(host, f".s.PGSQL.{port}") if host.startswith("/") else f"{host}, port {port}"
            raise DatabaseError(
                f"{self._where}: the database is not running: no PostgreSQL answers at {place} "
                f"({exc.strerror or exc}); start it, or set unix_socket, login_host and port to where it listens.",
                option="databases",
                code="database_down",
            ) from exc

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that returns nothing. :raises DatabaseError: the server's words."""
        self._run(sql, values, fetch=False)

    def row(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Run a query and return its first row. :raises DatabaseError: the server's words."""
        found = self._run(sql, values, fetch=True)
        if found is None:
            raise DatabaseError(f"{self._where}: PostgreSQL returned no row for: {sql}")
        return found

    def _run(self, sql: str, values: Sequence[Any], fetch: bool) -> Optional[tuple[Any, ...]]:
        if self._connection is None:
            raise SessionLost(f"{self._where}: there is no connection to PostgreSQL.")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(values) or None)
                row: Optional[tuple[Any, ...]] = cursor.fetchone() if fetch else None
                return row
        except psycopg2.Error as exc:
            words = " ".join(str(exc).split())
            if self._connection.closed:
                raise SessionLost(f"{self._where}: the connection to PostgreSQL is lost: {words}") from exc
            raise DatabaseError(f"{self._where}: PostgreSQL says: {words}") from exc

    def fileno(self) -> Optional[int]:
        """The socket's descriptor while connected."""
        if self._connection is None or self._connection.closed:
            return None
        number: int = self._connection.fileno()
        return number

    @property
    def connected(self) -> bool:
        """Whether connect() was called and close() was not; the server may be gone all the same."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection, if there is one; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()
