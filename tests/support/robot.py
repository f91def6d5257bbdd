# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual drives in a library: each is a folder of its own, and the volumes lie in ``library`` beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.tape import registry
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.library import Bay
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.mtx import FakeChanger
from ansible_collections.splitmirror.backup.tests.support.tape import Library


class RobotTape(VirtualTape):
    """A virtual drive to which a library brings the volumes, which stay there when it is closed."""

    name = "robot"
    uses_changer = True
    makes_volumes = False

    def __init__(self, drive: str, *, writable: bool = False, bay: Optional[Bay] = None) -> None:
        super().__init__(drive, writable=writable)
        self._folder = str(Path(drive).parent / "library")
        self._bay = bay

    @classmethod
    def shelf(cls, _drive: str) -> Optional[list[str]]:
        return None

    def fetch(self, volume: str) -> None:
        if self._bay is not None:
            self._bay.load(volume, super().unload)

    def load(self, volume: str) -> None:
        self.fetch(volume)
        bay, self._bay = self._bay, None
        super().load(volume)
        self._bay = bay

    def close(self) -> None:
        self._bay = None
        super().close()

    def unload(self) -> None:
        super().unload()
        if self._bay is not None:
            self._bay.unload(super().unload)


def robot_options(
    library: Library, changer: FakeChanger, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> DriveOptions:
    """What names all drives of such a library."""
    monkeypatch.setitem(registry.DRIVES, "robot", RobotTape)
    monkeypatch.setenv("PATH", str(changer.programs), prepend=os.pathsep)
    drives = []
    for number in range(len(changer.held()[0])):
        folder = library.state_dir / f"drive{number}"
        folder.mkdir(exist_ok=True)
        drives.append({"device": str(folder), "element": number})
    told = {"drive_type": "robot", "drives": drives, "changer": str(changer.device), "drive_timeout_s": 0}
    return DriveOptions.of({**told, "state_dir": str(library.state_dir), **options})
