# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 3: the tape drive, as little of it as a backup needs and no more than the kernel's st driver can do.

A tape is a row of records and filemarks. The head stands between two of them; a *file* is what lies between two
filemarks. Writing anywhere makes everything behind it unreachable: that is how a tape is cut.

Facts are from st(4), mtio.h and Documentation/scsi/st.rst of the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Optional, Union

from ..errors import SplitMirrorError
from .drive_facts import DriveFacts
from .drive_key import DriveKey

if TYPE_CHECKING:
    from .library import Bay

Buffer = Union[bytes, bytearray, memoryview]


class TapeError(SplitMirrorError):
    """The drive or the volume cannot do what was asked."""

    code = "drive_failed"


class EndOfData(TapeError):
    """There is nothing behind this place; the head stands at the end of data."""

    code = "tape_damaged"


class FilemarkHit(TapeError):
    """Spacing over records met a filemark; the head stands behind it (forward) or before it (backward)."""

    code = "tape_damaged"


class EarlyWarning(TapeError):
    """The end of the medium is near and *nothing was written*; one more record may be tried (st.rst: ENOSPC)."""

    code = "volume_full"


class EndOfMedium(TapeError):
    """The medium is full and nothing was written."""

    code = "volume_full"


class Position(NamedTuple):
    """A place on a tape.

    :param file: filemarks before it.
    :param record: records between the last of these filemarks and it.
    """

    file: int
    record: int


class DriveBusy(TapeError):
    """Another process uses the drive at this moment."""

    code = "drive_busy"


@dataclass(frozen=True)
class DriveStatus:
    """What a drive reports about itself and the volume in it.

    :param volume: name of the loaded volume as the drive or its library knows it; None if it cannot know.
    :param write_protected: nothing can be written.
    :param capacity_bytes: native capacity; None if the drive does not report it.
    :param remaining_bytes: what may still be written behind the head before the early warning; None if not told.
    :param worm: what is written once cannot be written over; None if the drive does not report it.
    """

    volume: Optional[str]
    write_protected: bool
    capacity_bytes: Optional[int]
    remaining_bytes: Optional[int]
    worm: Optional[bool] = None


class TapeDrive(ABC):
    """One open drive. No other process can use it until close(); use it as a context manager.

    Every method raises TapeError when the drive refuses or fails. After an error other than EndOfData,
    FilemarkHit and EarlyWarning the place of the head is unknown: rewind or locate before going on.

    :param drive: what the option ``drive`` names: a device, or a folder.
    :param writable: open it for writing too.
    :param bay: its place in a library; None without one, and always where uses_changer is False.
    """

    #: What the option ``drive`` named.
    device: str
    #: Name in the registry, value of the option ``drive_type``.
    name: ClassVar[str]
    #: A changer can bring volumes to it; each drive is then one bay of a library.
    uses_changer: ClassVar[bool] = False
    #: make_volume works: volumes are made by the collection and not bought.
    makes_volumes: ClassVar[bool] = False
    #: It can encrypt by itself, if its model can: set_key works.
    encrypts: ClassVar[bool] = False
    #: Bounds of one record.
    min_record_bytes: ClassVar[int] = 512
    max_record_bytes: ClassVar[int] = 16 << 20
    #: It is written to at full speed or rests: between two records that come late it would stop and wind back.
    streams: bool = False
    #: With this key the parts of sessions are encrypted that are written in it; None to write them as they are.
    key: Optional[DriveKey] = None

    @abstractmethod
    def __init__(self, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> None: ...

    def __enter__(self) -> TapeDrive:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of the drive. If a record was the last thing written, it gets a filemark, as st does on close."""

    @abstractmethod
    def status(self) -> DriveStatus:
        """Tell about the drive and its volume; the head does not move."""

    def facts(self) -> DriveFacts:
        """What the drive says of its own health and of the volume in it; it never fails, and what is not told is None.

        TapeAlert flags that are on are told once.
        """
        return DriveFacts()

    def clean(self, avoid: Collection[str] = ()) -> str:
        """Have the library clean the drive; nothing is in the drive afterwards.

        :param avoid: cleaning cartridges that are used up.
        :returns: the name of the cartridge that was used.
        :raises TapeError: there is no library or no cartridge, or one of them failed.
        """
        raise TapeError(
            f"changer: there is no library that could clean {self.device}; load a cleaning cartridge by hand.",
            option="changer",
            code="option_invalid",
        )

    def prove_encrypts(self) -> None:
        """Prove that the drive can encrypt the volume in it by itself. :raises TapeError: it cannot."""
        raise cannot_encrypt(self.name)

    def prove_clear(self) -> None:  # noqa: B027 - a drive that takes no key has none
        """Prove that the drive does not encrypt what is written in it. :raises TapeError: it has a foreign key."""

    def set_key(self, key: Optional[DriveKey]) -> None:
        """Have the drive decrypt what is read from now on, and encrypt what is written if it is open for writing.

        What is in the clear can be read all the same.

        :param key: None takes out the key that was set; so do fetch, load, unload and close.
        :raises TapeError: the drive cannot do that; or the key may still be in it.
        """
        if key is not None:
            self.prove_encrypts()

    def prove_key(self) -> None:  # noqa: B027 - nothing is to be proved of a drive that takes no key
        """Prove that the key was in force since set_key. :raises TapeError: it was not."""

    def next_key(self) -> Optional[str]:
        """The fingerprint of the key that the record under the head is encrypted with by the drive.

        :returns: empty if it is encrypted with a key that is not known; None if it is not, as far as the drive says.
        """
        return None

    @abstractmethod
    def load(self, volume: str) -> None:
        """Put a volume into the drive (if the drive can choose) and rewind it.

        A drive without a library loads what is in it; only the label shows which volume that is.
        """

    @abstractmethod
    def fetch(self, volume: str) -> None:
        """Have a library bring a volume, which load then finds in the drive; without one nothing happens.

        :raises TapeError: the library has no such volume, or failed.
        """

    @abstractmethod
    def unload(self) -> None:
        """Take the volume out."""

    def volumes(self) -> Optional[list[str]]:
        """Names of all volumes that load can reach; None when the drive has no library that knows them."""
        return None

    @classmethod
    def shelf(cls, _drive: str) -> Optional[list[str]]:
        """What volumes returns, without opening the drive, for a drive that has all its volumes in reach.

        :param _drive: what the option ``drive`` names. :raises TapeError: it cannot be looked at.
        """
        return None

    def present(self) -> bool:
        """Whether a volume is in the drive and ready, or could be loaded at once; nothing moves."""
        return True

    def make_volume(self, volume: str, capacity_bytes: int) -> None:
        """Make a new blank volume. :raises TapeError: this type of drive holds volumes that are bought."""
        raise TapeError(
            f"capacity: a drive of type {self.name} cannot make volume {volume}; put a blank one into the drive "
            "and leave the option out.",
            option="capacity",
            code="option_invalid",
        )

    def data_path(self, file_number: int) -> Optional[str]:
        """The plain file that holds a tape file of the loaded volume; None on a medium that is not a file system."""
        return None

    @abstractmethod
    def rewind(self) -> None:
        """Move the head to the beginning of the volume."""

    @abstractmethod
    def read_record(self, max_bytes: int) -> bytes:
        """Read the next record whole.

        :returns: the record; ``b""`` for a filemark, and the head then stands behind it.
        :raises EndOfData: nothing follows.
        :raises TapeError: the record is longer than ``max_bytes`` (st: ENOMEM; the head then stands behind it),
            or cannot be read.
        """

    @abstractmethod
    def pass_record(self) -> bool:
        """Move over the next record or filemark, of whatever length, without needing what is in it.

        :returns: whether it was a record; after a filemark the head stands behind it.
        :raises EndOfData: nothing follows.
        """

    @abstractmethod
    def write_record(self, record: Buffer) -> None:
        """Write one record; what lay behind the head is gone.

        :raises EarlyWarning: nothing was written; the end is near.
        :raises EndOfMedium: nothing was written; the end is here.
        """

    @abstractmethod
    def write_filemarks(self, count: int) -> None:
        """Write filemarks and return when all before them is on the medium (a synchronous MTWEOF).

        Errors of records written before may appear only here.
        """

    @abstractmethod
    def space_files(self, count: int) -> None:
        """Move over filemarks: forward to behind the last, or (negative) backward to before the last.

        :raises EndOfData: forward, there were fewer.
        """

    @abstractmethod
    def space_records(self, count: int) -> None:
        """Move over records, forward or (negative) backward, inside one file.

        :raises FilemarkHit: there were fewer in this file.
        :raises EndOfData: forward, there were fewer on the volume.
        """

    @abstractmethod
    def space_end_of_data(self) -> None:
        """Move behind the last thing written."""

    @abstractmethod
    def position(self) -> Optional[Position]:
        """Where the head stands, by our own count of what passed; None when it was lost."""

    @abstractmethod
    def tell_block(self) -> Optional[int]:
        """Where the drive says that it stands (MTIOCPOS): records and filemarks before the head.

        None when the drive cannot report it. It does not depend on our count, so it can prove or disprove that.
        """

    @abstractmethod
    def locate(self, target: Position, block: Optional[int] = None) -> None:
        """Move the head to a place, the quickest way that the drive has.

        :param target: where to.
        :param block: the same place as tell_block counts, if known; a drive that can seek (MTSEEK) uses it.
        :raises EndOfData: the volume ends before it.
        """


def cannot_encrypt(drive_type: str) -> TapeError:
    """The error for a key that is given to a drive of a type that does not encrypt."""
    return TapeError(
        f"drive_key_file: a drive of type {drive_type} does not encrypt; leave drive_key_file and drive_key out, or "
        "encrypt in software (recipients).",
        option="drive_key_file",
        code="option_invalid",
    )
