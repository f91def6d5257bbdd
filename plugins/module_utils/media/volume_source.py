# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the volumes of a session come from, one after another: the writer asks, the source chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional, Protocol

from ..catalog.store import Catalog
from ..tape.base import TapeDrive, TapeError
from .volumes import APPEND, WritePosition, place_for, position_by_catalog

#: So many records a part must have at least, if parts are limited.
_LEAST_RECORDS = 64


class Drives(Protocol):
    """What a task works with: a lease of a drive (tape/drive_lease.py), in which the volume can be exchanged."""

    def exchange(self, volume: str) -> TapeDrive:
        """The drive, with this volume in it or ready to be loaded. :raises TapeError: it cannot be had."""


class VolumeSource(Protocol):
    """Gives the volumes that a session is written to.

    A position may be marked ``anew``: the writer then labels the volume anew before it writes (begin_anew).

    :ivar goes_on: there may be a next volume.
    """

    goes_on: bool

    def first(self) -> tuple[TapeDrive, WritePosition]:
        """Load the first volume, prove that it may be written, and move to where its next part goes.

        Nothing is written. :raises SplitMirrorError: no volume may be written.
        """

    def by_catalog(self) -> WritePosition:
        """What first would give by the catalog alone, for check mode, which loads nothing.

        :raises SplitMirrorError: no volume may be written.
        """

    def next(self, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        """The volume after this one, loaded, proved and positioned; it may be this one again, if it has room.

        :param needed_bytes: how much of the session is still to be written, about; 0 when that is not known.
        :raises SplitMirrorError: there is no other volume.
        """

    def out_of_use(self, volume: str, reason: str) -> None:
        """A volume failed while it was written: never choose it again. :param reason: a sentence."""


def first_place(volumes: VolumeSource) -> tuple[TapeDrive, WritePosition]:
    """What VolumeSource.first gives, and the proof that the drive encrypts if it has to, and only then.

    :raises SplitMirrorError: no volume may be written, or the drive cannot encrypt, or has a key of another program.
    """
    drive, place = volumes.first()
    if drive.key is None:
        drive.prove_clear()
    else:
        drive.prove_encrypts()
    return drive, place


#: Makes the source when the catalog is open.
VolumeChoice = Callable[[Catalog], VolumeSource]


class OneVolume:
    """The source of a session that goes to one volume, which a person named.

    :param mode: ``append`` or ``overwrite``, as for place_for; so is allow_last.
    """

    goes_on = False

    def __init__(
        self, drives: Drives, catalog: Catalog, volume: str, mode: str = APPEND, *, allow_last: bool = False
    ) -> None:
        self._drives = drives
        self._catalog = catalog
        self._volume = volume
        self._mode = mode
        self._allow_last = allow_last

    def first(self) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource."""
        drive = self._drives.exchange(self._volume)
        return drive, place_for(drive, self._catalog, self._volume, self._mode, allow_last=self._allow_last)

    def by_catalog(self) -> WritePosition:
        """See VolumeSource."""
        return position_by_catalog(self._catalog, self._volume, self._mode, allow_last=self._allow_last)

    def next(self, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource. :raises TapeError: always, for there is no other volume."""
        raise TapeError(
            f"volume: {self._volume} is full before the session is on it; name a volume with more room, or let the "
            "session go on over the volumes of a pool (splitmirror_pool).",
            option="volume",
            code="volume_full",
        )

    def out_of_use(self, volume: str, reason: str) -> None:
        """See VolumeSource. A person named the volume, so it stays in use."""


class LimitedParts:
    """The volumes of another source, with a limit for parts: a volume is given again as long as it has room.

    :param part_bytes: the largest part.
    """

    goes_on = True

    def __init__(self, volumes: VolumeSource, catalog: Catalog, part_bytes: int) -> None:
        self._volumes = volumes
        self._catalog = catalog
        self._part_bytes = part_bytes
        self._given: Optional[tuple[TapeDrive, WritePosition]] = None
        self._failed: set[str] = set()

    def first(self) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource. :raises TapeError: the limit is too low."""
        drive, place = self._limited(*self._volumes.first())
        self._check(place)
        return drive, place

    def by_catalog(self) -> WritePosition:
        """See VolumeSource."""
        place = self._volumes.by_catalog()
        self._check(place)
        return place

    def next(self, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        """See VolumeSource."""
        if self._given is not None and self._given[1].is_limited:
            drive, last = self._given
            volume = last.label.volume
            if volume not in self._failed:
                place = place_for(drive, self._catalog, volume, APPEND)
                room = place.remaining_bytes
                # If nothing was written there, the next member needs another place.
                if place.file_number > last.file_number and (room is None or room >= self._least(place)):
                    return self._limited(drive, place)
        return self._limited(*self._volumes.next(needed_bytes))

    def out_of_use(self, volume: str, reason: str) -> None:
        """See VolumeSource."""
        self._failed.add(volume)
        self._volumes.out_of_use(volume, reason)

    def _limited(self, drive: TapeDrive, place: WritePosition) -> tuple[TapeDrive, WritePosition]:
        self._given = drive, place.with_room(place.remaining_bytes, self._part_bytes)
        return self._given

    def _least(self, place: WritePosition) -> int:
        return _LEAST_RECORDS * place.label.record_bytes

    def _check(self, place: WritePosition) -> None:
        least = self._least(place)
        if self._part_bytes < least:
            raise TapeError(
                f"part_bytes: a part of {self._part_bytes} bytes is too small for records of "
                f"{place.label.record_bytes} bytes; give at least {least}.",
                option="part_bytes",
                code="option_invalid",
            )


def one_volume(drives: Drives, volume: str, mode: str = APPEND, *, allow_last: bool = False) -> VolumeChoice:
    """The choice of one volume; the parameters are those of OneVolume."""
    return lambda catalog: OneVolume(drives, catalog, volume, mode, allow_last=allow_last)
