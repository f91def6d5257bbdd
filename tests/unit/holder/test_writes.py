# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No freeze is begun whose write-out could outlast its deadline."""

from __future__ import annotations

from typing import Iterator

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze, writes
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import FreezeError


class SlowDisk:
    """Stands for syncfs and the clock. :param takes_s: of each call, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes_s: Iterator[float]) -> None:
        self._now_s = 0.0
        self._takes_s = takes_s
        self.calls = 0
        monkeypatch.setattr(freeze, "sync", self._sync)
        monkeypatch.setattr(f"{writes.__name__}.time.monotonic", lambda: self._now_s)

    def _sync(self, _fd: int) -> None:
        self.calls += 1
        self._now_s += next(self._takes_s)


@pytest.mark.parametrize(("takes_s", "calls"), [([0.0], 1), ([26.0, 4.0, 0.2], 3), ([0.31, 0.31, 0.31, 0.1], 4)])
def test_rounds_go_on_until_one_is_short(monkeypatch: pytest.MonkeyPatch, takes_s: list[float], calls: int) -> None:
    disk = SlowDisk(monkeypatch, iter(takes_s))
    assert writes.write_out([("/srv/a", 0)], 3.0) == pytest.approx(takes_s[-1])
    assert disk.calls == calls


def test_a_disk_that_does_not_get_ready_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, (second for _round in range(100) for second in (0.1, 26.0)))
    with pytest.raises(
        FreezeError, match=r"a round still took 26\.10 s, most of it for /srv/b, .* at least 261 s"
    ) as caught:
        writes.write_out([("/srv/a", 0), ("/srv/b", 1)], 3.0)
    assert caught.value.option == "deadline_s"
    assert disk.calls == 2 * writes.MAX_ROUNDS


@pytest.mark.parametrize(("takes_s", "enough"), [((0.1, 0.3), True), ((1.4, 0.0), True), ((0.5, 1.1), False)])
def test_what_came_while_databases_froze_must_leave_time_for_the_freeze(
    monkeypatch: pytest.MonkeyPatch, takes_s: tuple[float, float], enough: bool
) -> None:
    disk = SlowDisk(monkeypatch, iter(takes_s))
    opened = [("/srv/a", 0), ("/srv/b", 1)]
    if enough:
        writes.write_rest(opened, 3.0, 6.0)
    else:
        with pytest.raises(FreezeError, match=r"6 s is too short: .* took 1\.60 s to write out") as caught:
            writes.write_rest(opened, 3.0, 6.0)
        assert caught.value.option == "deadline_s"
    assert disk.calls == 2
