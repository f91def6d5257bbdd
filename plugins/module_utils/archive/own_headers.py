# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers as this collection writes them, and no others.

Readers of tar archives agree about these forms only. About others they may not, so that one of them takes for a header
what is the content of a file for the other: GNU tar applies global headers to all members behind them, reads numbers
in base 64, and skips as many bytes behind a folder as its header says.
"""

from __future__ import annotations

import re

from .model import BLOCK_BYTES
from .pax import EXTENDED, pad
from .tar_headers import parse_records
from .tar_reader import Member

_OCTAL = re.compile(rb"[0-7]{11}\0")
_SIZE = slice(124, 136)
_TYPEFLAG = slice(156, 157)
_MAGIC = slice(257, 265)
_KEYS = frozenset(
    b"path linkpath size uid gid uname gname mtime hdrcharset comment GNU.sparse.major GNU.sparse.minor "
    b"GNU.sparse.name GNU.sparse.realsize SCHILY.acl.access SCHILY.acl.default".split()
)
_XATTR = b"SCHILY.xattr."


def has_own_headers(member: Member) -> bool:
    """Whether this collection could have written the headers of a member."""
    head = member.header
    own = 0
    keys: list[bytes] = []
    if head[_TYPEFLAG] == EXTENDED and _OCTAL.fullmatch(head[_SIZE]):
        length = int(head[_SIZE][:-1], 8)
        own = BLOCK_BYTES + length + pad(length)
        keys = [key for key, _value in parse_records(head[BLOCK_BYTES : BLOCK_BYTES + length])]
    block = head[own:]
    return (
        len(block) == BLOCK_BYTES
        and block[_TYPEFLAG] in (b"0", b"1", b"2", b"3", b"4", b"5", b"6")
        and block[_MAGIC] == b"ustar\x0000"
        and _OCTAL.fullmatch(block[_SIZE]) is not None
        and (member.kind == "f" or (not int(block[_SIZE][:-1], 8) and b"size" not in keys))
        and len(keys) == len(set(keys))
        and all(key in _KEYS or key.startswith(_XATTR) for key in keys)
    )
