# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider ``rbd`` keeps the contract of mirror providers, on a stand-in; ``./run lab ceph`` has a real Ceph."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.tests.integration.lab import on_ceph
from ansible_collections.splitmirror.backup.tests.seams.mirrors import SESSION, MirrorContract, refused
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.rbd import make_rbd

pytestmark = pytest.mark.root


class Rbd(on_ceph.Bench):
    """Two images of the stand-in."""

    kind = "rbd"

    @pytest.fixture(autouse=True)
    def _array(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.folder = tmp_path
        monkeypatch.setenv("PATH", f"{make_rbd(tmp_path)}:{os.environ['PATH']}")
        with self:
            yield

    def remove(self, failed: bool) -> None:
        for one in on_ceph.ask("device", "list"):
            on_ceph.rbd("device", "unmap", one["device"])

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """Here not commands alone."""
        return super().is_step(event, args) or (
            event != "subprocess.Popen" and MirrorContract.is_step(self, event, args)
        )


class TestStanding(Rbd):
    """A process with Ceph's bindings stands ready."""

    def provider(self, **changed: Any) -> MirrorProvider:
        options = {"ceph_python": str(self.folder / "bin/ceph-python")}
        return super().provider(**{"options": options, **changed})

    def test_it_opens_the_images_before_the_split_and_lets_go_of_them_after_it(self) -> None:
        assert self.provider().remarks() == []
        prepared = self.provider().prepare(SESSION)
        assert (self.folder / "ceph/.opened").exists()
        before_s = time.monotonic()
        result = prepared.split()
        # The times are those of the process that splits.
        assert before_s < result.pairs[0].before_mono_s < result.pairs[1].after_mono_s < time.monotonic()
        prepared.settle()
        assert [one["protected"] for one in on_ceph.ask("snap", "ls", f"{on_ceph.POOL}/t0")] == ["true"]
        self.provider().recover()
        self.check_whole()

    def test_an_image_that_cannot_be_closed_keeps_no_other_one_open(self) -> None:
        (self.folder / "ceph/cannot-be-closed").touch()
        self.provider().split(SESSION)
        assert (self.folder / "ceph/.closed").exists()
        self.provider().recover()
        self.check_whole()

    def test_what_keeps_it_from_standing_ready_is_one_sentence(self) -> None:
        python = str(self.folder / "bin/ceph-python")
        for options, words in (
            ({"ceph_python": python, "ceph_conf": "/none/ceph.conf"}, "ceph: the images cannot be opened: [Errno 2]"),
            ({"ceph_python": "/bin/echo"}, "ceph_python: its answer is not JSON"),
        ):
            refused(partial(self.provider(options=options).prepare, SESSION), words)
            self.check_whole()

    def test_one_that_dies_in_the_split_has_not_split(self) -> None:
        prepared = self.provider().prepare(SESSION)
        (self.folder / "ceph/dies-when-it-has-split").touch()
        refused(prepared.split, "ceph_python: it has ended without an answer")
        refused(prepared.flush, "the process that has the images open has ended")
        prepared.cancel()
        self.check_whole()

    def test_a_splitter_that_is_killed_in_the_split_leaves_no_image_open(self) -> None:
        hold = self.folder / "ceph/hold"
        os.mkfifo(hold)
        child = os.fork()
        if child == 0:
            self.provider().prepare(SESSION).split()
            os._exit(1)
        with hold.open("w"):  # as soon as the snapshot of t0 is being made
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        hold.unlink()
        wait_for((self.folder / "ceph/.closed").exists, "end of the process that has the images open")
        assert self.phases() == ["broken", "broken"]
        assert self.provider().split_result(SESSION) is None
        self.provider().recover()
        self.check_whole()


class TestProgram(Rbd):
    """Without the bindings each snapshot is a process."""

    def provider(self, **changed: Any) -> MirrorProvider:
        return super().provider(**{"options": {"ceph_python": sys.executable}, **changed})

    def test_whoever_arms_it_is_told(self) -> None:
        assert "does not have Ceph's bindings, so a process of rbd is started" in self.provider().remarks()[0]
        missing = self.provider(options={"ceph_python": "/none/python"})
        assert "/none/python cannot be run" in missing.remarks()[0]
        missing.split(SESSION)
        missing.recover()
        self.check_whole()

    @pytest.mark.parametrize("case", on_ceph.CASES.values(), ids=on_ceph.CASES)
    def test_case(self, case: object) -> None:
        assert callable(case)
        case(self)

    def test_a_mapping_of_the_image_itself_is_not_taken_for_the_snapshot(self) -> None:
        """Some versions of Ceph map the image, without a word, when a snapshot is asked for."""
        array = self.provider()
        array.split(SESSION)
        (self.folder / "ceph" / "maps-images-for-snapshots").touch()
        with pytest.raises(MirrorError, match=r"the kernel reports rbd/t0@-") as wrong:
            array.present(SESSION)
        assert wrong.value.code == "mirror_wrong"
        assert [one["snap"] for one in on_ceph.ask("device", "list")] == ["-", "-"]
        array.recover()
        self.check_whole()

    def test_snapshots_whose_names_begin_as_ours_are_left_alone(self) -> None:
        names = ["splitmirror.s1", "splitmirror.weekly", "splitmirror.weekly.sm1234567abcdefgh", "splitmirror2"]
        for name in names:
            on_ceph.rbd("snap", "create", "--no-progress", f"{on_ceph.POOL}/t0@{name}")
        assert [state.problem for state in self.provider().state()] == [None, None]
        assert self.provider().recover() == []
        self.provider().split(SESSION)
        self.provider().resync(SESSION, wait=True, timeout_s=30)
        assert sorted(one["name"] for one in on_ceph.ask("snap", "ls", f"{on_ceph.POOL}/t0")) == names
        for name in names:
            on_ceph.rbd("snap", "rm", "--no-progress", f"{on_ceph.POOL}/t0@{name}")
        self.check_whole()
