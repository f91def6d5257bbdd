# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL 11 and later: hot backup by the low-level backup functions, never in their exclusive mode.

PostgreSQL manual, chapter "Continuous Archiving and Point-in-Time Recovery", section "Making a Base Backup Using the
Low Level API". With quiesce ``freeze`` the server is only asked for a checkpoint: the split image holds data and WAL of
one instant, and the server recovers from it as after a power cut.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional

from ..extents.scope import Scope
from ..extents.since import Demand
from .base import Capabilities, DatabaseDriver, DatabaseError, EndResult, LabelFile, Restored, SessionLost
from .links import with_linked
from .login import PASSWORD_SPEC, os_user_spec
from .pg_drill import check_pages, has_user, private_server
from .pg_relocation import EMPTY_FOLDERS, find_data_directories, relocate
from .pg_session import PgSession
from .pg_start import look_for_recovery
from .pg_wal import needed_files, wal_range
from .relocation import Move

# What a base backup leaves out besides the contents of EMPTY_FOLDERS (section "Backing Up the Data Directory").
LEFT_OUT = ("postmaster.pid", "postmaster.opts", "pgsql_tmp*", "pg_internal.init*", "backup_label", "tablespace_map")
OLDEST_VERSION = 110000
# As bytes in the database's own encoding, because the files are wanted as the server would write them. Not waiting for
# the archive: the WAL files are copied from pg_wal, so a slow archive cannot spoil the end.
STOP_15 = (
    "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()), convert_to(spcmapfile, getdatabaseencoding()) "
    "FROM pg_backup_stop(wait_for_archive => false)"
)
STOP_11 = STOP_15.replace("pg_backup_stop(wait_for_archive => false)", "pg_stop_backup(false, false)")


class PostgresqlDriver(DatabaseDriver):
    """One PostgreSQL cluster on this host."""

    name: ClassVar[str] = "postgresql"
    argument_spec: ClassVar[dict[str, dict[str, Any]]] = {
        "unix_socket": {"type": "path", "default": "/var/run/postgresql"},
        "login_host": {"type": "str"},
        "port": {"type": "int", "default": 5432},
        "login_user": {"type": "str", "default": "postgres"},
        **PASSWORD_SPEC,
        "login_db": {"type": "str", "default": "postgres"},
        **os_user_spec("postgres"),
        "pgdata": {"type": "path"},
        "fast": {"type": "bool", "default": True},
        "end_timeout_s": {"type": "int", "default": 300},
    }
    restored_spec: ClassVar[dict[str, dict[str, Any]]] = {
        "bin_dir": {"type": "path", "required": True},
        "os_user": {"type": "str", "default": "postgres"},
        "database": {"type": "str", "default": "postgres"},
        "settings": {"type": "dict"},
    }
    file_options: ClassVar[tuple[str, ...]] = ("pgdata",)

    def __init__(self, title: str, options: Mapping[str, Any], quiesce: str) -> None:
        super().__init__(title, options, quiesce)
        self._session = PgSession(self.where, options)
        self._pgdata = ""
        self._backend: Optional[int] = None

    @classmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        return Capabilities(hot_backup=True, freeze=True)

    def preflight(self) -> dict[str, Any]:
        pg = self._connected()
        if pg.version < OLDEST_VERSION:
            raise DatabaseError(f"{self.where}: PostgreSQL {pg.version // 10000} is too old; 11 or later is needed.")
        (standby,) = pg.row("SELECT pg_is_in_recovery()")
        if standby:
            raise DatabaseError(f"{self.where}: the server is a standby or in recovery; back up its primary.")
        full_page_writes, wal_level = (self._setting(key) for key in ("full_page_writes", "wal_level"))
        facts = {
            "server_version": pg.version,
            "pgdata": self._data_directory(),
            "full_page_writes": full_page_writes == "on",
            "archiving": self._setting("archive_mode") != "off",
        }
        if self.quiesce == "hot_backup":
            if wal_level == "minimal":
                raise DatabaseError(
                    f"{self.where}: wal_level is minimal, which does not allow hot backup; set it to replica or "
                    "logical."
                )
            self._check_archiving()
            self._check_privilege()
        self._tablespaces()
        return facts

    def files(self) -> list[Scope]:
        label = f"postgresql {self.title}"
        pgdata = self._data_directory()
        hot = self.quiesce == "hot_backup"
        empty = EMPTY_FOLDERS + (("pg_wal",) if hot else ())
        scopes = [Scope(pgdata, empty=empty, exclude=LEFT_OUT, label=label)]
        scopes += [Scope(path, exclude=("pgsql_tmp*",), label=label) for path in self._tablespaces()]
        wal = self._wal_folder()
        if wal != os.path.join(pgdata, "pg_wal"):
            scopes.append(Scope(wal, exclude=("*",) if hot else (), label=label))
        return with_linked(self.where, scopes)

    def demands(self) -> list[Demand]:
        # It writes with pwrite(2) alone (src/backend/storage/file/fd.c); nothing is mapped for writing.
        return []

    def begin(self, backup_name: str) -> None:
        pg = self._connected()
        self._data_directory()  # known before the server can be gone
        (self._backend,) = pg.row("SELECT pg_backend_pid()")
        self._keep_wal()
        if pg.version >= 150000:
            pg.row("SELECT pg_backup_start(label => %s, fast => %s)", (backup_name, self.options["fast"]))
        else:
            pg.row("SELECT pg_start_backup(%s, %s, false)", (backup_name, self.options["fast"]))

    def ping(self) -> None:
        (backend,) = self._session.row("SELECT pg_backend_pid()")
        if self._backend is not None and backend != self._backend:
            raise SessionLost(f"{self.where}: the database session of the backup was replaced by another.")

    def fileno(self) -> Optional[int]:
        return self._session.fileno()

    def end(self) -> EndResult:
        pg = self._session
        if self._backend is None:
            raise self._not_begun()
        self.ping()
        pg.execute(f"SET statement_timeout = '{int(self.options['end_timeout_s'])}s'")
        stop_lsn, label, tablespace_map = pg.row(STOP_15 if pg.version >= 150000 else STOP_11)
        self._backend = None
        label, tablespace_map = bytes(label), bytes(tablespace_map or b"")
        segment_bytes = int(self._setting("wal_segment_size"))
        needed = wal_range(label, stop_lsn, segment_bytes)
        pgdata = self._data_directory()
        owner = os.stat(pgdata)
        files = {"backup_label": label, "tablespace_map": tablespace_map}
        return EndResult(
            label_files=[
                LabelFile(os.path.join(pgdata, name), content, 0o600, owner.st_uid, owner.st_gid)
                for name, content in files.items()
                if content
            ],
            log_files=needed_files(self.where, self._wal_folder(), needed),
            details={
                "start_lsn": f"{needed.start_lsn >> 32:X}/{needed.start_lsn & 0xFFFFFFFF:X}",
                "stop_lsn": stop_lsn,
                "timeline": needed.timeline,
                "wal_files": len(needed.names()),
                "server_version": pg.version,
            },
        )

    def prepare_window(self) -> None:
        if self.quiesce == "freeze":
            # It makes recovery of the copy short, and leaves little to flush inside the window. It needs a privilege,
            # without which the backup is as good.
            with contextlib.suppress(DatabaseError):
                self._connected().execute("CHECKPOINT")

    def close(self) -> None:
        self._backend = None
        self._session.close()

    @classmethod
    def find_restored(cls, target: str) -> list[str]:
        return find_data_directories(target)

    @classmethod
    def relocate(cls, target: str, data_directory: str, dry_run: bool = False) -> list[Move]:
        return relocate(target, data_directory, dry_run)

    @classmethod
    def check_restored(cls, restored: Restored) -> dict[str, Any]:
        options = restored.options
        has_user(options["os_user"])
        return look_for_recovery(
            restored.target, restored.data_directory, options["bin_dir"], options["os_user"]
        )._asdict()

    @classmethod
    @contextlib.contextmanager
    def open_restored(
        cls, restored: Restored, facts: Mapping[str, Any], timeout_s: float
    ) -> Iterator[Callable[[str], str]]:
        with private_server(restored.data_directory, restored.options, facts["settings"], timeout_s) as ask:
            yield ask

    @classmethod
    def verify_restored(cls, restored: Restored, facts: Mapping[str, Any]) -> list[str]:
        if not facts["checksums"]:
            return []
        check_pages(restored.data_directory, restored.options)
        return ["checksums of all pages"]

    def _connected(self) -> PgSession:
        if not self._session.connected:
            self._session.connect()
        return self._session

    def _setting(self, name: str) -> str:
        # Not SHOW: it would give sizes with units.
        (value,) = self._connected().row("SELECT setting FROM pg_settings WHERE name = %s", (name,))
        return str(value)

    def _data_directory(self) -> str:
        """The real path of the data folder, proved to be the one of this server."""
        if self._pgdata:
            return self._pgdata
        pg = self._connected()
        path: str = self.options["pgdata"] or ""
        if not path:
            try:
                (path,) = pg.row("SHOW data_directory")
            except DatabaseError as exc:
                raise DatabaseError(
                    f"{self.where}: {self.options['login_user']!r} may not read data_directory; grant it "
                    "pg_read_all_settings or set the option pgdata.",
                    option="databases",
                    code="database_login",
                ) from exc
        (identifier,) = pg.row("SELECT system_identifier FROM pg_control_system()")
        path = os.path.realpath(path)
        try:
            with open(os.path.join(path, "global", "pg_control"), "rb") as stream:
                # pg_control.h: the file begins with the system identifier, in the byte order of the host.
                (found,) = struct.unpack("=Q", stream.read(8))
        except (OSError, struct.error) as exc:
            raise DatabaseError(
                f"{self.where}: {path} is not a data folder of PostgreSQL on this host ({exc}); set pgdata, or run on "
                "the host of the server.",
                option="databases",
                code="option_invalid",
            ) from exc
        if found != identifier & 0xFFFFFFFFFFFFFFFF:
            raise DatabaseError(
                f"{self.where}: the server's data folder is not {path} of this host, which belongs to another server; "
                "correct port, unix_socket or pgdata.",
                option="databases",
                code="option_invalid",
            )
        self._pgdata = path
        return path

    def _wal_folder(self) -> str:
        return os.path.realpath(os.path.join(self._data_directory(), "pg_wal"))

    def _tablespaces(self) -> list[str]:
        """Real paths of the tablespaces that lie outside of the data folder."""
        folder = os.path.join(self._data_directory(), "pg_tblspc")
        paths = []
        for name in sorted(os.listdir(folder)):
            link = os.path.join(folder, name)
            if not os.path.islink(link):
                continue
            path = os.path.realpath(link)
            if not os.path.isdir(path):
                raise DatabaseError(
                    f"{self.where}: tablespace {name} points to {path}, which is not a folder; drop the tablespace."
                )
            paths.append(path)
        return paths

    def _check_archiving(self) -> None:
        if self._setting("archive_mode") == "off":
            return
        pg = self._connected()
        command = self._setting("archive_command")
        library = self._setting("archive_library") if pg.version >= 150000 else ""
        if command in ("", "(disabled)") and not library:
            raise DatabaseError(
                f"{self.where}: archiving is broken: archive_mode is on, but archive_command is empty and WAL "
                "piles up; set a command or turn archive_mode off."
            )
        failed_wal, broken = pg.row(
            "SELECT last_failed_wal, last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
        )
        if broken:
            raise DatabaseError(
                f"{self.where}: archiving is broken: the server fails to archive {failed_wal} (see pg_stat_archiver); "
                "repair archive_command first."
            )

    def _check_privilege(self) -> None:
        pg = self._connected()
        start = "pg_backup_start(text,boolean)" if pg.version >= 150000 else "pg_start_backup(text,boolean,boolean)"
        stop = "pg_backup_stop(boolean)" if pg.version >= 150000 else "pg_stop_backup(boolean,boolean)"
        for function in (start, stop):
            (allowed,) = pg.row("SELECT has_function_privilege(%s, 'execute')", (function,))
            if not allowed:
                raise DatabaseError(
                    f"{self.where}: {self.options['login_user']!r} may not call {function}; grant EXECUTE on it or use "
                    "a superuser.",
                    option="databases",
                    code="database_login",
                )

    def _keep_wal(self) -> None:
        """Make the server keep the WAL from here on, as long as this session lives.

        Without the privilege or a free slot it goes without: then end() finds out whether a file is gone.
        """
        with contextlib.suppress(DatabaseError):
            self._session.row(
                "SELECT pg_create_physical_replication_slot(%s, true, true)", (f"splitmirror_{os.getpid()}",)
            )
