# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of a provider or driver: checked against the spec that it declares, with one sentence for what is wrong."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Optional

from .errors import SplitMirrorError, shorten

#: Options in the form of Ansible's argument specs: type, elements, choices, default, required, no_log.
Spec = Mapping[str, Mapping[str, Any]]

_TRUE = ("1", "on", "t", "true", "y", "yes")
_FALSE = ("0", "f", "false", "n", "no", "off")
#: int() and float() take underscores, blanks and the digits of all scripts, too.
_NUMBERS = {
    "int": re.compile(r"[0-9]{1,19}"),
    "float": re.compile(r"([0-9]{1,19}(\.[0-9]{0,19})?|\.[0-9]{1,19})([eE][+-]?[0-9]{1,3})?"),
}
#: What 64 bits hold.
_MOST = (1 << 63) - 1
#: Of longer names only the beginning is compared with those that are known.
_LONGEST_NAME = 80
_KINDS: tuple[tuple[Any, str], ...] = (
    (Mapping, "a dictionary"),
    ((list, tuple, set, frozenset), "a list"),
    (bool, "true or false"),
    ((int, float), "a number"),
    ((str, bytes), "a text"),
)


def check_options(
    where: str, whose: str, spec: Spec, given: Mapping[str, Any], error: type[SplitMirrorError] = SplitMirrorError
) -> dict[str, Any]:
    """Return the options converted to their types, with defaults filled in.

    An option whose value is None counts as not given.

    :param where: where the options stand, for messages; it begins with the name of the module's option.
    :param whose: who declares the spec, for messages, such as ``driver sqlite``.
    :param error: the class of the error.
    :raises SplitMirrorError: an option is unknown, missing or of the wrong type.
    """
    checked, faults = _look_at(where, whose, spec, given)
    if faults:
        raise error(faults[0], where.partition(":")[0], code="option_invalid")
    return checked


def option_faults(where: str, whose: str, spec: Spec, given: Any) -> list[str]:
    """All that check_options would refuse, one sentence each, of values as the user gave them on the controller.

    A path that begins with ``~`` or a variable is taken, because Ansible expands it on the host.

    :param where: see check_options; ``whose`` and ``spec`` likewise.
    """
    return _look_at(where, whose, spec, as_expanded(spec, given))[1]


def as_expanded(spec: Spec, given: Any) -> Any:
    """The options with an absolute path in place of each that Ansible expands on the host (``~``, ``$HOME``)."""
    if not isinstance(given, Mapping):
        return given
    paths = {name for name, rules in spec.items() if rules.get("type") == "path"}
    return {
        name: f"/{value}" if name in paths and isinstance(value, str) and value.startswith(("~", "$")) else value
        for name, value in given.items()
    }


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A hint at the name that is nearest to a wrong one, with a space before it; empty if none is near."""
    near = get_close_matches(name[:_LONGEST_NAME], sorted(known), 1) if isinstance(name, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def _look_at(where: str, whose: str, spec: Spec, given: Any) -> tuple[dict[str, Any], list[str]]:
    """The options converted to their types, and all that is wrong with them."""
    if not isinstance(given, Mapping):
        return {}, [f"{where}: the options of {whose} must be a dictionary of names and values, not {_kind_of(given)}."]
    known = f"it has {', '.join(sorted(spec))}" if spec else "it has none"
    faults = [
        f"{where}: {shorten(name)} is not an option of {whose}{did_you_mean(name, spec)}; {known}."
        for name, value in given.items()
        if name not in spec and value is not None
    ]
    checked: dict[str, Any] = {}
    for name, rules in spec.items():
        value = given.get(name)
        if value is None or (value == "" and rules.get("required")):
            if rules.get("required"):
                faults.append(
                    f"{where}: {whose} needs the option {name!r}{', and it is empty' if value == '' else ''}."
                )
            checked[name] = rules.get("default")
            continue
        try:
            checked[name] = _convert(rules, value)
        except ValueError as exc:
            faults.append(f"{where}: option {name!r} {exc}.")
    return checked, faults


def check_paths(spec: Spec, given: Mapping[str, Any], error: type[SplitMirrorError] = SplitMirrorError) -> None:
    """Refuse paths that are not absolute: a module runs in a folder that nobody has chosen.

    Looked at are the options themselves, lists of paths, and the keys of lists of dictionaries.

    :param given: the options of a module as Ansible has converted them.
    :raises SplitMirrorError: one is relative, or empty.
    """
    for option, rules in spec.items():
        value = given.get(option)
        if rules.get("type") == "path":
            _check_path(option, "", [value], error)
        elif rules.get("elements") == "path":
            _check_path(option, "", value or [], error)
        elif rules.get("elements") == "dict":
            for key, below in rules.get("options", {}).items():
                if below.get("type") == "path":
                    _check_path(option, f"{key} ", [entry.get(key) for entry in value or []], error)


def check_numbers(spec: Spec, given: Mapping[str, Any], error: type[SplitMirrorError] = SplitMirrorError) -> None:
    """Refuse numbers that are negative, not finite or too large: no option of the collection has a use for them.

    :param given: the options of a module as Ansible has converted them.
    :raises SplitMirrorError: one is.
    """
    for option, rules in spec.items():
        value = given.get(option)
        if rules.get("type") in ("int", "float") and value is not None and not 0 <= value <= _MOST:
            raise error(
                f"{option}: {shorten(value)} is out of range; it must be a finite number, and not negative.",
                option,
                code="option_invalid",
            )


def _check_path(option: str, key: str, values: Iterable[Optional[str]], error: type[SplitMirrorError]) -> None:
    for value in values:
        if value is not None and not (os.path.isabs(value) and "\0" not in value):
            raise error(
                f"{option}: {key}{shorten(value)} is not an absolute path; give the full path.",
                option,
                code="option_invalid",
            )


def union_of(specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """The options of several providers as one sub-spec of a module, which only one of them is going to check.

    Defaults, choices and required options depend on the provider. Two options of one name and different types are
    ``raw`` here.

    :param specs: by name of the provider.
    """
    union: dict[str, dict[str, Any]] = {}
    for spec in specs.values():
        for name, rules in spec.items():
            kind = {key: rules[key] for key in ("type", "elements") if key in rules}
            # Stated for every option, because Ansible warns otherwise of names that look like secrets.
            no_log = bool(rules.get("no_log", False))
            if name in union:
                no_log = no_log or union[name]["no_log"]
                if {key: union[name][key] for key in union[name] if key != "no_log"} != kind:
                    kind = {"type": "raw"}
            union[name] = {**kind, "no_log": no_log}
    return union


def _convert(rules: Mapping[str, Any], value: Any) -> Any:
    """The value in the type that the rules ask for. :raises ValueError: it has another type; says what it must be."""
    kind = rules.get("type", "str")
    if kind == "raw":
        return value
    if kind == "dict":
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a dictionary of names and values, not {_kind_of(value)}")
        return dict(value)
    if kind == "list":
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("must be a list with at least one element")
        return [_convert({**rules, "type": rules.get("elements", "str")}, element) for element in value]
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"must be a single value, not {_kind_of(value)}")
    shown = "this value" if rules.get("no_log") else shorten(value)
    if kind == "bool":
        word = str(value).lower() if isinstance(value, (str, bool)) or value in (0, 1) else ""
        if word not in _TRUE + _FALSE:
            raise ValueError(f"must be true or false, not {shown}")
        return word in _TRUE
    if kind in ("int", "float"):
        return _number(kind, value, shown)
    if isinstance(value, bool):
        raise ValueError(f"must be a text, not {shown}; put it in quotes if this word is meant")
    if not isinstance(value, str) and not -_MOST <= value <= _MOST:
        raise ValueError(f"must be a text, not {shown}")
    text = str(value)
    if "choices" in rules and text not in rules["choices"]:
        raise ValueError(f"must be one of {', '.join(rules['choices'])}, not {shown}")
    if "\0" in text:
        raise ValueError("contains a NUL byte; remove it")
    if kind == "path" and not os.path.isabs(text):
        raise ValueError(f"must be an absolute path, not {shown}")
    return text


def _number(kind: str, value: Any, shown: str) -> float:
    """A number above 0, as YAML has it, or as a text of ASCII digits. :raises ValueError: it is something else."""
    if isinstance(value, str) and _NUMBERS[kind].fullmatch(value):
        value = int(value) if kind == "int" else float(value)
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MOST
    if not right or (kind == "int" and value != int(value)):
        raise ValueError(f"must be a {'whole ' if kind == 'int' else ''}number above 0, not {shown}")
    return int(value) if kind == "int" else float(value)


def _kind_of(value: Any) -> str:
    """What a value of a wrong type is, in the words of YAML."""
    for kinds, words in _KINDS:
        if isinstance(value, kinds):
            return words
    return "nothing" if value is None else "something else"
