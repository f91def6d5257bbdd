# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual tape: a folder that behaves like a drive in which any volume of a library can be loaded.

The option ``drive`` names the folder. A volume is a folder in it::

    <drive>/<volume>/volume.json   capacity, and per tape file the lengths of its records (run-length encoded)
    <drive>/<volume>/00000.tar     the records of tape file 0, one after another; plain tar reads them
    <drive>/<volume>/00001.tar     ...
    <drive>/drive.json             how fast the drive is (drive_json.py); it may be missing

It follows st: one write is one record, a read meets filemarks, writing cuts what is behind, the early warning comes
before the end of the medium, and what no filemark has made safe may be lost when the process dies.
"""

from __future__ import annotations

import os
import re
from typing import Optional

from ..host.files import open_folder, try_lock
from ..host.strict_json import MOST
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
from .drive_facts import DriveFacts
from .drive_json import read_settings
from .library import Bay
from .medium import VOLUME_JSON, Medium, TapeFile

VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
#: As on LTO, where the warning comes some way before the end; never more than a sixteenth of a small volume.
_EARLY_WARNING_BYTES = 16 << 20
_FLUSH_BYTES = 8 << 20


class VirtualTape(TapeDrive):
    """A folder as a tape drive.

    :param drive: absolute path of the folder; it must exist.
    :param writable: open for writing.
    :ivar motion: the tape of a drive that has a speed; it counts its stops.
    """

    name = "virtual"
    makes_volumes = True
    min_record_bytes = 1

    def __init__(self, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> None:
        self.device = self._folder = drive
        self._writable = writable
        self._medium: Optional[Medium] = None
        self._volume: Optional[str] = None
        self._file = 0
        self._record = 0
        self._data: Optional[tuple[int, int]] = None  # number of the tape file, descriptor
        self._needs_filemark = False
        self._warned = False
        try:
            self._lock = open_folder(drive)
        except OSError as exc:
            raise _not_a_drive(drive, exc) from exc
        if not try_lock(self._lock):
            os.close(self._lock)
            raise DriveBusy(
                f"drive: {drive} is in use by another process; wait for it or name another drive.", option="drive"
            )
        try:
            self._settings = read_settings(drive)
        except TapeError:
            os.close(self._lock)
            raise
        self.motion = self._settings.motion
        self.streams = self.motion is not None

    # -- the drive ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._lock < 0:
            return
        try:
            self.unload()
        finally:
            os.close(self._lock)
            self._lock = -1

    def status(self) -> DriveStatus:
        medium = self._medium
        if medium is None:
            return DriveStatus(None, False, None, None)
        remaining = medium.capacity_bytes - medium.early_warning_bytes - self._bytes_before()
        disk = os.statvfs(medium.folder)
        # what lies behind the head is cut before it is written over, so its room counts too
        behind = sum(item.size_bytes() for item in medium.files) - self._bytes_before()
        remaining = max(0, min(remaining, disk.f_bavail * disk.f_frsize + behind))
        return DriveStatus(self._volume, medium.write_protected, medium.capacity_bytes, remaining, medium.worm)

    def facts(self) -> DriveFacts:
        return self._settings.facts

    def volumes(self) -> Optional[list[str]]:
        return self.shelf(self._folder)

    @classmethod
    def shelf(cls, drive: str) -> Optional[list[str]]:
        try:
            return sorted(entry.name for entry in os.scandir(drive) if os.path.exists(os.path.join(entry, VOLUME_JSON)))
        except OSError as exc:
            raise _not_a_drive(drive, exc) from exc

    def make_volume(self, volume: str, capacity_bytes: int) -> None:
        folder = self._volume_folder(volume)
        if not 1 << 20 <= capacity_bytes <= MOST:
            raise TapeError(
                f"capacity: a volume cannot hold {capacity_bytes} bytes; give from 1 MiB to {MOST} bytes.",
                option="capacity",
                code="option_invalid",
            )
        try:
            os.mkdir(folder, 0o700)
        except OSError as exc:
            raise TapeError(
                f"volume: {folder} cannot be made ({exc.strerror}); name a volume that is not there yet, in a folder "
                "that root may write.",
                option="volume",
                code="option_invalid",
            ) from exc
        Medium(folder, capacity_bytes, min(_EARLY_WARNING_BYTES, capacity_bytes // 16), False, []).save()

    def fetch(self, volume: str) -> None:
        """All volumes are in reach already."""

    def load(self, volume: str) -> None:
        folder = self._volume_folder(volume)
        self.unload()
        try:
            medium = Medium.read(folder)
        except FileNotFoundError as exc:
            raise TapeError(
                f"volume: there is no volume {volume} in {self._folder}; put its folder there, or name another. A new "
                "volume is made by tape_label with its option capacity.",
                option="volume",
                code="volume_missing",
            ) from exc
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise TapeError(
                f"volume: {folder}/{VOLUME_JSON} cannot be read ({exc}), so {volume} is not a virtual volume; name "
                "another.",
                option="volume",
                code="volume_missing",
            ) from exc
        self._medium = medium
        self._volume = volume
        self._move(0, 0)

    def unload(self) -> None:
        medium = self._medium
        if medium is None:
            return
        if self._needs_filemark:
            self.space_end_of_data()
            self.write_filemarks(0 if self._file == len(medium.files) else 1)
        self._close_data()
        self._medium = None
        self._volume = None

    def data_path(self, file_number: int) -> Optional[str]:
        return self._loaded().data_path(file_number)

    # -- moving ------------------------------------------------------------------------------------------------

    def rewind(self) -> None:
        self._loaded()
        self._move(0, 0)

    def space_files(self, count: int) -> None:
        medium = self._loaded()
        if count >= 0:
            closed = sum(item.closed for item in medium.files)
            if self._file + count > closed:
                self.space_end_of_data()
                raise self._end_of_data()
            if count:
                self._move(self._file + count, 0)
            return
        target = self._file + count
        if target < 0:
            self._move(0, 0)
            raise TapeError("drive: the beginning of the volume was met while spacing backward.", option="drive")
        self._move(target, medium.files[target].records())

    def space_records(self, count: int) -> None:
        medium = self._loaded()
        current = medium.files[self._file] if self._file < len(medium.files) else TapeFile()
        target = self._record + count
        if target < 0:
            if self._file == 0:
                self._move(0, 0)
                raise TapeError("drive: the beginning of the volume was met while spacing backward.", option="drive")
            self.space_files(-1)
            raise self._filemark_hit()
        if target > current.records():
            if not current.closed:
                self.space_end_of_data()
                raise self._end_of_data()
            self._move(self._file + 1, 0)
            raise self._filemark_hit()
        self._move(self._file, target)

    def space_end_of_data(self) -> None:
        files = self._loaded().files
        if files and not files[-1].closed:
            self._move(len(files) - 1, files[-1].records())
        else:
            self._move(len(files), 0)

    def position(self) -> Optional[Position]:
        self._loaded()
        return Position(self._file, self._record)

    def tell_block(self) -> Optional[int]:
        files = self._loaded().files
        return sum(item.records() + 1 for item in files[: self._file]) + self._record

    def locate(self, target: Position, block: Optional[int] = None) -> None:
        self._loaded()
        if block is not None:
            self._seek(block)
            return
        self._move(0, 0)
        self.space_files(target.file)
        self.space_records(target.record)

    def _seek(self, block: int) -> None:
        for number, item in enumerate(self._loaded().files):
            if block <= item.records():
                self._move(number, block)
                return
            block -= item.records() + 1
        self.space_end_of_data()
        if block:
            raise self._end_of_data()

    # -- reading and writing -----------------------------------------------------------------------------------

    def read_record(self, max_bytes: int) -> bytes:
        medium = self._loaded()
        if self._file >= len(medium.files):
            raise self._end_of_data()
        current = medium.files[self._file]
        offset, length = current.find(self._record)
        if length == 0:
            if not current.closed:
                raise self._end_of_data()
            self._move(self._file + 1, 0)
            return b""
        place = f"record {self._record} of tape file {self._file} of volume {self._volume}"
        self._record += 1
        if length > max_bytes:
            raise TapeError(
                f"drive: {place} has {length} bytes, more than the {max_bytes} asked for; ask for the record size "
                "of the label.",
                option="drive",
            )
        try:
            data = os.pread(self._data_file(self._file), length, offset)
        except OSError as exc:
            raise TapeError(
                f"drive: {place} cannot be read ({exc.strerror}).", option="drive", code="tape_damaged"
            ) from exc
        if len(data) != length:
            raise TapeError(
                f"drive: {place} cannot be read whole; the medium is damaged there.",
                option="drive",
                code="tape_damaged",
            )
        return data

    def pass_record(self) -> bool:
        before = self._file
        try:
            self.space_records(1)
        except FilemarkHit:
            pass
        return self._file == before

    def write_record(self, record: Buffer) -> None:
        medium = self._writing()
        view = memoryview(record).cast("B")
        length = len(view)
        if not self.min_record_bytes <= length <= self.max_record_bytes:
            raise TapeError(
                f"record_bytes: a record of {length} bytes does not fit this drive; it takes "
                f"{self.min_record_bytes} to {self.max_record_bytes}.",
                option="record_bytes",
                code="option_invalid",
            )
        used = self._bytes_before()
        if used + length > medium.capacity_bytes:
            raise EndOfMedium(f"volume: {self._volume} is full; name another volume.", option="volume")
        if used >= medium.capacity_bytes - medium.early_warning_bytes:
            # st.rst: from the warning on, ENOSPC and success take turns until the end
            self._warned = not self._warned
            if self._warned:
                raise EarlyWarning(f"volume: {self._volume} is nearly full; name another volume.", option="volume")
        self._cut_here()
        if self._file == len(medium.files):
            medium.files.append(TapeFile())
        current = medium.files[self._file]
        self._write_at(current.size_bytes(), view)
        current.append(length)
        self._record += 1
        self._needs_filemark = True
        if self.motion is not None:
            self.motion.take(length)

    def write_filemarks(self, count: int) -> None:
        medium = self._writing()
        if self.motion is not None:
            self.motion.end()
        if count:
            self._cut_here()
        for _dummy in range(count):
            if self._file == len(medium.files):
                medium.files.append(TapeFile())
            current = medium.files[self._file]
            self._sync_data(current.size_bytes())
            current.closed = True
            self._move(self._file + 1, 0)
        self._sync()
        if count:
            self._needs_filemark = False

    # -- inside ------------------------------------------------------------------------------------------------

    def _volume_folder(self, volume: str) -> str:
        if not VOLUME_NAME.fullmatch(volume):
            raise TapeError(
                f"volume: {volume!r} is not a valid name of a volume; it needs 1 to 32 letters, digits, dots, dashes "
                "or underscores and begins with a letter or digit.",
                option="volume",
                code="option_invalid",
            )
        return os.path.join(self._folder, volume)

    def _loaded(self) -> Medium:
        if self._medium is None:
            raise TapeError(
                f"drive: there is no volume in {self._folder}; load one first.", option="drive", code="volume_missing"
            )
        return self._medium

    def _writing(self) -> Medium:
        medium = self._loaded()
        if not self._writable or medium.write_protected:
            raise TapeError(
                f"volume: {self._volume} is write-protected; take the protection away or name another volume.",
                option="volume",
                code="volume_protected",
            )
        return medium

    def _end_of_data(self) -> EndOfData:
        return EndOfData(f"volume: there is nothing more on {self._volume}.", option="volume")

    def _filemark_hit(self) -> FilemarkHit:
        return FilemarkHit("drive: a filemark was met while spacing over records.", option="drive")

    def _move(self, file: int, record: int) -> None:
        self._file, self._record = file, record
        self._warned = False

    def _bytes_before(self) -> int:
        """Bytes of all records before the head."""
        files = self._loaded().files
        before = sum(item.size_bytes() for item in files[: self._file])
        return before + (files[self._file].find(self._record)[0] if self._file < len(files) else 0)

    def _at_end(self) -> bool:
        files = self._loaded().files
        if self._file == len(files):
            return True
        return self._file == len(files) - 1 and not files[-1].closed and self._record == files[-1].records()

    def _cut_here(self) -> None:
        """Forget everything behind the head: first in volume.json, then in the data."""
        if self._at_end():
            return
        medium = self._loaded()
        if medium.worm:
            raise TapeError(
                f"volume: {self._volume} can be written once only, and something stands here; name another volume.",
                option="volume",
                code="volume_protected",
            )
        behind = range(self._file + 1, len(medium.files))
        del medium.files[self._file + 1 :]
        current = medium.files[self._file]
        current.cut(self._record)
        medium.save()
        self._close_data()
        for number in behind:
            try:
                os.unlink(medium.data_path(number))
            except FileNotFoundError:
                pass
        os.ftruncate(self._data_file(self._file), current.size_bytes())

    def _data_file(self, number: int) -> int:
        """Descriptor of a tape file's data; it stays open until another one is needed."""
        if self._data is not None and self._data[0] == number:
            return self._data[1]
        self._close_data()
        flags = (os.O_RDWR | os.O_CREAT if self._writable else os.O_RDONLY) | os.O_CLOEXEC
        path = self._loaded().data_path(number)
        try:
            handle = os.open(path, flags, 0o600)
        except OSError as exc:
            raise TapeError(f"drive: {path} cannot be opened ({exc.strerror}).", option="drive") from exc
        self._data = (number, handle)
        return handle

    def _close_data(self) -> None:
        if self._data is not None:
            os.close(self._data[1])
            self._data = None

    def _write_at(self, offset: int, view: memoryview) -> None:
        handle = self._data_file(self._file)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(handle, view[done:], offset + done)
            if (offset + done) // _FLUSH_BYTES > offset // _FLUSH_BYTES:
                # The disk begins with it now, or the filemark would wait for all of it (posix_fadvise(2), Notes).
                begin = max((offset + done) // _FLUSH_BYTES - 2, 0) * _FLUSH_BYTES
                os.posix_fadvise(handle, begin, offset + done - begin, os.POSIX_FADV_DONTNEED)
        except OSError as exc:
            raise TapeError(
                f"drive: a record cannot be written to {self._folder} ({exc.strerror}); make room there.",
                option="drive",
            ) from exc

    def _sync_data(self, size_bytes: int) -> None:
        """Make a tape file's data safe; a dead writer may have left more behind it, which goes."""
        handle = self._data_file(self._file)
        try:
            os.ftruncate(handle, size_bytes)
            os.fsync(handle)
        except OSError as exc:
            raise TapeError(f"drive: {self._folder} cannot be written ({exc.strerror}).", option="drive") from exc

    def _sync(self) -> None:
        medium = self._loaded()
        if self._file < len(medium.files):
            self._sync_data(medium.files[self._file].size_bytes())
        medium.save()


def _not_a_drive(drive: str, error: OSError) -> TapeError:
    return TapeError(
        f"drive: {drive} cannot be opened as a folder ({error.strerror}); a virtual drive is a folder, which is made "
        "with its first volume; run the playbook label, or name another folder.",
        option="drive",
        code="option_invalid",
    )
