# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What providers have in common whose mirror is one leg of a software raid1: taken out at the split, put back after.

A provider says how to look at a pair and how to take its leg out, put it back, and make it readable. The order, the
records and the refusals are here.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Optional

from .. import blockdev
from ..daemon import DaemonRecord
from ..session import StateDir, check_session_id
from .base import (
    Capabilities,
    MirrorError,
    MirrorProvider,
    Pair,
    PairSplit,
    PairState,
    PreparedSplit,
    Presentation,
    Recovered,
    SplitResult,
)
from .host import written, written_between
from .journal import Journal, SplitRecord
from .turn import Turn

#: How long a reader waits for a splitter that has answered to put its split on disk.
SETTLE_TIMEOUT_S = 60.0
#: How long a resync may take; it goes on when this is over, and the next call waits again.
RESYNC_TIMEOUT_S = 14400.0
POLL_S = 0.5
#: How long to wait for one's turn; nobody has it for longer than a window may last.
TURN_TIMEOUT_S = 3600.0
METHOD = "raid1"


@dataclass(frozen=True)
class PairView:
    """What the array's own tools say of one pair now.

    :param broken: one sentence why this pair is no mirror that could be split, ever, as it is; None when it is one.
    :param syncing: one sentence why it cannot be split yet, because it is being synchronized or checked.
    :param split: the leg is out.
    :param mark: the session whose mark the array carries for this pair.
    :param devices: the block devices that must be free before the leg goes back.
    :param presented: the device through which the leg is readable, and only readable.
    """

    size_bytes: Optional[int] = None
    sync_percent: Optional[float] = None
    broken: Optional[str] = None
    syncing: Optional[str] = None
    split: bool = False
    mark: Optional[str] = None
    devices: tuple[str, ...] = ()
    presented: Optional[str] = None


class RaidProvider(MirrorProvider):
    """Mirrors that are legs of software raid1 arrays on this host."""

    capabilities = Capabilities(atomic_set=False, incremental_resync=True, presents_itself=False)

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, allow_copy: bool = False) -> None:
        super().__init__(pairs, state_dir, allow_copy)
        self._journal = Journal(state_dir)

    # ---- what each provider says for itself ----

    @abstractmethod
    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        """Look at each pair. Changes nothing."""

    @abstractmethod
    def mark(self, pair: Pair, session: str) -> None:
        """Note on the array itself that the session is about to take the leg out, where the array can keep that."""

    @abstractmethod
    def unmark(self, pair: Pair, session: str) -> None:
        """Remove the mark, if it is there."""

    @abstractmethod
    def take_out(self, pair: Pair, session: str) -> None:
        """Split the pair; the window waits for this. :raises MirrorError: it failed."""

    @abstractmethod
    def put_back(self, pair: Pair, session: str) -> None:
        """Make the leg a mirror again and start to copy what has changed. :raises MirrorError: it failed."""

    @abstractmethod
    def make_readable(self, pair: Pair) -> str:
        """Give a block device through which the leg can be read, and only read."""

    @abstractmethod
    def make_unreadable(self, pair: Pair) -> None:
        """Take that device back; nobody has it open."""

    @abstractmethod
    def leg(self, pair: Pair) -> str:
        """The block device of the leg, as ``major:minor``; it is the same device for both states or made anew."""

    # ---- the seam ----

    def state(self) -> list[PairState]:
        """See MirrorProvider."""
        return [self._pair_state(pair, view) for pair, view in zip(self.pairs, self.look(self.pairs))]

    def sync(self, wait: bool, timeout_s: float) -> float:
        """See MirrorProvider."""
        begin = time.monotonic()
        while True:
            waiting = None
            for pair, view in zip(self.pairs, self.look(self.pairs)):
                if view.broken:
                    raise MirrorError(view.broken, option="pairs")
                if view.split:
                    raise MirrorError(f"pair {pair.name}: it is split, so it cannot come in sync; resync it first.")
                waiting = waiting or view.syncing
            waited_s = time.monotonic() - begin
            if waiting is None:
                return waited_s
            if not wait or waited_s > timeout_s:
                raise MirrorError(f"{waiting} Waited {waited_s:.0f} s.")
            time.sleep(POLL_S)

    def check_splittable(self, session: str) -> None:
        """See MirrorProvider."""
        check_session_id(session)
        for state in self.state():
            if state.problem:
                raise MirrorError(state.problem, option="pairs")

    def prepare(self, session: str) -> PreparedSplit:
        """See MirrorProvider."""
        process = DaemonRecord.of(os.getpid())
        if process is None:
            raise MirrorError("/proc: this process cannot see itself there; mount it.")
        record = SplitRecord(session, self.name, self.pairs, process)
        with self._journal.locked():
            self.check_splittable(session)
            self._journal.write(record)
        prepared = RaidSplit(self, self._journal, record)
        try:
            with self._in_turn():
                for pair in self.pairs:
                    self.mark(pair, session)
        except MirrorError:
            prepared.cancel()
            raise
        return prepared

    def split_result(self, session: str) -> Optional[SplitResult]:
        """See MirrorProvider."""
        record = self._own_record(session)
        return record.result if record else None

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        record = self._settled_record(session)
        devices: dict[str, str] = {}
        changed = False
        for pair, view in zip(record.pairs, self.look(record.pairs)):
            if not view.split:
                raise MirrorError(
                    f"pair {pair.name}: {pair.mirror} is a part of {pair.primary} again, though session {session} "
                    "split it; somebody put it back, start a new session."
                )
            changed = changed or view.presented is None
            devices[pair.name] = view.presented or self.make_readable(pair)
        return Presentation(devices, changed)

    def withdraw(self, session: str) -> list[str]:
        """See MirrorProvider."""
        record = self._own_record(session)
        return self._withdraw(record.pairs) if record else []

    def resync(self, session: str) -> int:
        """See MirrorProvider. What the primary writes during the resync counts too: the kernel counts both in one."""
        record = self._own_record(session)
        if record is None:
            return 0
        if record.phase == "armed":
            raise MirrorError(f"session {session}: its splitter (process {record.process.pid}) still stands ready.")
        for pair, view in zip(record.pairs, self.look(record.pairs)):
            if view.presented:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is still presented as {view.presented}; withdraw it before the "
                    "resync."
                )
        before = [written(self.leg(pair)) for pair in record.pairs]
        with self._in_turn():
            self.put_all_back(record)
        self._wait_in_sync(record)
        after = [written(self.leg(pair)) for pair in record.pairs]
        with self._in_turn():
            self.forget(record)
        return sum(written_between(old, new) for old, new in zip(before, after))

    def recover(self) -> list[Recovered]:
        """See MirrorProvider. Starts the resync and does not wait for it."""
        done = []
        for record in self._leftovers():
            phase = record.phase
            if phase == "armed":
                raise MirrorError(
                    f"session {record.session}: its splitter (process {record.process.pid}) stands ready for a split "
                    "of these pairs; let that session end first."
                )
            with self._in_turn():
                withdrawn = self._withdraw(record.pairs)
                self.put_all_back(record)
                self.forget(record)
            names = tuple(pair.name for pair in record.pairs)
            done.append(Recovered(record.session, phase, names, tuple(withdrawn)))
        return done

    # ---- shared with RaidSplit ----

    def put_all_back(self, record: SplitRecord) -> None:
        """Put back what is out; nothing if any of it is in use."""
        out = [(pair, view) for pair, view in zip(record.pairs, self.look(record.pairs)) if view.split]
        for pair, view in out:
            _refuse_busy(pair, view)
        for pair, _view in out:
            self.put_back(pair, record.session)

    def forget(self, record: SplitRecord) -> None:
        """Remove the last traces of a session."""
        for pair in record.pairs:
            self.unmark(pair, record.session)
        self._journal.remove(record.session)

    # ---- inside ----

    def _in_turn(self) -> AbstractContextManager[None]:
        """Keep what changes the array's metadata out of the windows of others, where it would make them wait."""
        return Turn(self.state_dir).waited_for(TURN_TIMEOUT_S) if self.capabilities.takes_turns else nullcontext()

    def _pair_state(self, pair: Pair, view: PairView) -> PairState:
        record = self._journal.holder_of(pair)
        phase, session = (record.phase, record.session) if record else ("none", None)
        if record is None and view.mark:
            phase, session = "broken", view.mark  # the journal was lost
        users = tuple(user for device in view.devices for user in blockdev.users(device)) if view.split else ()
        in_sync = not (view.broken or view.syncing or view.split)
        problem = view.broken
        if problem is None and users:
            problem = f"pair {pair.name}: its mirror {pair.mirror} is in use by {'; '.join(users)}."
        if problem is None and phase != "none":
            problem = {
                "armed": f"pair {pair.name}: session {session} stands ready to split it.",
                "split": f"pair {pair.name}: it is already split by session {session}; resync it first "
                "(mirror_sync with state: synced and that session, or state: recovered).",
                "broken": f"pair {pair.name}: session {session} died while it split the pair; clean it up first "
                "(mirror_sync with state: recovered).",
            }[phase]
        if problem is None and view.split:
            problem = (
                f"pair {pair.name}: {pair.mirror} is split from {pair.primary}, and not by us; whoever did it has to "
                "put it back."
            )
        return PairState(
            name=pair.name,
            primary=pair.primary,
            mirror=pair.mirror,
            size_bytes=view.size_bytes,
            in_sync=in_sync,
            sync_percent=view.sync_percent,
            phase=phase,
            session=session,
            devices=(view.presented,) if view.presented else (),
            users=users,
            split_estimate_s=None,
            problem=problem or view.syncing,
        )

    def _own_record(self, session: str) -> Optional[SplitRecord]:
        """The session's record; raises when another session holds one of the pairs."""
        for pair in self.pairs:
            record = self._journal.holder_of(pair)
            if record is not None and record.session != session:
                raise MirrorError(
                    f"pair {pair.name}: it is split by session {record.session}, not by {session}.", option="session"
                )
        return self._journal.read(session)

    def _settled_record(self, session: str) -> SplitRecord:
        """The session's record once its split is on disk; the splitter answers before that."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            record = self._own_record(session)
            if record is None:
                raise MirrorError(f"session {session}: it has not split these pairs; split them first.")
            # It may have settled and ended between the reading of its record and the look at its process.
            if record.phase == "broken":
                record = self._own_record(session) or record
            if record.phase == "split":
                return record
            if record.phase == "broken":
                raise MirrorError(
                    f"session {session}: its split did not finish; clean it up (mirror_sync with state: recovered) "
                    "and start a new session."
                )
            if time.monotonic() > deadline:
                raise MirrorError(f"session {session}: its splitter has not split the pairs yet.")
            time.sleep(0.02)

    def _leftovers(self) -> list[SplitRecord]:
        """Records of all sessions that hold our pairs; for a mark without a record, one made up from it."""
        found = [record for record in self._journal.all() if any(record.touches(pair) for pair in self.pairs)]
        dead = DaemonRecord(0, 0, "")
        for pair, view in zip(self.pairs, self.look(self.pairs)):
            if view.mark and not any(record.touches(pair) for record in found):
                found.append(SplitRecord(view.mark, self.name, (pair,), dead))
        return found

    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        presented = [(pair, view) for pair, view in zip(pairs, self.look(pairs)) if view.presented]
        for pair, view in presented:
            _refuse_busy(pair, view)
        for pair, _view in presented:
            self.make_unreadable(pair)
        return [str(view.presented) for _pair, view in presented]

    def _wait_in_sync(self, record: SplitRecord) -> None:
        deadline = time.monotonic() + RESYNC_TIMEOUT_S
        while True:
            views = self.look(record.pairs)
            problem = next((view.broken or view.syncing for view in views if view.broken or view.syncing), None)
            if problem is None:
                return
            if any(view.broken for view in views) or time.monotonic() > deadline:
                raise MirrorError(f"session {record.session}: the resync has not come to its end: {problem}")
            time.sleep(POLL_S)


class RaidSplit(PreparedSplit):
    """Everything is checked and marked; only the legs are still in their places."""

    method = METHOD

    def __init__(self, provider: RaidProvider, journal: Journal, record: SplitRecord) -> None:
        self._provider = provider
        self._journal = journal
        self._record = record
        self._result: Optional[SplitResult] = None

    def split(self) -> SplitResult:
        """See PreparedSplit."""
        done = []
        for pair in self._record.pairs:
            before_mono_s, before_wall_s = time.monotonic(), time.time()
            self._provider.take_out(pair, self._record.session)
            after_mono_s, after_wall_s = time.monotonic(), time.time()
            done.append(PairSplit(pair.name, pair.mirror, before_mono_s, after_mono_s, before_wall_s, after_wall_s))
        self._result = SplitResult(self._record.session, self._record.provider, self.method, tuple(done))
        return self._result

    def settle(self) -> None:
        """See PreparedSplit."""
        self._journal.write(replace(self._record, result=self._result))

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._provider.put_all_back(self._record)
        self._provider.forget(self._record)


def _refuse_busy(pair: Pair, view: PairView) -> None:
    for device in view.devices:
        busy = blockdev.busy_users(device)
        if busy:
            raise MirrorError(f"pair {pair.name}: its mirror {device} is in use by {'; '.join(busy)}; end that first.")
