# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare what a map says with what is seen, both in logical order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

from .maprows import FileEntry, MappedFields, sort_key

SAME = "same"
ADDED = "added"
REMOVED = "removed"
REMAPPED = "remapped"
ATTRIBUTES = "attributes"

_REASON = FileEntry._fields.index("reason")
# What decides which bytes the archive gets; all else is an attribute.
_CONTENT_FIELDS = tuple(
    FileEntry._fields.index(name)
    for name in ("kind", "size", "source", "content", "target", "rdev_major", "rdev_minor")
)


class Finding(NamedTuple):
    """One path: ``what`` is same, added, removed, remapped or attributes; ``seen`` is None when it is removed, and
    ``stored`` when it is added.
    """

    what: str
    path: bytes
    seen: Optional[MappedFields]
    stored: Optional[MappedFields]


def difference(
    entry: Sequence[Any], extents: Sequence[Sequence[int]], seen: Sequence[Any], seen_extents: Sequence[Sequence[int]]
) -> str:
    """What differs between an entry of the map and the same path as it is seen: same, attributes or remapped."""
    if extents != seen_extents and [row[:4] for row in extents] != [row[:4] for row in seen_extents]:
        return REMAPPED
    if entry == seen or entry[:_REASON] == seen[:_REASON]:
        return SAME
    if any(entry[field] != seen[field] for field in _CONTENT_FIELDS):
        return REMAPPED
    return ATTRIBUTES


def compare(stored: Iterable[MappedFields], seen: Iterable[MappedFields]) -> Iterator[Finding]:
    """Merge the map with what is seen; both come in logical order, and so do the findings."""
    rows = iter(stored)
    old = next(rows, None)
    for new in seen:
        path = new[0][0]
        if old is not None and old[0][0] != path:
            key = sort_key(path)
            while old is not None and sort_key(old[0][0]) < key:
                yield Finding(REMOVED, old[0][0], None, old)
                old = next(rows, None)
        if old is None or old[0][0] != path:
            yield Finding(ADDED, path, new, None)
            continue
        yield Finding(difference(old[0], old[1], new[0], new[1]), path, new, old)
        old = next(rows, None)
    while old is not None:
        yield Finding(REMOVED, old[0][0], None, old)
        old = next(rows, None)
