# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An archive on tape: the sink that records go into, and the stream that reads them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional, Protocol

from ..host.status import StatusWriter
from ..tape.base import (
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    Position,
    TapeDrive,
    TapeError,
)
from .volumes import WritePosition


class PartFull(TapeError):
    """The volume takes no more records of this part."""

    code = "volume_full"


class DoesNotFit(PartFull):
    """Nothing of the part was written, because its first member does not fit. :ivar needed_bytes: what it needs."""

    def __init__(self, message: str, needed_bytes: int) -> None:
        super().__init__(message, option="volume")
        self.needed_bytes = needed_bytes


#: Codes of errors of the volume or of the drive.
_FAILED = ("drive_failed", "tape_damaged")


class VolumeFailed(TapeError):
    """The volume, or the drive, failed while it was written: another volume may do."""

    def of_the_drive(self, device: str, volume: str) -> TapeError:
        """The error to raise where the volume before this one has failed as well: it is the drive that is at fault."""
        return TapeError(
            f"drive: two volumes in a row cannot be written in {device} (the last is {volume}: "
            f"{self.message.rstrip('.')}); clean or replace the drive, then take them into use again with "
            "catalog_volume.",
            option="drive",
        )


class TapeRecordSink:
    """Writes the records of one archive as the tape file at ``place``, where the head is.

    :param status: how far the writing has come, in bytes.
    :ivar records: how many were written.
    """

    def __init__(self, drive: TapeDrive, place: WritePosition, status: Optional[StatusWriter] = None) -> None:
        self._drive = drive
        self._status = status
        self._place = place
        self.records = 0

    def write_record(self, record: memoryview) -> None:
        """Write one record. :raises PartFull: the volume is full. :raises VolumeFailed: it cannot be written."""
        if not self.records:
            self._drive.set_key(self._drive.key)
        try:
            self._drive.write_record(record)
        except (EarlyWarning, EndOfMedium) as exc:
            raise self._full() from exc
        except TapeError as exc:
            if exc.code in _FAILED:
                raise VolumeFailed(exc.message, option=exc.option, code=exc.code) from exc
            raise
        self.records += 1
        if self._status is not None:
            self._status.add(len(record))

    def finish(self) -> None:
        """Write the filemark and prove that it is on the medium, with exactly our records before it.

        If the drive encrypts, it must have done so from the first record on; then the key is taken out.

        :raises PartFull: the volume is full. :raises VolumeFailed: it is not. :raises TapeError: the key was lost.
        """
        try:
            self._finish()
        except (EarlyWarning, EndOfMedium) as exc:
            raise self._full() from exc
        except TapeError as exc:
            if exc.code in _FAILED:
                raise VolumeFailed(exc.message, option=exc.option, code=exc.code) from exc
            raise
        self._drive.prove_key()
        self._drive.set_key(None)

    def _full(self) -> PartFull:
        return PartFull(
            f"volume: {self._place.label.volume} is full after {self.records} records of this session; name a volume "
            "with more room, or let the session go on over the volumes of a pool (splitmirror_pool).",
            option="volume",
        )

    def _finish(self) -> None:
        drive = self._drive
        drive.write_filemarks(1)
        expected = self._place.block + self.records + 1
        block = drive.tell_block()
        if block is None:
            # The drive does not report its position, so the filemark is read, and then the end of data.
            drive.space_files(-1)
            try:
                proved = not drive.pass_record()
                drive.pass_record()
                proved = False
            except EndOfData:
                pass
        else:
            proved = block == expected
        if not proved:
            raise TapeError(
                f"volume: the filemark behind tape file {self._place.file_number} of {self._place.label.volume} is not "
                f"where it must be (the drive is at block {block}, not at {expected}), so the session is not on the "
                "volume; try "
                "another drive or another volume.",
                option="volume",
                code="tape_damaged",
            )


class TapeFile(Protocol):
    """The bytes of a tape file, wherever they come from.

    :ivar file_number: the tape file.
    :ivar short_end: as for TapeStream.
    """

    file_number: int
    short_end: bool

    @property
    def records_read(self) -> int:
        """How many records were read from the tape."""

    def approach(self, offset_bytes: int) -> None:
        """Move to the record of a byte without reading it, unless it is in memory. :raises TapeError: that fails."""

    def seek(self, offset_bytes: int) -> None:
        """Go to a byte of the tape file. :raises TapeError: that fails."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, less only at a record's end; ``b""`` at the filemark. :raises TapeError: that fails."""

    def skip_to_filemark(self) -> int:
        """Read what is left and return how many records there are. :raises TapeError: that fails."""

    def archive_bytes(self) -> int:
        """How long the tape file is, after skip_to_filemark."""


#: Gets each record that is read from a tape, with its number in the tape file.
Taken = Callable[[int, bytes], None]


class TapeStream:
    """The bytes of one tape file, from any place in it on, up to its filemark.

    :param file_number: the tape file.
    :param block: where it begins as the drive counts, None if not known.
    :param record_bytes: length of every record in it.
    :param status: how far the reading has come, in bytes.
    :param short_end: the last record, or the last two, may be shorter, as in an encrypted part (crypt/sealing.py,
        tail_of).
    :param taken: see Taken.
    """

    def __init__(
        self,
        drive: TapeDrive,
        file_number: int,
        block: Optional[int],
        record_bytes: int,
        status: Optional[StatusWriter] = None,
        *,
        short_end: bool = False,
        taken: Optional[Taken] = None,
    ) -> None:
        self._drive = drive
        self._taken = taken
        self._status = status
        self.file_number = file_number
        self.short_end = short_end
        self._block = block
        self._record_bytes = record_bytes
        self._record = b""
        self._used = 0
        self._next = -1  # number of the record under the head; -1 before the first seek
        self._end = 0  # where the record under the head begins, as a byte of the tape file
        self._ended = False  # the filemark was met
        self._read = 0

    @property
    def records_read(self) -> int:
        """See TapeFile."""
        return self._read

    def seek(self, offset_bytes: int) -> None:
        """Go to a byte of the tape file; a record that is in memory is not read again."""
        begin = self._end - len(self._record)
        if self._record and begin <= offset_bytes < self._end:
            self._used = offset_bytes - begin
            return
        number = offset_bytes // self._record_bytes
        stands = self._next >= 0 and not self._ended and self._end <= offset_bytes
        if not stands or number != self._end // self._record_bytes:
            block = None if self._block is None else self._block + number
            self._drive.locate(Position(self.file_number, number), block)
            self._next, self._end = number, number * self._record_bytes
            self._ended = False
        self._record, self._used = b"", 0
        if self._end < offset_bytes:
            # A second time for the last of two short records.
            while self._end <= offset_bytes and self._fill():
                pass
            self._used = offset_bytes - self._end + len(self._record)

    def approach(self, offset_bytes: int) -> None:
        """Move to the record of a byte without reading it, unless it is in memory."""
        self.seek(offset_bytes - offset_bytes % self._record_bytes)

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes, less only at a record's end; ``b""`` at the filemark.

        :raises TapeError: a record is bad, or the data end without a filemark.
        """
        if self._next < 0:
            self.seek(0)
        if self._used >= len(self._record) and not self._fill():
            return b""
        data = self._record[self._used : self._used + size]
        self._used += len(data)
        return data

    def skip_to_filemark(self) -> int:
        """Read what is left and return how many records the tape file has."""
        if self._next < 0:
            self.seek(0)
        while self._fill():
            pass
        return self._next

    def archive_bytes(self) -> int:
        """How long the tape file is, after skip_to_filemark."""
        return self._end

    def _fill(self) -> bool:
        if self._ended:
            return False
        try:
            self._record = self._drive.read_record(self._record_bytes)
        except EndOfData as exc:
            raise TapeError(
                f"volume: the data end in tape file {self.file_number} without a filemark, so its writer was "
                "interrupted; "
                "read another session.",
                option="volume",
                code="tape_damaged",
            ) from exc
        self._used = 0
        if not self._record:
            self._ended = True
            return False
        if not self._may_follow(len(self._record)):
            raise TapeError(
                f"volume: record {self._next} of tape file {self.file_number} has {len(self._record)} bytes instead of "
                f"{self._record_bytes}, so it is damaged; try another drive or another session.",
                option="volume",
                code="tape_damaged",
            )
        if self._taken is not None:
            self._taken(self._next, self._record)
        self._end += len(self._record)
        self._next += 1
        self._read += 1
        if self._status is not None:
            self._status.add(len(self._record))
        return True

    def _may_follow(self, length: int) -> bool:
        """Whether a record of this length may stand where the head was."""
        half, before = self._record_bytes // 2, self._end % self._record_bytes
        if self.short_end and length <= half:
            return not before or (before == half and length < half)
        return length == self._record_bytes and not before
