# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict: only the one order of events, with everything proved, is a good backup."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import HARMLESS, WINDOW_ORDER, judge

SESSION = "20260101T000000Z-db1-abcd"


def events(names: tuple[str, ...] | list[str]) -> list[dict[str, Any]]:
    return [{"seq": number, "name": name, "source": "test"} for number, name in enumerate(names, 1)]


def part(number: int, *, last: bool) -> dict[str, Any]:
    proved = {"complete": True, "filemark": True, "checksums": True}
    return {"part": number, "volume": f"V{number}", "file_number": 1, "last": last, **proved}


def evidence(names: tuple[str, ...] | list[str] = WINDOW_ORDER) -> dict[str, Any]:
    return {
        "session": SESSION,
        "window": {"events": events(names), "window_s": 0.2, "split_s": 0.1, "intact": True},
        "check": {"complete": True, "remapped": 1, "added": 0, "removed": 0},
        "hot_backup": {"required": True, "ended_cleanly": True, "same_session": True, "error": None},
        "write": {
            "complete": True,
            "filemark": True,
            "checksums": True,
            "members": 3,
            "bytes": 10,
            "parts": [part(0, last=False), part(1, last=True)],
            "fallback": 0,
            "proof": {"mode": "full", "complete": True},
        },
    }


def test_the_one_order_with_all_proofs_is_good() -> None:
    assert judge(evidence(), SESSION) == (True, "")


def test_harmless_events_do_not_matter() -> None:
    names = ["tracking_started", "backup_begun", "freeze_sent", *WINDOW_ORDER[:3], "check_started", *WINDOW_ORDER[3:]]
    assert judge(evidence([*names, "backup_ended"]), SESSION).good


def test_every_other_order_is_failed() -> None:
    for order in itertools.permutations(WINDOW_ORDER):
        assert judge(evidence(list(order)), SESSION).good == (order == WINDOW_ORDER)


@given(names=st.lists(st.sampled_from([*WINDOW_ORDER, *sorted(HARMLESS), "deadline_thaw"]), max_size=12))
def test_no_other_row_of_events_is_good(names: list[str]) -> None:
    told = tuple(name for name in names if name not in HARMLESS)
    assert judge(evidence(names), SESSION).good == (told == WINDOW_ORDER)


@pytest.mark.parametrize("name", ["deadline_thaw", "connection_lost", "something_new"])
@pytest.mark.parametrize("place", range(7))
def test_an_event_that_breaks_the_window_breaks_the_backup(name: str, place: int) -> None:
    names = list(WINDOW_ORDER)
    names.insert(place, name)
    verdict = judge(evidence(names), SESSION)
    assert not verdict.good
    assert name in verdict.reason


def window_of_two(order: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Evidence of two splits whose four events happened in an order."""
    split = [(name, splitter) for name in WINDOW_ORDER[1:3] for splitter in ("a", "b")]
    told = evidence([*WINDOW_ORDER[:1], *(split[place][0] for place in order), *WINDOW_ORDER[3:]])
    for event, place in zip(told["window"]["events"][1:5], order):
        event["splitter"] = split[place][1]
    told["window"]["splitters"] = ["a", "b"]
    return told


def test_two_splits_go_on_at_once_and_each_is_sent_before_it_returns() -> None:
    for order in itertools.permutations(range(4)):
        sent_first = order.index(0) < order.index(2) and order.index(1) < order.index(3)
        assert judge(window_of_two(order), SESSION).good == sent_first


@pytest.mark.parametrize("splitters", [["a"], ["a", "c"], ["a", "b", "c"], ["a", "a"], [], None, "ab", [None], {}])
def test_each_splitter_that_was_named_has_split_and_no_other(splitters: Any) -> None:
    told = window_of_two()
    assert judge(told, SESSION).good
    told["window"]["splitters"] = splitters
    assert not judge(told, SESSION).good


@pytest.mark.parametrize("place", range(1, 5))
def test_the_split_of_each_lies_in_the_window(place: int) -> None:
    for where in (0, 5):  # before the freeze, after the check
        told = window_of_two()
        names = told["window"]["events"]
        names.insert(where, names.pop(place))
        for number, event in enumerate(names):
            event["seq"] = number
        assert not judge(told, SESSION).good, (place, where)


@given(numbers=st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_numbers_must_ascend(numbers: list[int]) -> None:
    told = evidence()
    for event, number in zip(told["window"]["events"], numbers):
        event["seq"] = number
    assert judge(told, SESSION).good == all(one < two for one, two in zip(numbers, numbers[1:]))


NEEDED = [
    ("session",),
    ("window",),
    ("window", "events"),
    ("window", "intact"),
    ("check",),
    ("check", "complete"),
    ("hot_backup",),
    ("hot_backup", "required"),
    ("hot_backup", "ended_cleanly"),
    ("hot_backup", "same_session"),
    ("write",),
    ("write", "complete"),
    ("write", "filemark"),
    ("write", "checksums"),
    ("write", "parts"),
    *(
        ("write", "parts", number, key)
        for number in (0, 1)
        for key in ("part", "volume", "file_number", "last", "complete", "filemark", "checksums")
    ),
    ("write", "proof"),
    ("write", "proof", "complete"),
]


@pytest.mark.parametrize("keys", NEEDED)
@pytest.mark.parametrize("value", ["missing", None, "", "yes", "true", 0, 1, [], {}])
def test_what_is_missing_or_only_looks_true_is_not_proved(keys: tuple[Any, ...], value: Any) -> None:
    told = copy.deepcopy(evidence())
    place: Any = told
    for key in keys[:-1]:
        place = place[key]
    if value == "missing":
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    harmless = (keys[-1] == "volume" and value in ("yes", "true")) or (keys[-1] == "file_number" and value in (0, 1))
    harmless = harmless or (keys[-1] == "part" and value == keys[-2] and value != "")
    verdict = judge(told, SESSION)
    assert verdict.good == harmless
    assert harmless or verdict.reason.endswith(".")


@pytest.mark.parametrize(
    "parts",
    [
        [part(0, last=False)],
        [part(1, last=True)],
        [part(0, last=True), part(1, last=True)],
        [part(1, last=True), part(0, last=False)],
        [part(0, last=False), part(2, last=True)],
        [part(0, last=False), part(0, last=False), part(1, last=True)],
    ],
)
def test_a_session_without_all_of_its_parts_is_not_good(parts: list[dict[str, Any]]) -> None:
    told = evidence()
    told["write"]["parts"] = parts
    verdict = judge(told, SESSION)
    assert (verdict.good, "part" in verdict.reason) == (False, True)


def test_a_backup_without_hot_backup_needs_none() -> None:
    told = evidence()
    told["hot_backup"] = {"required": False}
    assert judge(told, SESSION).good


def test_a_chosen_lack_of_proof_is_allowed_and_an_error_of_hot_backup_is_not() -> None:
    told = evidence()
    told["write"]["proof"] = {"mode": "none"}
    assert judge(told, SESSION).good
    told["hot_backup"]["error"] = "connection lost."
    assert "connection lost" in judge(told, SESSION).reason


def test_evidence_of_another_session_proves_nothing() -> None:
    assert not judge(evidence(), "another").good
