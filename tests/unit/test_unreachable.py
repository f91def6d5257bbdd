# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that cannot be reached is told with all else that is wrong, by the table and in the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook

GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """One database host without any optional variable; its array answers nobody."""
    database_host = {
        "splitmirror_array": "array1",
        "splitmirror_media_server": "media1",
        "splitmirror_provider": "image",
        "splitmirror_pairs": [
            {"name": "data", "device": "/dev/null", "primary": "/no/primary", "mirror": "/no/mirror"}
        ],
        "splitmirror_paths": ["/no/data"],
        "splitmirror_volume": "V1",
    }
    everywhere = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {"db1": database_host, "array1": GONE, "media1": {}}
    path = tmp_path / "hosts.json"
    told = {
        "all": {
            "vars": {**everywhere, "splitmirror_state_dir": str(tmp_path / "state")},
            "hosts": hosts,
            "children": {"splitmirror_database_hosts": {"hosts": {"db1": None}}},
        }
    }
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_table_of_preflight_has_it_and_all_the_rest(
    inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")  # the clocks agree, wherever the controller stands
    done = run_playbook(playbook_command(inventory, "preflight"), tmp_path)
    assert done.returncode != 0
    wrong = [line for line in done.stdout.splitlines() if '"WRONG' in line]
    for host, question in (("db1", "LUNs"), ("array1", "host"), ("media1", "volume")):
        assert any(f" {host} " in line and f" {question} " in line for line in wrong), done.stdout
    assert [line for line in wrong if " clock " in line] == [], done.stdout
    assert done.stdout.count(" clock  ") == 2
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_backup_reports_it_and_a_hook_that_fails_in_the_working_folder(inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "hook.yml").write_text(json.dumps([{"ansible.builtin.fail": {"msg": "No."}}]), encoding="utf-8")
    options = {"splitmirror_report_dir": "night/reports", "splitmirror_after_phase_tasks": "hook.yml"}
    command = playbook_command(inventory, "backup", **options)
    assert run_playbook(command, tmp_path).returncode != 0
    report = json.loads((tmp_path / "night/reports/db1.json").read_text(encoding="utf-8"))
    assert report["state"] == "failed"
    for answer in ("db1: LUNs: ", "array1: host: ", "media1: volume: "):
        assert answer in report["reason"]
    assert report["reason"].endswith("The tasks of splitmirror_after_phase_tasks failed as well: No.")
