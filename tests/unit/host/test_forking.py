# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forked processes: how they end, whose they are, and what they keep open."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.forking import close_inherited, fork, fork_orphan


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_ends_with_its_life_and_without_the_clean_up_of_its_parent(tmp_path: Path) -> None:
    mark = tmp_path / "cleaned"
    atexit.register(mark.touch)

    def fail() -> None:
        raise ValueError

    try:
        assert exit_code(fork(lambda: None)) == 0
        assert exit_code(fork(fail)) == 1
        assert exit_code(fork(lambda: os._exit(7))) == 7
    finally:
        atexit.unregister(mark.touch)
    assert not mark.exists()


def test_an_orphan_is_in_a_session_of_its_own_and_nobodys_child() -> None:
    read_end, write_end = os.pipe()

    def life() -> None:
        os.write(write_end, f"{os.getpid()} {os.getsid(0)}".encode())

    fork_orphan(life)
    os.close(write_end)
    with open(read_end, encoding="ascii") as stream:
        pid, session = map(int, stream.read().split())
    assert session not in (pid, os.getsid(0))
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_child_keeps_open_what_it_names_and_no_more(tmp_path: Path) -> None:
    kept, closed = (os.open(tmp_path / name, os.O_CREAT) for name in ("kept", "closed"))

    def life() -> None:
        close_inherited(kept)
        os.fstat(kept)
        os.fstat(2)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)

    try:
        assert exit_code(fork(life)) == 0
    finally:
        os.close(kept)
        os.close(closed)
