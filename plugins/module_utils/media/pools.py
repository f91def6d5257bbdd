# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The volumes of a pool: which one is written next, and how people are asked for it.

The rule: append to the fullest volume with room; else take one that has nothing but its label; else use the one again
whose last session expired first. Where a library holds volumes of the pool, only those count that are in it. Into a
drive without a library people put volumes, so whichever of them is in the drive is taken before any other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional

from ..catalog.lookup import format_time
from ..catalog.records import OPEN, Volume
from ..catalog.standing import Standing, standing_of, standings
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..tape.base import TapeDrive, TapeError
from ..tape.drive_lease import DriveLease, Tell, VolumeNotAtHand, silent
from ..tape.label import read_label
from .volume_source import LimitedParts, VolumeChoice, VolumeSource, one_volume
from .volumes import (
    APPEND,
    OVERWRITE,
    WritePosition,
    check_room,
    note_capacity,
    place_for,
    position_by_catalog,
)

#: How often people are looked for: at a drive, and in a library, which is asked each time.
_LOOK_S = 2.0
_LIBRARY_LOOK_S = 10.0
_SHOWN = 4
#: A volume with less room than this counts as full: so many records, or this part of what goes on it.
_LEAST_RECORDS = 16
_LEAST_PART = 256
#: What is wrong with a volume, and not with the drive or the catalog: the next volume may do.
OF_THE_VOLUME = frozenset(
    {
        "tape_damaged",
        "volume_full",
        "volume_missing",
        "volume_not_as_cataloged",
        "volume_not_expired",
        "volume_protected",
        "volume_wrong",
    }
)


Warn = Callable[[str], None]


def unheard(_sentence: str) -> None:
    """Warn nobody."""


class Candidate(NamedTuple):
    """A volume that may be written. :param mode: ``append``, or ``overwrite`` for one that is used again."""

    name: str
    mode: str


def has_room(standing: Standing) -> bool:
    """Whether it is worth while to append to a volume, as far as anybody knows."""
    room = standing.room_bytes
    return room is None or room >= _least_bytes(standing.volume)


def _least_bytes(volume: Volume) -> int:
    return max(_LEAST_RECORDS * volume.record_bytes, (volume.capacity_bytes or 0) // _LEAST_PART)


def rank(
    pool: Sequence[Standing], *, mode: str = APPEND, allow_last: bool = False, full: Collection[str] = ()
) -> list[Candidate]:
    """The volumes of a pool that may be written, the best first.

    :param mode: ``overwrite`` appends to no volume with sessions on it.
    :param allow_last: use a volume again even if the last good session of a host is on it.
    :param full: names of volumes that were found to have no room, whatever the catalog has.
    """
    found = [standing for standing in pool if not standing.volume.out_of_use]
    append = [
        standing
        for standing in found
        if not standing.blank and has_room(standing) and standing.volume.name not in full and mode == APPEND
    ]
    again = [
        standing
        for standing in found
        if not standing.blank and standing not in append and standing.reusable(allow_last=allow_last)
    ]
    append.sort(key=lambda standing: (bool(standing.volume.place), -standing.used_bytes, standing.volume.name))
    again.sort(key=lambda standing: (bool(standing.volume.place), standing.expires_s or 0.0, standing.volume.name))
    blank = sorted((bool(standing.volume.place), standing.volume.name) for standing in found if standing.blank)
    return [
        *(Candidate(standing.volume.name, APPEND) for standing in append),
        *(Candidate(name, APPEND) for _away, name in blank),
        *(Candidate(standing.volume.name, OVERWRITE) for standing in again),
    ]


def pool_room_bytes(pool: Sequence[Standing], *, mode: str = APPEND, allow_last: bool = False) -> Optional[int]:
    """How much goes on all volumes of a pool that may be written; None when that is not known of one of them."""
    by_name = {standing.volume.name: standing for standing in pool}
    total = 0
    for name, how in rank(pool, mode=mode, allow_last=allow_last):
        standing = by_name[name]
        room = standing.volume.capacity_bytes if how == OVERWRITE else standing.room_bytes
        if room is None:
            return None
        total += room
    return total


class PoolVolumes:
    """The source (see VolumeSource) of a session that goes to the volumes of a pool.

    :param volume: begin on this one; None to begin as the rule says.
    :param mode: how to begin: ``overwrite`` takes a volume without sessions, or uses one again.
    :param allow_last: use a volume again even if the last good session of a host is on it.
    :param timeout_s: how long to wait for people to insert a volume.
    :param tell: gets the reason for waiting whenever it changes, and None when the waiting is over.
    :param warn: gets a sentence for each volume that is passed over.
    :ivar passed_over: volumes that should have been written and could not be, and why.
    """

    goes_on = True

    def __init__(
        self,
        lease: DriveLease,
        catalog: Catalog,
        pool: str,
        *,
        volume: Optional[str],
        mode: str,
        allow_last: bool,
        timeout_s: float,
        tell: Tell,
        warn: Warn,
    ) -> None:
        self._lease = lease
        self._catalog = catalog
        self._pool = pool
        self._volume = volume
        self._mode = mode
        self._allow_last = allow_last
        self._timeout_s = timeout_s
        self._tell = tell
        self._warn = warn
        self._given: list[WritePosition] = []
        self._full: set[str] = set()
        self.passed_over: dict[str, str] = {}

    def first(self) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource."""
        self._refuse_empty()
        if self._volume is None:
            return self._get(begins=True)
        drive = self._lease.exchange(self._volume)
        return drive, self._taken(
            place_for(drive, self._catalog, self._volume, self._mode, allow_last=self._allow_last)
        )

    def next(self, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource. No volume is given twice; people may label a new one meanwhile."""
        self._refuse_empty()
        last = self._given[-1]
        known = self._catalog.volume(last.label.volume)
        if known is not None and last.remaining_bytes is None:
            # The drive does not report what it has left, so that is all that goes on it.
            self._catalog.set_capacity(known.name, standing_of(self._catalog, known).used_bytes)
        return self._get(begins=False)

    def out_of_use(self, volume: str, reason: str) -> None:
        """See VolumeSource."""
        self._catalog.take_out_of_use(volume, reason)
        self.passed_over[volume] = reason

    def by_catalog(self) -> WritePosition:
        """See VolumeSource."""
        self._refuse_empty()
        name, mode = self._volume, self._mode
        if name is None:
            reachable = self._lease.reachable()
            found = self._candidates(begins=True)
            chosen = next((item for item in found if reachable is None or item.name in reachable), None)
            if chosen is None:
                raise self._shortage(found, reachable)
            name, mode = chosen
        return position_by_catalog(self._catalog, name, mode, allow_last=self._allow_last)

    # -- inside --------------------------------------------------------------------------------------------------

    def _standings(self) -> list[Standing]:
        return standings(self._catalog, self._pool)

    def _refuse_empty(self) -> None:
        """:raises TapeError: the catalog knows no volume of the pool."""
        others = sorted({volume.pool for volume in self._catalog.volumes()})
        if self._pool not in others:
            instead = f", or name one that has volumes: {', '.join(others[:_SHOWN])}" if others else ""
            raise TapeError(
                f"pool: there is no volume of pool {self._pool} in the catalog; label volumes for it{instead}.",
                option="pool",
                code="pool_exhausted",
            )

    def _candidates(self, *, begins: bool) -> list[Candidate]:
        """The volumes that may be written now, the best first."""
        pool = self._standings()
        found = rank(pool, mode=self._mode if begins else APPEND, allow_last=self._allow_last, full=self._full)
        given = {place.label.volume for place in self._given}
        return [item for item in found if item.name not in given and item.name not in self.passed_over]

    def _get(self, *, begins: bool) -> tuple[TapeDrive, WritePosition]:
        """The next volume, however long that takes. :raises SplitMirrorError: there is none, or not in time."""
        limit_s = time.monotonic() + self._timeout_s
        while True:
            found = self._candidates(begins=begins)
            reachable = self._lease.reachable()
            if reachable is None and found:
                taken = self._by_hand(found, limit_s, begins=begins)
            else:
                at_hand = [item.name for item in found if item.name in (reachable or ())]
                if not at_hand:
                    # A session that has begun may still be saved by whoever labels another volume.
                    self._wait(found, reachable, limit_s if found or not begins else 0)
                    continue
                taken = self._from_library(at_hand, begins=begins)
            if taken is not None:
                self._tell(None)
                return taken

    def _from_library(self, names: Sequence[str], *, begins: bool) -> Optional[tuple[TapeDrive, WritePosition]]:
        """Have the best volume brought that no other task uses; None when it will not do."""
        volume = names[0]
        try:
            volume = self._lease.exchange_any(names)
        except VolumeNotAtHand:
            raise
        except TapeError as exc:
            if exc.code != "volume_missing":
                raise
            self._pass_over(volume, exc.message)
            return None
        return self._prove(volume, begins=begins)

    def _prove(self, volume: str, *, begins: bool) -> Optional[tuple[TapeDrive, WritePosition]]:
        """Prove that the volume which the drive was given may be written; None when it may not, or has no room."""
        # Another task may have written to it since it was chosen.
        mode = dict(self._candidates(begins=begins)).get(volume)
        if mode is None:
            return None
        drive = self._lease.drive
        try:
            place = place_for(drive, self._catalog, volume, mode, allow_last=self._allow_last)
        except SplitMirrorError as exc:
            if exc.code not in OF_THE_VOLUME:
                raise
            self._pass_over(volume, exc.message)
            return None
        self._note(place)
        known, room = self._catalog.volume(volume), place.remaining_bytes
        if place.file_number > 1 and room is not None and known is not None and room < _least_bytes(known):
            # There is less room than was known, now at least.
            self._full.add(volume)
            return None
        return drive, self._taken(place)

    def _pass_over(self, volume: str, reason: str) -> None:
        self.passed_over[volume] = reason
        self._warn(f"pool: {volume} should have been written and was passed over ({reason.rstrip('.')}).")

    def _taken(self, place: WritePosition) -> WritePosition:
        self._given.append(place)
        return place

    def _note(self, place: WritePosition) -> None:
        """Enter what was seen of the volume in the drive."""
        volume = place.label.volume
        known = self._catalog.volume(volume)
        if known is None or self._lease.dry_run:
            return
        if known.place:
            self._catalog.set_place(volume, "")
        # That of a volume that is labelled anew is noted when that is done.
        if not place.anew:
            note_capacity(self._lease.drive, self._catalog, volume, standing_of(self._catalog, known).used_bytes)

    def _by_hand(
        self, found: Sequence[Candidate], limit_s: float, *, begins: bool
    ) -> Optional[tuple[TapeDrive, WritePosition]]:
        """Take what people have put into the drive, or give it back and wait for another one; None to look again."""
        names = [item.name for item in found]
        drive = self._lease.drive if self._lease.volume in names else None
        if drive is None:
            self._lease.exchange_any(names)
            drive = self._lease.drive
        inserted, wrong = None, ""
        try:
            drive.load(names[0])
            reading = read_label(drive)
            inserted = None if reading.label is None else reading.label.volume
            wrong = inserted or ("a blank one" if reading.blank else "a foreign one")
        except TapeError as exc:
            if exc.code not in OF_THE_VOLUME:
                raise
            wrong = "" if exc.code == "volume_missing" else "a write-protected one"
        if inserted in names:
            if self._lease.volume != inserted:
                self._lease.exchange(inserted)
            proved = self._prove(inserted, begins=begins)
            if proved is not None:
                return proved
            found, drive = self._candidates(begins=begins), self._lease.drive
            if not found:
                return None
        if self._lease.dry_run:
            raise VolumeNotAtHand(self._shortage(found, None, wrong).message, option="pool")
        if wrong and drive.present():
            # Whoever comes to change it finds it outside.
            drive.unload()
        self._wait(found, None, limit_s, wrong, keep=True)
        while not drive.present():
            self._wait(found, None, limit_s, wrong, keep=True)
        return None

    def _wait(
        self,
        found: Sequence[Candidate],
        reachable: Optional[Sequence[str]],
        limit_s: float,
        wrong: str = "",
        *,
        keep: bool = False,
    ) -> None:
        """Wait a moment for people. :param keep: the drive is kept. :raises TapeError: the time is over."""
        shortage = self._shortage(found, reachable, wrong)
        if self._lease.dry_run or time.monotonic() >= limit_s:
            raise shortage
        if not keep:
            self._lease.release()
        self._tell(shortage.message)
        look_s = _LOOK_S if reachable is None else _LIBRARY_LOOK_S
        time.sleep(min(look_s, max(0.0, limit_s - time.monotonic())))

    def _shortage(self, found: Sequence[Candidate], reachable: Optional[Sequence[str]], wrong: str = "") -> TapeError:
        """One sentence that says what to insert, or why nothing can be.

        :param found: the volumes that would do.
        :param wrong: what is in the drive instead.
        """
        if found:
            where = "the drive" if reachable is None else "the library"
            names = _some([item.name for item in found], "or")
            instead = f" instead of {wrong}" if wrong else ""
            text = f"insert volume {names} into {where}{instead}, or label another volume for the pool"
        else:
            why = _some([self._why_not(standing) for standing in self._standings()], "and")
            text = f"none of its volumes can be written ({why}); label another volume for it, or let sessions expire"
        return TapeError(f"pool: {self._pool} has no volume ready: {text}.", option="pool", code="pool_exhausted")

    def _why_not(self, standing: Standing) -> str:
        volume = standing.volume
        if volume.out_of_use:
            return f"{volume.name} is out of use"
        if volume.name in self.passed_over:
            said = self.passed_over[volume.name].partition(";")[0]
            return said[len("volume: ") :] if said.startswith("volume: ") else f"{volume.name}: {said}"
        if any(session.state == OPEN for session in standing.unexpired):
            return f"{volume.name} holds a session that is open"
        if standing.unexpired:
            until = standing.expires_s
            when = "for ever" if until is None else f"until {format_time(until)}"
            return f"{volume.name} is full and needed {when}"
        hosts = ", ".join(sorted({session.host for session in standing.last_good}))
        return f"{volume.name} holds the last good session of {hosts}" if hosts else f"{volume.name} is full"


@dataclass(frozen=True)
class Wanted:
    """The volumes that a task was asked to write: one, those of a pool, or one and then those of a pool.

    :param mode: ``append`` or ``overwrite``, how to begin.
    :param allow_last: use a volume again even if the last good session of a host is on it.
    :param part_bytes: the largest part; 0 for no limit.
    """

    volume: Optional[str]
    pool: Optional[str] = None
    mode: str = APPEND
    allow_last: bool = False
    part_bytes: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Wanted:
        """From the parameters of a module (documentation fragment splitmirror.backup.write_mode)."""
        found = cls(
            params["volume"], params["pool"], params["mode"], params["allow_last"], params.get("part_bytes") or 0
        )
        if found.part_bytes and (found.pool is None or found.part_bytes < 0):
            raise TapeError(
                "part_bytes: parts are limited only where a session goes over the volumes of a pool; give pool, and a "
                "number above 0.",
                option="part_bytes",
                code="option_invalid",
            )
        return found

    @property
    def option(self) -> str:
        """The option that says with which volume to begin."""
        return "volume" if self.volume else "pool"

    def choice(self, lease: DriveLease, *, timeout_s: float, tell: Tell = silent, warn: Warn = unheard) -> VolumeChoice:
        """What makes the source of these volumes. :param timeout_s: as for PoolVolumes; so are tell and warn."""
        if self.pool is None:
            return one_volume(lease, self.volume or "", self.mode, allow_last=self.allow_last)
        pool = self.pool

        def choose(catalog: Catalog) -> VolumeSource:
            volumes = PoolVolumes(
                lease,
                catalog,
                pool,
                volume=self.volume,
                mode=self.mode,
                allow_last=self.allow_last,
                timeout_s=timeout_s,
                tell=tell,
                warn=warn,
            )
            return LimitedParts(volumes, catalog, self.part_bytes) if self.part_bytes else volumes

        return choose

    def room_bytes(self, catalog: Catalog) -> Optional[int]:
        """How much goes on the volumes of the pool that may be written; None when that is not known of one of them."""
        return pool_room_bytes(standings(catalog, self.pool), mode=self.mode, allow_last=self.allow_last)

    def check_room(self, catalog: Catalog, place: WritePosition, needed_bytes: int) -> None:
        """Whether so much has room, as far as that is known.

        :param place: where it begins.
        :raises TapeError: it has none.
        """
        if self.pool is None:
            return check_room(place, needed_bytes)
        room = self.room_bytes(catalog)
        if room is not None and place.label.pool != self.pool:
            room = None if place.remaining_bytes is None else room + place.remaining_bytes
        if room is not None and needed_bytes > room:
            raise TapeError(
                f"pool: the session needs about {needed_bytes} bytes, and {room} have room on the volumes of pool "
                f"{self.pool} that may be written; label more volumes for it.",
                option="pool",
                code="pool_exhausted",
            )
        return None


def _some(words: Sequence[str], last: str) -> str:
    """Some of the words, with ``last`` before the last one."""
    shown = list(words[:_SHOWN])
    if len(words) > _SHOWN:
        shown.append(f"{len(words) - _SHOWN} more")
    return f" {last} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
