# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A list that is given as a string is refused in one sentence, by every playbook and for every list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.filter.misshapen import FilterModule, shapes
from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook

misshapen = FilterModule().filters()["misshapen"]

HOSTS = {
    "db1": {
        "splitmirror_array": "db1",
        "splitmirror_media_server": "db1",
        "splitmirror_provider": "image",
        "splitmirror_pairs": [{"name": "data"}],
        "splitmirror_volume": "V1",
        "splitmirror_restore_target": "/no/such/folder",
    }
}


def run(folder: Path, playbook: str, extra: str) -> tuple[int, str]:
    """Run a playbook with one more variable from its command line."""
    groups: dict[str, Any] = {
        f"splitmirror_{name}": {"hosts": HOSTS} for name in ("database_hosts", "arrays", "media_servers")
    }
    inventory = {"all": {"vars": {"ansible_connection": "local"}, "children": groups}}
    (folder / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    command = playbook_command(folder / "hosts.json", playbook, "--check", f"--extra-vars={extra}")
    done = run_playbook(command, folder)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", sorted(shapes()))
def test_each_list_that_is_a_string_is_told(name: str) -> None:
    assert len(misshapen({name: "/y", "other": "/y"})) == 1
    assert misshapen({name: "/y"})[0].startswith(f"{name}: '/y' is a string")
    assert misshapen({name: [] if shapes()[name] == "list" else {}}) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("playbook", "extra"),
    [
        ("backup", "splitmirror_paths=/y"),
        ("backup", "splitmirror_exclude=*.tmp"),
        ("label", "splitmirror_volumes=V1"),
        ("restore", "splitmirror_restore_paths=/y"),
    ],
)
def test_the_playbooks_say_so_and_do_nothing(tmp_path: Path, playbook: str, extra: str) -> None:
    code, said = run(tmp_path, playbook, extra)
    name = extra.partition("=")[0]
    assert code != 0
    assert f"{name}: " in said, said[-3000:]
    assert "is a string, and it has to be a list" in said


ROLES = Path(__file__).parents[3] / "roles"
READS = [
    ("mirrored_backup", "main", "vars/main"),
    ("mirrored_backup", "check", "vars/main"),
    ("mirrored_backup", "retained", "tasks/retained"),
    ("mirrored_restore", "main", "tasks/refuse"),
    ("media_volumes", "labelled", "tasks/labelled"),
    ("media_volumes", "verified", "tasks/verified"),
    ("media_volumes", "listed", "tasks/listed"),
    ("media_volumes", "exported", "tasks/exported"),
    ("media_volumes", "imported", "tasks/imported"),
]


@pytest.mark.parametrize(("role", "entry", "looked_at_in"), READS)
def test_each_list_of_a_role_is_looked_at(role: str, entry: str, looked_at_in: str) -> None:
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    asked = (ROLES / role / f"{looked_at_in}.yml").read_text(encoding="utf-8")
    lists = [name for name, told in specs[entry]["options"].items() if told["type"] in ("list", "dict")]
    assert lists
    assert [name for name in lists if f"'{name}': {name}" not in asked] == []


def test_a_list_with_commas_is_proposed_as_its_parts() -> None:
    assert '["A1", "A2"]' in misshapen({"splitmirror_volumes": "A1, A2"})[0]


@pytest.mark.slow
def test_a_list_that_a_play_gives_to_its_role_as_a_string_is_told(tmp_path: Path) -> None:
    play = {
        "hosts": "all",
        "gather_facts": False,
        "roles": [{"role": "splitmirror.backup.mirrored_backup", "vars": {"splitmirror_paths": "/y"}}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    inventory = {"all": {"vars": {"ansible_connection": "local"}, "hosts": HOSTS}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    done = run_playbook(playbook_command(tmp_path / "hosts.json", tmp_path / "play.yml", "--check"), tmp_path)
    assert done.returncode != 0
    assert "splitmirror_paths: '/y' is a string, and it has to be a list" in done.stdout
