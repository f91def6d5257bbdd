# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever an action refuses or fails in, its result has code, option and times."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.plugin_utils.errors import ActionError
from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook

ACTIONS = Path(__file__).resolve().parents[3] / "plugins/action"
GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": False}
ARMED = {"kind": "armed", "host": "other"}
WINDOW = {"session": "s1", "mounts": ["/"], "splitters": [ARMED]}
TRANSFER = {"src": "/etc/passwd", "dest": "{{ folder }}/dest", "to_host": "other"}
#: Module, its options, whether in check mode, and what the result says: option and code.
CASES: list[tuple[str, dict[str, Any], bool, Optional[str], str]] = [
    ("session_transfer", {**TRANSFER, "to_host": "gone"}, False, None, "unreachable"),
    ("session_transfer", {**TRANSFER, "to_host": "nobody"}, False, "to_host", "option_invalid"),
    ("session_transfer", {**TRANSFER, "src": "/no/file"}, False, "src", "failed"),
    ("session_transfer", {**TRANSFER, "src": ""}, False, "src", "option_invalid"),
    ("session_transfer", {"dest": "/no/file"}, False, None, "option_invalid"),
    ("session_transfer", {**TRANSFER, "dest": "/etc/passwd/x"}, False, "dest", "failed"),
    ("backup_window", {**WINDOW, "splitters": []}, False, "splitters", "option_invalid"),
    ("backup_window", {**WINDOW, "splitters": [ARMED, ARMED]}, False, "splitters", "option_invalid"),
    ("backup_window", {**WINDOW, "splitters": [{"kind": "armed"}]}, False, "splitters", "option_invalid"),
    ("backup_window", {**WINDOW, "splitters": [{**ARMED, "host": "nobody"}]}, False, "splitters", "option_invalid"),
    ("backup_window", {**WINDOW, "splitters": [{**ARMED, "host": "gone"}]}, True, None, "unreachable"),
    ("backup_window", {**WINDOW, "mounts": []}, False, "mounts", "option_invalid"),
    ("backup_window", {**WINDOW, "session": "../s1"}, False, "session", "option_invalid"),
    *(
        ("backup_window", {**WINDOW, name: value}, check, name, "option_invalid")
        for name in ("deadline_s", "turn_timeout_s")
        for value in (-1, "nan", "inf", "-inf")
        for check in (False, True)
    ),
    ("backup_window", {**WINDOW, "deadline_s": 0}, False, "deadline_s", "option_invalid"),
    ("backup_window", {**WINDOW, "deadline_s": 1e300}, False, "deadline_s", "option_invalid"),
    ("backup_window", {**WINDOW, "state_dir": "{{ folder }}/none"}, False, None, "no_answer"),
    ("session_lease", {"session": "../x", "host": "h", "state": "held"}, False, "session", "option_invalid"),
    ("extent_map", {"session": "../s1", "state": "checked"}, False, "session", "option_invalid"),
    ("catalog_info", {"host": "walled"}, False, None, "needs_root"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each case returned."""
    folder = tmp_path_factory.mktemp("results")
    everywhere = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "folder": str(folder),
    }
    walled = {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/bin/false"}
    hosts = {"all": {"vars": everywhere, "hosts": {"here": {}, "other": {}, "gone": GONE, "walled": walled}}}
    tasks = [
        {
            f"splitmirror.backup.{name}": {"state_dir": "{{ folder }}", **options}
            if name != "session_transfer"
            else options,
            "check_mode": check,
            "delegate_to": options.get("host", "here") if name == "catalog_info" else "here",
            "register": f"case{number}",
            "ignore_errors": True,
        }
        for number, (name, options, check, _option, _code) in enumerate(CASES)
    ]
    told = "{{ [" + ", ".join(f"case{number}" for number in range(len(CASES))) + "] }}"
    tasks.append({"ansible.builtin.copy": {"content": told, "dest": "{{ folder }}/told.json"}})
    (folder / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    (folder / "play.yml").write_text(json.dumps([{"hosts": "here", "gather_facts": False, "tasks": tasks}]), "utf-8")
    done = run_playbook(playbook_command(folder / "hosts.json", folder / "play.yml"), folder)
    assert done.returncode == 0, done.stdout
    found: list[dict[str, Any]] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_each_failure_has_code_option_and_times(results: list[dict[str, Any]]) -> None:
    wrong = [
        (case, result)
        for case, result in zip(CASES, results)
        if not result["failed"]
        or (result.get("option", "-"), result.get("code")) != case[3:]
        or not 0 < result.get("began_s", 0) <= result.get("ended_s", 0)
    ]
    assert wrong == []


@pytest.mark.slow
def test_who_may_not_become_root_is_told_where(results: list[dict[str, Any]]) -> None:
    refused = results[[name for name, *_rest in CASES].index("catalog_info")]["msg"]
    assert refused.startswith("walled: ")
    assert refused.endswith("; correct ansible_become_password and the rights on that host.")


def test_each_action_is_among_the_cases() -> None:
    # preflight_info stands for the modules without an action of their own.
    covered = {name for name, *_rest in CASES} | {"preflight_info"}
    assert {path.stem for path in ACTIONS.glob("*.py")} <= covered


def test_an_error_has_a_code_when_none_is_given() -> None:
    assert (ActionError("x.").code, ActionError("x.").option) == ("failed", None)
