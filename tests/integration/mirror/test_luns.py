# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""lun_info on real loop devices: what lies on a LUN, its counters, and paths that lie on none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.modules import lun_info
from ansible_collections.splitmirror.backup.tests.support.blockdev import (
    XFS_MIN_MIB,
    loop_device,
    make_image,
    mounted,
    run,
)
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module

pytestmark = pytest.mark.root


@pytest.fixture
def lun(scratch: Path) -> Iterator[str]:
    with loop_device(make_image(scratch / "lun.img", XFS_MIN_MIB, "xfs")) as device:
        yield device


def look(device: str, *paths: object, **pair: Any) -> dict[str, Any]:
    pairs = [{"name": "data", "device": device, **pair}]
    return run_module(lun_info.main, {"pairs": pairs, "paths": [str(path) for path in paths]})


def test_tells_size_file_system_and_mounts(lun: str, scratch: Path) -> None:
    with mounted(lun, scratch / "with space") as folder:
        (told,) = look(lun, folder)["luns"]
        uuid = run("blkid", "-o", "value", "-s", "UUID", lun).stdout.strip()
        assert told["size_bytes"] == XFS_MIN_MIB << 20
        assert told["kernel_device"] == lun
        assert told["file_systems"] == [
            {"device": lun, "fs_type": "xfs", "fs_uuid": uuid, "mount_points": [str(folder)]}
        ]
    assert look(lun)["luns"][0]["file_systems"] == []


def test_counters_count_what_is_read_and_written(lun: str) -> None:
    before = look(lun)["luns"][0]
    run("dd", f"if={lun}", "of=/dev/null", "bs=1M", "count=4", "iflag=direct")
    run("dd", "if=/dev/zero", f"of={lun}", "bs=1M", "count=2", "oflag=direct")
    after = look(lun)["luns"][0]
    assert after["read_bytes"] - before["read_bytes"] >= 4 << 20
    assert after["read_bytes"] - before["read_bytes"] < 8 << 20
    assert after["written_bytes"] - before["written_bytes"] == 2 << 20


def test_path_on_a_lun_without_a_mirror_is_refused(lun: str, scratch: Path) -> None:
    image = make_image(scratch / "other.img", XFS_MIN_MIB, "xfs")
    with loop_device(image) as other, mounted(lun, scratch / "a") as inside, mounted(other, scratch / "b") as outside:
        assert "failed" not in look(lun, inside)
        refused = look(lun, inside, outside)
    assert refused["failed"] is True
    assert (refused["code"], refused["option"]) == ("file_unmappable", "paths")
    assert str(outside) in refused["msg"]


@pytest.mark.parametrize("path", ["/proc", "/nowhere/at/all"])
def test_path_that_is_no_such_thing_is_refused(lun: str, path: str) -> None:
    refused = look(lun, path)
    assert refused["failed"] is True
    assert path in refused["msg"]


def test_missing_and_wrong_devices_are_refused(lun: str, scratch: Path) -> None:
    no_device = run_module(lun_info.main, {"pairs": [{"name": "data"}]})
    for refused in (look(str(scratch / "none")), look(os.devnull), no_device, look(lun, serial="600140500d1e")):
        assert (refused["code"], refused["option"]) == ("option_invalid", "pairs")
