# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups that pause after a phase, and such as are killed there."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import Demo, playbook_environment


def wait_for_end(fifo: Path, run: subprocess.Popen[bytes], printed: Path) -> None:
    """Wait until somebody has written to a fifo and closed it; fail when the run ends first, or after three minutes."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        for _second in range(180):
            if poll.poll(1000):
                return
            if run.poll() is not None:
                told = printed.read_text(encoding="utf-8", errors="replace")[-4000:]
                pytest.fail(f"the run ended with {run.returncode} before the phase was over:\n{told}")
        pytest.fail("the phase was not over after three minutes")
    finally:
        os.close(reader)


@contextlib.contextmanager
def paused_after(bench: Demo, phase: str, tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Begin a backup that pauses after a phase until the block is over: a hook tells of the phase, and then waits.

    Afterwards the controller is killed, unless it has come to its end.
    """
    told, waits = tmp_path / "told", tmp_path / "waits"
    os.mkfifo(told)
    os.mkfifo(waits)
    hook = tmp_path / "hook.yml"
    hook.write_text(
        f"- name: Tell\n  ansible.builtin.command:\n    argv: [dd, if=/dev/null, of={told}]\n"
        f"  when: splitmirror_phase == '{phase}'\n"
        f"- name: Wait\n  ansible.builtin.command:\n    argv: [dd, if={waits}, of=/dev/null]\n"
        f"  when: splitmirror_phase == '{phase}'\n",
        encoding="utf-8",
    )
    printed = tmp_path / "printed"
    with (
        open(printed, "wb") as output,
        subprocess.Popen(
            bench.command("backup", *words, splitmirror_after_phase_tasks=str(hook)),
            env=playbook_environment(),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as run,
    ):
        try:
            wait_for_end(told, run, printed)
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    let_go(waits)


def let_go(waits: Path) -> None:
    """Whoever waits reads the end."""
    with open(waits, "rb+", buffering=0):
        pass


def kill_after(bench: Demo, phase: str, tmp_path: Path) -> None:
    """Begin a backup and kill its controller after a phase."""
    with paused_after(bench, phase, tmp_path):
        pass
