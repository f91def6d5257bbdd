# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing to do is no success: no host to work on, and variables that nobody reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.filter.chosen_group import FilterModule as Groups
from ansible_collections.splitmirror.backup.plugins.filter.misspelt import FilterModule as Names
from ansible_collections.splitmirror.backup.plugins.filter.misspelt import inner, options
from ansible_collections.splitmirror.backup.tests.support.demo import ROOT, playbook_command, run_playbook

chosen_group = Groups().filters()["chosen_group"]
misspelt = Names().filters()["misspelt"]

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml") if path.stem != "demo")
GROUP = "splitmirror_database_hosts"
HERE = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3"}


def inventory(folder: Path, *groups: str) -> Path:
    """An inventory of this machine, in groups."""
    path = folder / "inventory.yml"
    path.write_text(yaml.safe_dump({group: {"hosts": {"here": HERE}} for group in groups}), encoding="utf-8")
    return path


def test_a_group_with_a_host_to_work_on_is_taken() -> None:
    assert chosen_group({GROUP: ["db1", "db2"]}, GROUP, ["db2", "media1"]) == GROUP


@pytest.mark.parametrize(
    ("groups", "hosts", "sentence"),
    [
        ({"splitmirror_db_hosts": ["db1"]}, ["db1"], "did you mean that by 'splitmirror_db_hosts'"),
        ({"ungrouped": []}, [], "no group"),
        ({GROUP: []}, ["media1"], "is empty"),
        ({GROUP: ["db1"]}, ["media1"], "its hosts are db1"),
        ({GROUP: ["db1"]}, [], "--limit leaves no host"),
    ],
)
def test_a_group_that_leaves_nothing_to_do_is_refused(
    groups: dict[str, list[str]], hosts: list[str], sentence: str
) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(sentence)):
        chosen_group(groups, GROUP, hosts)


@pytest.mark.slow
@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_no_playbook_succeeds_without_a_host(tmp_path: Path, playbook: str) -> None:
    done = run_playbook(playbook_command(inventory(tmp_path, "database_host"), playbook), tmp_path)
    assert done.returncode != 0
    assert "nothing to do" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_no_playbook_passes_over_a_misspelt_variable(tmp_path: Path, playbook: str) -> None:
    given = inventory(tmp_path, GROUP, "splitmirror_media_servers")
    variables = {
        "splitmirror_array": "here",
        "splitmirror_media_server": "here",
        "splitmirror_pairs": [],
        "splitmirror_provider": "image",
        "splitmirror_restore_target": str(tmp_path / "target"),
        "splitmirror_volume": "VOL001",
        "splitmirror_volumes": ["VOL001"],
        "splitmirror_state_dir": str(tmp_path / "state"),
        "splitmirror_drive_tpye": "virtual",
    }
    done = run_playbook(playbook_command(given, playbook, **variables), tmp_path)
    assert done.returncode != 0
    assert "did you mean splitmirror_drive_type?" in done.stdout
    assert not (tmp_path / "target").exists()


def test_each_option_without_one_of_its_letters_is_misspelt() -> None:
    for name in options():
        assert misspelt([name, "ansible_host", "other"]) == []
        for place in range(len("splitmirror_") + 1, len(name)):
            typo = name[:place] + name[place + 1 :]
            if typo not in options() | inner():
                assert [sentence.partition(":")[0] for sentence in misspelt([typo])] == [typo]


def test_what_the_documentation_and_the_examples_set_is_read() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "extensions/molecule").glob("*/*.yml")]
    pages += [*(ROOT / "tests/lab").glob("*.py"), *(ROOT / "roles").glob("*/templates/inventory.yml.j2")]
    groups = {"splitmirror_arrays", "splitmirror_database_hosts", "splitmirror_media_servers"}
    for page in pages:
        set_there = re.findall(r"\b(splitmirror_[a-z_]+)['\"]?\s*[:=]", page.read_text(encoding="utf-8"))
        assert misspelt(set(set_there) - groups) == [], page
