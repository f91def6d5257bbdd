# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real drive behind the kernel's st driver, ``/dev/nst*``, alone or in a library.

Facts are from linux/mtio.h, st(4), Documentation/scsi/st.rst and the SCSI stream commands (SSC).

Nothing that a drive or its driver says about its place is believed without need. A drive either *tells* (READ POSITION
works, and so does LOCATE): then its logical blocks are the truth. Or it does not: then it is moved by spacing forward
from a known place, and where it stands is known by our own count. What such drives were seen to do wrong:

- Spacing back over filemarks stops one record early; going back one record from behind a filemark is right everywhere.
- Spacing over records passes filemarks and counts them, so records are passed by reading where it matters.
- Reading at the end of data succeeds with whatever was in the buffer; only the driver's flags tell.
- Behind the end of data the file number is invented.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Optional

from .base import (
    Buffer,
    DriveBusy,
    DriveStatus,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    FilemarkHit,
    Position,
    TapeDrive,
    TapeError,
)
from .library import Bay
from .mtio import (
    MAJOR,
    MAX_COUNT,
    MT_ST_CLEARBOOLEANS,
    MT_ST_OFF,
    MT_ST_SCSI2LOGICAL,
    MT_ST_SETBOOLEANS,
    MTBSR,
    MTFSF,
    MTFSR,
    MTLOAD,
    MTOFFL,
    MTREW,
    MTSEEK,
    MTSETBLK,
    MTSETDRVBUFFER,
    MTWEOF,
    NO_REWIND,
    MtStatus,
    operate,
    read_block,
    read_status,
    route,
)

#: A record is passed by a read that is too short for it; no adapter refuses so little.
_PASSING_BYTES = 512
#: A new LTO-9 cartridge is calibrated for up to two hours when it is first loaded.
_READY_S = 3 * 3600


class StTape(TapeDrive):
    """A drive of the st driver.

    :param drive: the non-rewinding device, such as ``/dev/nst0`` or a link to it below ``/dev/tape/by-id``.
    :param bay: its place in a library; None for a drive into which people put volumes.
    """

    name = "st"

    def __init__(self, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> None:
        self.device = drive
        self._bay = bay
        # without O_NONBLOCK an empty drive could not even be asked to load (st.rst)
        self._flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        self._volume: Optional[str] = None
        # Where the head stands. A known file with an unknown record is the end of that file.
        self._file: Optional[int] = None
        self._record: Optional[int] = None
        self._tells: Optional[bool] = None
        self._warned = False
        self._met_end = False
        self._fd = -1
        self._open()

    # -- the drive ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._fd < 0:
            return
        handle, self._fd = self._fd, -1
        try:
            os.close(handle)
        except OSError as exc:
            raise self._failed("could not write what it had buffered", exc) from exc

    def status(self) -> DriveStatus:
        return DriveStatus(self._volume, self._get().write_protected, None, None)

    def volumes(self) -> Optional[list[str]]:
        return None if self._bay is None else self._bay.volumes()

    def fetch(self, volume: str) -> None:
        self._lose()
        self._volume = None
        if self._bay is not None:
            self._bay.load(volume, self._eject)
            self._volume = volume

    def load(self, volume: str) -> None:
        self.fetch(volume)
        self._wait_until_ready()
        self.rewind()
        # one write is one record of any length, and positions are logical blocks
        self._operate("takes no records of variable length", MTSETBLK, 0)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_SETBOOLEANS | MT_ST_SCSI2LOGICAL)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_CLEARBOOLEANS | MT_ST_OFF)
        self._tells = self._told() == 0

    def unload(self) -> None:
        self._lose()
        self._volume = None
        if self._bay is None:
            self._operate("cannot unload the volume", MTOFFL)
        else:
            self._bay.unload(self._eject)

    def rewind(self) -> None:
        self._operate("cannot rewind", MTREW)
        self._arrive(0, 0)

    # -- reading and writing -----------------------------------------------------------------------------------

    def read_record(self, max_bytes: int) -> bytes:
        try:
            data = os.read(self._fd, max_bytes)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:
                self._pass(1)
                raise TapeError(
                    f"drive: a record has more than the {max_bytes} bytes asked for; ask for the record size of the "
                    "label.",
                    option="drive",
                ) from exc
            if exc.errno == errno.EIO and self._get().at_end:
                raise self._end_of_data() from exc
            self._lose()
            if exc.errno == errno.EINVAL:
                raise TapeError(
                    f"drive: {self.device} or its adapter does not read records of {max_bytes} bytes; use one that "
                    "does.",
                    option="drive",
                ) from exc
            raise self._failed("cannot read a record", exc) from exc
        found = self._get()
        if not data and found.behind_filemark:
            if self._file is not None:
                self._arrive(self._file + 1, 0)
            return b""
        # A drive that does not tell hands out its buffer as data at the end; one that tells means it.
        if not data or (found.at_end and self.tell_block() is None):
            raise self._end_of_data()
        self._pass(1)
        return data

    def pass_record(self) -> bool:
        try:
            return self.read_record(_PASSING_BYTES) != b""
        except (EndOfData, FilemarkHit):
            raise
        except TapeError as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.ENOMEM:
                return True
            raise

    def write_record(self, record: Buffer) -> None:
        length = memoryview(record).nbytes
        if self._met_end:
            self._forget_end()
        try:
            written = os.write(self._fd, record)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                # st.rst: the first ENOSPC warns, one more write is let through, a second one in a row is the end
                if self._warned:
                    raise EndOfMedium("volume: the medium is full; name another volume.", option="volume") from exc
                self._warned = True
                raise EarlyWarning("volume: the medium is nearly full; name another volume.", option="volume") from exc
            self._lose()
            if exc.errno in (errno.EINVAL, errno.ENOMEM, errno.EOVERFLOW):
                raise TapeError(
                    f"record_bytes: {self.device} or its adapter takes no records of {length} bytes; give less.",
                    option="record_bytes",
                ) from exc
            if exc.errno == errno.EIO and self._get().at_end:
                raise EndOfMedium("volume: the medium is full; name another volume.", option="volume") from exc
            raise self._failed("cannot write a record", exc) from exc
        self._warned = False
        if written != length:
            self._lose()
            raise EndOfMedium("volume: the medium ended inside a record; name another volume.", option="volume")
        self._pass(1)

    def write_filemarks(self, count: int) -> None:
        file = self._file
        self._operate("cannot write a filemark", MTWEOF, count)
        if count:
            self._arrive(None if file is None else file + count, 0)

    # -- moving ------------------------------------------------------------------------------------------------

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
        # MTEOM would do it in one step, but then nobody knew behind how many filemarks.
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
            raise TapeError(f"drive: {self.device} does not tell its position any more.", option="drive")
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
            if self.read_record(_PASSING_BYTES) != b"":
                self._lose()
                raise TapeError(f"drive: {self.device} does not find back before a filemark.", option="drive")
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
            raise TapeError(
                f"drive: {self.device} was sent to block {block} and stands at block {told}.", option="drive"
            )

    # -- inside ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        drive = self.device
        try:
            found = os.stat(drive)
            if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) != MAJOR:
                raise TapeError(f"drive: {drive} is no tape device; name one such as /dev/nst0.", option="drive")
            if not os.minor(found.st_rdev) & NO_REWIND:
                raise TapeError(
                    f"drive: {drive} rewinds whenever it is closed; name the device that does not, such as /dev/nst0.",
                    option="drive",
                )
            self._fd = os.open(drive, self._flags)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise DriveBusy(
                    f"drive: {drive} is in use by another process; wait for it or name another drive.", option="drive"
                ) from exc
            if exc.errno == errno.EROFS:
                raise TapeError(
                    f"volume: the one in {drive} is write-protected; take the protection away or insert another.",
                    option="volume",
                ) from exc
            raise self._failed("cannot be opened", exc) from exc

    def _eject(self) -> None:
        """Let the library take the volume."""
        self._operate("cannot unload the volume", MTOFFL)

    def _wait_until_ready(self) -> None:
        """Wait while the drive threads the volume in. :raises TapeError: there is none in it."""
        end_s = time.monotonic() + _READY_S
        asked = False
        while True:
            # The driver asks the drive only when it is opened.
            self.close()
            self._open()
            found = self._get()
            if found.online:
                return
            if not asked:
                asked = True
                try:
                    self._operate("cannot load the volume", MTLOAD)
                except TapeError:
                    # one that is just being loaded says no, too
                    pass
                continue
            if found.empty and self._bay is None:
                raise TapeError(f"drive: there is no volume in {self.device}; insert one.", option="drive")
            if time.monotonic() > end_s:
                raise TapeError(f"drive: {self.device} did not become ready in {_READY_S} s.", option="drive")
            time.sleep(1)

    def _get(self) -> MtStatus:
        try:
            return read_status(self._fd)
        except OSError as exc:
            raise self._failed("does not tell its status", exc) from exc

    def _told(self) -> Optional[int]:
        try:
            return read_block(self._fd)
        except OSError as exc:
            raise self._failed("cannot tell its position", exc) from exc

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
            raise TapeError(f"drive: where {self.device} stands is not known; rewind it first.", option="drive")
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
