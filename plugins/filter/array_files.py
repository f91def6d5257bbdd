# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the task files by which the role mirrored_backup reaches an array."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Optional

from ansible_collections.splitmirror.backup.plugins.filter.user_file import user_paths


def array_files(
    tasks: str, ours: str, provider: str, steps: Sequence[str], folders: Sequence[Optional[str]] = ()
) -> dict[str, Any]:
    """The task file of each step, and what is wrong with the name of the folder.

    A file is taken from the first of these folders that has it: the one that ``tasks`` names, that of the provider, and
    ``default``.

    :param tasks: a folder of the user's with at least one of the files, or the name of one of ours; empty for none.
    :param ours: the folder that has ours.
    :param provider: the name of the mirror provider.
    :param steps: the names of the steps.
    :param folders: where a relative path is looked up as well, see user_file.
    :returns: ``files`` and ``ours``, the path of each step, ``ours`` without the user's folder; and ``faults``, one
        sentence each.
    """
    names = [f"{step}.yml" for step in steps]
    faults: list[str] = []
    own: Optional[str] = None
    if tasks:
        there = [path for path in user_paths(tasks, folders) if os.path.isdir(path)]
        own = next((path for path in there if not set(names).isdisjoint(os.listdir(path))), None)
        known = sorted(os.listdir(ours))
        if own is None and tasks in known:
            own = os.path.join(ours, tasks)
        elif own is None and there:
            faults.append(f"splitmirror_array_tasks: {there[0]} has none of the files {', '.join(names)}; write one.")
        elif own is None:
            faults.append(
                f"splitmirror_array_tasks: there is no folder {tasks} beside the playbook, beside the inventory, or in "
                f"the working folder, and none of the role has this name ({', '.join(known)}); give its path."
            )
        else:
            faults += [fault for name in sorted(os.listdir(own)) for fault in _misspelt(own, name, names)]
    beneath = [os.path.join(ours, name) for name in (provider, "default")]
    return {
        "files": {step: _first([own, *beneath] if own else beneath, f"{step}.yml") for step in steps},
        "ours": {step: _first(beneath, f"{step}.yml") for step in steps},
        "faults": faults,
    }


def _first(folders: Sequence[str], name: str) -> str:
    paths = [os.path.join(folder, name) for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), paths[-1])


def _misspelt(folder: str, name: str, names: Sequence[str]) -> list[str]:
    """A sentence for a file that is not a step and nearly has the name of one that is missing."""
    missing = [step for step in names if not os.path.isfile(os.path.join(folder, step))]
    near = [] if name in names else get_close_matches(name, missing, 1, 0.75)
    return [
        f"splitmirror_array_tasks: {os.path.join(folder, name)} is not a step of an array; did you mean {step}?"
        for step in near
    ]


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"array_files": array_files}
