# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes to the archive: the entries of the map, proved against the mirror's own metadata if that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Optional

from ..extents.maprows import Mapped
from ..extents.proof import NONE, Proof


class Proving:
    """Gives the entries of a map and knows afterwards what the proof found; use it as a context manager.

    :param mounts: folder of each file system of the map, mounted read-only; empty when there is nothing to prove.
    """

    def __init__(self, map_path: str, mode: str, mounts: Mapping[int, str]) -> None:
        self._proof = Proof(map_path, mounts, mode)
        self._complete = False

    def __enter__(self) -> Proving:
        self._proof.__enter__()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._proof.__exit__(kind, error, trace)

    def entries(self) -> Iterator[Mapped]:
        """All entries in logical order, corrected where the mirror differs.

        :raises SplitMirrorError: the mirror cannot be looked at.
        """
        yield from self._proof.entries()
        self._complete = True

    def result(self) -> dict[str, Any]:
        """``mode``, ``complete``, ``examined``, and how many paths differed: ``remapped``, ``added`` and so on."""
        counts = self._proof.counts()._asdict()
        return {**counts, "complete": self._complete and counts["mode"] != NONE}
