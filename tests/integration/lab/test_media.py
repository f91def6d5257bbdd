# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The st driver and the library on the media server of the lab. What is done there is in on_media.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import on_media
from .guest import on

pytestmark = [pytest.mark.root, pytest.mark.slow]

COLLECTION = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def media(lab: RunningLab) -> RunningLab:
    """Give the lab whose media server has the collection's code."""
    target = lab.machine(lab.lab().host("media1")).root / "opt/ansible_collections/splitmirror/backup"
    for folder in ("plugins/module_utils", "tests/support", "tests/seams"):
        shutil.copytree(COLLECTION / folder, target / folder, dirs_exist_ok=True)
    shutil.copy(on_media.__file__, target / "on_media.py")
    return lab


@pytest.mark.parametrize("case", [*on_media.CONTRACT, *(case.__name__ for case in on_media.CASES)])
def test_on_the_media_server(media: RunningLab, case: str) -> None:
    script = "/opt/ansible_collections/splitmirror/backup/on_media.py"
    assert on(media, "media1", f"PYTHONPATH=/opt python3 {script} {case}") == '"passed"'
