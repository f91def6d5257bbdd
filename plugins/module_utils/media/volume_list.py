# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All volumes, as people ask for them: how full each is, until when it is needed, how it fares, and where it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Optional

from ..catalog.lookup import format_time
from ..catalog.records import VolumeUse
from ..catalog.standing import Standing, standings
from ..catalog.store import Catalog
from ..tape.drive_lease import DriveOptions
from ..tape.library import MtxLibrary
from ..tape.registry import drive_class
from .pools import has_room

#: Where a volume is, besides the places in a library: in the folder of a virtual drive, where people say, or unknown.
FOLDER, ELSEWHERE, UNKNOWN = "folder", "elsewhere", "unknown"

Place = tuple[str, Optional[int]]


def places(options: Optional[DriveOptions]) -> dict[str, Place]:
    """Where the volumes are that a library holds: kind of the place and its number, by name; nothing moves.

    :param options: None when no drive was named.
    """
    if options is None:
        return {}
    if options.changer is not None:
        library = MtxLibrary(options.changer)
        with library.alone():
            return dict(library.look().places())
    shelf = drive_class(options.drive_type).shelf(options.choices[0].device)
    return dict.fromkeys(shelf or (), (FOLDER, None))


def list_volumes(catalog: Catalog, pool: Optional[str], where: Mapping[str, Place]) -> dict[str, Any]:
    """What the module volume_info returns.

    :param pool: the volumes of this pool alone.
    :param where: what places returned.
    """
    found = standings(catalog, pool)
    known = {volume.name for volume in catalog.volumes()}
    return {
        "volumes": [
            _facts(standing, catalog.uses(standing.volume.name), where, _copies(catalog, standing))
            for standing in found
        ],
        "unknown": [
            {"volume": name, "place": {"kind": kind, "number": number, "note": "", "since": None}}
            for name, (kind, number) in sorted(where.items())
            if name not in known
        ],
    }


def _copies(catalog: Catalog, standing: Standing) -> set[str]:
    """The sessions of which a copy is on a volume."""
    numbers = {copy.session for copy in catalog.copies_on(standing.volume.name)}
    return {session.id for session in standing.sessions if session.number in numbers}


def _facts(
    standing: Standing, uses: list[VolumeUse], where: Mapping[str, Place], copies: Collection[str]
) -> dict[str, Any]:
    volume = standing.volume
    kind, number = where.get(volume.name, (ELSEWHERE if volume.place else UNKNOWN, None))
    told = [use.facts for use in uses]
    return {
        "volume": volume.name,
        "pool": volume.pool,
        "state": _state(standing),
        "out_of_use": volume.out_of_use,
        "used_bytes": standing.used_bytes,
        "free_bytes": standing.room_bytes,
        "sessions": [session.id for session in standing.sessions],
        "copies": sorted(copies),
        "needed": [session.id for session in standing.unexpired],
        "last_good": [session.id for session in standing.last_good],
        "expires": format_time(standing.expires_s) if standing.sessions else None,
        "created": volume.created,
        "written": format_time(standing.written_s),
        "loads": max((facts["loads"] for facts in told if "loads" in facts), default=None),
        "errors": sum(facts.get("write_uncorrected", 0) + facts.get("read_uncorrected", 0) for facts in told),
        "alerts": sorted({alert for facts in told[-1:] for alert in facts.get("alerts", ())}),
        "place": {"kind": kind, "number": number, "note": volume.place, "since": format_time(volume.place_s)},
    }


def _state(standing: Standing) -> str:
    if standing.volume.out_of_use:
        return "out_of_use"
    if standing.blank:
        return "blank"
    if has_room(standing):
        return "filling"
    return "reusable" if standing.reusable() else "full"
