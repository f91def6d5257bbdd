# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find strings that have to be lists: a role's argument spec takes one for a list, and the role fails late."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
SHAPES = {"list": "a list", "dict": "a dictionary"}


@cache
def shapes() -> dict[str, str]:
    """What the options of all roles have to be, by name: ``list`` or ``dict``."""
    found: dict[str, str] = {}
    for path in ROLES.glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found.update({name: told["type"] for name, told in entry.get("options", {}).items()})
    return {name: shape for name, shape in found.items() if shape in SHAPES}


def misshapen(variables: Mapping[str, Any]) -> list[str]:
    """One sentence for each option of a role that is a string and has to be a list or a dictionary.

    :param variables: the variables of a host.
    """
    return [
        _sentence(name, shape, variables[name])
        for name, shape in sorted(shapes().items())
        if name in variables and isinstance(variables[name], str)
    ]


def _sentence(name: str, shape: str, value: str) -> str:
    right = json.dumps({name: [part.strip() for part in value.split(",")] if shape == "list" else {"name": value}})
    return f"{name}: {value!r} is a string, and it has to be {SHAPES[shape]}; on the command line say -e '{right}'."


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"misshapen": misshapen}
