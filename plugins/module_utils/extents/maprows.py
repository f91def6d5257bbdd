# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an extent map holds: files, the extents of their data, and the LUNs and file systems where these lie.

All sizes and offsets are bytes; ``physical`` counts from the start of the LUN.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Optional

from ..errors import SplitMirrorError

#: What ``FileEntry.source`` says of where a file's data come from.
SOURCE_NONE = "none"
SOURCE_DEVICE = "device"
SOURCE_CONTENT = "content"
SOURCE_MOUNT = "mount"
SOURCE_SKIP = "skip"

_EXTENT = struct.Struct("<QIQQI")
#: How long one extent is in the column of this name: the fields of ExtentRow as little-endian integers.
EXTENT_BYTES = _EXTENT.size
_XATTR = struct.Struct("<HI")


class MapError(SplitMirrorError):
    """A map that cannot be made, read or used for this session."""

    code = "map_failed"


class FileEntry(NamedTuple):
    """One file as it was at the freeze.

    ``path`` is absolute on the database host. ``kind`` is f, d, l, c, b, p or s (file, folder, symbolic link,
    character device, block device, fifo, socket). ``dev`` is the device number on the database host, ``mode`` holds
    the permission bits (0o7777), ``size`` is in bytes, and 0 for all but regular files. ``mtime_ns`` is when the
    content changed, ``ctime_ns`` when anything of the inode did, by the clock of the database host; 0 if that is not
    known. ``xattrs`` is None or what pack_xattrs made. ``source`` says where the data come from: ``none`` (there are
    none), ``device`` (the extents; what has none reads as zeros), ``content`` (inline data, in ``content``), ``mount``
    (only readable through the mounted mirror, ``reason`` says why), ``skip`` (not in the archive).
    """

    path: bytes
    kind: str
    fs: int = 0
    inode: int = 0
    dev: int = 0
    nlink: int = 1
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    rdev_major: int = 0
    rdev_minor: int = 0
    target: Optional[bytes] = None
    xattrs: Optional[bytes] = None
    source: str = SOURCE_NONE
    content: Optional[bytes] = None
    reason: Optional[str] = None


_FOR_ARCHIVE = ("path", "kind", "nlink", "mode", "uid", "gid", "size", "mtime_ns", "xattrs", "source")
#: The fields _FOR_ARCHIVE of a FileEntry, in this order. The archive writer takes them of each file, and this is faster
#: than ten attributes.
archive_fields = itemgetter(*map(FileEntry._fields.index, _FOR_ARCHIVE))

_MTIME = FileEntry._fields.index("mtime_ns")
_CTIME = FileEntry._fields.index("ctime_ns")
_TIMES = slice(_MTIME, _CTIME + 1)
_TOO_LARGE = 1 << 63
_MOST_SHOWN = 200
_ALL_64_BITS = 1 << 64
_FIRST_NS = -(1 << 31) * 1_000_000_000


class ExtentRow(NamedTuple):
    """``length`` bytes of a file from ``logical`` on lie on LUN ``lun`` (its id) from ``physical`` on; all bytes."""

    logical: int
    lun: int
    physical: int
    length: int
    flags: int = 0


class Lun(NamedTuple):
    """One LUN of the mirror set; ``name`` is the name of its pair."""

    id: int
    name: str
    serial: Optional[str]
    wwn: Optional[str]
    size_bytes: int


class FileSystem(NamedTuple):
    """A mounted file system; ``root`` is the folder inside it that is mounted (``/`` unless it is a bind mount)."""

    id: int
    mount_point: bytes
    fs_type: str
    fs_uuid: str
    block_bytes: int
    dev: int
    lun: int
    lun_offset_bytes: int
    root: bytes


class SegmentRow(NamedTuple):
    """``length`` bytes from ``device_offset`` of a file system's device lie on a LUN (its id) from ``lun_offset``."""

    device_offset: int
    lun: int
    lun_offset: int
    length: int


class MapCounts(NamedTuple):
    """What a map holds: all entries, regular files among them, their sizes in bytes, extents, fallbacks."""

    entries: int
    files: int
    bytes: int
    extents: int
    fallback: int


class Measured(NamedTuple):
    """What an entry adds to the sums of MapFile.add_up.

    :param is_file: whether it counts as a file: a further name of a file does not.
    :param data_bytes: the length of its content. :param archive_bytes: what it takes in the archive.
    """

    is_file: bool
    data_bytes: int
    archive_bytes: int


Mapped = tuple[FileEntry, list[ExtentRow]]
#: The fields of a FileEntry, and those of its ExtentRows, as plain tuples: these pass between processes quickly.
EntryFields = tuple[Any, ...]
ExtentFields = tuple[int, int, int, int, int]
MappedFields = tuple[EntryFields, list[ExtentFields]]
#: A row of the table of files.
TableRow = tuple[Any, ...]


def sort_key(path: bytes) -> bytes:
    """The key whose byte order is the logical order: by path component, a folder before what is in it."""
    return path[1:].replace(b"/", b"\0")


def shown(path: bytes) -> str:
    """A path for people, on one line; what is in the midst of a very long one is left away."""
    text = path.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    half = _MOST_SHOWN // 2
    return text if len(text) <= _MOST_SHOWN else f"{text[:half]}...{text[-half:]}"


def stored_time(time_ns: int) -> int:
    """A time of a file as SQLite holds it, in 64 bits with a sign.

    ext4 has times up to the year 2446, XFS up to 2486, neither any before -2**31 s (1901): all fit into 64 bits, those
    after 2262 as negative numbers that no other time has.
    """
    return time_ns if time_ns < _TOO_LARGE else time_ns - _ALL_64_BITS


def time_of(stored: int) -> int:
    """The inverse of stored_time."""
    return stored if stored >= _FIRST_NS else stored + _ALL_64_BITS


def table_row(fields: Sequence[Any], extents: Sequence[Sequence[int]]) -> TableRow:
    """A file and its extents as a row of the table."""
    if fields[_MTIME] >= _TOO_LARGE or fields[_CTIME] >= _TOO_LARGE:
        fields = (*fields[:_MTIME], *map(stored_time, fields[_TIMES]), *fields[_CTIME + 1 :])
    if len(extents) == 1:
        packed: Optional[bytes] = _EXTENT.pack(*extents[0])
    else:
        packed = b"".join([_EXTENT.pack(*extent) for extent in extents]) or None
    return (sort_key(fields[0]), *fields[1:], packed)


def mapped_fields(row: TableRow) -> MappedFields:
    """The inverse of table_row."""
    if row[_MTIME] < _FIRST_NS or row[_CTIME] < _FIRST_NS:
        row = (*row[:_MTIME], *map(time_of, row[_TIMES]), *row[_CTIME + 1 :])
    packed = row[-1]
    extents = [] if packed is None else list(_EXTENT.iter_unpack(packed))
    return (b"/" + row[0].replace(b"\0", b"/"), *row[1:-1]), extents


def unpack_extent(packed: bytes) -> tuple[int, int, int, int, int]:
    """The fields of an ExtentRow, of a file that has one."""
    logical, lun, physical, length, flags = _EXTENT.unpack(packed)
    return logical, lun, physical, length, flags


def mapped_bytes(packed: Optional[bytes]) -> int:
    """How many bytes packed extents cover."""
    return sum([extent[3] for extent in _EXTENT.iter_unpack(packed or b"")])


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> Optional[bytes]:
    """Pack extended attributes into one blob, None when there are none; the order given does not matter."""
    if not xattrs:
        return None
    return b"".join(_XATTR.pack(len(name), len(xattrs[name])) + name + xattrs[name] for name in sorted(xattrs))


def unpack_xattrs(blob: Optional[bytes]) -> dict[bytes, bytes]:
    """The inverse of pack_xattrs. :raises MapError: when the blob is damaged."""
    found: dict[bytes, bytes] = {}
    place = 0
    blob = blob or b""
    while place < len(blob):
        try:
            name_length, value_length = _XATTR.unpack_from(blob, place)
        except struct.error as exc:
            raise MapError(
                "map: an extended attribute in it is cut short; the map is damaged, map again.", code="map_damaged"
            ) from exc
        value_at = place + _XATTR.size + name_length
        place = value_at + value_length
        if place > len(blob):
            raise MapError(
                "map: an extended attribute in it is cut short; the map is damaged, map again.", code="map_damaged"
            )
        found[blob[value_at - name_length : value_at]] = blob[value_at:place]
    return found
