# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Base of providers that run on the array's own host and keep a journal of the sessions that hold pairs there.

What a session makes also has a mark on the array itself, so that it is found even if the journal is lost.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

from ..host import blockdev
from ..host.daemon import DaemonRecord
from ..session import StateDir, check_session_id
from .base import MirrorError, MirrorProvider, Pair, Recovered, SplitResult
from .journal import Journal, SplitRecord
from .turn import Turn

#: How long to wait until a splitter that has answered has recorded its split.
SETTLE_TIMEOUT_S = 60.0
#: How long to wait for the turn. A session has it for no longer than a window may last.
TURN_TIMEOUT_S = 3600.0
_POLL_S = 0.02


class JournaledProvider(MirrorProvider):
    """A provider whose sessions are recorded on this host. Derived classes implement what is done to the mirrors."""

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        self._journal = Journal(state_dir)

    @property
    def journal(self) -> Journal:
        """The records of sessions."""
        return self._journal

    @abstractmethod
    def _marks(self) -> list[Optional[str]]:
        """For each pair the session whose mark its mirror has; None or '' if it has no mark."""

    @abstractmethod
    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        """Remove the devices of the mirrors, and return them. :raises MirrorError: one is in use."""

    @abstractmethod
    def _give_back(self, record: SplitRecord) -> None:
        """Undo a session's split, finished or not, without waiting for the resync, and remove its record."""

    def _in_turn(self) -> AbstractContextManager[None]:
        """A context for changes that would make other sessions wait in their windows."""
        return Turn(self.state_dir).waited_for(TURN_TIMEOUT_S) if self.capabilities.takes_turns else nullcontext()

    # ---- the seam ----

    def check_splittable(self, session: str) -> None:
        """See MirrorProvider."""
        check_session_id(session)
        for state in self.state():
            if state.problem:
                raise MirrorError(state.problem, option="pairs", code=state.problem_code)

    def split_result(self, session: str) -> Optional[SplitResult]:
        """See MirrorProvider."""
        record = self._own_record(session)
        return record.result if record else None

    def withdraw(self, session: str) -> list[str]:
        """See MirrorProvider."""
        record = self._own_record(session)
        if record is None:
            return []
        with self._in_turn():
            return self._withdraw(record.pairs)

    def recover(self, dead: Sequence[str] = ()) -> list[Recovered]:
        """See MirrorProvider. Starts the resync and does not wait for it."""
        done = []
        self._journal.remove_unfinished()
        for record in self._leftovers():
            phase = record.phase
            if phase == "armed":
                raise MirrorError(
                    f"session {record.session}: its splitter (process {record.process.pid}) is ready to split these "
                    "pairs; wait until that session has ended, or end its splitter (mirror_sync with "
                    "state: recovered and that session in dead_sessions).",
                    code="mirror_held",
                )
            with self._in_turn():
                withdrawn = self._withdraw(record.pairs)
                self._give_back(record)
            names = tuple(pair.name for pair in record.pairs)
            done.append(Recovered(record.session, phase, names, tuple(withdrawn)))
        return done

    # ---- records ----

    def _begin(self, session: str) -> SplitRecord:
        """Check that the pairs can be split, and record that this process will split them."""
        process = DaemonRecord.of(os.getpid())
        if process is None:
            raise MirrorError("/proc: it does not show this process; mount /proc.")
        record = SplitRecord(session, self.name, self.pairs, process)
        with self._journal.locked():
            self.check_splittable(session)
            self._journal.write(record)
        return record

    def _own_record(self, session: str) -> Optional[SplitRecord]:
        """The session's record, or None. :raises MirrorError: another session holds one of the pairs."""
        for pair in self.pairs:
            record = self._journal.record_of(pair)
            if record is not None and record.session != session:
                raise MirrorError(
                    f"pair {pair.name}: it is split by session {record.session}, not by {session}.",
                    option="session",
                    code="mirror_held",
                )
        return self._journal.read(session)

    def _settled_record(self, session: str) -> SplitRecord:
        """Wait until the session's split is recorded, which is after the splitter's answer; return the record."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            record = self._own_record(session)
            if record is None:
                raise MirrorError(
                    f"session {session}: it has not split these pairs; split them first.", code="not_split"
                )
            # The splitter may have recorded the split and ended between our read of the record and our check.
            if record.phase == "broken":
                record = self._own_record(session) or record
            if record.phase == "split":
                return record
            if record.phase == "broken":
                raise MirrorError(
                    f"session {session}: its split did not finish; clean it up (mirror_sync with state: recovered) "
                    "and start a new session.",
                    code="not_split",
                )
            if time.monotonic() > deadline:
                raise MirrorError(
                    f"session {session}: its splitter has not split the pairs yet; split them first.", code="not_split"
                )
            time.sleep(_POLL_S)

    def _record_to_resync(self, session: str) -> Optional[SplitRecord]:
        """The session's record, or None. :raises MirrorError: its splitter is still alive."""
        record = self._own_record(session)
        if record is not None and record.phase == "armed":
            raise MirrorError(
                f"session {session}: its splitter (process {record.process.pid}) is still ready to split.",
                code="mirror_held",
            )
        return record

    def _leftovers(self) -> list[SplitRecord]:
        """The records of all sessions that hold our pairs; one is made up for a mark that has no record."""
        found = [record for record in self._journal.all() if any(record.touches(pair) for pair in self.pairs)]
        dead = DaemonRecord(0, 0, "")
        for pair, mark in zip(self.pairs, self._marks()):
            if mark and not any(record.touches(pair) for record in found):
                found.append(SplitRecord(mark, self.name, (pair,), dead))
        return found


def phase_and_session(record: Optional[SplitRecord], mark: Optional[str]) -> tuple[str, Optional[str]]:
    """Phase and session of a pair. :param record: that of the session that holds it. :param mark: on its mirror."""
    if record is not None:
        return record.phase, record.session
    return ("broken", mark) if mark else ("none", None)  # the record was lost


def refuse_busy(pair: Pair, devices: Sequence[str]) -> None:
    """Refuse to take a mirror away from whoever uses it. :raises MirrorError: one of its devices is in use."""
    for device in devices:
        busy = blockdev.busy_users(device)
        if busy:
            raise MirrorError(
                f"pair {pair.name}: its mirror {device} is in use by {'; '.join(busy)}; end that first.",
                code="mirror_in_use",
            )


def held_problem(pair: Pair, users: Sequence[str], phase: str, session: Optional[str]) -> Optional[str]:
    """The problem of a pair whose mirror is in use, or that a session holds, in one sentence; None when it is free."""
    if users:
        return f"pair {pair.name}: its mirror {pair.mirror} is in use by {'; '.join(users)}."
    return {
        "none": None,
        "armed": f"pair {pair.name}: session {session} is ready to split it; wait until that session has ended.",
        "split": f"pair {pair.name}: it is already split by session {session}; resync it first "
        "(mirror_sync with state: synced and that session, or state: recovered).",
        "broken": f"pair {pair.name}: session {session} died while it split the pair; clean it up first "
        "(mirror_sync with state: recovered).",
    }[phase]
