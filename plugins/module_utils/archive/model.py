# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes into the archive pipeline and what comes out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Callable, NamedTuple, Optional, Protocol

from ..errors import SplitMirrorError
from ..extents.maprows import FileEntry

#: A tar archive is a row of blocks of this size.
BLOCK_BYTES = 512
#: Enough of a sha256 to tell headers apart, also those that somebody made up; there is one for each member.
HEADER_DIGEST_BYTES = 16


class ArchiveError(SplitMirrorError):
    """An archive that cannot be written, or that cannot be read as one."""

    code = "archive_failed"


class MemberRecord(NamedTuple):
    """One member as it stands in the archive.

    :param path: its name: the path on the database host without the leading slash.
    :param kind: f, d, l, c, b, p as in the map, or h for a hard link to a member before it.
    :param size: logical size in bytes of a file's content; 0 for everything else.
    :param offset_bytes: where its first header (the pax header, if it has one) begins in the archive.
    :param header_bytes: length of all its headers; the map of a sparse file and the data follow them.
    :param sha256: hex digest of what stands behind the headers of a file, without the zeros that fill the last block:
        its content, or the map and the data of a sparse one. None for everything else. In sessions of version 0.1 it
        is that of the content with holes read as zeros.
    :param linkname: target of a symbolic link as it is, or the name of the member that a hard link points to.
    :param header_digest: of all headers, see header_digest(); None in sessions of version 0.1.
    """

    path: bytes
    kind: str
    size: int
    offset_bytes: int
    header_bytes: int
    sha256: Optional[str]
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    linkname: Optional[bytes]
    header_digest: Optional[bytes] = None


def header_digest(header: bytes) -> bytes:
    """The first 16 bytes of the sha256 of all header blocks of a member."""
    return hashlib.sha256(header).digest()[:HEADER_DIGEST_BYTES]


class RecordSink(Protocol):
    """Where the archive goes, record by record."""

    def write_record(self, record: memoryview, /) -> None:
        """Take one record, exactly ``record_bytes`` long; the memory is reused after the return.

        It is called from a thread of the pipeline, one call at a time, in order. What it raises ends the
        archive and comes out of write_archive unchanged.
        """


#: Gets every member, in order, in the thread that called write_archive, when its checksum is known.
MemberSink = Callable[[MemberRecord], None]
#: (dev, inode) of a file with several names -> its first name in the archive, and how many names have not come yet.
Links = dict[tuple[int, int], tuple[bytes, int]]
#: Opens a file that cannot be read by its extents, through the mirror mounted read-only.
Fallback = Callable[[FileEntry], BinaryIO]


@dataclass(frozen=True)
class Owners:
    """Names of the database host's users and groups by their numbers; a number without a name is fine."""

    users: Mapping[int, str] = field(default_factory=dict)
    groups: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WriterOptions:
    """How the pipeline works.

    :param record_bytes: size of a record; a multiple of 512.
    :param queue_depth: reads of the mirror that are under way at once.
    :param buffer_bytes: memory for data in flight; in it, reads go in physical order. More of it makes scattered
        layouts faster.
    :param gap_bytes: neighbouring extents are read in one go when at most this much lies between them: bandwidth
        divided by operations a second of the mirror (32 KiB on flash, about 1 MiB on a hard disk).
    :param streams: the sink wants its records at full speed or not at all: when the buffer has run empty, it gets
        nothing until the buffer has filled up to its high water mark, which is half of it.
    """

    record_bytes: int = 1 << 20
    queue_depth: int = 64
    buffer_bytes: int = 256 << 20
    gap_bytes: int = 32 << 10
    streams: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work. :raises ArchiveError: an option is out of its range."""
        if self.record_bytes < BLOCK_BYTES or self.record_bytes % BLOCK_BYTES:
            raise ArchiveError(
                f"record_bytes: {self.record_bytes} is not a multiple of {BLOCK_BYTES}; give 1048576, or the most that "
                "the drive takes.",
                option="record_bytes",
                code="option_invalid",
            )
        if self.buffer_bytes < 4 * self.record_bytes:
            raise ArchiveError(
                f"buffer_bytes: {self.buffer_bytes} is less than four records of {self.record_bytes} bytes; give more.",
                option="buffer_bytes",
                code="option_invalid",
            )
        if not 1 <= self.queue_depth <= 256:
            raise ArchiveError(
                f"queue_depth: {self.queue_depth} is out of range; give 1 to 256.",
                option="queue_depth",
                code="option_invalid",
            )
        if self.gap_bytes < 0:
            raise ArchiveError(
                f"gap_bytes: {self.gap_bytes} is below 0; give 0 or more.", option="gap_bytes", code="option_invalid"
            )


@dataclass(frozen=True)
class ArchiveResult:
    """What was written.

    :param members: all members, the index included.
    :param files: regular files among them that came from the map.
    :param bytes_data: their logical sizes added up.
    :param bytes_archive: length of the archive, a multiple of the record size.
    :param records: how many records that is.
    :param fallback: files that were read through the mount.
    :param inline: files whose content came out of the map.
    :param skipped: entries of the map that a tar cannot hold (sockets).
    :param stops: how often a sink that streams had to wait for the buffer to fill up again; None for any other sink.
    :param writing_s: seconds in which the sink got records, without those in which it waited.
    """

    members: int
    files: int
    bytes_data: int
    bytes_archive: int
    records: int
    fallback: int
    inline: int
    skipped: int
    stops: Optional[int]
    writing_s: float
