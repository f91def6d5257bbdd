# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual drive with a speed counts its stops, and a buffer with a high water mark keeps them few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.feed import Feed
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.motion import BUFFER_BYTES, Motion
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape

RECORD = 1 << 20
FAST = 400 << 20


class Clock:
    """Seconds that go by when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


def written(source_bytes_per_s: float, high_bytes: Optional[int], records: int = 4000) -> tuple[int, float]:
    """Stops of a drive of 400 MiB/s, and seconds for the records, when they come from a source of another speed."""
    clock = Clock()
    motion = Motion(FAST, clock=clock, pause=clock.wait)
    feed = Feed(RECORD, high_bytes, clock)
    done = 0
    while done < records:
        ready = min(records, int(clock.now_s * source_bytes_per_s) // RECORD)
        if feed.goes_on((ready - done) * RECORD, ready == records):
            motion.take(RECORD)
            done += 1
        else:
            clock.wait(0.001)
    motion.end()
    return motion.stops, clock.now_s


def test_a_drive_that_is_fed_fast_enough_never_stops() -> None:
    stops, seconds = written(1.1 * FAST, None)
    assert stops == 0
    assert seconds == pytest.approx(10.0, abs=0.1)


def test_a_high_water_mark_turns_many_stops_into_few() -> None:
    """A source of half the speed: the drive takes 16 of 256 MiB at once, and as much as the rest comes meanwhile."""
    trickled, _seconds = written(FAST / 2, None)
    stops, seconds = written(FAST / 2, 256 * RECORD)
    assert (stops, trickled > 1000) == (4000 // (16 + 2 * 240), True)
    # The source takes 20 seconds; what resting adds is the writing of the last filling.
    assert seconds < 20 + 256 / 400


def test_the_drive_takes_what_its_buffer_holds_at_once() -> None:
    clock = Clock()
    motion = Motion(FAST, 3.0, clock=clock, pause=clock.wait)
    for _dummy in range(BUFFER_BYTES // RECORD):
        motion.take(RECORD)
    assert clock.now_s == 0
    motion.take(RECORD)
    assert clock.now_s == pytest.approx(1 / 400)
    motion.end()
    assert clock.now_s == pytest.approx((BUFFER_BYTES / RECORD + 1) / 400)
    clock.wait(60)
    motion.take(RECORD)
    assert motion.stops == 0
    clock.wait(60)
    before_s = clock.now_s
    motion.take(RECORD)
    motion.end()
    assert motion.stops == 1
    assert clock.now_s - before_s == pytest.approx(3 + 1 / 400)


def make_drive(folder: Path, text: str) -> VirtualTape:
    (folder / "drive.json").write_text(text)
    return VirtualTape(str(folder), writable=True)


def test_a_drive_with_a_speed_streams_and_one_without_does_not(tmp_path: Path) -> None:
    with VirtualTape(str(tmp_path)) as drive:
        assert (drive.streams, drive.facts().told()) == (False, {})
    told: dict[str, Any] = {"alerts": [21], "loads": 7}
    with make_drive(tmp_path, json.dumps({"format_version": 1, "bytes_per_s": 1 << 40, "facts": told})) as drive:
        assert (drive.streams, drive.facts().told()) == (True, told)
        assert drive.volumes() == []
        drive.make_volume("V1", 8 << 20)
        drive.load("V1")
        for _dummy in range(3):
            drive.write_record(bytes(512))
        drive.write_filemarks(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"format_version": 2}',
        '{"format_version": 1, "bytes_per_s": 0}',
        '{"format_version": 1, "bytes_per_s": "1M"}',
        '{"format_version": 1, "bytes_per_s": 1048576, "stop_s": -1}',
        '{"format_version": 1, "stop_s": true}',
        '{"format_version": 1, "facts": 1}',
        '{"format_version": 1, "facts": {"alerts": 20}}',
        '{"format_version": 1, "facts": {"alerts": [65]}}',
        '{"format_version": 1, "facts": {"serial": 5}}',
        '{"format_version": 1, "facts": {"loads": -1}}',
        '{"format_version": 1, "facts": {"wishes": 1}}',
        "[" * 100_000,
    ],
)
def test_settings_that_make_no_sense_are_refused_and_the_drive_is_given_back(tmp_path: Path, text: str) -> None:
    for _dummy in range(2):
        with pytest.raises(TapeError) as refused:
            make_drive(tmp_path, text)
        assert (refused.value.option, refused.value.code) == ("drive", "option_invalid")
        assert str(tmp_path / "drive.json") in refused.value.message
