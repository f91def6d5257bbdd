# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drives and libraries of a media server: which volume is brought to which drive, and which is near."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Optional

from ..catalog.records import Part
from ..catalog.store import Catalog
from ..tape.base import TapeDrive, TapeError
from ..tape.drive_lease import DriveLease, DriveOptions
from ..tape.registry import drive_class
from ..tape.tickets import DriveTimeout
from .volume_list import Place, places
from .volume_source import Drives

#: How near a volume is: in a drive or on a disk; in a library; where people have to bring it from; away.
AT_HAND, IN_LIBRARY, BY_HAND, AWAY = range(4)

Queue = Callable[[DriveOptions, str], AbstractContextManager[DriveLease]]


@dataclass(frozen=True)
class Libraries:
    """The drives of a media server.

    :param main: for the volumes of all pools that no other one serves.
    :param by_pool: the others.
    """

    main: DriveOptions
    by_pool: Mapping[str, DriveOptions]

    @classmethod
    def of(cls, params: Mapping[str, Any], *, dry_run: bool = False) -> Libraries:
        """From the parameters of a module (documentation fragment splitmirror.backup.drive.libraries).

        :raises TapeError: they contradict each other.
        """
        by_pool: dict[str, DriveOptions] = {}
        for library in params.get("libraries") or ():
            told = {**library, "state_dir": params["state_dir"], "drive_timeout_s": params["drive_timeout_s"]}
            if bool(library["drive"]) == bool(library["drives"]):
                raise TapeError(
                    f"libraries: that of pool {', '.join(library['pools'])} needs either drive or drives.",
                    option="libraries",
                    code="option_invalid",
                )
            options = DriveOptions.of(told, dry_run=dry_run)
            for pool in library["pools"]:
                if pool in by_pool:
                    raise TapeError(
                        f"libraries: pool {pool} is in two of them; name it in one.",
                        option="libraries",
                        code="option_invalid",
                    )
                by_pool[pool] = options
        return cls(DriveOptions.of(params, dry_run=dry_run), by_pool)

    def of_pool(self, pool: str) -> DriveOptions:
        """The drives for the volumes of a pool."""
        return self.by_pool.get(pool, self.main)

    def look(self) -> dict[str, Place]:
        """Where the volumes are that the libraries hold (see volume_list.places); nothing moves."""
        found: dict[str, Place] = {}
        for options in {id(options): options for options in (self.main, *self.by_pool.values())}.values():
            found.update(places(options))
        return found

    def of_volume(self, catalog: Catalog, volume: str) -> DriveOptions:
        """The drives for a volume; the main ones for one that the catalog does not know."""
        known = catalog.volume(volume)
        return self.main if known is None else self.of_pool(known.pool)


class LibraryDrives:
    """A task's hold on one drive, of whichever library the volume is in (see Drives). Use it as a context manager.

    :param queue: takes a place in the queue for drives.
    """

    def __init__(self, libraries: Libraries, catalog: Catalog, queue: Queue) -> None:
        self._libraries = libraries
        self._catalog = catalog
        self._queue = queue
        self._leases: dict[int, DriveLease] = {}
        self._stack = ExitStack()
        self._timeouts: dict[int, DriveTimeout] = {}
        self._looked: dict[int, Optional[dict[str, str]]] = {}

    def __enter__(self) -> LibraryDrives:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def exchange(self, volume: str) -> TapeDrive:
        """See Drives. Nothing is held in another library meanwhile."""
        options = self._libraries.of_volume(self._catalog, volume)
        if id(options) in self._timeouts:
            # Do not wait once more for the same drives.
            raise self._timeouts[id(options)]
        for other, held in self._leases.items():
            if other != id(options):
                held.release()
        lease = self._leases.get(id(options))
        if lease is None:
            lease = self._leases[id(options)] = self._stack.enter_context(self._queue(options, volume))
        try:
            return lease.exchange(volume)
        except DriveTimeout as exc:
            self._timeouts[id(options)] = exc
            raise

    def release(self) -> None:
        """Give back what is held."""
        for lease in self._leases.values():
            lease.release()

    def nearness(self, volume: str) -> int:
        """How near a volume is, as far as can be seen without moving anything: AT_HAND and so on."""
        options, known = self._libraries.of_volume(self._catalog, volume), self._catalog.volume(volume)
        lease = self._leases.get(id(options))
        if lease is not None and lease.volume == volume:
            return AT_HAND
        if id(options) not in self._looked:
            self._looked[id(options)] = None
            with contextlib.suppress(TapeError):
                reachable = drive_class(options.drive_type).shelf(options.choices[0].device)
                if options.changer is not None or reachable is not None:
                    self._looked[id(options)] = {name: kind for name, (kind, _number) in places(options).items()}
        seen = self._looked[id(options)]
        if seen is not None and volume in seen:
            return IN_LIBRARY if options.changer is not None and seen[volume] != "drive" else AT_HAND
        if seen is not None or (known is not None and known.place):
            return AWAY
        return BY_HAND


def nearest_first(drives: Drives, found: Sequence[Part]) -> list[Part]:
    """The places of a part, the nearest first; of two that are as near, the one that was written first."""
    return (
        sorted(found, key=lambda place: drives.nearness(place.volume))
        if isinstance(drives, LibraryDrives)
        else [*found]
    )
