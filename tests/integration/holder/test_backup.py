# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The holder with real databases: sessions that live from begin to end, and what becomes of lost ones."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import quiesce
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import leftovers, recover
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import NotRunning, Refused
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
from ansible_collections.splitmirror.backup.tests.support.freezing import (
    HolderUnderTest,
    Writer,
    holder,
    wait_for,
)
from ansible_collections.splitmirror.backup.tests.support.postgres import Cluster, cluster, passable_folder

pytestmark = pytest.mark.root
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'splitmirror'"
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'splitmirror'"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with passable_folder() as folder, cluster(folder / "data") as running:
        yield running


def test_hot_backup_from_begin_to_end(server: Cluster, held: HolderUnderTest) -> None:
    facts = held.ask("begin", databases=[server.description()])["databases"]
    assert facts["main"]["pgdata"] == str(server.data)
    assert held.ask("status")["databases"] == {"main": "hot_backup"}

    result = held.ask("end")

    assert result["evidence"] == {"required": True, "ended_cleanly": True, "same_session": True, "error": None}
    assert held.events() == ["backup_begun", "backup_ended"]
    assert os.stat(result["extras"]).st_size == result["extras_bytes"]
    assert os.stat(result["extras"]).st_mode & 0o777 == 0o600
    with tarfile.open(result["extras"]) as extras:
        names = extras.getnames()
        label = extras.extractfile(f"{server.data}/backup_label"[1:])
        assert label is not None
        assert f"LABEL: splitmirror {held.session}\n".encode() in label.read()
    assert all(name.startswith(f"{server.data}/"[1:]) for name in names)
    assert result["databases"]["main"]["wal_files"] == len([name for name in names if "/pg_wal/" in name])
    wait_for(lambda: server.sql(SESSIONS) == "0", "the session is closed")


def test_a_host_without_databases_needs_no_hot_backup(held: HolderUnderTest) -> None:
    held.ask("begin", databases=[])
    result = held.ask("end")
    assert result["evidence"] == {"required": False, "ended_cleanly": True, "same_session": True, "error": None}
    assert result["extras"] is None


def test_a_lost_connection_is_noticed_at_once(server: Cluster, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[server.description()])

    server.sql(KILL)

    wait_for(lambda: "connection_lost" in held.events(), "the loss is told, though nobody asked the database")
    with pytest.raises(Refused, match="hot backup is lost already"):
        held.ask("freeze", mounts=["/nowhere"], deadline_s=1)
    result = held.ask("end")
    assert result["evidence"]["required"]
    assert not result["evidence"]["ended_cleanly"]
    assert not result["evidence"]["same_session"]
    assert "connection to PostgreSQL is lost" in result["evidence"]["error"]
    assert result["extras"] is None


def test_a_connection_lost_in_the_window_is_noticed_after_it(
    server: Cluster, ext4: Path, held: HolderUnderTest
) -> None:
    held.ask("begin", databases=[server.description()])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    server.sql(KILL)
    wait_for(lambda: server.sql(SESSIONS) == "0", "the session is gone")
    held.ask("thaw")

    wait_for(lambda: "connection_lost" in held.events(), "the loss is told")
    assert not held.ask("end")["evidence"]["ended_cleanly"]


def test_a_hot_backup_goes_on_while_another_database_cannot_be_thawed(
    server: Cluster, tmp_path: Path, held: HolderUnderTest
) -> None:
    stopper = tmp_path / "stopper"
    options = {"freeze": ["/usr/bin/touch", str(stopper)], "thaw": ["/bin/rm", str(stopper)]}
    held.ask("begin", databases=[server.description(), {"name": "d", "driver": "commands", "commands": options}])
    held.ask("freeze", mounts=[], deadline_s=600)
    stopper.rename(tmp_path / "aside")
    assert "databases: d: the thaw command failed" in held.ask("thaw")["error"]

    (tmp_path / "aside").rename(stopper)
    held.ask("thaw")

    assert not stopper.exists()
    server.sql(KILL)
    wait_for(lambda: "connection_lost" in held.events(), "the hot backup is watched again")


def test_a_holder_that_is_stopped_gives_up_every_hot_backup(
    server: Cluster, tmp_path: Path, held: HolderUnderTest
) -> None:
    hot = tmp_path / "hot"
    options = {"begin": ["/usr/bin/touch", str(hot)], "end": ["/bin/rm", str(hot)]}
    held.ask("begin", databases=[server.description(), {"name": "d", "driver": "commands", "commands": options}])

    assert recover(held.state, held.session).holder == "ended"

    assert not hot.exists()
    assert server.sql(SESSIONS) == "0"


def test_a_second_freeze_does_not_disturb_a_hot_backup(server: Cluster, ext4: Path, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[server.description()])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    with pytest.raises(Refused, match="has frozen already"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    assert held.ask("thaw")["intact"]
    assert held.ask("end")["evidence"]["ended_cleanly"]


def test_nothing_has_begun_when_one_of_two_cannot(server: Cluster, held: HolderUnderTest) -> None:
    other = {**server.description(port=5999), "name": "other"}
    with pytest.raises(Refused, match="databases: other: the database is not running"):
        held.ask("begin", databases=[server.description(), other])

    wait_for(lambda: server.sql(SESSIONS) == "0", "the first is closed")
    assert not held.ask("status")["hot_backup"]
    held.ask("begin", databases=[server.description()])


def test_a_second_begin_is_refused(server: Cluster, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[server.description()])
    with pytest.raises(Refused, match="has begun already"):
        held.ask("begin", databases=[server.description()])
    assert held.ask("end")["evidence"]["ended_cleanly"]


def test_no_end_inside_the_window(server: Cluster, ext4: Path, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[server.description()])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    with pytest.raises(Refused, match="the window is still open"):
        held.ask("end")
    held.ask("thaw")
    assert held.ask("end")["evidence"]["ended_cleanly"]


def test_a_database_that_can_only_freeze_is_frozen_in_the_window(
    ext4: Path, tmp_path: Path, held: HolderUnderTest
) -> None:
    path = ext4 / "d.sqlite"
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE t (n)")
    held.ask("begin", databases=[{"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}}])
    other.execute("INSERT INTO t VALUES (1)")

    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("INSERT INTO t VALUES (2)")
    held.ask("thaw")

    other.execute("INSERT INTO t VALUES (2)")
    other.close()
    assert held.ask("end")["evidence"]["required"] is False


def test_a_database_that_does_not_freeze_leaves_nothing_frozen(ext4: Path, held: HolderUnderTest) -> None:
    path = ext4 / "d.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE t (n)")
    held.ask("begin", databases=[{"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}}])
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(Refused, match="was locked by a writer"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=1)

    other.execute("COMMIT")
    other.close()
    Writer(ext4 / "file").wait_done()
    assert not held.ask("status")["frozen"]


def test_recovery_of_a_living_holder(server: Cluster, ext4: Path, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[server.description()])
    held.ask("freeze", mounts=[str(ext4)], deadline_s=600)
    records = [held.record(), held.record("guard")]
    assert leftovers(held.state) == [held.session]

    found = recover(held.state, held.session)

    assert (found.thawed, found.databases, found.holder) == ([str(ext4)], ["main"], "ended")
    Writer(ext4 / "file").wait_done()
    assert not any(is_alive(record) for record in records)
    wait_for(lambda: server.sql(SESSIONS) == "0", "the hot backup is given up")
    assert leftovers(held.state) == []
    with pytest.raises(NotRunning, match="has no holder on this host"):
        held.ask("ping")


def test_recovery_of_a_stuck_holder(ext4: Path, held: HolderUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery.ANSWER_S", 0.5)
    held.ask("freeze", mounts=[str(ext4)], deadline_s=600)
    os.kill(held.record().pid, 19)

    found = recover(held.state, held.session)

    assert found.holder == "killed"
    Writer(ext4 / "file").wait_done()
    assert leftovers(held.state) == []


def test_recovery_after_everything_died_at_once(ext4: Path, held: HolderUnderTest) -> None:
    """As when somebody kills whatever is called Python."""
    held.ask("freeze", mounts=[str(ext4)], deadline_s=600)
    records = [held.record("backstop"), held.record("guard"), held.record()]
    for record in records[:2]:
        os.kill(record.pid, 19)  # so that they cannot act between the three
    for record in reversed(records):
        os.kill(record.pid, 9)
    wait_for(lambda: not any(is_alive(record) for record in records), "all are dead")
    writer = Writer(ext4 / "first")
    writer.wait_blocked()
    assert leftovers(held.state) == [held.session]

    found = recover(held.state, held.session)

    assert (found.thawed, found.holder) == ([str(ext4)], None)
    writer.wait_done()
    assert leftovers(held.state) == []


def test_recovery_leaves_alone_what_another_session_has_frozen_since(ext4: Path, held: HolderUnderTest) -> None:
    """The record of a freeze that its guard has ended is still there when somebody else freezes."""
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    guard, backstop = held.record("guard"), held.record("backstop")
    os.kill(held.record().pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(guard) and not is_alive(backstop), "both have thawed")
    try:
        ensure_holder(held.state, "s2")
        other = HolderUnderTest(held.state, "s2")
        other.ask("freeze", mounts=[str(ext4)], deadline_s=60)

        assert recover(held.state, held.session).thawed == []
        # As a play does whose own freeze was refused.
        assert not quiesce.thaw(held.state, held.session, [str(ext4)]).changed

        assert other.ask("thaw")["intact"]
    finally:
        recover(held.state, "s2")


def test_a_holder_whose_folder_is_removed_gives_up(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could ever reach it again, and the hot backup would go on until the end of its lifetime."""
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.module_utils.holder.server.LOOK_S", 0.2)
    with holder(tmp_path) as held:
        records = [held.record(), held.record("guard")]
        held.ask("begin", databases=[server.description()])

        shutil.rmtree(held.state.session_dir(held.session))

        wait_for(lambda: not any(is_alive(record) for record in records), "both processes end")
        wait_for(lambda: server.sql(SESSIONS) == "0", "the hot backup is given up")


def test_the_holder_lives_on_without_the_files_it_came_from(server: Cluster, ext4: Path, tmp_path: Path) -> None:
    """Ansible runs a module from a zip file and removes it when the task is over."""
    zipped = tmp_path / "module.zip"
    tree = Path(__file__).parents[3]
    with zipfile.ZipFile(zipped, "w") as archive:
        package = "ansible_collections/splitmirror/backup/plugins"
        for init in (
            "ansible_collections",
            "ansible_collections/splitmirror",
            "ansible_collections/splitmirror/backup",
            package,
        ):
            archive.writestr(f"{init}/__init__.py", "")
        for source in (tree / "plugins" / "module_utils").rglob("*.py"):
            archive.write(source, f"{package}/module_utils/{source.relative_to(tree / 'plugins' / 'module_utils')}")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
assert ensure_holder(StateDir(sys.argv[2]), "s1")
"""
    state = StateDir(str(tmp_path / "state"))
    # Isolated: nothing of the collection is found but what is in the zip; psycopg2 comes with the interpreter.
    run(sys.executable, "-I", "-c", code, zipped, state.root)
    zipped.unlink()
    held = HolderUnderTest(state, "s1")
    path = ext4 / "d.sqlite"
    sqlite3.connect(path).close()
    try:
        held.ask("track", mounts=[str(ext4)])
        options = {"freeze": ["/bin/true"], "thaw": ["/bin/true"]}
        held.ask("begin", databases=[server.description(), {"name": "c", "driver": "commands", "commands": options}])
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
        held.ask("check_thaw")
        assert held.ask("end")["evidence"]["ended_cleanly"]
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
        os.kill(held.record().pid, 9)  # the guard's turn
        Writer(ext4 / "file").wait_done()
    finally:
        recover(state, "s1")
    log = Path(state.session_file("s1", "holder.log")).read_text(encoding="utf-8")
    assert log == ""
