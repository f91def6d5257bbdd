# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of the catalog as records. A value of a wrong type or out of range means that the catalog is damaged."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..archive.model import HEADER_DIGEST_BYTES, MemberRecord
from ..extents.maprows import stored_time, time_of
from ..host.strict_json import parse_own_json, whole
from .records import (
    DAMAGED,
    FAILED,
    FULL,
    GOOD,
    LEVELS,
    OPEN,
    CatalogError,
    Copy,
    Part,
    Session,
    Volume,
    VolumeUse,
)

_TEXT, _BYTES, _COUNT, _TIME = "text", "bytes", "count", "time"
_MAYBE_TIME, _MAYBE_COUNT = "maybe a time", "maybe a count"
_VOLUME = (_TEXT, _TEXT, _TEXT, _COUNT, _TEXT, _COUNT, _COUNT, _TEXT, _MAYBE_COUNT, _TEXT, _MAYBE_TIME)
_SESSION = (_COUNT, _TEXT, _TEXT, _TEXT, _TEXT, _TIME, _MAYBE_TIME, _MAYBE_TIME, _COUNT, _COUNT, _COUNT, *(_TEXT,) * 4)
_PART = (_COUNT, _COUNT, _TEXT, *(_COUNT,) * 8, _BYTES, _TEXT, _TEXT, _BYTES)
_COPY = (_COUNT, _COUNT, _TEXT, _COUNT, _COUNT, _TIME, _MAYBE_TIME, _TEXT)
_USE = (_TEXT, _TEXT, _TEXT, _TEXT, _TIME, _TEXT)
_STATES = (OPEN, GOOD, FAILED, DAMAGED)
_MAYBE: tuple[type, ...] = (bytes, type(None))
# part, path, kind, size, offset, header bytes, sha256, mtime, mode, uid, gid, linkname, header digest
_MEMBER_TYPES = frozenset(
    (int, bytes, str, int, int, int, sha256, int, int, int, int, linkname, header_digest)
    for sha256, linkname, header_digest in itertools.product(_MAYBE, _MAYBE, _MAYBE)
)
_SHA256_BYTES = 32


def volume_of(row: Sequence[Any]) -> Volume:
    """A row of volumes. :raises CatalogError: it is damaged."""
    _check(row, _VOLUME, "volumes")
    found = Volume._make(row)
    if not found.record_bytes:
        raise damaged("volumes")
    return found


def session_of(row: Sequence[Any]) -> Session:
    """A row of sessions. :raises CatalogError: it is damaged."""
    _check(row, _SESSION, "sessions")
    try:
        write, evidence = (json.loads(text) for text in row[-4:-2])
    except (ValueError, RecursionError) as exc:
        raise damaged("sessions") from exc
    found = Session._make((*row[:-4], write, evidence, *row[-2:]))
    if found.state not in _STATES or not isinstance(write, dict) or not isinstance(evidence, dict):
        raise damaged("sessions")
    if found.level not in LEVELS or (found.level == FULL) != (not found.base):
        raise damaged("sessions")
    return found


def part_of(row: Sequence[Any]) -> Part:
    """A row of parts. :raises CatalogError: it is damaged."""
    _check(row, _PART, "parts")
    found = Part._make(row)
    found = found._replace(complete=bool(found.complete))
    if not found.record_bytes or row[8] not in (0, 1) or (found.complete and found.lead_bytes > found.archive_bytes):
        raise damaged("parts")
    if len(found.sha256) not in (0, _SHA256_BYTES):
        raise damaged("parts")
    return found


def copy_of(row: Sequence[Any]) -> Copy:
    """A row of copies. :raises CatalogError: it is damaged."""
    _check(row, _COPY, "copies")
    return Copy._make(row)


def use_of(row: Sequence[Any]) -> VolumeUse:
    """A row of volume_uses. :raises CatalogError: it is damaged."""
    _check(row, _USE, "volume_uses")
    try:
        facts = parse_own_json(row[-1])
        for value in facts.values():
            for number in value if isinstance(value, list) else () if isinstance(value, str) else (value,):
                whole(number)
    except (AttributeError, ValueError) as exc:
        raise damaged("volume_uses") from exc
    return VolumeUse._make((*row[:-1], facts))


def member_of(row: Sequence[Any]) -> tuple[int, MemberRecord]:
    """A row of members, with the number of its part first. :raises CatalogError: it is damaged."""
    if tuple(map(type, row)) not in _MEMBER_TYPES:
        raise damaged("members")
    part, path, kind, size, offset, header, sha256, mtime, mode, uid, gid, linkname, header_digest = row
    if part | size | offset | header | mode | uid | gid < 0 or (sha256 and len(sha256) != _SHA256_BYTES):
        raise damaged("members")
    if header_digest is not None and len(header_digest) != HEADER_DIGEST_BYTES:
        raise damaged("members")
    digest = sha256.hex() if sha256 else None
    return part, MemberRecord(
        path, kind, size, offset, header, digest, time_of(mtime), mode, uid, gid, linkname, header_digest
    )


def member_row(session: int, part: int, member: MemberRecord) -> tuple[Any, ...]:
    """The inverse of member_of: the values for a row of members, in the order of its columns."""
    path, kind, size, offset, header, sha256, mtime_ns, mode, uid, gid, linkname, header_digest = member
    digest = bytes.fromhex(sha256) if sha256 else None
    mtime = stored_time(mtime_ns)
    return session, offset, part, path, kind, size, header, digest, mtime, mode, uid, gid, linkname, header_digest


def part_named(parts: Mapping[int, Part], number: int) -> Part:
    """The part with this number, for a member in it. :raises CatalogError: there is no such part."""
    found = parts.get(number)
    if found is None:
        raise damaged("members")
    return found


def damaged(table: str) -> CatalogError:
    """The error for a damaged catalog."""
    return CatalogError(
        f"state_dir: the catalog is damaged (a row of its table {table} has impossible values); move it away "
        "and rebuild it from the volumes with catalog_rebuild.",
        option="state_dir",
    )


def _check(row: Sequence[Any], kinds: Sequence[str], table: str) -> None:
    for value, kind in zip(row, kinds):
        if not _is_of(value, kind):
            raise damaged(table)


def _is_of(value: Any, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str)
    if kind == _BYTES:
        return isinstance(value, bytes)
    if kind == _COUNT:
        return isinstance(value, int) and value >= 0
    if kind == _MAYBE_COUNT:
        return value is None or _is_of(value, _COUNT)
    return _is_time(value) or (kind == _MAYBE_TIME and value is None)


def _is_time(value: Optional[Any]) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
