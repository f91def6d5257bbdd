# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The st driver and the library on the media server of the lab. What is done there is in on_media.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import on_media
from .guest import on

pytestmark = [pytest.mark.root, pytest.mark.slow]

SCRIPT = "env PYTHONPATH=/opt python3 /opt/ansible_collections/splitmirror/backup/on_media.py"
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
    assert on(media, "media1", f"{SCRIPT} {case}") == '"passed"'


def test_a_session_over_three_volumes_is_cut_and_written_and_restored_by_hand(media: RunningLab) -> None:
    """A power cut in the second volume, the next run, verify, the catalog lost, and plain tar and age at the end."""
    cut, *others = (act.__name__ for act in on_media.ACTS)
    words = media.ssh_command("media1", ["--", f"sudo timeout 180 {SCRIPT} {cut}"])
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as writing:
        assert writing.stdout is not None
        try:
            assert writing.stdout.readline() == "in the second volume\n"
            # The drive of the lab keeps its tapes in files of this host; a tape outside would have what it was given.
            on(media, "media1", "sync")
        finally:
            media.machine(media.lab().host("media1")).kill()
            writing.kill()  # nobody tells it that the other end is gone
            media.start("media1")
    for act in others:
        assert on(media, "media1", f"{SCRIPT} {act}") == '"passed"'
