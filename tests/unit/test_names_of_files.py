# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Only session.py spells the names of the files and folders below the state folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.session import LOADED, StateDir

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
OWNER = PLUGINS / "module_utils/session.py"

STATE = StateDir("/state")
FILES = [
    STATE.map_file("s"),
    STATE.extras_file("s"),
    STATE.frozen_file("s"),
    STATE.hot_backup_file("s"),
    STATE.status_file("s"),
    STATE.catalog_file,
    STATE.mirrors_lock,
    STATE.turn_lock,
    LOADED,
]
#: Names of files, and the ends of names that begin with a name of the session's.
NAMES = {Path(path).name for path in FILES} | {
    f"x{Path(path).suffix}" for path in (STATE.socket_file("s", "x"), STATE.leg_file("s", "x"))
}
FOLDERS = {
    Path(path).name
    for path in (STATE.mounts_dir, STATE.reports_dir, STATE.drives_dir, STATE.leases_dir, STATE.mirrors_dir)
} | {Path(STATE.session_dir("s")).parent.name}


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts of a file but its docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def spelled(source: str) -> list[str]:
    """The names of files, and the paths through folders, that a source file spells."""
    tree = ast.parse(source)
    ends = tuple(name[1:] if name.startswith("x") else name for name in NAMES)
    found = [text for text in texts(tree) if " " not in text and text.endswith(ends)]
    for node in ast.walk(tree):
        # A folder's name is also a word, so it counts where a path is made of it, and as a constant of a file.
        words: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            words = node.args
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            words = [node.value]
        found += [str(word.value) for word in words if isinstance(word, ast.Constant) and word.value in FOLDERS]
    return found


def code_of(path: Path) -> str:
    """A source file without the texts that are its documentation."""
    return re.sub(
        r'^(DOCUMENTATION|EXAMPLES|RETURN) = r?""".*?"""', "", path.read_text(), flags=re.MULTILINE | re.DOTALL
    )


def test_no_other_file_spells_a_name_below_the_state_folder() -> None:
    found = {str(path.relative_to(PLUGINS)): spelled(code_of(path)) for path in PLUGINS.rglob("*.py") if path != OWNER}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        'path = os.path.join(state.root, "catalog.sqlite")',
        'path = f"{folder}/{name}.sock"',
        'MAP = "map.sqlite"',
        '_FOLDER = "drives"',
        'os.path.join(root, "mirrors", name)',
    ],
)
def test_a_name_that_is_spelled_is_found(line: str) -> None:
    assert len(spelled(line)) == 1


def test_the_names_are_those_of_the_owner() -> None:
    assert spelled(OWNER.read_text(encoding="utf-8"))
