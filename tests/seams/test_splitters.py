# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each kind of splitter keeps the contract."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import is_alive, read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter as array_side
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import SPLITTERS, Splitter, make_splitters
from ansible_collections.splitmirror.backup.tests.seams.splitters import OTHER, SESSION, SplitterContract
from ansible_collections.splitmirror.backup.tests.support.mirrors import Array, kill


def channel_to(host: str) -> Channel:
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    return Channel(host, connection, sys.executable)


class TestArmed(SplitterContract):
    """Two mirror sets of image files in one state folder; the array is this machine."""

    @pytest.fixture(autouse=True)
    def _array(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        init_plugin_loader()
        monkeypatch.setattr(ImageProvider, "capabilities", replace(ImageProvider.capabilities, takes_turns=True))
        self.state = str(tmp_path / "state")
        self.sets = {}
        for session in (SESSION, OTHER):
            (tmp_path / session).mkdir()
            self.sets[session] = Array(tmp_path / session, tmp_path / "state", allow_copy=True)
        yield
        for session, mirrors in self.sets.items():
            record = read_record(mirrors.provider.state_dir.session_dir(session), array_side.NAME)
            if record is not None and is_alive(record):
                kill(record.pid)

    def get_ready(self, session: str) -> None:
        array_side.arm(self.sets[session].provider, session, 60)

    def splitter(self, session: str) -> Splitter:
        (made,) = make_splitters([{"kind": "armed", "host": "array1", "state_dir": self.state}], session, channel_to)
        return made

    def split_pairs(self, session: str) -> int:
        return sum(os.path.isfile(pair.mirror) for pair in self.sets[session].pairs)

    def spoil(self, session: str) -> None:
        os.mkdir(self.sets[session].pairs[1].mirror)

    def hang(self, session: str) -> None:
        os.kill(self._pid(session), signal.SIGSTOP)

    def kill(self, session: str) -> None:
        kill(self._pid(session))

    def _pid(self, session: str) -> int:
        ready = array_side.armed(self.sets[session].provider.state_dir, session)
        assert ready is not None
        return ready.pid


def test_all_kinds_are_tried() -> None:
    assert sorted(SPLITTERS) == ["armed"]
