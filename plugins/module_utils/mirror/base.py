# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 1: what a mirror provider is, whatever the array.

The life of a mirror set in a session::

    sync -> prepare -> PreparedSplit.split -> PreparedSplit.settle -> present -> withdraw -> resync

``prepare`` does everything that takes time and leaves a durable record of what is about to happen; ``split`` is what
the window waits for; ``settle`` makes the result durable once the window has its answer. Whatever a process leaves
when it dies between any two steps is found by ``state`` and finished by ``recover``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Optional

from ..errors import SplitMirrorError
from ..host.status import StatusWriter
from ..options import Spec, check_options
from ..session import StateDir

#: No split of this pair; a splitter stands ready; split and on record; left half done by a dead process.
PHASES = ("none", "armed", "split", "broken")


class MirrorError(SplitMirrorError):
    """A mirror that cannot be used as asked."""

    code = "mirror_failed"


@dataclass(frozen=True)
class Pair:
    """One LUN and its mirror.

    :param name: how all hosts call the pair.
    :param primary: the primary, as the array calls it.
    :param mirror: the mirror, as the array calls it.
    :param options: what the provider needs to know of this pair besides; never a secret, because it is kept in records.
    """

    name: str
    primary: str
    mirror: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Refuse an empty mirror set, and a name, primary or mirror that stands in it twice.

    :raises MirrorError: naming what is wrong.
    """
    if not pairs:
        raise MirrorError(
            "pairs: the mirror set is empty; name at least one pair.", option="pairs", code="option_invalid"
        )
    names: set[str] = set()
    luns: set[str] = set()
    for pair in pairs:
        if pair.name in names:
            raise MirrorError(
                f"pairs: there are two pairs named {pair.name}; each needs its own name.",
                option="pairs",
                code="option_invalid",
            )
        names.add(pair.name)
        for lun in (pair.primary, pair.mirror):
            if lun in luns:
                raise MirrorError(
                    f"pairs: {lun} is in the mirror set twice (again in pair {pair.name}); name each LUN once.",
                    option="pairs",
                    code="option_invalid",
                )
            luns.add(lun)


@dataclass(frozen=True)
class Capabilities:
    """What a provider can do.

    :param atomic_set: one command splits all pairs at one instant. Without it, a split of several pairs outside a
        freeze gets a warning.
    :param takes_turns: the array splits one mirror set after the other, so sessions take turns before they freeze.
    """

    atomic_set: bool = False
    takes_turns: bool = False


@dataclass(frozen=True)
class PairState:
    """What the array says of one pair.

    :param size_bytes: size of the primary, or None when it is not there.
    :param in_sync: a split now would give a whole mirror.
    :param sync_percent: how far the synchronization is.
    :param phase: one of PHASES.
    :param session: the session that armed or split it.
    :param devices: the block devices through which the mirror is presented.
    :param users: who uses the mirror now (mount points, processes), in words.
    :param split_estimate_s: about how long the split of this pair alone will take, in seconds; None when the array
        cannot tell.
    :param problem: one sentence why the pair cannot be split, whatever its phase; None when it can.
    """

    name: str
    primary: str
    mirror: str
    size_bytes: Optional[int]
    in_sync: bool
    sync_percent: Optional[float]
    phase: str
    session: Optional[str]
    devices: tuple[str, ...]
    users: tuple[str, ...]
    split_estimate_s: Optional[float]
    problem: Optional[str]

    @property
    def problem_code(self) -> str:
        """The code of an error that says ``problem``."""
        if self.users:
            return "mirror_in_use"
        if self.phase != "none":
            return "mirror_held"
        return "not_in_sync" if self.sync_percent is not None and self.sync_percent < 100 else MirrorError.code

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {**asdict(self), "devices": list(self.devices), "users": list(self.users)}


@dataclass(frozen=True)
class PairSplit:
    """The split of one pair: the mirror's name on the array, and the instants around it in seconds.

    The monotonic instants order events on the array; the wall clock ones are for people.
    """

    name: str
    mirror: str
    before_mono_s: float
    after_mono_s: float
    before_wall_s: float
    after_wall_s: float


@dataclass(frozen=True)
class SplitResult:
    """The split of a mirror set. :param method: how it was made (``reflink``, ``copy``, ``raid1``)."""

    session: str
    provider: str
    method: str
    pairs: tuple[PairSplit, ...]

    @property
    def split_s(self) -> float:
        """From before the first pair until after the last, in seconds: what the array itself takes."""
        return self.pairs[-1].after_mono_s - self.pairs[0].before_mono_s

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON; ``devices`` gives each pair's mirror on the array."""
        return {
            "session": self.session,
            "provider": self.provider,
            "method": self.method,
            "split_s": round(self.split_s, 6),
            "devices": {pair.name: pair.mirror for pair in self.pairs},
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SplitResult:
        """The inverse of as_dict."""
        pairs = tuple(PairSplit(**pair) for pair in data["pairs"])
        return cls(data["session"], data["provider"], data["method"], pairs)


@dataclass(frozen=True)
class Presentation:
    """The block devices of a presented mirror set. :param changed: whether this call made any of them."""

    devices: dict[str, str]
    changed: bool


@dataclass(frozen=True)
class Recovered:
    """One dead session whose leftovers were cleaned up. :param withdrawn: devices that were still presented."""

    session: str
    phase: str
    pairs: tuple[str, ...]
    withdrawn: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {**asdict(self), "pairs": list(self.pairs), "withdrawn": list(self.withdrawn)}


class PreparedSplit(ABC):
    """A mirror set on the point of being split; made by MirrorProvider.prepare.

    :ivar method: how it will be split, as in SplitResult.
    """

    method: str

    def flush(self) -> None:  # noqa: B027 - optional
        """Bring what waits in the array's caches to disk ahead of the window. Called while nobody waits."""

    @abstractmethod
    def split(self) -> SplitResult:
        """Split all pairs, or none; this is what the window waits for.

        :raises MirrorError: it failed, and nothing is split.
        """

    @abstractmethod
    def settle(self) -> None:
        """Make the split durable; called once, after split has succeeded and its answer is sent."""

    @abstractmethod
    def cancel(self) -> None:
        """Drop everything that prepare and a failed split made."""


class MirrorProvider(ABC):
    """The mirrors of one database host on one kind of array.

    :param pairs: the mirror set, at least one pair, with the options of each pair as the user gave them.
    :param state_dir: where the array keeps its records.
    :param options: of the provider, as the user gave them.
    :ivar options: checked against argument_spec, with defaults filled in; those of each pair likewise.
    :ivar status: where sync and resync tell how far they are; None tells nobody.
    :raises MirrorError: the set is empty or names something twice, or an option is not one of this provider.
    """

    #: The name in ``provider``, and in the registry.
    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: What the option ``provider_options`` may hold.
    argument_spec: ClassVar[Spec] = {}
    #: What ``options`` of a pair may hold. No secrets: records and results of modules show the options of pairs.
    pair_argument_spec: ClassVar[Spec] = {}

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        check_pairs(pairs)
        whose = f"provider {self.name}"
        self.options = check_options("provider_options", whose, self.argument_spec, options or {}, MirrorError)
        self.pairs = tuple(
            replace(
                pair,
                options=check_options(
                    f"pairs: {pair.name}: options", whose, self.pair_argument_spec, pair.options, MirrorError
                ),
            )
            for pair in pairs
        )
        self.state_dir = state_dir
        self.status: Optional[StatusWriter] = None

    @abstractmethod
    def state(self) -> list[PairState]:
        """What the array says of each pair, in the order of the pairs. Changes nothing."""

    @abstractmethod
    def sync(self, wait: bool, timeout_s: float) -> float:
        """Bring all pairs in sync and return the seconds waited.

        :param wait: wait until they are; otherwise raise at once when they are not.
        :raises MirrorError: a pair cannot be synchronized, or is not in sync in time.
        """

    @abstractmethod
    def check_splittable(self, session: str) -> None:
        """Raise MirrorError unless all pairs are in sync, free, and splittable for this session."""

    @abstractmethod
    def prepare(self, session: str) -> PreparedSplit:
        """Do all that can be done before the window, durably noting what is to come.

        :raises MirrorError: as check_splittable.
        """

    def split(self, session: str) -> SplitResult:
        """Prepare, split and settle in one go, for those who have no window to keep short."""
        prepared = self.prepare(session)
        try:
            result = prepared.split()
        except SplitMirrorError:
            prepared.cancel()
            raise
        prepared.settle()
        return result

    @abstractmethod
    def split_result(self, session: str) -> Optional[SplitResult]:
        """The split of this session as recorded, or None when the session has not split these pairs."""

    @abstractmethod
    def present(self, session: str) -> Presentation:
        """Make the session's mirrors readable as block devices, and only readable; again gives the same.

        :raises MirrorError: the session has no finished split.
        """

    @abstractmethod
    def withdraw(self, session: str) -> list[str]:
        """Take the presentation back and return the devices that are gone; all of them, or none.

        :raises MirrorError: a device is in use.
        """

    @abstractmethod
    def resync(self, session: str, wait: bool, timeout_s: float) -> int:
        """Make the session's mirrors mirrors again and return the bytes copied for it.

        :param wait: wait until they are in sync; otherwise raise at once when they are not.
        :raises MirrorError: a mirror is presented or in use, or is split by another session, or is not in sync in time.
            In the last case the resync goes on, and the next call waits again.
        """

    @abstractmethod
    def recover(self) -> list[Recovered]:
        """Finish what dead sessions left on these pairs: withdraw, resync, remove records.

        :raises MirrorError: what is left is in use, or belongs to a living splitter.
        """
