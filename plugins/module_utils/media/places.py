# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tape file that lies in several places: what cannot be read in one place is read in another.

All places have the same bytes in the same records. So the reading goes on with the very record that could not be read,
in the midst of a member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional, TypeVar

from ..catalog.records import Part
from ..tape.base import TapeError
from .tape_file import TapeStream

_Found = TypeVar("_Found")
#: Brings a place to a drive, and returns what makes a stream of it. :raises TapeError: it cannot be had.
OpenPlace = Callable[[Part], Callable[[], TapeStream]]


class PlacesStream:
    """The bytes of a tape file (see TapeFile), from the first place that has them.

    :param places: of the same part, the nearest first.
    :param open_place: see OpenPlace.
    :raises TapeError: no place can be had; that of the first one.
    :ivar used: the volumes that were read.
    """

    def __init__(self, places: Sequence[Part], open_place: OpenPlace) -> None:
        self._places = list(places)
        self._open_place = open_place
        self.file_number = places[0].file_number
        self.short_end = bool(places[0].age_head)
        self.used: set[str] = set()
        # Places that cannot be had; those that were tried for what is read now; where that is.
        self._gone: set[int] = set()
        self._tried: set[int] = set()
        self._offset = 0
        self._at = 0
        self._records_before = 0
        self._make: Optional[Callable[[], TapeStream]] = None
        self._stream: Optional[TapeStream] = None
        self._find(None)

    @property
    def place(self) -> Part:
        """Where it is read now."""
        return self._places[self._at]

    @property
    def records_read(self) -> int:
        """See TapeFile."""
        return self._records_before + (0 if self._stream is None else self._stream.records_read)

    def approach(self, offset_bytes: int) -> None:
        """See TapeFile."""
        self._offset = offset_bytes - offset_bytes % self.place.record_bytes
        self._somewhere(lambda stream: stream.approach(offset_bytes))

    def seek(self, offset_bytes: int) -> None:
        """See TapeFile."""
        self._offset = offset_bytes
        self._somewhere(lambda stream: stream.seek(offset_bytes))

    def read(self, size: int, /) -> bytes:
        """See TapeFile."""
        data = self._somewhere(lambda stream: stream.read(size))
        self._offset += len(data)
        return data

    def skip_to_filemark(self) -> int:
        """See TapeFile."""
        return self._somewhere(lambda stream: stream.skip_to_filemark())

    def archive_bytes(self) -> int:
        """See TapeFile."""
        return 0 if self._stream is None else self._stream.archive_bytes()

    def _somewhere(self, call: Callable[[TapeStream], _Found]) -> _Found:
        """:raises TapeError: it can be done nowhere; the error of the first place that was tried."""
        first: Optional[TapeError] = None
        while True:
            if self._stream is None:
                self._find(first)
            stream = self._stream
            if stream is None:
                raise AssertionError("a place was found")
            try:
                found = call(stream)
            except TapeError as exc:
                first = first or exc
                self._tried.add(self._at)
                self._find(first)
            else:
                self._tried.clear()
                return found

    def _find(self, first: Optional[TapeError]) -> None:
        """Go on in the next place to try, where the reading is.

        :param first: the error to raise when there is none.
        """
        for number, place in enumerate(self._places):
            if number in self._tried or number in self._gone:
                continue
            # Whatever was held is given back for this place.
            self._make = None
            try:
                self._make = self._open_place(place)
            except TapeError as exc:
                self._gone.add(number)
                first = first or exc
                continue
            self._at = number
            self.used.add(place.volume)
            stream = self._take(self._make())
            try:
                if self._offset and stream is not None:
                    stream.seek(self._offset)
            except TapeError as exc:
                self._tried.add(number)
                first = first or exc
                continue
            return
        if first is None:
            raise AssertionError("a part has a place")
        self._tried.clear()
        # What comes after this record may be read; a new stream does not rely on where the head stands.
        self._take(None if self._make is None else self._make())
        raise first

    def _take(self, stream: Optional[TapeStream]) -> Optional[TapeStream]:
        self._records_before = self.records_read
        self._stream = stream
        return stream
