# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there and cannot be backed up: an error, or left out and named, as the user says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from .maprows import MapError, shown, sort_key
from .rules import ScopeTree
from .stack import is_below

#: Words of the user.
FAIL = "fail"
LEAVE_OUT = "leave_out"
ON_UNREADABLE = (FAIL, LEAVE_OUT)

#: Longer paths are not backed up: a row of the map holds a whole path, so a chain of folders would fill the disk.
MOST_PATH_BYTES = 16384
_MOST_TOLD = 100


class Unreadable(MapError):
    """Something that is there and cannot be backed up.

    :param path: of the database host. :param why: the rest of a sentence that begins with the path.
    :param advice: what the user can do about it, besides leaving it out. :param message: all of it, if it is known.
    """

    code = "file_unmappable"

    def __init__(
        self, path: bytes, why: str, advice: str = "leave it out with exclude", message: Optional[str] = None
    ) -> None:
        self.path = path
        self.why = why
        way_out = f"set on_unreadable (splitmirror_on_unreadable) to {LEAVE_OUT}"
        super().__init__(message or f"paths: {shown(path)} {why}; {advice}, or {way_out}.", option="paths")


class LeftOut:
    """Takes what cannot be backed up.

    :param tree: what is left out belongs to it no more. :param allowed: whether the user wants it so.
    """

    def __init__(self, tree: ScopeTree, allowed: bool) -> None:
        self._tree = tree
        self._allowed = allowed
        self._rows: list[tuple[bytes, str]] = []

    def add(self, error: Unreadable) -> None:
        """Leave it out with all that is below it.

        :raises Unreadable: it is not to be left out, or a scope begins there or below.
        """
        if not self._allowed or any(is_below(root, error.path) for root in self._tree.rules):
            raise error
        if self._tree.leave_out(error.path):
            self._rows.append((error.path, error.why))

    def covers(self, path: bytes) -> bool:
        """Whether a path was left out, or lies in something that was."""
        return self._tree.is_left_out(path)

    def take(self) -> list[tuple[bytes, str]]:
        """What came since the last call: (path, why)."""
        rows, self._rows = self._rows, []
        return rows


def without_inner(rows: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    """What is left out, in logical order, without what lies in something else that is left out."""
    kept: list[tuple[bytes, str]] = []
    for row in sorted(dict(rows).items(), key=lambda row: sort_key(row[0])):
        if not kept or not is_below(row[0], kept[-1][0]):
            kept.append(row)
    return kept


def told(rows: list[tuple[bytes, str]]) -> dict[str, Any]:
    """What is left out, for results and reports: how many paths, and the first of them with the reasons."""
    return {"count": len(rows), "paths": [{"path": shown(path), "why": why} for path, why in rows[:_MOST_TOLD]]}
