# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The threads of the engine that read the mirror: one with asynchronous I/O, or several where the kernel has none."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional

from .aio import AsyncReads, Read, address_of
from .lun_reader import (
    LunReader,
    Plan,
    Task,
    page_buffer,
)

# Reads at once that go through a buffer, because they are put together from several extents.
_BUFFERS = 16
# Threads that read where the kernel has no asynchronous I/O.
_THREADS = 8

#: A read, and the chunks of the ring that wait for it.
Job = tuple[Task, list[int]]
#: Called with the chunks that waited for each of the reads that are done.
HaveRead = Callable[[list[list[int]]], None]


class _Started(NamedTuple):
    """A read under way. :param buffer: number of its buffer, None when it goes straight into the ring."""

    task: Task
    places: list[int]
    plan: Plan
    buffer: Optional[int]


def read_loops(
    ring: memoryview,
    readers: Mapping[int, LunReader],
    jobs: queue.SimpleQueue[Job],
    have_read: HaveRead,
    depth: int,
) -> list[Callable[[], None]]:
    """What the threads have to do, one for each: read into the ring what comes into the queue, and never return.

    They raise ReadFault.

    :param readers: each LUN's by its id in the map; without any there is nothing to do.
    :param depth: reads that may be under way at once.
    """
    if not readers:
        return []
    try:
        reads = AsyncReads(depth)
    except OSError:
        return [lambda: _one_by_one(ring, readers, jobs, have_read)] * min(depth, _THREADS)
    return [_ManyAtOnce(ring, readers, jobs, have_read, reads).live]


def _one_by_one(
    ring: memoryview, readers: Mapping[int, LunReader], jobs: queue.SimpleQueue[Job], have_read: HaveRead
) -> None:
    bounce = page_buffer(_buffer_bytes(readers))
    while True:
        task, places = jobs.get()
        readers[task.lun].read(task, ring, bounce)
        have_read([places])


def _buffer_bytes(readers: Mapping[int, LunReader]) -> int:
    return max(reader.bounce_bytes for reader in readers.values())


class _ManyAtOnce:
    """Reads of one thread, many under way at once."""

    def __init__(
        self,
        ring: memoryview,
        readers: Mapping[int, LunReader],
        jobs: queue.SimpleQueue[Job],
        have_read: HaveRead,
        reads: AsyncReads,
    ) -> None:
        self._ring = ring
        self._ring_address = address_of(ring)
        self._readers = readers
        self._jobs = jobs
        self._have_read = have_read
        self._reads = reads
        buffer_bytes = _buffer_bytes(readers)
        self._buffers = [page_buffer(buffer_bytes) for _dummy in range(_BUFFERS)]
        self._buffer_addresses = [address_of(buffer) for buffer in self._buffers]
        self._free_buffers = list(range(_BUFFERS))
        # For what is read at once while others are under way.
        self._spare = page_buffer(buffer_bytes)
        self._free_tags = list(range(reads.depth))
        self._started: dict[int, _Started] = {}
        # Prepared, and not taken by the kernel yet.
        self._waiting: list[Read] = []

    def live(self) -> None:
        """The thread's life."""
        held: Optional[Job] = None
        while True:
            while self._free_tags:
                if held is None:
                    try:
                        # Wait for work only where there is none.
                        held = self._jobs.get(block=not self._started)
                    except queue.Empty:
                        break
                if not self._prepare(*held):
                    break
                held = None
            if self._waiting:
                del self._waiting[: self._reads.submit(self._waiting)]
            self._hear()

    def _prepare(self, task: Task, places: list[int]) -> bool:
        """Prepare a read; False when it has to wait for a buffer."""
        reader = self._readers[task.lun]
        plan = reader.plan(task)
        if plan is None:
            reader.read(task, self._ring, self._spare)
            self._have_read([places])
            return True
        buffer = None
        if plan.place is not None:
            address = self._ring_address + plan.place
        elif self._free_buffers:
            buffer = self._free_buffers.pop()
            address = self._buffer_addresses[buffer]
        else:
            return False
        tag = self._free_tags.pop()
        self._started[tag] = _Started(task, places, plan, buffer)
        self._waiting.append(Read(tag, reader.fileno(), address, plan.length, plan.offset))
        return True

    def _hear(self) -> None:
        """Wait for a part of what is under way, and finish it."""
        under_way = len(self._started) - len(self._waiting)
        if not under_way:
            return
        done = []
        for tag, got in self._reads.wait(max(1, under_way // 4)):
            task, places, plan, buffer = self._started.pop(tag)
            memory = self._spare if buffer is None else self._buffers[buffer]
            self._readers[task.lun].finish(task, plan, got, self._ring, memory)
            if buffer is not None:
                self._free_buffers.append(buffer)
            self._free_tags.append(tag)
            done.append(places)
        self._have_read(done)
