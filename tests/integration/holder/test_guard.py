# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No freeze outlives its deadline, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.daemon import DaemonRecord, is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.lineserver import CLIENT_SOURCE, Refused
from ansible_collections.splitmirror.backup.tests.support.freezing import (
    HolderUnderTest,
    Writer,
    file_system,
    holder,
    in_own_mounts,
    wait_for,
)

pytestmark = pytest.mark.root
SHORT_S = 2.0
FAR_S = 600.0


@pytest.fixture(params=["xfs", "ext4"])
def mount(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Path]:
    with file_system(scratch, request.param) as folder:
        yield folder


@pytest.fixture
def ext4(scratch: Path) -> Iterator[Path]:
    with file_system(scratch, "ext4") as folder:
        yield folder


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HolderUnderTest]:
    with holder(tmp_path) as running:
        yield running


def frozen_writer(held: HolderUnderTest, mount: Path, deadline_s: float) -> Writer:
    """Freeze, and have a writer hang on it."""
    held.ask("freeze", mounts=[str(mount)], deadline_s=deadline_s)
    writer = Writer(mount / "file")
    writer.wait_blocked()
    return writer


def test_the_holder_is_killed(mount: Path, held: HolderUnderTest) -> None:
    writer = frozen_writer(held, mount, FAR_S)

    os.kill(held.record().pid, signal.SIGKILL)

    writer.wait_done()


def test_the_holder_is_stopped_so_that_it_answers_nobody(mount: Path, held: HolderUnderTest) -> None:
    writer = frozen_writer(held, mount, SHORT_S)
    record = held.record()

    os.kill(record.pid, signal.SIGSTOP)

    writer.wait_done()
    wait_for(lambda: not is_alive(record), "the stuck holder is killed, with all that it held")


def test_the_guard_is_killed(mount: Path, held: HolderUnderTest) -> None:
    writer = frozen_writer(held, mount, FAR_S)

    os.kill(held.record("guard").pid, signal.SIGKILL)

    writer.wait_done()
    result = held.ask("check_thaw")
    assert not result["intact"]
    assert "guard_thaw" in held.events()


def test_the_guard_is_stopped_so_that_it_guards_nothing(mount: Path, held: HolderUnderTest) -> None:
    writer = frozen_writer(held, mount, SHORT_S)

    os.kill(held.record("guard").pid, signal.SIGSTOP)

    writer.wait_done()
    assert not held.ask("status")["frozen"]
    assert not is_alive(held.record("guard"))


def test_the_client_vanishes(mount: Path, held: HolderUnderTest) -> None:
    line = json.dumps({"op": "freeze", "args": {"mounts": [str(mount)], "deadline_s": SHORT_S}})
    socket_path = held.state.session_file(held.session, "holder.sock")
    # The controller's client as the window starts it; nothing comes after it.
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", CLIENT_SOURCE, socket_path, line], check=True, capture_output=True
    )
    writer = Writer(mount / "file")

    writer.wait_done()

    result = held.ask("check_thaw")
    assert not result["intact"]
    assert not result["check"]["complete"]
    assert "deadline_thaw" in result["error"]
    assert held.events()[-2:] == ["deadline_thaw", "thaw_acknowledged"]


def test_the_holder_is_told_to_end(ext4: Path, held: HolderUnderTest) -> None:
    writer = frozen_writer(held, ext4, FAR_S)

    os.kill(held.record().pid, signal.SIGTERM)

    writer.wait_done()
    wait_for(lambda: not is_alive(held.record("guard")), "the guard ends with its holder")


def test_everybody_who_may_be_told_to_end_is(ext4: Path, held: HolderUnderTest) -> None:
    """A service manager ends all processes of a session at once."""
    writer = frozen_writer(held, ext4, FAR_S)

    os.kill(held.record("guard").pid, signal.SIGTERM)
    os.kill(held.record().pid, signal.SIGTERM)

    writer.wait_done()


def test_a_lifetime_over_ends_the_freeze_and_the_holder(tmp_path: Path, ext4: Path) -> None:
    with holder(tmp_path, lifetime_s=SHORT_S) as held:
        record = held.record()
        held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)

        Writer(ext4 / "file").wait_done()

        wait_for(lambda: not is_alive(record), "the holder ends")


def test_a_dead_guard_means_no_freeze(ext4: Path, held: HolderUnderTest) -> None:
    os.kill(held.record("guard").pid, signal.SIGKILL)

    with pytest.raises(Refused, match="guard of the holder is gone"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)

    Writer(ext4 / "file").wait_done()


def test_a_stuck_holder_lets_go_of_a_database_too(ext4: Path, held: HolderUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (n)")
    made.close()
    held.ask("begin", databases=[{"name": "d", "driver": "sqlite", "options": {"path": str(path)}}])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
    other = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")

    os.kill(held.record().pid, signal.SIGSTOP)

    other.execute("PRAGMA busy_timeout = 20000")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")
    other.execute("COMMIT")
    other.close()


def test_a_stuck_holder_does_not_keep_a_thaw_command_from_running(
    ext4: Path, held: HolderUnderTest, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    options = {"freeze": ["/usr/bin/touch", str(marks / "frozen")], "thaw": ["/usr/bin/touch", str(marks / "thawed")]}
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "options": options}])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
    assert (marks / "frozen").exists()

    os.kill(held.record().pid, signal.SIGSTOP)

    wait_for((marks / "thawed").exists, "the guard has run the thaw command")


def test_a_freeze_that_never_returns_is_undone(scratch: Path) -> None:
    """The second freeze waits in the kernel for the thaw of the first, and its own thaw waits for it."""
    code = """
import os, sys, time
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.guard import Guard
guard = Guard.start()
print(guard.pid, flush=True)
fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in sys.argv[1:]]
guard.arm(time.monotonic() + 2, fds, [])
for index, fd in enumerate(fds):
    guard.mark(index, True)
    freeze.freeze(fd, "it")
print("never said")
"""

    def body() -> None:
        with file_system(scratch, "ext4", "lower") as lower, file_system(lower, "ext4", "upper") as upper:
            environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
            victim = subprocess.Popen(
                [sys.executable, "-c", code, lower, upper], stdout=subprocess.PIPE, env=environment
            )
            try:
                writer = Writer(lower / "file")
                assert victim.wait(20) == -signal.SIGKILL
                assert victim.stdout is not None
                guard, said = victim.stdout.read().decode().split("\n")
                assert said == ""
                writer.wait_done()
                Writer(upper / "file").wait_done()
                wait_for(lambda: DaemonRecord.of(int(guard)) is None, "the guard lets go")
            finally:
                victim.kill()

    in_own_mounts(body)


def test_a_thaw_returns_at_the_deadline_and_not_before(ext4: Path, held: HolderUnderTest) -> None:
    started = time.monotonic()
    writer = frozen_writer(held, ext4, SHORT_S)
    os.kill(held.record().pid, signal.SIGSTOP)
    writer.wait_done()
    assert time.monotonic() - started >= SHORT_S
