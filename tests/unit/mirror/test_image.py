# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image provider without block sharing: refusals, records, and the copy that the user allowed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider, temp_name
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.mirrors import OTHER, SESSION, Array


@pytest.fixture
def array(tmp_path: Path) -> Array:
    folder = tmp_path / "luns"
    folder.mkdir()
    return Array(folder, tmp_path / "state", allow_copy=True)


def test_unknown_provider_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match=r"'hitachi' is not known; use one of drbd, external, image, ") as caught:
        make_provider("hitachi", [], str(tmp_path))
    assert caught.value.option == "provider"


def test_lun_without_a_mirror_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="pair data has no mirror"):
        make_provider("image", [{"name": "data", "primary": "/luns/data.img", "mirror": None}], str(tmp_path))


def test_pair_without_a_primary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="pair data has no primary"):
        make_provider("image", [{"name": "data", "mirror": "/luns/data.img"}], str(tmp_path))


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "the mirror set is empty"),
        ([Pair("a", "/l/a", "/l/ma"), Pair("a", "/l/b", "/l/mb")], "two pairs named a"),
        ([Pair("a", "/l/a", "/l/ma"), Pair("b", "/l/a", "/l/mb")], "/l/a is in the mirror set twice"),
        ([Pair("a", "/l/a", "/l/m"), Pair("b", "/l/b", "/l/m")], "/l/m is in the mirror set twice"),
        ([Pair("a", "/l/a", "/l/a")], "/l/a is in the mirror set twice"),
        ([Pair("a", "a.img", "/l/m")], "needs an absolute path"),
    ],
)
def test_bad_mirror_set_is_refused(tmp_path: Path, pairs: list[Pair], sentence: str) -> None:
    with pytest.raises(MirrorError, match=sentence):
        ImageProvider(pairs, StateDir(str(tmp_path)))


def test_two_names_of_one_image_are_one_lun(array: Array) -> None:
    (array.folder / "alias.img").symlink_to("data.img")
    pairs = [array.pairs[0], Pair("alias", str(array.folder / "alias.img"), str(array.folder / "x"))]
    with pytest.raises(MirrorError, match=r"data\.img is in the mirror set twice"):
        ImageProvider(pairs, StateDir(str(array.state)))


def test_missing_primary_is_told(array: Array) -> None:
    os.unlink(array.pairs[1].primary)
    assert array.provider.state()[1].in_sync is False
    with pytest.raises(MirrorError, match=r"pair wal: its primary .* cannot be found"):
        array.provider.sync(wait=True, timeout_s=1)
    with pytest.raises(MirrorError, match="cannot be found"):
        array.provider.split(SESSION)
    assert array.records() == []


def test_missing_folder_of_a_mirror_is_told(array: Array) -> None:
    provider = ImageProvider([Pair("a", array.pairs[0].primary, "/nowhere/at/all/m")], StateDir(str(array.state)))
    with pytest.raises(MirrorError, match="the folder /nowhere/at/all"):
        provider.split(SESSION)


def test_without_block_sharing_it_refuses_and_leaves_nothing(array: Array) -> None:
    strict = ImageProvider(array.pairs, StateDir(str(array.state)))
    with pytest.raises(MirrorError, match="cannot share blocks"):
        strict.split(SESSION)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []


def test_allowed_copy_is_whole_sparse_and_read_only(array: Array) -> None:
    with open(array.pairs[0].primary, "r+b") as image:
        image.seek(700_000)
        image.write(b"behind a hole")
    result = array.provider.split(SESSION)
    assert result.method == "copy"
    for pair in array.pairs:
        assert Path(pair.mirror).read_bytes() == Path(pair.primary).read_bytes()
        assert os.stat(pair.mirror).st_blocks <= os.stat(pair.primary).st_blocks
        assert stat.S_IMODE(os.stat(pair.mirror).st_mode) == 0o400
    assert array.files() == {"data.img", "wal.img", "data.mirror", "wal.mirror"}


def test_primary_under_another_mirror_name_is_held_too(array: Array) -> None:
    array.provider.split(SESSION)
    other = ImageProvider([Pair("x", array.pairs[0].primary, str(array.folder / "y"))], StateDir(str(array.state)))
    with pytest.raises(MirrorError, match=f"already split by session {SESSION}"):
        other.split(OTHER)


def test_broken_record_is_named_and_kept(array: Array) -> None:
    array.provider.split(SESSION)
    record = array.state / "mirrors" / f"{SESSION}.json"
    text = record.read_text()
    for bad in (text[:40], json.dumps({**json.loads(text), "format_version": 99})):
        record.write_text(bad)
        with pytest.raises(MirrorError, match=r"\.json: this is not a valid record of a split mirror"):
            array.provider.state()
    assert record.exists()


def test_temporary_name_stays_in_the_folder_of_the_mirror(array: Array) -> None:
    assert os.path.dirname(temp_name(array.pairs[0], SESSION)) == str(array.folder)
