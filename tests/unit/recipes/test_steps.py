# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tasks of recipes, run by Ansible with stand-ins for the makers' modules (tests/support/makers.py)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.tests.support import makers, recipes
from ansible_collections.splitmirror.backup.tests.support.makers import DEAD, FOREIGN, SESSION, SHORT

pytestmark = pytest.mark.slow

STEPS = ("preflight", "sync", "arm", "present", "withdraw", "resync", "recover")
#: The second pair of each set.
SECOND = {
    "cinder": ("9d3d9c2f-4c20-4b63-9f55-3e3f4d5c6b7a", "db1_wal_mirror"),
    "ebs": ("vol-0b1a2c3d4e5f60718", "/dev/sdg"),
    "hitachi_vsp": ("259", "515"),
    "ontap": ("/vol/db1_wal/lun0", "db1_wal_mirror"),
    "powermax": ("00030", "0104B"),
    "truenas": ("tank/db1/wal", "tank/db1_wal_mirror"),
}
#: How the media server knows a LUN, by the name of its pair; {name} stands for it.
LUNS: dict[str, dict[str, Any]] = {
    "cinder": {"size_bytes": 1 << 30},
    "ebs": {},
    "hitachi_vsp": {"wwn": "N{name}"},
    "ibm_sv": {"wwn": "n{name}"},
    "infinidat": {"serial": "S{name}"},
    "ontap": {"serial": "S{name}", "size_bytes": makers.MIB},
    "powerstore": {"wwn": "N{name}", "size_bytes": makers.MIB},
    "pure": {"wwn": "N{name}", "size_bytes": makers.MIB},
    "santricity": {"wwn": "n{name}"},
    "truenas": {"wwn": "N{name}"},
    "unity": {"wwn": "n{name}", "size_bytes": makers.MIB},
}
OTHERS = {"cinder": "serial", "ebs": "serial"}  # keys whose value is made of something else
PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "connection": "local",
    "vars": {"ansible_become": False},
    "tasks": [
        {
            "name": "Go",
            "ansible.builtin.include_tasks": "step.yml",
            "loop": "{{ steps }}",
            "loop_control": {"loop_var": "step"},
        }
    ],
}
STEP = [{"name": "Step", "ansible.builtin.include_tasks": "{{ folder }}/{{ inventory_hostname }}/{{ step }}.yml"}]


class Run:
    """All steps of all recipes in one play."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        specifications = recipes.specifications()
        (folder / "specifications.json").write_text(json.dumps(specifications))
        modules = {*specifications, "standin.builtin.uri", "standin.builtin.command"}
        for module in modules:
            namespace, name, rest = module.split(".", 2)
            parts = rest.split(".")
            plugin = folder / "ansible_collections" / namespace / name / "plugins/action" / "/".join(parts[:-1])
            plugin.mkdir(parents=True, exist_ok=True)
            text = makers.PLUGIN.format(folder=str(Path(makers.__file__).parent), module=module)
            (plugin / f"{parts[-1]}.py").write_text(text)
        for name in recipes.RECIPES:
            self.copy(name)
        role = {"role_path": str(recipes.ROLE)}
        for part in ("defaults", "vars"):
            role.update(yaml.safe_load((recipes.ROLE / part / "main.yml").read_text(encoding="utf-8")))
        inventory = {"all": {"hosts": {name: self.variables(name) for name in recipes.RECIPES}, "vars": role}}
        (folder / "inventory.json").write_text(json.dumps(inventory))
        (folder / "play.yml").write_text(json.dumps([{**PLAY, "post_tasks": [self.report()]}]))
        (folder / "step.yml").write_text(json.dumps(STEP))
        (folder / "ours.yml").write_text("[]")
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{folder}:{recipes.ROOT / '.cache/tree'}",
            "SPLITMIRROR_MAKERS": str(folder),
        }
        words = ["ansible-playbook", "--inventory", str(folder / "inventory.json"), str(folder / "play.yml")]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:]
        self.luns = {name: json.loads((folder / f"{name}.luns").read_text()) for name in recipes.RECIPES}
        self.calls = [json.loads(line) for line in (folder / "calls.json").read_text().splitlines()]

    def copy(self, name: str) -> None:
        """The folder of a recipe, with stand-ins for what would leave this machine."""
        target = self.folder / "array" / name
        target.mkdir(parents=True)
        for path in (recipes.ARRAYS / name).iterdir():
            text = path.read_text(encoding="utf-8")
            for word in ("uri", "command"):
                text = text.replace(f"ansible.builtin.{word}:", f"standin.builtin.{word}:")
            (target / path.name).write_text(text)

    def variables(self, name: str) -> dict[str, Any]:
        """The inventory of the page, with a second pair, in the middle of a session."""
        found = recipes.inventory_of(name)
        first = found["splitmirror_pairs"][0]
        second = SECOND.get(name, (f"{first['primary']}2", f"{first['mirror']}2"))
        return {
            **found,
            "splitmirror_pairs": [first, {"name": "wal", "primary": second[0], "mirror": second[1]}],
            "splitmirror_array_login": {"username": "u", "password": "p", "token": "t"},
            "splitmirror_array": "localhost",
            "splitmirror_session": SESSION,
            "splitmirror_session_short": SHORT,
            "splitmirror_dead_shorts": [DEAD],
            "splitmirror_would_be_free": False,
            "splitmirror_array_ours": dict.fromkeys(STEPS, str(self.folder / "ours.yml")),
            "splitmirror_asked_array": {"findings": []},
            "splitmirror_mirror": {},
            "folder": str(self.folder / "array"),
            "steps": [step for step in STEPS if (recipes.ARRAYS / name / f"{step}.yml").is_file()],
        }

    def report(self) -> dict[str, Any]:
        """A task that keeps what present.yml has set, and what preflight.yml has found."""
        kept = "{'luns': splitmirror_mirror.luns | default({}), 'findings': splitmirror_asked_array.findings}"
        target = f"{self.folder}/{{{{ inventory_hostname }}}}.luns"
        return {
            "name": "Keep",
            "ansible.builtin.copy": {"content": f"{{{{ {kept} | to_json }}}}", "dest": target, "mode": "0600"},
        }

    def texts(self, name: str, step: str, *, looking: bool = False) -> list[str]:
        """The arguments of all calls of a step that change something, or of those that only look."""
        return [
            json.dumps(call["arguments"])
            for call in self.calls
            if (call["host"], call["step"]) == (name, step) and looks(call) == looking
        ]


def looks(call: dict[str, Any]) -> bool:
    """Whether a call only asks."""
    asks = call["module"].endswith(("info", "facts", "uri")) or call["arguments"].get("state") == "stat"
    return asks or ".query" in json.dumps(call["arguments"].get("argv", ""))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("steps"))


@pytest.mark.parametrize("name", LUNS)
def test_present_says_how_the_media_server_knows_each_lun(run: Run, name: str) -> None:
    luns = run.luns[name]["luns"]
    wanted = {
        pair: {key: value.format(name=pair) if isinstance(value, str) else value for key, value in LUNS[name].items()}
        for pair in ("data", "wal")
    }
    if name in OTHERS:
        told = [lun.pop(OTHERS[name]) for lun in luns.values()]
        assert len(set(told)) == 2
        assert all(told)
    assert luns == wanted


#: Of these the mirror itself is there all the time; what carries no mark is not theirs to delete.
PERMANENT = ("hitachi_vsp", "ibm_sv", "powermax")


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name not in PERMANENT])
def test_only_what_carries_a_mark_of_the_right_session_is_taken_away(run: Run, name: str) -> None:
    for step, own, other in (("withdraw", SHORT, DEAD), ("recover", DEAD, SHORT)):
        if name == "truenas":  # extents are deleted by number
            texts = [text for text in run.texts(name, step) if "extent.delete" not in text]
        else:
            texts = run.texts(name, step)
        assert texts
        assert [text for text in texts if own not in text] == []
        assert [text for text in texts if other in text or FOREIGN in text] == []


@pytest.mark.parametrize("name", ["ibm_sv", "ontap", "pure"])
def test_the_group_on_the_array_is_compared_with_the_pairs(run: Run, name: str) -> None:
    (finding,) = run.luns[name]["findings"]
    assert finding["right"] is True, finding["answer"]
