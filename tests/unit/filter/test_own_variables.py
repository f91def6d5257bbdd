# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variables that are not the user's, and options of databases and providers, are refused before a host is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.filter.misspelt import DANGEROUS, RETIRED, inner, misspelt, options
from ansible_collections.splitmirror.backup.plugins.filter.untouched import untouched
from ansible_collections.splitmirror.backup.plugins.filter.wrong_options import wrong_options
from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook

HERE: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": "/usr/bin/python3",
    "splitmirror_array": "here",
    "splitmirror_media_server": "here",
    "splitmirror_provider": "image",
    "splitmirror_pairs": [{"name": "data", "primary": "/p", "mirror": "/m"}],
    "splitmirror_paths": ["/etc"],
    "splitmirror_volume": "VOL001",
}


def inventory(folder: Path, **variables: Any) -> Path:
    """An inventory of this machine."""
    path = folder / "inventory.yml"
    here = {**HERE, "splitmirror_state_dir": str(folder / "state"), **variables}
    path.write_text(yaml.safe_dump({"splitmirror_database_hosts": {"hosts": {"here": here}}}), encoding="utf-8")
    return path


OWN: dict[str, Any] = {"splitmirror_steps": [], "splitmirror_reason": "weekly", "splitmirror_session": "mine"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("playbook", ["backup", "preflight"])
def test_a_variable_of_the_role_on_the_command_line_is_refused(tmp_path: Path, playbook: str, name: str) -> None:
    done = run_playbook(playbook_command(inventory(tmp_path), playbook, **{name: OWN[name]}), tmp_path)
    assert done.returncode != 0
    assert f"{name}: the role mirrored_backup sets this itself" in done.stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_variable_of_the_role_in_the_inventory_is_refused(tmp_path: Path) -> None:
    done = run_playbook(playbook_command(inventory(tmp_path, **OWN), "backup"), tmp_path)
    assert done.returncode != 0
    assert f"{', '.join(sorted(OWN))}: the role" in done.stdout


@pytest.mark.slow
def test_a_role_without_steps_is_not_a_backup(tmp_path: Path) -> None:
    role = {"role": "splitmirror.backup.mirrored_backup", "vars": {"splitmirror_steps": [], "splitmirror_reason": "x"}}
    play = {"hosts": "all", "gather_facts": False, "roles": [role]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    done = run_playbook(playbook_command(inventory(tmp_path), tmp_path / "play.yml"), tmp_path)
    assert done.returncode != 0
    assert "ended without being judged good" in done.stdout


@pytest.mark.parametrize("name", sorted(inner("mirrored_backup") - {"splitmirror_session"}))
def test_each_own_variable_is_refused_but_what_an_earlier_session_of_the_play_has_left(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match=name):
        untouched({name: ""})
    assert untouched({name: "", "splitmirror_session": "20260101T000000Z-db1-00ff"})


def test_a_name_that_has_gone_is_told_with_its_heir_and_no_switch_of_a_safety_is_suggested() -> None:
    for name, heir in RETIRED.items():
        assert misspelt([name])[0].endswith(f"{heir}.")
    for name in DANGEROUS:
        assert name in options()
        for place in range(len("splitmirror_"), len(name)):
            assert f"mean {name}" not in misspelt([name[:place] + name[place + 1 :]])[0]


def wrong(**variables: Any) -> list[str]:
    """What is wrong with these variables, which are named without their prefix."""
    right: dict[str, Any] = {
        "databases": [{"name": "main", "driver": "postgresql", "postgresql": {"unix_socket": "~/run"}}],
        "provider": "image",
        "provider_options": {"allow_copy": True},
        "pairs": HERE["splitmirror_pairs"],
    }
    return wrong_options({f"splitmirror_{name}": value for name, value in {**right, **variables}.items()})


def database(**keys: Any) -> list[dict[str, Any]]:
    """A database with further keys."""
    return [{"name": "main", "driver": "postgresql", **keys}]


def test_right_options_are_taken() -> None:
    assert wrong() == []


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"databases": database(options={})}, "databases: main: rename the key 'options' to 'postgresql'"),
        (
            {"databases": database(port=1)},
            "databases: main: 'port' is not a key of a database; put it below 'postgresql'",
        ),
        (
            {"databases": database(postgresql={"prot": 1})},
            "databases: main: 'prot' is not an option of driver postgresql (did you mean 'port'?)",
        ),
        ({"databases": [{"driver": "sqlite", "sqlite": {"path": "/x"}}]}, "databases: entry 1: it has no name"),
        ({"databases": [{"name": "main", "driver": "mysql"}]}, "databases: main: driver 'mysql' is not known"),
        ({"databases": database(quiesce="now")}, "databases: main: quiesce is 'now'"),
        ({"provider": "lmv"}, "provider: 'lmv' is not known (did you mean 'lvm'?)"),
        ({"provider_options": {"allow_cpoy": True}}, "provider_options: 'allow_cpoy' is not an option"),
        ({"pairs": [{"name": "data", "sereal": "1"}]}, "pairs: data: 'sereal' is not an option of a pair"),
        ({"pairs": [{"device": "/dev/sda"}]}, "pairs: entry 1: a pair needs the option 'name'"),
        ({"pairs": [{"name": "data", "options": {"x": 1}}]}, "pairs: data: options: 'x' is not an option of provider"),
    ],
)
def test_each_fault_is_one_sentence(variables: dict[str, Any], sentence: str) -> None:
    (found,) = wrong(**variables)
    assert found.startswith(f"splitmirror_{sentence}")


def test_all_faults_are_told_at_once_and_no_password() -> None:
    given = database(postgresql={"login_pasword": "hunter2", "login_password": ["hunter2"], "port": "x"})
    found = wrong(databases=given, provider="magic", pairs=[{"name": "data", "a": 1, "b": 2}])
    assert len(found) == 6
    assert "hunter2" not in " ".join(found)
