# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""POSIX ACLs: from the extended attribute of Linux to the text that tar archives hold."""

from __future__ import annotations

import struct

from .model import ArchiveError

#: Extended attributes that carry ACLs, and the records that carry them in an archive (star, GNU tar, libarchive).
ACL_KEYS = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
#: How XFS keeps ACLs; root sees them beside the attributes above, and they mean nothing on another file system.
ACL_COPIES = frozenset((b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"))

# include/uapi/linux/posix_acl_xattr.h and posix_acl.h
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_TAGS = {
    0x01: b"user::%b",
    0x02: b"user:%d:%b",
    0x04: b"group::%b",
    0x08: b"group:%d:%b",
    0x10: b"mask::%b",
    0x20: b"other::%b",
}
_NAMED = (0x02, 0x08)
_PERMISSIONS = [b"%c%c%c" % (b"-r"[bits >> 2], b"-w"[bits >> 1 & 1], b"-x"[bits & 1]) for bits in range(8)]


def acl_text(value: bytes) -> bytes:
    """Turn the value of a posix_acl attribute into text such as ``user::rw-,user:1000:r--,group::r--,…``.

    Users and groups stand there by number: a name that the restoring host does not know would lose the whole ACL.

    :raises ArchiveError: when the value is none that Linux makes.
    """
    if len(value) < _HEADER.size or _HEADER.unpack_from(value)[0] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise ArchiveError("an ACL has a form that Linux does not make; map the file again.", code="map_damaged")
    words = []
    for tag, bits, number in _ENTRY.iter_unpack(value[_HEADER.size :]):
        if tag not in _TAGS or bits > 7:
            raise ArchiveError(
                "an ACL has an entry of a kind that Linux does not make; map the file again.", code="map_damaged"
            )
        permissions = _PERMISSIONS[bits]
        words.append(_TAGS[tag] % ((number, permissions) if tag in _NAMED else (permissions,)))
    return b",".join(words)
