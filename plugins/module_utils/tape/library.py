# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 4: the library (autochanger) that puts volumes into drives, and its implementation by mtx.

A library has slots and bays. A bay is where a drive stands, in SCSI words a data transfer element. Volumes are known by
their barcodes, which are their names.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Callable, Optional

from ..host.files import try_lock
from ..host.tools import run_program
from .base import TapeError
from .scsi import drive_serials, tape_serial

#: Barcodes of cleaning cartridges begin so, by the habit of all makers.
_CLEANING = "CLN"
#: Kinds of places in a library.
SLOT, DRIVE, MAIL = "slot", "drive", "mail_slot"
_MOVE_S = 900
_LOOK_S = 0.2


class VolumeElsewhere(TapeError):
    """The volume is in another drive of the library. :ivar element: number of that drive's bay."""

    code = "volume_missing"

    def __init__(self, message: str, element: int) -> None:
        super().__init__(message, option="volume")
        self.element = element


@dataclass(frozen=True)
class Slot:
    """A place for a volume. :param mail: it is an import/export slot, which belongs to the operator."""

    number: int
    full: bool
    barcode: Optional[str] = None
    mail: bool = False


@dataclass(frozen=True)
class BayState:
    """A drive of the library. :param home: the slot that its volume came from; None when the library forgot."""

    number: int
    full: bool
    barcode: Optional[str] = None
    home: Optional[int] = None


@dataclass(frozen=True)
class Contents:
    """What is where in a library."""

    bays: list[BayState]
    slots: list[Slot]

    def bay(self, number: int) -> Optional[BayState]:
        """The bay of this number, None when there is none."""
        return next((bay for bay in self.bays if bay.number == number), None)

    def volumes(self) -> list[str]:
        """Barcodes of all volumes that can be loaded."""
        found = [slot.barcode for slot in self.slots if not slot.mail] + [bay.barcode for bay in self.bays]
        return sorted(barcode for barcode in found if barcode and not barcode.startswith(_CLEANING))

    def places(self) -> dict[str, tuple[str, int]]:
        """Where each barcode is, cleaning cartridges aside: kind of the place and its number."""
        found = {slot.barcode: (MAIL if slot.mail else SLOT, slot.number) for slot in self.slots if slot.barcode}
        found.update({bay.barcode: (DRIVE, bay.number) for bay in self.bays if bay.barcode})
        return {barcode: place for barcode, place in found.items() if not barcode.startswith(_CLEANING)}


class Library(ABC):
    """A library. Every method raises TapeError when it refuses or fails.

    :param changer: what the option ``changer`` names.
    """

    @abstractmethod
    def __init__(self, changer: str) -> None: ...

    @abstractmethod
    def look(self) -> Contents:
        """Tell what is where; nothing moves."""

    @abstractmethod
    def serials(self) -> list[Optional[str]]:
        """Serial numbers of the drives by number of the bay; empty when the library does not know them."""

    @abstractmethod
    def load(self, slot: int, bay: int) -> None:
        """Move a volume from a slot into a bay."""

    @abstractmethod
    def unload(self, slot: int, bay: int) -> None:
        """Move a volume from a bay into a slot."""

    @abstractmethod
    def transfer(self, slot: int, other: int) -> None:
        """Move a volume from a slot into another one, which may be an import/export slot."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """No other process of this machine moves anything meanwhile."""


_BAY = re.compile(r"Data Transfer Element (\d+):(Full|Empty)(?: \((Unknown )?Storage Element (\d+)?.*?oaded\))?(.*)")
_SLOT = re.compile(r"\s*Storage Element (\d+)( IMPORT/EXPORT)?\s*:\s*(Full|Empty)(.*)")
# Status() of mtx.c prints a drive's tags as ":VolumeTag = x" and a slot's as ":VolumeTag=x", up to 36 printable
# characters each, often padded with blanks. Either of the two tags may be missing.
_TAG = re.compile(r":VolumeTag ?= ?(.*?)(?::AlternateVolumeTag ?=.*)?$")


def parse_status(text: str) -> Contents:
    """What ``mtx status`` prints. :raises TapeError: it is nothing of the kind."""
    bays: list[BayState] = []
    slots: list[Slot] = []
    for line in text.split("\n"):
        tag = _TAG.search(line)
        barcode = (tag.group(1).strip() or None) if tag else None
        bay = _BAY.match(line)
        if bay:
            full = bay.group(2) == "Full"
            home = int(bay.group(4)) if bay.group(4) else None
            bays.append(BayState(int(bay.group(1)), full, barcode if full else None, home))
            continue
        slot = _SLOT.match(line)
        if slot:
            full = slot.group(3) == "Full"
            slots.append(Slot(int(slot.group(1)), full, barcode if full else None, bool(slot.group(2))))
    if not bays or not slots:
        raise TapeError(
            "changer: mtx shows no drives or no slots there; name the changer device.",
            option="changer",
            code="library_failed",
        )
    return Contents(bays, slots)


class MtxLibrary(Library):
    """A SCSI media changer that the program mtx moves. :param changer: such as ``/dev/tape/by-id/scsi-…`` of it."""

    def __init__(self, changer: str) -> None:
        self._changer = changer

    def look(self) -> Contents:
        return parse_status(self._mtx("status"))

    def serials(self) -> list[Optional[str]]:
        try:
            return drive_serials(self._changer)
        except OSError:
            return []

    def load(self, slot: int, bay: int) -> None:
        self._mtx("load", str(slot), str(bay))

    def unload(self, slot: int, bay: int) -> None:
        self._mtx("unload", str(slot), str(bay))

    def transfer(self, slot: int, other: int) -> None:
        self._mtx("transfer", str(slot), str(other))

    @contextmanager
    def alone(self) -> Iterator[None]:
        try:
            # The device itself is the lock: whatever name or state folder another process has for it, it is the same.
            handle = os.open(os.path.realpath(self._changer), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise TapeError(
                f"changer: {self._changer} cannot be opened ({exc.strerror}); name the library's device.",
                option="changer",
                code="library_failed",
            ) from exc
        try:
            end_s = time.monotonic() + _MOVE_S
            while not try_lock(handle):
                if time.monotonic() > end_s:
                    raise TapeError(
                        f"changer: {self._changer} was moved by another process for {_MOVE_S} s; see what it does.",
                        option="changer",
                        code="library_failed",
                    )
                time.sleep(_LOOK_S)
            yield
        finally:
            os.close(handle)

    def _mtx(self, *words: str) -> str:
        try:
            done = run_program(["mtx", "-f", self._changer, *words], timeout_s=_MOVE_S)
        except subprocess.TimeoutExpired as exc:
            raise TapeError(
                f"changer: mtx {words[0]} on {self._changer} did not end in {_MOVE_S} s; look at the library.",
                option="changer",
                code="library_failed",
            ) from exc
        except OSError as exc:
            raise TapeError(
                f"changer: mtx cannot be started ({exc.strerror}); install the package mtx on the media server.",
                option="changer",
                code="host_program",
            ) from exc
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").split())
            raise TapeError(
                f"changer: mtx {' '.join(words)} on {self._changer} failed ({said}).",
                option="changer",
                code="library_failed",
            )
        return done.stdout


class Bay:
    """One drive's place in its library: what the drive needs of it.

    :param number: of the bay, as mtx numbers data transfer elements: from 0 on.
    """

    def __init__(self, library: Library, number: int) -> None:
        self._library = library
        self.number = number

    def volumes(self) -> list[str]:
        """Barcodes of all volumes that can be loaded."""
        with self._library.alone():
            return self._library.look().volumes()

    def load(self, volume: str, eject: Callable[[], None]) -> None:
        """Put a volume into the drive; what is in it goes back to its slot first.

        :param eject: makes the drive let go of what is in it.
        :raises VolumeElsewhere: it is in another drive; this one is empty then.
        :raises TapeError: it is not in the library, not in reach, or a cleaning cartridge.
        """
        if volume.startswith(_CLEANING):
            raise TapeError(
                f"volume: {volume} is a cleaning cartridge; name a data volume.", option="volume", code="volume_missing"
            )
        with self._library.alone():
            contents = self._library.look()
            held = self._state(contents).barcode or ""
            if held == volume:
                return
            if held.startswith(_CLEANING):
                raise self._being_cleaned(contents)
            # Refused before anything moves.
            self._find(contents, volume)
            if self._state(contents).full:
                self._put_away(contents, eject)
                contents = self._library.look()
            self._library.load(self._slot_of(contents, volume), self.number)

    def holds(self, volume: str) -> bool:
        """Whether a volume is in the drive; nothing moves. :raises TapeError: it is not in the library."""
        with self._library.alone():
            contents = self._library.look()
        self._find(contents, volume)
        return self._state(contents).barcode == volume

    def unload(self, eject: Callable[[], None]) -> None:
        """Put the volume in the drive back to its slot, if there is one."""
        with self._library.alone():
            contents = self._library.look()
            if self._state(contents).full:
                self._put_away(contents, eject)

    def clean(self, eject: Callable[[], None], wait: Callable[[], None], avoid: Collection[str] = ()) -> str:
        """Clean the drive: what is in it goes back to its slot, a cleaning cartridge comes, works, and goes back.

        Other drives can be served meanwhile. The drive is empty at the end.

        :param wait: returns when the drive has let go of the cartridge.
        :param avoid: cartridges that are used up.
        :returns: the barcode of the cartridge that was used.
        :raises TapeError: there is none, or the library or the drive failed; the cartridge goes back if it can.
        """
        with self._library.alone():
            contents = self._library.look()
            if (self._state(contents).barcode or "").startswith(_CLEANING):
                raise self._being_cleaned(contents)
            cartridge = self._cleaning_cartridge(contents, avoid)
            if self._state(contents).full:
                self._put_away(contents, eject)
            self._library.load(cartridge.number, self.number)
        try:
            wait()
        finally:
            with self._library.alone():
                self._library.unload(cartridge.number, self.number)
        return cartridge.barcode or ""

    def _cleaning_cartridge(self, contents: Contents, avoid: Collection[str]) -> Slot:
        """A cleaning cartridge in a storage slot. :raises TapeError: there is none that is not used up."""
        known = [slot for slot in contents.slots if not slot.mail and (slot.barcode or "").startswith(_CLEANING)]
        for slot in known:
            if slot.barcode not in avoid:
                return slot
        found = f"those in it ({_some([slot.barcode or '' for slot in known])}) are used up" if known else "it has none"
        raise TapeError(
            f"changer: the library has no cleaning cartridge to use, {found}; put one whose barcode begins with "
            f"{_CLEANING} into a storage slot.",
            option="changer",
            code="volume_missing",
        )

    def _being_cleaned(self, contents: Contents) -> TapeError:
        return TapeError(
            f"drive: drive {self.number} of the library is being cleaned ({self._state(contents).barcode}); wait until "
            "that is done.",
            option="drive",
            code="drive_busy",
        )

    def _state(self, contents: Contents) -> BayState:
        state = contents.bay(self.number)
        if state is None:
            raise TapeError(
                f"drive_element: the library has no drive {self.number}; it has "
                f"{', '.join(str(bay.number) for bay in contents.bays)}.",
                option="drive_element",
                code="option_invalid",
            )
        return state

    def _find(self, contents: Contents, volume: str) -> None:
        """:raises TapeError: the volume is not there, or more than once."""
        places = [slot for slot in contents.slots if slot.barcode == volume]
        bays = [bay for bay in contents.bays if bay.barcode == volume]
        if len(places) + len(bays) > 1:
            raise TapeError(
                f"volume: {volume} is the barcode of {len(places) + len(bays)} volumes in the library; take all but "
                "one out.",
                option="volume",
                code="volume_missing",
            )
        if places and places[0].mail:
            raise TapeError(
                f"volume: {volume} is in import/export slot {places[0].number}, which is the operator's; move it to a "
                "storage slot.",
                option="volume",
                code="volume_missing",
            )
        if not places and not bays:
            raise TapeError(
                f"volume: {volume} is not in the library; insert it or name one of {_some(contents.volumes())}.",
                option="volume",
                code="volume_missing",
            )

    def _slot_of(self, contents: Contents, volume: str) -> int:
        for bay in contents.bays:
            if bay.barcode == volume:
                raise VolumeElsewhere(
                    f"volume: {volume} is in drive {bay.number} of the library; unload it there or name that drive.",
                    bay.number,
                )
        return next(slot.number for slot in contents.slots if slot.barcode == volume)

    def _put_away(self, contents: Contents, eject: Callable[[], None]) -> None:
        state = self._state(contents)
        free = [slot.number for slot in contents.slots if not slot.full and not slot.mail]
        if not free:
            raise TapeError(
                f"changer: no slot is free for {state.barcode or 'the volume'} of drive {self.number}; make one free.",
                option="changer",
                code="library_failed",
            )
        eject()
        self._library.unload(state.home if state.home in free else free[0], self.number)


def carry(library: Library, volume: str, *, to_mail: bool) -> Optional[int]:
    """Move a volume from its storage slot into a free import/export slot, or back.

    :returns: the slot that it is in now; None if no slot of that kind is free, and it has not moved.
    :raises TapeError: it is in no slot of the other kind, or the library failed.
    """
    with library.alone():
        slots = library.look().slots
        source = next((slot for slot in slots if slot.barcode == volume and slot.mail is not to_mail), None)
        if source is None:
            raise TapeError(
                f"volume: {volume} is in no {'storage' if to_mail else 'import/export'} slot of the library any more; "
                "see who moved it.",
                option="volume",
                code="volume_missing",
            )
        free = next((slot for slot in slots if not slot.full and slot.mail is to_mail), None)
        if free is None:
            return None
        library.transfer(source.number, free.number)
        return free.number


def find_bay(library: Library, device: str, element: Optional[int]) -> Bay:
    """Which bay of a library a drive stands in.

    :param device: the drive.
    :param element: the number that was given; None to find it out by the drive's serial number.
    :raises TapeError: it cannot be found out, or the library says otherwise.
    """
    with library.alone():
        serials = library.serials()
        bays = library.look().bays
    mine = tape_serial(device)
    same = [number for number, serial in enumerate(serials) if serial is not None and serial == mine]
    if len(same) == 1:
        if element is not None and element != same[0]:
            raise TapeError(
                f"drive_element: the library has {device} (serial number {mine}) as drive {same[0]}, not {element}; "
                "correct the number or leave it out.",
                option="drive_element",
                code="option_invalid",
            )
        return Bay(library, same[0])
    if element is not None:
        return Bay(library, element)
    if len(bays) == 1:
        return Bay(library, bays[0].number)
    raise TapeError(
        f"drive_element: the library does not report which of its {len(bays)} drives {device} is; give the number "
        "that mtx shows.",
        option="drive_element",
        code="option_invalid",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "those that are in it"
