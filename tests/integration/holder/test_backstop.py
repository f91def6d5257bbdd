# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The third process of a freeze: outside of whatever ends or stops the two others together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.rescue import Armed, rescue
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.standby import Station
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.freezing import (
    HolderUnderTest,
    Writer,
    holder,
    wait_for,
)

pytestmark = pytest.mark.root
SHORT_S = 2.0
FAR_S = 600.0


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 2, which can be frozen and killed."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _dash, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            made = Path(before.split()[4], f"splitmirror-test-{os.getpid()}")
            break
    else:
        pytest.skip("no control groups of version 2 here")
    try:
        made.mkdir()
    except OSError as exc:
        pytest.skip(f"control groups are not ours to make here ({exc.strerror})")
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):
            (made / "cgroup.kill").write_text("1")
        (made / "cgroup.freeze").write_text("0")
        wait_for(lambda: "populated 0" in (made / "cgroup.events").read_text(), "the group is empty")
        made.rmdir()


@pytest.fixture
def grouped(tmp_path: Path, group: Path) -> Iterator[HolderUnderTest]:
    """A holder that was started by a process of the group, as a login session's processes are."""
    state = StateDir(str(tmp_path / "state"))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            (group / "cgroup.procs").write_text("0")
            ensure_holder(state, "s1")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    with holder(tmp_path) as running:  # it is there already
        yield running


def stop_both(held: HolderUnderTest) -> None:
    for side in ("guard", "holder"):
        os.kill(held.record(side).pid, signal.SIGSTOP)


def kill_both(held: HolderUnderTest) -> None:
    for side in ("guard", "holder"):
        os.kill(held.record(side).pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [stop_both, kill_both])
def test_holder_and_guard_fail_together(
    ext4: Path, held: HolderUnderTest, end: Callable[[HolderUnderTest], None]
) -> None:
    held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
    writer = Writer(ext4 / "file")
    writer.wait_blocked()
    records = [held.record(side) for side in ("holder", "guard", "backstop")]

    end(held)

    writer.wait_done()
    wait_for(lambda: not any(map(is_alive, records)), "all of them have ended")


@pytest.mark.parametrize(("knob", "deadline_s"), [("cgroup.freeze", SHORT_S), ("cgroup.kill", FAR_S)])
def test_the_whole_group_of_holder_and_guard_is_frozen_or_killed(
    ext4: Path, grouped: HolderUnderTest, group: Path, knob: str, deadline_s: float
) -> None:
    members = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    assert {grouped.record("holder").pid, grouped.record("guard").pid} == members
    grouped.ask("freeze", mounts=[str(ext4)], deadline_s=deadline_s)
    writer = Writer(ext4 / "file")
    writer.wait_blocked()

    (group / knob).write_text("1")

    writer.wait_done()


def test_a_database_is_thawed_by_the_backstop_and_only_once(held: HolderUnderTest, tmp_path: Path) -> None:
    thaws = tmp_path / "thaws"
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/sh", "-c", 'echo done >> "$1"', "thaw", str(thaws)]}
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": options}])
    held.ask("freeze", mounts=[], deadline_s=SHORT_S)
    backstop = held.record("backstop")

    stop_both(held)

    wait_for(lambda: not is_alive(backstop), "it is done")
    assert thaws.read_text() == "done\n"


def test_a_guard_that_thaws_is_left_to_it(held: HolderUnderTest, tmp_path: Path) -> None:
    """Its thaw command may take longer than the backstop's patience."""
    thaws, gate = tmp_path / "thaws", tmp_path / "gate"
    os.mkfifo(gate)
    code = 'read line < "$1"; echo done >> "$2"'
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/sh", "-c", code, "thaw", str(gate), str(thaws)]}
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": options}])
    held.ask("freeze", mounts=[], deadline_s=SHORT_S)
    over = time.monotonic() + 2 * SHORT_S
    backstop = held.record("backstop")

    os.kill(held.record().pid, signal.SIGSTOP)

    wait_for(lambda: time.monotonic() > over, "the backstop's time has come and gone")
    subprocess.run(["/bin/sh", "-c", 'echo go > "$1"', "go", gate], check=True)
    wait_for(lambda: not is_alive(backstop), "it is done")
    assert thaws.read_text() == "done\n"


def test_what_somebody_freezes_after_the_guard_has_thawed_is_left_alone(
    tmp_path: Path, ext4: Path, held: HolderUnderTest
) -> None:
    """A database keeps the guard busy until the time of the backstop has come."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/sh", "-c", 'read line < "$1"', "thaw", str(gate)]}
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": options}])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=SHORT_S)
    over = time.monotonic() + 2 * SHORT_S
    writer = Writer(ext4 / "file")
    writer.wait_blocked()
    backstop, guards_files = held.record("backstop"), Path(f"/proc/{held.record('guard').pid}/fd")

    os.kill(held.record().pid, signal.SIGKILL)

    writer.wait_done()
    wait_for(lambda: all(file.resolve() != ext4 for file in guards_files.iterdir()), "the guard lets go of it")
    fd = os.open(ext4, os.O_RDONLY)
    try:
        freeze.freeze(fd, "somebody else's")
        wait_for(lambda: time.monotonic() > over, "the backstop's time has come and gone")
        subprocess.run(["/bin/sh", "-c", 'echo go > "$1"', "go", gate], check=True)
        wait_for(lambda: not is_alive(backstop), "it is done")
        assert freeze.thaw(fd)
    finally:
        os.close(fd)


def test_a_lost_backstop_ends_the_window(ext4: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
    writer = Writer(ext4 / "file")
    writer.wait_blocked()

    os.kill(held.record("backstop").pid, signal.SIGKILL)

    writer.wait_done()
    assert not held.ask("check_thaw")["intact"]
    with pytest.raises(Refused, match="the backstop of the holder is gone, so nothing is frozen"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)


def test_the_end_of_a_holder_that_has_not_read_its_answer_is_its_end() -> None:
    """The kernel says ECONNRESET then, and not end of file."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b"never read")
        theirs.close()
        assert not Station(ours).take()


def test_what_hangs_in_the_kernel_is_named(ext4: Path, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that is killed and does not end holds the thaw up; whoever looks for the reason finds it in the log."""
    with holder(scratch) as held:
        held.ask("freeze", mounts=[str(ext4)], deadline_s=FAR_S)
        writer = Writer(ext4 / "file")
        writer.wait_blocked()
        record = DaemonRecord.of(writer.pid)
        assert record is not None
        # The writer stands for a holder in the midst of a freeze that cannot come to its end.
        pid = os.fork()
        if pid == 0:
            try:
                rescue(Armed(0.0, [], []), record)
            finally:
                os._exit(0)
        said = ""

        def is_told() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return f"{writer.pid} (" in said

        wait_for(is_told, "it is named")
        held.ask("thaw")
        os.waitpid(pid, 0)
