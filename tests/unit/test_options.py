# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of providers and drivers: what is refused, and how the options of several become one sub-spec."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import DRIVERS, database_faults
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDERS, provider_faults
from ansible_collections.splitmirror.backup.plugins.module_utils.options import (
    Spec,
    check_numbers,
    check_options,
    check_paths,
    option_faults,
    union_of,
)

SPEC: Spec = {"color": {"choices": ["red", "green"]}, "size": {"type": "int", "default": 3}}


def test_an_option_that_nobody_declared_is_refused_with_those_that_are() -> None:
    with pytest.raises(SplitMirrorError, match=r"^o: 'shape' is not an option of thing t; it has color, size\.$") as no:
        check_options("o", "thing t", SPEC, {"shape": 1})
    assert (no.value.option, no.value.code) == ("o", "option_invalid")
    with pytest.raises(SplitMirrorError, match=r"'shape' is not an option of thing t; it has none\.$"):
        check_options("o: x", "thing t", {}, {"shape": 1})


def test_a_value_that_is_not_among_the_choices_is_refused() -> None:
    assert check_options("o", "thing t", SPEC, {"color": "red"}) == {"color": "red", "size": 3}
    with pytest.raises(SplitMirrorError, match=r"^o: x: option 'color' must be one of red, green, not 'blue'\.$") as no:
        check_options("o: x", "thing t", SPEC, {"color": "blue"})
    assert no.value.option == "o"


def test_options_of_one_name_and_two_types_are_raw_and_stay_secret() -> None:
    a: Spec = {"key": {"type": "str", "no_log": True, "required": True}, "n": {"type": "int", "default": 1}}
    b: Spec = {"key": {"type": "list", "elements": "str"}, "n": {"type": "int"}}
    assert union_of({"a": a, "b": b}) == {
        "key": {"type": "raw", "no_log": True},
        "n": {"type": "int", "no_log": False},
    }


def nested(depth: int) -> Any:
    value: Any = 1
    for _dummy in range(depth):
        value = [value]
    return value


NUMBERS: list[Any] = [1, 5.0, "5", "0005", True, False, 0, -1, 1.5, "1.5", 10**400, -(10**400), 1 << 63, 1e999, -1e999]
TEXTS: list[Any] = [
    "",
    " ",
    "x",
    "/x",
    "yes",
    "No",
    "1_000",
    "\uff11\uff10",
    "\u0661",
    " 5 ",
    "+5",
    "5\n",
    "1e400",
    "nan",
    "inf",
]
OTHERS: list[Any] = [
    b"x",
    {"a": 1},
    {},
    [],
    ["x"],
    [None],
    [{"a": 1}],
    {1},
    nested(5000),
    object(),
    "a\0b",
    "x" * (1 << 20),
]
#: By type, what of these is taken, and as what.
TAKEN: dict[str, list[tuple[Any, Any]]] = {
    "int": [(1, 1), (5.0, 5), ("5", 5), ("0005", 5)],
    "float": [(1, 1.0), (5.0, 5.0), ("5", 5.0), ("0005", 5.0), (1.5, 1.5), ("1.5", 1.5)],
    "bool": [(1, True), (True, True), (0, False), (False, False), ("yes", True), ("No", False)],
    "path": [("/x", "/x")],
}
RULES: list[dict[str, Any]] = [
    {"type": kind} for kind in ("str", "int", "float", "bool", "path", "dict", "list", "raw")
]
RULES += [{}, {"choices": ["x"]}, {"type": "list", "elements": "int"}, {"type": "str", "no_log": True}]


def taken(rules: dict[str, Any], value: Any, *, required: bool = False) -> Any:
    """What check_options makes of a value; () if it refuses it, in one sentence of sensible length."""
    spec: Spec = {"o": {**rules, "required": required}}
    faults = option_faults("w", "t", spec, {"o": value})
    if not faults:
        return check_options("w", "t", spec, {"o": value})["o"]
    with pytest.raises(SplitMirrorError) as no:
        check_options("w", "t", spec, {"o": value})
    assert ((no.value.code, no.value.option), faults) == (("option_invalid", "w"), [no.value.message])
    assert len(no.value.message) < 300
    assert "\n" not in no.value.message
    return ()


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_each_type_takes_what_is_meant_and_refuses_all_else(rules: dict[str, Any]) -> None:
    kind = rules.get("type", "str")
    for value in [*NUMBERS, *TEXTS, *OTHERS]:
        found = taken(rules, value)
        if kind in TAKEN:
            right = [after for before, after in TAKEN[kind] if type(before) is type(value) and before == value]
            known = right[0] if right else ()
            assert (found, type(found)) == (known, type(known)), value
        elif kind == "dict":
            assert found == (value if isinstance(value, dict) else ()), value
        elif kind == "list":
            proper = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
            assert found == (value if proper and rules.get("elements") != "int" else ()), value
        elif kind == "raw":
            assert found is value
        else:
            single = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            proper = single and "\0" not in str(value) if isinstance(value, str) else single and abs(value) < 1 << 63
            assert found == (str(value) if proper and rules.get("choices") in (None, [value]) else ()), value


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_an_empty_text_is_not_what_is_required(rules: dict[str, Any]) -> None:
    assert taken(rules, "", required=True) == ()
    with pytest.raises(SplitMirrorError, match="needs the option 'o', and it is empty"):
        check_options("w", "t", {"o": {**rules, "required": True}}, {"o": ""})


PATHS: Spec = {
    "one": {"type": "path"},
    "many": {"type": "list", "elements": "path"},
    "each": {"type": "list", "elements": "dict", "options": {"at": {"type": "path"}, "name": {"type": "str"}}},
    "text": {"type": "str"},
}


def test_a_path_that_is_not_absolute_is_refused_wherever_it_stands() -> None:
    for path in ("", "a", "./a", "../a", "~nobody/a", "/a\0b"):
        for given in ({"one": path}, {"many": ["/", path]}, {"each": [{"at": "/"}, {"at": path, "name": path}]}):
            (option,) = given
            with pytest.raises(SplitMirrorError, match=f"^{option}: .*is not an absolute path") as no:
                check_paths(PATHS, given)
            assert (no.value.option, no.value.code) == (option, "option_invalid")
    check_paths(PATHS, {"one": "/", "many": [], "each": [{"at": None, "name": "a"}], "text": "a"})
    check_paths(PATHS, {"one": None, "many": None, "each": None})


def test_a_number_that_no_option_has_a_use_for_is_refused() -> None:
    spec: Spec = {"i": {"type": "int"}, "f": {"type": "float"}, "s": {"type": "str"}}
    for option, value in [("i", -1), ("i", 1 << 63), ("i", 10**5000), ("f", -0.5), ("f", math.nan), ("f", math.inf)]:
        with pytest.raises(SplitMirrorError, match=f"^{option}: .* is out of range") as no:
            check_numbers(spec, {option: value})
        assert (no.value.option, no.value.code) == (option, "option_invalid")
    check_numbers(spec, {"i": 0, "f": 0.5, "s": "-1"})
    check_numbers(spec, {"i": None, "f": (1 << 63) - 1})


def test_no_secret_is_quoted() -> None:
    for value in ["s3cret\0", True, {"s3cret": 1}, ["s3cret"], 10**400]:
        faults = option_faults("w", "t", {"o": {"type": "str", "no_log": True, "choices": ["a"]}}, {"o": value})
        assert len(faults) == 1
        assert "s3cret" not in faults[0]


@pytest.mark.parametrize(
    "given", [None, 7, "x", b"x", [], [("a", 1)], {1}, nested(5000), True], ids=lambda value: str(type(value))
)
def test_what_is_not_a_dictionary_is_refused_as_such(given: Any) -> None:
    with pytest.raises(SplitMirrorError, match="must be a dictionary of names and values") as no:
        check_options("w", "t", SPEC, given)
    assert (no.value.code, no.value.option) == ("option_invalid", "w")


@pytest.mark.parametrize("value", [*NUMBERS, *TEXTS, *OTHERS, None], ids=lambda value: str(type(value)))
def test_whatever_stands_in_a_description_is_told_in_sentences(value: Any) -> None:
    good = {"name": "x", "driver": "sqlite", "sqlite": {"path": "/x"}}
    databases = [value, [value], *([{**good, key: value}] for key in good), [{**good, "sqlite": {"path": value}}]]
    databases += [[{**good, kind: value, "driver": kind}] for kind in DRIVERS]
    found = [fault for description in databases for fault in database_faults(description)]
    pair = {"name": "a", "primary": "/a", "mirror": "/b"}
    pairs = [value, [value], *([{**pair, key: value}] for key in (*pair, "options", "device"))]
    spec: Spec = {key: {"type": "str"} for key in pair} | {"options": {"type": "dict"}, "device": {"type": "path"}}
    for provider in [value, *PROVIDERS]:
        for mirrors in pairs:
            found += provider_faults(provider, value, mirrors, spec)
            found += provider_faults(provider, {"x" * 100_000: value}, mirrors, spec)
    assert all(len(fault) < 500 for fault in found)
