# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The phases of the role and the steps of an array: what the role lists, its files, and the pages agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.splitmirror.backup.plugins.filter.session_steps import WHICH

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/mirrored_backup"
MAIN = yaml.safe_load((ROLE / "tasks/main.yml").read_text(encoding="utf-8"))
VARIABLES = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
ORDER: list[dict[str, Any]] = MAIN[1]["vars"]["splitmirror_order"]


def rows(page: str, pattern: str) -> list[str]:
    """The first cells of the rows of a page's tables that match."""
    return re.findall(rf"^\| `{pattern}` \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_the_phases_in_their_order() -> None:
    phases = [row["phase"] for row in ORDER]
    told = rows("inventory.md", r"(\w+)")
    assert told[told.index(phases[0]) :][: len(phases)] == phases
    assert list(VARIABLES["splitmirror_results"]) == phases


def test_every_task_file_of_a_phase_is_there() -> None:
    tasks = [entry if isinstance(entry, dict) else {"tasks": entry} for row in ORDER for entry in row["tasks"]]
    named = {entry["tasks"].replace("array/", "array/default/") for entry in tasks} | {"turn_to_set"}
    named |= {"in_set", "in_set_of_other_array"}
    assert {entry["for"] for entry in tasks if "for" in entry} == set(WHICH)
    assert all(entry.get("for") == "each" or "present" in entry["tasks"] for entry in tasks if "/" in entry["tasks"])
    assert len(named) > len(ORDER)
    assert [name for name in sorted(named) if not (ROLE / f"tasks/{name}.yml").is_file()] == []


def test_a_folder_for_an_array_has_the_steps_of_the_page() -> None:
    steps = VARIABLES["splitmirror_array_steps"]
    assert rows("array_tasks.md", r"(\w+)\.yml") == steps
    names = {f"{step}.yml" for step in steps}
    assert {path.name for path in (ROLE / "tasks/array/default").iterdir()} == names
    for folder in (ROLE / "tasks/array").iterdir():
        # What a folder leaves out comes from default, and what else it has is part of a step.
        assert not names.isdisjoint(path.name for path in folder.iterdir()), folder
