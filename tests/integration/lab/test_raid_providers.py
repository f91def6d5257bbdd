# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The providers ``lvm`` and ``md`` keep the contract of mirror providers. on_array.py runs on the array of the lab."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import on_array
from .guest import on

pytestmark = [pytest.mark.root, pytest.mark.slow]

COLLECTION = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def array(lab: RunningLab) -> RunningLab:
    """Give the lab whose array has the collection's code."""
    target = lab.machine(lab.lab().host("array1")).root / "opt/ansible_collections/splitmirror/backup"
    shutil.copytree(COLLECTION / "plugins/module_utils", target / "plugins/module_utils", dirs_exist_ok=True)
    shutil.copytree(COLLECTION / "tests/seams", target / "tests/seams", dirs_exist_ok=True)
    shutil.copy(on_array.__file__, target / "on_array.py")
    return lab


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in on_array.CASES.items() for case in cases])
def test_on_the_array(array: RunningLab, kind: str, case: str) -> None:
    script = "/opt/ansible_collections/splitmirror/backup/on_array.py"
    assert on(array, "array1", f"PYTHONPATH=/opt python3 {script} {kind} {case}") == '"passed"'
