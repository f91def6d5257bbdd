# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers, read back before they are laid out: a mistake in making them ends the archive instead of spoiling it.

A header that is one byte too long shifts everything behind it, and nothing reads such an archive. So each header is
taken apart by code of its own and compared with what it was made for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import adler32

from .model import BLOCK_BYTES, ArchiveError
from .tar_headers import parse_records, parse_time, show

# name, mode, uid, gid, size, mtime, checksum, typeflag, linkname, magic, uname, gname, devmajor, devminor, prefix
_BLOCK = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
# In a header of three blocks: the record of the time, then name, size, mtime and checksum of the ustar header.
_PLAIN = struct.Struct("512x9s10sc9sc482x100s24x11sc11sc6s")
PLAIN_BYTES = 3 * BLOCK_BYTES
_NS = 1_000_000_000
_SPACES = 7 * 32
_ASCII_NUL = b"\0"
# What a header's own fields say; all other records are extra.
_FIELDS = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"uname", b"gname", b"mtime", b"hdrcharset"))


class Meant(NamedTuple):
    """What a header is made for; see HeaderMaker.header."""

    name: bytes
    typeflag: bytes
    ownership: tuple[int, int, int]
    size: int
    mtime_ns: int
    linkname: bytes
    uname: bytes
    gname: bytes
    rdev: tuple[int, int]
    extra: Sequence[tuple[bytes, bytes]]


def is_plain(header: bytes, name: bytes, size: int, mtime_ns: int) -> bool:
    """Whether a header of three blocks says this of a file; what depends on its owner alone is not looked at.

    It costs a tenth of prove(), for files by the hundred thousand.
    """
    if len(header) != PLAIN_BYTES:
        return False
    mark, seconds, dot, fraction, end, field, octal, nul, time, nul_too, checksum = _PLAIN.unpack_from(header)
    return (
        field.rstrip(_ASCII_NUL) == name
        and int(octal, 8) == size
        and seconds + fraction == b"%d" % mtime_ns
        and int(time, 8) == int(seconds)
        and mark + dot + end + nul + nul_too == b"30 mtime=.\n\0\0"
        # adler32 begins at 1; the checksum counts its own field as eight spaces, and one of them stands there
        and (adler32(header[2 * BLOCK_BYTES :]) & 0xFFFF) - 1 == int(checksum, 8) + sum(checksum) - _SPACES
    )


def prove(header: bytes, meant: Meant) -> None:
    """:raises ArchiveError: the header does not say what it was made for."""
    try:
        wrong = _wrong(header, meant)
    except (ArchiveError, ValueError, struct.error):
        wrong = "form"
    if wrong:
        raise ArchiveError(
            f"{show(meant.name)}: its tar header does not read back as it was written (wrong: {wrong}). Exclude the "
            "file "
            "and report this bug; the archive is not complete."
        )


def _wrong(header: bytes, meant: Meant) -> str:
    """What is wrong with a header, in a word; empty when nothing is. :raises ValueError: a number in it is none."""
    records: dict[bytes, bytes] = {}
    place = 0
    if header[156:157] == b"x":
        length = _octal(header[124:136])
        if not _adds_up(header[:BLOCK_BYTES]):
            return "checksum"
        pairs = parse_records(header[BLOCK_BYTES : BLOCK_BYTES + length])
        records = dict(pairs)
        if len(records) != len(pairs):
            return "records"
        place = BLOCK_BYTES + length + -length % BLOCK_BYTES
    block = header[place:]
    if len(block) != BLOCK_BYTES:
        return "length"
    name, mode, uid, gid, size, mtime, _dummy, typeflag, link, magic, uname, gname, major, minor, prefix = (
        _BLOCK.unpack(block)
    )
    name, link, prefix = name.rstrip(_ASCII_NUL), link.rstrip(_ASCII_NUL), prefix.rstrip(_ASCII_NUL)
    if prefix:
        name = prefix + b"/" + name
    found = Meant(
        records.get(b"GNU.sparse.name") or records.get(b"path") or name,
        typeflag,
        (_octal(mode), _number(records, b"uid", uid), _number(records, b"gid", gid)),
        _number(records, b"size", size),
        parse_time(records[b"mtime"]) if b"mtime" in records else _octal(mtime) * _NS,
        records.get(b"linkpath") or link,
        records[b"uname"] if b"uname" in records else uname.rstrip(_ASCII_NUL),
        records[b"gname"] if b"gname" in records else gname.rstrip(_ASCII_NUL),
        (_octal(major), _octal(minor)),
        [pair for pair in records.items() if pair[0] not in _FIELDS],
    )
    _octal(mtime)
    if found != meant:
        return next(field for field, one, two in zip(Meant._fields, found, meant) if one != two)
    if magic != b"ustar\x0000":
        return "magic"
    return "" if _adds_up(block) else "checksum"


def _octal(field: bytes) -> int:
    """A number of a header: octal digits that fill the field up to a NUL. :raises ValueError: it is none."""
    digits = field[:-1]
    if not digits.isdigit() or field[-1]:
        raise ValueError("no octal number")
    return int(digits, 8)


def _number(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    """A number in a record or in the header's own field. The field must be well-formed in any case."""
    told = _octal(field)
    return int(records[key]) if key in records else told


def _adds_up(block: bytes) -> bool:
    """Whether a header's checksum is that of its bytes, its own field counted as spaces."""
    field = block[148:156]
    total = (adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    return field[6:] == b"\0 " and int(field[:6], 8) == total - sum(field) + 8 * 32
