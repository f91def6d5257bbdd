# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every module: whom it runs as, under which Python, and what it may return."""

from __future__ import annotations

import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils._module import RESERVED, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.host.tools import run_tool
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module as result_of

PLUGINS = Path(__file__).parents[2] / "plugins"
PACKAGE = "ansible_collections.splitmirror.backup.plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
#: Those that an action plugin does, of which nothing is sent to a host.
ACTIONS = sorted(path.stem for path in (PLUGINS / "action").glob("*.py"))
#: The user for what ordinary users may.
NOBODY = 65534
#: The oldest Python that ansible-core 2.19 runs modules with; 2.21 wants a newer one.
OLDEST_OF_ANSIBLE = (3, 8)


def minimal(module: str, root: Path) -> dict[str, Any]:
    """As few valid options as a module takes, for a state folder that belongs to root."""
    session = {"session": "s1", "state_dir": str(root / "state")}
    pairs = {"pairs": [{"name": "data", "device": "/dev/null", "primary": "a", "mirror": "b"}]}
    array = {**pairs, "provider": "image", "state_dir": str(root / "state")}
    drive = {"drive_type": "virtual", "drive": str(root / "state/library")}
    options: dict[str, dict[str, Any]] = {
        "backup_discovery": {**session, **pairs, "paths": ["/srv"]},
        "backup_prepare": {**session, **drive, "volume": "V1"},
        "catalog_info": {"state_dir": str(root / "state")},
        "catalog_rebuild": {"volume": "V1", "state_dir": str(root / "state"), **drive},
        "catalog_retention": {"keep_last": 1, "state_dir": str(root / "state")},
        "catalog_session": {**session, "state": "begun", "host": "db1"},
        "catalog_volume": {"volume": "V1", "state": "in_use", "state_dir": str(root / "state")},
        "extent_map": {**session, **pairs, "state": "mapped", "paths": ["/srv"]},
        "hot_backup": {**session, "state": "begun", "databases": []},
        "library_label": {"pattern": "V*", "state_dir": str(root / "state"), **drive},
        "library_mail": {"state": "noted", "volumes": [], "place": "", "state_dir": str(root / "state")},
        "lun_info": pairs,
        "mirror_attach": {
            "session": "s1",
            "transport": "static",
            "host": "db1",
            "portal": "::1",
            "luns": {"data": "a"},
        },
        "mirror_info": array,
        "mirror_present": {**session, **array, "transport": "local"},
        "mirror_split": {**session, **array},
        "mirror_sync": array,
        "preflight_info": {
            "ask": "media_server",
            "host": "db1",
            "volume": "V1",
            "state_dir": session["state_dir"],
            **drive,
        },
        "restore_drill": {
            "target": str(root / "state"),
            "data_directory": str(root / "state"),
            "driver_options": {"bin_dir": "/usr/bin"},
        },
        "restore_relocate": {
            "target": str(root / "state"),
            "driver": "postgresql",
            "data_directory": str(root / "state/pg"),
        },
        "session_copy": {"pool": "p", "state_dir": str(root / "state"), **drive},
        "tape_label": {"volume": "V1", "capacity": "64M", "state_dir": str(root / "state"), **drive},
        "tape_read": {"session": "s1", "target": str(root / "t"), "state_dir": str(root / "state"), **drive},
        "tape_verify": {"session": "s1", "state_dir": str(root / "state"), **drive},
        "tape_write": {**session, **drive, "devices": {}, "volume": "V1"},
        "volume_info": {"state_dir": str(root / "state")},
        "write_freeze": {**session, "state": "frozen", "mounts": ["/srv"]},
    }
    return options[module]


def run_as_nobody(module: str, options: dict[str, Any]) -> dict[str, Any]:
    """The result of a module in a process of an ordinary user, who may not even read the code: it is there before."""
    code = importlib.import_module(f"{PACKAGE}.modules.{module}")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # Parts of Ansible are imported late, when a module ends.
            result_of(code.main, {"no_such_option": 1})
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write_end, json.dumps(result_of(code.main, options)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        told = stream.read()
    assert os.waitpid(child, 0)[1] == 0, f"{module} ended without a result"
    result: dict[str, Any] = json.loads(told)
    return result


@pytest.fixture
def others_may_enter() -> Iterator[Path]:
    """An empty folder of root that others may look into."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="splitmirror-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.root
@pytest.mark.parametrize("filled", [True, False], ids=["folder of root", "nothing there"])
@pytest.mark.parametrize("module", sorted(set(MODULES) - set(ACTIONS)))
def test_an_ordinary_user_is_told_to_become_root(module: str, filled: bool, others_may_enter: Path) -> None:
    root = others_may_enter
    if filled:
        (root / "state").mkdir(mode=0o700)
        (root / "state/catalog.sqlite").touch()
    result = run_as_nobody(module, minimal(module, root))
    if not filled and module == "restore_relocate":
        return  # there is nothing to relocate, for nobody
    assert result["failed"]
    assert "set become: true" in result["msg"], result["msg"]
    assert "rebuild" not in result["msg"]
    assert "\n" not in result["msg"]
    assert "exception" not in result


@pytest.mark.parametrize("module", MODULES + ACTIONS)
def test_no_module_returns_a_key_of_ansible(module: str) -> None:
    told = importlib.import_module(f"{PACKAGE}.modules.{module}").RETURN
    assert RESERVED.isdisjoint(yaml.safe_load(told) or {})


def keys_of(returned: Any) -> Iterator[str]:
    """All keys of a documented return value, at any depth."""
    for key, told in (returned or {}).items():
        yield key
        yield from keys_of(told.get("contains"))


@pytest.mark.parametrize("module", MODULES + ACTIONS)
def test_every_key_can_be_had_with_a_dot(module: str) -> None:
    """``facts.keys`` in a template is the method of a dict."""
    told = importlib.import_module(f"{PACKAGE}.modules.{module}").RETURN
    assert set(keys_of(yaml.safe_load(told))).isdisjoint(dir(dict))


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_such_a_key_does_not_leave_a_module(key: str) -> None:
    with pytest.raises(AssertionError, match=key):
        result_of(lambda: run_module(lambda module: {key: 1}, {}), {})


def test_a_program_that_fails_has_failed_whatever_started_the_module() -> None:
    """Some supervisors ignore SIGCHLD, and what they start inherits that."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        failed = result_of(lambda: run_module(lambda _module: {"said": run_tool("sh", "-c", "exit 3")}, {}), {})
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert failed["code"] == "program_failed"


def test_keys_that_ansible_reads_are_reserved() -> None:
    """The keys that ansible-core's executor and strategies ask a result for."""
    import ansible.executor.task_executor
    import ansible.plugins.strategy

    known = {
        "changed",
        "failed",
        "msg",
        "rc",
        "diff",
        "stdout",
        "stderr",
        "ansible_loop_var",
        "failed_when_result",
        "ansible_index_var",
    }
    for module in (ansible.executor.task_executor, ansible.plugins.strategy):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and (node.func.attr, getattr(node.func.value, "id", "")) == ("get", "result")
                and isinstance(node.args[0], ast.Constant)
            ):
                key = str(node.args[0].value)
                assert key in RESERVED | known or key.startswith("_ansible"), key


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(ACTIONS)))
def test_an_old_python_can_read_a_module_up_to_the_sentence(module: str) -> None:
    path = PLUGINS / f"modules/{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST_OF_ANSIBLE)
    first = next(
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ansible_collections.")
    )
    names = [f"{first.module}.{alias.name}" for alias in first.names]
    assert f"{PACKAGE}.module_utils._module" in (first.module, names[0])
    before = tree.body[: tree.body.index(first)]
    # Nothing that such a Python would evaluate otherwise stands before it.
    strings = [node for node in before if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    imports = [node for node in before if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert len(strings) + len(imports) == len(before)


def test_so_can_it_the_files_that_say_it() -> None:
    for name in ("__init__.py", "_module.py", "_python.py"):
        ast.parse((PLUGINS / "module_utils" / name).read_text(encoding="utf-8"), feature_version=OLDEST_OF_ANSIBLE)
    with pytest.raises(SyntaxError):  # the parser does know the difference
        ast.parse("match x:\n    case 1:\n        pass\n", feature_version=OLDEST_OF_ANSIBLE)


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(ACTIONS)))
def test_an_old_python_is_refused_in_one_sentence(module: str) -> None:
    """This Python calls itself an old one, and whatever is imported behind the sentence would fail."""
    program = f"""\
import sys
import ansible.module_utils.basic  # since ansible-core 2.21 it asks by itself for the oldest that it supports
sys.version_info = (3, 8, 10, "final", 0)
class Late:
    def find_spec(self, name, path=None, target=None):
        if "splitmirror.backup.plugins.module_utils." in name and name.rpartition(".")[2] not in ("_module", "_python"):
            raise SyntaxError(name)
sys.meta_path.insert(0, Late())
import {PACKAGE}.modules.{module}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["failed"], done.stderr) == (1, True, "")
    assert told["msg"].startswith(f"ansible_python_interpreter: {sys.executable} is Python 3.8, ")
