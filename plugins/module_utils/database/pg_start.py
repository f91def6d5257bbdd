# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a PostgreSQL server may be started on a restored data directory, and with which settings.

The original server may be alive on the same machine. The restored settings name its sockets, its archive, its programs
and its files, so a server that only proves the restore gets settings of its own. What recovery needs of the original's
is in the control file (PostgreSQL documentation, "Hot Standby", section "Administrator's Overview", and pg_control.h).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import SplitMirrorError
from ..host.tools import ToolError, run_tool
from .pg_relocation import relocate

#: Names in pg_controldata's output, and of the settings that recovery refuses to have smaller.
NEEDED = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
    "wal_level setting": "wal_level",
    "track_commit_timestamp setting": "track_commit_timestamp",
}
#: A server that finds one of these asks another server or an archive for its log.
SIGNALS = ("standby.signal", "recovery.signal", "recovery.conf")
_LABEL_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE)
_LABEL_TIMELINE = re.compile(r"^START TIMELINE: (\d+)$", re.MULTILINE)
_PID = re.compile(rb"\s*[-+]?(\d+)")
#: The largest number that a process of Linux can have, and one (PID_MAX_LIMIT, proc_sys_kernel(5)).
_NO_PID = 1 << 22
#: The first version that runs triggers when somebody logs in; before 17 there is no setting that turns them off.
_LOGIN_TRIGGERS = 17
_CREATED = re.compile(r"desc: CREATE \d+ (.*)")


class StartError(SplitMirrorError):
    """A restored data directory on which a server must not be started here."""

    code = "restored_data_unusable"


class Recovery(NamedTuple):
    """What a restored data directory needs.

    :param settings: of the server that recovers it. :param checksums: whether its pages have checksums.
    """

    settings: dict[str, str]
    checksums: bool


def look_for_recovery(target: str, data_directory: str, bin_dir: str, os_user: str) -> Recovery:
    """Find what a restored data directory needs to be recovered here, and alone.

    It is looked at before: what recovery would open, and whom the end of the server would end.

    :param target: the folder that was restored to. :param data_directory: the restored data directory in it.
    :param bin_dir: folder of the server's programs. :param os_user: the user that the server is to run as.
    :raises StartError: the server would reach something outside of the target, or the directory cannot be read.
    :raises RelocationError: a link leads to what was not restored.
    """
    moves = relocate(target, data_directory, dry_run=True)
    if moves:
        raise StartError(
            f"data_directory: {moves[0].where} leads out of {target}; run restore_relocate on {target} first.",
            option="data_directory",
        )
    for name in SIGNALS:
        if os.path.lexists(os.path.join(data_directory, name)):
            raise StartError(
                f"data_directory: {data_directory} contains {name}, which makes a server fetch its log from "
                "elsewhere; remove the file first.",
                option="data_directory",
            )
    refuse_other_server(data_directory)
    control = _control_data(data_directory, bin_dir, os_user)
    _check_log(data_directory, bin_dir, os_user, control)
    settings = {setting: control[name] for name, setting in NEEDED.items() if name in control}
    if _version(data_directory) >= _LOGIN_TRIGGERS:
        settings["event_triggers"] = "off"
    return Recovery(settings, control.get("Data page checksum version", "0") != "0")


def refuse_other_server(data_directory: str) -> None:
    """Refuse a lock file that names a living process, unless that is a server on these very files.

    pg_ctl stops the process that the file names. In a copy of the files of a running server that is the original. A
    server has its data directory as working directory (postmaster.c, ChangeToDataDir).

    :raises StartError: it does.
    """
    path = os.path.join(data_directory, "postmaster.pid")
    try:
        with open(path, "rb") as stream:
            found = _PID.match(stream.read(4096))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StartError(
            f"data_directory: {path} cannot be read ({exc.strerror}); remove it.", "data_directory"
        ) from exc
    pid = int(found[1]) if found else 0
    if pid < _NO_PID and not os.path.exists(f"/proc/{pid}"):
        return
    try:
        at_home = os.path.samefile(f"/proc/{pid}/cwd", data_directory)
    except OSError:
        at_home = False
    if not at_home:
        raise StartError(
            f"data_directory: {path} names process {pid}, which is not a server on these files; at its end the "
            "drill would stop that process, perhaps the original server; remove the file.",
            option="data_directory",
        )


def _version(data_directory: str) -> int:
    """The major version of the server that made the files."""
    with open(os.path.join(data_directory, "PG_VERSION"), encoding="ascii", errors="replace") as stream:
        found = re.match(r"\d+", stream.read(64))
    return int(found[0]) if found else 0


def _control_data(data_directory: str, bin_dir: str, os_user: str) -> dict[str, str]:
    try:
        told = _run(os_user, os.path.join(bin_dir, "pg_controldata"), data_directory)
    except ToolError as exc:
        raise StartError(f"data_directory: {data_directory} cannot be read: {exc.message}", "data_directory") from exc
    return {key: value.strip() for key, _colon, value in (line.partition(":") for line in told.splitlines())}


def _check_log(data_directory: str, bin_dir: str, os_user: str, control: Mapping[str, str]) -> None:
    """Refuse a log whose recovery creates a tablespace: it would do so at the original's path.

    A record of the log has the path in it, and recovery makes the link in pg_tblspc anew from it (tblspc_redo in
    PostgreSQL's tablespace.c).
    """
    start, timeline = control["Latest checkpoint's REDO location"], control["Latest checkpoint's TimeLineID"]
    label = os.path.join(data_directory, "backup_label")
    if os.path.isfile(label):
        with open(label, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
        found = _LABEL_START.search(text)
        if found is None:
            raise StartError(
                f"data_directory: {label} does not name the start of the log; restore it again.", "data_directory"
            )
        start = found[1]
        on_timeline = _LABEL_TIMELINE.search(text)  # not before PostgreSQL 11
        timeline = on_timeline[1] if on_timeline else timeline
    wal = os.path.join(data_directory, "pg_wal")
    first = _segment(start, int(timeline), int(control["Bytes per WAL segment"]))
    if not os.path.isfile(os.path.join(wal, first)):
        raise StartError(
            f"data_directory: the log file {first}, at which recovery begins, is not in {wal}; restore it "
            "with the data.",
            option="data_directory",
        )
    words = ("--rmgr=Tablespace", f"--path={wal}", f"--timeline={timeline}", f"--start={start}")
    try:
        told = _run(os_user, os.path.join(bin_dir, "pg_waldump"), *words)
    except ToolError as exc:
        if exc.exit_code is None:
            raise
        told = exc.output  # pg_waldump reports the end of the log as an error; recovery does not
    created = _CREATED.search(told)
    if created is not None:
        raise StartError(
            f"data_directory: recovery would create the tablespace {created[1]} at its original path, outside of "
            "the restored files, because it was created just before or during the backup; use a later backup, or start "
            "this one on another machine.",
            option="data_directory",
        )


def _segment(location: str, timeline: int, segment_bytes: int) -> str:
    """Name of the log file that holds a location (PostgreSQL documentation, "WAL Internals")."""
    high, low = (int(part, 16) for part in location.split("/"))
    number = (high << 32 | low) // segment_bytes
    in_one = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // in_one:08X}{number % in_one:08X}"


def _run(os_user: str, *command: str) -> str:
    return run_tool("runuser", f"--user={os_user}", "--", *command)
