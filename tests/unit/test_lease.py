# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time for each database host: a living one is never robbed, a dead one is in nobody's way."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.lease import (
    LAPSES_S,
    LeaseError,
    Leases,
    Owner,
    working_for,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, PairState
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.modules import hot_backup, mirror_present, mirror_sync
from ansible_collections.splitmirror.backup.plugins.plugin_utils.controller import is_running, this_run
from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module

FIRST, SECOND, OTHER = (f"20260131T020000Z-{name}" for name in ("db1-0001", "db1-0002", "db2-0001"))
HERE = Owner("here", "root", "boot", "pid:[1]", 1, 1)
ELSEWHERE = replace(HERE, controller="there", boot_id="another boot")


ENDLESS = json.dumps({"session": FIRST, "host": "db1", "since_s": 0, "owner": asdict(HERE)}).encode()
ENDLESS = ENDLESS.replace(b'"pid": 1', b'"pid": 1e999')


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(str(tmp_path / "state"))


def age(state: StateDir, seconds: float) -> None:
    """Let all leases be so much older."""
    for path in Path(state.root, "leases").iterdir():
        before = path.stat().st_mtime
        os.utime(path, (before - seconds, before - seconds))


@contextmanager
def task(state: StateDir, session: str = FIRST) -> Iterator[Callable[[], None]]:
    """A task of a session that works in a process of its own until it is killed."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with working_for(state, session):
                os.write(told, b"+")
                time.sleep(600)
        finally:
            os._exit(1)
    os.close(told)

    def kill() -> None:
        nonlocal child
        if child:
            os.kill(child, 9)
            os.waitpid(child, 0)
            child = 0

    try:
        assert os.read(ready, 1) == b"+"
        yield kill
    finally:
        kill()
        os.close(ready)


@pytest.mark.parametrize(
    ("alive", "old", "busy", "broken", "same"), list(itertools.product((True, False, None), *[(True, False)] * 4))
)
def test_only_a_dead_run_is_robbed(
    state: StateDir, alive: bool | None, *, old: bool, busy: bool, broken: bool, same: bool
) -> None:
    leases = Leases(state)
    assert leases.take("db1", FIRST, ELSEWHERE) is None
    with task(state) as kill:
        if not busy:
            kill()
        if old:
            age(state, LAPSES_S + 60)
        free = broken or (not busy and (same or alive is False or (alive is None and old)))
        asked: dict[str, Any] = {"judged": FIRST, "alive": alive, "break_lease": broken}
        owner = ELSEWHERE if same else HERE
        for dry_run in (True, False):
            if free:
                before = leases.take("db1", SECOND, owner, dry_run=dry_run, **asked)
                assert before is not None
                assert before.session == FIRST
            else:
                with pytest.raises(LeaseError, match=f"{FIRST} of db1 is at work since") as caught:
                    leases.take("db1", SECOND, owner, dry_run=dry_run, **asked)
                assert (caught.value.other.session, caught.value.other.busy) == (FIRST, busy)
            now = leases.find("db1")
            assert now is not None
            assert now.session == (SECOND if free and not dry_run else FIRST)


def test_nobody_is_robbed_unasked(state: StateDir) -> None:
    leases = Leases(state)
    leases.take("db1", FIRST, ELSEWHERE)
    age(state, LAPSES_S + 60)
    for judged in (None, SECOND):
        with pytest.raises(LeaseError):
            leases.take("db1", SECOND, HERE, judged=judged, alive=False)


def test_a_run_that_lost_its_lease_does_nothing_more(state: StateDir) -> None:
    leases = Leases(state)
    leases.take("db1", FIRST, ELSEWHERE)
    with working_for(state, FIRST):
        leases.take("db1", SECOND, HERE, break_lease=True)
    with pytest.raises(LeaseError, match=f"{FIRST} has lost its lease to session {SECOND}"), working_for(state, FIRST):
        pytest.fail("it went on")
    assert not leases.release("db1", FIRST)
    options = {"session": FIRST, "host": "db1", "state": "recovered", "state_dir": state.root}
    assert "has lost its lease" in run_module(hot_backup.main, options)["msg"]
    with working_for(state, SECOND):
        assert not leases.release("db1", FIRST)
    assert leases.release("db1", SECOND)
    assert leases.find("db1") is None
    with working_for(state, FIRST):  # as in plays that take no lease
        pass


def test_who_only_asks_how_the_mirror_could_be_presented_needs_no_lease(state: StateDir) -> None:
    """The role asks in preflight, where the lease may still be that of a run that was killed."""
    Leases(state).take("db1", FIRST, ELSEWHERE)
    pairs = [{"name": "data", "device": "/dev/a", "primary": "/a", "mirror": "/b"}]
    options = {"session": SECOND, "provider": "image", "pairs": pairs, "state_dir": state.root}
    asked = run_module(mirror_present.main, {**options, "state": "checked"})
    assert (asked.get("msg"), asked.get("changed")) == (None, False)
    assert run_module(mirror_present.main, {**options, "state": "withdrawn"})["code"] == "lease_lost"


def test_each_task_is_a_sign_of_life(state: StateDir) -> None:
    leases = Leases(state)
    leases.take("db1", FIRST, ELSEWHERE)
    for session in (FIRST, None):
        age(state, LAPSES_S + 60)
        with leases.at_work("db1", session):
            pass
        with pytest.raises(LeaseError):
            leases.take("db1", SECOND, HERE, judged=FIRST)


def test_hosts_do_not_wait_for_each_other(state: StateDir) -> None:
    leases = Leases(state)
    leases.take("db1", FIRST, HERE)
    leases.take("db2", OTHER, ELSEWHERE)
    assert {lease.session for host in ("db1", "db2") if (lease := leases.find(host))} == {FIRST, OTHER}


def test_looking_makes_nothing(state: StateDir) -> None:
    leases = Leases(state)
    assert leases.take("db1", FIRST, HERE, dry_run=True) is None
    assert not leases.release("db1", FIRST)
    assert leases.find("db1") is None
    assert not os.path.exists(state.root)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b'{"session": "x"}', b"\xff", ENDLESS])
def test_what_a_power_failure_made_of_a_lease_is_none(state: StateDir, content: bytes) -> None:
    leases = Leases(state)
    leases.take("db1", FIRST, HERE)
    Path(state.root, "leases/db1.json").write_bytes(content)
    assert leases.find("db1") is None
    with working_for(state, FIRST):
        pass
    assert leases.take("db1", SECOND, HERE) is None


def test_whether_a_run_lives_is_known_where_it_was_begun() -> None:
    owner = this_run()
    assert is_running(owner) is True
    assert is_running(replace(owner, boot_id="another")) is None
    assert is_running(replace(owner, pid_namespace="another")) is None
    assert is_running(replace(owner, boot_id="")) is None
    assert is_running(replace(owner, start_ticks=owner.start_ticks + 1)) is False
    assert is_running(replace(owner, pid=1 << 70)) is False
    with subprocess.Popen(["sleep", "600"]) as run:
        record = DaemonRecord.of(run.pid)
        assert record is not None
        of_it = replace(owner, pid=run.pid, start_ticks=record.start_ticks)
        assert is_running(of_it) is True
        run.kill()
        while is_running(of_it):  # its end takes a moment
            time.sleep(0.001)
    assert is_running(of_it) is False


def test_a_session_of_another_name_is_not_touched() -> None:
    states = [PairState("data", "p", "m", 1, True, 100.0, "split", OTHER, (), (), 0.0, "it is split")]
    with pytest.raises(MirrorError, match=f"session {OTHER}, which does not belong to db1"):
        mirror_sync.refuse_others(states, "db1")
    mirror_sync.refuse_others(states, "db2")


def _play(folder: Path, *, died: bool) -> Owner:
    """What a worker takes for its run, while the process that forked it lives, or after that was killed."""
    told, go = folder / "told", os.pipe()
    fork = multiprocessing.get_context("fork")

    def worker() -> None:
        if died:
            os.read(go[0], 1)  # until the play has died
        told.with_suffix(".new").write_text(json.dumps(asdict(this_run())), encoding="utf-8")
        told.with_suffix(".new").rename(told)

    play = os.fork()
    if play == 0:
        process = fork.Process(target=worker)
        process.start()
        if not died:
            process.join()
        os._exit(0)
    os.waitpid(play, 0)
    os.write(go[1], b"+")
    while not told.exists():
        time.sleep(0.001)
    for end in go:
        os.close(end)
    return Owner.of(json.loads(told.read_text(encoding="utf-8")))


@pytest.mark.parametrize("died", [False, True])
def test_a_worker_that_outlives_its_play_takes_no_lease_for_ever(tmp_path: Path, *, died: bool) -> None:
    owner = _play(tmp_path, died=died)
    assert is_running(owner) is False  # and not init, which lives for ever
    leases = Leases(StateDir(str(tmp_path / "state")))
    leases.take("db1", FIRST, owner)
    leases.take("db1", SECOND, this_run(), judged=FIRST, alive=is_running(owner))


LEASE_PLAY = """
- hosts: db1
  gather_facts: false
  vars:
    splitmirror_session: %s
    splitmirror_first_lease: {}
    splitmirror_lease: {}
    splitmirror_sets: [{title: array1, array: array1, array_state_dir: "{{ hostvars.array1.splitmirror_state_dir }}"}]
  module_defaults:
    splitmirror.backup.session_lease: {session: "{{ splitmirror_session }}", host: db1}
  tasks:
    - ansible.builtin.include_role: {name: splitmirror.backup.mirrored_backup, tasks_from: take_lease}
"""


@pytest.mark.slow
@pytest.mark.parametrize("held", ["db1", "array1"])
def test_of_two_runs_at_the_same_moment_the_second_takes_nothing(tmp_path: Path, held: str) -> None:
    inventory = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "splitmirror_array": "array1",
                "splitmirror_media_server": "media1",
            },
            "hosts": {name: {"splitmirror_state_dir": str(tmp_path / name)} for name in ("db1", "array1", "media1")},
        }
    }
    (tmp_path / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    (tmp_path / "play.yml").write_text(LEASE_PLAY % SECOND, encoding="utf-8")
    Leases(StateDir(str(tmp_path / held))).take("db1", FIRST, this_run())
    done = run_playbook(playbook_command(tmp_path / "hosts.json", tmp_path / "play.yml"), tmp_path)
    assert done.returncode != 0
    assert f"session {FIRST} of db1 is at work since" in done.stdout
    found = {name: Leases(StateDir(str(tmp_path / name))).find("db1") for name in ("db1", "array1", "media1")}
    sessions = {name: lease.session if lease else None for name, lease in found.items()}
    # Where the database host was free, this run was the first one, and nobody else gets on before it has ended.
    assert sessions == {**dict.fromkeys(sessions, None if held == "db1" else SECOND), held: FIRST}
