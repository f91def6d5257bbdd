# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A short torture: what the archive holds is what the mirror shows, and only because map and mirror are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import CheckCounts
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.tests.integration.torture import rounds
from ansible_collections.splitmirror.backup.tests.integration.torture.load import Size

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = Size(files=2000, large_bytes=32 << 20, sparse_bytes=64 << 20, pace=2000)
LUN_MIB = 1024


def do_nothing(map_file: MapFile, tracker: Tracker) -> CheckCounts:
    """A check that looks at nothing."""
    map_file.set_state("checked")
    map_file.commit()
    return CheckCounts(0, 0, 0, 0, 0, tracker.kind)


def break_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pre_check", "check_map"):
        monkeypatch.setattr(rounds, name, do_nothing)


@pytest.mark.parametrize("fs_type", ["xfs", "ext4"])
def test_an_archive_taken_under_load_is_the_mirror(scratch: Path, fs_type: str) -> None:
    with rounds.rig(scratch, fs_type, seed=11, size=SIZE, lun_mib=LUN_MIB) as rig:
        for _dummy in range(2):
            done = rig.round()
            assert done.differences == []
            assert done.members > SIZE.files // 3
            assert done.proof["examined"] >= done.members


@pytest.mark.parametrize("fs_type", ["xfs", "ext4"])
def test_each_layer_makes_up_for_what_is_broken_and_without_both_it_shows(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, fs_type: str
) -> None:
    with rounds.rig(scratch, fs_type, seed=12, size=SIZE, lun_mib=LUN_MIB) as rig:
        break_the_check(monkeypatch)
        done = rig.round()
        assert done.differences == []
        assert done.proof["remapped"] > 0
        assert shows(rig)


def shows(rig: rounds.Rig) -> bool:
    """A round that nothing checks stops at a file which is gone and needed the mount, or writes what is not there."""
    try:
        return rig.round(proof="none").differences != []
    except ArchiveError:
        return True
