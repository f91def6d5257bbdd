# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Daemons: started, known, ended; and never another process in their place."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import (
    DaemonError,
    DaemonRecord,
    Ready,
    daemonize,
    is_alive,
    read_record,
    terminate,
)


def wait_for_signal(ready: Ready) -> None:
    ready()
    signal.pause()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonRecord]:
    record = daemonize(str(tmp_path), "sm-test", wait_for_signal)
    yield record
    terminate(record)


def test_it_is_known_detached_and_named(daemon: DaemonRecord, tmp_path: Path) -> None:
    assert is_alive(daemon)
    assert read_record(str(tmp_path), "sm-test") == daemon
    process = Path(f"/proc/{daemon.pid}")
    assert process.joinpath("comm").read_text().strip() == "sm-test"
    assert os.getsid(daemon.pid) != os.getsid(0)
    assert os.readlink(process / "cwd") == "/"
    assert os.readlink(process / "fd/0") == os.devnull
    assert os.readlink(process / "fd/1") == os.devnull
    # Nothing of ours stays open; 3 and up are gone, the pipe included.
    assert sorted(int(name) for name in os.listdir(process / "fd")) == [0, 1, 2]


def test_its_files_are_private(daemon: DaemonRecord, tmp_path: Path) -> None:
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in ("sm-test.json", "sm-test.log")} == {0o600}


def test_terminate_ends_it_once(daemon: DaemonRecord) -> None:
    assert terminate(daemon)
    assert not is_alive(daemon)
    assert not terminate(daemon)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    def stubborn(ready: Ready) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_signal(ready)

    record = daemonize(str(tmp_path), "sm-stubborn", stubborn)
    assert terminate(record, timeout_s=0.05)
    assert not is_alive(record)


def test_a_recycled_pid_is_never_signalled(daemon: DaemonRecord) -> None:
    for other in (replace(daemon, start_ticks=daemon.start_ticks - 1), replace(daemon, boot_id="another boot")):
        assert not is_alive(other)
        assert not terminate(other)
    assert is_alive(daemon)


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        record = DaemonRecord.of(child.pid)
        assert record is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet collected
        assert not is_alive(record)


def test_an_error_before_it_is_ready_is_told(tmp_path: Path) -> None:
    def refuse(ready: Ready) -> None:
        raise SplitMirrorError("mounts: / cannot be frozen.")

    with pytest.raises(DaemonError, match=r"^mounts: / cannot be frozen\.$"):
        daemonize(str(tmp_path), "sm-refuse", refuse)


def test_one_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match=r"not ready within 0\.2 s"):
        daemonize(str(tmp_path), "sm-late", lambda ready: signal.pause(), timeout_s=0.2)
    record = read_record(str(tmp_path), "sm-late")
    assert record is not None
    assert not is_alive(record)


@pytest.mark.parametrize(
    "left", ["", "{", "[]", '{"pid": null}', "\0" * 90], ids=["empty", "cut", "list", "null", "zeros"]
)
def test_what_a_power_failure_left_of_a_record_is_none(tmp_path: Path, left: str) -> None:
    (tmp_path / "sm-test.json").write_text(left)
    assert read_record(str(tmp_path), "sm-test") is None


def test_no_record_is_none(tmp_path: Path) -> None:
    assert read_record(str(tmp_path), "sm-test") is None
