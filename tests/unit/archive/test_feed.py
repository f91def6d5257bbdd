# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tape drive is fed at full speed or rests: when it gets records, and that it gets all of them."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive import ring
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.feed import Feed
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import WriterOptions

RECORD = 1 << 10
HIGH = 100 * RECORD


@pytest.mark.parametrize("high_bytes", [None, HIGH])
def test_what_is_written_begins_at_the_high_mark_and_ends_with_the_buffer(high_bytes: Optional[int]) -> None:
    mark = high_bytes or RECORD
    for seed in range(50):
        chance, feed = random.Random(seed), Feed(RECORD, high_bytes)
        level, left, wrote, begins = 0, 600 * RECORD, False, 0
        while left or level >= RECORD:
            step = min(left, chance.randrange(20 * RECORD))
            level, left = level + step, left - step
            goes_on = feed.goes_on(level, not left)
            if goes_on and not wrote:
                begins += 1
                assert level >= mark or not left
            assert goes_on or level < (RECORD if wrote or not left else mark)
            wrote = goes_on
            level -= min(level // RECORD, chance.randrange(40)) * RECORD if goes_on else 0
        assert feed.stops == (None if high_bytes is None else begins - 1)


def test_a_drive_faster_than_its_source_stops_rarely_and_goes_at_its_own_speed() -> None:
    """A source of 1 record a second and a drive of 4, for 3000 seconds; each stop costs nothing else here."""

    def run(high_bytes: Optional[int]) -> tuple[int, float]:
        second, ready, written, waits, wrote = 0.0, 0, 0, 0, False
        feed = Feed(RECORD, high_bytes, lambda: second)
        while written < 3000:
            ready = min(3000, int(second))
            goes_on = feed.goes_on((ready - written) * RECORD, ready == 3000)
            waits += wrote and not goes_on
            wrote = goes_on
            second, written = (second + 0.25, written + 1) if goes_on else (second + 1, written)
        feed.rest()
        return waits, written / feed.writing_s

    assert run(None)[0] > 2000
    # A filling of 100 records is gone in 33 seconds, in which 33 others come: 134 records for each stop.
    assert run(HIGH) == (3000 // 134, 4.0)


class Sink:
    """Counts records, and says when there were so many."""

    def __init__(self) -> None:
        self.records = 0
        #: How many bytes were laid out when each record came.
        self.laid_out: list[int] = []
        self.stream: Optional[ring.ArchiveStream] = None

    def write_record(self, _record: memoryview, /) -> None:
        assert self.stream is not None
        self.records += 1
        self.laid_out.append(self.stream.position)


class Watched(Feed):
    """A feed that says when the sink rests behind a record."""

    def __init__(self, record_bytes: int, high_bytes: Optional[int], clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(record_bytes, high_bytes, clock)
        self.rested = threading.Event()

    def rest(self) -> None:
        was_written_to = self._since is not None
        super().rest()
        if was_written_to:
            self.rested.set()


def test_the_sink_waits_for_the_high_mark_at_the_beginning_and_whenever_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring, "Feed", Watched)
    sink = Sink()
    options = WriterOptions(record_bytes=RECORD, buffer_bytes=256 * RECORD, streams=True)
    with ring.ArchiveStream({}, sink, options, on_turn=lambda: None, name_at=str) as stream:
        sink.stream = stream
        feed = stream.feed
        assert isinstance(feed, Watched)

        def lay_out(records: int) -> None:
            for _dummy in range(records):
                stream.put(bytes(RECORD))
            stream.flush()

        lay_out(127)
        lay_out(10)
        assert feed.rested.wait(60)
        assert (sink.records, feed.stops) == (137, 0)
        assert sink.laid_out[0] >= 128 * RECORD
        feed.rested.clear()
        # Less than the mark stays in the buffer, until the rest comes or the archive ends.
        lay_out(100)
        lay_out(28)
        assert feed.rested.wait(60)
        assert sink.laid_out[137] >= (137 + 128) * RECORD
        lay_out(5)
        stream.finish()
    assert sink.records == 271
    assert feed.stops == 2


def test_what_is_held_is_filled_later_and_nothing_behind_it_is_written_before() -> None:
    class Kept:
        def __init__(self) -> None:
            self.data = bytearray()

        def write_record(self, record: memoryview, /) -> None:
            self.data += record

    sink = Kept()
    filled: list[int] = []
    late = bytes(range(256)) * 10

    def on_turn() -> None:
        # It is due when what stands before it is checksummed.
        if held and not filled and len(stream.digests) == 1:
            filled.append(len(sink.data))
            stream.fill(memoryview(late))

    held: list[int] = []
    options = WriterOptions(record_bytes=RECORD, buffer_bytes=16 * RECORD)
    with ring.ArchiveStream({}, sink, options, on_turn=on_turn, name_at=str) as stream:
        stream.put(b"a" * 3 * 512)
        for content in (b"b" * 512, late):
            stream.begin_content()
            if content is late:
                stream.hold(lambda: stream.zeros(len(late)))
                held.append(stream.position)
            else:
                stream.zeros(512)
            stream.end_content()
        for _dummy in range(40):
            stream.put(b"c" * RECORD)
        stream.finish()
        found = [digest.hex() for digest in stream.digests]
    assert len(filled) == 1
    assert filled[0] <= 4 * 512
    assert sink.data[4 * 512 :].startswith(late + b"c")
    assert sink.data.count(b"c"[0]) == 40 * RECORD + 10
    assert found == [hashlib.sha256(bytes(512)).hexdigest(), hashlib.sha256(late).hexdigest()]
