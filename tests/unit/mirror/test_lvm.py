# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What LVM would refuse is told beforehand, also in states that a test machine cannot easily be brought into."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.lvm import LvmProvider, Volume, view_of
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

PAIR = Pair("data", "san/data", "san/data_rimage_1")
WHOLE = Volume(
    segtype="raid1",
    size_bytes=1 << 30,
    active=True,
    sync_percent=100.0,
    sync_action="idle",
    health="",
    integrity=False,
    lock_type="",
    writable=True,
    tags=(),
    devices=("data_rimage_0", "data_rimage_1"),
    number="254:4",
    hidden=False,
)
IMAGE = replace(WHOLE, segtype="linear", sync_percent=None, sync_action="", devices=("/dev/sdb",), hidden=True)


def volumes(image_0: Volume = IMAGE, image_1: Volume = IMAGE, **primary: Any) -> dict[str, Volume]:
    return {
        "san/data": replace(WHOLE, **primary),
        "san/data_rimage_0": image_0,
        "san/data_rimage_1": image_1,
    }


def test_a_whole_mirror_can_be_split() -> None:
    view = view_of(PAIR, volumes())
    assert (view.broken, view.syncing, view.split, view.sync_percent) == (None, None, False, 100.0)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"segtype": "linear"}, "only raid1"),
        ({"active": False}, "not active"),
        ({"writable": False}, "read-only"),
        ({"integrity": True}, "integrity"),
        ({"lock_type": "sanlock"}, "sanlock"),
        ({"health": "partial"}, "partial"),
        ({"health": "refresh needed"}, "refresh needed"),
        ({"health": "mismatches exist"}, "mismatches exist"),
        ({"image_0": replace(IMAGE, hidden=False)}, "another split image, san/data_rimage_0"),
        ({"image_1": replace(IMAGE, integrity=True)}, "integrity"),
    ],
)
def test_what_lvm_refuses_is_broken_with_its_reason(state: dict[str, Any], words: str) -> None:
    assert words in str(view_of(PAIR, volumes(**state)).broken)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"sync_percent": 43.21}, "43.21 %"),
        ({"sync_percent": 100.0, "sync_action": "check"}, "action: check"),
        ({"sync_percent": None}, "percentage unknown"),
    ],
)
def test_a_mirror_that_is_not_in_sync_is_waited_for(state: dict[str, Any], words: str) -> None:
    view = view_of(PAIR, volumes(**state))
    assert view.broken is None
    assert words in str(view.syncing)


def test_the_session_is_read_from_the_tag() -> None:
    assert view_of(PAIR, volumes(tags=("other", "splitmirror.session=s1"))).mark == "s1"
    assert view_of(PAIR, volumes(tags=("other",))).mark is None


@pytest.mark.parametrize(
    ("primary", "mirror"),
    [
        ("/dev/san/data", "san/data_rimage_1"),
        ("san/data", "san/other_rimage_1"),
        ("san/data", "san/data_rmeta_1"),
        ("san/data", "san/data_rimage_x"),
        ("san/--yes", "san/--yes_rimage_1; true"),
        ("-an/data", "-an/data_rimage_1"),
    ],
)
def test_other_names_than_those_of_lvm_are_refused(primary: str, mirror: str) -> None:
    with pytest.raises(MirrorError) as refusal:
        LvmProvider([Pair("data", primary, mirror)], StateDir("/nowhere"))
    assert refusal.value.option == "pairs"
