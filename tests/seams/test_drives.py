# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each tape drive keeps the contract. The st driver is in the lab: integration/lab/on_media.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeDrive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.seams.drives import DriveContract
from ansible_collections.splitmirror.backup.tests.support.faultytape import FaultyTape
from ansible_collections.splitmirror.backup.tests.support.keydrive import KeyTape, Target
from ansible_collections.splitmirror.backup.tests.support.tapemodel import MARK, Item, Model


class TestVirtual(DriveContract):
    """The virtual tape."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def opened(self, *, writable: bool = True) -> TapeDrive:
        return VirtualTape(str(self.folder), writable=writable)

    def blank(self) -> list[Item]:
        shutil.rmtree(self.folder / self.volume, ignore_errors=True)
        with self.opened() as drive:
            drive.make_volume(self.volume, 64 << 20)
        return []

    def check_medium(self, model: Model) -> None:
        """The plain files hold what the model holds, and nothing else lies there."""
        model.reopen()
        contents: list[bytes] = [b""]
        for item in model.items:
            if item is MARK:
                contents.append(b"")
            else:
                contents[-1] += item
        files = sorted((self.folder / self.volume).glob("*.tar"))
        assert [path.read_bytes() for path in files] == contents[:-1]


class TestVirtualThatDoesNotTell(TestVirtual):
    """The same as a drive that knows no block numbers."""

    tells = False
    rows = 10

    def opened(self, *, writable: bool = True) -> TapeDrive:
        return FaultyTape(str(self.folder), writable=writable, tells=False)


class TestVirtualThatEncrypts(TestVirtual):
    """The same in a drive that takes a key."""

    encrypts = True
    rows = 5

    def opened(self, *, writable: bool = True) -> TapeDrive:
        return KeyTape(str(self.folder), Target(self.folder / "drive-state.json"), writable=writable)
