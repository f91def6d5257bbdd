# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers of POSIX pax archives: pax(1) of POSIX.1-2018, "pax Interchange Format" and "ustar Interchange Format".

Both GNU tar and bsdtar (libarchive) must restore every member byte for byte, so where the standard leaves a choice, the
form is taken that both read, whatever the locale:

- a name that fits into the ustar header stands there as raw bytes, UTF-8 or not, without a record;
- a longer name goes into a ``path`` record, with ``hdrcharset=BINARY`` when it is not UTF-8 (GNU tar says that it does
  not know that keyword, and does right);
- extended attributes are ``SCHILY.xattr.*`` records, the names escaped as GNU tar does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import adler32

from .header_proof import Meant, is_plain, prove
from .model import BLOCK_BYTES, Owners

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK = b"4"
FOLDER = b"5"
FIFO = b"6"
EXTENDED = b"x"

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_OWNER_BYTES = 31
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_NS = 1_000_000_000
_ZEROS = bytes(BLOCK_BYTES)
_CHECKSUM_SPACES = b" " * 8
_MISREAD_PERCENT = re.compile(rb"%(?=25|3D)")
# The fast path writes a time as one record of this length: ten digits of seconds, nine of nanoseconds. Of these, the
# ustar header behind it holds those up to March 2242.
_TIME_RECORD_BYTES = 30
_QUICK_SECONDS = range(10**9, _OCTAL_11 + 1)
_PAX_NAME = b"PaxHeaders/splitmirror"

Record = tuple[bytes, bytes]
#: Mode (twelve bits), uid and gid.
Ownership = tuple[int, int, int]


def pad(length: int) -> int:
    """How many zeros follow ``length`` bytes to fill the last block."""
    return -length % BLOCK_BYTES


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header: its length in decimal, a space, key=value and a newline.

    The length counts itself, so it may grow by a digit when it is written down.
    """
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def time_value(mtime_ns: int) -> bytes:
    """A time as pax writes it: decimal seconds, negative ones as minus sign and absolute value."""
    seconds, fraction = divmod(abs(mtime_ns), _NS)
    sign = b"-" if mtime_ns < 0 else b""
    if not fraction:
        return b"%b%d" % (sign, seconds)
    return b"%b%d.%09d" % (sign, seconds, fraction)


def xattr_key(name: bytes) -> bytes:
    """The keyword of an extended attribute; ``=`` would end it, so it is escaped the way GNU tar does.

    GNU tar decodes ``%3D`` and ``%25`` and leaves every other percent sign alone, libarchive decodes neither;
    so a percent sign is escaped only where GNU tar would misread it.
    """
    return b"SCHILY.xattr." + _MISREAD_PERCENT.sub(b"%25", name).replace(b"=", b"%3D")


def byte_sum(block: bytes) -> int:
    """Sum of the bytes of a header.

    adler32 adds the bytes up modulo 65521 in its low half, ten times as fast as sum(); a header of ASCII stays below.
    """
    if block.isascii():
        return (adler32(block) & 0xFFFF) - 1
    return sum(block)


def ustar_block(
    name: bytes,
    typeflag: bytes,
    size: int = 0,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime_s: int = 0,
    linkname: bytes = b"",
    uname: bytes = b"",
    gname: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    """One ustar header. Every value must fit its field; what does not belongs into an extended header."""
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(_NAME_BYTES, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime_s,
    )
    tail = b"%b%bustar\00000%b%b%07o\0%07o\0%b" % (
        typeflag,
        linkname.ljust(_NAME_BYTES, b"\0"),
        uname.ljust(_OWNER_BYTES + 1, b"\0"),
        gname.ljust(_OWNER_BYTES + 1, b"\0"),
        rdev[0],
        rdev[1],
        prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
    )
    return b"%b%06o\0 %b" % (head, byte_sum(head + _CHECKSUM_SPACES + tail), tail)


def extended_header(records: bytes) -> bytes:
    """The member that carries records for the member behind it."""
    return ustar_block(_PAX_NAME, EXTENDED, len(records)) + records + _ZEROS[: pad(len(records))]


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Split a name for the prefix and name fields of ustar; (b"", b"") when it does not fit."""
    if len(name) <= _NAME_BYTES:
        return b"", name
    place = name.find(b"/", len(name) - _NAME_BYTES - 1, -1)
    if 0 < place <= _PREFIX_BYTES:
        return name[:place], name[place + 1 :]
    return b"", b""


class HeaderMaker:
    """Makes the headers of members, quickly for the plain case. :param owners: names of users and groups."""

    def __init__(self, owners: Owners) -> None:
        self._users = {uid: name.encode("utf-8", "surrogateescape") for uid, name in owners.users.items()}
        self._groups = {gid: name.encode("utf-8", "surrogateescape") for gid, name in owners.groups.items()}
        self._plain: dict[Ownership, tuple[int, bytes, bytes]] = {}
        self._time_header = ustar_block(_PAX_NAME, EXTENDED, _TIME_RECORD_BYTES)
        self._time_fill = _ZEROS[_TIME_RECORD_BYTES:]
        self._name_fill = [_ZEROS[: _NAME_BYTES - length] for length in range(_NAME_BYTES + 1)]

    def file_header(self, name: bytes, ownership: Ownership, size: int, mtime_ns: int) -> bytes:
        """All header blocks of a regular file without extended attributes.

        :raises ArchiveError: as header() does.
        """
        seconds, fraction = divmod(mtime_ns, _NS)
        if len(name) > _NAME_BYTES or not name.isascii() or size > _OCTAL_11 or seconds not in _QUICK_SECONDS:
            return self.header(name, REGULAR, ownership, size, mtime_ns)
        first = False
        try:
            base, owner, tail = self._plain[ownership]
        except KeyError:
            first = True
            _dummy, uid, gid = ownership
            if uid > _OCTAL_7 or gid > _OCTAL_7 or not (self._fits(uid, self._users) and self._fits(gid, self._groups)):
                return self.header(name, REGULAR, ownership, size, mtime_ns)
            base, owner, tail = self._plain[ownership] = self._plain_parts(ownership)
        numbers = b"%011o\0%011o\0" % (size, seconds)
        made = b"%b30 mtime=%d.%09d\n%b%b%b%b%b%06o%b" % (
            self._time_header,
            seconds,
            fraction,
            self._time_fill,
            name,
            self._name_fill[len(name)],
            owner,
            numbers,
            base + (adler32(name) & 0xFFFF) + (adler32(numbers) & 0xFFFF),
            tail,
        )
        if first or not is_plain(made, name, size, mtime_ns):
            _dummy, uid, gid = ownership
            uname, gname = self._users.get(uid, b""), self._groups.get(gid, b"")
            prove(made, Meant(name, REGULAR, ownership, size, mtime_ns, b"", uname, gname, (0, 0), []))
        return made

    def header(
        self,
        name: bytes,
        typeflag: bytes,
        ownership: Ownership,
        size: int,
        mtime_ns: int,
        *,
        linkname: bytes = b"",
        rdev: tuple[int, int] = (0, 0),
        extra: Sequence[Record] = (),
        header_name: bytes = b"",
    ) -> bytes:
        """All header blocks of any member: an extended header if anything needs it, and the ustar header.

        :param size: bytes that follow the header in the archive.
        :param extra: further records (extended attributes, ACLs, GNU.sparse).
        :param header_name: stands in the ustar header in place of the name, which then must be in ``extra``.
        :raises ArchiveError: a value cannot be stored in a header in a form that readers understand.
        """
        _dummy, uid, gid = ownership
        uname, gname = self._users.get(uid, b""), self._groups.get(gid, b"")
        meant = Meant(name, typeflag, ownership, size, mtime_ns, linkname, uname, gname, rdev, list(extra))
        made = self._make(meant, header_name)
        prove(made, meant)
        return made

    def _make(self, meant: Meant, header_name: bytes) -> bytes:
        name, typeflag, ownership, size, mtime_ns, linkname, uname, gname, rdev, extra = meant
        records: list[Record] = []
        mode, uid, gid = ownership
        seconds, fraction = divmod(mtime_ns, _NS)
        if fraction or not 0 <= seconds <= _OCTAL_11:
            records.append((b"mtime", time_value(mtime_ns)))
        prefix, short = split_name(header_name or name)
        if not short:
            records.append((b"path", name))
            short = name[:_NAME_BYTES]
        if len(linkname) > _NAME_BYTES:
            records.append((b"linkpath", linkname))
        if size > _OCTAL_11:
            records.append((b"size", b"%d" % size))
        if uid > _OCTAL_7:
            records.append((b"uid", b"%d" % uid))
        if gid > _OCTAL_7:
            records.append((b"gid", b"%d" % gid))
        if not self._fits(uid, self._users):
            records.append((b"uname", uname))
            uname = b""
        if not self._fits(gid, self._groups):
            records.append((b"gname", gname))
            gname = b""
        records.extend(extra)
        block = ustar_block(
            short,
            typeflag,
            size if size <= _OCTAL_11 else 0,
            mode=mode,
            uid=uid if uid <= _OCTAL_7 else 0,
            gid=gid if gid <= _OCTAL_7 else 0,
            mtime_s=seconds if 0 <= seconds <= _OCTAL_11 else 0,
            linkname=linkname[:_NAME_BYTES],
            uname=uname,
            gname=gname,
            rdev=rdev,
            prefix=prefix,
        )
        if not records:
            return block
        if any(key in _NAME_KEYS and not _is_utf8(value) for key, value in records):
            records.insert(0, (b"hdrcharset", b"BINARY"))
        return extended_header(b"".join(record(key, value) for key, value in records)) + block

    def _plain_parts(self, ownership: Ownership) -> tuple[int, bytes, bytes]:
        """What the headers of all plain files of one mode and owner share, and what it adds to the checksum."""
        mode, uid, gid = ownership
        uname, gname = self._users.get(uid, b""), self._groups.get(gid, b"")
        block = ustar_block(b"", REGULAR, mode=mode, uid=uid, gid=gid, uname=uname, gname=gname)
        owner, tail = block[100:124], block[154:]
        # Less 2: each of the two adler32 that are added to it starts at 1. The checksum field counts as spaces.
        return sum(owner) + sum(tail[2:]) + sum(_CHECKSUM_SPACES) - 2, owner, tail

    @staticmethod
    def _fits(number: int, names: dict[int, bytes]) -> bool:
        """Whether the name of an owner can stand in the ustar header."""
        name = names.get(number, b"")
        return len(name) <= _OWNER_BYTES and name.isascii()


_NAME_KEYS = frozenset((b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
