# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes that outlive the task that starts them, and that can be found and ended without ever hitting another.

A daemon is known by pid, start time and boot id, kept in ``<name>.json`` in its session's folder. A pid that was given
to a new process in the meantime has another start time, so it is never taken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Callable, Optional

from ..errors import SplitMirrorError
from .files import replace_file
from .forking import close_inherited, fork_orphan
from .strict_json import read_json, whole

Ready = Callable[[], None]

#: More processes there never are on Linux (PID_MAX_LIMIT of the kernel).
_MOST_PID = 1 << 22


class DaemonError(SplitMirrorError):
    """A daemon that did not start, or does not end."""

    code = "process_failed"


@dataclass(frozen=True)
class DaemonRecord:
    """What identifies one process. :param start_ticks: field 22 of /proc/PID/stat, see proc(5)."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def from_dict(cls, data: Any) -> DaemonRecord:
        """From JSON. :raises ValueError, KeyError, TypeError: it is not a record."""
        return cls(whole(data["pid"], 0, _MOST_PID), whole(data["start_ticks"]), str(data["boot_id"]))

    @classmethod
    def of(cls, pid: int) -> Optional[DaemonRecord]:
        """The record of a living process, or None."""
        ticks = _start_ticks(pid)
        return None if ticks is None else cls(pid, ticks, boot_id())


def daemonize(folder: str, name: str, run: Callable[[Ready], None], timeout_s: float = 10.0) -> DaemonRecord:
    """Start ``run`` in a process of its own and return once it says that it is ready.

    Everything that ``run`` needs must be imported already: the modules' temporary folder goes away with the task.
    The process has no terminal, no open files of ours, ``/`` as its folder, and its stderr in ``<name>.log``.

    :param folder: the session's folder, 0700.
    :param name: name of the process (15 bytes count) and of ``<name>.json`` and ``<name>.log``.
    :param run: gets a function to call when it is ready; an error before that is told to the caller.
    :raises DaemonError: it failed before it was ready, or was not ready in time (it is killed then).
    """
    read_end, write_end = os.pipe()
    fork_orphan(lambda: _live(folder, name, run, write_end))
    os.close(write_end)
    try:
        return _wait_ready(folder, name, read_end, timeout_s)
    finally:
        os.close(read_end)


def read_record(folder: str, name: str) -> Optional[DaemonRecord]:
    """The record that daemon ``name`` left in ``folder``, or None if it left none that can be read.

    A record that a power failure damaged counts as none: the power failure has ended its process, too.

    :raises DaemonError: the file cannot be read.
    """
    try:
        return DaemonRecord.from_dict(read_json(os.path.join(folder, name + ".json")))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    except OSError as exc:
        raise DaemonError(f"{folder}/{name}.json: it cannot be read ({exc.strerror}); remove it.") from exc


def is_alive(record: DaemonRecord) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    return record.boot_id == boot_id() and _start_ticks(record.pid) == record.start_ticks


def is_called(record: DaemonRecord, name: str) -> bool:
    """Whether the process with this pid is a daemon of this name."""
    try:
        with open(f"/proc/{record.pid}/comm", "rb") as comm:
            return comm.read().rstrip(b"\n") == name.encode()[:15]
    except OSError:  # it has ended
        return False


def terminate(record: DaemonRecord, timeout_s: float = 5.0) -> bool:
    """End this process: SIGTERM, and SIGKILL when it is still there after ``timeout_s``.

    :returns: whether it was alive.
    :raises DaemonError: it outlives even SIGKILL (it hangs in the kernel).
    """
    with _handle(record) as send:
        if not is_alive(record):
            return False
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
            send(number)
            if wait_gone(record, patience_s):
                return True
    raise DaemonError(f"process {record.pid} survives SIGKILL, so it hangs in the kernel; see the kernel's log.")


def _live(folder: str, name: str, run: Callable[[Ready], None], pipe: int) -> None:
    """The whole life of the process."""
    try:
        _detach(folder, name, pipe)
        _write_own_record(folder, name)

        def ready() -> None:
            os.write(pipe, b"+")
            os.close(pipe)

        run(ready)
    except BaseException as exc:
        traceback.print_exc()
        message = exc.message if isinstance(exc, SplitMirrorError) else f"{name}: {type(exc).__name__}: {exc}"
        with contextlib.suppress(OSError):  # it was ready, so the reader has closed the pipe
            os.write(pipe, b"-" + message.encode())
        raise


def _detach(folder: str, name: str, pipe: int) -> None:
    log = os.open(os.path.join(folder, name + ".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    # The caller's own objects may lead to files that are closed below.
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    close_inherited(pipe)
    os.set_inheritable(pipe, False)
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with open("/proc/self/comm", "wb") as comm:
        comm.write(name.encode()[:15])


def _write_own_record(folder: str, name: str) -> None:
    record = DaemonRecord.of(os.getpid())
    if record is None:
        raise DaemonError("/proc does not show this process; mount it.")
    write_record(folder, name, record)


def write_record(folder: str, name: str, record: DaemonRecord) -> None:
    """Leave the record of a process in ``folder`` for read_record, whole or not at all."""
    path = os.path.join(folder, name + ".json")
    replace_file(path, json.dumps(asdict(record)))


def _wait_ready(folder: str, name: str, pipe: int, timeout_s: float) -> DaemonRecord:
    deadline = time.monotonic() + timeout_s
    told = b""
    while True:  # until the pipe's end, so that the daemon holds nothing of ours when we return
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            late = read_record(folder, name)
            if late is not None:
                terminate(late, 0.5)
            raise DaemonError(f"{name}: the process was not ready within {timeout_s:g} s; see {folder}/{name}.log.")
        part = os.read(pipe, 4096)
        if not part:
            break
        told += part
    if not told.startswith(b"+"):
        reason = told[1:].decode(errors="replace")
        raise DaemonError(reason or f"{name}: the process ended at once; see {folder}/{name}.log.")
    record = read_record(folder, name)
    if record is None:
        raise DaemonError(f"{name}: the process left no record in {folder}.")
    return record


def _start_ticks(pid: int) -> Optional[int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            # The name stands in parentheses and may hold anything, so count from its end.
            fields = stream.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    """The number that the kernel gave to its last boot. :raises OSError: there is no /proc."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


@contextlib.contextmanager
def _handle(record: DaemonRecord) -> Iterator[Callable[[int], None]]:
    """A function that signals the process that now has this pid, and no later one (pidfd_open(2), Linux 5.3)."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except (AttributeError, OSError):  # an old kernel or a Python built on one, or there is no process with this pid

        def send_checked(number: int) -> None:
            if is_alive(record):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(record.pid, number)

        yield send_checked
        return

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    try:
        yield send
    finally:
        os.close(pidfd)


def wait_gone(record: DaemonRecord, timeout_s: float) -> bool:
    """Wait until this process has ended; return whether it has."""
    deadline = time.monotonic() + timeout_s
    while is_alive(record):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)  # there is no descriptor to wait on for a process that is not our child on old kernels
    return True
