# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports go one way: which package of module_utils may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE_UTILS = Path(__file__).resolve().parents[2] / "plugins/module_utils"

#: Modules that lie in no package. All packages may import ``errors``, all but ``host`` the others.
COMMON = {"errors", "options", "session", "preflight", "seam"}
#: What each package may import besides COMMON and itself; the docs draw the same picture (docs/architecture.md).
MAY_IMPORT: dict[str, set[str]] = {
    "host": set(),
    "extents": {"host"},
    "archive": {"host", "extents"},
    "catalog": {"host", "extents", "archive"},
    "crypt": {"host"},
    "database": {"host", "extents"},
    "tape": {"host"},
    "transport": {"host"},
    # one for each kind of host
    "holder": {"host", "extents", "archive", "database"},
    "mirror": {"host", "extents", "transport"},
    "media": {"host", "extents", "archive", "catalog", "crypt", "tape"},
}
#: The same for the modules that lie in no package.
OUTSIDE = {
    "errors": set(),
    "seam": set(),
    "session": {"errors"},
    "preflight": {"errors"},
    "options": {"errors"},
    "lease": {"errors", "session", "host"},
    "_python": set(),
    # The one that knows Ansible: what the main() of every module shares.
    "_module": {"_python", "errors", "lease", "options", "session", "ansible"},
}


def imports(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Where each import of a file stands, and what it imports: a package of module_utils, or a module outside them.

    Whatever is not of the collection is left out, but for Ansible.
    """
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("ansible")]
        elif not node.level:
            names = [str(node.module)] if str(node.module).startswith("ansible") else []
        else:
            base = package[: len(package) - (node.level - 1)]
            told = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*told, alias.name]) for alias in node.names]
        for name in names:
            yield f"{path.relative_to(root)}:{node.lineno}", name.partition(".")[0]


def broken(root: Path) -> list[str]:
    """The imports below a folder that break the rules."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            allowed = MAY_IMPORT[parts[0]] | COMMON | {parts[0]}
            if parts[0] == "host":
                allowed = {"errors", "host"}
        elif parts[0] == "__init__.py":
            allowed = set()
        else:
            allowed = OUTSIDE[path.stem]
        found += [f"{place} imports {name}" for place, name in imports(path, root) if name not in allowed]
    return found


def test_imports_go_one_way() -> None:
    assert broken(MODULE_UTILS) == []


def test_every_package_has_its_rule_and_no_rule_leads_back() -> None:
    assert {path.parent.name for path in MODULE_UTILS.glob("*/__init__.py")} == set(MAY_IMPORT)
    assert {path.stem for path in MODULE_UTILS.glob("*.py")} - {"__init__"} == set(OUTSIDE)
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        free = {name for name, others in MAY_IMPORT.items() if name not in done and others <= done}
        assert free, f"among {set(MAY_IMPORT) - done} somebody imports in a circle"
        done |= free


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("tape/x.py", "from ..catalog.store import Catalog"),
        ("tape/x.py", "from .. import catalog"),
        ("tape/x.py", "from ..session import StateDir\nfrom ..media import write"),
        ("host/x.py", "from ..session import StateDir"),
        ("extents/x.py", "def f():\n    from ..archive.model import Owners"),
        ("media/x.py", "from ..holder.window import Window"),
        ("archive/x.py", "from ansible.module_utils.basic import AnsibleModule"),
        ("holder/x.py", "import ansible.module_utils.basic"),
        ("holder/x.py", "from ansible_collections.splitmirror.backup.plugins.module_utils.tape import st"),
        ("lease.py", "from .media import write"),
    ],
)
def test_what_breaks_the_rules_is_found(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert len(broken(tmp_path)) == 1
