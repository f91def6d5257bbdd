# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A state folder on a disk that is full: one sentence that says so, nothing called damaged, and all well with room."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import MemberRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry, MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from tests.support.blockdev import run
from tests.support.tape import Held, Library, inline

pytestmark = pytest.mark.root

TREE = [inline(f"/srv/{number:04}", b"x") for number in range(1000)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "small"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", folder)  # it serves as a state folder, too
    try:
        yield folder
    finally:
        run("umount", folder)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A file takes all the room on the disk."""
    with open(folder / "filler", "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    yield
    (folder / "filler").unlink()


@contextmanager
def refused(why: str = "") -> Iterator[None]:
    with pytest.raises(SplitMirrorError, match=f"{why}.*make room") as caught:
        yield
    assert caught.value.option == "state_dir"
    assert "move it away" not in caught.value.message


def test_a_catalog_that_has_no_room_says_so_and_goes_on_when_it_has(small: Path) -> None:
    path = str(small / "catalog.sqlite")
    members = [MemberRecord(b"%d" % n, "f", 1, n * 1024, 512, "ab" * 32, 1, 0o644, 0, 0, None) for n in range(20000)]
    with full(small), refused():
        Catalog.open(path, writable=True)
    with Catalog.open(path, writable=True) as catalog:
        with full(small), refused("disk is full"):
            catalog.begin_session("s1", "db1")
        number = catalog.begin_session("s1", "db1")
        with full(small), refused("disk is full"):
            catalog.add_members(number, 0, members)
        assert list(catalog.members(number)) == []
        catalog.add_members(number, 0, members)
        assert len(list(catalog.members(number))) == len(members)
    with full(small), refused():
        Catalog.open(path, writable=True)
    with Catalog.open(path, writable=True) as catalog:
        assert [found.id for found in catalog.sessions()] == ["s1"]


@contextmanager
def no_map(path: Path) -> Iterator[None]:
    with pytest.raises(MapError, match="state_dir needs room") as caught:
        yield
    assert caught.value.option == "state_dir"
    assert not path.exists()


def test_a_map_that_has_no_room_says_so_and_is_not_left_behind(small: Path) -> None:
    path = small / "map.sqlite"
    rows = [FileEntry(b"/srv/%06d" % number, "f", inode=number) for number in range(1000)]

    def fill(made: MapFile) -> None:
        for row in rows:
            made.add_new(row, [])

    with full(small), no_map(path):
        MapFile.create(str(path), "s1", "host")
    with no_map(path), contextlib.ExitStack() as stack:
        made = MapFile.create(str(path), "s1", "host")
        fill(made)
        stack.enter_context(full(small))
        made.close()
    with no_map(path), contextlib.ExitStack() as stack:
        made = stack.enter_context(MapFile.create(str(path), "s1", "host"))
        fill(made)
        stack.enter_context(full(small))
        made.commit()
    with no_map(path), contextlib.ExitStack() as stack, MapFile.create(str(path), "s1", "host") as made:
        fill(made)
        stack.enter_context(full(small))
        made.index_inodes()


def test_a_map_that_was_whole_stays_when_there_is_no_room_for_its_changes(small: Path) -> None:
    path = str(small / "map.sqlite")
    MapFile.create(path, "s1", "host").close()
    opened = MapFile.open(path)
    for number in range(1000):
        opened.put_file(FileEntry(b"/srv/%06d" % number, "f"), [])
    with full(small), pytest.raises(MapError, match="state_dir needs room"):
        opened.close()
    with MapFile.open(path) as opened:
        assert opened.counts().entries == 0


def test_a_volume_is_not_called_damaged_for_what_the_state_folder_lacks(small: Path) -> None:
    library = Library(small)
    with library.catalog:
        library.make(capacity_bytes=12 << 20)
        library.label()
        library.back_up("s1", TREE)
        before = library.content()
        with full(small), library.drive(writable=False) as drive:
            with refused("No space left"):
                verify_session(find_good_session(library.catalog, "s1", None), library.catalog, Held(drive))
            with refused("No space left"):
                rebuild("V1", library.catalog, drive)
        with library.drive(writable=False) as drive:
            assert [found["session"] for found in rebuild("V1", library.catalog, drive)["known"]] == ["s1"]
        assert library.content() == before


@pytest.fixture
def library(small: Path, tmp_path: Path) -> Iterator[Library]:
    """A library with the session s1, whose catalog alone is on the small disk."""
    made = Library(tmp_path)
    made.make(capacity_bytes=64 << 20)
    made.label()
    made.back_up("s1", TREE)
    made.catalog.close()
    shutil.move(tmp_path / "catalog.sqlite", small / "catalog.sqlite")
    (tmp_path / "catalog.sqlite").symlink_to(small / "catalog.sqlite")
    made.catalog = Catalog.open(str(tmp_path / "catalog.sqlite"), writable=True)
    with made.catalog:
        yield made


def test_a_session_that_the_catalog_has_no_room_for_leaves_nothing_on_the_volume(small: Path, library: Library) -> None:
    before = library.content()
    with full(small), refused():
        library.back_up("s2", TREE)
    assert library.content() == before
    assert library.back_up("s2", TREE)["file_number"] == 2


def test_what_failed_first_is_told_when_the_catalog_has_no_room_for_it(small: Path, library: Library) -> None:
    job = library.job("s2", TREE)
    with contextlib.ExitStack() as stack:

        class FillingTape(VirtualTape):
            def write_record(self, _record: Buffer) -> None:
                stack.enter_context(full(small))
                raise TapeError("drive: it broke.", option="drive")

        with FillingTape(str(library.folder), writable=True) as drive, pytest.raises(TapeError, match="it broke"):
            write_session(job, library.on(drive))
    assert library.back_up("s2", TREE)["file_number"] == 2
