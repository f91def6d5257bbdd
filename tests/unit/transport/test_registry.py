# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of transports: modules, documentation and the role offer what is in it."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import AttachOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import (
    ATTACHERS,
    EXPORTERS,
    EXPORTING,
    make_attacher,
    make_exporter,
)
from ansible_collections.splitmirror.backup.plugins.modules import mirror_attach, mirror_present

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/mirrored_backup"
ATTACHED = sorted(ATTACHERS)


@pytest.mark.parametrize(("module", "names"), [(mirror_present, sorted(EXPORTERS)), (mirror_attach, ATTACHED)])
def test_modules_have_the_transports_of_the_registry(module: ModuleType, names: list[str]) -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]["transport"]
    assert documented["choices"] == module.SPEC["transport"]["choices"] == names


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_documentation_tells_what_each_transport_is(name: str) -> None:
    assert EXPORTERS[name].name == name
    told = yaml.safe_load(mirror_present.DOCUMENTATION)["options"]["transport"]["description"]
    assert f"V({name})" in " ".join(told)
    assert f"\n| `{name}` |" in (ROOT / "docs/transports.md").read_text(encoding="utf-8")


def test_the_role_has_the_transports_of_the_registry() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    assert specs["main"]["options"]["splitmirror_transport"]["choices"] == sorted(EXPORTERS)


def test_the_role_knows_which_transports_export() -> None:
    rule = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["splitmirror_exports"]
    names = rule[rule.index("[") : rule.index("]") + 1]
    assert sorted(ast.literal_eval(names)) == sorted(EXPORTING)
    assert {*EXPORTING} == {name for name, kind in EXPORTERS.items() if kind.exports}
    # The role attaches the mirrors on the media server unless the transport is local.
    assert sorted({*EXPORTERS} - {*ATTACHED}) == ["local"]


def test_what_is_not_in_the_registry_is_refused() -> None:
    with pytest.raises(TransportError, match="pigeon"):
        make_exporter("pigeon")
    with pytest.raises(TransportError, match="nothing is attached"):
        make_attacher(AttachOptions("local"))
