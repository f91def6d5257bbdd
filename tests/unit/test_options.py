# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of providers and drivers: what is refused, and how the options of several become one sub-spec."""

from __future__ import annotations

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.options import Spec, check_options, union_of

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
