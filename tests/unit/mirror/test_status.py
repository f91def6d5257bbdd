# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who waits for a synchronization can read how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import status as host_status
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter, read_status
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import raid
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.lvm import LvmProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.raid import IN, PairView
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

PAIRS = [Pair("data", "san/data", "san/data_rimage_1"), Pair("wal", "san/wal", "san/wal_rimage_1")]


class Coming(LvmProvider):
    """Two pairs, of which the second comes in sync from look to look."""

    percents = (10.0, 60.0, None)

    def __init__(self, path: Path) -> None:
        super().__init__(PAIRS, StateDir(str(path)))
        self.left = list(self.percents)
        self.path = str(path / "status")
        self.seen: list[float | None] = []

    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        found = read_status(self.path)
        self.seen.append(None if found is None else found.done)
        percent = self.left.pop(0)
        syncing = None if percent is None else "pair wal: it is being synchronized."
        return [PairView(1 << 30, 100.0, None, None, IN), PairView(1 << 30, percent, None, syncing, IN)]


def test_a_sync_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raid, "POLL_S", 0.0)
    monkeypatch.setattr(host_status, "EVERY_S", 0.0)
    provider = Coming(tmp_path)
    provider.sync(wait=True, timeout_s=60)
    assert provider.seen == [None, None, None]
    provider = Coming(tmp_path)
    provider.status = StatusWriter(provider.path, "sync", "percent", 100)
    provider.sync(wait=True, timeout_s=60)
    assert provider.seen == [0, 55, 80]
