# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a session's map is asked for, and what changed in what belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError, SegmentRow
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import Segment
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.mapping import (
    HostMapping,
    layout_changes,
    lun_specs,
    scope_changes,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir


def test_scopes_that_came_went_or_changed() -> None:
    before = [Scope("/a"), Scope("/b"), Scope("/c", exclude=("x",))]
    after = [Scope("/a"), Scope("/c"), Scope("/d")]
    assert scope_changes(before, after) == (["/c", "/d"], ["/b"])
    assert scope_changes(after, after) == ([], [])


HERE = (b"/", 5, "uuid", [Segment(0, "one", 0, 4096), Segment(4096, "two", 0, 4096)])


@pytest.mark.parametrize(
    "there",
    [
        (b"/folder", 5, "uuid", HERE[3]),
        (b"/", 6, "uuid", HERE[3]),
        (b"/", 5, "another", HERE[3]),
        (b"/", 5, "uuid", [Segment(0, "one", 0, 4096), Segment(4096, "three", 0, 4096)]),
        (b"/", 5, "uuid", [Segment(0, "one", 4096, 4096), Segment(4096, "two", 0, 4096)]),
        None,
    ],
)
def test_file_systems_that_came_went_or_lie_elsewhere(there: Optional[tuple[bytes, int, str, list[Segment]]]) -> None:
    one = {"/a": HERE, "/b": HERE}
    other = {"/a": HERE} if there is None else {"/b": there, "/a": HERE}
    assert layout_changes(one, other) == ["/b"]
    assert layout_changes(other, one) == ["/b"]
    assert layout_changes(other, other) == []


def test_the_layout_of_a_map_is_told_with_the_names_of_its_luns(tmp_path: Path) -> None:
    state = StateDir(str(tmp_path / "state"))
    state.make_session_dir("s1")
    with HostMapping(state, "s1", databases=[], paths=[], exclude=[], luns=[], needed=[]) as mapping:
        with MapFile.create(mapping.path, "s1", "host") as made:
            two, one = made.add_lun("two", 1 << 20), made.add_lun("one", 1 << 20)
            segments = [SegmentRow(0, one, 0, 4096), SegmentRow(4096, two, 0, 4096)]
            made.add_filesystem(
                mount_point=b"/a", fs_type="xfs", fs_uuid="uuid", block_bytes=4096, dev=5, segments=segments
            )
        assert mapping.known_layout() == {"/a": HERE}


def test_a_pair_without_a_device() -> None:
    assert lun_specs([{"name": "l", "device": "/dev/x", "serial": None}])[0].device == "/dev/x"
    with pytest.raises(MapError, match="pairs: l names no device"):
        lun_specs([{"name": "l", "device": None}])
