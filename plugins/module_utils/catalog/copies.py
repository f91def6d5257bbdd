# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies in the catalog: the further places of the parts of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

from .records import Copy, Part
from .rowcheck import copy_of
from .sqlite_file import CatalogDatabase

_COLUMNS = ", ".join(Copy._fields)


class CopyTable(CatalogDatabase):
    """What the catalog has of copies; Catalog is what others use."""

    def copies(self, number: int) -> list[Copy]:
        """The copies of the parts of a session, by number of the part, from old to new."""
        return self._copies("session = ? ORDER BY part, copied_s, volume", number)

    def copies_on(self, volume: str) -> list[Copy]:
        """The copies on a volume, as they lie on it."""
        return self._copies("volume = ? ORDER BY file_number", volume)

    def set_copy_expiry(self, number: int, volumes: Iterable[str], expires_s: Optional[float]) -> None:
        """Set until when the copies of a session on these volumes are kept; None for ever."""
        with self._transaction():
            for volume in volumes:
                self._db.execute(
                    "UPDATE copies SET expires_s = ? WHERE session = ? AND volume = ?", (expires_s, number, volume)
                )

    def _copies(self, condition: str, value: object) -> list[Copy]:
        return [copy_of(row) for row in self._rows(f"SELECT {_COLUMNS} FROM copies WHERE {condition}", value)]  # noqa: S608

    def _insert_copy(self, copy: Copy) -> None:
        self._db.execute(f"INSERT INTO copies({_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?, ?)", copy)

    def _delete_copies(self, number: int, part: Optional[int] = None) -> None:
        self._db.execute("DELETE FROM copies WHERE session = ?1 AND (?2 IS NULL OR part = ?2)", (number, part))


def in_pools(copies: Sequence[Copy], pools: Mapping[str, str]) -> dict[str, dict[int, Copy]]:
    """The copies of a session by pool and by number of the part; of two copies in one pool, the newer one.

    :param pools: of the volumes, by name.
    """
    found: dict[str, dict[int, Copy]] = {}
    for copy in copies:
        found.setdefault(pools.get(copy.volume, ""), {})[copy.part] = copy
    return found


def latest(times: Iterable[Optional[float]]) -> Optional[float]:
    """The latest of some times until when something is kept; None, for ever, if one of them is."""
    found = list(times)
    return None if None in found else max((time for time in found if time is not None), default=None)


def places_of(parts: Iterable[Part], copies: Iterable[Copy]) -> dict[int, list[Part]]:
    """All places of each part of a session, by its number: the first place, then the copies.

    :param parts: of the session; only complete ones have places.
    """
    found = {part.part: [part] for part in parts if part.complete}
    for copy in copies:
        if copy.part in found:
            found[copy.part].append(found[copy.part][0].at(copy))
    return found
