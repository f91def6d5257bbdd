# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How large an archive becomes at most, told from the extent map before anything is written."""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from dataclasses import dataclass
from typing import Optional

from ..errors import SplitMirrorError
from ..extents.maprows import EXTENT_BYTES, mapped_bytes

# Upper bounds per member: ustar and pax headers, padding of the data, and the member's line in the index.
_MEMBER_BYTES = 4096
_PER_PATH_BYTE = 4
_PER_XATTR_BYTE = 6
_PER_EXTENT = 64
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """:param files: regular files; :param data_bytes: their logical sizes; :param archive_bytes: at most on tape."""

    files: int
    data_bytes: int
    archive_bytes: int


def estimate(map_path: str, record_bytes: int, extras: Optional[str] = None) -> Estimate:
    """Estimate the archive of a map.

    :param map_path: the map file (its tables are described in extents/mapfile.py).
    :param extras: a tar whose members come behind the files.
    :raises SplitMirrorError: the map or the extras cannot be read.
    """
    try:
        db = sqlite3.connect(f"file:{urllib.parse.quote(os.fsencode(map_path))}?mode=ro", uri=True)
        try:
            db.create_function("mapped_bytes", 1, mapped_bytes)
            members, files, data, names, xattrs, whole, extents, mapped = db.execute(
                "SELECT count(*), total(kind = 'f'), total(CASE kind WHEN 'f' THEN size END), total(length(sort_key)), "
                "total(length(xattrs)), total(CASE WHEN source IN ('mount', 'content') THEN size END), "
                "total(length(extents)), total(mapped_bytes(extents)) FROM files WHERE source != 'skip'"
            ).fetchone()
            # names of a file after its first have no data of their own in the archive
            links, repeated, linked = db.execute(
                "SELECT count(*), total(size), total(mapped_bytes(extents)) FROM files WHERE kind = 'f' AND nlink > 1 "
                "AND sort_key NOT IN "
                "(SELECT min(sort_key) FROM files WHERE kind = 'f' AND nlink > 1 GROUP BY dev, inode)"
            ).fetchone()
        finally:
            db.close()
        more = os.path.getsize(extras) if extras else 0
    except (OSError, sqlite3.Error) as exc:
        raise SplitMirrorError(f"map: {map_path} or the extras cannot be read ({exc}).", option="map") from exc
    archive = (
        mapped
        - linked
        + whole
        + members * _MEMBER_BYTES
        + names * _PER_PATH_BYTE
        + xattrs * _PER_XATTR_BYTE
        + extents / EXTENT_BYTES * _PER_EXTENT
        + more
        + _END_BYTES
        + record_bytes
    )
    return Estimate(int(files - links), int(data - repeated), int(archive))
