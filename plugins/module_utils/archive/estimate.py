# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Estimates from the extent map how large an archive can become at most, before anything is written.

Members are planned by the writer's own planner, so holes and further names of a file count as they will be written.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple, Optional

from ..errors import SplitMirrorError
from ..extents.mapfile import MapFile
from ..extents.maprows import SOURCE_DEVICE, ExtentRow, FileEntry, Measured, unpack_extent
from .index import member_line
from .members import MemberPlan, MemberPlanner, stored_bytes
from .model import BLOCK_BYTES, Links, MemberRecord, Owners, header_digest
from .pax import HeaderMaker, pad

_SHORT_NAME = 100
_ANY_NAME = b"n" * _SHORT_NAME
# No time takes more digits: seconds before 1970 on ext4 and XFS go back to -2**31.
_LONGEST_TIME = -2_000_000_000_123_456_789
# The first line of the index holds the evidence of the session; the end of the archive is two blocks.
_END_BYTES = 256 << 10
_CACHED_HEADERS = 4096


@dataclass(frozen=True)
class Estimate:
    """:param files: regular files; :param data_bytes: their logical sizes; :param archive_bytes: at most on tape."""

    files: int
    data_bytes: int
    archive_bytes: int


def estimate(map_file: MapFile, record_bytes: int = 0, extras: Optional[str] = None) -> Estimate:
    """Estimate the archive of a map. A file that is read through the mount counts with its size, holes included.

    :param record_bytes: the last record is filled up; 0 when its length is not known yet.
    :param extras: a tar whose members come behind the files.
    :raises SplitMirrorError: the map or the extras cannot be read, or the map contradicts itself.
    """
    measure = _Measure(HeaderMaker(Owners(map_file.users(), map_file.groups())))
    files, data_bytes, archive_bytes = map_file.add_up(measure.plain_bytes, measure.measure)
    try:
        more = extras_bytes(extras) if extras else 0
    except (OSError, tarfile.TarError) as exc:
        raise SplitMirrorError(
            f"extras: {extras} cannot be read ({exc}); it holds the label files and logs of the session.",
            option="extras",
        ) from exc
    return Estimate(files, data_bytes, archive_bytes + more + _END_BYTES + record_bytes)


class _Attributes(NamedTuple):
    """What makes headers longer."""

    uid: int
    gid: int
    xattrs: Optional[bytes]


class _Measure:
    """Says what entries take on tape."""

    def __init__(self, headers: HeaderMaker) -> None:
        # What is read through the mount is not open yet: a stream that knows no holes stands for it.
        self._planner = MemberPlanner(headers, lambda _entry: io.BytesIO())
        self._header_bytes = functools.lru_cache(_CACHED_HEADERS)(self._plan_header)

    def measure(self, entry: FileEntry, extents: Sequence[ExtentRow]) -> Measured:
        """One entry of the map, in the order of the archive, which says which name of a file is the first."""
        plan = self._planner.plan(entry, extents)
        if plan is None:
            return Measured(False, 0, 0)
        is_file = plan.kind == "f"
        return Measured(is_file, plan.size if is_file else 0, member_bytes(plan))

    def plain_bytes(self, key: bytes, size: int, packed: bytes, *attributes: Any) -> int:
        """One file with one name and one extent. :param attributes: those of _Attributes."""
        logical, _lun, _physical, length, _flags = extent = unpack_extent(packed)
        if logical or not 0 < size <= length or len(key) > _SHORT_NAME or not key.isascii():
            path = b"/" + key.replace(b"\0", b"/")
            return member_bytes(self._plan(path, size, [ExtentRow._make(extent)], _Attributes(*attributes)))
        # a zero between folders takes six letters here, a slash one
        name_bytes = len(encode_basestring_ascii(key.decode())) - 5 * key.count(b"\0")
        return self._header_bytes(*attributes) + size + -size % BLOCK_BYTES + EMPTY_LINE_BYTES + name_bytes

    def _plan_header(self, *attributes: Any) -> int:
        """Length of the headers of all files that have these and a short name."""
        return len(self._plan(b"/" + _ANY_NAME, 1, [ExtentRow(0, 0, 0, 1)], _Attributes(*attributes)).header)

    def _plan(self, path: bytes, size: int, extents: Sequence[ExtentRow], attributes: _Attributes) -> MemberPlan:
        entry = FileEntry(path, "f", size=size, mtime_ns=_LONGEST_TIME, source=SOURCE_DEVICE, **attributes._asdict())
        plan = self._planner.plan(entry, extents)
        if plan is None:  # a regular file always has one
            raise AssertionError(entry)
        return plan


def room_for(entry: FileEntry, extents: Sequence[ExtentRow], headers: HeaderMaker, links: Links) -> int:
    """What one entry takes in the archive at most, its line in the index included.

    :param links: the first names of files with several names that were written before.
    :raises ArchiveError: the map contradicts itself.
    """
    key = (entry.dev, entry.inode)
    known: Links = {key: links[key]} if key in links else {}
    plan = MemberPlanner(headers, lambda _entry: io.BytesIO(), known).plan(entry, extents)
    return 0 if plan is None else member_bytes(plan)


def member_bytes(plan: MemberPlan) -> int:
    """What a member takes: headers, map, data, and its line in the index."""
    data = stored_bytes(plan)
    return len(plan.header) + data + pad(data) + line_bytes(plan.name, plan.linkname)


def line_bytes(name: bytes, linkname: Optional[bytes] = None) -> int:
    """What a member takes in the index at most."""
    longest = MemberRecord(
        path=name,
        kind="f",
        size=1 << 62,
        offset_bytes=1 << 62,
        header_bytes=1 << 30,
        sha256="0" * 64,
        mtime_ns=_LONGEST_TIME,
        mode=0o7777,
        uid=(1 << 32) - 1,
        gid=(1 << 32) - 1,
        linkname=linkname,
        header_digest=header_digest(b""),
    )
    return len(member_line(longest))


#: What a member without a name takes in the index at most.
EMPTY_LINE_BYTES = line_bytes(b"")


def extras_bytes(path: str) -> int:
    """What a tar takes that is copied behind the files. :raises OSError, tarfile.TarError: it cannot be read."""
    lines = 0
    with tarfile.open(path, "r:", errors="surrogateescape") as tar:
        for member in tar:
            lines += line_bytes(os.fsencode(member.name), os.fsencode(member.linkname))
    return os.path.getsize(path) + lines
