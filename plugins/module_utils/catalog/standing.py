# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a volume stands: how much is on it, how much room is left, and whether what is on it is still needed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional

from .records import FAILED, OPEN, Session, Volume
from .store import Catalog

#: The length of a label (tape/label.py).
_LABEL_BYTES = 10240


@dataclass(frozen=True)
class Standing:
    """How a volume stands by the catalog.

    :param sessions: that have a part on it, from old to new, whatever became of them.
    :param unexpired: those of them that must not be overwritten.
    :param last_good: those of them that are the newest backup of their host, or a base of it.
    :param builders: unexpired sessions, wherever they are, that build on sessions of it.
    """

    volume: Volume
    sessions: tuple[Session, ...]
    unexpired: tuple[Session, ...]
    last_good: tuple[Session, ...]
    builders: tuple[Session, ...] = ()

    @property
    def blank(self) -> bool:
        """Nothing but the label is on it."""
        return self.volume.files <= 1

    @property
    def used_bytes(self) -> int:
        """All records on it, the label included. Each tape file ends with a filemark, which is a block as well."""
        return _LABEL_BYTES + max(0, self.volume.blocks - self.volume.files - 1) * self.volume.record_bytes

    @property
    def room_bytes(self) -> Optional[int]:
        """How much still goes on it; None when nobody knows."""
        capacity = self.volume.capacity_bytes
        return None if capacity is None else max(0, capacity - self.used_bytes)

    @property
    def expires_s(self) -> Optional[float]:
        """When the last of its sessions expires, or has expired, or the last one that builds on one of them; None for
        never. 0 when there is none.
        """
        times = [_end_of(session) for session in (*self.sessions, *self.builders)]
        return None if None in times else max((found for found in times if found is not None), default=0.0)

    @property
    def written_s(self) -> Optional[float]:
        """When something was written to it last, the label aside; None when nothing was."""
        return max((session.closed_s or session.created_s for session in self.sessions), default=None)

    def reusable(self, *, allow_last: bool = False) -> bool:
        """Whether nothing on it is needed any more. :param allow_last: give up the last good session of a host."""
        return not self.unexpired and (allow_last or not self.last_good)


def _end_of(session: Session) -> Optional[float]:
    if session.state == FAILED:
        return session.closed_s or session.created_s
    return None if session.state == OPEN else session.expires_s


def standing_of(catalog: Catalog, volume: Volume, now_s: Optional[float] = None) -> Standing:
    """How a volume stands now."""
    now_s = time.time() if now_s is None else now_s
    return Standing(
        volume,
        tuple(catalog.sessions_on(volume.name)),
        tuple(catalog.unexpired(volume.name, now_s)),
        tuple(catalog.last_good(volume.name)),
        tuple(catalog.builders_on(volume.name, now_s)),
    )


def standings(catalog: Catalog, pool: Optional[str] = None, now_s: Optional[float] = None) -> list[Standing]:
    """How all volumes stand, by name. :param pool: of this pool alone."""
    found = [volume for volume in catalog.volumes() if pool is None or volume.pool == pool]
    return [standing_of(catalog, volume, now_s) for volume in found]
