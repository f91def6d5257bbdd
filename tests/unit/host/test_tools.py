# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs get an environment of ours, wherever one is started."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.limited import run_limited
from ansible_collections.splitmirror.backup.plugins.module_utils.host.tools import own_environment, run_tool

MODULE_UTILS = Path(__file__).resolve().parents[3] / "plugins/module_utils"
#: Ways of the standard library, and Ansible's, to start a program.
STARTERS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "posix_spawn", "posix_spawnp", "startfile"},
    "pty": {"spawn"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}
VARIABLES = {
    "TAR_OPTIONS": "--exclude=*",
    "LD_PRELOAD": "",
    "LVM_SYSTEM_DIR": "/nowhere",
    "MTX": "x",
    "POSIXLY_CORRECT": "1",
    "LANG": "de_DE.UTF-8",
    "LC_MESSAGES": "de_DE.UTF-8",
}


def starts(call: ast.Call) -> bool:
    """Whether a call starts a program."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr == "run_command":  # of an AnsibleModule
        return True
    if not isinstance(function.value, ast.Name):
        return False
    module, name = function.value.id, function.attr
    return name in STARTERS.get(module, ()) or (module == "os" and name.startswith(("exec", "spawn")))


def has_own_environment(call: ast.Call) -> bool:
    return any(
        keyword.arg == "env"
        and isinstance(keyword.value, ast.Call)
        and isinstance(keyword.value.func, ast.Name)
        and keyword.value.func.id == "own_environment"
        for keyword in call.keywords
    )


def programs() -> Iterator[tuple[str, ast.Call]]:
    """All calls that start a program."""
    for path in sorted(MODULE_UTILS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                # nobody starts one by a name that the look at the calls does not know
                assert node.module not in STARTERS or not STARTERS[node.module] & {name.name for name in node.names}
            if isinstance(node, ast.Import):
                assert not any(name.asname for name in node.names if name.name in STARTERS)
            if isinstance(node, ast.Call) and starts(node):
                yield f"{path.relative_to(MODULE_UTILS)}:{node.lineno}", node


def test_no_call_bypasses_it() -> None:
    found = list(programs())
    assert {place.partition(":")[0] for place, _call in found} == {"host/tools.py"}
    assert [place for place, call in found if not has_own_environment(call)] == []


def test_a_program_sees_what_we_give_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/somewhere")
    for told in (
        run_tool("env", "-0", environment={"OURS": "1"}),
        run_limited(["env", "-0"], 30, {"OURS": "1"}).out.decode(),
    ):
        seen = dict(entry.split("=", 1) for entry in told.split("\0") if entry)
        assert not set(VARIABLES) & set(seen)
        assert (seen["HOME"], seen["LC_ALL"], seen["OURS"]) == ("/somewhere", "C", "1")
        assert seen == own_environment({"OURS": "1"})


def test_programs_of_the_system_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert run_tool("losetup", "--version")
