# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of a driver: checked against its argument_spec, with one clear sentence for what is wrong."""

from __future__ import annotations

import os.path
from typing import Any, Mapping

from .base import DatabaseError

Spec = Mapping[str, Mapping[str, Any]]

_TRUE = ("1", "on", "true", "yes")
_FALSE = ("0", "off", "false", "no")


def check_options(where: str, driver: str, spec: Spec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with their types made right and their defaults filled in.

    An option that is None counts as not given.

    :param where: which database, for messages.
    :raises DatabaseError: unknown, missing or of the wrong type.
    """
    if not isinstance(given, Mapping):
        raise DatabaseError(f"{where}: {driver!r} must hold options and their values.", option="databases")
    for name, value in given.items():
        if name not in spec and value is not None:
            raise DatabaseError(
                f"{where}: driver {driver} has no option {name!r}; its options are {', '.join(sorted(spec))}.",
                option="databases",
            )
    checked: dict[str, Any] = {}
    for name, rules in spec.items():
        value = given.get(name)
        if value is None:
            if rules.get("required"):
                raise DatabaseError(
                    f"{where}: driver {driver} needs the option {name!r}; set it below {driver!r}.", option="databases"
                )
            checked[name] = rules.get("default")
        else:
            checked[name] = _convert(f"{where}: option {name!r}", rules, value)
    return checked


def _convert(where: str, rules: Mapping[str, Any], value: Any) -> Any:
    kind = rules.get("type", "str")
    if kind == "list":
        if not isinstance(value, (list, tuple)) or not value:
            raise DatabaseError(f"{where} must be a list with at least one element.", option="databases")
        return [_convert(where, {"type": rules.get("elements", "str")}, element) for element in value]
    if isinstance(value, (dict, list, tuple)):
        raise DatabaseError(f"{where} must be a single value, not a {type(value).__name__}.", option="databases")
    text = str(value)
    if kind == "bool":
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise DatabaseError(f"{where} must be true or false, not {text!r}.", option="databases")
    if kind in ("int", "float"):
        try:
            number = int(text) if kind == "int" else float(text)
        except ValueError:
            number = -1
        if not 0 < number < float("inf"):
            raise DatabaseError(f"{where} must be a number above 0, not {text!r}.", option="databases")
        return number
    if kind == "path" and not os.path.isabs(text):
        raise DatabaseError(f"{where} must be an absolute path, not {text!r}.", option="databases")
    if "\0" in text:
        raise DatabaseError(f"{where} contains a NUL byte; remove it.", option="databases")
    return text
