# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Uses of volumes in the catalog: which drive a volume was in, and what the drive said then."""

from __future__ import annotations

import json
from collections.abc import Iterable

from .records import CLEAN, VolumeUse
from .rowcheck import use_of
from .sqlite_file import CatalogDatabase

_COLUMNS = ", ".join(VolumeUse._fields)
#: Of each volume, the newest ones are kept.
_KEPT = 200


class UseTable(CatalogDatabase):
    """What the catalog has of the uses of volumes; Catalog is what others use."""

    def add_uses(self, uses: Iterable[VolumeUse]) -> None:
        """Enter uses. They stay when the volume is labelled anew, for it is the same cartridge."""
        with self._transaction():
            for use in uses:
                values = (*use[:-1], json.dumps(use.facts))
                self._db.execute(f"INSERT INTO volume_uses({_COLUMNS}) VALUES(?, ?, ?, ?, ?, ?)", values)
                self._db.execute(
                    "DELETE FROM volume_uses WHERE volume = ?1 AND number <= "
                    "(SELECT number FROM volume_uses WHERE volume = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                    (use.volume, _KEPT),
                )

    def uses(self, volume: str) -> list[VolumeUse]:
        """The uses of a volume, from old to new."""
        query = f"SELECT {_COLUMNS} FROM volume_uses WHERE volume = ? ORDER BY number"  # noqa: S608
        return [use_of(row) for row in self._rows(query, volume)]

    def used_up(self) -> set[str]:
        """Cleaning cartridges that a drive called used up (TapeAlert 22) or of a wrong type (23) at their last use."""
        names = [str(name) for (name,) in self._rows("SELECT DISTINCT volume FROM volume_uses WHERE what = ?", CLEAN)]
        last = [self.uses(name)[-1] for name in names]
        return {use.volume for use in last if not {22, 23}.isdisjoint(use.facts.get("alerts", ()))}

    def last_uses(self, volume: str) -> list[VolumeUse]:
        """The last use of a volume in each drive, from old to new."""
        newest: dict[str, VolumeUse] = {}
        for use in self.uses(volume):
            newest.pop(use.drive, None)
            newest[use.drive] = use
        return list(newest.values())
