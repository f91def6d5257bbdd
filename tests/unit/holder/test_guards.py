# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guard and backstop where a freeze is not begun, and where the host has nothing left to give."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import ThawCommand
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.rescue import Armed, rescue
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.tests.support.freezing import HolderUnderTest, holder, wait_for

pytestmark = pytest.mark.root
FAR_S = 600.0
QUIET = {"freeze": ["/bin/true"], "thaw": ["/bin/true"]}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HolderUnderTest]:
    with holder(tmp_path) as running:
        yield running


def test_a_guard_does_not_stay_armed_for_a_freeze_that_was_not_begun(tmp_path: Path, held: HolderUnderTest) -> None:
    """At the deadline it would kill the holder, and thaw what somebody else has frozen."""
    thawed = tmp_path / "thawed"
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/touch", str(thawed)]}
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": options}])
    backstop, guard = held.record("backstop"), held.record("guard")
    os.kill(backstop.pid, signal.SIGKILL)
    wait_for(lambda: held.ask("status")["backstop_pid"] is None, "the holder knows it")

    with pytest.raises(Refused, match="the backstop of the holder is gone, so nothing is frozen"):
        held.ask("freeze", mounts=[], deadline_s=FAR_S)

    os.kill(held.record().pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(guard), "the guard has ended, whatever it had to do before")
    assert not thawed.exists()


def test_a_record_that_cannot_be_removed_breaks_no_window(tmp_path: Path, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[{"name": "d", "driver": "commands", "commands": QUIET}])
    held.ask("freeze", mounts=[], deadline_s=FAR_S)
    record = Path(held.state.session_file(held.session, "frozen.json"))
    record.unlink()
    record.mkdir()
    try:
        assert held.ask("thaw")["intact"]
    finally:
        record.rmdir()
    assert held.events()[-2:] == ["thaw_sent", "thaw_acknowledged"]


def test_everything_is_thawed_where_no_thread_can_be_started(tmp_path: Path) -> None:
    """A host whose writes stand still may run out of processes, and of memory."""
    thawed = tmp_path / "thawed"
    fd = os.open(tmp_path, os.O_RDONLY)
    # Nothing is frozen here; that is what the kernel has to say in the end.
    armed = Armed(0.0, [fd], [ThawCommand("d", ("/bin/touch", str(thawed)), 5.0)], {0})
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            threading.stack_size(256 << 20)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + (64 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            with pytest.raises(RuntimeError):
                threading.Thread(target=lambda: None).start()
            rescue(armed, DaemonRecord(os.getpid(), 0, "of an earlier boot"))
            code = 0
        finally:
            os._exit(code)
    os.close(fd)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0
    assert thawed.exists()
