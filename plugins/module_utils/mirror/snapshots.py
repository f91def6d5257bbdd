# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Base of providers whose mirror is made by the split and deleted by the resync, such as clones and snapshots.

Such a mirror never has to be synchronized. A derived class looks at a pair, takes its snapshot, makes it readable, and
deletes it. This class has the order of the steps, the records and the refusals.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Optional

from ..host import blockdev
from .base import MirrorError, Pair, PairSplit, PairState, PreparedSplit, Presentation, SplitResult
from .journal import Journal, SplitRecord
from .journaled import JournaledProvider, held_problem, phase_and_session, refuse_busy


@dataclass(frozen=True)
class SnapshotView:
    """What the array reports about one pair.

    :param size_bytes: size of the primary; None if it does not exist.
    :param broken: why no snapshot of this pair can be taken until somebody repairs it, in one sentence; or None.
    :param mark: the session that has made the mirror; empty if something else is in the mirror's place; None if there
        is nothing.
    :param devices: the block devices through which the mirror can be read.
    :param lost: why the mirror is not, or no longer, what was split, in one sentence; None as long as it is.
    :param split_estimate_s: about how long the split of this pair takes, in seconds; None if it cannot be estimated.
    :param sync_percent: how far the mirror is in sync, where there is one all the time.
    """

    size_bytes: Optional[int]
    broken: Optional[str] = None
    mark: Optional[str] = None
    devices: tuple[str, ...] = ()
    lost: Optional[str] = None
    split_estimate_s: Optional[float] = None
    sync_percent: Optional[float] = None


class SnapshotProvider(JournaledProvider):
    """Mirrors that a split makes and a resync deletes.

    :cvar method: how the mirror is made, as in SplitResult.
    """

    method: ClassVar[str]

    # ---- what each provider implements ----

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """Look at each pair. A provider whose array reports on all at once overrides this instead of ``look``."""
        return [self.look(pair) for pair in pairs]

    def look(self, pair: Pair) -> SnapshotView:
        """Look at a pair. Changes nothing."""
        raise NotImplementedError

    def take(self, pair: Pair, session: str) -> None:
        """Make the mirror, with the session's mark on it. The window waits for this.

        A provider that can do a part of it before the window overrides ``prepared`` instead.

        :raises MirrorError: it failed.
        """
        raise NotImplementedError

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """Do the slow part of the split before the window. :raises MirrorError: it failed, and left nothing."""
        return SnapshotSplit(self, self._journal, record)

    @abstractmethod
    def delete(self, pair: Pair, session: str) -> None:
        """Delete what the session has made of this pair, finished or not, and nothing else. There may be nothing."""

    @abstractmethod
    def show(self, pair: Pair) -> str:
        """Return a read-only block device of the mirror."""

    @abstractmethod
    def hide(self, pair: Pair, device: str) -> None:
        """Remove that device. Nobody has it open."""

    # ---- the seam ----

    def state(self) -> list[PairState]:
        """See MirrorProvider."""
        return [self._pair_state(pair, view) for pair, view in zip(self.pairs, self.look_at(self.pairs))]

    def sync(self, wait: bool, timeout_s: float) -> float:
        """See MirrorProvider; there is nothing to wait for."""
        for view in self.look_at(self.pairs):
            if view.broken:
                raise MirrorError(view.broken, option="pairs")
        return 0.0

    def prepare(self, session: str) -> PreparedSplit:
        """See MirrorProvider."""
        return self.prepared(self._begin(session))

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        devices: dict[str, str] = {}
        changed = False
        pairs = self._settled_record(session).pairs
        with self._in_turn():
            views = self.look_at(pairs)
            refuse_lost(views)
            for pair, view in zip(pairs, views):
                changed = changed or not view.devices
                devices[pair.name] = view.devices[0] if view.devices else self.show(pair)
        return Presentation(devices, changed)

    def withdraw(self, session: str) -> list[str]:
        """See MirrorProvider.

        :raises MirrorError: also when a mirror was lost before its last read may have ended; its device is removed all
            the same.
        """
        record = self._own_record(session)
        read = [view for view in self.look_at(record.pairs) if view.devices] if record else []
        withdrawn = super().withdraw(session)
        refuse_lost(read)
        return withdrawn

    def resync(self, session: str, wait: bool, timeout_s: float) -> int:
        """See MirrorProvider; nothing is copied, and there is nothing to wait for."""
        record = self._record_to_resync(session)
        if record is None:
            return 0
        for pair, view in zip(record.pairs, self.look_at(record.pairs)):
            if view.devices:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is still presented as {', '.join(view.devices)}; withdraw it before "
                    "the resync.",
                    code="mirror_in_use",
                )
        with self._in_turn():
            self.undo(record)
        return 0

    # ---- shared with the splits ----

    def undo(self, record: SplitRecord) -> None:
        """Delete everything that the session has made, and remove its record."""
        for pair in record.pairs:
            self.delete(pair, record.session)
        self._journal.remove(record.session)

    # ---- inside ----

    def _pair_state(self, pair: Pair, view: SnapshotView) -> PairState:
        phase, session = phase_and_session(self._journal.record_of(pair), view.mark)
        users = tuple(user for device in view.devices for user in blockdev.users(device))
        # What was lost matters as long as it can be read.
        problem = view.broken or (view.lost if view.devices else None)
        if problem is None:
            problem = held_problem(pair, users, phase, session)
        if problem is None and view.mark is not None:
            problem = (
                f"pair {pair.name}: {pair.mirror} exists, and no split of this collection made it; move it away or "
                "name another mirror."
            )
        return PairState(
            name=pair.name,
            primary=pair.primary,
            mirror=pair.mirror,
            size_bytes=view.size_bytes,
            in_sync=view.broken is None,
            sync_percent=view.sync_percent if view.broken else 100.0,
            phase=phase,
            session=session,
            devices=view.devices,
            users=users,
            split_estimate_s=view.split_estimate_s,
            problem=problem,
        )

    def _marks(self) -> list[Optional[str]]:
        return [view.mark for view in self.look_at(self.pairs)]

    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        shown = [(pair, device) for pair, view in zip(pairs, self.look_at(pairs)) for device in view.devices]
        for pair, device in shown:
            refuse_busy(pair, [device])
        for pair, device in shown:
            self.hide(pair, device)
        return [device for _pair, device in shown]

    def _give_back(self, record: SplitRecord) -> None:
        self.undo(record)


def refuse_lost(views: Sequence[SnapshotView]) -> None:
    """Refuse to go on with a mirror that is lost. :raises MirrorError: one is."""
    for view in views:
        if view.lost:
            raise MirrorError(view.lost, code="mirror_lost")


class SnapshotSplit(PreparedSplit):
    """Everything is checked and recorded; only the snapshots are missing."""

    def __init__(self, provider: SnapshotProvider, journal: Journal, record: SplitRecord) -> None:
        self.method = provider.method
        self._provider = provider
        self._journal = journal
        self._record = record

    def split(self) -> SplitResult:
        """See PreparedSplit."""
        done = self.take_all(self._record.pairs)
        self.publish()
        result = SplitResult(self._record.session, self._record.provider, self.method, tuple(done))
        self._record = replace(self._record, result=result)
        return result

    def take_all(self, pairs: Sequence[Pair]) -> list[PairSplit]:
        """Make the mirrors, one after the other. A provider whose array makes several at once overrides this."""
        return [split for pair in pairs for split in timed([pair], partial(self.take, pair))]

    def take(self, pair: Pair) -> None:
        """Make the mirror of one pair. :raises MirrorError: it failed."""
        self._provider.take(pair, self._record.session)

    def publish(self) -> None:
        """Give the mirrors their final names, if they do not have them yet. :raises MirrorError: it failed."""

    def settle(self) -> None:
        """See PreparedSplit."""
        self._journal.write(self._record)

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._provider.undo(self._record)


def timed(pairs: Sequence[Pair], action: Callable[[], object]) -> list[PairSplit]:
    """Split these pairs at once by ``action``, and note the times before and after."""
    before_mono_s, before_wall_s = time.monotonic(), time.time()
    action()
    times = (before_mono_s, time.monotonic(), before_wall_s, time.time())
    return [PairSplit(pair.name, pair.mirror, *times) for pair in pairs]
