# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A status is whole at each instant, its numbers make sense, and the work goes on when it cannot be written."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.host import status as module
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter, read_status


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, time=time.time))

    def go_on(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the test set the clock."""
    return Clock(monkeypatch)


def test_a_reader_finds_what_is_done(tmp_path: Path, clock: Clock) -> None:
    path = str(tmp_path / "status.json")
    assert read_status(path) is None
    writer = StatusWriter(path, "write", "bytes", 1000)
    found = read_status(path)
    assert found is not None
    assert (found.phase, found.unit, found.done, found.total, found.rate, found.eta_s) == (
        "write", "bytes", 0, 1000, 0, None,
    )  # fmt: skip
    clock.go_on(10)
    writer.add(250)
    found = read_status(path)
    assert found is not None
    assert (found.done, found.rate, found.eta_s, found.waiting_for) == (250, 25, 30, None)
    writer.finish()
    found = read_status(path)
    assert found is not None
    assert (found.done, found.total, found.eta_s) == (250, 250, 0)


def test_it_is_not_written_for_each_file(tmp_path: Path, clock: Clock) -> None:
    writer = StatusWriter(str(tmp_path / "s"), "write", "files")
    (tmp_path / "s").unlink()
    for _dummy in range(1000):
        writer.add(1)
    assert read_status(str(tmp_path / "s")) is None
    clock.go_on(module.EVERY_S)
    writer.add(1)
    found = read_status(str(tmp_path / "s"))
    assert found is not None
    assert found.done == 1001


def test_time_that_the_work_waits_does_not_count(tmp_path: Path, clock: Clock) -> None:
    path = str(tmp_path / "s")
    writer = StatusWriter(path, "write", "bytes", 100)
    writer.wait_for("drive 0 is used by another task")
    clock.go_on(3600)
    found = read_status(path)
    assert found is not None
    assert found.waiting_for == "drive 0 is used by another task"
    writer.wait_for("volume V1 is still in drive 1")
    clock.go_on(3600)
    writer.wait_for(None)
    clock.go_on(2)
    writer.add(20)
    found = read_status(path)
    assert found is not None
    assert (found.waiting_for, found.rate, found.eta_s) == (None, 10, 8)


@given(
    total=st.none() | st.integers(0, 2**60),
    steps=st.lists(st.tuples(st.integers(0, 2**50), st.floats(0, 1e6)), max_size=20),
)
def test_totals_are_never_overtaken_and_numbers_are_sane(total: int | None, steps: list[tuple[int, float]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        writer = StatusWriter(None, "map", "files", total)
        done = 0
        for count, seconds in steps:
            clock.go_on(seconds)
            writer.add(count)
            done += count
            found = writer.status()
            assert found.done == done
            assert found.total is None or found.done <= found.total
            assert found.rate >= 0
            assert math.isfinite(found.rate)
            assert found.eta_s is None or found.eta_s >= 0
            assert (found.eta_s is None) or found.total is not None
            assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_the_file_is_whole_at_each_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    path = str(tmp_path / "s")
    writer = StatusWriter(path, "restore", "bytes", 10**9)
    seen: list[float] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            found = read_status(path)
            assert found is not None
            seen.append(found.done)

    def read_to_the_end() -> None:
        try:
            read()
        except AssertionError:
            seen.append(-1)

    reader = threading.Thread(target=read_to_the_end)
    reader.start()
    for number in range(200):
        writer.wait_for("x" * (number % 3 * 4000) or None)
        writer.add(1)
    ended.set()
    reader.join()
    assert seen == sorted(seen)
    assert -1 not in seen


@pytest.mark.parametrize("path", ["missing/s", "folder"])
def test_work_goes_on_where_no_status_can_be_written(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    writer = StatusWriter(str(tmp_path / path), "sync", "percent", 100)
    writer.set(50)
    writer.wait_for("data is not in sync")
    writer.finish()
    assert read_status(str(tmp_path / path)) is None


@pytest.mark.parametrize(
    "told",
    ["", "{", "[]", "7", '{"phase": "map"}', "[" * 100_000],
)
def test_what_is_not_a_status_is_none(tmp_path: Path, told: str) -> None:
    (tmp_path / "s").write_text(told)
    assert read_status(str(tmp_path / "s")) is None


@pytest.mark.parametrize(
    ("name", "value"), [("done", "1"), ("phase", 1), ("rate", None), ("eta_s", math.nan), ("x", 1)]
)
def test_a_field_of_another_type_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    told = asdict(StatusWriter(None, "map", "files").status())
    (tmp_path / "s").write_text(json.dumps({**told, name: value}))
    assert read_status(str(tmp_path / "s")) is None
