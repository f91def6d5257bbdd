# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL server on restored files, which only this process can reach.

The restored settings name the original's sockets, archive, programs and files. None of them is read: the server gets
settings of its own, and what ALTER SYSTEM wrote into the data directory stands aside meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from ..host.tools import ToolError, run_tool
from .pg_start import StartError

_AGAIN_S = 0.5
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
_REASON = re.compile(r"^.*(?:FATAL|PANIC): .*$", re.MULTILINE)
#: Libraries that roles and databases ask for are the original's.
_NO_LIBRARIES = "PGOPTIONS=-c session_preload_libraries= -c local_preload_libraries="
_AUTO_CONF = "postgresql.auto.conf"


def has_user(os_user: str) -> pwd.struct_passwd:
    """The user that the server is to run as. :raises StartError: there is none of that name."""
    try:
        return pwd.getpwnam(os_user)
    except KeyError as exc:
        raise StartError(
            f"driver_options: os_user is {os_user}, and this host has no such user; name the owner of the "
            "restored files.",
            option="driver_options",
            code="option_invalid",
        ) from exc


@contextlib.contextmanager
def private_server(
    data_directory: str, options: Mapping[str, Any], needed: Mapping[str, str], timeout_s: float
) -> Iterator[Callable[[str], str]]:
    """Start a server, wait for the end of recovery, and stop it at the end.

    :param options: ``bin_dir``, ``os_user``, ``database``, ``settings``.
    :param needed: settings that recovery needs.
    :yields: asks a query in ``database``, and returns its only value as a text.
    :raises ToolError, StartError: it does not start, or does not end its recovery in time.
    """
    user = has_user(options["os_user"])
    folder = tempfile.mkdtemp(prefix="splitmirror-drill-")
    try:
        for name, content in (
            ("postgresql.conf", _settings(data_directory, folder, options.get("settings") or {}, needed)),
            ("pg_hba.conf", "local all all peer\n"),
            ("pg_ident.conf", ""),
        ):
            path = os.path.join(folder, name)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                stream.write(content)
            os.chown(path, user.pw_uid, user.pw_gid)
        os.chown(folder, user.pw_uid, user.pw_gid)
        with (
            _aside(os.path.join(data_directory, _AUTO_CONF)),
            _running(data_directory, folder, options, timeout_s) as ask,
        ):
            yield ask
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_pages(data_directory: str, options: Mapping[str, Any]) -> None:
    """Check the checksums of all pages, while no server runs. :raises ToolError: one is wrong."""
    _as(options, "pg_checksums", "--check", f"--pgdata={data_directory}")


def _settings(data_directory: str, folder: str, more: Mapping[str, Any], needed: Mapping[str, str]) -> str:
    """The settings file. Of settings of one name the last counts, so those that keep the server apart come last."""
    own = {
        "data_directory": data_directory,
        "hba_file": f"{folder}/pg_hba.conf",
        "ident_file": f"{folder}/pg_ident.conf",
        "external_pid_file": "",
        "listen_addresses": "",
        "unix_socket_directories": folder,
        "port": 5432,
        "hot_standby": "off",
        "archive_mode": "off",
        "logging_collector": "off",
        # It calls functions of the indexes that it analyzes.
        "autovacuum": "off",
        "max_logical_replication_workers": 0,
    }
    lines = []
    for name, value in [*needed.items(), *more.items(), *own.items()]:
        text = str(value)
        if not _SETTING.fullmatch(str(name)) or "\n" in text or str(name).lower().startswith("include"):
            raise StartError(
                f"driver_options: {str(name)[:80]!r} in settings cannot be set for a drill; name a setting of "
                "PostgreSQL with a value of one line.",
                option="driver_options",
                code="option_invalid",
            )
        quoted = text.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'\n")
    return "".join(lines)


@contextlib.contextmanager
def _aside(path: str) -> Iterator[None]:
    """Put a file aside, also one that an interrupted drill put there; what is written in its place is thrown away."""
    original = path + ".original"
    if os.path.lexists(path) and not os.path.lexists(original):
        os.rename(path, original)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rename(original, path)


@contextlib.contextmanager
def _running(
    data_directory: str, folder: str, options: Mapping[str, Any], timeout_s: float
) -> Iterator[Callable[[str], str]]:
    """A server that has ended its recovery."""
    log = os.path.join(folder, "server.log")
    database = options["database"]

    def ask(query: str) -> str:
        words = ("--no-psqlrc", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--port=5432")
        return _as(
            options,
            "psql",
            *words,
            f"--host={folder}",
            f"--dbname={database}",
            f"--command={query}",
            before=_NO_LIBRARIES,
        ).rstrip("\n")

    try:
        deadline = time.monotonic() + timeout_s
        try:
            # pg_ctl hands the options to a shell.
            config = f"--options=-c config_file={shlex.quote(folder + '/postgresql.conf')}"
            pgdata = f"--pgdata={data_directory}"
            _as(options, "pg_ctl", pgdata, f"--log={log}", f"--timeout={timeout_s:.0f}", "--wait", config, "start")
        except ToolError as exc:
            raise StartError(
                f"data_directory: no server starts on {data_directory} ({_reason(log) or exc.message}).",
                "data_directory",
            ) from exc
        while not _has_recovered(ask):
            if time.monotonic() > deadline:
                raise StartError(
                    f"timeout_s: recovery did not end in {timeout_s:g} s; give it longer.", option="timeout_s"
                )
            time.sleep(_AGAIN_S)
        yield ask
    finally:
        if os.path.lexists(os.path.join(data_directory, "postmaster.pid")):
            _as(options, "pg_ctl", f"--pgdata={data_directory}", "--mode=fast", "--wait", "stop")


def _has_recovered(ask: Callable[[str], str]) -> bool:
    """Whether a server takes writes. One with hot_standby off takes no connection before."""
    try:
        return ask("SELECT NOT pg_is_in_recovery()") == "t"
    except ToolError as exc:
        if "the database system is" in exc.message:
            return False
        raise


def _reason(log: str) -> str:
    """Why a server ended, in its own words; empty if it has not said."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            found = _REASON.findall(stream.read(1 << 20))
    except OSError:
        return ""
    return found[-1][:300] if found else ""


def _as(options: Mapping[str, Any], program: str, *words: str, before: str = "") -> str:
    """Run a program of the server as its user. :param before: a variable for it."""
    path = os.path.join(options["bin_dir"], program)
    return run_tool("runuser", f"--user={options['os_user']}", "--", "env", *([before] if before else []), path, *words)
