# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Label all blank volumes of a library whose barcodes match a pattern."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Optional

from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..tape.base import TapeError
from ..tape.drive_lease import DriveLease, VolumeNotAtHand
from ..tape.label import new_label, read_label
from .pools import OF_THE_VOLUME
from .volumes import label_volume


@dataclass
class Labelled:
    """What was done, or would be.

    :ivar labelled: volumes that got their label.
    :ivar known: volumes that match and are in the catalog already; they are not loaded.
    :ivar left_alone: volumes that are not blank or cannot be written, and why.
    :ivar unseen: in check mode, volumes that would be loaded and looked at.
    """

    labelled: list[str]
    known: list[str]
    left_alone: dict[str, str]
    unseen: list[str]

    def facts(self) -> dict[str, Any]:
        """As a module returns it."""
        return {
            "changed": bool(self.labelled or self.unseen),
            "labelled": self.labelled,
            "known": self.known,
            "left_alone": [{"volume": volume, "reason": reason} for volume, reason in self.left_alone.items()],
            "unseen": self.unseen,
        }


def label_blank(lease: DriveLease, catalog: Catalog, pattern: str, pool: str, record_bytes: int) -> Labelled:
    """Load each volume that matches and is not in the catalog, and label it if it is blank.

    :param lease: of a drive that a library loads; in check mode only what is in a drive is looked at.
    :param pattern: a shell pattern.
    :raises SplitMirrorError: there is no library, no volume matches, or drive or library failed.
    """
    new_label("", pool, record_bytes)  # before anything moves
    names = [name for name in _reachable(lease) if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise TapeError(
            f"pattern: no volume in the library matches {pattern!r}; * stands for any characters, ? for one.",
            option="pattern",
            code="volume_missing",
        )
    done = Labelled([], [name for name in names if catalog.volume(name) is not None], {}, [])
    for name in names:
        if name in done.known:
            continue
        try:
            reason = _label_if_blank(lease, catalog, name, pool, record_bytes)
        except VolumeNotAtHand:
            done.unseen.append(name)
            continue
        except SplitMirrorError as exc:
            if exc.code not in OF_THE_VOLUME:
                raise
            reason = exc.message
        if reason is None:
            done.labelled.append(name)
        else:
            done.left_alone[name] = reason
    return done


def _reachable(lease: DriveLease) -> list[str]:
    names = lease.reachable()
    if names is None:
        raise TapeError(
            "changer: without a library there are no barcodes; label the volume in the drive by its name, with "
            "tape_label.",
            option="changer",
            code="option_invalid",
        )
    return names


def _label_if_blank(lease: DriveLease, catalog: Catalog, name: str, pool: str, record_bytes: int) -> Optional[str]:
    """Label a volume. :returns: why it was left alone; None if it was not."""
    drive = lease.exchange(name)
    drive.load(name)
    reading = read_label(drive)
    if reading.label is not None:
        return (
            f"volume: {name} has a label (volume {reading.label.volume}, pool {reading.label.pool}) and is not in the "
            "catalog; enter it with catalog_rebuild."
        )
    if reading.foreign is not None:
        return f"volume: {name} is not blank: it begins with {reading.foreign}."
    if drive.status().write_protected:
        return f"volume: {name} is blank and write-protected; remove the protection."
    label_volume(drive, catalog, name, pool, record_bytes, dry_run=lease.dry_run)
    return None
