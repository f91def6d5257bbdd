# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare what arrived in a folder with the catalog, whatever the program that wrote it says of itself."""

from __future__ import annotations

import os
import stat
from typing import Optional

from ..archive.model import MemberRecord

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}


class NotThere(Exception):
    """A member is not in the folder; the message is the reason."""


def what_differs(folder: bytes, member: MemberRecord, *, numeric_owner: bool) -> Optional[str]:
    """What is different in a member that was restored to a folder; None for nothing.

    :param numeric_owner: the owner has the numbers of the catalog, too.
    :raises NotThere: it is missing.
    """
    try:
        found = os.lstat(os.path.join(folder, member.path))
        if member.kind == "h":
            other = os.lstat(os.path.join(folder, member.linkname or b""))
            return None if os.path.samestat(found, other) else "it is not a hard link to its file"
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind == "l" and member.kind == "l":
            target = os.readlink(os.path.join(folder, member.path))
            return None if target == member.linkname else "it is a link to something else"
    except OSError as exc:
        raise NotThere(exc.strerror or "it is not there") from exc
    if kind != member.kind:
        raise NotThere("something else stands in its place")
    if kind == "f" and found.st_size != member.size:
        return f"it has {found.st_size} bytes instead of {member.size}"
    owner = (found.st_uid, found.st_gid) if numeric_owner else (member.uid, member.gid)
    wrong = [
        what
        for what, one, two in (
            ("owner", owner, (member.uid, member.gid)),
            ("mode", stat.S_IMODE(found.st_mode), member.mode),
            ("time of change", found.st_mtime_ns, member.mtime_ns),
        )
        if one != two
    ]
    return f"its {' and '.join(wrong)} could not be set" if wrong else None
