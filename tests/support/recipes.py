# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipes: their tasks, and what the makers' modules take."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from . import vendor_collections, vendor_specs

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/mirrored_backup"
ARRAYS = ROLE / "tasks/array"
PAGES = ROOT / "docs/recipes"
#: The recipes: each has a page, and a folder of tasks.
RECIPES = sorted(page.stem for page in PAGES.glob("*.md"))
FILES = [path for name in RECIPES for path in sorted((ARRAYS / name).glob("*.yml"))]
#: What the makers' modules take that the ansible package does not have.
PINNED = ROOT / "tests/unit/recipes/pinned"
OURS = ("ansible.builtin.", "splitmirror.backup.")

Json = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task that calls a module. :param arguments: with those of module_defaults."""

    file: str
    name: str
    module: str
    arguments: Json
    content: Json


def inventory_of(name: str) -> dict[str, Any]:
    """The variables in the example of a page."""
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    found = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    return {key: value for key, value in found.items() if "vault_" not in str(value)}


def tasks_of(path: Path) -> list[Task]:
    """The tasks of a file, those in blocks included."""
    return list(_tasks(str(path.relative_to(ROOT)), yaml.safe_load(path.read_text(encoding="utf-8")), {}))


def _tasks(file: str, content: Iterable[Json], defaults: Mapping[str, Json]) -> Iterator[Task]:
    for task in content:
        here = {**defaults, **task.get("module_defaults", {})}
        for part in ("block", "rescue", "always"):
            yield from _tasks(file, task.get(part, []), here)
        for module in (key for key in task if key.count(".") >= 2):
            given = task[module] if isinstance(task[module], dict) else {"_raw_params": task[module]}
            yield Task(file, task["name"], module, {**here.get(module, {}), **given}, task)


def makers_modules() -> list[str]:
    """The modules that the recipes call and that are not ours or Ansible's own."""
    return sorted({task.module for path in FILES for task in tasks_of(path) if not task.module.startswith(OURS)})


@cache
def specifications() -> dict[str, Json]:
    """What each of these modules takes: from the module itself, or pinned."""
    known: dict[str, Json] = {}
    for path in sorted(PINNED.glob("*.yml")):
        pinned = yaml.safe_load(path.read_text(encoding="utf-8"))
        known.update({f"{pinned['collection']}.{name}": spec for name, spec in pinned["modules"].items()})
    words = [sys.executable, vendor_specs.__file__, *(name for name in makers_modules() if name not in known)]
    environment = {**os.environ, "PYTHONPATH": str(vendor_collections.collections())}
    with tempfile.TemporaryDirectory() as folder:  # some open a log in the working folder
        done = subprocess.run(words, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True)
    return {**known, **json.loads(done.stdout)}


def faults(specification: Json, arguments: Json) -> list[str]:
    """What a module would refuse of its arguments. A value that is a template may become anything."""
    options = copy.deepcopy(specification["options"])
    _open_templates(options, arguments)
    rules = {rule: specification[rule] for rule in vendor_specs.RULES if rule in specification}
    return ArgumentSpecValidator(options, **rules).validate(arguments).error_messages  # type: ignore[no-any-return]


def secret_options(options: Json, arguments: Json) -> Iterator[tuple[str, Any, bool]]:
    """Each value of a task, its option, and whether the module keeps it out of logs."""
    for name, value in arguments.items():
        option = _option(options, name)
        if isinstance(value, dict) and option.get("options"):
            yield from secret_options(option["options"], value)
        else:
            yield name, value, option.get("no_log") is True


def has_template(value: Any) -> bool:
    """Whether a value of YAML has a template in it."""
    if isinstance(value, dict):
        return any(has_template(item) for item in value.values())
    if isinstance(value, list):
        return any(has_template(item) for item in value)
    return isinstance(value, str) and "{{" in value


def _option(options: Json, name: str) -> Json:
    for known, option in options.items():
        if name == known or name in (option.get("aliases") or ()):
            return option  # type: ignore[no-any-return]
    return {}


def _open_templates(options: Json, arguments: Json) -> None:
    """Let an option be of any kind whose value is a template."""
    for name, value in arguments.items():
        option = _option(options, name)
        if isinstance(value, dict) and option.get("options"):
            _open_templates(option["options"], value)
        elif isinstance(value, list) and option.get("options"):
            for item in value:
                _open_templates(option["options"], item)
        elif option and has_template(value):
            option["type"] = "list" if isinstance(value, list) else "raw"
            for key in ("choices", "elements", "options", "default"):
                option.pop(key, None)
