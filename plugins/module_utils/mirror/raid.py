# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Base of providers whose mirror is a leg of a software raid1, taken out at the split and put back at the resync.

A derived class looks at a pair, takes its leg out, puts it back, and makes it readable. This class has the order of the
steps, the records and the refusals.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from ..host import blockdev
from .base import (
    MirrorError,
    Pair,
    PairSplit,
    PairState,
    PreparedSplit,
    Presentation,
    SplitResult,
)
from .host import written, written_between
from .journal import Journal, SplitRecord
from .journaled import JournaledProvider, held_problem, phase_and_session, refuse_busy

POLL_S = 0.5
METHOD = "raid1"
#: Where a leg is: part of the array (in sync or being synchronized); marked as failed, as in the middle of a split;
#: taken out.
IN, FAULTY, OUT = "in", "faulty", "out"


@dataclass(frozen=True)
class PairView:
    """What the tools of the array report about one pair.

    :param broken: why this pair cannot be split until somebody repairs it, in one sentence; None if it can.
    :param syncing: why it cannot be split yet, because it is being synchronized or checked; None if it is not.
    :param leg: IN, FAULTY or OUT; None if there is no such leg.
    :param mark: the session whose mark the array has for this pair.
    :param devices: the block devices that must be unused before the leg is put back.
    :param presented: the device through which the leg is readable, and only readable.
    """

    size_bytes: Optional[int] = None
    sync_percent: Optional[float] = None
    broken: Optional[str] = None
    syncing: Optional[str] = None
    leg: Optional[str] = None
    mark: Optional[str] = None
    devices: tuple[str, ...] = ()
    presented: Optional[str] = None

    @property
    def split(self) -> bool:
        """Whether the leg is out."""
        return self.leg == OUT


class RaidProvider(JournaledProvider):
    """Mirrors that are legs of software raid1 arrays on this host."""

    # ---- what each provider implements ----

    @abstractmethod
    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        """Look at each pair. Changes nothing."""

    @abstractmethod
    def mark(self, pair: Pair, session: str) -> None:
        """Mark on the array itself that the session is about to take the leg out, if the array can store a mark."""

    @abstractmethod
    def unmark(self, pair: Pair, session: str) -> None:
        """Remove the mark, if there is one."""

    @abstractmethod
    def take_out(self, pair: Pair, session: str) -> None:
        """Take the leg out, also if it is FAULTY. The window waits for this. :raises MirrorError: it failed."""

    def prepare_to_take_out(self, pairs: Sequence[Pair]) -> None:
        """Do beforehand what take_out needs. Called after mark, in the process that calls take_out."""

    def protect(self, pairs: Sequence[Pair]) -> None:
        """Keep others from using the legs, which are out now. Called after the window."""

    def refuse_changed(self, pair: Pair, session: str) -> None:
        """Refuse a leg that is out and may have changed since the session took it out. :raises MirrorError: it may."""

    @abstractmethod
    def put_back(self, pair: Pair, session: str) -> None:
        """Put the leg back, and start to copy what has changed. :raises MirrorError: it failed."""

    @abstractmethod
    def make_readable(self, pair: Pair) -> str:
        """Return a read-only block device of the leg."""

    @abstractmethod
    def make_unreadable(self, pair: Pair) -> None:
        """Remove that device. Nobody has it open."""

    @abstractmethod
    def leg_device(self, pair: Pair) -> str:
        """The block device of the leg, as ``major:minor``. It may be another one when the leg is out."""

    # ---- the seam ----

    def state(self) -> list[PairState]:
        """See MirrorProvider."""
        return [self._pair_state(pair, view) for pair, view in zip(self.pairs, self.look(self.pairs))]

    def sync(self, wait: bool, timeout_s: float) -> float:
        """See MirrorProvider."""
        begin = time.monotonic()
        while True:
            waiting = None
            views = self.look(self.pairs)
            for pair, view in zip(self.pairs, views):
                if view.broken:
                    raise MirrorError(view.broken, option="pairs")
                if view.split:
                    raise MirrorError(
                        f"pair {pair.name}: it is split, so it cannot come in sync; resync it first.",
                        code="not_in_sync",
                    )
                waiting = waiting or view.syncing
            waited_s = time.monotonic() - begin
            if waiting is None:
                return waited_s
            if not wait or waited_s > timeout_s:
                raise MirrorError(f"{waiting} Waited {waited_s:.0f} s.", code="not_in_sync")
            self._tell(views)
            time.sleep(POLL_S)

    def prepare(self, session: str) -> PreparedSplit:
        """See MirrorProvider."""
        record = self._begin(session)
        prepared = RaidSplit(self, self._journal, record)
        try:
            with self._in_turn():
                for pair in self.pairs:
                    self.mark(pair, session)
                self.prepare_to_take_out(self.pairs)
        except MirrorError:
            prepared.cancel()
            raise
        return prepared

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        record = self._settled_record(session)
        devices: dict[str, str] = {}
        changed = False
        for pair, view in zip(record.pairs, self.look(record.pairs)):
            if not view.split:
                raise MirrorError(
                    f"pair {pair.name}: {pair.mirror} is part of {pair.primary} again, although session {session} "
                    "split it: somebody has put it back. Start a new session."
                )
            self.refuse_changed(pair, session)
            changed = changed or view.presented is None
            devices[pair.name] = view.presented or self.make_readable(pair)
        return Presentation(devices, changed)

    def withdraw(self, session: str) -> list[str]:
        """See MirrorProvider.

        :raises MirrorError: also when a leg may have changed before its last read; its device is removed all the same.
        """
        record = self._own_record(session)
        presented = (
            [pair for pair, view in zip(record.pairs, self.look(record.pairs)) if view.presented] if record else []
        )
        withdrawn = super().withdraw(session)
        for pair in presented:
            self.refuse_changed(pair, session)
        return withdrawn

    def resync(self, session: str, wait: bool, timeout_s: float) -> int:
        """See MirrorProvider. What is written to the primary meanwhile is included: the kernel counts both."""
        record = self._record_to_resync(session)
        if record is None:
            return 0
        for pair, view in zip(record.pairs, self.look(record.pairs)):
            if view.presented:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is still presented as {view.presented}; withdraw it before the "
                    "resync.",
                    code="mirror_in_use",
                )
        before = [written(self.leg_device(pair)) for pair in record.pairs]
        with self._in_turn():
            self.put_all_back(record)
        self._wait_in_sync(record, timeout_s if wait else 0.0)
        after = [written(self.leg_device(pair)) for pair in record.pairs]
        with self._in_turn():
            self.forget(record)
        return sum(written_between(old, new) for old, new in zip(before, after))

    # ---- shared with RaidSplit ----

    def put_all_back(self, record: SplitRecord) -> None:
        """Put back all legs that are out or FAULTY; none if one of them is in use.

        :raises MirrorError: a leg is in use, missing, or cannot be put back. Then the session's record has to stay.
        """
        views = list(zip(record.pairs, self.look(record.pairs)))
        for pair, view in views:
            refuse_busy(pair, view.devices)
        for pair, view in views:
            if view.leg == FAULTY:
                self.take_out(pair, record.session)
            if view.leg in (FAULTY, OUT):
                self.put_back(pair, record.session)
        for _pair, view in views:
            if view.leg is None:
                raise MirrorError(
                    f"session {record.session}: a mirror that it may have split cannot be put back: {view.broken} If "
                    f"it is gone for good, remove {self._journal.path(record.session)}."
                )

    def forget(self, record: SplitRecord) -> None:
        """Remove the marks and the record of a session."""
        for pair in record.pairs:
            self.unmark(pair, record.session)
        self._journal.remove(record.session)

    # ---- inside ----

    def _pair_state(self, pair: Pair, view: PairView) -> PairState:
        phase, session = phase_and_session(self._journal.record_of(pair), view.mark)
        users = tuple(user for device in view.devices for user in blockdev.users(device)) if view.split else ()
        in_sync = not (view.broken or view.syncing or view.split)
        problem = view.broken
        if problem is None:
            problem = held_problem(pair, users, phase, session)
        if problem is None and view.split:
            problem = (
                f"pair {pair.name}: {pair.mirror} is split from {pair.primary}, but not by this collection; whoever "
                "split it has to put it back."
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

    def _marks(self) -> list[Optional[str]]:
        return [view.mark for view in self.look(self.pairs)]

    def _give_back(self, record: SplitRecord) -> None:
        self.put_all_back(record)
        self.forget(record)

    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        presented = [(pair, view) for pair, view in zip(pairs, self.look(pairs)) if view.presented]
        for pair, view in presented:
            refuse_busy(pair, view.devices)
        for pair, _view in presented:
            self.make_unreadable(pair)
        return [str(view.presented) for _pair, view in presented]

    def _wait_in_sync(self, record: SplitRecord, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            views = self.look(record.pairs)
            problem = next((view.broken or view.syncing for view in views if view.broken or view.syncing), None)
            if problem is None:
                return
            if any(view.broken for view in views) or time.monotonic() >= deadline:
                raise MirrorError(
                    f"session {record.session}: the resync has not finished: {problem}", code="not_in_sync"
                )
            self._tell(views)
            time.sleep(POLL_S)

    def _tell(self, views: Sequence[PairView]) -> None:
        """Tell who waits how far the pairs are."""
        if self.status is not None:
            percents = [100.0 if view.syncing is None else view.sync_percent or 0.0 for view in views]
            self.status.set(sum(percents) / len(percents))


class RaidSplit(PreparedSplit):
    """Everything is checked and marked; only the legs have to be taken out."""

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
        self._provider.protect(self._record.pairs)
        self._journal.write(replace(self._record, result=self._result))

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._provider.put_all_back(self._record)
        self._provider.forget(self._record)
