# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipes for arrays against what the makers' modules take. No array, and no library of a maker, is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.tests.support import recipes

LOGIN = "splitmirror_array_login"
SECRET = ("password", "token", "secret")


def titles(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", recipes.FILES, ids=titles)
def test_a_module_takes_its_arguments(path: Path) -> None:
    known = recipes.specifications()
    found = {
        task.name: recipes.faults(known[task.module], task.arguments)
        for task in recipes.tasks_of(path)
        if not task.module.startswith(recipes.OURS)
    }
    assert {name: faults for name, faults in found.items() if faults} == {}


#: A call that is right, and what is wrong with it after a change.
RIGHT = {
    "connection_info": {"address": "{{ a }}"},
    "spec": {"copy_group_name": "{{ g }}", "copy_pace": 3},
    "state": "split",
}
GROUP = "hitachivantara.vspone_block.vsp.hv_shadow_image_group"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"state": "{{ any }}", "spec": {"copy_group_name": "g", "copy_pace": "{{ n }}"}}, ""),
        ({"sate": "split"}, "sate"),
        ({"state": "broken"}, "broken"),
        ({"spec": {}}, "copy_group_name"),
        ({"spec": {"copy_group_name": "g", "pace": "{{ n }}"}}, "pace"),
        ({"spec": {"copy_group_name": "g", "copy_pace": "fast"}}, "copy_pace"),
    ],
)
def test_a_wrong_call_is_found(change: dict[str, Any], word: str) -> None:
    found = recipes.faults(recipes.specifications()[GROUP], {**RIGHT, **change})
    assert [word in fault for fault in found] == ([True] if word else [])


def test_rules_between_options_are_found() -> None:
    known = recipes.specifications()["dellemc.powerstore.snapshot"]
    right = {"array_ip": "a", "user": "{{ u }}", "password": "{{ p }}", "state": "absent", "snapshot_name": "{{ s }}"}
    assert recipes.faults(known, {**right, "volume_group": "{{ g }}"}) == []
    assert len(recipes.faults(known, right)) == 1
    assert len(recipes.faults(known, {**right, "volume_group": "g", "volume": "{{ v }}"})) == 1


@pytest.mark.parametrize("path", recipes.FILES, ids=titles)
def test_a_secret_goes_where_it_is_kept_secret(path: Path) -> None:
    for task in recipes.tasks_of(path):
        if task.module.startswith(recipes.OURS):
            secrets = LOGIN in str(task.arguments) or "splitmirror_provider_secrets" in str(task.arguments)
            hidden = task.module == "ansible.builtin.uri" and task.content.get("no_log") is True
            assert hidden or not secrets, task.name
            continue
        options = recipes.specifications()[task.module]["options"]
        told = [
            name
            for name, value, kept in recipes.secret_options(options, task.arguments)
            if LOGIN in str(value) and not kept and any(word in str(value) for word in SECRET)
        ]
        assert told == [], task.name


#: Modules that make a snapshot if it is missing, or answer with another volume, and what of a call keeps them from it.
#: What is made after the window is not the split.
NO_SNAPSHOT: dict[str, Callable[[recipes.Task], bool]] = {
    "amazon.aws.ec2_vol": lambda task: "is not changed" in task.content["failed_when"],
    "dellemc.powerstore.snapshot": lambda task: "is changed" in task.content["failed_when"],
    "dellemc.unity.snapshot": lambda task: not {"cg_name", "vol_name"} & set(task.arguments),
    "infinidat.infinibox.infini_vol": lambda task: task.arguments["state"] == "stat",
    "netapp_eseries.santricity.na_santricity_snapshot": lambda task: task.arguments["type"] == "view",
    "purestorage.flasharray.purefa_pgsnap": lambda task: task.arguments["state"] == "copy",
}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_presenting_makes_no_snapshot(name: str) -> None:
    for task in recipes.tasks_of(recipes.ARRAYS / name / "present.yml"):
        if ("snap" in task.module and not task.module.endswith("_info")) or task.module in NO_SNAPSHOT:
            assert NO_SNAPSHOT[task.module](task), task.name


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_names_the_options_that_it_reads(name: str) -> None:
    variables = yaml.safe_load((recipes.ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    recipe = variables["splitmirror_recipes"][name]
    page = (recipes.PAGES / f"{name}.md").read_text(encoding="utf-8")
    split = (recipes.ROLE / f"templates/recipes/{name}.yml.j2").read_text(encoding="utf-8")
    tasks = "".join(path.read_text(encoding="utf-8") for path in (recipes.ARRAYS / name).iterdir())
    read = re.findall(r"splitmirror_array_options\.(\w+)", tasks) + re.findall(r"\bo\.(\w+)", split)
    assert sorted(set(read)) == sorted(recipe["needs"] + recipe["takes"])
    assert [option for option in set(read) if f"`{option}`" not in page] == []


def test_ansible_lint_knows_the_modules() -> None:
    settings = yaml.safe_load((recipes.ROOT / ".ansible-lint").read_text(encoding="utf-8"))
    assert settings["mock_modules"] == recipes.makers_modules()


def test_every_recipe_has_its_parts() -> None:
    table = (recipes.ROOT / "docs/providers.md").read_text(encoding="utf-8")
    assert [name for name in recipes.RECIPES if f"](recipes/{name}.md)" not in table] == []
    assert len(recipes.RECIPES) == 12
    for name in recipes.RECIPES:
        assert (recipes.ARRAYS / name / "present.yml").is_file(), name
        page = (recipes.PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert page.split("-->")[1].startswith(f"\n# Recipe {name}\n"), name
