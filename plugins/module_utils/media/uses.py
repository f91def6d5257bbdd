# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After each use of a volume: what the drive says of itself and the volume is kept, and warnings reach the user."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Callable

from ..catalog.records import CLEAN, VolumeUse
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..session import StateDir
from ..tape.base import TapeDrive
from ..tape.drive_lease import Left
from ..tape.tape_alert import CLEANING, sentences


@contextmanager
def noting_uses(
    state: StateDir, what: str, session: str, warn: Callable[[str], None], *, auto_clean: bool = False
) -> Iterator[Left]:
    """Note the uses of volumes by a task, also by one that fails. A drive that says nothing leaves no note.

    :param what: see VolumeUse.
    :param warn: gets a sentence for each TapeAlert flag that needs somebody, and one if the catalog cannot be written.
    :param auto_clean: have the library clean a drive that asks for it, before the next task gets it.
    :returns: for use_drive and queue_for_drive, as ``left``.
    """
    log = _UseLog(state, what, session, warn, auto_clean)
    try:
        yield log.left
    finally:
        log.enter()


class _UseLog:
    """The uses of volumes by one task."""

    def __init__(self, state: StateDir, what: str, session: str, warn: Callable[[str], None], auto_clean: bool) -> None:
        self._path = state.catalog_file
        self._what = what
        self._session = session
        self._warn = warn
        self._auto_clean = auto_clean
        self._uses: list[VolumeUse] = []

    def left(self, drive: TapeDrive, volume: str) -> None:
        """A use is over; the drive is still open."""
        alerts = self._note(drive, volume, self._what)
        if self._auto_clean and not CLEANING.isdisjoint(alerts):
            self._clean(drive)
            alerts = [alert for alert in alerts if alert not in CLEANING]
        for sentence in sentences(alerts, drive.device, volume):
            self._warn(sentence)

    def enter(self) -> None:
        """Enter the uses into the catalog."""
        if not self._uses:
            return
        try:
            with Catalog.open(self._path, writable=True) as catalog:
                catalog.add_uses(self._uses)
        except SplitMirrorError as exc:
            self._warn(f"what the drive said of itself and the volume is not in the catalog: {exc.message}")
        self._uses = []

    def _clean(self, drive: TapeDrive) -> None:
        """Have a drive cleaned; the task does not fail if that fails."""
        try:
            with Catalog.open_for(self._path, writable=False) as catalog:
                avoid = catalog.used_up()
            cartridge = drive.clean(avoid)
        except SplitMirrorError as exc:
            self._warn(f"drive {drive.device} asks to be cleaned, and was not: {exc.message}")
            return
        for sentence in sentences(self._note(drive, cartridge, CLEAN), drive.device, cartridge):
            self._warn(sentence)

    def _note(self, drive: TapeDrive, volume: str, what: str) -> Sequence[int]:
        """Note a use, and return the flags that are on."""
        facts = drive.facts()
        told = facts.told()
        # The serial number is known of each drive.
        if told.keys() - {"serial"} or what == CLEAN:
            self._uses.append(VolumeUse(volume, drive.device, what, self._session, time.time(), told))
        return facts.alerts or ()
