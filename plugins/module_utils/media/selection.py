# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a session is written, and in which part: the one place between the proof and the writer that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from ..extents.maprows import Mapped


class Selection:
    """The entries to write, in logical order, handed out part by part. Today all entries of the map are written.

    :param entries: the entries of the map, proved.
    :param extras: path of a tar with label files and logs, which comes behind the last entry; None for none.
    :ivar exhausted: all entries were handed out, so the part that is being written is the last one.
    """

    def __init__(self, entries: Iterable[Mapped], extras: Optional[str] = None) -> None:
        self._entries = iter(entries)
        self._next: Optional[Mapped] = None
        self.extras = extras
        self.exhausted = False

    def entries(self, fits: Optional[Callable[[Mapped], bool]] = None) -> Iterator[Mapped]:
        """The entries for one part.

        :param fits: whether an entry still belongs into this part; the first that does not begins the next part. None
            for a part that takes all that is left.
        """
        if self._next is not None:
            first, self._next = self._next, None
            yield first
        if fits is None:
            yield from self._entries
        else:
            for entry in self._entries:
                if not fits(entry):
                    self._next = entry
                    return
                yield entry
        self.exhausted = True
