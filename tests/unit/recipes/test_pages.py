# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory on the page of each recipe is right, and makes a split that provider external takes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.tests.support.recipes import RECIPES, ROLE, ROOT, inventory_of

pytestmark = pytest.mark.slow

#: What is asked of each recipe, in the words of the role.
QUESTIONS = {
    "options": "{{ splitmirror_provider_options }}",
    "wrong": (
        "{{ {'splitmirror_provider': splitmirror_provider, "
        "'splitmirror_provider_options': splitmirror_provider_options, "
        "'splitmirror_pairs': splitmirror_pairs, 'splitmirror_databases': []} | splitmirror.backup.wrong_options }}"
    ),
    "refused": (
        "{{ splitmirror_sets_now | splitmirror.backup.mirror_set_faults(splitmirror_host_set, hostvars | list, "
        "splitmirror_recipes) }}"
    ),
}


def asked(folder: Path, hosts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The answers to QUESTIONS for hosts with these variables, by Ansible itself."""
    role: dict[str, Any] = {"role_path": str(ROLE)}
    for part in ("defaults", "vars"):
        role.update(yaml.safe_load((ROLE / part / "main.yml").read_text(encoding="utf-8")))
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": {**role, "questions": QUESTIONS}}}))
    words = [
        "ansible",
        "all",
        "--inventory",
        str(inventory),
        "--tree",
        str(folder / "answers"),
        "--connection",
        "local",
    ]
    words += ["--module-name", "ansible.builtin.debug", "--args", json.dumps({"msg": "{{ questions }}"})]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/tree"),
        "ANSIBLE_LOCALHOST_WARNING": "0",
    }
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
    return {name: json.loads((folder / "answers" / name).read_text(encoding="utf-8"))["msg"] for name in hosts}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    hosts = {name: {**inventory_of(name), "splitmirror_array": name} for name in RECIPES}
    return asked(tmp_path_factory.mktemp("pages"), hosts)


@pytest.mark.parametrize("name", RECIPES)
def test_the_inventory_of_a_page_is_right(answers: dict[str, Any], name: str) -> None:
    found = answers[name]
    assert found["options"]["kind"] in ("http", "command", "program")
    assert (found["wrong"], found["refused"]) == ([], [])


@pytest.mark.parametrize("name", RECIPES)
def test_an_answer_is_not_taken_for_a_split(answers: dict[str, Any], name: str) -> None:
    """A request that is only accepted (202) is followed until it is done, or has failed."""
    options = answers[name]["options"]
    split = options["split"] if options["kind"] == "http" else []
    requests = split if isinstance(split, list) else [split]
    for request in requests:
        if request.get("method", "GET") != "GET":
            assert "poll" in request or 202 not in request.get("status", [])
            assert set(request.get("status", [])) <= {200, 201}
    # These arrays answer with a job.
    assert name not in ("cinder", "hitachi_vsp") or "poll" in requests[-1]
