# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mirror modules over a real array of image files: the whole life of a session, repeated, checked, refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDERS
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.modules import (
    mirror_info,
    mirror_present,
    mirror_split,
    mirror_sync,
)
from ansible_collections.splitmirror.backup.tests.support.mirrors import (
    OTHER,
    SESSION,
    Array,
    kill,
    reflink_array,
    run_module,
)

pytestmark = pytest.mark.root

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def array(scratch: Path) -> Iterator[Array]:
    with reflink_array(scratch) as array:
        try:
            yield array
        finally:
            for session in (SESSION, OTHER):
                splitter.disarm(array.provider.state_dir, session)


@pytest.fixture
def call(array: Array) -> Run:
    """Run a module on the array's pairs."""

    def run(module: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        common = {
            "provider": "image",
            "pairs": [{**asdict(pair), "device": "/dev/null"} for pair in array.pairs],
            "state_dir": str(array.state),
        }
        return run_module(module.main, {**common, **options}, check=check)

    return run


def seen(array: Array) -> tuple[set[str], list[str], list[tuple[str, ...]]]:
    """All that a module could have changed."""
    return array.files(), array.records(), [state.devices for state in array.provider.state()]


def test_whole_life_of_a_session_each_step_twice_and_in_check_mode(array: Array, call: Run) -> None:
    steps: list[tuple[Any, dict[str, Any]]] = [
        (mirror_split, {"session": SESSION, "state": "armed", "arm_timeout_s": 60}),
        (mirror_split, {"session": SESSION, "state": "split"}),
        (mirror_present, {"session": SESSION, "state": "presented"}),
        (mirror_present, {"session": SESSION, "state": "withdrawn"}),
        (mirror_sync, {"session": SESSION, "state": "synced"}),
    ]
    assert call(mirror_sync)["changed"] is False
    for module, options in steps:
        before = seen(array)
        dry = call(module, check=True, **options)
        assert dry["changed"] is True, (module, options)
        assert seen(array) == before
        done = call(module, **options)
        assert done.get("failed") is None, done
        assert done["changed"] is True
        assert done["diff"]["before"] != done["diff"]["after"]
        if module is mirror_split and options["state"] == "split":
            array.provider._settled_record(SESSION)
        again = call(module, **options)
        assert again.get("failed") is None, again
        assert again["changed"] is False, (module, options)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []


def test_info_tells_each_phase_and_why_a_pair_cannot_be_split(array: Array, call: Run) -> None:
    fresh = call(mirror_info)
    assert fresh["splittable"] is True
    assert fresh["capabilities"] == {"atomic_set": False, "takes_turns": False}
    call(mirror_split, session=SESSION)
    split = call(mirror_info)
    assert split["splittable"] is False
    assert [(pair["phase"], pair["session"]) for pair in split["pairs"]] == [("split", SESSION)] * 2
    assert "already split by session" in split["pairs"][0]["problem"]


def test_split_of_several_pairs_outside_a_freeze_gets_a_warning(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    call(mirror_split, session=SESSION)
    assert [text.partition(" splits")[0] for text in warnings] == ["provider image"]
    call(mirror_sync, session=SESSION)
    call(mirror_split, session=OTHER, freeze="f1")
    assert len(warnings) == 1


def test_split_returns_devices_and_its_own_time(array: Array, call: Run) -> None:
    done = call(mirror_split, session=SESSION)
    assert done["devices"] == {pair.name: pair.mirror for pair in array.pairs}
    assert done["method"] == "reflink"
    whole_s = done["pairs"][1]["after_mono_s"] - done["pairs"][0]["before_mono_s"]
    assert done["split_s"] == pytest.approx(whole_s, abs=1e-6)
    assert whole_s > 0


@pytest.mark.parametrize("check", [False, True])
def test_mirror_held_by_another_session_is_refused_by_all(array: Array, call: Run, check: bool) -> None:
    call(mirror_split, session=SESSION)
    before = seen(array)
    for module, options in (
        (mirror_sync, {}),
        (mirror_sync, {"session": OTHER}),
        (mirror_split, {"session": OTHER, "state": "armed"}),
        (mirror_split, {"session": OTHER}),
        (mirror_present, {"session": OTHER}),
        (mirror_present, {"session": OTHER, "state": "withdrawn"}),
    ):
        refused = call(module, check=check, **options)
        assert refused.get("failed") is True, (module, options)
        assert refused["code"] == "mirror_held", (module, options)
        assert SESSION in refused["msg"]
    assert seen(array) == before


def test_recovered_cleans_up_behind_a_dead_session_and_then_has_nothing_to_do(array: Array, call: Run) -> None:
    call(mirror_split, session=SESSION)
    devices = call(mirror_present, session=SESSION)["devices"]
    dry = call(mirror_sync, state="recovered", check=True)
    assert [one["session"] for one in dry["recovered"]] == [SESSION]
    assert array.records() == [f"{SESSION}.json"]
    done = call(mirror_sync, state="recovered")
    assert done["changed"] is True
    (one,) = done["recovered"]
    assert (one["session"], one["phase"], one["pairs"]) == (SESSION, "split", ["data", "wal"])
    assert set(one["withdrawn"]) == set(devices.values())
    assert array.files() == {"data.img", "wal.img"}
    assert call(mirror_sync, state="recovered")["changed"] is False


def test_cleaning_up_behind_a_session_does_not_make_its_folder(array: Array, call: Run) -> None:
    call(mirror_sync, state="recovered", session=SESSION)
    assert not os.path.lexists(StateDir(str(array.state)).session_dir(SESSION))
    call(mirror_sync, for_session=SESSION)
    assert os.path.exists(StateDir(str(array.state)).status_file(SESSION))


def test_recovered_ends_the_splitter_of_the_session_it_is_given_and_of_no_other(array: Array, call: Run) -> None:
    pid = call(mirror_split, session=SESSION, state="armed")["pid"]
    refused = call(mirror_sync, state="recovered")
    assert refused["failed"] is True
    assert refused["code"] == "mirror_held"
    assert f"process {pid}" in refused["msg"]
    done = call(mirror_sync, state="recovered", session=SESSION)
    assert done["changed"] is True
    assert not os.path.exists(f"/proc/{pid}/exe")
    assert array.records() == []


def test_killed_splitter_is_recovered_without_its_name(array: Array, call: Run) -> None:
    pid = call(mirror_split, session=SESSION, state="armed")["pid"]
    kill(pid)
    done = call(mirror_sync, state="recovered")
    assert [one["session"] for one in done["recovered"]] == [SESSION]
    assert call(mirror_split, session=OTHER, state="armed")["changed"] is True


@pytest.mark.parametrize("dead", [[OTHER, SESSION], [SESSION, OTHER]], ids=["last", "first"])
@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_whichever_of_the_dead_sessions_stands_ready_all_are_recovered_at_once(
    array: Array, call: Run, dead: list[str], check: bool
) -> None:
    pid = call(mirror_split, session=SESSION, state="armed")["pid"]
    assert call(mirror_sync, state="recovered", dead_sessions=[OTHER])["code"] == "mirror_held"
    done = call(mirror_sync, state="recovered", dead_sessions=dead, check=check)
    assert done["changed"] is True
    assert os.path.exists(f"/proc/{pid}/exe") is check
    assert [pair["phase"] for pair in done["pairs"]] == ["none"] * len(array.pairs)
    call(mirror_sync, state="recovered", dead_sessions=dead)


def test_what_a_module_is_not_told_right_is_one_sentence(array: Array, call: Run) -> None:
    known = ", ".join(sorted(PROVIDERS))
    assert f"provider must be one of: {known}, got: vsp" in call(mirror_info, provider="vsp")["msg"]
    assert call(mirror_info, provider_options={"allow_copy": "perhaps"})["failed"]
    assert "provider_options.alow_copy" in call(mirror_info, provider_options={"alow_copy": True})["msg"]
    lvm = [{"name": "data", "primary": "san/data", "mirror": "san/data_rimage_1"}]
    refused = call(mirror_info, provider="lvm", pairs=lvm, provider_options={"allow_copy": True})
    assert refused["msg"] == "provider_options: 'allow_copy' is not an option of provider lvm; it has none."
    pair = {**asdict(array.pairs[0]), "options": {"color": "red"}}
    refused = call(mirror_info, pairs=[pair])
    assert refused["msg"] == "pairs: data: options: 'color' is not an option of provider image; it has none."
    assert call(mirror_split, session="../etc")["msg"].startswith("session: '../etc' is not a session id")
