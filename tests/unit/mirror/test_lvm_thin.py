# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What LVM would refuse is told beforehand, also in states that a test machine cannot easily be brought into."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import lvm_thin
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.lvm_thin import ThinVolume, view_of

PAIR = Pair("data", "pve/data", "pve/data_mirror")
POOL = ThinVolume(
    segtype="thin-pool",
    size_bytes=1 << 30,
    active=True,
    writable=True,
    tags=(),
    number="254:1",
    pool="pve/",
    data_percent=50.0,
    metadata_percent=20.0,
    health="",
    group_writable=True,
)
THIN = replace(POOL, segtype="thin", pool="pve/pool", number="254:2")
LIMIT_PERCENT = 90


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvm_thin, "kernel_version", lambda: (6, 1))
    monkeypatch.setattr(lvm_thin, "file_system_on", lambda number: number == "254:9")


def problem(pool: dict[str, Any], **primary: Any) -> str:
    volumes = {"pve/data": replace(THIN, **primary), "pve/pool": replace(POOL, **pool)}
    return str(view_of(PAIR, volumes, LIMIT_PERCENT).broken)


@pytest.mark.parametrize(
    ("pool", "primary", "words"),
    [
        ({}, {}, "None"),
        ({}, {"segtype": "raid1"}, "only a thin volume"),
        ({}, {"active": False}, "not active"),
        ({}, {"group_writable": False}, "read-only"),
        ({"data_percent": 89.99}, {}, "None"),
        ({"data_percent": 90.0}, {}, "whose data space is 90 % full"),
        ({"metadata_percent": 97.5}, {}, "whose metadata space is 97.5 % full"),
        ({"health": "out_of_data"}, {}, "out_of_data"),
        ({"health": "metadata_read_only"}, {}, "metadata_read_only"),
        ({}, {"number": "254:9"}, "mounted on this host"),
    ],
)
def test_what_would_fail_in_the_window_is_broken_with_its_reason(
    pool: dict[str, Any], primary: dict[str, Any], words: str
) -> None:
    assert words in problem(pool, **primary)


def test_a_kernel_with_nested_freezes_takes_what_is_mounted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvm_thin, "kernel_version", lambda: (6, 8))
    assert problem({}, number="254:9") == "None"


@pytest.mark.parametrize(("tags", "mark"), [(("splitmirror.session=s1", "other"), "s1"), (("other",), ""), (("",), "")])
def test_the_session_is_read_from_the_tag_of_the_snapshot(tags: tuple[str, ...], mark: str) -> None:
    volumes = {"pve/data": THIN, "pve/pool": POOL, "pve/data_mirror": replace(THIN, tags=tags, active=False)}
    view = view_of(PAIR, volumes, LIMIT_PERCENT)
    assert (view.mark, view.devices) == (mark, ())
