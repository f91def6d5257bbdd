# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking tar headers apart: ustar and pax (POSIX.1-2018), and the older forms of GNU tar."""

from __future__ import annotations

from typing import NamedTuple, Optional

from .model import BLOCK_BYTES, ArchiveError

_NS = 1_000_000_000
# More than any number has that means something, and int() may refuse to convert some thousands.
_MOST_DIGITS = 100

# typeflag -> kind as in MemberRecord; all others are "?".
_KINDS = {
    b"0": "f",
    b"\0": "f",
    b"7": "f",
    b"S": "f",
    b"1": "h",
    b"2": "l",
    b"3": "c",
    b"4": "b",
    b"5": "d",
    b"6": "p",
}
_WITHOUT_DATA = "hlcbdp"


class Header(NamedTuple):
    """The attributes of a member, records of extended headers applied."""

    name: bytes
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    uname: bytes
    gname: bytes
    mtime_ns: int
    linkname: bytes
    rdev: tuple[int, int]
    real_size: int
    pax: dict[bytes, bytes]


def parse_header(
    block: bytes, records: dict[bytes, bytes], long_name: Optional[bytes], long_link: Optional[bytes]
) -> Header:
    """Take a header block apart.

    :param records: of the extended headers in front of it; they go before what the block says.
    :param long_name: from a GNU long name header (typeflag L), None without one.
    :param long_link: likewise (typeflag K).
    :raises ArchiveError: a number in it is damaged.
    """
    name = _text(block[0:100])
    prefix = _text(block[345:500])
    if block[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or long_name or name
    kind = _KINDS.get(block[156:157], "?")
    if kind == "f" and name.endswith(b"/"):  # before POSIX a folder was a file whose name ends in a slash
        kind = "d"
    size = _pax_number(records, b"size", block[124:136])
    if kind in _WITHOUT_DATA:
        size = 0
    real_size = size
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in records:
            real_size = parse_decimal(records[key], key)
    if block[156:157] == b"S":
        real_size = parse_number(block[483:495])
    if size < 0 or real_size < 0:
        raise ArchiveError("a size in a tar header is damaged.", code="tape_damaged")
    return Header(
        name=name.rstrip(b"/") or name[:1],
        kind=kind,
        size=size,
        mode=parse_number(block[100:108]) & 0o7777,
        uid=_pax_number(records, b"uid", block[108:116]),
        gid=_pax_number(records, b"gid", block[116:124]),
        uname=records.get(b"uname", _text(block[265:297])),
        gname=records.get(b"gname", _text(block[297:329])),
        mtime_ns=parse_time(records[b"mtime"]) if b"mtime" in records else parse_number(block[136:148]) * _NS,
        linkname=records.get(b"linkpath") or long_link or _text(block[157:257]),
        rdev=(parse_number(block[329:337]), parse_number(block[337:345])),
        real_size=real_size,
        pax=records,
    )


def parse_records(body: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in order. :raises ArchiveError: it is damaged."""
    found = []
    place = 0
    while place < len(body) and body[place] != 0:
        space = body.find(b" ", place, place + 20)
        length = parse_decimal(body[place:space], b"an extended header") if space >= 0 else 0
        text = body[space + 1 : place + length]
        key, equals, value = text.partition(b"=")
        if not 0 <= space - place < length <= len(body) - place or not equals or not value.endswith(b"\n"):
            raise ArchiveError("a record of an extended header is damaged.", code="tape_damaged")
        found.append((key, value[:-1]))
        place += length
    return found


def parse_old_pieces(data: bytes) -> list[tuple[int, int]]:
    """Offset and length of each piece in a map of an old GNU sparse file: 24 bytes each, empty ones unused."""
    pieces = []
    for place in range(0, len(data), 24):
        if data[place + 12]:
            pieces.append((parse_number(data[place : place + 12]), parse_number(data[place + 12 : place + 24])))
    return pieces


def check_sum(block: bytes, offset: int) -> None:
    """Compare the checksum of a header. :raises ArchiveError: the block at ``offset`` is not a header.

    The block is shorter than a header where the data end.
    """
    try:
        stated = parse_number(block[148:156]) if len(block) == BLOCK_BYTES else -1
    except ArchiveError:
        stated = -1
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if stated != total:
        signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # some old tars counted so
        if stated != signed:
            raise ArchiveError(
                f"there is no tar header at byte {offset} of the archive; it is damaged, or it is not a tar archive.",
                code="tape_damaged",
            )


def parse_number(data: bytes) -> int:
    """A number of a header: octal, or base-256 (GNU) when the first bit is set.

    :raises ArchiveError: it is neither.
    """
    if data[0] & 0x80:
        value = int.from_bytes(data, "big")
        sign = 1 << (8 * len(data) - 1)
        return value - 2 * sign if data[0] & 0x40 else value - sign
    text = data.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if text.translate(None, b"01234567"):  # int() would take signs and underscores, too
        raise ArchiveError("a number in a tar header is damaged.", code="tape_damaged")
    return int(text, 8)


def parse_decimal(data: bytes, where: bytes) -> int:
    """A number in decimal digits. :raises ArchiveError: it is none; ``where`` names the place in the message."""
    if not data.isdigit() or len(data) > _MOST_DIGITS:
        raise ArchiveError(f"{show(where)}: a number in it is damaged.", code="tape_damaged")
    return int(data)


def parse_time(value: bytes) -> int:
    """Nanoseconds of a time in decimal; digits beyond the ninth are dropped. :raises ArchiveError: it is none."""
    sign = -1 if value.startswith(b"-") else 1
    seconds, _dummy, fraction = value.lstrip(b"-").partition(b".")
    return sign * (parse_decimal(seconds or b"0", b"mtime") * _NS + parse_decimal((fraction + b"0" * 9)[:9], b"mtime"))


def _pax_number(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    return parse_decimal(records[key], key) if key in records else parse_number(field)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def show(name: bytes) -> str:
    """A name as messages show it; bytes that are not UTF-8 become backslash escapes."""
    return name.decode("utf-8", "backslashreplace")
