# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller does for itself is never done as another user, whatever the inventory says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("roles", "playbooks", "extensions")
    for path in sorted((ROOT / folder).rglob("*.yml"))
    if "inventory" not in path.parts
]


def tasks(content: Any) -> Iterator[dict[str, Any]]:
    """Everything in a YAML file that is delegated."""
    if isinstance(content, list):
        for item in content:
            yield from tasks(item)
    elif isinstance(content, dict):
        if "delegate_to" in content:
            yield content
        for item in content.values():
            yield from tasks(item)


def test_there_are_such_tasks() -> None:
    assert any("delegate_to: localhost" in path.read_text(encoding="utf-8") for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_task_of_the_controller_escalates_nowhere(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = [task for task in tasks(content) if task["delegate_to"] in ("localhost", "127.0.0.1")]
    # A variable of the task is stronger than those of the inventory; the keyword "become" is weaker.
    assert [task["name"] for task in own if task.get("vars", {}).get("ansible_become") is not False] == []
