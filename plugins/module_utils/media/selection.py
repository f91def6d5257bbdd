# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a session is written, and in which part: the one place between the proof and the writer that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from ..extents.maprows import FileEntry, Mapped

Entries = Iterable[Mapped]


class Selection:
    """The entries to write, in logical order, handed out part by part. Today all entries of the map are written.

    :param entries: the entries of the map, proved.
    :param extras: path of a tar with label files and logs, which comes behind the last entry; None for none.
    :param again: gives the same entries from the first one on, for a part that has to be written again; None when no
        part is ever written again.
    :ivar exhausted: all entries were handed out, so the part that is being written is the last one.
    """

    def __init__(
        self, entries: Entries, extras: Optional[str] = None, again: Optional[Callable[[], Entries]] = None
    ) -> None:
        self._entries = iter(entries)
        self._again = again
        self._next: Optional[Mapped] = None
        self.extras = extras
        self.exhausted = False

    def peek(self) -> Optional[Mapped]:
        """The entry that is handed out next; None when all were."""
        if self._next is None and not self.exhausted:
            self._next = next(self._entries, None)
            self.exhausted = self._next is None
        return self._next

    def take(self) -> Optional[Mapped]:
        """Hand out the next entry; None when all were."""
        taken, self._next = self.peek(), None
        return taken

    def entries(self, fits: Optional[Callable[[Mapped], bool]] = None) -> Iterator[Mapped]:
        """The entries for one part.

        :param fits: whether an entry still belongs into this part; the first that does not begins the next part. None
            for a part that takes all that is left.
        """
        if self._next is not None and (fits is None or fits(self._next)):
            first, self._next = self._next, None
            yield first
        if self._next is not None or self.exhausted:
            return
        if fits is None:
            yield from self._entries
        else:
            for entry in self._entries:
                if not fits(entry):
                    self._next = entry
                    return
                yield entry
        self.exhausted = True

    def rewind(self, first: Optional[Mapped], passed: Callable[[FileEntry], None]) -> None:
        """Go back, so that an entry is handed out next once more.

        :param first: what peek returned then; None for the end.
        :param passed: gets each entry before it.
        """
        if self._again is None:
            raise AssertionError("a selection that is not handed out twice")
        self._entries = iter(self._again())
        self._next, self.exhausted = None, False
        while True:
            entry = self.peek()
            if entry is None or (first is not None and entry[0].path == first[0].path):
                return
            self._next = None
            passed(entry[0])
