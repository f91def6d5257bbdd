# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mirror of another freeze is refused, though its size and its file systems are the right ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.seal import seal
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import (
    MirrorViewError,
    check_devices,
    check_seals,
)
from ansible_collections.splitmirror.backup.tests.support.fsload import file_system, frozen, mirror, split

pytestmark = pytest.mark.root


def synced_write(path: Path) -> None:
    """Write a file so that it is on disk, without the freeze of its file system."""
    with open(path, "wb") as file:
        file.write(b"x" * 10_000)
        os.fsync(file.fileno())


@pytest.mark.parametrize("kind", ["xfs", "ext4", "ext4-1k"])
def test_the_mirror_of_the_freeze_is_taken_and_any_other_refused(scratch: Path, kind: str) -> None:
    with file_system(scratch, kind) as (mount, device):
        (mount / "data").mkdir()
        synced_write(mount / "data" / "first")
        with frozen(mount):
            split(scratch, kind)  # the mirror of an earlier session
        (scratch / "mirror.img").rename(scratch / "earlier.img")
        synced_write(mount / "data" / "second")
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device)])
        with MapFile.open(str(scratch / "map"), "s1") as opened:
            with frozen(mount):
                seal(opened)
                split(scratch, kind)
            with mirror(scratch, kind) as (_folder, right):
                found = check_devices(opened, {"lun": right})
                check_seals(opened, found)
            (scratch / "mirror.img").rename(scratch / "right.img")

            (scratch / "earlier.img").rename(scratch / "mirror.img")
            with mirror(scratch, kind) as (_folder, earlier), pytest.raises(MirrorViewError, match="does not begin as"):
                check_devices(opened, {"lun": earlier})

            synced_write(mount / "data" / "third")
            with frozen(mount):
                split(scratch, kind)  # as after a resync
            with mirror(scratch, kind) as (_folder, later), pytest.raises(MirrorViewError, match="does not begin as"):
                check_devices(opened, {"lun": later})


def test_a_map_that_was_never_sealed_breaks_nothing(scratch: Path) -> None:
    with file_system(scratch, "xfs") as (mount, device):
        (mount / "data").mkdir()
        with MapFile.create(str(scratch / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", device)])
        with frozen(mount):
            split(scratch, "xfs")
        with MapFile.open(str(scratch / "map"), "s1") as opened, mirror(scratch, "xfs") as (_folder, right):
            check_devices(opened, {"lun": right})
