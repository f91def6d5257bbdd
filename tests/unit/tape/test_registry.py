# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of drive types: modules, documentation and roles offer what is in it."""

from __future__ import annotations

from pathlib import Path

import yaml

from ansible_collections.splitmirror.backup.plugins.doc_fragments.drive import ModuleDocFragment
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_SPEC, DRIVES

ROLES = Path(__file__).resolve().parents[3] / "roles"
DOCUMENTED = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["drive_type"]


def offered() -> dict[str, object]:
    """The drive types that each entry point of a role offers."""
    found: dict[str, object] = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        for entry, spec in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].items():
            if "splitmirror_drive_type" in spec.get("options", {}):
                found[f"{path.parts[-3]} {entry}"] = spec["options"]["splitmirror_drive_type"].get("choices")
    return found


def test_documentation_has_the_drive_types_of_the_registry() -> None:
    assert DOCUMENTED["choices"] == DRIVE_SPEC["drive_type"]["choices"] == sorted(DRIVES)
    for name, drive in DRIVES.items():
        assert drive.name == name
        assert f"V({name})" in " ".join(DOCUMENTED["description"])


def test_roles_have_the_drive_types_of_the_registry() -> None:
    roles = offered()
    assert "mirrored_backup main" in roles
    assert {role: choices for role, choices in roles.items() if choices != sorted(DRIVES)} == {}
