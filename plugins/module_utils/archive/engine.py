# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process beside the writer: it reads the mirror into the shared ring, and takes the checksums.

Python runs one thread at a time in a process, so planning 100,000 members and reading them in one process means taking
turns; here each has a process of its own. The engine is forked with the ring (shared memory) and a socket. It gets
*turns* (what to read to which place of the ring, and which stretches of the ring are the content of which file), reads
in physical order with many reads under way at once, and answers what is complete, what is checksummed, and the
checksums.

Offsets: *stream* offsets count from the start of the archive; *places* are offsets in the ring, stream modulo its size.
"""

from __future__ import annotations

import gc
import hashlib
import os
import queue
import signal
import socket
import struct
import sys
import threading
from array import array
from collections import deque
from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional

from ..host.forking import close_inherited, fork
from .lun_loops import Job, read_loops
from .lun_reader import LunReader, ReadFault, coalesce
from .model import ArchiveError

# Writer to engine: a turn (stream offset of its end, how it ends, the stream offset from which on the ring is not
# filled yet, number of integers of requests and of contents), followed by these integers.
TURN = struct.Struct("<QIQII")
GOES_ON = 0  # the last chunk is taken up when it is full
FLUSH = 1  # take up what is there, whatever comes later
END = 2  # the archive ends here
NO_HOLD = (1 << 64) - 1
# Engine to writer: kind, one number, length of what follows.
REPLY = struct.Struct("<BQI")
READY = 1  # read up to this stream offset
HASHED = 2  # checksummed up to this stream offset
DIGESTS = 3  # sha256 of the next files, in order, 32 bytes each
FINISHED = 4  # all of the archive is checksummed
FAULT = 5  # physical offset; then LUN, place and errno
BROKEN = 6  # a sentence
PLANNED = 7  # bytes that one read of the last turn brings, on average

FAULT_BODY = struct.Struct("<QQI")

# Contents: stream offset, length, flags.
FIRST = 1
LAST = 2
WHOLE = FIRST | LAST

_INTEGER = array("q").itemsize
# How long a thread may keep the interpreter while another one waits for it. The default (5 ms) would hold reads up.
SWITCH_INTERVAL_S = 0.0005


class RingShape(NamedTuple):
    """The ring's size and that of the chunks in which it is filled, checksummed and emptied; all bytes."""

    buffer_bytes: int
    chunk_bytes: int


class EngineOptions(NamedTuple):
    """What the engine needs to know. :param devices: path of each LUN's device by its id in the map."""

    devices: Mapping[int, str]
    queue_depth: int
    gap_bytes: int


def fork_engine(ring: memoryview, shape: RingShape, options: EngineOptions) -> tuple[int, socket.socket]:
    """Start an engine; return its pid and the writer's end of the socket. It ends when the socket is closed."""
    ours, theirs = socket.socketpair()
    pid = fork(lambda: _run_engine(ring, shape, options, theirs))
    theirs.close()
    return pid, ours


def _run_engine(ring: memoryview, shape: RingShape, options: EngineOptions, link: socket.socket) -> None:
    """The child's whole life; nothing of the parent's is touched."""
    try:
        # The parent's objects stay as they are: their finalizers would close descriptors that are now others.
        gc.freeze()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        close_inherited(link.fileno())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        Engine(ring, shape, options, link).run()
    except BaseException as exc:  # whatever it is, the parent gets a message
        message = exc.message if isinstance(exc, ArchiveError) else f"the reading process failed ({exc!r})."
        body = message.encode("utf-8", "backslashreplace")
        try:
            link.sendall(REPLY.pack(BROKEN, 0, len(body)) + body)
            link.recv(1)
        except OSError:
            pass


class Engine:
    """Reads and checksums. Runs in its own process."""

    def __init__(self, ring: memoryview, shape: RingShape, options: EngineOptions, link: socket.socket) -> None:
        self._ring = ring
        self._ring_bytes, self._chunk = shape
        self._options = options
        self._link = link
        self._readers = {lun: LunReader(lun, device) for lun, device in options.devices.items()}
        self._tasks: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        # Under the condition: reads that are missing in each chunk of the ring, and how far all is there.
        self._missing = [0] * (self._ring_bytes // self._chunk)
        self._contents: deque[tuple[int, int, int]] = deque()
        self._planned = 0
        self._flushed = 0
        self._hold = NO_HOLD
        self._ended = False
        self._ready = 0

    def run(self) -> None:
        """Serve turns until the writer closes the socket."""
        reading = read_loops(self._ring, self._readers, self._tasks, self._have_read, self._options.queue_depth)
        for loop in (*reading, self._content_loop):
            threading.Thread(target=self._guard, args=(loop,), daemon=True).start()
        with self._link.makefile("rb") as turns:
            while True:
                head = turns.read(TURN.size)
                if len(head) < TURN.size:
                    return
                end, how, hold, requests, contents = TURN.unpack(head)
                self._take_turn(
                    end,
                    how,
                    hold,
                    _integers(turns.read(requests * _INTEGER)),
                    _integers(turns.read(contents * _INTEGER)),
                )

    def _guard(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; its failure ends the engine with a sentence."""
        try:
            loop()
        except ReadFault as fault:
            self._send(FAULT, fault.physical, FAULT_BODY.pack(fault.lun, fault.place, fault.code))
        except BaseException as exc:  # whatever it is, the parent gets a message
            self._send(BROKEN, 0, f"the reading process failed ({exc!r}).".encode("utf-8", "backslashreplace"))

    def _take_turn(self, end: int, how: int, hold: int, requests: array[int], contents: array[int]) -> None:
        numbers = iter(requests)
        tasks = coalesce(zip(numbers, numbers, numbers, numbers), self._options.gap_bytes)
        chunk = self._chunk
        work = [(task, list({piece[2] // chunk for piece in task.pieces})) for task in tasks]
        for task in tasks:
            if task.lun not in self._readers:
                raise ArchiveError(
                    f"device: LUN {task.lun} of the map has no device; name the device of each pair.",
                    code="mirror_wrong",
                )
        if tasks:
            self._send(PLANNED, sum([task.end - task.start for task in tasks]) // len(tasks))
        numbers = iter(contents)
        with self._changed:
            for _dummy, places in work:
                for place in places:
                    self._missing[place] += 1
            self._contents.extend(zip(numbers, numbers, numbers))
            self._planned = end
            self._hold = hold
            if how != GOES_ON:
                self._flushed = end
            self._ended = how == END
            self._advance()
        for item in work:
            self._tasks.put(item)

    def _advance(self) -> None:
        """Find how far everything is there now, and tell; the condition is held."""
        ready = self._ready
        while ready < self._planned:
            if self._missing[ready % self._ring_bytes // self._chunk]:
                break
            end = ready - ready % self._chunk + self._chunk
            if end > self._planned:
                end = self._flushed
            end = min(end, self._hold)
            if end <= ready:
                break
            ready = end
        if ready > self._ready:
            self._ready = ready
            self._changed.notify_all()
            self._send(READY, ready)
        elif self._ended:
            self._changed.notify_all()

    def _have_read(self, done: list[list[int]]) -> None:
        """Note reads that are done, by the chunks that waited for each of them."""
        with self._changed:
            for places in done:
                for place in places:
                    self._missing[place] -= 1
            if not self._missing[self._ready % self._ring_bytes // self._chunk]:
                self._advance()

    def _wait_ready(self, done: int) -> Optional[int]:
        """Wait until more than ``done`` is there, and say up to where to go on: at most to the end of a chunk.

        Chunks are given back one by one, so that the writer finds room early. None when all of the archive was done.
        """
        with self._changed:
            while self._ready <= done:
                if self._ended and done >= self._planned:
                    return None
                self._changed.wait()
            return min(self._ready, done - done % self._chunk + self._chunk)

    def _content_loop(self) -> None:
        """Checksum the contents of files."""
        ring, ring_bytes, contents, sha256 = self._ring, self._ring_bytes, self._contents, hashlib.sha256
        done = 0
        current = sha256()
        while True:
            ready = self._wait_ready(done)
            if ready is None:
                break
            digests = []
            while contents:
                start, length, flags = contents[0]
                if start + length > ready:
                    break
                contents.popleft()
                place = start % ring_bytes
                if flags == WHOLE:
                    digests.append(sha256(ring[place : place + length]).digest())
                    continue
                if flags & FIRST:
                    current = sha256()
                if length:
                    current.update(ring[place : place + length])
                if flags & LAST:
                    digests.append(current.digest())
            if digests:
                self._send(DIGESTS, len(digests), b"".join(digests))
            done = ready
            self._send(HASHED, done)
        self._send(FINISHED, done)

    def _send(self, kind: int, number: int, body: bytes = b"") -> None:
        with self._send_lock:
            try:
                self._link.sendall(REPLY.pack(kind, number, len(body)) + body)
            except OSError:  # the writer is gone, and with it the reason to be
                os._exit(0)


def _integers(data: bytes) -> array[int]:
    numbers = array("q")
    numbers.frombytes(data)
    return numbers
