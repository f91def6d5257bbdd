# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes that leave the library or come back: through its import/export slots, with a note of where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..catalog.records import OPEN, CatalogError
from ..catalog.standing import standings
from ..catalog.store import Catalog
from ..tape.base import TapeError
from ..tape.drive_lease import DriveLease
from ..tape.library import DRIVE, MAIL, Library, carry

_NO_SLOT = "no import/export slot is free; empty the slots, and call this again"
_NO_STORAGE = "no storage slot is free; make one free, and call this again"


@dataclass
class Moved:
    """What was done, or would be.

    :ivar moved: the slot that each volume was moved to, by name; None in check mode.
    :ivar noted: volumes of which only the note was changed.
    :ivar left: volumes that stay where they are, and why.
    """

    moved: dict[str, Optional[int]] = field(default_factory=dict)
    noted: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As a module returns it."""
        return {
            "changed": bool(self.moved or self.noted),
            "moved": [{"volume": volume, "slot": slot} for volume, slot in self.moved.items()],
            "noted": self.noted,
            "left": [{"volume": volume, "reason": reason} for volume, reason in self.left.items()],
        }


def chosen(catalog: Catalog, volumes: Sequence[str], pool: Optional[str]) -> list[str]:
    """The volumes that were named, or those of a pool that have sessions on them.

    :raises CatalogError: the catalog does not have a volume, or none of the pool.
    """
    for volume in volumes:
        if catalog.volume(volume) is None:
            raise CatalogError(
                f"volumes: {volume} is not in the catalog; name volumes that volume_info lists.",
                option="volumes",
                code="volume_missing",
            )
    if pool is None:
        return list(volumes)
    of_pool = standings(catalog, pool)
    if not of_pool:
        raise CatalogError(
            f"pool: there is no volume of pool {pool} in the catalog; name one that volume_info lists.",
            option="pool",
            code="pool_exhausted",
        )
    return [*volumes, *(found.volume.name for found in of_pool if not found.blank)]


def note(catalog: Catalog, names: Sequence[str], place: str, *, dry_run: bool) -> Moved:
    """Enter where volumes are kept; nothing moves. :param place: in words; empty for those that are back."""
    done = Moved()
    for name in names:
        _note(catalog, name, place, done, dry_run=dry_run)
    return done


def export(lease: DriveLease, library: Library, catalog: Catalog, names: Sequence[str], place: str) -> Moved:
    """Bring volumes to the import/export slots, as many as there are free, and note where they are going to be kept.

    A volume in a drive is put back to its slot first. What another task uses, and what has a session that is still
    open, stays.

    :raises TapeError: the library has no such slot, or failed.
    """
    with library.alone():
        contents = library.look()
    if not any(slot.mail for slot in contents.slots):
        raise TapeError(
            "changer: the library has no import/export slot; take the volumes out by hand, and enter where they are "
            "with state noted.",
            option="changer",
            code="library_failed",
        )
    free = sum(slot.mail and not slot.full for slot in contents.slots)
    places, done = contents.places(), Moved()
    for name in names:
        kind, _number = places.get(name, ("", 0))
        if kind == MAIL or not kind:
            # The note of one that is away already is somebody else's.
            if kind == MAIL:
                _note(catalog, name, place, done, dry_run=lease.dry_run)
            continue
        reason = _in_use(lease, catalog, name)
        if reason is None and len(done.moved) >= free:
            reason = _NO_SLOT
        if reason is not None:
            done.left[name] = reason
            continue
        slot = None
        if not lease.dry_run:
            if kind == DRIVE:
                lease.exchange(name).unload()
                lease.close()
            slot = carry(library, name, to_mail=True)
            catalog.set_place(name, place)
        done.moved[name] = slot
    return done


def bring_in(lease: DriveLease, library: Library, catalog: Catalog, names: Sequence[str]) -> Moved:
    """Move volumes from the import/export slots into storage slots, and note that they are back.

    :param names: of these alone; all that are in the slots if it is empty.
    :raises TapeError: the library failed.
    """
    with library.alone():
        contents = library.look()
    free = sum(not slot.mail and not slot.full for slot in contents.slots)
    done = Moved()
    for name, (kind, _number) in sorted(contents.places().items()):
        if names and name not in names:
            continue
        if kind != MAIL:
            # One that a person put into a slot is back as well.
            if catalog.volume(name) is not None:
                _note(catalog, name, "", done, dry_run=lease.dry_run)
            continue
        if len(done.moved) >= free:
            done.left[name] = _NO_STORAGE
            continue
        slot = None
        if not lease.dry_run:
            slot = carry(library, name, to_mail=False)
            catalog.set_place(name, "")
        done.moved[name] = slot
    return done


def _in_use(lease: DriveLease, catalog: Catalog, name: str) -> Optional[str]:
    """Why a volume must stay; None if it may go. It is claimed then."""
    if any(session.state == OPEN for session in catalog.unexpired(name)):
        return "a session on it is still open"
    return None if lease.claim(name) else "another task uses it, or waits for it"


def _note(catalog: Catalog, name: str, place: str, done: Moved, *, dry_run: bool) -> None:
    known = catalog.volume(name)
    if known is None or known.place == place:
        return
    if not dry_run:
        catalog.set_place(name, place)
    done.noted.append(name)
