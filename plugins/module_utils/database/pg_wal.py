# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of PostgreSQL's WAL files, and which of them a backup needs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .base import DatabaseError

# PostgreSQL manual, "Making a Base Backup Using the Low Level API": the label's first line names the WAL file.
_START = re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)$", re.MULTILINE)


@dataclass(frozen=True)
class WalRange:
    """From where to where the WAL of a backup goes.

    :param timeline: number of the timeline. :param start_lsn: bytes. :param stop_lsn: bytes.
    :param segment_bytes: size of a WAL file.
    """

    timeline: int
    start_lsn: int
    stop_lsn: int
    segment_bytes: int

    def names(self) -> list[str]:
        """Names of the WAL files that hold the range, in order."""
        first = self.start_lsn // self.segment_bytes
        # A stop at the very beginning of a file lies in the file before it: the record ends there.
        last = max(first, (self.stop_lsn - 1) // self.segment_bytes)
        return [wal_name(self.timeline, number, self.segment_bytes) for number in range(first, last + 1)]


def parse_lsn(text: str) -> int:
    """Bytes of a position such as ``0/2000028``."""
    high, _slash, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def wal_name(timeline: int, number: int, segment_bytes: int) -> str:
    """Name of a WAL file (XLogFileName in xlog_internal.h). :param number: which one, counted from LSN 0."""
    per_id = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def wal_range(label: bytes, stop_lsn: str, segment_bytes: int) -> WalRange:
    """The range of a backup from its label file and the position that the end returned.

    :raises DatabaseError: the label cannot be read.
    """
    found = _START.search(label)
    if found is None:
        raise DatabaseError(
            "databases: the label file that the server returned does not name a WAL position; is it PostgreSQL?",
            code="option_invalid",
        )
    return WalRange(int(found.group(2)[:8], 16), parse_lsn(found.group(1).decode()), parse_lsn(stop_lsn), segment_bytes)


def needed_files(where: str, folder: str, wanted: WalRange) -> list[str]:
    """Paths of the WAL files of the range, and of the timeline's history where there is one.

    :param folder: the real pg_wal.
    :raises DatabaseError: one of them is gone.
    """
    paths = [os.path.join(folder, name) for name in wanted.names()]
    for path in paths:
        if not os.path.exists(path):
            raise DatabaseError(
                f"{where}: the WAL file {path} that the backup needs is gone already; give the login role REPLICATION "
                "and a free replication slot (max_replication_slots), or raise wal_keep_size."
            )
    history = os.path.join(folder, f"{wanted.timeline:08X}.history")
    if wanted.timeline > 1 and os.path.exists(history):
        paths.append(history)
    return paths
