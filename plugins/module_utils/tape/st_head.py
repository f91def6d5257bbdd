# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the head of a drive stands behind the kernel's st driver, and how it is moved.

Facts are from linux/mtio.h, st(4), Documentation/scsi/st.rst and the SCSI stream commands (SSC).

A drive either *tells* its position (READ POSITION works, and so does LOCATE). Then its logical blocks are used, and
nothing else that it or its driver reports. Or it does not tell. Then it is moved by spacing forward from a known
position, and our own count is its position. Errors that such drives were seen to make:

- Spacing back over filemarks stops one record early; going back one record from behind a filemark is right everywhere.
- Spacing over records passes filemarks and counts them, so records are passed by reading where it matters.
- Reading at the end of data succeeds with whatever was in the buffer; only the driver's flags show it.
- Behind the end of data the file number is invented.
"""

from __future__ import annotations

import errno
from typing import Optional

from .base import EndOfData, FilemarkHit, Position, TapeDrive, TapeError
from .mtio import (
    MAX_COUNT,
    MTBSR,
    MTFSF,
    MTFSR,
    MTREW,
    MTSEEK,
    MtStatus,
    operate,
    read_block,
    read_status,
    route,
)

#: A record is passed by a read that is too short for it; no adapter refuses so little.
PASSING_BYTES = 512


class StHead(TapeDrive):
    """The head of a drive: its position, and the operations that move it.

    :param drive: the device.
    """

    def __init__(self, drive: str) -> None:
        self.device = drive
        # Where the head stands. A known file with an unknown record is the end of that file.
        self._file: Optional[int] = None
        self._record: Optional[int] = None
        self._tells: Optional[bool] = None
        self._warned = False
        self._met_end = False
        self._fd = -1

    def rewind(self) -> None:
        self._operate("cannot rewind", MTREW)
        self._arrive(0, 0)

    def space_files(self, count: int) -> None:
        file = self._file
        if count > 0:
            try:
                self._operate("cannot space over filemarks", MTFSF, count, ends=True)
            except EndOfData:
                # the end it is, but behind how many filemarks
                self.space_end_of_data()
                raise
            self._arrive(None if file is None else file + count, 0)
        elif count < 0:
            self._to_end_of_file(self._known_file() + count)

    def space_records(self, count: int) -> None:
        if count < 0:
            self._back_over_records(-count)
        elif self._tells and count:
            self._forward_over_records(count)
        else:
            for _dummy in range(count):
                if not self.pass_record():
                    raise self._filemark_hit()

    def space_end_of_data(self) -> None:
        # MTEOM would do it in one step, but would not report behind how many filemarks.
        file = self._file
        if file is None:
            self.rewind()
            file = 0
        while True:
            try:
                self._operate("cannot go to the end of data", MTFSF, 1, ends=True)
            except EndOfData:
                break
            file += 1
        self._arrive(file, None)
        self._met_end = True

    def position(self) -> Optional[Position]:
        return None if self._file is None or self._record is None else Position(self._file, self._record)

    def tell_block(self) -> Optional[int]:
        if self._tells is False:
            return None
        block = self._told()
        if block is None and self._tells:
            raise TapeError(f"drive: {self.device} no longer reports its position.", option="drive")
        self._tells = block is not None
        return block

    def locate(self, target: Position, block: Optional[int] = None) -> None:
        if block is not None and block <= MAX_COUNT and self.tell_block() is not None:
            self._seek(block)
            self._arrive(*target)
            return
        start = None if self._met_end else self.position()
        if start is None and self._file is not None and target.file > self._file:
            start = Position(self._file, 0)  # from wherever in that file, the filemarks ahead are the same
        for operation, count in route(start, target):
            if operation == MTREW:
                self.rewind()
            elif operation == MTFSF:
                self.space_files(count)
            else:
                self._forward_over_records(count)

    def _forward_over_records(self, count: int) -> None:
        file, record = self._file, self._record
        try:
            self._operate("cannot space over records", MTFSR, count, ends=True)
        except EndOfData:
            raise
        except TapeError as exc:
            if self._get().behind_filemark:
                self._arrive(None if file is None else file + 1, 0)
                raise self._filemark_hit() from exc
            raise
        self._arrive(file, None if record is None else record + count)

    def _back_over_records(self, count: int) -> None:
        file = self._known_file()
        if self._record is None:
            self._count_records(file)
        record = self._record or 0
        if count <= record:
            self._operate("cannot space back over records", MTBSR, count)
            self._arrive(file, record - count)
            return
        self._to_end_of_file(file - 1)
        raise self._filemark_hit()

    def _count_records(self, file: int) -> None:
        """Stand at the end of a file and know how many records it has."""
        self.locate(Position(file, 0))
        records = 0
        try:
            while self.pass_record():
                records += 1
        except EndOfData:
            pass
        else:
            self._to_end_of_file(file)
        self._record = records

    def _to_end_of_file(self, file: int) -> None:
        """Stand before the filemark that ends a file."""
        if file < 0:
            self.rewind()
            raise TapeError("drive: the beginning of the volume was met while spacing backward.", option="drive")
        if self.position() != Position(file + 1, 0):
            self.locate(Position(file + 1, 0))
        block = self.tell_block()
        if block is not None:
            self._seek(block - 1)
        else:
            self._back_over_filemark()
            if self.read_record(PASSING_BYTES) != b"":
                self._lose()
                raise TapeError(f"drive: {self.device} cannot go back over a filemark.", option="drive")
            self._back_over_filemark()
        self._arrive(file, None)

    def _back_over_filemark(self) -> None:
        try:
            self._operate("cannot space back over a filemark", MTBSR, 1)
        except TapeError as exc:
            # A filemark in the way is told as an error, and the head then stands before it (SSC: SPACE).
            if not isinstance(exc.__cause__, OSError) or exc.__cause__.errno != errno.EIO:
                raise

    def _seek(self, block: int) -> None:
        self._operate("cannot locate", MTSEEK, block, ends=True)
        told = self.tell_block()
        if told != block:
            self._lose()
            raise TapeError(f"drive: {self.device} was sent to block {block} and is at block {told}.", option="drive")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _get(self) -> MtStatus:
        try:
            return read_status(self._fd)
        except OSError as exc:
            raise self._failed("does not report its status", exc) from exc

    def _told(self) -> Optional[int]:
        try:
            return read_block(self._fd)
        except OSError as exc:
            raise self._failed("cannot report its position", exc) from exc

    def _operate(self, what: str, operation: int, count: int = 1, *, ends: bool = False) -> None:
        """One MTIOCTOP. :param ends: the end of data may stand in the way."""
        try:
            operate(self._fd, operation, count)
        except OSError as exc:
            flags = self._get()
            self._lose()
            if ends and exc.errno == errno.EIO and (flags.at_end or self._nothing_follows(flags)):
                raise self._end_of_data() from exc
            raise self._failed(what, exc) from exc

    def _nothing_follows(self, flags: MtStatus) -> bool:
        """Read to see it, for a drive that does not say why it could not space."""
        if flags.behind_filemark:
            return False
        try:
            self.pass_record()
        except EndOfData:
            return True
        except TapeError:
            pass
        finally:
            self._lose()
        return False

    def _known_file(self) -> int:
        if self._file is None:
            raise TapeError(f"drive: the position of {self.device} is not known; rewind it first.", option="drive")
        return self._file

    def _arrive(self, file: Optional[int], record: Optional[int]) -> None:
        self._file = file
        self._record = record if file is not None else None
        self._warned = self._met_end = False

    def _lose(self) -> None:
        self._arrive(None, None)

    def _pass(self, records: int) -> None:
        if self._record is not None:
            self._record += records

    def _forget_end(self) -> None:
        """Move, so that the driver forgets that a read met the end: it would refuse every other write from there on."""
        block = self.tell_block()
        if block is not None:
            file, record = self._file, self._record
            self._seek(block)
            self._arrive(file, record)
            return
        if self._record is None:
            self._count_records(self._known_file())
        file, record = self._known_file(), self._record or 0
        self.rewind()
        self.space_files(file)
        self.space_records(record)

    def _end_of_data(self) -> EndOfData:
        self._met_end = True
        return EndOfData("volume: there is nothing more on it.", option="volume")

    def _filemark_hit(self) -> FilemarkHit:
        return FilemarkHit("drive: a filemark was met while spacing over records.", option="drive")

    def _failed(self, what: str, exc: OSError) -> TapeError:
        return TapeError(f"drive: {self.device} {what} ({exc.strerror}).", option="drive")
