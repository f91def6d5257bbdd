# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever reads a session tells how far it is, and leaves nothing of that behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import status as host_status
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import Status, StatusWriter, read_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media import reading_status as module
from ansible_collections.splitmirror.backup.plugins.module_utils.media.reading_status import reading_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.tape import Held, Library, folder, inline

TREE = [folder("/srv"), *(inline(f"/srv/{number:02}", bytes([number]) * 3000) for number in range(30))]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Give a library with one session."""
    library = Library(tmp_path)
    library.make()
    library.label()
    library.back_up("s1", TREE)
    return library


@pytest.mark.parametrize("phase", ["verify", "restore"])
def test_reading_tells_how_far_it_is(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(host_status, "EVERY_S", 0.0)
    state = StateDir(str(library.state_dir))
    seen: list[Status] = []

    class Watched(StatusWriter):
        def add(self, count: float) -> None:
            super().add(count)
            found = read_status(state.status_file("s1"))
            assert found is not None
            seen.append(found)

    monkeypatch.setattr(module, "StatusWriter", Watched)
    with reading_status(state, "s1", phase) as status, library.drive(writable=False) as drive:
        if phase == "restore":
            restore(RestoreJob("s1", str(tmp_path / "t")), library.catalog, Held(drive), status)
        else:
            session = library.catalog.session("s1")
            assert session is not None
            verify_session(session, library.catalog, Held(drive), status=status)
    assert {found.phase for found in seen} == {phase}
    assert [found.done for found in seen] == sorted(found.done for found in seen)
    assert seen[-1].done > 30 * 3000
    assert all(found.total is not None and found.done <= found.total for found in seen)
    assert seen[0].total == seen[-1].total
    assert not os.path.exists(state.status_file("s1"))


def test_no_folder_stays(tmp_path: Path) -> None:
    state = StateDir(str(tmp_path))
    with reading_status(state, "s2", "verify"):
        assert read_status(state.status_file("s2")) is not None
    assert not os.path.exists(state.session_dir("s2"))


def test_reading_goes_on_where_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state: Any = StateDir(str(tmp_path / "file"))
    with reading_status(state, "s2", "verify") as status:
        status.add(1)
    assert (tmp_path / "file").read_text() == ""
