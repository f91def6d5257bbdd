# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of a provider or driver: checked against the spec that it declares, with one sentence for what is wrong."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from typing import Any

from .errors import SplitMirrorError

#: Options in the form of Ansible's argument specs: type, elements, choices, default, required, no_log.
Spec = Mapping[str, Mapping[str, Any]]

_TRUE = ("1", "on", "true", "yes")
_FALSE = ("0", "off", "false", "no")


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
    at_fault = where.partition(":")[0]
    if not isinstance(given, Mapping):
        raise error(f"{where}: the options of {whose} must be a dictionary of names and values.", at_fault)
    for name, value in given.items():
        if name not in spec and value is not None:
            known = f"it has {', '.join(sorted(spec))}" if spec else "it has none"
            raise error(f"{where}: {name!r} is not an option of {whose}; {known}.", at_fault, code="option_invalid")
    checked: dict[str, Any] = {}
    for name, rules in spec.items():
        value = given.get(name)
        if value is None:
            if rules.get("required"):
                raise error(f"{where}: {whose} needs the option {name!r}.", at_fault, code="option_invalid")
            checked[name] = rules.get("default")
            continue
        try:
            checked[name] = _convert(rules, value)
        except ValueError as exc:
            raise error(f"{where}: option {name!r} {exc}.", at_fault, code="option_invalid") from exc
    return checked


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
    if kind == "list":
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("must be a list with at least one element")
        return [_convert({"type": rules.get("elements", "str")}, element) for element in value]
    if isinstance(value, (dict, list, tuple)):
        raise ValueError(f"must be a single value, not a {type(value).__name__}")
    text = str(value)
    if "choices" in rules and text not in rules["choices"]:
        raise ValueError(f"must be one of {', '.join(rules['choices'])}, not {text!r}")
    if kind == "bool":
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(f"must be true or false, not {text!r}")
        return text.lower() in _TRUE
    if kind in ("int", "float"):
        try:
            number = int(text) if kind == "int" else float(text)
        except ValueError:
            number = -1
        if not 0 < number < float("inf"):
            raise ValueError(f"must be a number above 0, not {text!r}")
        return number
    if kind == "path" and not os.path.isabs(text):
        raise ValueError(f"must be an absolute path, not {text!r}")
    if "\0" in text:
        raise ValueError("contains a NUL byte; remove it")
    return text
