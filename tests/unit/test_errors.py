# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each error has a code that docs/errors.md explains, and plays get it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils._module import run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import DriveBusy, TapeError
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module as result_of

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
ROWS = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", (ROOT / "docs/errors.md").read_text("utf-8"), re.MULTILINE)
CODE = re.compile(r"[a-z]+(_[a-z]+)*")
#: Where people match on codes: tasks of roles and playbooks, scenarios, examples in documentation.
PLAYS = ("roles", "playbooks", "extensions/molecule", "tests/integration")


def codes(node: ast.AST) -> Iterator[str]:
    """The codes in the value of ``code``: a text, or a choice between texts."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value
    for part in [node.body, node.orelse] if isinstance(node, ast.IfExp) else getattr(node, "values", []):
        yield from codes(part)


def used(source: str) -> Iterator[str]:
    """The codes that a source file gives to errors."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "code":
            yield from codes(node.value)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [
                target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "") for target in targets
            ]
            if names == ["code"]:
                yield from codes(node.value)
        elif isinstance(node, ast.FunctionDef):
            arguments = node.args
            given = zip(
                [*arguments.args, *arguments.kwonlyargs][::-1], [*arguments.defaults, *arguments.kw_defaults][::-1]
            )
            for argument, default in given:
                if argument.arg == "code" and default is not None:
                    yield from codes(default)
            if node.name.endswith("_code"):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and inner.value is not None:
                        yield from codes(inner.value)


def all_used() -> dict[str, str]:
    """Each code that is used, and a file that does."""
    return {code: str(path) for path in sorted(PLUGINS.rglob("*.py")) for code in used(path.read_text("utf-8"))}


def test_each_code_that_is_used_is_explained_and_each_that_is_explained_is_used() -> None:
    explained = {code for code, _cause, _cure in ROWS}
    assert {code: path for code, path in all_used().items() if code not in explained} == {}
    assert explained - set(all_used()) == set()


def test_a_code_has_one_meaning() -> None:
    for column in ([code for code, _cause, _cure in ROWS], [cause for _code, cause, _cure in ROWS]):
        assert [text for text, count in Counter(column).items() if count > 1] == []
    assert [code for code, _cause, _cure in ROWS] == sorted(code for code, _cause, _cure in ROWS)


@pytest.mark.parametrize(
    "line",
    [
        'raise E("x", code="a_b")',
        'class E:\n    code = "a_b"',
        'class E:\n    code: str = "a_b"',
        'def f(code="a_b"): ...',
        'def f(*, code="a_b"): ...',
        'raise E("x", code="a_b" if late else other)',
        'def problem_code():\n    return "a_b"',
        'message, code = "", ""\ncode = "a_b"',
        'failure.code = "a_b"',
    ],
)
def test_a_code_that_is_used_is_found(line: str) -> None:
    assert list(used(line)) == ["a_b"]


def test_plays_match_on_codes_that_there_are() -> None:
    asked = {
        code
        for folder in PLAYS
        for path in (ROOT / folder).rglob("*.yml")
        for code in re.findall(r"\.code (?:==|!=) '(\w+)'", path.read_text("utf-8"))
    }
    assert asked <= {code for code, _cause, _cure in ROWS}


def fail(error: SplitMirrorError) -> dict[str, Any]:
    """What a module returns that raises an error."""

    def work(_module: Any) -> dict[str, Any]:
        raise error

    return result_of(lambda: run_module(work, {}), {})


def test_a_module_returns_the_code_of_its_error() -> None:
    assert fail(SplitMirrorError("x."))["code"] == "failed"
    assert fail(TapeError("x."))["code"] == "drive_failed"
    assert fail(DriveBusy("x."))["code"] == "drive_busy"
    assert fail(TapeError("volume: x.", option="volume", code="volume_full"))["code"] == "volume_full"
