# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is mounted below a scope after it was mapped is never silently not in the backup."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, LEAVE_OUT
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.checking import MapChecker
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import EventLog
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.fsload import file_system, frozen
from ansible_collections.splitmirror.backup.tests.support.hostile import fuse_mount

pytestmark = pytest.mark.root


class Case:
    """A mapped scope with a folder ``in``, and things that can be mounted there."""

    def __init__(self, mount: Path, map_file: MapFile, tracker: Tracker, other: str) -> None:
        self.mount = mount
        self.folder = mount / "data/in"
        self.map_file = map_file
        self.tracker = tracker
        self.other = other

    def check(self) -> None:
        unclosed: list[int] = []
        try:
            with frozen(self.mount):
                check_map(self.map_file, self.tracker, unclosed)
        finally:
            for fd in unclosed:
                os.close(fd)

    @contextlib.contextmanager
    def mounting(self, how: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if how == "ext4":
                stack.enter_context(mounted(self.other, self.folder))
            elif how == "bind":
                run("mount", "--bind", self.mount / "data/source", self.folder)
                stack.callback(run, "umount", self.folder)
            elif how == "tmpfs":
                run("mount", "-t", "tmpfs", "none", self.folder)
                stack.callback(run, "umount", self.folder)
            elif how == "over the scope":
                stack.enter_context(mounted(self.other, self.mount / "data"))
            else:
                stack.enter_context(fuse_mount(self.folder))
            yield


@contextlib.contextmanager
def mapped_case(scratch: Path, on_unreadable: str = FAIL, with_inner: bool = False) -> Iterator[Case]:
    with contextlib.ExitStack() as stack:
        mount, device = stack.enter_context(file_system(scratch, "ext4", 64))
        other = stack.enter_context(loop_device(make_image(scratch / "other", 16, "ext4")))
        for folder in ("in", "source"):
            (mount / "data" / folder).mkdir(parents=True)
            (mount / "data" / folder / "file").write_bytes(b"x" * 5000)
        inner = stack.enter_context(contextlib.ExitStack())
        luns = [LunSpec("lun", device)]
        if with_inner:
            inner.enter_context(mounted(other, mount / "data/in"))
            luns.append(LunSpec("other", other))
        tracker = Tracker([str(mount)])
        tracker.start()
        stack.callback(tracker.close)
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "data"))], luns, on_unreadable=on_unreadable)
        inner.close()
        yield Case(mount, stack.enter_context(MapFile.open(str(scratch / "map"), "s1")), tracker, other)


@pytest.mark.parametrize("how", ["ext4", "bind", "tmpfs", "fuse", "over the scope"])
def test_a_mount_that_came_after_the_map_is_refused_before_the_freeze_and_in_it(scratch: Path, how: str) -> None:
    with mapped_case(scratch) as case:
        pre_check(case.map_file, case.tracker)
        with case.mounting(how):
            with pytest.raises(MapError, match=r"paths: .*/data.*(was mounted after|cannot be mapped)"):
                case.check()
            with pytest.raises(MapError, match=r"paths: .*/data.*(was mounted after|cannot be mapped)"):
                pre_check(case.map_file, case.tracker)
        pre_check(case.map_file, case.tracker)
        case.check()


@pytest.mark.parametrize("how", ["ext4", "bind", "over the scope"])
def test_what_could_have_been_mapped_is_never_left_out(scratch: Path, how: str) -> None:
    with mapped_case(scratch, LEAVE_OUT) as case, case.mounting(how):
        with pytest.raises(MapError, match="was mounted after"):
            pre_check(case.map_file, case.tracker)
        with pytest.raises(MapError, match="was mounted after"):
            case.check()


@pytest.mark.parametrize("when", ["before", "inside"])
def test_what_can_never_be_mapped_is_left_out_and_named(scratch: Path, when: str) -> None:
    with mapped_case(scratch, LEAVE_OUT) as case:
        if when == "inside":
            pre_check(case.map_file, case.tracker)
        with case.mounting("fuse"):
            if when == "before":
                pre_check(case.map_file, case.tracker)
            case.check()
        assert [path for path, _why in case.map_file.left_out()] == [os.fsencode(case.folder)]
        paths = [entry.path for entry, _extents in case.map_file.entries()]
        assert os.fsencode(case.mount / "data/source/file") in paths
        assert not [path for path in paths if path.startswith(os.fsencode(case.folder))]


def test_a_file_system_that_went_after_the_map_is_refused(scratch: Path) -> None:
    with mapped_case(scratch, with_inner=True) as case, pytest.raises(MapError, match="is not mounted any more"):
        pre_check(case.map_file, case.tracker)


def test_the_holder_says_what_is_left_out_and_why_a_check_is_not_complete(scratch: Path) -> None:
    with mapped_case(scratch, LEAVE_OUT) as case:
        case.map_file.close()
        checker = MapChecker(case.map_file.path, "s1", EventLog())
        checker.track([str(case.mount)])
        try:
            devices = {os.stat(case.mount).st_dev}
            with case.mounting("fuse"):
                checker.pre_check(devices)
                with frozen(case.mount):
                    checked = checker.checked_or_why_not(devices, 100.0)
                checker.thawed()
            assert checked["complete"]
            assert checked["left_out"]["count"] == 1
            assert checked["left_out"]["paths"][0]["path"] == str(case.folder)
            with case.mounting("ext4"), frozen(case.mount):
                # It is left out already, and stays so in this session.
                assert checker.checked_or_why_not(devices, 100.0)["complete"]
            checker.thawed()
            with case.mounting("over the scope"), frozen(case.mount):
                checked = checker.checked_or_why_not(devices, 100.0)
            checker.thawed()
            assert not checked["complete"]
            assert "was mounted after" in checked["error"]
        finally:
            checker.close()
