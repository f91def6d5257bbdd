# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The archive as it grows: a ring of shared memory that the planner lays out, the engine fills and the sink empties.

Three offsets run after each other around the ring: what is laid out (``position``), what is read, what is both
written and checksummed. A *turn* is a stretch that is given to the engine at once; inside it reads go in physical
order. Turns grow from small to half the ring: the first record leaves early, and scattered files are still read in few
sweeps.

A sink that streams gets its first record, and the next one after the ring ran empty, when half of the ring is ready
(feed.py). The planner waits for room only while more than that is laid out, so that mark is always reached.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from array import array
from collections import deque
from collections.abc import Mapping
from typing import BinaryIO, Callable, Optional

from . import engine
from .feed import Feed
from .lun_reader import page_buffer
from .model import BLOCK_BYTES, ArchiveError, RecordSink, WriterOptions

_CHUNK_BYTES = 4 << 20
_CHUNKS_AT_LEAST = 8
# The most of the ring that is filled later.
_HELD = 32
# When reads are shorter than this on average, files lie scattered.
_SCATTERED_BYTES = 256 << 10
_ZEROS = bytes(1 << 16)

NameAt = Callable[[int], str]


def ring_shape(options: WriterOptions) -> engine.RingShape:
    """Ring and chunks in whole records: chunks of about 4 MiB, and at least eight of them."""
    most = max(options.buffer_bytes // _CHUNKS_AT_LEAST, options.record_bytes)
    chunk = max(min(_CHUNK_BYTES, most) // options.record_bytes, 1) * options.record_bytes
    return engine.RingShape(max(options.buffer_bytes // chunk, 2) * chunk, chunk)


def make_ring(options: WriterOptions) -> memoryview:
    """Memory for data in flight. :raises ArchiveError: there is not so much."""
    try:
        return page_buffer(ring_shape(options).buffer_bytes)
    except (OSError, OverflowError) as exc:
        raise ArchiveError(
            f"buffer_bytes: {options.buffer_bytes} is more memory than this host has free; give less.",
            "buffer_bytes",
            code="option_invalid",
        ) from exc


class ArchiveStream:
    """Lays members into the archive. Use it as a context manager; leaving it without finish() abandons the archive.

    :param devices: path of each LUN's device, by the LUN's id in the map.
    :param sink: takes the records.
    :param on_turn: called after each turn, when digests may have come.
    :param name_at: names the file whose data lie at a stream offset, for a message (in another thread).
    :param ring: memory of make_ring that outlives this archive, for what is written in several; None for its own.
    """

    def __init__(
        self,
        devices: Mapping[int, str],
        sink: RecordSink,
        options: WriterOptions,
        *,
        on_turn: Callable[[], None],
        name_at: NameAt,
        ring: Optional[memoryview] = None,
    ) -> None:
        self._sink = sink
        self._devices = devices
        self._on_turn = on_turn
        self._name_at = name_at
        self._record = options.record_bytes
        self._ring_bytes, self._chunk = shape = ring_shape(options)
        self._is_lent = ring is not None and len(ring) == self._ring_bytes
        self._ring = ring if ring is not None and self._is_lent else make_ring(options)
        self._requests: list[int] = []
        self._contents: list[int] = []
        #: Stream offset of the next byte to be laid out.
        self.position = 0
        # Where this turn ends; where the chunk or the turn ends; the stream offset of the ring's first byte.
        self._bound = 0
        self._near_bound = 0
        self._lap = 0
        self._turn_bytes = self._chunk
        self._turn_most = self._ring_bytes // self._chunk // 2 * self._chunk
        #: The most that may be held.
        self.hold_most = self._ring_bytes // _HELD
        #: When the sink gets records, and how it was fed.
        self.feed = self._new_feed(streams=options.streams)
        #: sha256 of the contents, in order; the thread that laid them out takes them from the left.
        self.digests: deque[bytes] = deque()
        # Under the condition, in the order in which they follow each other: written and checksummed; read.
        self._changed = threading.Condition()
        self._written = 0
        self._hashed = 0
        self._ready = 0
        # Bytes that one read of the last turn brought, on average.
        self._read_bytes = 0
        self._total: Optional[int] = None
        # Everything before this is to be written without waiting for more.
        self._drain_to = 0
        self._errand: Optional[Callable[[], object]] = None
        # From here on the engine waits for what is put into the ring later; the same when all of that is laid out.
        self._hold = self._due = engine.NO_HOLD
        self._finished = False
        self._error: Optional[BaseException] = None
        self._stopped = False

        self._switch_interval = sys.getswitchinterval()
        self._pid, self._link = engine.fork_engine(
            self._ring,
            shape,
            engine.EngineOptions(devices, options.queue_depth, options.gap_bytes),
        )
        sys.setswitchinterval(min(engine.SWITCH_INTERVAL_S, self._switch_interval))
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), name=name, daemon=True)
            for loop, name in ((self._listen, "archive-listen"), (self._write, "archive-write"))
        ]
        for thread in self._threads:
            thread.start()
        self._bound = self._next_bound()

    def __enter__(self) -> ArchiveStream:
        return self

    def __exit__(self, *_dummy: object) -> None:
        self.close()

    # -- laying out: the caller's thread -----------------------------------------------------------------------------

    def small_file(self, header: bytes, lun: int, physical: int, size: int) -> bool:
        """Lay out a file of one extent at once; False when it does not fit into the chunk or the turn.

        :raises ArchiveError: as check_place() does.
        """
        self.check_place(len(header))
        data = self.position + len(header)
        end = data + size + -size % BLOCK_BYTES
        if end > self._near_bound:
            return False
        place = data - self._lap
        self._ring[place - len(header) : place] = header
        self._requests += (lun, physical, size, place)
        self._contents += (data, size, engine.WHOLE)
        self.position = end
        return True

    def check_place(self, header_bytes: int) -> None:
        """Prove that a member can begin here with headers of this length.

        :raises ArchiveError: the member or its data would not begin at a block, and what follows could not be read.
        """
        if (self.position | header_bytes) % BLOCK_BYTES:
            raise ArchiveError(
                f"a member of the archive would begin at byte {self.position} with headers of {header_bytes} bytes, "
                f"which are not multiples of {BLOCK_BYTES}. This is a bug, please report it; the archive is not "
                "complete."
            )

    def put(self, data: bytes) -> None:
        """Lay out bytes that are not content: headers, maps."""
        view = memoryview(data)
        while view:
            place, room = self._room(len(view))
            self._ring[place : place + room] = view[:room]
            self.position += room
            view = view[room:]

    def begin_content(self) -> None:
        """What follows is the content of a file, until end_content()."""
        self._contents += (self.position, 0, engine.FIRST)

    def end_content(self) -> None:
        """The content of the file is complete; its checksum will follow in ``digests``."""
        self._contents += (self.position, 0, engine.LAST)

    def device(self, lun: int, physical: int, length: int) -> None:
        """Content that is to be read from a LUN. Its last block is filled up with zeros."""
        while length:
            place, room = self._room(length)
            self._requests += (lun, physical, room, place)
            self._lay(room)
            physical += room
            length -= room

    def content(self, fill: Callable[[memoryview], int], length: int) -> bool:
        """Content that ``fill`` puts into the memory it gets (like readinto); False when it ended too early."""
        while length:
            place, room = self._room(length)
            got = fill(self._ring[place : place + room])
            if not got:
                return False
            self._lay(got)
            length -= got
        return True

    def zeros(self, length: int) -> None:
        """Content that is zeros and is written as zeros."""
        while length:
            place, room = self._room(min(length, len(_ZEROS)))
            self._ring[place : place + room] = _ZEROS[:room]
            self._lay(room)
            length -= room

    def hold(self, lay: Callable[[], None]) -> None:
        """What ``lay`` lays out is put into the ring later, by fill; ``on_turn`` is called when that is due.

        It is due when everything before is checksummed. Until then nothing of it, or behind it, is written.
        """
        self._hold = self.position
        lay()
        self._due = self._hold

    def fill(self, data: memoryview) -> None:
        """Put into the ring what was laid out in its place, from hold on."""
        offset = self._hold
        while data:
            place = offset % self._ring_bytes
            piece = data[: self._ring_bytes - place]
            self._ring[place : place + len(piece)] = piece
            offset += len(piece)
            data = data[len(piece) :]
        self._hold = self._due = engine.NO_HOLD
        self._send_turn()

    def fill_block(self) -> None:
        """Zeros up to the end of the block; they are not content."""
        self.put(_ZEROS[: -self.position % BLOCK_BYTES])

    def finish(self, *, marked: bool = True) -> None:
        """End the archive and wait until all of it is written and checksummed.

        :param marked: with blocks of zeros, which mark the end of an archive; without them it must end with a record,
            and ``tar -M`` goes on with the next volume.
        """
        if marked:
            self.put(_ZEROS[: 2 * BLOCK_BYTES])
        elif self.position % self._record:
            raise AssertionError("an archive without an end mark ends with a record")
        rest = -self.position % self._record
        while rest:
            part = min(rest, len(_ZEROS))
            self.put(_ZEROS[:part])
            rest -= part
        self._send_turn(engine.END)
        with self._changed:
            self._total = self.position
            self._changed.notify_all()
        self._wait_while(lambda: not (self._finished and self._written == self._total))
        self.feed.rest()

    def end_part(self) -> None:
        """End a part of the archive, which the sink gets at once, without waiting for it."""
        if self.position % self._record:
            raise AssertionError("a part that is not the last one ends with a record")
        self._send_turn(engine.FLUSH)
        with self._changed:
            self._drain_to = self.position
            self._changed.notify_all()
        # What comes next must not wait for a long turn.
        self._turn_bytes = self._chunk
        self._bound = self._near_bound = self.position

    def feed_anew(self, *, streams: bool) -> None:
        """Feed the sink as at the beginning; it must be waiting, see in_caller. :param streams: as in WriterOptions."""
        self.feed = self._new_feed(streams=streams)

    def _new_feed(self, *, streams: bool) -> Feed:
        return Feed(self._record, self._ring_bytes - self._turn_most if streams else None)

    def wait_hashed(self, offset: int) -> None:
        """For the sink: wait until everything before an offset is checksummed; then all its digests are there."""
        with self._changed:
            while self._hashed < offset and not self._stopped and self._error is None:
                self._changed.wait()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until an errand of the sink has brought something about. :param ready: whether it has."""
        self._wait_while(lambda: not ready())

    def flush(self) -> None:
        """Wait until everything laid out is read and checksummed: then all its digests are there."""
        self._send_turn(engine.FLUSH)
        self._wait_while(lambda: self._hashed < self.position)

    def drain(self) -> None:
        """As flush, and wait until all records that are complete are written."""
        self._send_turn(engine.FLUSH)
        with self._changed:
            self._drain_to = self.position - self.position % self._record
            self._changed.notify_all()
        self._wait_while(lambda: self._hashed < self.position or self._written < self._drain_to)

    def tail(self) -> bytes:
        """What is laid out behind the last complete record, after drain."""
        length = self.position % self._record
        place = (self.position - length) % self._ring_bytes
        return bytes(self._ring[place : place + length])

    def in_caller(self, errand: Callable[[], object]) -> None:
        """For the sink, which is called in a thread: have the caller's thread do something, and wait until it is done.

        The caller comes to it when it waits for the sink, and at each chunk. What the errand raises ends the archive.
        """
        with self._changed:
            self._errand = errand
            self._changed.notify_all()
            while self._errand is not None and not self._stopped and self._error is None:
                self._changed.wait()
            if self._errand is not None:
                raise self._error or ArchiveError("the archive was given up.")

    def _is_called(self) -> bool:
        """The caller's thread has something to do besides laying out."""
        return self._errand is not None or self._hashed >= self._due

    def _wait_while(self, unready: Callable[[], bool]) -> None:
        """Wait in the caller's thread, and do errands meanwhile. :raises BaseException: the archive has failed."""
        while True:
            with self._changed:
                while self._error is None and not self._is_called() and unready():
                    self._changed.wait()
                errand = self._errand
            self._check()
            if self._hashed >= self._due:
                self._on_turn()
                continue
            if errand is None:
                return
            try:
                errand()
            except BaseException as exc:
                self._fail(exc)
                raise
            with self._changed:
                self._errand = None
                self._changed.notify_all()

    def _lay(self, length: int) -> None:
        self._contents += (self.position, length, 0)
        self.position += length

    def _room(self, wanted: int) -> tuple[int, int]:
        """A place in the ring, and how much of what is wanted may be laid there in one piece."""
        if self.position >= self._near_bound:
            if self.position >= self._bound:
                self._turn()
            elif self._is_called():
                self._wait_while(lambda: False)
            place = self.position % self._ring_bytes
            self._lap = self.position - place
            self._near_bound = min(self._bound, self.position - self.position % self._chunk + self._chunk)
        return self.position - self._lap, min(wanted, self._near_bound - self.position)

    def _turn(self) -> None:
        """Give the engine what is laid out, and wait for room for the next turn."""
        self._send_turn()
        # Short turns leave early; long ones are read in fewer sweeps where files lie scattered.
        if self._read_bytes < _SCATTERED_BYTES or self._turn_bytes < self._chunk * _CHUNKS_AT_LEAST // 2:
            self._turn_bytes = min(2 * self._turn_bytes, self._turn_most)
        self._wait_while(lambda: self._next_bound() - self.position < self._turn_bytes)
        self._bound = self._next_bound()
        self._on_turn()

    def _next_bound(self) -> int:
        """Where the next turn ends: as far as the ring is free, in whole blocks."""
        free = min(self._written, self._hashed)
        free -= free % self._chunk
        return min(free + self._ring_bytes, self.position + self._turn_bytes)

    def _send_turn(self, how: int = engine.GOES_ON) -> None:
        head = engine.TURN.pack(self.position, how, self._hold, len(self._requests), len(self._contents))
        body = array("q", self._requests).tobytes() + array("q", self._contents).tobytes()
        try:
            self._link.sendall(head + body)
        except OSError:
            # The listener knows what happened to the engine, or will in a moment.
            with self._changed:
                while self._error is None:
                    self._changed.wait()
        self._requests, self._contents = [], []
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the two threads ---------------------------------------------------------------------------------------------

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as exc:  # it comes out of the caller's thread
            self._fail(exc)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def _listen(self) -> None:
        """Process the messages of the engine."""
        with self._link.makefile("rb") as replies:
            while True:
                reply = _reply(replies)
                if reply is None:
                    if not self._stopped:
                        self._fail(ArchiveError("the reading process ended unexpectedly; see the kernel's log."))
                    return
                kind, number, body = reply
                if kind == engine.DIGESTS:
                    self.digests.extend([body[place : place + 32] for place in range(0, len(body), 32)])
                    continue
                if kind == engine.FAULT:
                    self._fail(self._fault(number, *engine.FAULT_BODY.unpack(body)))
                    return
                if kind == engine.BROKEN:
                    self._fail(ArchiveError(body.decode("utf-8")))
                    return
                with self._changed:
                    if kind == engine.READY:
                        self._ready = number
                    elif kind == engine.PLANNED:
                        self._read_bytes = number
                    else:
                        self._hashed = number
                        self._finished = kind == engine.FINISHED
                    self._changed.notify_all()

    def _fault(self, physical: int, lun: int, place: int, code: int) -> ArchiveError:
        """The sentence for data that cannot be read."""
        free = min(self._written, self._hashed)
        free -= free % self._chunk
        name = self._name_at(free + (place - free) % self._ring_bytes)
        why = os.strerror(code) if code else "the device ends there"
        return ArchiveError(
            f"{name} cannot be read from {self._devices.get(lun, lun)} at offset {physical} ({why}); "
            "the archive is not complete, check the mirror and back up again."
        )

    def _write(self) -> None:
        """Hand complete records to the sink."""
        done = 0
        while True:
            with self._changed:
                while not self._is_over(done) and not self._goes_on(done):
                    self._changed.wait()
                if self._is_over(done):
                    return
                ready, feed = self._ready, self.feed
            while ready - done >= self._record and not self._stopped and self.feed is feed:
                place = done % self._ring_bytes
                self._sink.write_record(self._ring[place : place + self._record])
                done += self._record
                with self._changed:
                    self._written = done
                    if not done % self._chunk or done in (self._total, self._drain_to):
                        self._changed.notify_all()

    def _goes_on(self, done: int) -> bool:
        """Whether the sink gets the next record now."""
        return self.feed.goes_on(self._ready - done, self._ready == self._total or done < self._drain_to)

    def _is_over(self, done: int) -> bool:
        return self._stopped or self._error is not None or done == self._total

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the engine and the threads, whatever they are doing. The sink's last call is waited for."""
        if self._stopped:
            return
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for thread in self._threads:
            thread.join()
        self._link.close()
        sys.setswitchinterval(self._switch_interval)
        if not self._is_lent:
            self._ring.release()


def _reply(replies: BinaryIO) -> Optional[tuple[int, int, bytes]]:
    """The next message of the engine: kind, number and body; None when the engine has ended."""
    try:
        head = replies.read(engine.REPLY.size)
        if len(head) == engine.REPLY.size:
            kind, number, length = engine.REPLY.unpack(head)
            body = replies.read(length) if length else b""
            if len(body) == length:
                return kind, number, body
    except OSError:
        # The kernel's word for one that was killed before it had read all that we sent.
        return None
    return None
