# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual tape that fails where a test wants it to."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    Buffer,
    EarlyWarning,
    EndOfMedium,
    Position,
    TapeError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    :param write_error_at: this record (counted from 0 since the drive was opened) cannot be written.
    :param torn_last_record: half of the last record before each filemark never reaches the medium, unnoticed.
    :param full_at: the medium ends before this record (counted likewise), whatever was reported.
    :param full_at_filemark: it ends before this filemark (counted likewise).
    :param lost_filemark: this filemark (counted from 0 since the drive was opened) never reaches the medium, unnoticed.
    """

    write_error_at: Optional[int] = None
    torn_last_record: bool = False
    lost_filemark: Optional[int] = None
    full_at: Optional[int] = None
    full_at_filemark: Optional[int] = None


class FaultyTape(VirtualTape):
    """A virtual tape with faults.

    :param faults: what goes wrong.
    :param tells: False makes it a drive that refuses READ POSITION and LOCATE, as some real ones do.
    """

    def __init__(
        self, drive: str, *, writable: bool = False, faults: Optional[Faults] = None, tells: bool = True
    ) -> None:
        super().__init__(drive, writable=writable)
        self._faults = faults or Faults()
        self._tells = tells
        self._records_tried = 0
        self._filemarks_tried = 0

    @property
    def tried(self) -> tuple[int, int]:
        """How many records and filemarks were tried since the drive was opened."""
        return self._records_tried, self._filemarks_tried

    def tell_block(self) -> Optional[int]:
        block = super().tell_block()
        return block if self._tells else None

    def locate(self, target: Position, block: Optional[int] = None) -> None:
        super().locate(target, block if self._tells else None)

    def write_record(self, record: Buffer) -> None:
        if self._records_tried == self._faults.write_error_at:
            self._records_tried += 1
            self._cut_here()
            raise TapeError(f"drive: a record cannot be written ({os.strerror(errno.EIO)}).", option="drive")
        if self._records_tried == self._faults.full_at:
            self._records_tried += 1
            self._loaded().capacity_bytes = self._bytes_before()
            raise EarlyWarning(f"volume: {self._volume} is nearly full.", option="volume")
        super().write_record(record)
        self._records_tried += 1

    def write_filemarks(self, count: int) -> None:
        if not count:
            super().write_filemarks(0)
        for _dummy in range(count):
            number = self._filemarks_tried
            self._filemarks_tried += 1
            if number == self._faults.full_at_filemark:
                self._loaded().capacity_bytes = self._bytes_before()
                raise EndOfMedium(f"volume: {self._volume} is full.", option="volume")
            if number == self._faults.lost_filemark:
                self._cut_here()
                super().write_filemarks(0)
                self._needs_filemark = False
            else:
                file = self._file
                super().write_filemarks(1)
                if self._faults.torn_last_record:
                    self._tear(file)

    def _tear(self, number: int) -> None:
        medium = self._loaded()
        written = medium.files[number]
        if written.runs:
            os.truncate(medium.data_path(number), written.size_bytes() - written.runs[-1][0] // 2)
