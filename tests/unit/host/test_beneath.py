# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What somebody else named is opened below its folder or not at all, with openat2 and without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.host import beneath

WAYS: list[Callable[[int, bytes, int], int]] = [beneath.by_openat2, beneath.step_by_step]
SECRET = b"of the media server"
#: Names that lead somewhere in the tree of these tests, out of it, or nowhere.
NAMES = st.sampled_from(
    [b"a", b"file", b"absolute", b"relative", b"up", b"inside", b"loop", b"out", b"none", b".", b"..", b"", b"a\0b"]
)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with every kind of link in it, and something beside it that is nobody's business."""
    base = tmp_path_factory.mktemp("beneath")
    (base / "file").write_bytes(SECRET)
    top = base / "top"
    for folder in (top, top / "a", top / "a/a", top / "out"):
        folder.mkdir()
        (folder / "file").write_bytes(b"of the host")
        (folder / "absolute").symlink_to(base)
        (folder / "relative").symlink_to(os.path.relpath(base, folder))
        (folder / "up").symlink_to("..")
        (folder / "inside").symlink_to("a")
        (folder / "loop").symlink_to("loop")
    return top


def content(fd: int) -> bytes:
    with open(fd, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_open_what_is_there(top: Path, way: Callable[[int, bytes, int], int]) -> None:
    folder = os.open(top, os.O_PATH)
    try:
        assert content(way(folder, b"file", os.O_RDONLY)) == b"of the host"
        assert content(way(folder, b"a/a/file", os.O_RDONLY)) == b"of the host"
        os.close(way(folder, b".", os.O_RDONLY | os.O_DIRECTORY))
    finally:
        os.close(folder)


@pytest.mark.slow
@settings(deadline=None, max_examples=int(os.environ.get("SPLITMIRROR_ROUNDS", "300")))
@given(st.lists(NAMES, min_size=1, max_size=5))
def test_no_path_leads_out_or_over_a_link(top: Path, names: list[bytes]) -> None:
    path = b"/".join(names)
    plain = all(name in (b"a", b"out", b"file") for name in names)
    for way in (None, *WAYS):
        try:
            if way is None:
                fd = beneath.open_beneath(os.fsencode(top), path, os.O_RDONLY)
            elif beneath.is_plain(b"/" + path):
                folder = os.open(top, os.O_PATH)
                try:
                    fd = way(folder, path, os.O_RDONLY)
                finally:
                    os.close(folder)
            else:
                continue
        except OSError:
            assert not (plain and os.path.exists(os.path.join(os.fsencode(top), path)))
            continue
        try:
            assert plain or path == b""
            assert os.readlink(f"/proc/self/fd/{fd}").startswith(str(top))
        finally:
            os.close(fd)


def test_a_path_longer_than_the_kernel_takes_at_once_is_opened(tmp_path: Path) -> None:
    name = "n" * 200
    here = os.open(tmp_path, os.O_RDONLY)
    for _depth in range(30):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    path = "/".join([name] * 30).encode()
    assert len(path) > 4096
    os.close(beneath.open_beneath(os.fsencode(tmp_path), path, os.O_RDONLY | os.O_DIRECTORY))


@pytest.mark.parametrize(
    ("path", "plain"),
    [(b"/", True), (b"/a/..b/.c", True), (b"a", False), (b"", False), (b"//", False), (b"/a/", False)]
    + [(path, False) for path in (b"/..", b"/a//b", b"/a/../b", b"/.", b"/a/.", b"/a\0b")],
)
def test_a_plain_path_has_nothing_but_names(path: bytes, plain: bool) -> None:
    assert beneath.is_plain(path) is plain
