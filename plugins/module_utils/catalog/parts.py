# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of the writing of each part of a session, and of all parts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .records import Part
from .rowcheck import part_named

#: What must be proved of each part.
PROVED = ("complete", "filemark", "checksums")
#: Checksums of the data of a member that crosses: of what is in this part, and of what is in the part before.
PIECE, BEFORE = "piece_sha256", "before_sha256"
_SHOWN = 5
_COUNTED = ("members", "files", "bytes", "records", "fallback", "stops", "writing_s")


def next_of(parts: Mapping[int, Part], part: Part) -> Optional[Part]:
    """The part that goes on with the member with which this part ends; None for a part that ends with a whole member.

    :param parts: of the session, by number.
    """
    found = parts.get(part.part + 1)
    return found if found is not None and found.lead_bytes else None


def crossed_from(parts: Mapping[int, Part], part: Part) -> list[Part]:
    """The parts that go on with the only member of this one, in order; none if it does not cross."""
    found = []
    after = next_of(parts, part)
    while after is not None:
        found.append(after)
        after = next_of(parts, after)
    return found


def part_of_member(parts: Mapping[int, Part], number: int, offset_bytes: int) -> Part:
    """The part in which a member begins.

    :param number: of the part whose index lists it. :param offset_bytes: where it begins in the session.
    :raises CatalogError: there is no such part.
    """
    found = part_named(parts, number)
    while offset_bytes < found.offset_bytes:
        found = part_named(parts, found.part - 1)
    return found


def part_facts(part: Part, counts: Mapping[str, Any], *, last: bool, **proved: bool) -> dict[str, Any]:
    """The facts of one part, as the catalog keeps them.

    :param part: with its final number of records.
    :param counts: ``members``, ``files``, ``bytes``; ``fallback``, ``writing_s`` and ``stops`` where they are known.
    :param last: no other part comes behind this one.
    :param proved: ``complete``, ``filemark`` and ``checksums``.
    """
    where = {"part": part.part, "volume": part.volume, "file_number": part.file_number, "last": last}
    return {**where, **counts, "records": part.records, **proved}


def join_facts(parts: Sequence[Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a session: what was proved of all its parts, their counts added up, and the parts themselves.

    :param parts: what part_facts returned, by number of the part.
    :param common: ``proof``, ``names`` and what else belongs to the session as a whole.
    """
    proved = {key: all(part.get(key) is True for part in parts) for key in PROVED}
    counted = {key: sum(part[key] for part in parts) for key in _COUNTED if all(key in part for part in parts)}
    return {**proved, **counted, "parts": [dict(part) for part in parts], **common}


def broken_part(parts: Sequence[Mapping[str, Any]]) -> Optional[int]:
    """The number of a part that does not go on with the data in the part before it; None if all do.

    :param parts: facts of the parts that are there, by number.
    """
    for one, other in zip(parts, parts[1:]):
        if one["part"] + 1 == other["part"] and BEFORE in other and one.get(PIECE) != other[BEFORE]:
            return int(other["part"])
    return None


def missing_parts(parts: Sequence[Mapping[str, Any]], volumes: Sequence[str]) -> str:
    """Which parts of a session are missing, as a sentence; empty when there are none.

    :param parts: facts of the parts that are there, by number.
    :param volumes: the volumes of the parts, up to the last one that is there.
    """
    numbers = {part["part"] for part in parts}
    missing = [
        f"part {number + 1} on volume {volume}" for number, volume in enumerate(volumes) if number not in numbers
    ]
    if not any(part.get("last") is True for part in parts):
        missing.append(f"what follows part {max(numbers) + 1}")
    if not missing:
        return ""
    return f"{', '.join(missing[:_SHOWN])} is not in the catalog; enter the volume with catalog_rebuild."
