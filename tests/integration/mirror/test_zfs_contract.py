# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider ``zfs`` keeps the contract of mirror providers, on a stand-in; ``./run lab zfs`` has OpenZFS itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.integration.lab import on_zfs
from ansible_collections.splitmirror.backup.tests.support.fake_zfs import fake_zfs

pytestmark = pytest.mark.root


class TestZfs(on_zfs.Bench):
    """Volumes of the stand-in."""

    kind = "zfs"

    @pytest.fixture(autouse=True)
    def _array(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.folder, self.pool = scratch, f"pool{os.getpid()}"
        monkeypatch.setenv("PATH", f"{scratch}:{os.environ['PATH']}")
        with fake_zfs(scratch), self:
            yield

    def settle(self) -> None:
        on_zfs.zfs("now", "settled", "yes")

    def slow_udev(self) -> None:
        on_zfs.zfs("now", "udev_s", "0.5")

    def remove(self, failed: bool) -> None:
        self.settle()
        links = Path("/dev/zvol", self.pool)
        for link in links.iterdir():
            subprocess.run(["losetup", "--detach", link.resolve()], check=False)
        shutil.rmtree(links)
        if not os.listdir(links.parent):
            links.parent.rmdir()

    def check_whole(self) -> None:
        super().check_whole()
        listed = {path.name for path in self.folder.iterdir()}
        assert listed == {"zfs", "zpool", f"{self.pool}+t0", f"{self.pool}+t1"}

    @contextmanager
    def no_room(self) -> Iterator[None]:
        on_zfs.zfs("now", "full", "yes")
        yield
        on_zfs.zfs("now", "full", "")

    @pytest.mark.parametrize("case", on_zfs.CASES.values(), ids=on_zfs.CASES)
    def test_case(self, case: Callable[[on_zfs.Bench], None]) -> None:
        case(self)

    def test_a_pool_that_does_nothing_is_named(self) -> None:
        on_zfs.zfs("now", "health", "SUSPENDED")
        assert [state.in_sync for state in self.provider().state()] == [False, False]
        assert "whose state is SUSPENDED" in str(self.provider().state()[0].problem)
