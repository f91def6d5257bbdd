# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finish what a dead or forgotten holder left behind: thaw, give up hot backup, end the process."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Optional

from ..errors import SplitMirrorError
from ..extents.stack import read_mounts
from ..host.daemon import (
    is_alive,
    read_record,
    terminate,
    wait_gone,
)
from ..host.lineclient import LineError
from ..session import StateDir, is_of_host
from . import freeze
from .protocol import BACKSTOP, GUARD, NAME, ask, ask_if_running
from .rescue import COMMANDS_S
from .window import read_record as read_frozen

ANSWER_S = 10.0
GUARD_S = 10.0


@dataclass(frozen=True)
class Recovered:
    """What was found of one session.

    :param session: id. :param thawed: mount points that were frozen. :param databases: names whose hot backup was
        given up. :param holder: ``ended`` in order, ``killed``, or None when it was dead already.
    """

    session: str
    thawed: list[str]
    databases: list[str]
    holder: Optional[str]


def leftovers(state: StateDir, host: Optional[str] = None) -> list[str]:
    """Ids of the sessions that have a holder, a guard, a backstop, or a freeze that was not ended.

    :param host: inventory name of the database host; only its sessions.
    """
    mine = [session for session in state.sessions() if host is None or is_of_host(session, host)]
    return [session for session in mine if _is_left(state, session)]


def quiesced_by_others(state: StateDir, host: Optional[str]) -> set[str]:
    """Names of the databases that are quiesced by holders of sessions of other database hosts.

    :param host: inventory name of this host; None when sessions of all names are meant, so that there are no others.
    :raises NoAnswer: one of these holders is busy, so that its databases are not known.
    """
    found: set[str] = set()
    for session in state.sessions() if host is not None else []:
        if not is_of_host(session, str(host)):
            status = ask_if_running(state, session, "status")
            found.update(status["databases"] if status is not None else ())
    return found


def recover(state: StateDir, session: str) -> Recovered:
    """End whatever a session left on this host; afterwards nothing of the session is frozen or running.

    :raises SplitMirrorError: something could not be ended.
    """
    folder = state.session_dir(session)
    frozen = read_frozen(state.frozen_file(session))
    thawed: list[str] = []
    databases: list[str] = []
    holder: Optional[str] = None
    try:
        status = ask(state, session, "status", ANSWER_S)["result"]
        thawed, databases = status["mounts"], sorted(status["databases"])
        ask(state, session, "stop", ANSWER_S)
        holder = "ended"
    except LineError:
        pass  # it is gone, or hangs
    record = read_record(folder, NAME)
    if record is not None and not (holder and _gone(folder, NAME, ANSWER_S)) and terminate(record, 0.5):
        holder = "killed"
        thawed = [*thawed, *frozen]  # by its guard, or below
    # A guard whose holder is dead thaws and ends; only a database may delay it.
    _gone(folder, GUARD, GUARD_S)
    thawed = sorted({*thawed, *thaw_mounts(state, session, frozen)})
    for name in (GUARD, BACKSTOP):  # the second one takes over when the first one fails
        if not _gone(folder, name, COMMANDS_S):
            record = read_record(folder, name)
            if record is not None:
                terminate(record, 0.5)
    records = [state.record_file(session, name) for name in (NAME, GUARD, BACKSTOP)]
    for path in (state.socket_file(session, NAME), state.frozen_file(session), *records):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return Recovered(session, thawed, databases, holder)


def thaw_mounts(state: StateDir, session: str, mounts: list[str]) -> list[str]:
    """Thaw mount points without a holder, but none that another session has frozen; return those that were frozen.

    :raises SplitMirrorError: the kernel refuses to thaw one of them.
    """
    spared = _frozen_by_others(state, session)
    return _thaw_rest([mount for mount in mounts if os.path.realpath(mount) not in spared])


def _is_left(state: StateDir, session: str) -> bool:
    folder = state.session_dir(session)
    for name in (NAME, GUARD, BACKSTOP):
        record = read_record(folder, name)
        if record is not None and is_alive(record):
            return True
    return bool(read_frozen(state.frozen_file(session))) or os.path.exists(state.socket_file(session, NAME))


def _frozen_by_others(state: StateDir, session: str) -> set[str]:
    """Mount points that living holders of other sessions have frozen; they could only do so after our thaw."""
    found: set[str] = set()
    for other in state.sessions():
        folder = state.session_dir(other)
        record = read_record(folder, NAME) if other != session else None
        if record is not None and is_alive(record):
            found.update(read_frozen(state.frozen_file(other)))
    return found


def _gone(folder: str, name: str, patience_s: float) -> bool:
    """Whether a process ends within a time."""
    record = read_record(folder, name)
    return record is None or wait_gone(record, patience_s)


def _thaw_rest(mounts: list[str]) -> list[str]:
    known = {os.fsdecode(mount.mount_point): mount for mount in read_mounts()}
    thawed = []
    for name in reversed(mounts):
        mount = known.get(os.path.realpath(name))
        if mount is None:
            continue
        fd = freeze.open_mount(mount)
        try:
            if freeze.thaw(fd):
                thawed.append(name)
        except OSError as exc:
            raise SplitMirrorError(
                f"mounts: {name} cannot be thawed ({exc.strerror}); try fsfreeze --unfreeze {name} by hand.",
                code="thaw_failed",
            ) from exc
        finally:
            os.close(fd)
    return thawed
