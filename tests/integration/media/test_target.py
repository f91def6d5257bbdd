# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring to file systems that cannot take everything: the rest is there, and what is missing has a name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.tests.support.tape import MTIME_NS, Held, Library, folder, inline, link

DEVICE = FileEntry(b"/srv/null", "c", mode=0o666, rdev_major=1, rdev_minor=3, mtime_ns=MTIME_NS)
LONG_LINK = link("/srv/long", "x" * 1500)
TREE = [
    folder("/srv"),
    inline("/srv/a", b"a" * 3000),
    inline("/srv/large", b"b" * (2 << 20)),
    LONG_LINK,
    DEVICE,
    inline("/srv/z", b"z"),
]
_PR_CAPBSET_DROP = 24
_CAP_MKNOD = 27


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    """One with a session of the tree."""
    made = Library(tmp_path)
    made.make()
    made.label()
    made.back_up("s1", TREE)
    yield made
    made.catalog.close()


@contextlib.contextmanager
def mounted(where: Path, *words: str) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", *words, str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def missing(library: Library, target: Path) -> dict[str, str]:
    """What a restore names, and why; everything else must be there."""
    with (
        library.drive(writable=False) as drive,
        contextlib.closing(Catalog.open(library.catalog.path)) as catalog,
        pytest.raises(SplitMirrorError) as caught,
    ):
        restore(RestoreJob("s1", str(target)), catalog, Held(drive))
    assert caught.value.option == "target"
    facts = caught.value.facts
    named = {row["path"]: row["reason"] for key in ("missing", "doubtful") for row in facts[key]}
    for entry in TREE:
        if os.fsdecode(entry.path) not in named:
            found = os.lstat(target / os.fsdecode(entry.path[1:]))
            assert entry.kind != "f" or found.st_size == entry.size
            assert found.st_mtime_ns == MTIME_NS
    assert (target / "srv/a").read_bytes() == b"a" * 3000
    return named


def test_a_link_longer_than_its_file_system_takes(library: Library, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", str(image)], check=True)
    # it has a folder lost+found
    with mounted(tmp_path / "t", "-o", "loop", str(image)) as target:
        named = missing(library, target)
        assert sorted(os.listdir(target)) == ["lost+found", "srv"]
    assert set(named) == {"/srv/long"}
    assert "File name too long" in named["/srv/long"]


def test_a_full_file_system(library: Library, tmp_path: Path) -> None:
    with mounted(tmp_path / "t", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as target:
        named = missing(library, target)
    assert "/srv/large" in named
    assert "/srv/a" not in named


def test_no_right_to_make_devices(library: Library, tmp_path: Path) -> None:
    named: dict[str, str] = {}

    def without_the_right() -> None:
        # it holds for this thread and the programs that it starts
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(_PR_CAPBSET_DROP, _CAP_MKNOD, 0, 0, 0) == 0
        named.update(missing(library, tmp_path / "t"))

    thread = threading.Thread(target=without_the_right)
    thread.start()
    thread.join()
    assert set(named) == {"/srv/null"}
    assert "Operation not permitted" in named["/srv/null"]
