# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 1: what every mirror provider does, whatever the array.

The life of a mirror set in a session::

    sync -> prepare -> PreparedSplit.split -> PreparedSplit.settle -> present -> withdraw -> resync

``prepare`` does everything that takes time, and durably records what is about to happen. The window waits only for
``split``. ``settle`` makes the result durable after the window has its answer. If a process dies between two steps,
``state`` finds what it left, and ``recover`` cleans that up.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Optional

from ..errors import SplitMirrorError
from ..host.status import StatusWriter
from ..host.strict_json import number, text
from ..options import Spec, check_options
from ..session import StateDir

#: Not split; a splitter is ready to split; split and recorded; left unfinished by a dead process.
PHASES = ("none", "armed", "split", "broken")


class MirrorError(SplitMirrorError):
    """A mirror cannot be used in the requested way."""

    code = "mirror_failed"


@dataclass(frozen=True)
class Pair:
    """One LUN and its mirror.

    :param name: the name of the pair, the same on all hosts.
    :param primary: the name of the primary on the array.
    :param mirror: the name of the mirror on the array.
    :param options: options of the provider for this pair; never a secret, because they are kept in records.
    """

    name: str
    primary: str
    mirror: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Refuse an empty mirror set, and a name, primary or mirror that is in it twice.

    :raises MirrorError: the set is refused.
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


def check_names(pairs: Iterable[Pair], provider: str, pattern: re.Pattern[str], form: str) -> None:
    """Refuse a primary or mirror that is not written in the provider's form.

    :param pattern: what a name has to match. :param form: the same in words, for the message.
    :raises MirrorError: the first that is refused.
    """
    for pair in pairs:
        for what, name in (("primary", pair.primary), ("mirror", pair.mirror)):
            if not pattern.fullmatch(name):
                raise MirrorError(
                    f"pairs: the {what} of pair {pair.name} is {name!r}; provider {provider} needs {form}.",
                    option="pairs",
                    code="option_invalid",
                )


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
    """What the array reports about one pair.

    :param size_bytes: size of the primary; None if it does not exist.
    :param in_sync: the mirror is complete, so the pair could be split now.
    :param sync_percent: how far the synchronization has come; None if the array does not report it.
    :param phase: one of PHASES.
    :param session: the session that armed or split the pair.
    :param devices: the block devices through which the mirror is presented.
    :param users: mount points and processes that use the mirror now.
    :param split_estimate_s: about how long the split of this pair alone will take, in seconds; None if it cannot be
        estimated.
    :param problem: why the pair cannot be split now, in one sentence; None if it can.
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
    """The split of one pair: the name of the mirror on the array, and the times before and after the split in seconds.

    The monotonic times order events of the array; the wall clock times are for information.
    """

    name: str
    mirror: str
    before_mono_s: float
    after_mono_s: float
    before_wall_s: float
    after_wall_s: float


@dataclass(frozen=True)
class SplitResult:
    """The split of a mirror set. :param method: how the mirror was made (``reflink``, ``copy``, ``raid1``)."""

    session: str
    provider: str
    method: str
    pairs: tuple[PairSplit, ...]

    @property
    def split_s(self) -> float:
        """How long the array itself took: from before the first pair until after the last, in seconds."""
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
        """The inverse of as_dict. :raises ValueError, KeyError, TypeError: it is something else."""
        pairs = tuple(PairSplit(**pair) for pair in data["pairs"])
        for pair in pairs:
            for name in (pair.name, pair.mirror):
                text(name)
            for instant in (pair.before_mono_s, pair.after_mono_s, pair.before_wall_s, pair.after_wall_s):
                number(instant)
        if not pairs:
            raise ValueError("it has no pairs")
        return cls(text(data["session"]), text(data["provider"]), text(data["method"]), pairs)


@dataclass(frozen=True)
class Presentation:
    """The block devices of a presented mirror set.

    :param changed: whether this call has made any of them.
    :param luns: how the media server knows the LUN of a pair that the array itself has shown to it: ``serial`` or
        ``wwn``, and perhaps ``lun`` and ``size_bytes``.
    """

    devices: dict[str, str]
    changed: bool
    luns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recovered:
    """One dead session that was cleaned up. :param withdrawn: devices that were still presented."""

    session: str
    phase: str
    pairs: tuple[str, ...]
    withdrawn: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {**asdict(self), "pairs": list(self.pairs), "withdrawn": list(self.withdrawn)}


class PreparedSplit(ABC):
    """A mirror set that is ready to be split; made by MirrorProvider.prepare.

    :ivar method: how the mirrors will be made, as in SplitResult.
    :ivar stay_s: how often ``flush`` wants to be called while the split is armed, in seconds; None for never.
    """

    method: str
    stay_s: Optional[float] = None

    def flush(self) -> None:  # noqa: B027 - optional
        """Write cached data of the array to disk before the window, and keep what is open. Called while nobody waits.

        :raises MirrorError: the set cannot be split any more.
        """

    @abstractmethod
    def split(self) -> SplitResult:
        """Split all pairs, or none. The window waits for this.

        :raises MirrorError: it failed, and nothing is split.
        """

    @abstractmethod
    def settle(self) -> None:
        """Make the split durable. Called once, after split has succeeded and the answer has been sent."""

    @abstractmethod
    def cancel(self) -> None:
        """Remove everything that prepare and a failed split have made."""


class MirrorProvider(ABC):
    """The mirrors of one database host on one kind of array.

    :param pairs: the mirror set, at least one pair, with the options of each pair as the user gave them.
    :param state_dir: the state folder of the array, with its records.
    :param options: of the provider, as the user gave them.
    :ivar options: checked against argument_spec, with defaults filled in; those of each pair likewise.
    :ivar secrets: what the array asks for to log in, by name. Never in records, arguments of programs, or messages.
    :ivar status: where sync and resync tell how far they are; None tells nobody.
    :raises MirrorError: the set is empty or names something twice, or an option is not one of this provider.
    """

    #: The name in ``provider``, and in the registry.
    name: ClassVar[str]
    #: Of the provider; one for which they depend on options or pairs sets its own when it is made.
    capabilities: Capabilities = Capabilities()
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
        self.secrets: Mapping[str, Any] = {}
        self.status: Optional[StatusWriter] = None

    @classmethod
    def faults(cls, options: Mapping[str, Any]) -> list[str]:
        """What is wrong with options beyond what argument_spec says, one sentence each. Called on the controller.

        :param options: as option_faults takes them.
        """
        return []

    def remarks(self) -> list[str]:
        """What whoever arms the split should know beforehand, one sentence each."""
        return []

    def unknown(self) -> Optional[str]:
        """Why ``state`` has only what our own records say, in one sentence; None if it asks the array."""
        return None

    @abstractmethod
    def state(self) -> list[PairState]:
        """What the array reports about each pair, in the order of the pairs. Changes nothing."""

    @abstractmethod
    def sync(self, wait: bool, timeout_s: float) -> float:
        """Wait until all pairs are in sync; return how many seconds that took.

        :param wait: False: raise at once if they are not.
        :raises MirrorError: a pair cannot be synchronized, or is not in sync in time.
        """

    @abstractmethod
    def check_splittable(self, session: str) -> None:
        """Raise MirrorError unless all pairs are in sync, free, and splittable for this session."""

    @abstractmethod
    def prepare(self, session: str) -> PreparedSplit:
        """Do everything that can be done before the window, and durably record what is about to happen.

        :raises MirrorError: as check_splittable.
        """

    def split(self, session: str) -> SplitResult:
        """Prepare, split and settle in one call, where no window has to be kept short."""
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
        """The recorded split of this session; None if the session has not split these pairs."""

    @abstractmethod
    def present(self, session: str) -> Presentation:
        """Make read-only block devices of the session's mirrors. A second call returns the same devices.

        :raises MirrorError: the session has no finished split.
        """

    @abstractmethod
    def withdraw(self, session: str) -> list[str]:
        """Remove the presented devices, all or none, and return those that were removed.

        :raises MirrorError: a device is in use.
        """

    @abstractmethod
    def resync(self, session: str, wait: bool, timeout_s: float) -> int:
        """Make the session's split mirrors mirrors again; return how many bytes were copied.

        :param wait: wait until they are in sync. False: raise at once if they are not.
        :raises MirrorError: a mirror is presented or in use, or is split by another session, or is not in sync in time.
            In the last case the resync continues, and the next call waits for it again.
        """

    @abstractmethod
    def recover(self, dead: Sequence[str] = ()) -> list[Recovered]:
        """Clean up what dead sessions left on these pairs: withdraw, resync, remove records.

        :param dead: ids of sessions that are known to be dead, whose records may be lost.
        :raises MirrorError: a mirror is in use, or a living splitter holds it.
        """
