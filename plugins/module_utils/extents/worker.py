# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A forked process that works ahead and sends what it finds to the one that started it."""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import signal
import struct
from typing import Any, Callable

from ..errors import SplitMirrorError
from ..host.forking import fork
from ..host.lifeline import die_with
from .maprows import MapError

_LENGTH = struct.Struct("=I")
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
#: What Worker.receive returns when the work is done.
END = object()

Send = Callable[[Any], None]


class Worker:
    """Runs ``work(send)`` in a forked process; ``send`` takes what marshal takes and waits while the pipe is full.

    The process must not use what belongs to its parent (connections, threads). It is killed by close, and by the kernel
    when the thread that made this object ends, however it ends.
    """

    def __init__(self, work: Callable[[Send], None]) -> None:
        self._read_end, write_end = os.pipe()
        # A larger pipe is only faster; unprivileged users may be refused one.
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, _F_SETPIPE_SZ, _PIPE_BYTES)
        parent = os.getpid()
        self._pid = fork(lambda: _live(work, parent, self._read_end, write_end))
        os.close(write_end)

    def fileno(self) -> int:
        """The end of the pipe that becomes readable when a message is there."""
        return self._read_end

    def receive(self) -> Any:
        """The next message, or END.

        :raises SplitMirrorError: what the work raised, or MapError when its process died.
        """
        size = _LENGTH.unpack(self._read(_LENGTH.size))[0]
        kind, message = marshal.loads(self._read(size))  # noqa: S302 - our own child wrote it
        if kind == "error":
            raise MapError(message[0], option=message[1], code=message[2])
        return END if kind == "end" else message

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._pid:
            os.close(self._read_end)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._read_end, size)
            if not part:
                raise MapError("map: a process that maps files died; see the kernel's log, then map again.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _live(work: Callable[[Send], None], parent: int, read_end: int, write_end: int) -> None:
    """The whole life of the forked process."""
    # It has inherited its parent's tape, locks and mounts.
    die_with(parent)
    # Or a write would wait for ever for a reader that is this process itself.
    os.close(read_end)
    try:
        work(lambda message: _send(write_end, "message", message))
        _send(write_end, "end", None)
    except SplitMirrorError as exc:
        _send(write_end, "error", (exc.message, exc.option, exc.code))


def _send(write_end: int, kind: str, message: Any) -> None:
    blob = marshal.dumps((kind, message))
    rest = memoryview(_LENGTH.pack(len(blob)) + blob)
    while rest:
        rest = rest[os.write(write_end, rest) :]
