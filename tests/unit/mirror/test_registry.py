# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of mirror providers: what each declares is documented, checked, and kept in records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.doc_fragments.mirror import ModuleDocFragment
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.journal import Journal
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import (
    PROVIDER_SPEC,
    PROVIDERS,
    make_provider,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.options import Spec, union_of
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.integration.lab import contract
from ansible_collections.splitmirror.backup.tests.support.mirrors import SESSION, Array

DOCUMENTED = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
PAIR = yaml.safe_load(ModuleDocFragment.PAIRS)["options"]["pairs"]["suboptions"]
ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs/providers.md").read_text(encoding="utf-8")
INTEGRATION = ROOT / "tests/integration"


def test_the_registry_has_the_options_that_the_providers_declare() -> None:
    union = union_of({name: provider.argument_spec for name, provider in PROVIDERS.items()})
    assert PROVIDER_SPEC["provider_options"]["options"] == union


def test_documentation_has_the_providers_and_options_of_the_registry() -> None:
    assert DOCUMENTED["provider"]["choices"] == PROVIDER_SPEC["provider"]["choices"] == sorted(PROVIDERS)
    documented = DOCUMENTED["provider_options"]["suboptions"]
    declared = PROVIDER_SPEC["provider_options"]["options"]
    assert {name: (of["type"], of.get("elements")) for name, of in documented.items()} == {
        name: (of["type"], of.get("elements")) for name, of in declared.items()
    }


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_documentation_tells_what_each_provider_is_and_takes(name: str) -> None:
    provider = PROVIDERS[name]
    assert provider.name == name
    for told in (DOCUMENTED["provider"], PAIR["primary"], PAIR["mirror"]):
        assert f"V({name})" in str(told["description"])
    for option in provider.argument_spec:
        assert f"V({name})" in str(DOCUMENTED["provider_options"]["suboptions"][option]["description"])
    for option, rules in provider.pair_argument_spec.items():
        assert f"C({option})" in str(PAIR["options"]["description"])
        assert not rules.get("no_log"), "options of pairs are kept in records"
    assert f"| `{name}` | [{name}](providers/{name}.md) |" in GUIDE
    assert (ROOT / f"docs/providers/{name}.md").read_text(encoding="utf-8").count(f"\n# Provider {name}\n") == 1


def test_every_provider_is_tried_by_the_contract() -> None:
    classes = "".join(path.read_text(encoding="utf-8") for path in INTEGRATION.glob("mirror/test_*_contract.py"))
    assert sorted([*contract.CASES, *re.findall(r'^    kind = "(\w+)"', classes, re.MULTILINE)]) == sorted(PROVIDERS)


@pytest.mark.parametrize("kind", sorted(contract.CASES))
def test_an_option_that_a_provider_of_the_lab_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    bench = contract.BENCHES[kind]()
    bench.state_dir = str(tmp_path)
    bench.test_an_option_that_the_provider_does_not_have_is_refused()


@pytest.mark.parametrize("key", ["name", "primary", "mirror"])
@pytest.mark.parametrize("text", ["/l/a\0", "/l/a\n", "/l/\ud800"])
def test_a_name_that_no_program_can_be_given_is_refused(tmp_path: Path, key: str, text: str) -> None:
    pair = {"name": "data", "primary": "/l/a", "mirror": "/l/m", key: text}
    with pytest.raises(MirrorError, match=f"its {key} is .*; write it without control characters"):
        make_provider("image", [pair], str(tmp_path))


class Colored(ImageProvider):
    """A provider whose pairs have an option."""

    pair_argument_spec: ClassVar[Spec] = {"color": {"choices": ["red", "blue"], "default": "blue"}}


def test_options_of_a_pair_reach_the_provider_and_its_record(tmp_path: Path) -> None:
    array = Array(tmp_path, tmp_path / "state")
    first, second = array.pairs
    pairs = [Pair(first.name, first.primary, first.mirror, {"color": "red"}), second]
    provider = Colored(pairs, StateDir(str(array.state)), {"allow_copy": "yes"})
    assert [pair.options for pair in provider.pairs] == [{"color": "red"}, {"color": "blue"}]
    assert provider.options == {"allow_copy": True}
    provider.split(SESSION)
    record = Journal(provider.state_dir).read(SESSION)
    assert record is not None
    assert record.pairs == provider.pairs


@pytest.mark.parametrize(
    ("options", "pair_options", "sentence", "option"),
    [
        ({"color": "red"}, {}, "provider_options: 'color' is not an option of provider image; it has allow_copy.", "p"),
        ({}, {"color": "red"}, "pairs: a: options: 'color' is not an option of provider image; it has none.", "pairs"),
        (
            {"allow_copy": "perhaps"},
            {},
            "provider_options: option 'allow_copy' must be true or false, not 'perhaps'.",
            "p",
        ),
    ],
)
def test_an_option_that_the_provider_does_not_take_is_refused(
    tmp_path: Path, options: dict[str, str], pair_options: dict[str, str], sentence: str, option: str
) -> None:
    with pytest.raises(MirrorError) as refused:
        ImageProvider([Pair("a", "/l/a", "/l/m", pair_options)], StateDir(str(tmp_path)), options)
    assert refused.value.message == sentence
    assert str(refused.value.option).startswith(option)


def test_a_record_of_an_older_release_is_readable(tmp_path: Path) -> None:
    array = Array(tmp_path, tmp_path / "state", allow_copy=True)
    array.provider.split(SESSION)
    path = Path(Journal(array.provider.state_dir).path(SESSION))
    data = json.loads(path.read_text(encoding="utf-8"))
    for pair in data["pairs"]:
        del pair["options"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert array.provider.split_result(SESSION) is not None
    assert [done.session for done in array.provider.recover()] == [SESSION]
