# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Get a drive for a task: wait for its turn, take a free drive, let the library load the volume.

A task that needs several volumes exchanges the one in its drive for the next.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..session import StateDir
from .base import DriveBusy, TapeDrive, TapeError, cannot_encrypt
from .drive_key import DriveKey
from .library import Bay, MtxLibrary, VolumeElsewhere, find_bay
from .registry import drive_class, open_drive
from .tickets import DriveTimeout, QueueTicket

_AGAIN_S = 0.5

Tell = Callable[[Optional[str]], None]
#: Gets the open drive and the name of the volume in it when a task is done with them.
Left = Callable[[TapeDrive, str], None]


class VolumeNotAtHand(TapeError):
    """Check mode loads no volume, and this one is in no drive, or in a drive that is in use."""

    code = "volume_missing"


@dataclass(frozen=True)
class Choice:
    """One drive that a task may use. :param element: its number in the library, when it was given."""

    device: str
    element: Optional[int] = None


@dataclass(frozen=True)
class DriveOptions:
    """The options of the documentation fragment splitmirror.backup.drive, checked.

    :param folder: the folder of the queue.
    :param key: the drive is to encrypt with it what is written (TapeDrive.key); None if it is not.
    :param dry_run: nothing is changed: no place in the queue is taken, and no volume is loaded.
    """

    drive_type: str
    choices: tuple[Choice, ...]
    changer: Optional[str]
    timeout_s: float
    folder: str
    dry_run: bool = False
    key: Optional[DriveKey] = None

    @classmethod
    def of(cls, params: Mapping[str, Any], *, dry_run: bool = False, key: Optional[DriveKey] = None) -> DriveOptions:
        """Take the parameters of a module.

        :param dry_run: make no state folder, and change nothing later.
        :param key: as above, of a module that writes.
        :raises TapeError: they contradict each other.
        """
        if key is not None and not drive_class(params["drive_type"]).encrypts:
            raise cannot_encrypt(params["drive_type"])
        drives = params.get("drives") or [{"device": params["drive"], "element": params.get("drive_element")}]
        choices = tuple(Choice(drive["device"], drive.get("element")) for drive in drives)
        changer = params.get("changer")
        if not drive_class(params["drive_type"]).uses_changer:
            if len(choices) > 1 or changer or choices[0].element is not None:
                raise TapeError(
                    f"drive_type: a drive of type {params['drive_type']} has its own library; give one drive, without "
                    "changer and drive_element.",
                    option="drive_type",
                    code="option_invalid",
                )
        elif len(choices) > 1 and not changer:
            raise TapeError(
                "drives: several drives need a library that loads the volumes; give changer, or one drive.",
                option="drives",
                code="option_invalid",
            )
        if params.get("auto_clean") and not changer:
            raise TapeError(
                "auto_clean: there is no library that could clean the drive; give changer, or leave auto_clean out.",
                option="auto_clean",
                code="option_invalid",
            )
        state = StateDir(params["state_dir"])
        folder = state.drives_dir
        if not dry_run:
            state.make_private_dir(folder)
        return cls(params["drive_type"], choices, changer, params["drive_timeout_s"], folder, dry_run, key)

    def devices(self) -> dict[str, Choice]:
        """The drives by the paths that all their other names lead to."""
        return {os.path.realpath(choice.device): choice for choice in self.choices}

    def goes_beside(self, other: DriveOptions) -> bool:
        """Whether a task that has one of the other drives can get one of these as well."""
        mine, others = set(self.devices()), set(other.devices())
        return mine.isdisjoint(others) or min(len(mine), len(others)) > 1


def silent(_reason: Optional[str]) -> None:
    """Report no reason for waiting."""


def _unasked(_drive: TapeDrive, _volume: str) -> None:
    """Let a drive go as it is."""


class DriveLease(ABC):
    """A task's hold on a drive and on the volume in it; it holds nothing before the first exchange."""

    def __init__(self, options: DriveOptions, left: Left = _unasked) -> None:
        self._options = options
        self._left = left
        self._drive: Optional[TapeDrive] = None
        self._volume = ""

    @property
    def drive(self) -> TapeDrive:
        """The open drive. Load the volume before anything else; it stays in the drive when the lease ends."""
        if self._drive is None:
            raise AssertionError("a drive is taken by an exchange")
        return self._drive

    @property
    def volume(self) -> str:
        """What was brought to the drive; empty while there is none."""
        return "" if self._drive is None else self._volume

    @property
    def dry_run(self) -> bool:
        """Nothing is to be changed."""
        return self._options.dry_run

    def exchange(self, volume: str) -> TapeDrive:
        """Give the volume back and get another one, perhaps in another drive; the old ``drive`` is closed.

        Nothing is held while the task waits, so two tasks can exchange their volumes with each other. The place in the
        queue is kept: a task goes on before those that came after it. After an error nothing is held, and another
        volume may be asked for.

        :returns: ``drive``, which the library has brought the volume to. For the volume that is held already it stays
            as it is.
        :raises VolumeNotAtHand: in check mode, where no volume is loaded.
        :raises TapeError: nothing became free in time, or the drive or the library failed.
        """
        if self._drive is None or volume != self._volume:
            # Closed first: the next task that takes the drive must not find it in use.
            self.close()
            self._drive = self._found(volume)
            self._volume = volume
        return self._drive

    def exchange_any(self, volumes: Sequence[str]) -> str:
        """As exchange, for the first of several volumes that no other task has or waits for.

        :param volumes: from the best to the worst. If others have all of them, the best is waited for.
        :returns: the volume; ``drive`` is the drive that it was brought to.
        """
        if self._drive is None or self._volume != volumes[0]:
            self.close()
            volume = self._chosen(volumes)
            self._drive = self._found(volume)
            self._volume = volume
        return self._volume

    def reachable(self) -> Optional[list[str]]:
        """Names of the volumes that a drive can be given without people; None where people put them into the drive."""
        if self._options.changer is not None:
            library = MtxLibrary(self._options.changer)
            with library.alone():
                return library.look().volumes()
        return drive_class(self._options.drive_type).shelf(self._options.choices[0].device)

    def claim(self, _volume: str) -> bool:
        """Keep other tasks from a volume without taking a drive, until another one is claimed or exchanged for.

        :returns: False if another task has the volume or waits for it.
        """
        return True

    def release(self) -> None:
        """Give drive and volume back and want none, as while people look for one; the place in the queue is kept."""
        self.close()

    def close(self) -> None:
        """Close the drive, if there is one."""
        drive, self._drive = self._drive, None
        if drive is not None:
            try:
                self._left(drive, self._volume)
            finally:
                drive.close()

    def _chosen(self, volumes: Sequence[str]) -> str:
        """Which of the volumes to exchange for."""
        return volumes[0]

    @abstractmethod
    def _found(self, volume: str) -> TapeDrive:
        """A drive that the volume was brought to. :raises TapeError: see exchange."""


@contextmanager
def use_drive(
    options: DriveOptions,
    volume: str,
    *,
    who: str,
    writable: bool = False,
    tell: Tell = silent,
    left: Left = _unasked,
) -> Iterator[DriveLease]:
    """Wait for a drive, have the library bring the volume to it, and give both back at the end.

    :param who: the task, for the messages of tasks that wait for it.
    :param tell: gets the reason for waiting whenever it changes, and None when the waiting is over.
    :param left: is called with each drive before it is closed; not in check mode.
    :raises VolumeNotAtHand: in check mode, when the task would have to wait or to load the volume.
    :raises TapeError: nothing became free in time, or the drive or the library failed.
    """
    with queue_for_drive(options, volume, who=who, writable=writable, tell=tell, left=left) as lease:
        lease.exchange(volume)
        yield lease


@contextmanager
def queue_for_drive(
    options: DriveOptions,
    volume: str,
    *,
    who: str,
    writable: bool = False,
    tell: Tell = silent,
    left: Left = _unasked,
) -> Iterator[DriveLease]:
    """As use_drive, but the task takes only a place in the queue; it gets drives by exchanging.

    This is for tasks that can go on with other volumes if one cannot be had.

    :param volume: what the task is going to load first.
    """
    if options.dry_run:
        looking = _LeaseToLook(options)
        try:
            yield looking
        finally:
            looking.close()
        return
    with QueueTicket(options.folder, who, volume, list(options.devices())) as ticket:
        queued = _QueuedLease(options, ticket, writable, tell, left)
        try:
            yield queued
        finally:
            queued.close()


class _LeaseToLook(DriveLease):
    """A drive in check mode: without a place in the queue, and only with a volume that is in a free drive already."""

    def _found(self, volume: str) -> TapeDrive:
        return _at_hand(self._options, volume)


class _QueuedLease(DriveLease):
    """A drive that was waited for in the queue, with the volume in it."""

    def __init__(self, options: DriveOptions, ticket: QueueTicket, writable: bool, tell: Tell, left: Left) -> None:
        super().__init__(options, left)
        self._devices = options.devices()
        self._ticket = ticket
        self._writable = writable
        self._tell = tell

    def claim(self, volume: str) -> bool:
        """See DriveLease."""
        self.close()
        return self._ticket.claim(volume)

    def release(self) -> None:
        """See DriveLease."""
        self.close()
        self._ticket.want("")

    def _chosen(self, volumes: Sequence[str]) -> str:
        """See DriveLease. Others may have what is left."""
        return self._ticket.want_free(volumes)

    def _found(self, volume: str) -> TapeDrive:
        """See DriveLease. Waits for a drive."""
        if (self._ticket.volume, self._ticket.device) != (volume, ""):
            self._ticket.want(volume)
        limit_s = time.monotonic() + self._options.timeout_s
        while True:
            self._ticket.wait(self._options.timeout_s, limit_s, self._tell)
            try:
                drive = self._with_volume(volume, limit_s)
            except DriveBusy:
                # It has no ticket: another program, or a dead process of ours whose last writes are being finished.
                self._again(f"drive {self._ticket.device} is used by a process outside the queue", limit_s)
                self._ticket.avoid()
            else:
                self._ticket.loaded()
                return drive

    def _with_volume(self, volume: str, limit_s: float) -> TapeDrive:
        drive = self._opened()
        try:
            while True:
                try:
                    drive.fetch(volume)
                    return drive
                except VolumeElsewhere as exc:
                    device = self._device_of(exc.element)
                    if device is None:
                        raise
                    if self._ticket.change(device):
                        drive.close()
                        drive = self._opened()
                    else:
                        # Whoever has that drive wants another volume in it, and will put this one back first.
                        self._again(f"volume {volume} is still in drive {device}", limit_s)
        except BaseException:
            drive.close()
            raise

    def _again(self, reason: str, limit_s: float) -> None:
        """Wait a moment. :raises DriveTimeout: the time is over."""
        if time.monotonic() >= limit_s:
            raise DriveTimeout(
                f"drive_timeout_s: nothing became free in {self._options.timeout_s:g} s ({reason}); wait longer, or "
                "see who uses it.",
                option="drive_timeout_s",
            )
        self._tell(reason)
        time.sleep(_AGAIN_S)
        self._tell(None)

    def _opened(self) -> TapeDrive:
        return _open(self._options, self._devices[self._ticket.device], self._writable)

    def _device_of(self, element: int) -> Optional[str]:
        """The drive of the task that is in this bay of the library; None if none of them is."""
        for device, choice in self._devices.items():
            bay = _bay(self._options, choice)
            if bay is not None and bay.number == element:
                return device
        return None


def _open(options: DriveOptions, choice: Choice, writable: bool) -> TapeDrive:
    drive = open_drive(options.drive_type, choice.device, writable=writable, bay=_bay(options, choice))
    drive.key = options.key
    return drive


def _at_hand(options: DriveOptions, volume: str) -> TapeDrive:
    """A drive with the volume in it as it is now; a drive without a library shows what is in it when it is asked."""
    for choice in options.choices:
        bay = _bay(options, choice)
        if bay is None or bay.holds(volume):
            try:
                # without its library it loads nothing
                drive = open_drive(options.drive_type, choice.device, writable=False, bay=None)
                drive.key = options.key
                return drive
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
