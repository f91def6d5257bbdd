# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real drive behind the kernel's st driver, ``/dev/nst*``, alone or in a library.

Facts are from linux/mtio.h, st(4), Documentation/scsi/st.rst and the SCSI stream commands (SSC).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Collection
from typing import Optional

from ..errors import SplitMirrorError
from .base import (
    Buffer,
    DriveBusy,
    DriveStatus,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    FilemarkHit,
    TapeError,
)
from .data_encryption import DriveEncryption
from .drive_facts import DriveFacts, ask, ask_room
from .drive_key import DriveKey
from .library import Bay
from .mtio import (
    MAJOR,
    MT_ST_CLEARBOOLEANS,
    MT_ST_OFF,
    MT_ST_SCSI2LOGICAL,
    MT_ST_SETBOOLEANS,
    MTLOAD,
    MTOFFL,
    MTSETBLK,
    MTSETDRVBUFFER,
    MTWEOF,
    NO_REWIND,
)
from .scsi import medium_is_worm, send_command, send_data, tape_serial
from .st_head import PASSING_BYTES, StHead

#: A new LTO-9 cartridge is calibrated for up to two hours when it is first loaded.
_READY_S = 3 * 3600
#: Cleaning takes up to five minutes.
_CLEANED_S = 900
_TAKEN_S = 60
_LOOK_S = 1


class StTape(StHead):
    """A drive of the st driver.

    :param drive: the non-rewinding device, such as ``/dev/nst0`` or a link to it below ``/dev/tape/by-id``.
    :param bay: its place in a library; None for a drive into which people put volumes.
    """

    name = "st"
    uses_changer = True
    encrypts = True
    streams = True

    def __init__(self, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> None:
        super().__init__(drive)
        self._bay = bay
        # without O_NONBLOCK an empty drive could not even be asked to load (st.rst)
        self._flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        self._volume: Optional[str] = None
        self._worm: Optional[bool] = None
        self._writable = writable
        self._encryption = DriveEncryption(drive, self._command, lambda words, data: send_data(self._fd, words, data))
        # A write-protected volume may be about to make room for another one; load opens the drive anew.
        self._open(protected=True)

    # -- the drive ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._fd < 0:
            return
        failed = sys.exc_info()[1]
        try:
            self.set_key(None)
        except TapeError as exc:
            if not isinstance(failed, SplitMirrorError):
                raise
            # Most likely the cause of both is the same.
            failed.message += f" {exc.message}"
        finally:
            self._close()

    def _close(self) -> None:
        handle, self._fd = self._fd, -1
        try:
            os.close(handle)
        except OSError as exc:
            raise self._failed("could not write what it had buffered", exc) from exc

    def status(self) -> DriveStatus:
        capacity, remaining = ask_room(self._command)
        place = self.position()
        if (
            remaining is not None
            and capacity is not None
            and place is not None
            and place.file <= 1
            and not place.record
        ):
            # What lies behind the head is written over.
            remaining = capacity
        return DriveStatus(self._volume, self._get().write_protected, capacity, remaining, self._worm)

    def present(self) -> bool:
        # The driver asks the drive only when it is opened.
        self.close()
        self._open(protected=True)
        return self._get().online

    def facts(self) -> DriveFacts:
        return ask(self._command, tape_serial(self.device))

    def _command(self, words: bytes, answer_bytes: int) -> bytes:
        return send_command(self._fd, words, answer_bytes)

    def prove_encrypts(self) -> None:
        self._encryption.prove()

    def prove_clear(self) -> None:
        self._encryption.clear_left(writes=True)

    def set_key(self, key: Optional[DriveKey]) -> None:
        if key is None:
            self._encryption.clear()
        else:
            self._encryption.set(key, encrypt=self._writable)

    def prove_key(self) -> None:
        self._encryption.prove_in_force()

    def next_key(self) -> Optional[str]:
        found = self._encryption.next_block()
        if found.encrypted is None:
            # A drive that has not read the record yet does not know; one that does not encrypt says nothing at all.
            with contextlib.suppress(TapeError):
                self.pass_record()
            found = self._encryption.next_block()
        return found.fingerprint if found.encrypted else None

    def clean(self, avoid: Collection[str] = ()) -> str:
        if self._bay is None:
            return super().clean(avoid)
        self.set_key(None)
        self._lose()
        self._volume = None
        return self._bay.clean(self._eject, self._wait_until_cleaned, avoid)

    def volumes(self) -> Optional[list[str]]:
        return None if self._bay is None else self._bay.volumes()

    def fetch(self, volume: str) -> None:
        self.set_key(None)
        self._lose()
        self._worm = None
        self._volume = None
        if self._bay is not None:
            self._bay.load(volume, self._eject)
            self._volume = volume

    def load(self, volume: str) -> None:
        self.fetch(volume)
        self._wait_until_ready()
        self.rewind()
        # one write is one record of any length, and positions are logical blocks
        self._operate("does not take records of variable length", MTSETBLK, 0)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_SETBOOLEANS | MT_ST_SCSI2LOGICAL)
        self._operate("does not take its options", MTSETDRVBUFFER, MT_ST_CLEARBOOLEANS | MT_ST_OFF)
        self._tells = self._told() == 0
        self._worm = medium_is_worm(self._fd, self.device)
        self._encryption.clear_left(writes=self._writable, has_key=self.key is not None)

    def unload(self) -> None:
        self.set_key(None)
        self._lose()
        self._volume = None
        if self._bay is None:
            self._operate("cannot unload the volume", MTOFFL)
        else:
            self._bay.unload(self._eject)

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
            block = self._encryption.next_block()
            if block.encrypted:
                raise TapeError(
                    f"drive: {self.device} cannot read a record, because a drive encrypted it with "
                    f"{f'the key {block.fingerprint}' if block.fingerprint else 'a key that is not known'}, which is "
                    "not in the drive; give that key as drive_key_file.",
                    option="drive",
                    code="key_missing",
                ) from exc
            raise self._failed("cannot read a record", exc) from exc
        found = self._get()
        if not data and found.behind_filemark:
            if self._file is not None:
                self._arrive(self._file + 1, 0)
            return b""
        # At the end of data, a drive that does not report its position returns its buffer as data.
        if not data or (found.at_end and self.tell_block() is None):
            raise self._end_of_data()
        self._pass(1)
        return data

    def pass_record(self) -> bool:
        try:
            return self.read_record(PASSING_BYTES) != b""
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
                    f"record_bytes: {self.device} or its adapter does not take records of {length} bytes; give less.",
                    option="record_bytes",
                    code="option_invalid",
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

    # -- inside ------------------------------------------------------------------------------------------------

    def _open(self, *, protected: bool = False) -> None:
        """Open the device. :param protected: if the volume in it is write-protected, open it for reading."""
        drive = self.device
        try:
            found = os.stat(drive)
            if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) != MAJOR:
                raise TapeError(
                    f"drive: {drive} is not a tape device; name one such as /dev/nst0.",
                    option="drive",
                    code="option_invalid",
                )
            if not os.minor(found.st_rdev) & NO_REWIND:
                raise TapeError(
                    f"drive: {drive} rewinds whenever it is closed; name the device that does not, such as /dev/nst0.",
                    option="drive",
                    code="option_invalid",
                )
            try:
                self._fd = os.open(drive, self._flags)
            except OSError as exc:
                if exc.errno != errno.EROFS or not protected:
                    raise
                self._fd = os.open(drive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise DriveBusy(
                    f"drive: {drive} is in use by another process; wait for it or name another drive.", option="drive"
                ) from exc
            if exc.errno == errno.EROFS:
                raise TapeError(
                    f"volume: the one in {drive} is write-protected; take the protection away or insert another.",
                    option="volume",
                    code="volume_protected",
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
                raise TapeError(
                    f"drive: there is no volume in {self.device}; insert one.", option="drive", code="volume_missing"
                )
            if time.monotonic() > end_s:
                raise TapeError(f"drive: {self.device} did not become ready in {_READY_S} s.", option="drive")
            time.sleep(_LOOK_S)

    def _wait_until_cleaned(self) -> None:
        """Wait until the cleaning cartridge has been in the drive, and the drive has let go of it.

        :raises TapeError: it takes too long; the drive was told to let go of it.
        """
        begun_s = time.monotonic()
        taken = False
        while True:
            self.close()
            self._open()
            empty, passed_s = self._get().empty, time.monotonic() - begun_s
            taken = taken or not empty
            # One that is used up may be out again before it was seen.
            if empty and (taken or passed_s > _TAKEN_S):
                return
            if passed_s > _CLEANED_S:
                with contextlib.suppress(TapeError):
                    self._eject()
                raise TapeError(
                    f"drive: {self.device} was not cleaned in {_CLEANED_S} s; look at the drive and the cartridge.",
                    option="drive",
                )
            time.sleep(_LOOK_S)
