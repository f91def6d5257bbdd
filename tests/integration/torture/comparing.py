# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare an archive member by member with the mounted mirror, by readers that share no code with the writer."""

from __future__ import annotations

import decimal
import hashlib
import os
import stat
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

_CHUNK = 1 << 20
_ACL_TAGS = {1: "user::", 2: "user:{}:", 4: "group::", 8: "group:{}:", 0x10: "mask::", 0x20: "other::"}
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class Compared(NamedTuple):
    """What was compared: members, bytes of their contents, and a sentence for each difference."""

    members: int
    size_bytes: int
    differences: list[str]


def compare_archive(archive: Path, mount: Path, source: Path, folder: str = "data") -> Compared:
    """Compare everything in an archive with a folder of the mounted mirror, names, attributes and bytes.

    :param mount: where the mirror is mounted; ``source`` is where its primary is on the database host.
    """
    base = os.fsencode(mount)
    prefix = os.fsencode(source)[1:]
    expected = set(_paths(base, os.fsencode(folder)))
    differences: list[str] = []
    links: dict[bytes, int] = {}
    members = size = 0
    with tarfile.open(archive, errorlevel=2, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
            name = os.fsencode(member.name)
            if name.startswith(b".splitmirror/"):
                continue
            below = name[len(prefix) :].lstrip(b"/")
            if not name.startswith(prefix) or below not in expected:
                differences.append(f"{name!r} is in the archive and not on the mirror, or twice in the archive")
                continue
            expected.remove(below)
            path = os.path.join(base, below)
            members += 1
            seen = os.lstat(path)
            what = _hard_link(member, prefix, seen, links) if member.islnk() else _attributes(member, path, seen)
            if not member.islnk():
                links[below] = seen.st_ino
                if member.isreg():
                    size += seen.st_size
                    stream = tar.extractfile(member)
                    assert stream is not None
                    what = what or _content(stream, path, seen.st_size)  # type: ignore[arg-type]
            if what:
                differences.append(f"{name!r}: {what}")
    differences += [f"{path!r} is on the mirror and not in the archive" for path in sorted(expected)]
    return Compared(members, size, differences)


def _paths(base: bytes, below: bytes) -> Iterator[bytes]:
    """All paths in a folder, itself included, that a tar can hold."""
    yield below
    with os.scandir(os.path.join(base, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(base, path)
            elif not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                yield path


def _hard_link(member: tarfile.TarInfo, prefix: bytes, seen: os.stat_result, links: dict[bytes, int]) -> Optional[str]:
    target = os.fsencode(member.linkname)[len(prefix) :].lstrip(b"/")
    if links.get(target) != seen.st_ino:
        return f"is a hard link to {target!r}, which is another file or comes later"
    return None


def _attributes(member: tarfile.TarInfo, path: bytes, seen: os.stat_result) -> Optional[str]:
    """The first attribute that differs."""
    kind = stat.S_IFMT(seen.st_mode)
    pairs: list[tuple[str, object, object]] = [
        ("kind", _TYPES.get(member.type), kind),
        ("mode", member.mode, stat.S_IMODE(seen.st_mode)),
        ("owner", (member.uid, member.gid), (seen.st_uid, seen.st_gid)),
        ("time", _mtime_ns(member), seen.st_mtime_ns),
        ("size", member.size, seen.st_size if kind == stat.S_IFREG else 0),
        ("extended attributes", _told_xattrs(member), _xattrs(path)),
    ]
    if kind == stat.S_IFLNK:
        pairs.append(("target", os.fsencode(member.linkname), os.readlink(path)))
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        device = os.makedev(member.devmajor, member.devminor)
        pairs.append(("device", device, seen.st_rdev))
    for name, told, found in pairs:
        if told != found:
            return f"{name} is {told!r} in the archive and {found!r} on the mirror"
    return None


def _mtime_ns(member: tarfile.TarInfo) -> int:
    text = member.pax_headers.get("mtime")
    return int(decimal.Decimal(text) * 1_000_000_000) if text else int(member.mtime) * 1_000_000_000


def _told_xattrs(member: tarfile.TarInfo) -> dict[str, bytes]:
    """Extended attributes and ACLs of a member, by the keywords they have in the archive."""
    found = {}
    for key, value in member.pax_headers.items():
        if key.startswith(("SCHILY.xattr.", "SCHILY.acl.")):
            found[key] = value.encode("utf-8", "surrogateescape")
    return found


def _xattrs(path: bytes) -> dict[str, bytes]:
    """The same from the mirror."""
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith("trusted.SGI_ACL_"):
            continue  # how XFS keeps what is listed as system.posix_acl_ too
        value = os.getxattr(path, name, follow_symlinks=False)
        if name.startswith("system.posix_acl_"):
            found["SCHILY.acl." + name.removeprefix("system.posix_acl_")] = _acl_text(value)
        else:
            found["SCHILY.xattr." + name.replace("=", "%3D")] = value
    return found


def _acl_text(value: bytes) -> bytes:
    words = []
    for tag, bits, number in struct.iter_unpack("<HHI", value[4:]):
        permissions = "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        words.append(_ACL_TAGS[tag].format(number) + permissions)
    return ",".join(words).encode()


def _content(stream: BinaryIO, path: bytes, size: int) -> Optional[str]:
    place = 0
    with open(path, "rb", buffering=0) as file:
        while place < size:
            length = min(_CHUNK, size - place)
            told, found = stream.read(length), file.read(length)
            if told != found:
                at = next((i for i, pair in enumerate(zip(told, found)) if pair[0] != pair[1]), len(told))
                digests = [hashlib.sha256(part).hexdigest()[:12] for part in (told, found)]
                return f"byte {place + at} of {size} differs ({digests[0]} in the archive, {digests[1]} on the mirror)"
            place += length
    return None
