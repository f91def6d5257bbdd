# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The clean-up of a demo whose array is in use says what holds it, removes nothing, and can be repeated."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook


def clean(folder: Path) -> subprocess.CompletedProcess[str]:
    """Take the demo away."""
    variables = {"demo_state": "absent", "demo_dir": str(folder), "demo_report_dir": str(folder)}
    return run_playbook(playbook_command("localhost,", "demo", **variables), folder.parent)


def test_a_busy_array_is_named_with_what_holds_it_and_goes_once_it_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    array = folder / "array"
    array.mkdir(parents=True)
    with open(folder / "array.img", "wb") as image:
        image.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(folder / "array.img")], check=True)
    subprocess.run(["mount", "-o", "loop", str(folder / "array.img"), str(array)], check=True)
    try:
        with open(array / "open", "wb"):
            done = clean(folder)
            assert done.returncode != 0
            assert f"process {os.getpid()} has files of it open" in done.stdout
            assert (folder / "array.img").exists()
        assert clean(folder).returncode == 0
        assert not folder.exists()
    finally:
        if array.is_mount():
            subprocess.run(["umount", "--lazy", str(array)], check=True)
