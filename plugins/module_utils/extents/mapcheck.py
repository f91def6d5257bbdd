# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trust nothing that stands in the map of another host: not its tables, nor any type, number, name or path in it.

What passes here can be used without a further look. A path may still lead over a symbolic link of the mirror, so it is
opened as beneath.py does.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..host.beneath import is_plain
from .maprows import (
    SOURCE_CONTENT,
    SOURCE_DEVICE,
    SOURCE_MOUNT,
    SOURCE_NONE,
    SOURCE_SKIP,
    FileSystem,
    Lun,
    MapError,
    MappedFields,
    SegmentRow,
    TableRow,
    mapped_fields,
    shown,
    unpack_xattrs,
)
from .scope import Scope

#: What values of wrong types lead to where they are not checked first.
DAMAGED = (sqlite3.Error, struct.error, AttributeError, OverflowError, TypeError, ValueError)
FS_TYPES = ("ext4", "xfs")
_KINDS = "fdlcbps"
_CHANGES = ("added", "removed", "remapped", "attributes")
_INT64 = 1 << 63
_TARGET_BYTES = 4096
_OWNER_BYTES = 255
_XATTR_NAME_BYTES = 255
_XATTR_SPACES = (b"user.", b"trusted.", b"security.", b"system.")

_STEPS_A_BYTE, _STEPS_AT_LEAST, _STEPS_AT_ONCE = 16, 1 << 20, 1 << 16

# sort_key, kind; fs to rdev_minor; target, xattrs; source; content, reason, extents
_MAYBE: tuple[type, ...] = (bytes, type(None))
_TYPES = frozenset(
    (bytes, str, *[int] * 12, target, xattrs, str, content, reason, extents)
    for target, xattrs, content, reason, extents in itertools.product(_MAYBE, _MAYBE, _MAYBE, (str, type(None)), _MAYBE)
)
# Kind, source, and whether there are a target and a content. What is left out may be of any kind.
_SORTS = frozenset(
    [("f", source, False, source == SOURCE_CONTENT) for source in (SOURCE_DEVICE, SOURCE_CONTENT, SOURCE_MOUNT)]
    + [(kind, source, kind == "l", False) for kind in _KINDS for source in (SOURCE_NONE, SOURCE_SKIP)]
)
# A component that is empty, ``.`` or ``..`` (they are parted by zeros), or a separator that should be a zero.
_ODD_ENDS = (b"\0", b".")
_ODD_KEY = re.compile(rb"/|(?:\A|\0)\.{0,2}(?:\0|\Z)")


class RowCheck:
    """Takes the rows of the table of files, one after another in their order.

    :param segments: where the device of each file system lies, by its number.
    """

    def __init__(self, segments: Mapping[int, Sequence[SegmentRow]]) -> None:
        # LUN, begin and end of each piece, by file system.
        self._pieces = {
            fs: [(piece.lun, piece.lun_offset, piece.lun_offset + piece.length) for piece in pieces]
            for fs, pieces in segments.items()
        }

    def take(self, row: TableRow) -> MappedFields:
        """One row as mapped_fields gives it. :raises MapError: it is not what a map holds."""
        if tuple(map(type, row)) not in _TYPES:
            raise wrong("a row of files has values of wrong types")
        (
            key, kind, fs, inode, dev, nlink, mode, uid, gid, size, _mtime, _ctime, major, minor, target, xattrs,
            source, content, _reason, extents,
        ) = row  # fmt: skip
        # The first three are quick, and only names that begin with a dot go on from there.
        if (b"\0." in key or b"\0\0" in key or b"/" in key or key[:1] in _ODD_ENDS or key[-1:] in _ODD_ENDS) and (
            key and _ODD_KEY.search(key)
        ):
            raise wrong("a path in it is not plain", b"/" + key)
        if fs | inode | dev | nlink | mode | uid | gid | size | major | minor < 0:
            raise wrong("a number in it is negative", b"/" + key)
        if mode > 0o7777 or nlink | uid | gid | major | minor >= 1 << 32:
            raise wrong("a number in it is too large", b"/" + key)
        if (kind, source, target is not None, content is not None) not in _SORTS:
            raise wrong("kind, source and content of a file in it contradict each other", b"/" + key)
        if size and kind != "f":
            raise wrong("a size is given for what has no content", b"/" + key)
        if content is not None and len(content) != size:
            raise wrong("a content in it has another length than the file", b"/" + key)
        if target is not None and (not 0 < len(target) <= _TARGET_BYTES or b"\0" in target):
            raise wrong("a link in it has an invalid target", b"/" + key)
        if xattrs is not None:
            _check_xattrs(xattrs, key)
        if extents is not None or source in (SOURCE_DEVICE, SOURCE_MOUNT):
            pieces = self._pieces.get(fs)
            if pieces is None or (extents is not None and source != SOURCE_DEVICE):
                raise wrong("extents or file system of a file in it do not match its source", b"/" + key)
            fields = mapped_fields(row)
            for _logical, lun, physical, length, _flags in fields[1]:
                for piece_lun, begin, end in pieces:
                    if lun == piece_lun and begin <= physical and physical + length <= end:
                        break
                else:
                    raise wrong("an extent in it lies outside its file system", b"/" + key)
            return fields
        return mapped_fields(row)


def _check_xattrs(blob: bytes, key: bytes) -> None:
    for name in unpack_xattrs(blob):
        if len(name) > _XATTR_NAME_BYTES or b"\0" in name or not name.startswith(_XATTR_SPACES):
            raise wrong("an extended attribute in it has an invalid name", b"/" + key)


def bound_work(db: sqlite3.Connection, *paths: str) -> None:
    """Give up reading a database whose tree of pages leads round and round, however few pages it has.

    What an honest one is asked takes steps of SQLite in proportion to its size: fewer than one a byte, each time that
    all of it is read. The query then raises sqlite3.OperationalError.

    :param paths: all files that are read.
    """
    left = (sum(map(os.path.getsize, paths)) * _STEPS_A_BYTE + _STEPS_AT_LEAST) // _STEPS_AT_ONCE

    def is_too_much() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    db.set_progress_handler(is_too_much, _STEPS_AT_ONCE)


def check_schema(db: sqlite3.Connection, schema: str) -> None:
    """Refuse a database with other tables than these: a view or a trigger would do what its maker wants.

    :raises MapError: there is anything else in it.
    """
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    with sqlite3.connect(":memory:") as plain:
        plain.executescript(schema)
        known = set(plain.execute(query))
    plain.close()
    found = set(db.execute(query))
    if not known >= found or db.execute("PRAGMA encoding").fetchone() != ("UTF-8",):
        raise wrong("its tables are not those of an extent map")


def check_head(
    meta: Iterable[tuple[Any, Any]],
    luns: Sequence[Lun],
    filesystems: Sequence[FileSystem],
    segments: Mapping[int, Sequence[SegmentRow]],
) -> None:
    """Check all that a map says of itself, of LUNs and file systems. :raises MapError: something is wrong."""
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in meta):
        raise wrong("its head has values of wrong types")
    sizes: dict[int, int] = {}
    for lun in luns:
        if not (_is_text(lun.name) and _maybe_text(lun.serial) and _maybe_text(lun.wwn) and _is_in(lun.size_bytes, 1)):
            raise wrong("a LUN in it has values of wrong types or out of range")
        sizes[lun.id] = lun.size_bytes
    points = set()
    for fs in filesystems:
        _check_filesystem(fs)
        points.add(fs.mount_point)
        pieces = segments.get(fs.id, ())
        if not pieces or (pieces[0].lun, pieces[0].lun_offset) != (fs.lun, fs.lun_offset_bytes):
            raise wrong("it does not say where a file system lies", fs.mount_point)
        for piece in pieces:
            numbers = _is_in(piece.device_offset) and _is_in(piece.lun_offset) and _is_in(piece.length, 1)
            if not numbers or piece.lun_offset + piece.length > sizes.get(piece.lun, 0):
                raise wrong("a file system in it lies outside its LUN", fs.mount_point)
    if len(points) < len(filesystems) or not set(segments) <= {fs.id for fs in filesystems}:
        raise wrong("a file system in it is named twice, or not at all")


def _check_filesystem(fs: FileSystem) -> None:
    paths = (fs.mount_point, fs.root)
    if not all(isinstance(path, bytes) and is_plain(path) for path in paths):
        raise wrong("the mount point of a file system in it is not a plain path")
    if fs.fs_type not in FS_TYPES or not _is_text(fs.fs_uuid) or not _is_in(fs.dev):
        raise wrong("a file system in it has values of wrong types or an unknown kind", fs.mount_point)
    block = fs.block_bytes
    if not _is_in(block, 512, 65536) or block & block - 1 or not _is_in(fs.lun) or not _is_in(fs.lun_offset_bytes):
        raise wrong("a file system in it has numbers out of range", fs.mount_point)


def check_owners(names: Iterable[tuple[Any, Any]]) -> None:
    """Check names of users or groups with their numbers. :raises MapError: one is none."""
    for number, name in names:
        fits = _is_in(number, 0, (1 << 32) - 1) and isinstance(name, bytes) and 0 < len(name) <= _OWNER_BYTES
        if not fits or b"\0" in name or b"\n" in name:
            raise wrong("the name of an owner in it is invalid")


def check_changes(changes: Iterable[tuple[Any, Any]]) -> None:
    """Check what the check in the window noted, path and what. :raises MapError: one is not of that kind."""
    for path, what in changes:
        if not isinstance(path, bytes) or not is_plain(path) or what not in _CHANGES:
            raise wrong("a change that it records is invalid")


def check_left_out(rows: Iterable[tuple[Any, Any]]) -> None:
    """Check what was left out, path and why. :raises MapError: one is not of that kind."""
    for path, why in rows:
        if not isinstance(path, bytes) or not is_plain(path) or not _is_text(why):
            raise wrong("a path that it records as left out is invalid")


def parse_scopes(text: str) -> list[Scope]:
    """The scopes in the head of a map. :raises MapError: they are none."""
    try:
        scopes = [Scope.from_dict(row) for row in json.loads(text)]
        names = [name for scope in scopes for name in (*scope.empty, *scope.exclude, scope.root, scope.label)]
        plain = all(is_plain(scope.root.encode("utf-8", "surrogateescape")) for scope in scopes)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
        raise wrong("its scopes cannot be read") from exc
    if not plain or not all(isinstance(name, str) for name in names):
        raise wrong("its scopes are not plain paths")
    return scopes


def parse_names(text: str) -> dict[str, str]:
    """Other names of scopes in the head of a map, and what they stand for. :raises MapError: they are none."""
    try:
        names = dict(json.loads(text).items())
        plain = all(is_plain(path.encode("utf-8", "surrogateescape")) for pair in names.items() for path in pair)
    except (AttributeError, TypeError, ValueError, RecursionError) as exc:
        raise wrong("the other names of its scopes cannot be read") from exc
    if not plain:
        raise wrong("the other names of its scopes are not plain paths")
    return names


def parse_seals(text: str) -> dict[str, str]:
    """The seals in the head of a map, by number of the file system. :raises MapError: they are none."""
    try:
        seals = dict(json.loads(text).items())
    except (AttributeError, ValueError, RecursionError) as exc:
        raise wrong("its seals cannot be read") from exc
    if not all(isinstance(value, str) for value in seals.values()):
        raise wrong("its seals cannot be read")
    return seals


def wrong(what: str, path: bytes = b"") -> MapError:
    """The error for a map that must not be used. :param path: which entry it is."""
    name = f" ({shown(path)})" if path else ""
    return MapError(
        f"map: {what}{name}; the map is damaged or was forged, map the session again.", option="map", code="map_damaged"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _maybe_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_in(value: Any, least: int = 0, most: int = _INT64 - 1) -> bool:
    return isinstance(value, int) and least <= value <= most
