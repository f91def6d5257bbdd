# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts of a session, one after another, over as many volumes as it needs.

A full volume and a volume that fails are normal answers: what was finished stays, and the rest goes on behind the last
good end of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from ..archive.members import pass_over
from ..archive.model import ArchiveResult
from ..catalog.records import Part
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..extents.maprows import Mapped
from ..host.status import StatusWriter
from ..tape.base import TapeDrive, TapeError
from .part import ArchiveSource, PartWriter, PlaceDiffers, next_place
from .sealed import Sealing
from .selection import Selection
from .tape_file import DoesNotFit, PartFull, VolumeFailed
from .volume_source import VolumeSource
from .volumes import WritePosition, begin_anew


@dataclass(frozen=True)
class Written:
    """What was written.

    :param facts: of the session, as the catalog has them.
    :param first: where the first part is. :param drive: with the volume of the last one.
    :param results: of the archives, one for each part but those that a member crosses.
    """

    facts: dict[str, Any]
    first: WritePosition
    drive: TapeDrive
    results: list[ArchiveResult]


@dataclass(frozen=True)
class SessionParts:
    """What all parts of a session are written with.

    :param number: of the session in the catalog.
    :param head: what the first line of each index says.
    :param common: gives the facts of the session as a whole.
    :param before_end: is called before the last part is finished; what it raises fails the session.
    :param expected_bytes: how long the archive may become.
    :param sealing: encrypts the parts; None to write them in the clear.
    """

    catalog: Catalog
    number: int
    source: ArchiveSource
    selection: Selection
    head: Mapping[str, Any]
    common: Callable[[], Mapping[str, Any]]
    before_end: Callable[[], None]
    expected_bytes: int
    sealing: Optional[Sealing] = None
    status: Optional[StatusWriter] = None


def write_parts(parts: SessionParts, volumes: VolumeSource, drive: TapeDrive, place: WritePosition) -> Written:
    """Write all parts.

    :param drive: with the first volume. :param place: where the head stands.
    :raises SplitMirrorError: it failed; parts that were finished stay on their volumes and in the catalog.
    """
    span = _Span(parts, volumes, drive, place)
    while not span.is_complete:
        span.step()
    return Written(span.write, span.first, span.drive, span.results)


class _Span:
    """How far a session has come."""

    def __init__(self, parts: SessionParts, volumes: VolumeSource, drive: TapeDrive, place: WritePosition) -> None:
        self._parts = parts
        self._volumes = volumes
        self.drive = drive
        self._place = self.first = place
        self.write: dict[str, Any] = {"parts": []}
        self.results: list[ArchiveResult] = []
        self.is_complete = False
        self._facts: list[dict[str, Any]] = []
        self._began: Optional[Part] = None
        self._failed: Optional[VolumeFailed] = None
        # Places where the room was counted by filling it.
        self._counted: set[tuple[str, int]] = set()
        # What a fresh volume held whose drive did not report its room.
        self._fresh_bytes: Optional[int] = None

    def step(self) -> None:
        """Write parts until the last one is complete or a place will not do; then take the next place."""
        selection, goes_on = self._parts.selection, self._volumes.goes_on
        if not self._label():
            return
        if not self._facts:
            self.first = self._place
        part = self._writer()
        try:
            with part:
                part.write(self._parts.source, selection, self._parts.head)
                self._parts.before_end()
                self.write = part.finish(self._parts.common())
        except DoesNotFit as exc:
            self._take_back(part)
            was_fresh = self._is_fresh()
            try:
                self._next(exc.needed_bytes)
            except SplitMirrorError as none:
                # No other volume was larger.
                raise exc if was_fresh else none from none
            return
        except PlaceDiffers:
            self._take_back(part)
            self._rewind(part.first)
            return
        except PartFull:
            self._take_back(part)
            if not goes_on:
                raise
            self._rewind(part.first)
            self._count_room(part)
            return
        except VolumeFailed as exc:
            self._take_back(part)
            if not goes_on:
                raise
            self._volume_failed(exc, part.place.label.volume)
            self._rewind(part.first)
            self._next(0)
            return
        self._take_back(part)
        self.is_complete = True

    def _writer(self) -> PartWriter:
        return PartWriter(
            self.drive,
            self._parts.catalog,
            self._parts.number,
            self._place,
            earlier=self._facts,
            sealing=self._parts.sealing,
            status=self._parts.status,
            next_place=self._place_behind if self._volumes.goes_on else None,
            began=self._began,
            may_cross=self._is_fresh(),
        )

    def _is_fresh(self) -> bool:
        """No other volume has more room for a part: only the label is on this one, or it has as much as a part gets."""
        where = (self._place.label.volume, self._place.file_number)
        return (self._place.file_number == 1 or self._place.is_limited) and where not in self._counted

    def _label(self) -> bool:
        """Label the volume anew if that must be; False when it will not do, and the next one is there."""
        if not self._place.anew:
            return True
        try:
            self._place = begin_anew(self.drive, self._parts.catalog, self._place)
        except TapeError as exc:
            if not self._volumes.goes_on:
                raise
            self._volumes.out_of_use(self._place.label.volume, exc.message)
            self._next(0)
            return False
        return True

    def _take_back(self, part: PartWriter) -> None:
        """Go on behind the parts that were finished."""
        if len(part.facts) > len(self._facts):
            self._failed = None
        self._facts, self._began = part.facts, part.began
        self.results += part.results
        # They may be on other volumes, in other drives.
        self.drive, self._place = part.drive, part.place

    def _rewind(self, first: Optional[Mapped]) -> None:
        """Hand out once more what was handed out from an entry on."""
        links = self._parts.source.links
        links.clear()
        self._parts.selection.rewind(first, lambda entry: pass_over(links, entry))

    def _count_room(self, part: PartWriter) -> None:
        """The volume was full before the drive said so: the same place again with the room that it has, or the next."""
        where = (part.place.label.volume, part.place.file_number)
        if part.place.file_number == 1 and part.place.remaining_bytes is None:
            self._fresh_bytes = part.written_bytes
        if not part.is_cut or where in self._counted or not part.written_bytes:
            self._next(0)
            return
        self._counted.add(where)
        self._place = replace(part.place, remaining_bytes=part.written_bytes)

    def _volume_failed(self, error: VolumeFailed, volume: str) -> None:
        """Take the volume out of use. :raises TapeError: it is the second in a row, so the drive is at fault."""
        if self._failed is not None:
            raise error.of_the_drive(self.drive.device, volume) from error
        self._failed = error
        self._volumes.out_of_use(volume, error.message)

    def _next(self, needed_bytes: int) -> None:
        """Take the next volume. :param needed_bytes: at least; 0 for what is left of the session."""
        self.drive, self._place = self._place_behind(self._facts, needed_bytes)

    def _place_behind(self, facts: Sequence[Mapping[str, Any]], needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        """The next volume, behind these parts. :param needed_bytes: as for _next."""
        written = sum(part["records"] for part in facts) * self._place.label.record_bytes
        left = max(self._parts.expected_bytes - written, 0)
        drive, place = next_place(self._volumes, self._parts.catalog, needed_bytes or left)
        if place.remaining_bytes is None and place.file_number == 1 and self._fresh_bytes is not None:
            place = replace(place, remaining_bytes=self._fresh_bytes)
        return drive, place
