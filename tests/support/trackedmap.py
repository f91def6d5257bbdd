# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tree on a real file system that is mapped, with its changes tracked and its mirror to compare with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import CheckCounts, check_map
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    file_system,
    frozen,
    make_all_sorts,
    mirror,
    split,
    tree_of,
    tree_of_map,
)


class Mapped:
    """A mapped tree whose changes are tracked."""

    def __init__(self, folder: Path, kind: str, mount: Path, map_file: MapFile, tracker: Tracker) -> None:
        self.folder = folder
        self.kind = kind
        self.mount = mount
        self.root = mount / "data"
        self.map_file = map_file
        self.tracker = tracker

    def check(self) -> CheckCounts:
        """Freeze, split, check, thaw; then the map is what the mirror shows, byte for byte."""
        with frozen(self.mount):
            split(self.folder, self.kind)
            counts = check_map(self.map_file, self.tracker)
        with mirror(self.folder, self.kind) as (mount, device):
            expected = tree_of(os.fsencode(mount / "data"), os.fsencode(self.root))
            found = tree_of_map(self.map_file.entries(), {1: device})
        assert found.keys() == expected.keys()
        for path, row in expected.items():
            assert found[path] == row, path
        return counts


@contextlib.contextmanager
def mapped_tree(folder: Path, kind: str, make: Callable[[Path], None] = make_all_sorts) -> Iterator[Mapped]:
    """A file system with a tree in ``data``, tracked and mapped; the map is ``map`` in the folder."""
    with file_system(folder, kind) as (mount, device):
        make(mount / "data")
        tracker = Tracker([str(mount)])
        tracker.start()
        try:
            with MapFile.create(str(folder / "map"), "s1", "host") as made:
                map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device)])
            with MapFile.open(str(folder / "map"), "s1") as opened:
                yield Mapped(folder, kind, mount, opened, tracker)
        finally:
            tracker.close()


def make_some(root: Path) -> None:
    """Four files in five folders."""
    for name in ("a/one", "a/two", "b/deep/er/three", "c/four"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.urandom(10_000))
