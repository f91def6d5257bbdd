# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file systems carry a block device, told from a sysfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder.nested_mounts import lies_on


class Sysfs:
    """A sysfs with the few files that matter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev" / "block").mkdir(parents=True)

    def device(self, name: str, minor: int, *, parent: str = "", slaves: tuple[str, ...] = ()) -> Path:
        folder = self.root / "devices" / parent / name
        (folder / "slaves").mkdir(parents=True)
        for slave in slaves:
            (folder / "slaves" / slave).symlink_to(self.root / "devices" / slave)
        if parent:
            (folder / "partition").write_text("1\n")
        (self.root / "dev" / "block" / f"250:{minor}").symlink_to(folder)
        return folder

    def loop(self, name: str, minor: int, file: Path) -> None:
        folder = self.device(name, minor)
        (folder / "loop").mkdir()
        (folder / "loop" / "backing_file").write_text(f"{file}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path / "sys")


def carriers(sysfs: Sysfs, minor: int) -> set[int]:
    return lies_on(os.makedev(250, minor), str(sysfs.root))


def test_a_disk_lies_on_nothing(sysfs: Sysfs) -> None:
    sysfs.device("sda", 1)
    assert carriers(sysfs, 1) == set()
    assert carriers(sysfs, 99) == set()


def test_a_loop_device_lies_on_the_file_system_of_its_file(sysfs: Sysfs, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    sysfs.loop("loop0", 1, image)
    assert carriers(sysfs, 1) == {image.stat().st_dev}


def test_layers_and_partitions_are_seen_through(sysfs: Sysfs, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    sysfs.loop("loop0", 1, image)
    sysfs.device("loop0p1", 2, parent="loop0")
    sysfs.device("dm-0", 3, slaves=("loop0",))
    sysfs.device("dm-1", 4, slaves=("dm-0",))
    for minor in (2, 3, 4):
        assert carriers(sysfs, minor) == {image.stat().st_dev}


def test_a_backing_file_that_is_gone_is_passed_over(sysfs: Sysfs, tmp_path: Path) -> None:
    sysfs.loop("loop0", 1, tmp_path / "gone (deleted)")
    assert carriers(sysfs, 1) == set()
