# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/architecture.md draws the packages and names the tests of each source file; both are compared with the tree."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.splitmirror.backup.tests.unit.test_imports import COMMON, MAY_IMPORT, OUTSIDE

ROOT = Path(__file__).resolve().parents[2]
PLUGINS, TESTS = ROOT / "plugins", ROOT / "tests"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def picture() -> dict[str, set[str]]:
    """What the picture allows each package, and each module in none, to import."""
    rows = re.findall(r"^ │ (\w+) +│([\w ]*)│", PAGE, re.MULTILINE)
    drawn = {name: set(allowed.split()) for name, allowed in rows if name != "package"}
    assert len(rows) == len(drawn) + 1, "a package is drawn twice, or the head of the picture is gone"
    return drawn


def also(who: str) -> set[str]:
    """What the lines below the picture allow besides."""
    lines = re.findall(rf"^ {who} may also import: ([\w ]+)$", PAGE, re.MULTILINE)
    return {name for line in lines for name in line.split()}


def table() -> dict[str, list[str]]:
    """The tests of each source file, as the table names them."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \|(.*)$", PAGE, re.MULTILINE)
    assert len(rows) == len({source for source, _tests in rows}), "a source file has two rows"
    return {source: re.findall(r"`([^`]+)`", tests) for source, tests in rows}


def test_the_picture_has_the_rules_of_the_imports() -> None:
    assert picture() == {**MAY_IMPORT, **OUTSIDE}
    assert also("every package but host") == COMMON
    assert also("host") == {"errors"}


def test_every_source_file_has_its_tests() -> None:
    paths = [path for folder in ("module_utils", "plugin_utils", "action") for path in (PLUGINS / folder).rglob("*.py")]
    sources = {path.relative_to(PLUGINS).as_posix() for path in paths if path.name != "__init__.py"}
    named = table()
    assert sources - set(named) == set(), "these are missing in the table"
    assert [source for source, tests in named.items() if not tests] == []


def test_every_file_that_the_table_names_is_there() -> None:
    files = {PLUGINS / source for source in table()} | {TESTS / test for tests in table().values() for test in tests}
    assert sorted(str(path.relative_to(ROOT)) for path in files if not path.is_file()) == []
