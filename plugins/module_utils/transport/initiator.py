# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The media server's side of iSCSI: its name, its sessions, logging in and out, through iscsiadm(8) and sysfs."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..host.tools import ToolError, run_tool
from .disks import SYSFS
from .names import Portal, TransportError, check_initiator
from .secret import Chap

NAME_FILE = "/etc/iscsi/initiatorname.iscsi"
#: So that an array that is gone does not hold up the backup for iSCSI's usual two minutes.
REPLACEMENT_TIMEOUT_S = 15
_LOGIN_TIMEOUT_S = 10
_LOGIN_TRIES = 2
_LOGOUT_TIMEOUT_S = 60.0
_RETRY_S = 2.0
_POLL_S = 0.1
#: Where iscsiadm keeps its records of nodes: Debian 12 and 13, and others.
RECORDS = ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes")
#: Exit codes of iscsiadm(8): its records cannot be read; the session is there already; nothing of what was asked for is
#: there.
_DATABASE, _EXISTS, _NOT_FOUND = 6, 15, 21
_DATABASE_TRIES = 50


@dataclass(frozen=True)
class Session:
    """A session of this host with a target. :param name: ``sessionN``. :param state: as the kernel calls it."""

    name: str
    target: str
    state: str

    @property
    def logged_in(self) -> bool:
        """Whether its disks answer; otherwise they fail, or hang until the replacement timeout is over."""
        return self.state == "LOGGED_IN"


def initiator_name(path: str = NAME_FILE) -> str:
    """By what name this host logs in.

    :raises TransportError: it has none.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            found = re.search(r"^\s*InitiatorName\s*=\s*(\S+)\s*$", stream.read(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise TransportError(
            f"initiator: the media server has no initiator name in {path}; install open-iscsi, and start iscsid once.",
            option="initiator",
            code="host_program",
        )
    return check_initiator(found[1])


def sessions(sysfs: str = SYSFS) -> list[Session]:
    """All iSCSI sessions of this host."""
    found = []
    for folder in sorted(glob.glob(f"{sysfs}/class/iscsi_session/session*")):
        target, state = _text(f"{folder}/targetname"), _text(f"{folder}/state")
        if target:
            found.append(Session(os.path.basename(folder), target, state))
    return found


def disks_of(session: Session, sysfs: str = SYSFS) -> dict[int, str]:
    """The kernel's names of the session's disks, by LUN."""
    found = {}
    for folder in glob.glob(f"{sysfs}/class/iscsi_session/{session.name}/device/target*/*:*:*:*/block/*"):
        address = os.path.basename(os.path.dirname(os.path.dirname(folder)))
        found[int(address.rpartition(":")[2])] = os.path.basename(folder)
    return found


def known_targets() -> list[str]:
    """The targets that iscsiadm has a record of, logged in or not, ours and others; the portals may be anything."""
    return re.findall(r"^\S+,-?\d+ (\S+)$", _admin("-m", "node", allowed=_NOT_FOUND), re.MULTILINE)


def preflight() -> None:
    """Refuse a host that cannot log in anywhere. :raises TransportError: its tools are missing."""
    known_targets()


def log_in(target: str, portal: Portal, chap: Chap) -> Session:
    """Log in to a target at a portal, without discovery: nothing else of the array is asked for or kept.

    The record with the secret stays until log_out: iscsid needs it when it comes back to a connection that was lost.

    :raises TransportError: the target does not let this host in, or does not answer.
    """
    where = ("-m", "node", "-T", target, "-p", str(portal))
    _admin(*where, "-o", "new")
    settings = {
        "node.startup": "manual",
        "node.session.timeo.replacement_timeout": REPLACEMENT_TIMEOUT_S,
        "node.session.initial_login_retry_max": _LOGIN_TRIES,
        "node.conn[0].timeo.login_timeout": _LOGIN_TIMEOUT_S,
    }
    for name, value in settings.items():
        _admin(*where, "-o", "update", "-n", name, "-v", str(value))
    try:
        keep_secret(target, chap)
        _admin(*where, "--login", allowed=_EXISTS)
    except TransportError as exc:
        _admin(*where, "-o", "delete", allowed=_NOT_FOUND)
        raise TransportError(
            f"portal: the media server cannot log in to {target} at {portal} ({exc.message}).", option="portal"
        ) from exc
    found = next((session for session in sessions() if session.target == target), None)
    if found is None:
        raise TransportError(f"target {target}: the media server logged in, and its session is gone already.")
    return found


def keep_secret(target: str, chap: Chap, folders: Sequence[str] = RECORDS) -> None:
    """Write the accounts into the records of a target, and close these to other users.

    iscsiadm takes them as arguments.

    :raises TransportError: there is no record, or it cannot be written.
    """
    settings = {
        "authmethod": "CHAP",
        "username": chap.user,
        "password": chap.secret,
        "username_in": chap.target_user,
        "password_in": chap.target_secret,
    }
    files = [
        os.path.join(folder, name)
        for top in folders
        for folder, _folders, names in os.walk(os.path.join(top, target))
        for name in names
    ]
    if not files:
        raise TransportError(f"target {target}: iscsiadm keeps no record of it in {' or '.join(folders)}.")
    try:
        for path in files:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "r+", encoding="utf-8", errors="surrogateescape") as stream:
                os.fchmod(fd, 0o600)
                lines = [line for line in stream if not line.startswith("node.session.auth.")]
                end = next((place for place, line in enumerate(lines) if line.startswith("# END")), len(lines))
                lines[end:end] = [f"node.session.auth.{name} = {value}\n" for name, value in settings.items()]
                stream.seek(0)
                stream.write("".join(lines))
                stream.truncate()
    except OSError as exc:
        raise TransportError(f"target {target}: its record {path} cannot be written ({exc.strerror}).") from exc


def log_out(target: str) -> None:
    """Log out of a target, if that is to be done, and forget it.

    :raises TransportError: the session stays.
    """
    deadline = time.monotonic() + _LOGOUT_TIMEOUT_S
    while any(session.target == target for session in sessions()):
        if target not in known_targets():
            raise TransportError(
                f"target {target}: iscsiadm has no record of it; end its session by hand (iscsiadm -m session)."
            )
        # A logout that met a read of udev's waits for it, gives up, and leaves the session to the next try.
        with contextlib.suppress(TransportError):
            _admin("-m", "node", "-T", target, "--logout", allowed=_NOT_FOUND)
        if time.monotonic() > deadline:
            raise TransportError(f"target {target}: the media server's session with it does not end.")
        _wait_for_end(target)
    _admin("-m", "node", "-T", target, "-o", "delete", allowed=_NOT_FOUND)


def _wait_for_end(target: str) -> None:
    """Give a session that was logged out of the time to go."""
    deadline = time.monotonic() + _RETRY_S
    while time.monotonic() < deadline and any(session.target == target for session in sessions()):
        time.sleep(_POLL_S)


def rescan_session(session: Session) -> None:
    """Let the kernel look for further LUNs in a session. :raises TransportError: iscsiadm failed."""
    _admin("-m", "session", "-r", session.name[len("session") :], "-R")


def _admin(*words: str, allowed: int = 0) -> str:
    try:
        return _among_others(*words)
    except ToolError as exc:
        if exc.exit_code is None:
            raise TransportError(
                "transport: iscsiadm is not installed on the media server; install open-iscsi.",
                option="transport",
                code="host_program",
            ) from exc
        if exc.exit_code == allowed:
            return ""
        raise TransportError(exc.message) from exc


def _among_others(*words: str) -> str:
    """Run iscsiadm, whatever others do to records of their own meanwhile.

    It goes through all records, whichever is asked for, and fails when one vanishes under it. All that is asked of it
    here may be asked again.
    """
    for _try in range(_DATABASE_TRIES - 1):
        try:
            return run_tool("iscsiadm", *words)
        except ToolError as exc:
            if exc.exit_code != _DATABASE:
                raise
        time.sleep(_POLL_S)
    return run_tool("iscsiadm", *words)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
