# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index of a part, the last member of its archive: JSON lines, so that a lost catalog is rebuilt from the tape.

The first line is an object about session and part; each further line is one member, in the order of the archive.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Optional

from ..host.strict_json import parse_json
from .model import ArchiveError, MemberRecord

FORMAT_VERSION = 2
#: Of version 0.1: no digests of headers, and checksums of sparse files with their holes read as zeros.
FORMAT_WITHOUT_HEADERS = 1


_INDEX_NAME = re.compile(rb"\.splitmirror/[^/]+/index(-[0-9]+)?\.jsonl")


def index_name(session: str, part: int = 0) -> bytes:
    """Name of the index in the archive of a part of a session. :param part: its number, from 0."""
    return f".splitmirror/{session}/index{f'-{part + 1}' if part else ''}.jsonl".encode()


def looks_like_index(name: bytes) -> bool:
    """Whether a member may be the index of a part, by its name."""
    return _INDEX_NAME.fullmatch(name) is not None


_OWN_FOLDER = b".splitmirror/"
_REMOVED_NAME = re.compile(rb"\.splitmirror/[^/]+/removed")


def removed_name(session: str) -> bytes:
    """Name of the member of an incremental session that lists what its bases have and the host has not any more: names
    of members, each followed by a zero byte, what is in a folder before the folder.
    """
    return _OWN_FOLDER + f"{session}/removed".encode()


def looks_like_removed(name: bytes) -> bool:
    """Whether a member may be such a list, by its name."""
    return _REMOVED_NAME.fullmatch(name) is not None


def is_own(name: bytes) -> bool:
    """Whether a member is none of the host's: the index, or the list of what was removed."""
    return name.startswith(_OWN_FOLDER)


def head_line(meta: Mapping[str, Any], fill_bytes: int = 0) -> bytes:
    """The first line of an index. :param fill_bytes: so many spaces stand at its end."""
    return json.dumps({"format_version": FORMAT_VERSION, **meta}, sort_keys=True).encode() + b" " * fill_bytes + b"\n"


def member_line(member: MemberRecord, base_bytes: int = 0) -> bytes:
    """The line of one member. A name that is not UTF-8 is ``path_b64``, a link target ``linkname_b64``.

    :param base_bytes: from where on offsets count in the index.
    """
    path, kind, size, offset, header, sha256, mtime, mode, uid, gid, linkname, digest = member
    return (
        b'{%b,"kind":"%b","size":%d,"offset_bytes":%d,"header_bytes":%d,%b"mtime_ns":%d,"mode":%d,"uid":%d,"gid":%d%b%b}\n'
        % (
            _text(b"path", path),
            kind.encode(),
            size,
            offset - base_bytes,
            header,
            b"" if sha256 is None else b'"sha256":"%b",' % sha256.encode(),
            mtime,
            mode,
            uid,
            gid,
            b"" if linkname is None else b"," + _text(b"linkname", linkname),
            b"" if digest is None else b',"header_digest":"%b"' % digest.hex().encode(),
        )
    )


def read_head(line: bytes) -> dict[str, Any]:
    """The inverse of head_line. :raises ArchiveError: it is not a first line, or it has another format."""
    head = _parse(line)
    version = head.get("format_version")
    if isinstance(version, bool) or version not in (FORMAT_VERSION, FORMAT_WITHOUT_HEADERS):
        raise ArchiveError(
            f"the index has format {head.get('format_version')}, this version reads {FORMAT_VERSION} and older; "
            "use the version of the collection that wrote it.",
            code="tape_damaged",
        )
    return head


def read_member(line: bytes) -> MemberRecord:
    """The inverse of member_line. :raises ArchiveError: it is not the line of a member."""
    data = _parse(line)
    try:
        path = _bytes(data, "path")
        if path is None:
            raise KeyError("path")
        return MemberRecord(
            path,
            str(data["kind"]),
            int(data["size"]),
            int(data["offset_bytes"]),
            int(data["header_bytes"]),
            data.get("sha256"),
            int(data["mtime_ns"]),
            int(data["mode"]),
            int(data["uid"]),
            int(data["gid"]),
            _bytes(data, "linkname"),
            bytes.fromhex(data["header_digest"]) if "header_digest" in data else None,
        )
    except (KeyError, OverflowError, TypeError, ValueError) as exc:
        raise ArchiveError(
            "a line of the index is damaged; the archive itself may still be read with tar.", code="tape_damaged"
        ) from exc


def _parse(line: bytes) -> dict[str, Any]:
    try:
        data = parse_json(line)
    except ValueError as exc:
        raise ArchiveError(
            "a line of the index is damaged; the archive itself may still be read with tar.", code="tape_damaged"
        ) from exc
    if not isinstance(data, dict):
        raise ArchiveError(
            "a line of the index is damaged; the archive itself may still be read with tar.", code="tape_damaged"
        )
    return data


def _text(key: bytes, value: bytes) -> bytes:
    try:
        return b'"%b":%b' % (key, encode_basestring_ascii(value.decode()).encode())
    except UnicodeDecodeError:
        return b'"%b_b64":"%b"' % (key, base64.b64encode(value))


def _bytes(data: Mapping[str, Any], key: str) -> Optional[bytes]:
    if key in data:
        return str(data[key]).encode()
    if key + "_b64" in data:
        return base64.b64decode(data[key + "_b64"])
    return None
