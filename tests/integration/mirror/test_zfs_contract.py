# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider ``zfs`` keeps the contract of mirror providers, with a stand-in for the programs of ZFS."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, MirrorContract, refused
from ansible_collections.splitmirror.backup.tests.support.fake_zfs import fake_zfs

pytestmark = pytest.mark.root


class TestZfs(MirrorContract):
    """Volumes in a pool of its own."""

    kind = "zfs"

    @pytest.fixture(autouse=True)
    def _array(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.folder, self.pool = scratch, f"pool{os.getpid()}"
        monkeypatch.setenv("PATH", f"{scratch}:{os.environ['PATH']}")
        with fake_zfs(scratch), self:
            yield

    def zfs(self, *words: str) -> None:
        """Run the program as an administrator would."""
        subprocess.run(["zfs", *words], check=True)

    def make(self) -> None:
        for name in ("t0", "t1"):
            self.zfs("create", "-V", str(16 * MIB), f"{self.pool}/{name}")

    def remove(self, failed: bool) -> None:
        links = Path("/dev/zvol", self.pool)
        for link in links.iterdir():
            subprocess.run(["losetup", "--detach", link.resolve()], check=False)
        shutil.rmtree(links)
        if not os.listdir(links.parent):
            links.parent.rmdir()

    def pairs(self) -> list[dict[str, str]]:
        return [{"name": n, "primary": f"{self.pool}/{n}", "mirror": f"{self.pool}/{n}_mirror"} for n in ("t0", "t1")]

    def primary(self, name: str) -> str:
        return f"/dev/zvol/{self.pool}/{name}"

    def check_whole(self) -> None:
        super().check_whole()
        listed = {path.name for path in self.folder.iterdir()}
        assert listed == {"zfs", "zpool", f"{self.pool}+t0", f"{self.pool}+t1"}

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. The commands that change something; of t1 only the snapshots."""
        if event != "subprocess.Popen" or args[1][0] != "zfs" or args[1][1] in ("get", "holds"):
            return False
        return any(f"{self.pool}/t0" in word for word in args[1])

    @contextmanager
    def _renamed(self, name: str) -> Iterator[None]:
        self.zfs("rename", f"{self.pool}/{name}", f"{self.pool}/aside")
        yield
        self.zfs("rename", f"{self.pool}/aside", f"{self.pool}/{name}")

    def not_in_sync(self) -> AbstractContextManager[object]:
        return self._renamed("t0")

    def not_splittable(self) -> AbstractContextManager[object]:
        return self._renamed("t1")

    @contextmanager
    def foreign(self) -> Iterator[None]:
        self.zfs("create", f"{self.pool}/t0_mirror")
        yield
        self.zfs("destroy", f"{self.pool}/t0_mirror")

    # ---- of this provider alone ----

    def test_what_is_no_volume_is_refused_by_name(self) -> None:
        def problem(primary: str, mirror: str = f"{self.pool}/m") -> str:
            pair = {"name": "x", "primary": primary, "mirror": mirror}
            return str(self.provider(pairs=[pair]).state()[0].problem)

        self.zfs("create", f"{self.pool}/fs")
        assert "is a filesystem, and only a volume" in problem(f"{self.pool}/fs")
        assert "is not a dataset of this host" in problem(f"{self.pool}/none")
        refused(lambda: problem("/dev/zvol/pool/x"), "needs POOL/NAME")
        refused(lambda: problem(f"{self.pool}/t0", "other/m"), f"name the mirror {self.pool}/NAME")
        self.zfs("now", "health", "SUSPENDED")
        assert "whose state is SUSPENDED" in problem(f"{self.pool}/t0")

    def test_only_one_pool_is_split_at_one_instant(self) -> None:
        assert self.provider().capabilities.atomic_set
        result = self.provider().split("s1")
        assert len({(pair.before_mono_s, pair.after_mono_s) for pair in result.pairs}) == 1
        self.provider().recover()
        other = {"name": "t2", "primary": "other/t2", "mirror": "other/t2_mirror"}
        assert not self.provider(pairs=[*self.pairs(), other]).capabilities.atomic_set

    def test_a_snapshot_of_a_session_is_held_until_its_resync(self) -> None:
        self.provider().split("s1")
        snapshot = f"{self.pool}/t0@splitmirror-s1"
        gone = subprocess.run(["zfs", "destroy", snapshot], capture_output=True, text=True, check=False)
        assert "dataset is busy" in gone.stderr
        self.zfs("release", "s1", snapshot)
        self.zfs("destroy", snapshot)
        refused(lambda: self.provider().present("s1"), "pair t0: the snapshot")
        assert len(self.provider().recover()) == 1
        self.check_whole()

    def test_what_came_into_the_place_of_the_clone_after_the_split_is_not_presented(self) -> None:
        self.provider().split("s1")
        self.zfs("create", "-V", str(16 * MIB), f"{self.pool}/t0_mirror")
        refused(lambda: self.provider().present("s1"), "this session has not made it")
        assert len(self.provider().recover()) == 1
        self.zfs("destroy", f"{self.pool}/t0_mirror")
        self.check_whole()

    def test_a_clone_that_takes_writes_is_not_presented(self) -> None:
        self.provider().split("s1")
        self.provider().present("s1")
        self.zfs("set", "readonly=off", f"{self.pool}/t1_mirror")
        refused(lambda: self.provider().present("s1"), "pair t1: its mirror")
        refused(lambda: self.provider().withdraw("s1"), "takes writes")
        self.provider().recover()
        self.check_whole()

    def test_a_pool_without_room_is_found_out_before_the_window(self) -> None:
        self.zfs("now", "full", "yes")
        refused(lambda: self.provider().prepare("s1"), "out of space")
        self.zfs("now", "full", "")
        self.check_whole()
