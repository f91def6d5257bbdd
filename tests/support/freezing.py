# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Holders, frozen file systems and blocked writers for tests; all of it goes away again, also when a test fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import ask
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import recover
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.blockdev import (
    XFS_MIN_MIB,
    loop_device,
    make_image,
    mounted,
    run,
)

WAIT_S = 20.0
_CLONE_NEWNS = 0x20000  # sched.h


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = WAIT_S) -> None:
    """Wait until ``condition`` holds; fail when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def file_system(
    folder: Path, fs_type: str = "xfs", name: str = "fs", mount_point: Optional[Path] = None
) -> Iterator[Path]:
    """A file system on a loop device of its own, mounted; thawed before it is unmounted, whatever a test did."""
    image = make_image(folder / f"{name}.img", XFS_MIN_MIB if fs_type == "xfs" else 32, fs_type)
    with loop_device(image) as device, mounted(device, mount_point or folder / name) as mount:
        try:
            yield mount
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", mount], check=False, capture_output=True)


def in_own_mounts(body: Callable[[], None]) -> None:
    """Run a part of a test in a process with a mount namespace of its own; it fails when that part does.

    A namespace that somebody else makes meanwhile takes copies of all mounts along. A file system under another one
    could then not be unmounted.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "unshare")
            run("mount", "--make-rslave", "/")
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0, "see the standard error above"


class Writer:
    """A process that makes and syncs one file; it hangs while the file system is frozen."""

    def __init__(self, path: Path) -> None:
        code = "import os, sys; fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.write(fd, b'x'); os.fsync(fd)"
        self._process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, os.fspath(path)])
        self._path = path
        self.pid = self._process.pid

    def wait_blocked(self) -> None:
        """Wait until the kernel has put it to sleep over its write."""
        wait_for(lambda: self._state() == "D", "the writer is blocked")
        assert self._process.poll() is None

    def wait_done(self, limit_s: float = WAIT_S) -> None:
        """Wait until it has written."""
        wait_for(lambda: self._process.poll() is not None, "the write is done", limit_s)
        assert self._process.returncode == 0
        assert self._path.read_bytes() == b"x"

    def _state(self) -> str:
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return "gone"
        return text.rpartition(")")[2].split()[0]


class HolderUnderTest:
    """A holder started the way a module starts it."""

    def __init__(self, state: StateDir, session: str) -> None:
        self.state = state
        self.session = session

    def ask(self, op: str, **args: Any) -> dict[str, Any]:
        """The result of one request."""
        result: dict[str, Any] = ask(self.state, self.session, op, WAIT_S, **args)["result"]
        return result

    def events(self) -> list[str]:
        """Names of all events so far."""
        return [event["name"] for event in ask(self.state, self.session, "ping", WAIT_S)["events"]]

    def record(self, name: str = "holder") -> DaemonRecord:
        """The process record of the ``holder`` or its ``guard``."""
        record = read_record(self.state.session_dir(self.session), name)
        assert record is not None
        return record


@contextlib.contextmanager
def holder(folder: Path, session: str = "s1", **options: Any) -> Iterator[HolderUnderTest]:
    """A running holder; whatever is left of it is ended."""
    state = StateDir(os.fspath(folder / "state"))
    ensure_holder(state, session, **options)
    try:
        yield HolderUnderTest(state, session)
    finally:
        recover(state, session)
