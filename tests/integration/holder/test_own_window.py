# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A window of the user's own, from the modules that the documentation of write_freeze plays: it can become good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import verdict_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import recover
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.modules import extent_map, hot_backup, mirror_split, write_freeze
from ansible_collections.splitmirror.backup.tests.support import fsload
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.tape import Library

pytestmark = pytest.mark.root
SESSION = "s1"


class Play:
    """The hosts of a play, on one machine: each module is called as its task says."""

    def __init__(self, folder: Path, mount: Path, device: str) -> None:
        self.folder = folder
        self.mount = mount
        self.state = StateDir(str(folder / "state"))
        self.mirror = folder / "data.mirror"
        self.library = Library(folder)
        self.library.make(capacity_bytes=64 << 20)
        self.library.label(record_bytes=64 << 10)
        self._pairs = [
            {"name": "data", "device": device, "primary": str(folder / "ext4.img"), "mirror": str(self.mirror)}
        ]

    def task(self, module: Any, **options: Any) -> dict[str, Any]:
        """Play a task that has to succeed."""
        result = self.outcome(module, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def outcome(self, module: Any, **options: Any) -> dict[str, Any]:
        """Play a task."""
        common: dict[str, Any] = {"session": SESSION, "state_dir": self.state.root}
        if module is mirror_split or options.get("state") == "mapped":
            common["pairs"] = self._pairs
        if module is mirror_split:
            common |= {"provider": "image", "provider_options": {"allow_copy": True}}
        result = run_module(module.main, {**common, **options})
        result.pop("warnings", None)  # in a form between module and controller; a registered result has words instead
        return result

    def mapped(self) -> list[str]:
        """Map the files; return the mount points."""
        mounts: list[str] = self.task(extent_map, state="mapped", paths=[str(self.mount / "data")])["mounts"]
        return mounts

    def verdict(self, thawed: dict[str, Any], checked: dict[str, Any]) -> Verdict:
        """Write everything, and judge the session by what the tasks returned."""
        ended = self.task(hot_backup, state="ended")
        with loop_device(self.mirror, read_only=True) as device, self.library.drive() as drive:
            job = self.library.job(
                SESSION,
                [],
                map_path=self.state.session_file(SESSION, "map.sqlite"),
                devices={"data": device},
                proof="full",
            )
            written = write_session(job, self.library.on(drive))
        evidence = {
            "session": SESSION,
            "window": thawed["window"],
            "check": checked["check"],
            "hot_backup": ended["evidence"],
            "write": written["evidence"],
        }
        verdict = verdict_of(self.library.catalog, SESSION, evidence)
        self.library.catalog.close_session(SESSION, verdict, evidence)
        return verdict


@pytest.fixture
def play(scratch: Path) -> Iterator[Play]:
    with fsload.file_system(scratch, "ext4", 64) as (mount, device):
        (mount / "data").mkdir()
        (mount / "data" / "file").write_bytes(b"x" * 10_000)
        made = Play(scratch, mount, device)
        try:
            yield made
        finally:
            recover(made.state, SESSION)
            splitter.disarm(made.state, SESSION)
            made.library.catalog.close()


def test_the_documented_play_makes_a_good_session(play: Play, tmp_path: Path) -> None:
    mounts = play.mapped()
    (play.mount / "data" / "late").write_bytes(b"written since")

    frozen = play.task(write_freeze, state="frozen", mounts=mounts, deadline_s=60)
    split = play.task(mirror_split, state="split", freeze=frozen["freeze"])
    checked = play.task(extent_map, state="checked", split=split)
    thawed = play.task(write_freeze, state="thawed", mounts=mounts)

    verdict = play.verdict(thawed, checked)
    assert verdict.good, verdict.reason
    play.library.restore(SESSION, tmp_path / "t", numeric_owner=True)
    assert (tmp_path / "t" / str(play.mount)[1:] / "data" / "late").read_bytes() == b"written since"


def test_a_split_that_is_not_left_with_the_holder_makes_no_good_session(play: Play) -> None:
    mounts = play.mapped()
    frozen = play.task(write_freeze, state="frozen", mounts=mounts, deadline_s=60)
    play.task(mirror_split, state="split", freeze=frozen["freeze"])
    checked = play.task(extent_map, state="checked")
    thawed = play.task(write_freeze, state="thawed", mounts=mounts)

    verdict = play.verdict(thawed, checked)

    assert not verdict.good
    assert "split_sent happened 0 times" in verdict.reason


def test_a_split_outside_of_the_freeze_is_refused(play: Play) -> None:
    mounts = play.mapped()
    first = play.task(write_freeze, state="frozen", mounts=mounts, deadline_s=60)
    play.task(write_freeze, state="thawed", mounts=mounts)
    split = play.task(mirror_split, state="split", freeze=first["freeze"])
    assert play.outcome(extent_map, state="checked", split=split)["code"] == "not_split"

    second = play.task(write_freeze, state="frozen", mounts=mounts, deadline_s=60)
    again = play.task(mirror_split, state="split", freeze=second["freeze"])

    assert not again["changed"]
    for late in (split, again):
        assert play.outcome(extent_map, state="checked", split=late)["code"] == "not_split"
    play.task(write_freeze, state="thawed", mounts=mounts)
