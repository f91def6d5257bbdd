# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.pg_start import (
    StartError,
    look_for_recovery,
    refuse_other_server,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def server(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process at home in the data directory."""
    with subprocess.Popen(["sleep", "600"], cwd=data) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("written", ["%d\n", "%d", "  %d\n/srv/pg\n", "-%d\n", "%d and more\n"])
def test_a_lock_file_of_another_server_is_refused(data: Path, written: str) -> None:
    (data / "postmaster.pid").write_text(written % os.getpid(), encoding="ascii")
    with pytest.raises(StartError, match=f"names process {os.getpid()}"):
        look_for_recovery(str(data), str(data), "/no/such/folder", "nobody")


@pytest.mark.parametrize("number", [1 << 22, (1 << 32) + 1, (1 << 63) - 1, 10**30])
def test_a_number_that_programs_would_cut_off_is_refused(data: Path, number: int) -> None:
    (data / "postmaster.pid").write_text(f"{number}\n", encoding="ascii")
    with pytest.raises(StartError, match="names process"):
        refuse_other_server(str(data))


def test_the_lock_file_of_an_interrupted_drill_is_none_of_another(data: Path, server: subprocess.Popen[bytes]) -> None:
    refuse_other_server(str(data))  # there is none
    for content in (f"{server.pid}\n{data}\n", "", "no number\n"):
        (data / "postmaster.pid").write_text(content, encoding="ascii")
        refuse_other_server(str(data))
    server.kill()
    server.wait()
    (data / "postmaster.pid").write_text(f"{server.pid}\n{data}\n", encoding="ascii")
    refuse_other_server(str(data))
