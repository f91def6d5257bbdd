# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The providers of the lab keep the contract of mirror providers. contract.py runs on the array of the lab."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import contract, on_array, on_drbd, on_thin

pytestmark = [pytest.mark.root, pytest.mark.slow]

COLLECTION = Path(__file__).resolve().parents[3]
PACKAGE = "ansible_collections/splitmirror/backup"
HERE = "tests/integration/lab"

#: How the cases of a provider ended that are to run: an empty text, or the words of the failure.
Failures = Callable[[str], dict[str, str]]


def install(lab: RunningLab) -> None:
    """Bring the collection's code, and the cases, to the array of a lab."""
    target = lab.machine(lab.lab().host("array1")).root / "opt" / PACKAGE
    for part in ("plugins/module_utils", "tests/seams"):
        shutil.copytree(COLLECTION / part, target / part, dirs_exist_ok=True)
    (target / HERE).mkdir(parents=True, exist_ok=True)
    for script in (contract, on_array, on_drbd, on_thin):
        shutil.copy(str(script.__file__), target / HERE)


@pytest.fixture(scope="module")
def failures(lab: RunningLab, request: pytest.FixtureRequest) -> Failures:
    """Run the selected cases of a provider, all in one process on the array."""
    install(lab)
    selected = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]

    @cache
    def run(kind: str) -> dict[str, str]:
        cases = [params["case"] for params in selected if params.get("kind") == kind and "case" in params]
        module = f"{PACKAGE}/{HERE}/contract".replace("/", ".")
        answer = lab.ssh("array1", f"sudo timeout 900 env PYTHONPATH=/opt python3 -m {module} {kind} {' '.join(cases)}")
        assert answer.returncode == 0, f"{kind}: {answer.stdout}{answer.stderr}"
        print(answer.stderr)
        found: dict[str, str] = json.loads(answer.stdout)
        return found

    return run


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in contract.CASES.items() for case in cases])
def test_on_the_array(failures: Failures, kind: str, case: str) -> None:
    assert failures(kind)[case] == ""
