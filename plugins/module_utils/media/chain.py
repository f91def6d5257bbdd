# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read what a session holds together with the sessions that it builds on, each member from the one that has it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional

from ..catalog.records import Part
from ..catalog.store import Catalog
from ..host.status import StatusWriter
from ..tape.base import TapeError
from .reading import FoundMember, Located, SessionReader, Unreached
from .sealed import NO_KEYS, Keyring
from .volume_source import Drives


def in_reading_order(parts: Iterable[Part]) -> list[Part]:
    """Parts in the order in which they are read: each volume once, and on it from its beginning to its end.

    :param parts: by session and number.
    """
    found = list(parts)
    volumes = list(dict.fromkeys(part.volume for part in found))
    return sorted(found, key=lambda part: (volumes.index(part.volume), part.file_number))


class ChainReader:
    """Reads members of several sessions, as SessionReader those of one."""

    def __init__(
        self, drives: Drives, catalog: Catalog, status: Optional[StatusWriter] = None, keyring: Keyring = NO_KEYS
    ) -> None:
        self._make: Callable[[], SessionReader] = lambda: SessionReader(drives, catalog, status, keyring)
        self._readers: dict[int, SessionReader] = {}

    @property
    def records_read(self) -> int:
        """See SessionReader."""
        return sum(reader.records_read for reader in self._readers.values())

    @property
    def unreached(self) -> list[Unreached]:
        """The parts that could not be reached."""
        return [unreached for reader in self._readers.values() for unreached in reader.unreached.values()]

    def read(self, wanted: Iterable[Located]) -> Iterator[FoundMember]:
        """See SessionReader."""
        for number, members in itertools.groupby(wanted, key=lambda located: located[0].session):
            if number not in self._readers:
                self._readers[number] = self._make()
            for other in self._readers.values():
                if other.no_drive is not None:
                    self._readers[number].no_drive = other.no_drive
            yield from self._readers[number].read(members)

    def is_lost(self, part: Part, path: bytes) -> bool:
        """Whether a member is lost on what was reached. :param part: where it begins."""
        reader = self._readers.get(part.session)
        return reader is not None and path in reader.lost

    def is_unreached(self, part: Part, offset_bytes: int) -> bool:
        """Whether the member at this place was not reached."""
        reader = self._readers.get(part.session)
        return reader is not None and reader.is_unreached(part.part, offset_bytes)

    def first_error(self) -> Optional[TapeError]:
        """See SessionReader."""
        return next((unreached.error for unreached in self.unreached), None)

    def loss_code(self) -> Optional[str]:
        """See SessionReader."""
        error = self.first_error()
        damaged = any(reader.damaged for reader in self._readers.values())
        return "tape_damaged" if damaged else None if error is None else error.code

    def facts(self) -> dict[str, Any]:
        """See SessionReader."""
        told = [fact for reader in self._readers.values() for fact in reader.facts()["unreached"]]
        return {"unreached": told}
