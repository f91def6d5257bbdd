# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After each use of a volume: what the drive says of itself and the volume is kept, and warnings reach the user."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from ..catalog.records import VolumeUse
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..session import StateDir
from ..tape.base import TapeDrive
from ..tape.drive_lease import Left
from ..tape.tape_alert import sentences


@contextmanager
def noting_uses(state: StateDir, what: str, session: str, warn: Callable[[str], None]) -> Iterator[Left]:
    """Note the uses of volumes by a task, also by one that fails. A drive that says nothing leaves no note.

    :param what: see VolumeUse.
    :param warn: gets a sentence for each TapeAlert flag that needs somebody, and one if the catalog cannot be written.
    :returns: for use_drive and queue_for_drive, as ``left``.
    """
    uses: list[VolumeUse] = []

    def left(drive: TapeDrive, volume: str) -> None:
        facts = drive.facts()
        if not facts.told():
            return
        uses.append(VolumeUse(volume, drive.device, what, session, time.time(), facts.told()))
        for sentence in sentences(facts.alerts or (), drive.device, volume):
            warn(sentence)

    try:
        yield left
    finally:
        if uses:
            try:
                with Catalog.open(state.catalog_file, writable=True) as catalog:
                    catalog.add_uses(uses)
            except SplitMirrorError as exc:
                warn(f"what the drive said of itself and the volume is not in the catalog: {exc.message}")
