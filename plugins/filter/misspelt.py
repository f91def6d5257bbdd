# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find variables that nobody reads: a misspelt one would be passed over, and its default taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PREFIX = "splitmirror_"
ROLES = Path(__file__).resolve().parents[2] / "roles"


@cache
def options() -> frozenset[str]:
    """The variables that users may set: the options in the argument specs of all roles."""
    found: set[str] = set()
    for path in ROLES.glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found.update(entry.get("options", {}))
    return frozenset(name for name in found if name.startswith(PREFIX))


@cache
def inner() -> frozenset[str]:
    """What the roles keep in variables themselves; a second session of one play finds the first one's there."""
    found: set[str] = set()
    for folder in ("tasks", "vars", "defaults"):
        for path in ROLES.glob(f"*/{folder}/**/*.yml"):
            found.update(re.findall(rf"\b{PREFIX}\w+", path.read_text(encoding="utf-8")))
    return frozenset(found)


def misspelt(names: Iterable[str]) -> list[str]:
    """One sentence for each variable that begins like ours and is none of ours.

    :param names: names of variables.
    """
    ours = {name for name in names if name.startswith(PREFIX)}
    return [_sentence(name) for name in sorted(ours - options() - inner())]


def _sentence(name: str) -> str:
    near = get_close_matches(name, sorted(options()), 1)
    hint = f"did you mean {near[0]}?" if near else "ansible-doc -t role lists those that are read."
    return f"{name}: no role of splitmirror.backup reads a variable of this name; {hint}"


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"misspelt": misspelt}
