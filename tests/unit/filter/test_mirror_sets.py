# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pairs are grouped by what splits them, each set has its own steps, and what does not fit is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.filter.mirror_sets import mirror_set_faults, mirror_sets
from ansible_collections.splitmirror.backup.plugins.filter.session_steps import session_steps
from ansible_collections.splitmirror.backup.plugins.filter.wrong_options import wrong_options
from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PAIR_OVERRIDES

OURS = str(Path(__file__).parents[3] / "roles/mirrored_backup/tasks/array")
STEPS = ["recover", "sync", "present"]
HOST: dict[str, Any] = {
    "array": "array1",
    "array_state_dir": "/state/1",
    "array_tasks": "",
    "array_options": {},
    "provider": "image",
    "provider_options": {"allow_copy": True},
    "transport": "local",
}
HOSTVARS: dict[str, Any] = {"db1": {}, "array1": {}, "array2": {"splitmirror_state_dir": "/state/2"}, "array3": {}}


def sets(*pairs: Any, **host: Any) -> list[dict[str, Any]]:
    return mirror_sets(list(pairs), {**HOST, **host}, HOSTVARS, ours=OURS, steps=STEPS)


def pair(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "primary": f"/{name}", **more}


def test_pairs_that_say_nothing_are_one_set_of_their_host() -> None:
    (only,) = sets(pair("a"), pair("b"))
    assert {key: only[key] for key in HOST} == HOST
    assert only["pairs"] == [pair("a"), pair("b")]
    assert (only["title"], only["faults"]) == ("array1", [])
    assert only["files"] == only["ours"] == {step: f"{OURS}/default/{step}.yml" for step in STEPS}


@pytest.mark.parametrize("key", sorted(PAIR_OVERRIDES))
def test_each_key_that_differs_makes_a_set_and_no_module_sees_it(key: str) -> None:
    other = {
        "array": "array2", "array_state_dir": "/x", "array_tasks": "default", "array_options": {"x": 1},
        "provider": "lvm", "provider_options": {}, "transport": "tgt",
    }[key]  # fmt: skip
    first, second = sets(pair("a"), pair("b", **{key: other}), pair("c"), pair("d", **{key: other}))
    assert (first[key], second[key]) == (HOST[key], other)
    assert [one["name"] for one in first["pairs"] + second["pairs"]] == ["a", "c", "b", "d"]
    assert all(set(one) <= set(PAIRS_SPEC["pairs"]["options"]) for one in first["pairs"] + second["pairs"])
    assert first["title"] != second["title"]


def test_what_is_meant_for_the_hosts_own_array_and_provider_goes_to_no_other() -> None:
    found = sets(
        pair("a"), pair("b", array="array2"), pair("c", array="array3", provider="lvm"), pair("d", provider="lvm"),
        array_tasks="default",
    )  # fmt: skip
    assert [one["array_state_dir"] for one in found] == ["/state/1", "/state/2", "/var/lib/splitmirror", "/state/1"]
    assert [one["provider_options"] for one in found] == [HOST["provider_options"]] * 2 + [None] * 2
    assert [one["array_tasks"] for one in found] == ["default", "default", "", ""]
    assert [one["title"] for one in found] == ["array1 (a)", "array2", "array3", "array1 (d)"]


def test_a_recipe_has_its_options_from_its_array_or_its_pair() -> None:
    hostvars = {**HOSTVARS, "array2": {"splitmirror_array_options": {"address": "two"}}}
    pairs = [pair("a"), pair("b", array="array2"), pair("c", array="array3", array_options={"port": 3})]
    host = {**HOST, "provider": "external", "array_tasks": "ontap", "array_options": {"address": "one"}}
    found = mirror_sets(pairs, host, hostvars, ours=OURS, steps=STEPS)
    assert [one["array_options"] for one in found] == [{"address": "one"}, {"address": "two"}, {"port": 3}]
    # Those of the host were made of its own options; the others are made when a step of the set runs.
    assert [one["provider_options"] for one in found] == [HOST["provider_options"], None, None]
    recipes = {"ontap": {"needs": ["address"], "takes": []}}
    assert mirror_set_faults(found[:2], host, list(HOSTVARS), recipes) == []
    needs, unknown = mirror_set_faults(found, host, list(HOSTVARS), recipes)
    assert "recipe ontap needs address" in needs
    assert "recipe ontap does not have port; it has address" in unknown
    (other,) = mirror_set_faults([{**found[0], "provider": "lvm"}], host, list(HOSTVARS), recipes)
    assert "recipe ontap needs external" in other


@pytest.mark.parametrize("pairs", ["a string", None, {}, ["a string", None, 7]])
def test_what_is_no_list_of_pairs_is_no_set(pairs: Any) -> None:
    found = mirror_sets(pairs, HOST, HOSTVARS, ours=OURS, steps=STEPS)
    assert found == []
    assert "there is no pair" in mirror_set_faults(found, HOST, list(HOSTVARS))[0]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([pair("a"), pair("b", array="array9")], "splitmirror_pairs: b: array is array9, which is not a host"),
        (
            [pair("a"), pair("b", provider="lvm")],
            "splitmirror_pairs: a and b are two mirror sets on array1, and both keep their records in /state/1",
        ),
        ([pair("a"), pair("a", array="array2")], "splitmirror_pairs: there are two pairs named a"),
        ([pair("a", array_tasks="nowhere")], "splitmirror_array_tasks: there is no folder nowhere"),
    ],
)
def test_each_fault_is_one_sentence(pairs: list[Any], sentence: str) -> None:
    assert mirror_set_faults(sets(pair("z", array="array3")), HOST, list(HOSTVARS)) == []
    (found,) = mirror_set_faults(sets(*pairs), HOST, list(HOSTVARS))
    assert found.startswith(sentence)


def test_an_extra_variable_that_would_win_over_a_pair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"splitmirror_provider": "image", "splitmirror_pairs": [], "splitmirror_array": "array1", "other": 1}
    monkeypatch.setattr(
        "ansible_collections.splitmirror.backup.plugins.filter.mirror_sets.load_extra_vars", lambda loader: given
    )
    assert mirror_set_faults(sets(pair("a"), pair("b")), HOST, list(HOSTVARS)) == []
    found = mirror_set_faults(sets(pair("a"), pair("b", array="array2")), HOST, list(HOSTVARS))
    assert [sentence.partition(":")[0] for sentence in found] == ["splitmirror_array", "splitmirror_pairs"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"provider": "lmv"}, "provider: 'lmv' is not known (did you mean 'lvm'?)"),
        ({"provider": "lvm", "provider_options": {"x": 1}}, "provider_options: 'x' is not an option of provider lvm"),
        ({"provider_options": {"allow_cpoy": 1}}, "provider_options: 'allow_cpoy' is not an option of provider image"),
        ({"provider": "lvm", "options": {"x": 1}}, "options: 'x' is not an option of provider lvm"),
        ({"transport": "magic"}, "option 'transport' must be one of"),
        ({"array_state_dir": "here"}, "option 'array_state_dir' must be an absolute path"),
        ({"aray": "array2"}, "'aray' is not an option of a pair (did you mean 'array'?)"),
    ],
)
def test_what_a_pair_says_otherwise_is_looked_at(keys: dict[str, Any], sentence: str) -> None:
    variables = {"databases": [], "provider": "image", "provider_options": {}, "pairs": [pair("a", **keys)]}
    (found,) = wrong_options({f"splitmirror_{name}": value for name, value in variables.items()})
    assert found.startswith("splitmirror_pairs: a: ")
    assert sentence in found


ORDER: list[dict[str, Any]] = [
    {"phase": "one", "in_check_mode": True, "tasks": ["once", {"tasks": "array/sync", "for": "each"}]},
    {
        "phase": "two",
        "in_check_mode": False,
        "tasks": [
            {"tasks": "never", "when": False},
            {"tasks": "always", "when": True},
            {"tasks": "array/present", "for": "exported"},
            {"tasks": "attach", "for": "attached"},
        ],
    },
]


def told(steps: list[dict[str, Any]]) -> list[str]:
    return [" ".join([step["name"], *([str(step["number"])] if "number" in step else [])]) for step in steps]


def test_hosts_with_the_same_steps_share_all_items_and_others_none() -> None:
    """What Ansible includes for several hosts at once, it includes where the first of them has it."""
    one, alike = (session_steps(ORDER, sets(pair(name), transport="tgt")) for name in "ab")
    assert one == alike
    others = [
        session_steps(ORDER, sets(pair("a"), transport="local")),
        session_steps(ORDER, sets(pair("a"), pair("b", array="array2"), transport="tgt")),
        session_steps(ORDER, sets(pair("a"), transport="tgt"), hook=True),
    ]
    for other in others:
        assert not any(step in one for step in other)


def test_one_set_has_a_step_for_each_file_and_no_more() -> None:
    steps = session_steps(ORDER, sets(pair("a"), transport="tgt"))
    assert told(steps) == ["once", "array/sync 0", "always", "array/present 0", "attach 0"]
    assert [step["tasks"] for step in steps] == ["once.yml", "in_set.yml", "always.yml", "in_set.yml", "in_set.yml"]
    assert [step["inner"] for step in steps if "inner" in step] == [
        f"{OURS}/default/sync.yml", f"{OURS}/default/present.yml", "attach.yml"
    ]  # fmt: skip


def test_each_set_has_its_own_steps_and_is_turned_to_before_them() -> None:
    found = sets(pair("a"), pair("b", array="array2", transport="static"), pair("c", array="array3", transport="tgt"))
    assert told(session_steps(ORDER, found)) == [
        "once", "array/sync 0", "turn_to_set 1", "array/sync 1", "turn_to_set 2",
        "array/sync 2", "always", "array/present 2", "turn_to_set 1", "attach 1",
        "turn_to_set 2", "attach 2",
    ]  # fmt: skip


def test_a_set_on_another_array_does_not_see_the_login_of_the_hosts_own() -> None:
    found = sets(pair("a"), pair("b", array="array2"), pair("c", array_state_dir="/state/3", provider="external"))
    around = [step["tasks"] for step in session_steps(ORDER, found, check_mode=True) if "inner" in step]
    assert around == ["in_set.yml", "in_set_of_other_array.yml", "in_set.yml"]


def test_check_mode_and_hooks() -> None:
    steps = session_steps(ORDER, sets(pair("a")), check_mode=True, hook=True)
    assert told(steps) == ["once", "array/sync 0", "run_user_tasks"]
    assert {step["phase"] for step in steps} == {"one"}
    assert told(session_steps(ORDER, [])) == ["once", "always"]
