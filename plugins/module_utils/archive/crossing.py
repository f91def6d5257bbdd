# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A member that crosses from one tape file into the next, in the form that ``tar --multi-volume`` reads.

A tape file that goes on with a member begins with a *lead*: a global extended header with the records GNU.volume.* (GNU
tar, "Archives longer than one tape"; its buffer.c), and a header for the rest, for a tar that does not join volumes. A
record ``comment``, which no tar looks at, holds the first line of the part's index, spaces until the lead is whole
records, and a checksum of the lead. So the data behind it stand at the same places of records as if there were no lead.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from ..extents.maprows import FileEntry
from .index import head_line, read_head
from .members import MemberPlan, stored_bytes
from .model import BLOCK_BYTES, ArchiveError
from .pax import EXTENDED, REGULAR, HeaderMaker, pad, record, ustar_block
from .tar_headers import check_sum, parse_decimal, parse_number, parse_records
from .tar_reader import ByteStream

GLOBAL = b"g"
COMMENT = b"comment"
_NAME, _SIZE, _OFFSET = b"GNU.volume.filename", b"GNU.volume.size", b"GNU.volume.offset"
_GLOBAL_NAME = b"GlobalHead/splitmirror"
_PARTS_FOLDER = b"GNUFileParts/"
_NAME_BYTES = 80
# Stands in the place of the checksum while that is taken.
_NO_DIGEST = b"sha256:" + b"-" * 57
#: The lead holds the evidence of a session and the names of its volumes, and fills a record of at most 16 MiB.
_LEAD_MOST = 64 << 20


class Crossing(NamedTuple):
    """A member that may cross.

    :param begin: offset of its data in the archive. :param stored: length of the data.
    :param entry: what it is in the map.
    """

    entry: FileEntry
    plan: MemberPlan
    begin: int
    stored: int

    def data_in(self, block: memoryview, offset: int) -> memoryview:
        """What of the data is in a stretch of the archive. :param offset: where that begins."""
        return block[max(self.begin - offset, 0) : max(self.left_at(offset), 0)]

    def left_at(self, offset: int) -> int:
        """How much of the data stands behind an offset in the archive; 0 or less when nothing does."""
        return self.begin + self.stored - offset


class Continued(NamedTuple):
    """What a lead says.

    :param name: of the member. :param left: length of the rest of its data.
    :param offset: how much of it stands before, counted in the content, holes included, as GNU tar does.
    :param head: the first line of the index of the part. :param lead_bytes: length of the lead.
    """

    name: bytes
    left: int
    offset: int
    head: dict[str, Any]
    lead_bytes: int


def crossing(entry: FileEntry, plan: MemberPlan, offset: int) -> Crossing:
    """A member that is laid out at an offset of the archive."""
    return Crossing(entry, plan, offset + len(plan.header), stored_bytes(plan))


def comment_of(head: dict[str, Any]) -> bytes:
    """The comment of the first member of a part, which says what part this is. :param head: the line of the index."""
    return head_line(head).rstrip(b"\n")


def lead_of(member: Crossing, left: int, head: dict[str, Any], headers: HeaderMaker, record_bytes: int) -> bytes:
    """The lead of a part that goes on with a member.

    :param left: length of the rest of its data. :param head: first line of the index of the part.
    """
    entry, plan = member.entry, member.plan
    name = _PARTS_FOLDER + plan.name.rsplit(b"/", 1)[-1][-_NAME_BYTES:] + b".%d" % (int(head["part"]) + 1)
    ownership = (entry.mode & 0o7777, entry.uid, entry.gid)
    rest = headers.header(name, REGULAR, ownership, left, entry.mtime_ns)
    told = b"".join(
        record(key, value)
        for key, value in ((_NAME, plan.name), (_SIZE, b"%d" % left), (_OFFSET, b"%d" % (plan.size - left)))
    )
    comment = comment_of(head)
    # Room for the record's own length and key, and a block where the rest of the last one goes.
    least = BLOCK_BYTES + len(told) + len(comment) + len(_NO_DIGEST) + 32 + len(rest)
    total = least + -least % record_bytes
    body_most = total - len(rest) - BLOCK_BYTES
    comment += b" " * (body_most - len(told) - len(comment) - len(_NO_DIGEST) - 32) + _NO_DIGEST
    body = told + record(COMMENT, comment)
    lead = ustar_block(_GLOBAL_NAME, GLOBAL, len(body)) + body + bytes(pad(len(body))) + rest
    if len(lead) != total:
        raise ArchiveError(f"the headers for the rest of a member have {len(lead)} bytes instead of {total}.")
    return lead.replace(_NO_DIGEST, _digest(lead), 1)


def _digest(lead: bytes) -> bytes:
    return hashlib.sha256(lead).hexdigest().encode()


def read_lead(block: bytes, stream: ByteStream, record_bytes: int) -> Continued:
    """Read a lead. :param block: its first block, which was read already.

    :raises ArchiveError: it is not a lead of ours.
    """
    check_sum(block, 0)
    length = parse_number(block[124:136])
    if not 0 < length <= _LEAD_MOST:
        raise _damaged()
    body = _exactly(stream, length + pad(length))
    pairs = parse_records(body[:length])
    told = dict(pairs)
    if sorted(told) != sorted((_NAME, _SIZE, _OFFSET, COMMENT)) or len(pairs) != len(told):
        raise _damaged()
    left, offset = (parse_decimal(told[key], key) for key in (_SIZE, _OFFSET))
    lead_bytes = BLOCK_BYTES + length + pad(length)
    size, rest = _rest(stream, lead_bytes)
    lead_bytes += len(rest)
    comment, digest = told[COMMENT][: -len(_NO_DIGEST)], told[COMMENT][-len(_NO_DIGEST) :]
    lead = (block + body + rest).replace(digest, _NO_DIGEST, 1)
    if size != left or lead_bytes % record_bytes or _digest(lead) != digest:
        raise _damaged()
    return Continued(told[_NAME], left, offset, read_head(comment), lead_bytes)


def _rest(stream: ByteStream, offset: int) -> tuple[int, bytes]:
    """The size in the header of the rest, and this header. :param offset: where it begins."""
    header = block = _exactly(stream, BLOCK_BYTES)
    check_sum(block, offset)
    records: dict[bytes, bytes] = {}
    if block[156:157] == EXTENDED:
        body_bytes = parse_number(block[124:136])
        if not 0 < body_bytes <= BLOCK_BYTES:
            raise _damaged()
        body = _exactly(stream, BLOCK_BYTES)
        records = dict(parse_records(body[:body_bytes]))
        block = _exactly(stream, BLOCK_BYTES)
        header += body + block
        check_sum(block, offset + 2 * BLOCK_BYTES)
    if block[156:157] != REGULAR:
        raise _damaged()
    size = parse_decimal(records[b"size"], b"size") if b"size" in records else parse_number(block[124:136])
    return size, header


def _exactly(stream: ByteStream, length: int) -> bytes:
    pieces = []
    while length:
        piece = stream.read(length)
        if not piece:
            raise _damaged()
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _damaged() -> ArchiveError:
    return ArchiveError("the headers with which a member goes on are damaged; try another drive.", code="tape_damaged")
