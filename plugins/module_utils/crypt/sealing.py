# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records in, records of an age file out, encrypted by a process of its own.

The cipher holds the interpreter while it works, so that threads would take turns; a process takes another core. It is
forked once and encrypts one file after another. Both sides share two rings of memory: one for what is to be encrypted,
one for what is. Who gives records also takes the encrypted ones, so no thread is needed.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket
import struct
from types import TracebackType
from typing import Optional, Protocol

from ..host.forking import close_inherited, fork
from .age import CHUNK_BYTES, NONCE_BYTES, Chunks, age_bytes
from .primitives import TAG_BYTES, CryptError

# To the process: what follows, number of the file, one number.
_TOLD = struct.Struct("<BQQ")
_BEGIN = 1  # a file with a head of so many bytes; _SHAPE, the file's key and the head follow
_PLAIN = 2  # so many bytes of it are in the ring
_END = 3  # it ends after so many
# Window and ring of encrypted bytes, see _shape.
_SHAPE = struct.Struct("<QQ")
# From the process: number of the file, bytes taken, bytes of the age file that are in the other ring.
_DONE = struct.Struct("<QQQ")

_KEY_BYTES = 16
_WINDOW_BYTES = 8 << 20
_WINDOW_RECORDS = 4
#: See tape/label.py: records are not longer.
_MOST_RECORD_BYTES = 16 << 20


class Sink(Protocol):
    """Where the records of the age file go."""

    def write_record(self, record: memoryview, /) -> None:
        """Take one record; the memory is reused after the return."""


class Sealer:
    """The process that encrypts. A context manager; leaving it ends the process.

    Make it before there are threads, which do not survive a fork.
    """

    def __init__(self) -> None:
        window, ring = _shape(_MOST_RECORD_BYTES)
        # Pages that are not used take no memory, and smaller records use fewer.
        self.plain = memoryview(mmap.mmap(-1, window))
        self.sealed = memoryview(mmap.mmap(-1, ring))
        self.files = 0
        self.link, theirs = socket.socketpair()
        self.pid = fork(lambda: _run(self.plain, self.sealed, theirs))
        theirs.close()

    def __enter__(self) -> Sealer:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.link.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class SealingSink:
    """Takes the records of an archive, and gives those of the age file around it to another sink.

    They have the length of those that come in, but for what is left at the end, see tail_of.

    :param sink: what it raises comes out of write_record or finish.
    :param key: of the file, which must be a new one.
    :param head: header and nonce of the age file.
    :ivar plain_bytes: how much came in.
    """

    def __init__(self, sealer: Sealer, sink: Sink, record_bytes: int, key: bytes, head: bytes) -> None:
        self._sealer = sealer
        self._sink = sink
        self._record = record_bytes
        self._head_bytes = len(head)
        self._window, self._ring = _shape(record_bytes)
        self.plain_bytes = 0
        self._told = 0
        self._taken = 0
        self._sealed = 0
        self._given = 0
        sealer.files += 1
        self._file = sealer.files
        self._tell(_BEGIN, len(head), _SHAPE.pack(self._window, self._ring) + key + head)

    @property
    def age_bytes(self) -> int:
        """Length of the age file, when all came in."""
        return age_bytes(self._head_bytes - NONCE_BYTES, self.plain_bytes)

    @property
    def records(self) -> int:
        """How many records that is."""
        return records_of(self.age_bytes, self._record)

    def write_record(self, record: memoryview) -> None:
        """Take one record; pass on what is encrypted. :raises CryptError: the process that encrypts is gone."""
        end = self.plain_bytes + len(record)
        while self._lacks_room(end):
            self._tell_plain()
            self._take(wait=True)
        place = self.plain_bytes % self._window
        first = record[: self._window - place]
        self._sealer.plain[place : place + len(first)] = first
        rest = record[len(first) :]
        self._sealer.plain[: len(rest)] = rest
        self.plain_bytes = end
        if end - self._told >= CHUNK_BYTES:
            self._tell_plain()
        self._take(wait=False)

    def finish(self) -> None:
        """The archive is complete: encrypt the rest, and pass it on. :raises CryptError: as write_record."""
        self._tell(_END, self.plain_bytes)
        while self._sealed < self.age_bytes:
            self._take(wait=True)
        for length in tail_of(self.age_bytes, self._record):
            self._give(length)

    def _lacks_room(self, end: int) -> bool:
        return (
            end - self._taken > self._window
            or age_bytes(self._head_bytes - NONCE_BYTES, end) - self._given > self._ring
        )

    def _tell_plain(self) -> None:
        if self.plain_bytes > self._told:
            self._told = self.plain_bytes
            self._tell(_PLAIN, self._told)

    def _tell(self, what: int, number: int, more: bytes = b"") -> None:
        try:
            self._sealer.link.sendall(_TOLD.pack(what, self._file, number) + more)
        except OSError as exc:
            raise _gone() from exc

    def _take(self, *, wait: bool) -> None:
        """Pass on the records that are encrypted. :param wait: until more is encrypted."""
        while True:
            try:
                said = self._sealer.link.recv(_DONE.size, socket.MSG_WAITALL if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as exc:
                raise _gone() from exc
            if len(said) < _DONE.size:
                raise _gone()
            file, taken, sealed = _DONE.unpack(said)
            if file != self._file:
                # It was given up; this answer came too late for it.
                continue
            self._taken, self._sealed = taken, sealed
            while self._sealed - self._given >= self._record:
                self._give(self._record)
            wait = False

    def _give(self, length: int) -> None:
        place = self._given % self._ring
        self._sink.write_record(self._sealer.sealed[place : place + length])
        self._given += length


def tail_of(age_bytes: int, record_bytes: int) -> list[int]:
    """Lengths of the records behind the full ones: what is left, in two if it is more than half a record.

    Some drives damage a record that is read into a buffer between its length and twice its length.
    """
    rest, half = age_bytes % record_bytes, record_bytes // 2
    return [rest] if 0 < rest <= half else [half, rest - half] if rest else []


def records_of(age_bytes: int, record_bytes: int) -> int:
    """How many records an age file has on tape."""
    return age_bytes // record_bytes + len(tail_of(age_bytes, record_bytes))


def _shape(record_bytes: int) -> tuple[int, int]:
    """How much may be in work, in whole chunks; and the size of the ring of what is encrypted, in whole records."""
    window = max(_WINDOW_BYTES, _WINDOW_RECORDS * record_bytes)
    window -= window % CHUNK_BYTES
    # In the clear and encrypted at once lie at most: a window, what is not yet a record, the head.
    records = -(-age_bytes(0, window) // record_bytes) + 2 + -(-CHUNK_BYTES // record_bytes)
    return window, records * record_bytes


def _gone() -> CryptError:
    return CryptError(
        "recipients: the process that encrypts ended unexpectedly; see the kernel's log.",
        option="recipients",
        code="process_failed",
    )


# -- the process -----------------------------------------------------------------------------------------------------


def _run(plain: memoryview, sealed: memoryview, link: socket.socket) -> None:
    """The child's whole life; it ends when the socket is closed."""
    gc.freeze()  # finalizers of the parent's objects would close descriptors that are now others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    close_inherited(link.fileno())
    with contextlib.suppress(OSError), link.makefile("rb") as told:
        work = None
        while True:
            head = told.read(_TOLD.size)
            if len(head) < _TOLD.size:
                return
            what, file, number = _TOLD.unpack(head)
            if what == _BEGIN:
                window, ring = _SHAPE.unpack(told.read(_SHAPE.size))
                work = _File(plain[:window], sealed[:ring], told.read(_KEY_BYTES), told.read(number))
            elif work is not None:
                work.seal(number, end=what == _END)
                link.sendall(_DONE.pack(file, work.taken, work.sealed))


class _File:
    """One age file in the process."""

    def __init__(self, plain: memoryview, ring: memoryview, key: bytes, head: bytes) -> None:
        self._plain = plain
        self._ring = ring
        self._chunks = Chunks(key, head[-NONCE_BYTES:])
        self._number = 0
        self.taken = 0
        self.sealed = 0
        self._put(head)

    def seal(self, upto: int, *, end: bool) -> None:
        """Encrypt what is there. A whole chunk waits until something follows it, because the last one is marked."""
        while upto - self.taken > CHUNK_BYTES or (end and self.taken < upto) or (end and not self._number):
            length = min(upto - self.taken, CHUNK_BYTES)
            place = self.taken % len(self._plain)
            last = end and self.taken + length == upto
            self._seal(self._plain[place : place + length], last=last)
            self._number += 1
            self.taken += length

    def _seal(self, plain: memoryview, *, last: bool) -> None:
        place = self.sealed % len(self._ring)
        length = len(plain) + TAG_BYTES
        if place + length > len(self._ring):
            self._put(self._chunks.seal(self._number, plain, last=last))
            return
        self._chunks.seal_into(self._number, plain, self._ring[place : place + length], last=last)
        self.sealed += length

    def _put(self, data: bytes) -> None:
        place = self.sealed % len(self._ring)
        room = len(self._ring) - place
        self._ring[place : place + len(data)] = data[:room]
        self._ring[: max(len(data) - room, 0)] = data[room:]
        self.sealed += len(data)
