# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which run is at work for a database host: one run at a time, or each would clean up the other's living session.

A lease is a file ``leases/<host>.json`` in the state folder of each machine of the host (database host, array, media
server), by the host's inventory name. Whether the run that owns it still lives is known in three ways:

- A task of it works on this machine now: it holds a lock on the file (flock(2)), which the kernel lets go of when it
  dies. Such a lease stands however long the task takes.
- Its controller is this one: there the process of ansible-playbook lives, or does not.
- Otherwise by time: each task of the run that ends here gives the lease a new time, and it lapses LAPSES_S after that.

A run whose lease was taken over is refused in all that it does for its session from then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

from .errors import SplitMirrorError
from .host.files import locked, open_folder, replace_file, try_lock
from .host.strict_json import number, parse_own_json, whole
from .session import StateDir, host_of, host_part

LAPSES_S = 3600.0


class LeaseError(SplitMirrorError):
    """Another run is at work for the host. :ivar other: its lease."""

    code = "lease_held"

    def __init__(self, message: str, other: Lease, *, code: Optional[str] = None) -> None:
        super().__init__(message, option="host", code=code)
        self.other = other


@dataclass(frozen=True)
class Owner:
    """The process on the controller that runs the play, told from all others.

    :param boot_id: of the controller's kernel, see random(4); empty where it has none; then its
        processes cannot be looked up.
    :param pid_namespace: in which ``pid`` counts, see namespaces(7).
    :param start_ticks: field 22 of /proc/PID/stat, see proc(5).
    """

    controller: str
    user: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Owner:
        """From JSON. :raises ValueError: it is none."""
        try:
            controller, user, boot_id, namespace = (
                str(told[name]) for name in ("controller", "user", "boot_id", "pid_namespace")
            )
            pid, ticks = (whole(int(told[name])) for name in ("pid", "start_ticks"))
            return cls(controller, user, boot_id, namespace, pid, ticks)
        except (KeyError, TypeError, OverflowError) as exc:
            raise ValueError("no owner of a lease") from exc


@dataclass(frozen=True)
class Lease:
    """:param since_s: when the run took it; :param seen_s: its last sign of life; seconds since 1970.

    :param busy: a task of the run is at work on this machine now.
    """

    session: str
    host: str
    owner: Owner
    since_s: float
    seen_s: float
    busy: bool

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return asdict(self)

    @property
    def lapsed(self) -> bool:
        """No sign of life for so long, or a clock that was changed by as much."""
        return abs(time.time() - self.seen_s) > LAPSES_S


def _refusal(lease: Lease, session: str, owner: Owner, alive: Optional[bool], *, is_judged: bool) -> str:
    """Why a lease cannot be had; empty when it can.

    :param alive: whether its owner lives, as its own controller reports; None when that is another one.
    :param is_judged: whether anybody asked.
    """
    if lease.session == session:
        return ""
    who = (
        f"session {lease.session} of {lease.host} is at work since {_shown(lease.since_s)}, begun by "
        f"{lease.owner.user} on {lease.owner.controller} (process {lease.owner.pid})"
    )
    if lease.busy:
        return f"host: {who}, and a task of it runs on this machine now; wait for its end."
    # A process goes through the sessions of a host one after another.
    if alive is False or (owner == lease.owner and owner.boot_id):
        return ""
    if alive or not is_judged:
        return f"host: {who}; wait for its end."
    if lease.lapsed:
        return ""
    return (
        f"host: {who}, and gave its last sign of life at {_shown(lease.seen_s)}; wait for its end. If it is dead, its "
        f"lease lapses at {_shown(lease.seen_s + LAPSES_S)}, and splitmirror_break_lease: true (break_lease) ends it "
        "now."
    )


class Leases:
    """The leases in one state folder."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._folder = state.leases_dir

    def find(self, host: str) -> Optional[Lease]:
        """The lease of a database host, whether its owner lives or not. :param host: its inventory name."""
        with self._alone():
            return self._read(self._path(host_part(host)))

    def take(
        self,
        host: str,
        session: str,
        owner: Owner,
        *,
        judged: Optional[str] = None,
        alive: Optional[bool] = None,
        break_lease: bool = False,
        dry_run: bool = False,
    ) -> Optional[Lease]:
        """Take the lease of a database host, and return the one that was there before.

        :param judged: the session whose owner ``alive`` is about.
        :param break_lease: take it also from a run that may be at work.
        :param dry_run: change nothing.
        :raises LeaseError: another run is at work.
        """
        path = self._path(host_part(host))
        if not dry_run:
            self._state.make_private_dir(self._folder)
        with self._alone():
            before = self._read(path)
            self._refuse(before, session, owner, judged, alive, break_lease=break_lease)
            if dry_run:
                return before
            if before is not None and before.session == session:
                os.utime(path)
                return before
            told = {"session": session, "host": host, "owner": asdict(owner), "since_s": time.time()}
            replace_file(path, json.dumps(told), alone=True)
            return before

    def release(self, host: str, session: str, *, dry_run: bool = False) -> bool:
        """Give the lease back if it is that of a session; return whether it was."""
        path = self._path(host_part(host))
        with self._alone():
            before = self._read(path)
            if before is None or before.session != session:
                return False
            if not dry_run:
                os.unlink(path)
            return True

    @contextlib.contextmanager
    def at_work(self, part: str, session: Optional[str] = None) -> Iterator[None]:
        """Hold the lease while a task of the run works; without a lease, as in plays without the role, do nothing.

        :param part: of the host, see host_part. :param session: for which it works; None when it is not known.
        :raises LeaseError: another run has taken over.
        """
        handle = self._join(part, session)
        try:
            yield
        finally:
            if handle is not None:
                os.utime(handle)
                os.close(handle)

    def _join(self, part: str, session: Optional[str]) -> Optional[int]:
        path = self._path(part)
        with self._alone():
            lease = self._read(path)
            if lease is None:
                return None
            if session is not None and lease.session != session:
                raise LeaseError(
                    f"session: {session} has lost its lease to session {lease.session} of {lease.host}, which is at "
                    f"work since {_shown(lease.since_s)}; this run stops here.",
                    lease,
                    code="lease_lost",
                )
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.utime(handle)
            return handle

    def _refuse(
        self,
        lease: Optional[Lease],
        session: str,
        owner: Owner,
        judged: Optional[str],
        alive: Optional[bool],
        *,
        break_lease: bool,
    ) -> None:
        if lease is None or break_lease:
            return
        is_judged = judged == lease.session
        reason = _refusal(lease, session, owner, alive if is_judged else None, is_judged=is_judged)
        if reason:
            raise LeaseError(reason, lease)

    def _read(self, path: str) -> Optional[Lease]:
        """A lease, or None when there is none, or what a power failure made of one."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            stream = os.fdopen(handle, "rb")
        except OSError as exc:
            os.close(handle)
            raise SplitMirrorError(f"{path}: this lease cannot be read ({exc.strerror}); remove it.") from exc
        with stream:
            try:
                told = parse_own_json(stream.read())
                owner = Owner.of(told["owner"])
                session, host, since_s = str(told["session"]), str(told["host"]), number(told["since_s"])
            except (ValueError, KeyError, TypeError):
                return None
            busy = not try_lock(handle)
            return Lease(session, host, owner, since_s, os.fstat(handle).st_mtime, busy)

    def _path(self, part: str) -> str:
        return self._state.lease_file(part)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock out other processes that look at a lease, take it or give it back; that never takes long."""
        try:
            lock = open_folder(self._folder)
        except FileNotFoundError:  # no lease was ever taken here
            yield
            return
        with locked(lock):
            yield


@contextlib.contextmanager
def working_for(state: StateDir, session: str) -> Iterator[None]:
    """A task works for a session meanwhile. :raises LeaseError: another run of its host has taken over."""
    part = host_of(session)
    with contextlib.nullcontext() if part is None else Leases(state).at_work(part, session):
        yield


def _shown(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0.0, min(seconds, 253402300799.0))))
