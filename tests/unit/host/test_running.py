# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that run beside us."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.running import ERROR_BYTES, Running, Silent


@pytest.mark.parametrize("way", ["setsid $0 &", "(setsid $0 &) &"], ids=["a child", "one without a parent"])
@pytest.mark.parametrize("ended", [False, True])
def test_what_has_left_the_session_is_killed_too(tmp_path: Path, way: str, ended: bool) -> None:
    """Its end of the FIFO is open for as long as it lives."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    escaped = tmp_path / "escaped"
    escaped.write_text(f"#!/bin/sh\nexec >{fifo} 2>&1\necho here\nsleep 30\necho survived\n")
    escaped.chmod(0o755)
    program = Running(["sh", "-c", f"{way} {'' if ended else 'sleep 30'}", str(escaped)])
    try:
        with fifo.open() as told:
            assert told.readline() == "here\n"
            if ended:
                assert program.result(time.monotonic() + 60) == 0
            program.kill()
            assert told.read() == ""
    finally:
        program.close()


def test_a_number_that_is_another_processs_by_now_gets_no_signal() -> None:
    program = Running(["true"])
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        program._send({f"/proc/{other.pid}"}, signal.SIGKILL)
        other.communicate()
        assert other.returncode == 0
    finally:
        other.kill()
        program.close()


def test_an_old_kernel_has_no_descriptors_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)
    program = Running(["sh", "-c", "read line"], takes_lines=True)
    try:
        program._send({f"/proc/{program._process.pid}"}, signal.SIGKILL)
        assert program.result(time.monotonic() + 60) == -signal.SIGKILL
    finally:
        program.close()


def test_what_a_program_leaves_when_it_ends_well_may_go_on(tmp_path: Path) -> None:
    came, goes = tmp_path / "came", tmp_path / "goes"
    for fifo in (came, goes):
        os.mkfifo(fifo)
    program = Running(["sh", "-c", f"setsid sh -c 'exec cat <{came} >{goes}' &"])
    assert program.result(time.monotonic() + 60) == 0
    program.close()
    with came.open("w") as stream:
        stream.write("it lives")
    assert goes.read_text() == "it lives"


def test_output_without_an_end_is_not_kept() -> None:
    program = Running(["yes"])
    with pytest.raises(Silent, match="its answer is longer than"):
        program.result(time.monotonic() + 60)
    program.close()


def test_of_errors_the_end_is_kept() -> None:
    program = Running(["sh", "-c", "read line; seq 300000 >&2; echo done; seq 300000 >&2; exit 3"], takes_lines=True)
    assert program.ask(b"begin\n", 60) == b"done"
    assert program.result(time.monotonic() + 60) == 3
    assert len(program.errors) == ERROR_BYTES
    assert program.errors.endswith(b"\n300000\n")
    program.close()


def test_one_that_writes_without_a_pause_is_late_all_the_same() -> None:
    """The kernel's endless device stands for a program that writes faster than we read."""
    program = Running(["sleep", "30"], takes_lines=True)
    with open("/dev/zero", "rb") as endless:
        program._open[endless.fileno()] = program.errors
        with pytest.raises(Silent):
            program.ask(b"split\n", 0.05)
        with pytest.raises(Silent):
            program.result(time.monotonic())
        assert program.is_quiet()
        program.kill()
        program.close()
        program.stop(b"stop\n", 0)


def test_two_that_write_much_do_not_wait_for_one_another(tmp_path: Path) -> None:
    """The first ends when the second has written; nobody reads what that writes meanwhile."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    first = Running(["sh", "-c", f"read line <{fifo}"])
    second = Running(["sh", "-c", f"head -c 200000 /dev/zero >&2; echo done >{fifo}"])
    for program in (first, second):
        assert program.result(time.monotonic() + 60) == 0
        program.close()


def test_one_that_cannot_answer_any_more_has_ended() -> None:
    """A program closes its output a moment before it can be waited for."""
    program = Running(["sh", "-c", "exec >&-; read line; read line"], takes_lines=True)
    with pytest.raises(Silent):
        program.ask(b"split\n", 60)
    assert program.has_ended()
    program.close()
