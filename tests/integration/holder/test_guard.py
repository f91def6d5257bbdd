# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No freeze outlives its deadline, whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import protocol, quiesce, recovery
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import recover
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import (
    CLIENT_SOURCE,
    LineError,
    Refused,
)
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
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


def frozen_writer(held: HolderUnderTest, mount: Path, deadline_s: float) -> Writer:
    """Freeze, and have a writer hang on it."""
    held.ask("freeze", mounts=[str(mount)], deadline_s=deadline_s)
    writer = Writer(mount / "file")
    writer.wait_blocked()
    return writer


class ThawScript:
    """A thaw command of databases; it fails while they are held, and writes down whom it was asked to thaw."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._held, self._tried, self._thawed = folder / "held", folder / "tried", folder / "thawed"
        self._tried.touch()
        self._thawed.touch()

    def database(self, name: str) -> dict[str, Any]:
        """The description of a database that is frozen by nothing and thawed by this."""
        code = 'echo "$SPLITMIRROR_DATABASE" >> "$1"; test ! -e "$2" && echo "$SPLITMIRROR_DATABASE" >> "$3"'
        thaw = ["/bin/sh", "-c", code, "thaw", str(self._tried), str(self._held), str(self._thawed)]
        return {"name": name, "driver": "commands", "commands": {"freeze": ["/bin/true"], "thaw": thaw}}

    def hold(self) -> None:
        """Let it fail from now on."""
        self._held.touch()

    def let_go(self) -> None:
        """Let it succeed from now on."""
        self._held.unlink(missing_ok=True)

    @property
    def tried(self) -> list[str]:
        """Whom it was asked to thaw."""
        return self._tried.read_text().split()

    @property
    def thawed(self) -> list[str]:
        """Whom it has thawed."""
        return self._thawed.read_text().split()


class Gate:
    """A command that waits here until it is let through, or killed."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._fd: Optional[int] = None

    @property
    def command(self) -> list[str]:
        """The command."""
        return ["/bin/sh", "-c", 'read line < "$1"', "command", str(self._path)]

    def has_come(self) -> bool:
        """Whether it waits."""
        with contextlib.suppress(OSError):  # nobody reads
            self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        return self._fd is not None

    def is_dead(self) -> bool:
        """Whether it waits no more, though nobody let it through."""
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let it through."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


@contextlib.contextmanager
def asking(held: HolderUnderTest, op: str, **args: Any) -> Iterator[None]:
    """Ask something that the holder does not live to answer."""

    def ask() -> None:
        with contextlib.suppress(LineError):
            held.ask(op, **args)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    thread.join()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ThawScript]:
    made = ThawScript(tmp_path / "script")
    yield made
    made.let_go()


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


def sleeps_in_poll(pid: int) -> bool:
    """Whether a client has asked, and waits."""
    with contextlib.suppress(FileNotFoundError):
        return "poll" in Path(f"/proc/{pid}/wchan").read_text()
    return False


def dying_client(held: HolderUnderTest, **args: Any) -> subprocess.Popen[bytes]:
    """A client that asks for a freeze, for the test to kill."""
    line = json.dumps({"op": "freeze", "args": args})
    socket_path = held.state.session_file(held.session, "holder.sock")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CLIENT_SOURCE, socket_path, line], stdout=subprocess.DEVNULL
    )


def test_a_freeze_whose_client_died_in_the_queue_never_comes(ext4: Path, held: HolderUnderTest, gate: Gate) -> None:
    begin = ["/bin/sh", "-c", '"$@"; exit 0', "begin", *gate.command]
    options = {"begin": begin, "end": ["/bin/true"]}
    with asking(held, "begin", databases=[{"name": "d", "driver": "commands", "commands": options}]):
        wait_for(gate.has_come, "the holder is busy")
        client = dying_client(held, mounts=[str(ext4)], deadline_s=FAR_S)
        wait_for(lambda: sleeps_in_poll(client.pid), "the client waits for its answer")
        client.kill()
        client.wait()
        gate.close()

    assert held.ask("status")["hot_backup"]
    assert "freeze_sent" not in held.events()


def test_a_freeze_whose_client_dies_in_the_midst_of_it_ends(ext4: Path, held: HolderUnderTest, gate: Gate) -> None:
    freeze = ["/bin/sh", "-c", '"$@"; exit 0', "freeze", *gate.command]
    database = {"name": "d", "driver": "commands", "commands": {"freeze": freeze, "thaw": ["/bin/true"]}}
    held.ask("begin", databases=[database])
    client = dying_client(held, mounts=[str(ext4)], deadline_s=FAR_S)
    wait_for(gate.has_come, "the database is being frozen")
    client.kill()
    client.wait()
    gate.close()

    Writer(ext4 / "file").wait_done()
    assert not held.ask("status")["frozen"]
    assert held.events()[-2:] == ["orphan_thaw", "thaw_acknowledged"]


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
    held.ask("begin", databases=[{"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}}])
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
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": options}])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
    assert (marks / "frozen").exists()

    os.kill(held.record().pid, signal.SIGSTOP)

    wait_for((marks / "thawed").exists, "the guard has run the thaw command")


def test_a_holder_that_is_busy_is_not_ended_by_a_question(
    held: HolderUnderTest, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"begin": ["/bin/true"], "end": ["/bin/true"], "ping": gate.command}
    databases = [{"name": "d", "driver": "commands", "commands": options}]
    held.ask("begin", databases=databases)
    monkeypatch.setattr(protocol, "BUSY_S", 0.1)
    with asking(held, "freeze", mounts=[], deadline_s=FAR_S):
        wait_for(gate.has_come, "the database is asked whether it is there")

        for question in (
            lambda: quiesce.databases_of(held.state, held.session),
            lambda: quiesce.frozen_mounts(held.state, held.session),
            lambda: quiesce.thaw(held.state, held.session, []),
            lambda: quiesce.begin(held.state, held.session, databases, []),
            lambda: ensure_holder(held.state, held.session),
        ):
            with pytest.raises(protocol.NoAnswer, match=r"has not answered for 0\.1 s"):
                question()

        assert is_alive(held.record())
        gate.close()
    assert held.ask("status")["hot_backup"]


def test_a_thaw_does_not_wait_for_a_stuck_holder(
    ext4: Path, held: HolderUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiesce, "STUCK_S", 0.1)
    monkeypatch.setattr(recovery, "ANSWER_S", 0.1)
    writer = frozen_writer(held, ext4, FAR_S)
    os.kill(held.record().pid, signal.SIGSTOP)

    assert quiesce.thaw(held.state, held.session, []).mounts == [str(ext4)]

    writer.wait_done()


@pytest.mark.parametrize(
    ("death", "wrapper"),
    [
        ((signal.SIGKILL, FAR_S), []),
        ((signal.SIGKILL, FAR_S), ["/bin/sh", "-c", '"$@"; exit 0', "wrapper"]),
        ((signal.SIGSTOP, SHORT_S), []),
    ],
)
def test_a_freeze_command_does_not_outlive_a_dead_or_stuck_holder(
    held: HolderUnderTest, script: ThawScript, gate: Gate, death: tuple[int, float], wrapper: list[str]
) -> None:
    number, deadline_s = death
    database = script.database("d")
    database["commands"]["freeze"] = [*wrapper, *gate.command]
    held.ask("begin", databases=[database])
    with asking(held, "freeze", mounts=[], deadline_s=deadline_s):
        wait_for(gate.has_come, "the database is being frozen")

        os.kill(held.record().pid, number)

        wait_for(lambda: script.thawed == ["d"], "the guard has run the thaw command")
        assert gate.is_dead()


def test_a_begin_command_does_not_outlive_the_holder(held: HolderUnderTest, gate: Gate) -> None:
    options = {"begin": gate.command, "end": ["/bin/true"]}
    with asking(held, "begin", databases=[{"name": "d", "driver": "commands", "commands": options}]):
        wait_for(gate.has_come, "hot backup begins")

        os.kill(held.record().pid, signal.SIGKILL)

        wait_for(gate.is_dead, "the command is gone")


def test_the_guard_tells_a_thaw_command_which_database(held: HolderUnderTest, script: ThawScript) -> None:
    held.ask("begin", databases=[script.database("first"), script.database("second")])
    held.ask("freeze", mounts=[], deadline_s=FAR_S)

    os.kill(held.record().pid, signal.SIGKILL)

    wait_for(lambda: not is_alive(held.record("guard")), "the guard is done")
    assert script.thawed == ["second", "first"]


def test_the_guard_repeats_a_thaw_command_that_fails_and_lets_nothing_wait_for_it(
    ext4: Path, held: HolderUnderTest, script: ThawScript
) -> None:
    held.ask("begin", databases=[script.database("d")])
    writer = frozen_writer(held, ext4, FAR_S)
    script.hold()

    os.kill(held.record().pid, signal.SIGKILL)

    writer.wait_done()
    wait_for(lambda: len(script.tried) > 1, "the guard tries again")
    guard = held.record("guard")
    fds = f"/proc/{guard.pid}/fd"
    wait_for(
        lambda: str(ext4) not in [os.path.realpath(f"{fds}/{fd}") for fd in os.listdir(fds)],
        "it has let go of the file system",
    )
    script.let_go()
    wait_for(lambda: not is_alive(guard), "the guard is done")
    assert script.thawed == ["d"]


def test_the_guard_gives_up_at_last_and_tells(
    tmp_path: Path, script: ThawScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.module_utils.holder.rescue.COMMANDS_S", 0.1)
    with holder(tmp_path) as held:
        held.ask("begin", databases=[script.database("d")])
        held.ask("freeze", mounts=[], deadline_s=FAR_S)
        script.hold()

        os.kill(held.record().pid, signal.SIGKILL)

        wait_for(lambda: not is_alive(held.record("guard")), "the guard ends")
        assert script.thawed == []
        assert os.stat(held.state.session_file(held.session, "holder.log")).st_size > 0


def test_recovery_leaves_the_guard_time_for_a_thaw_command_that_fails(
    ext4: Path, held: HolderUnderTest, script: ThawScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery.GUARD_S", 0.01)
    held.ask("begin", databases=[script.database("d")])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
    script.hold()
    os.kill(held.record().pid, signal.SIGKILL)
    guard = held.record("guard")

    def let_go() -> None:
        wait_for(lambda: len(script.tried) > 3, "the guard goes on trying")
        script.let_go()

    letting_go = threading.Thread(target=let_go)
    letting_go.start()
    recover(held.state, held.session)
    letting_go.join()

    assert not is_alive(guard)
    assert script.thawed == ["d"]


def test_a_database_that_cannot_be_thawed_stays_guarded(
    tmp_path: Path, ext4: Path, script: ThawScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.module_utils.holder.window.COMMAND_PAUSE_S", 0)
    with holder(tmp_path) as held:
        held.ask("begin", databases=[script.database("d")])
        held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
        script.hold()
        record, guard = held.record(), held.record("guard")

        assert "the thaw command failed" in held.ask("thaw")["error"]

        Writer(ext4 / "file").wait_done()
        wait_for(lambda: not is_alive(record), "the guard takes over at the deadline")
        assert is_alive(guard)
        script.let_go()
        wait_for(lambda: not is_alive(guard), "the guard is done")
        assert "d" in script.thawed  # perhaps twice: a last try of the killed holder outlives it


def test_a_database_that_could_not_be_thawed_can_be_thawed_again(
    ext4: Path, held: HolderUnderTest, script: ThawScript
) -> None:
    held.ask("begin", databases=[script.database("held"), script.database("free")])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
    script.hold()

    failed = held.ask("thaw")

    assert "databases: free: the thaw command failed" in failed["error"]
    assert script.tried == ["free", "held"] * 3
    status = held.ask("status")
    assert status["frozen"]
    assert status["mounts"] == []
    Writer(ext4 / "file").wait_done()
    script.let_go()
    again = held.ask("thaw")
    assert script.thawed == ["free", "held"]
    assert not held.ask("status")["frozen"]
    assert not again["intact"]
    assert again["error"] == failed["error"]
    held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
    assert held.ask("thaw")["intact"]


def test_what_is_thawed_is_not_thawed_again_with_a_database_that_is_not(
    ext4: Path, held: HolderUnderTest, script: ThawScript
) -> None:
    held.ask("begin", databases=[script.database("d")])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
    script.hold()
    held.ask("thaw")
    run("fsfreeze", "--freeze", ext4)  # by somebody else
    script.let_go()

    os.kill(held.record().pid, signal.SIGKILL)

    wait_for(lambda: not is_alive(held.record("guard")), "the guard is done")
    assert script.thawed == ["d"]
    run("fsfreeze", "--unfreeze", ext4)  # it fails when it is not frozen


def test_a_freeze_that_never_returns_is_undone(scratch: Path) -> None:
    """The second freeze waits in the kernel for the thaw of the first, and its own thaw waits for it."""
    code = """
import os, sys, time
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.guard import Guards
guard = Guards.start()
print(*(end.record.pid for end in guard.ends()), flush=True)
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
                guards, said = victim.stdout.read().decode().split("\n")
                assert said == ""
                writer.wait_done()
                Writer(upper / "file").wait_done()
                for guard in map(int, guards.split()):
                    wait_for(lambda: DaemonRecord.of(guard) is None, "the guards let go")  # noqa: B023
            finally:
                victim.kill()

    in_own_mounts(body)


def test_a_thaw_returns_at_the_deadline_and_not_before(ext4: Path, held: HolderUnderTest) -> None:
    started = time.monotonic()
    writer = frozen_writer(held, ext4, SHORT_S)
    os.kill(held.record().pid, signal.SIGSTOP)
    writer.wait_done()
    assert time.monotonic() - started >= SHORT_S * 0.9
