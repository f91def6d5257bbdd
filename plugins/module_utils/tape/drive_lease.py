# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a task gets the drive that it needs: out of one or several, in a library or not, after whoever came before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..session import StateDir
from .base import DriveBusy, TapeDrive, TapeError
from .library import Bay, MtxLibrary, VolumeElsewhere, find_bay
from .registry import drive_class, open_drive
from .st import StTape
from .tickets import DriveTimeout, QueueTicket

_AGAIN_S = 0.5

Tell = Callable[[Optional[str]], None]


class VolumeNotAtHand(TapeError):
    """Whoever only looks cannot see the volume now: it is in no drive, or its drive is in use."""


@dataclass(frozen=True)
class Choice:
    """One drive that a task may use. :param element: its number in the library, when it was given."""

    device: str
    element: Optional[int] = None


@dataclass(frozen=True)
class DriveOptions:
    """The options of the documentation fragment splitmirror.backup.drive, checked.

    :param folder: of the queue.
    :param dry_run: nothing is changed: no place in the queue is taken, and no volume loaded.
    """

    drive_type: str
    choices: tuple[Choice, ...]
    changer: Optional[str]
    timeout_s: float
    folder: str
    dry_run: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], *, dry_run: bool = False) -> DriveOptions:
        """Take a module's parameters.

        :param dry_run: make no state folder, and change nothing later.
        :raises TapeError: they do not go together.
        """
        drives = params.get("drives") or [{"device": params["drive"], "element": params.get("drive_element")}]
        choices = tuple(Choice(drive["device"], drive.get("element")) for drive in drives)
        changer = params.get("changer")
        if drive_class(params["drive_type"]) is not StTape:
            if len(choices) > 1 or changer or choices[0].element is not None:
                raise TapeError(
                    f"drive_type: a drive of type {params['drive_type']} is a library of its own; give one drive, and "
                    "neither changer nor drive_element.",
                    option="drive_type",
                )
        elif len(choices) > 1 and not changer:
            raise TapeError(
                "drives: several drives need a library that brings them the volumes; give changer, or one drive.",
                option="drives",
            )
        state = StateDir(params["state_dir"])
        folder = state.drives_dir
        if not dry_run:
            state.make_private_dir(folder)
        return cls(params["drive_type"], choices, changer, params["drive_timeout_s"], folder, dry_run)

    def devices(self) -> dict[str, Choice]:
        """The drives by the paths that all their other names lead to."""
        return {os.path.realpath(choice.device): choice for choice in self.choices}


def _silent(_reason: Optional[str]) -> None:
    """Tell nobody why we wait."""


@contextmanager
def use_drive(
    options: DriveOptions, volume: str, *, who: str, writable: bool = False, tell: Tell = _silent
) -> Iterator[TapeDrive]:
    """Wait for a drive, have the volume brought to it, and give both back at the end; the volume stays in the drive.

    :param who: the task, for those who wait for it.
    :param tell: gets the reason for waiting whenever that changes, and None when it is over.
    :raises VolumeNotAtHand: whoever only looks would have to wait or to load the volume.
    :raises TapeError: nothing became free in time, or the drive or the library failed.
    """
    if options.dry_run:
        with _at_hand(options, volume) as drive:
            yield drive
        return
    with QueueTicket(options.folder, who, volume, list(options.devices())) as place:
        search = _Search(options, place, volume, writable, tell)
        with search.found() as drive:
            place.loaded()
            yield drive


class _Search:
    """The way from a place in the queue to an open drive with the volume in it."""

    def __init__(self, options: DriveOptions, place: QueueTicket, volume: str, writable: bool, tell: Tell) -> None:
        self._options = options
        self._devices = options.devices()
        self._place = place
        self._volume = volume
        self._writable = writable
        self._tell = tell
        self._limit_s = time.monotonic() + options.timeout_s

    def found(self) -> TapeDrive:
        """The drive. :raises TapeError: there is none."""
        while True:
            self._place.wait(self._options.timeout_s, self._limit_s, self._tell)
            try:
                return self._with_volume()
            except DriveBusy:
                # It has no ticket: another program, or a dead process of ours whose last writes are being finished.
                self._again(f"drive {self._place.device} is used by a process outside the queue")
                self._place.avoid()

    def _with_volume(self) -> TapeDrive:
        drive = self._opened()
        try:
            while True:
                try:
                    drive.fetch(self._volume)
                    return drive
                except VolumeElsewhere as exc:
                    device = self._device_of(exc.element)
                    if device is None:
                        raise
                    if self._place.change(device):
                        drive.close()
                        drive = self._opened()
                    else:
                        # Whoever has that drive wants another volume in it, and will put this one back first.
                        self._again(f"volume {self._volume} is still in drive {device}")
        except BaseException:
            drive.close()
            raise

    def _again(self, reason: str) -> None:
        if time.monotonic() >= self._limit_s:
            raise DriveTimeout(
                f"drive_timeout_s: nothing became free in {self._options.timeout_s:g} s ({reason}); wait longer, or "
                "see who uses it.",
                option="drive_timeout_s",
            )
        self._tell(reason)
        time.sleep(_AGAIN_S)
        self._tell(None)

    def _opened(self) -> TapeDrive:
        return _open(self._options, self._devices[self._place.device], self._writable)

    def _device_of(self, element: int) -> Optional[str]:
        """Which drive of the task stands in this bay of the library; None when it is none of them."""
        for device, choice in self._devices.items():
            bay = _bay(self._options, choice)
            if bay is not None and bay.number == element:
                return device
        return None


def _open(options: DriveOptions, choice: Choice, writable: bool) -> TapeDrive:
    return open_drive(options.drive_type, choice.device, writable=writable, bay=_bay(options, choice))


def _at_hand(options: DriveOptions, volume: str) -> TapeDrive:
    """A drive with the volume in it as it is now; a drive without a library shows what is in it when it is asked."""
    for choice in options.choices:
        bay = _bay(options, choice)
        if bay is None or bay.holds(volume):
            try:
                # without its library it loads nothing
                return open_drive(options.drive_type, choice.device, writable=False, bay=None)
            except DriveBusy as exc:
                raise VolumeNotAtHand(exc.message, option="drive") from exc
    raise VolumeNotAtHand(
        f"volume: {volume} is in none of the drives, and check mode loads nothing; load it, or run without check mode.",
        option="volume",
    )


def _bay(options: DriveOptions, choice: Choice) -> Optional[Bay]:
    if options.changer is None:
        return None
    return find_bay(MtxLibrary(options.changer), choice.device, choice.element)
