# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of a session in the order in which they happen: what is done once, and what for each mirror set."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Words in ``for`` of a task file, and of which mirror sets it is a step.
WHICH: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "each": lambda one: True,
    "exported": lambda one: bool(one["exports"]),
    "attached": lambda one: bool(one["attaches"]),
}


def session_steps(
    order: Sequence[Mapping[str, Any]], sets: Sequence[Mapping[str, Any]], check_mode: bool = False, hook: bool = False
) -> list[dict[str, Any]]:
    """One task file for each step of the role mirrored_backup.

    :param order: rows of ``phase``, ``in_check_mode`` and ``tasks``. A task is the name of a file, or has ``tasks``,
        perhaps ``when``, and in ``for`` one of the words of WHICH. Files of an array begin with ``array/``.
    :param sets: the mirror sets, see the filter mirror_sets.
    :param check_mode: leave out what does not run in check mode.
    :param hook: whether the user has tasks to run after each phase.
    :returns: ``phase``, ``name`` and ``tasks``, the file. For a step of a mirror set the file is ``runs_in`` of the
        set; it has ``inner``, the file of the step, and ``number``, that of the set. Before a step of another set than
        the last one comes ``turn_to_set.yml``; the role begins with the first set.

        Ansible runs an included file once for all hosts whose item is the same, where the first host has it. So items
        hold nothing that differs between hosts with the same steps, and hosts with other steps share none (``list``):
        else what only the second host includes would come behind everything that it shares with the first.
    """
    steps: list[dict[str, Any]] = []
    current = 0
    for row in order:
        if check_mode and not row["in_check_mode"]:
            continue
        for entry in row["tasks"]:
            told = {"tasks": entry} if isinstance(entry, str) else entry
            common = {"phase": row["phase"], "name": told["tasks"]}
            if "for" not in told and told.get("when", True):
                steps.append({**common, "tasks": f"{told['tasks']}.yml"})
            for number, one in enumerate(sets) if "for" in told else ():
                if not WHICH[told["for"]](one):
                    continue
                if number != current:
                    steps.append({**common, "name": "turn_to_set", "tasks": "turn_to_set.yml", "number": number})
                    current = number
                inner = _file(told["tasks"], one)
                steps.append({**common, "tasks": one["runs_in"], "inner": inner, "number": number})
        if hook:
            steps.append({"phase": row["phase"], "name": "run_user_tasks", "tasks": "run_user_tasks.yml"})
    mark = f"{zlib.crc32(repr(steps).encode()):08x}"
    return [{**step, "list": mark} for step in steps]


def _file(name: str, one: Mapping[str, Any]) -> str:
    folder, _slash, step = name.rpartition("/")
    return str(one["files"][step]) if folder == "array" else f"{name}.yml"


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"session_steps": session_steps}
