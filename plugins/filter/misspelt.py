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
from ansible.parsing.dataloader import DataLoader
from ansible.utils.vars import load_extra_vars

PREFIX = "splitmirror_"
ROLES = Path(__file__).resolve().parents[2] / "roles"
#: Names that have gone, and what to do instead.
RETIRED = {
    "splitmirror_allow_copy": "write allow_copy into splitmirror_provider_options",
    **{
        f"splitmirror_drill_{word}": f"role restore_drill calls it restore_drill_{word}"
        for word in ("bin_dir", "data_directory", "database", "os_user", "queries", "timeout_s")
    },
}
#: Switches that turn a safety off. They are never suggested: whoever sets them has read what they do.
DANGEROUS = {"splitmirror_allow_last", "splitmirror_break_lease"}


@cache
def options() -> frozenset[str]:
    """The variables that users may set: the options in the argument specs of all roles."""
    found: set[str] = set()
    for path in ROLES.glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found.update(entry.get("options", {}))
    return frozenset(name for name in found if name.startswith(PREFIX))


@cache
def inner(role: str = "*") -> frozenset[str]:
    """What the roles keep in variables themselves; a second session of one play finds the first one's there."""
    found: set[str] = set()
    for folder in ("tasks", "vars", "defaults"):
        for path in ROLES.glob(f"{role}/{folder}/**/*.yml"):
            found.update(re.findall(rf"\b{PREFIX}\w+", path.read_text(encoding="utf-8")))
    return frozenset(found - options())


def overridden() -> set[str]:
    """The variables of the roles themselves that the command line sets; there they win over whatever a role sets."""
    return set(load_extra_vars(DataLoader())) & inner()


def misspelt(names: Iterable[str]) -> list[str]:
    """One sentence for each variable that begins like ours and is none of ours, or is not the user's to set.

    :param names: names of variables.
    """
    ours = {name for name in names if name.startswith(PREFIX)}
    return [_sentence(name) for name in sorted((ours - options() - inner()) | overridden())]


def _sentence(name: str) -> str:
    if name in inner():
        return f"{name}: a role sets this variable itself; remove it from the command line."
    if name in RETIRED:
        return f"{name}: no role of splitmirror.backup reads a variable of this name any more; {RETIRED[name]}."
    near = get_close_matches(name, sorted(options() - DANGEROUS), 1)
    hint = f"did you mean {near[0]}?" if near else "ansible-doc -t role lists those that are read."
    return f"{name}: no role of splitmirror.backup reads a variable of this name; {hint}"


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"misspelt": misspelt}
