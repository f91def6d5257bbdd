# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every module of the collection is run by an action that fails where a host cannot be reached."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.plugin_utils.host_action import HostAction
from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook

ROOT = Path(__file__).resolve().parents[3]
RUNTIME = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
#: The action plugins, by name. They are imported before a test lets Ansible find collections.
OWN = {
    path.stem: importlib.import_module(f"ansible_collections.splitmirror.backup.plugins.action.{path.stem}")
    for path in (ROOT / "plugins/action").glob("*.py")
}
STRATEGIES = ["linear", "free", "host_pinned"]


def play(strategy: str) -> dict[str, Any]:
    """Ask a host that is gone, itself and as the delegate of one that is there, and then one that is there."""
    info = {"splitmirror.backup.catalog_info": {"state_dir": "{{ state_dir }}"}}
    asked = [
        {**info, "delegate_to": "gone", "register": "delegated", "ignore_errors": True},
        {**info, "delegate_to": "gone", "check_mode": True, "register": "checked", "ignore_errors": True},
        {**info, "delegate_to": "{{ item }}", "loop": ["gone", "here"], "register": "looped", "ignore_errors": True},
        {"block": [{**info, "register": "own"}], "rescue": [{"ansible.builtin.set_fact": {"rescued": True}}]},
    ]
    told = (
        "{{ {'delegated': delegated, 'checked': checked, 'looped': looped.results, 'own': own,"
        " 'rescued': rescued | default(false)} }}"
    )
    kept = {"content": told, "dest": "{{ state_dir }}/" + strategy + "-{{ inventory_hostname }}.json"}
    written = {"ansible.builtin.copy": kept, "delegate_to": "here"}
    return {"hosts": "gone:here", "gather_facts": False, "strategy": strategy, "tasks": [*asked, written]}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tasks of each strategy returned on each host; a folder of JSON files."""
    folder = tmp_path_factory.mktemp("told")
    everywhere = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "state_dir": str(folder),
    }
    hosts = {"all": {"vars": everywhere, "hosts": {"here": {}, "gone": GONE}}}
    (folder / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    (folder / "plays.yml").write_text(json.dumps([play(strategy) for strategy in STRATEGIES]), encoding="utf-8")
    done = run_playbook(playbook_command(folder / "hosts.json", folder / "plays.yml"), folder)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("host", ["here", "gone"])
def test_a_host_that_is_gone_fails_the_task_and_stays_in_the_play(told: Path, strategy: str, host: str) -> None:
    results = json.loads((told / f"{strategy}-{host}.json").read_text(encoding="utf-8"))
    lost = [
        results["delegated"],
        results["checked"],
        results["looped"][0],
        *([results["own"]] if host == "gone" else []),
    ]
    for result in lost:
        assert (result["failed"], result["code"]) == (True, "unreachable")
        assert result["msg"].startswith("gone cannot be reached: ")
        assert "unreachable" not in result
    for result in [results["looped"][1], *([results["own"]] if host == "here" else [])]:
        assert not result["failed"]
        assert result["sessions"] == []
        assert time.time() - 3600 < result["began_s"] <= result["ended_s"] <= time.time()
    assert results["rescued"] is (host == "gone")


def test_every_module_is_run_by_it() -> None:
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
    routed = {name: routing["action_plugin"] for name, routing in RUNTIME["plugin_routing"]["modules"].items()}
    assert modules == set(OWN) | set(routed)
    assert not set(OWN) & set(routed)
    assert set(routed.values()) == {"splitmirror.backup.preflight_info"}
    assert all(issubclass(action.ActionModule, HostAction) for action in OWN.values())


def test_groups_name_modules() -> None:
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
    assert {name for members in RUNTIME["action_groups"].values() for name in members} <= modules
