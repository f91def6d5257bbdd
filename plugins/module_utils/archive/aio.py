# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many reads under way at once from one thread: the kernel's asynchronous I/O (io_submit(2), <linux/aio_abi.h>).

A thread for each read would pass the interpreter's lock around for each of them; here one call starts many, and one
call hears of many that are done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import NamedTuple

# struct iocb: data, key and flags (0), opcode, priority, descriptor, buffer, length, offset, three unused.
_IOCB = struct.Struct("=QQHhIQQqQII")
_PREAD = 0  # IOCB_CMD_PREAD
# struct io_event: data of the iocb, its address, result (bytes, or a negative errno), unused.
_EVENT = struct.Struct("=QQqq")


class _Numbers(NamedTuple):
    """Numbers of the system calls; the C library has no functions for them."""

    setup: int
    getevents: int
    submit: int


# <asm/unistd.h> of each; those of <asm-generic/unistd.h> for all newer architectures.
_GENERIC = _Numbers(0, 4, 2)
_NUMBERS = {
    "x86_64": _Numbers(206, 208, 209),
    "ppc64le": _Numbers(227, 229, 230),
    "s390x": _Numbers(243, 245, 246),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}


class Read(NamedTuple):
    """A read. :param tag: comes back with its result. :param address: of the memory to fill. Others in bytes."""

    tag: int
    fd: int
    address: int
    length: int
    offset: int


class AsyncReads:
    """A queue of the kernel. Only one thread may use it.

    :param depth: reads that may be under way at once.
    :raises OSError: this kernel or this architecture has none (ENOSYS), it is not allowed, or /proc/sys/fs/aio-max-nr
        is reached (EAGAIN).
    """

    def __init__(self, depth: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._numbers = numbers
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(numbers.setup, depth, ctypes.byref(self._context))
        #: Reads that may be under way at once.
        self.depth = depth
        self._blocks = ctypes.create_string_buffer(_IOCB.size * depth)
        first = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_uint64 * depth)(*[first + _IOCB.size * place for place in range(depth)])
        self._events = ctypes.create_string_buffer(_EVENT.size * depth)

    def submit(self, reads: Sequence[Read]) -> int:
        """Start reads; return how many the kernel took of them, from the first on. At most ``depth`` at once.

        :raises OSError: it takes none, and waiting would not help.
        """
        pack, blocks, size = _IOCB.pack_into, self._blocks, _IOCB.size
        for place, (tag, fd, address, length, offset) in enumerate(reads):
            pack(blocks, place * size, tag, 0, _PREAD, 0, fd, address, length, offset, 0, 0, 0)
        try:
            return self._call(self._numbers.submit, self._context, ctypes.c_long(len(reads)), self._pointers)
        except BlockingIOError:
            return 0

    def wait(self, at_least: int) -> list[tuple[int, int]]:
        """Wait until so many reads are done; return the tag and the result (bytes, or a negative errno) of all done."""
        while True:
            try:
                done = self._call(
                    self._numbers.getevents,
                    self._context,
                    ctypes.c_long(at_least),
                    ctypes.c_long(self.depth),
                    self._events,
                    None,
                )
            except InterruptedError:
                continue
            events = _EVENT.iter_unpack(memoryview(self._events)[: done * _EVENT.size])
            return [(tag, result) for tag, _block, result, _unused in events]

    def _call(self, *arguments: object) -> int:
        result: int = self._syscall(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def address_of(memory: memoryview) -> int:
    """The address of writable memory; it stays there as long as the memory is not released."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
