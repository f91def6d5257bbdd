# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules of the database host: whole sessions on live databases, steps twice and in check mode, refusals."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import ask
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import recover
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import is_alive, read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.modules import (
    backup_discovery,
    extent_map,
    hot_backup,
    write_freeze,
)
from ansible_collections.splitmirror.backup.tests.support import freezing, fsload
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.freezing import Writer, wait_for
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.postgres import (
    bin_dir,
    cluster,
    own,
    passable_folder,
)
from ansible_collections.splitmirror.backup.tests.support.tape import run_module_apart

pytestmark = pytest.mark.root
SESSION = "s1"


class Host:
    """A database host with one LUN, and the modules on it."""

    def __init__(self, folder: Path, kind: str, mount: Path, device: str) -> None:
        self.folder = folder
        self.kind = kind
        self.mount = mount
        self.device = device
        self.state = StateDir(str(folder / "state"))
        #: Whether modules run in processes of their own.
        self.apart = False

    def call(self, module: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run a module that has to succeed."""
        result = self.outcome(module, check=check, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def refused(self, module: Any, **options: Any) -> str:
        """Run a module that has to fail, and return its sentence."""
        result = self.outcome(module, **options)
        assert result.get("failed"), result
        assert result["msg"].endswith(".")
        return str(result["msg"])

    def outcome(self, module: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        common: dict[str, Any] = {"state_dir": self.state.root}
        if options.get("state") != "recovered":
            common["session"] = SESSION
        if module in (extent_map, backup_discovery):
            common["pairs"] = [{"name": "lun", "device": self.device}]
        if self.apart:
            return run_module_apart(module.__name__.rpartition(".")[2], {**common, **options}, check=check)
        return run_module(module.main, {**common, **options}, check=check)

    def map_entries(self) -> dict[bytes, Any]:
        with MapFile.open(self.state.session_file(SESSION, "map.sqlite"), SESSION) as map_file:
            return {entry.path: (entry, extents) for entry, extents in map_file.entries()}

    def restore(self, target: Path) -> None:
        """Make the files anew below ``target``, from the map and the raw mirror alone, then the extras."""
        with fsload.mirror(self.folder, self.kind) as (_mount, device):
            for path, (entry, extents) in self.map_entries().items():
                place = target / os.fsdecode(path)[1:]
                place.parent.mkdir(parents=True, exist_ok=True)
                if entry.kind == "d":
                    place.mkdir(exist_ok=True)
                elif entry.kind == "f":
                    place.write_bytes(fsload.read_by_map(entry, extents, {1: device}))
                elif entry.kind == "l":
                    place.symlink_to(os.fsdecode(entry.target))
                if entry.kind in "fd":
                    os.chown(place, entry.uid, entry.gid)
                    place.chmod(entry.mode & 0o7777)
        extras = Path(self.state.session_file(SESSION, "extras.tar"))
        if extras.exists():
            run("tar", "--extract", "--file", extras, "--directory", target)


@pytest.fixture
def folder() -> Iterator[Path]:
    with passable_folder() as made:
        yield made


@pytest.fixture(params=["xfs", "ext4"])
def host(request: pytest.FixtureRequest, folder: Path) -> Iterator[Host]:
    with fsload.file_system(folder, request.param) as (mount, device):
        made = Host(folder, request.param, mount, device)
        try:
            yield made
        finally:
            recover(made.state, SESSION)


@pytest.fixture
def files(folder: Path) -> Iterator[Host]:
    """A host with plain files only."""
    with fsload.file_system(folder, "ext4", 64) as (mount, device):
        (mount / "data").mkdir()
        (mount / "data" / "file").write_bytes(b"x" * 10_000)
        made = Host(folder, "ext4", mount, device)
        try:
            yield made
        finally:
            recover(made.state, SESSION)


def test_a_session_on_a_live_postgresql(host: Host, folder: Path) -> None:
    with cluster(host.mount / "pg") as server:
        server.sql("CREATE TABLE t (n int)")
        databases = [server.description()]

        mapped = host.call(extent_map, databases=databases)
        assert mapped["mounts"] == [str(host.mount)]
        assert mapped["counts"]["files"] > 500
        assert mapped["databases"]["main"]["pgdata"] == str(server.data)
        server.sql("INSERT INTO t SELECT generate_series(1, 20000)")
        assert host.call(hot_backup, state="begun", databases=databases)["changed"]
        assert not host.call(hot_backup, state="begun", databases=databases)["changed"]
        discovered = host.call(backup_discovery, databases=databases)
        assert not discovered["changed"]
        assert discovered["bytes"] == mapped["counts"]["bytes"]
        server.sql("INSERT INTO t SELECT generate_series(1, 20000); CREATE TABLE late AS TABLE t")

        frozen = host.call(write_freeze, state="frozen", mounts=mapped["mounts"], deadline_s=120)
        assert frozen["changed"]
        assert not host.call(write_freeze, state="frozen", mounts=mapped["mounts"])["changed"]
        fsload.split(folder, host.kind)
        checked = host.call(extent_map, state="checked")["check"]
        thawed = host.call(write_freeze, state="thawed", mounts=mapped["mounts"])
        assert thawed["changed"]
        assert thawed["intact"]
        assert not host.call(write_freeze, state="thawed", mounts=mapped["mounts"])["changed"]
        assert checked["complete"]
        assert checked["examined"]
        server.sql("INSERT INTO t VALUES (-1)")
        ended = host.call(hot_backup, state="ended", databases=databases)
        assert ended["evidence"] == {"required": True, "ended_cleanly": True, "same_session": True, "error": None}
        again = host.call(hot_backup, state="ended", databases=databases)
        assert (again["changed"], again["evidence"], again["extras"]) == (False, ended["evidence"], ended["extras"])
        assert read_record(host.state.session_dir(SESSION), "holder") is None
        server.stop("immediate")

        host.restore(folder / "restored")
        restored = folder / "restored" / str(server.data)[1:]
        server.start(restored)
        try:
            assert server.sql("SELECT count(*), min(n) FROM t") == "40001|-1"
            assert server.sql("SELECT count(*) FROM late") == "40000"
        finally:
            server.stop("fast", restored)
        run(os.path.join(bin_dir(), "pg_checksums"), "--check", "--pgdata", restored)


def test_a_session_without_hot_backup_is_one_that_the_database_recovers_from(host: Host, folder: Path) -> None:
    with cluster(host.mount / "pg", wal=host.mount / "wal") as server:
        databases = [{**server.description(), "quiesce": "freeze"}]
        server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        mounts = host.call(extent_map, databases=databases)["mounts"]
        host.call(hot_backup, state="begun", databases=databases)
        server.sql("INSERT INTO t SELECT generate_series(1, 1000)")
        host.call(write_freeze, state="frozen", mounts=mounts, deadline_s=120)
        fsload.split(folder, host.kind)
        host.call(extent_map, state="checked")
        host.call(write_freeze, state="thawed", mounts=mounts)
        ended = host.call(hot_backup, state="ended", databases=databases)
        assert not ended["evidence"]["required"]
        assert "extras" not in ended
        server.stop("immediate")

        host.restore(folder / "restored")
        restored = folder / "restored" / str(server.data)[1:]
        (restored / "pg_wal").unlink()
        (restored / "pg_wal").symlink_to(folder / "restored" / str(host.mount / "wal")[1:])
        server.start(restored)
        try:
            assert server.sql("SELECT count(*) FROM t") == "2000"
        finally:
            server.stop("fast", restored)


def test_sqlite_beside_plain_files(files: Host, folder: Path) -> None:
    files.apart = True  # or mapping would take away the locks of the connection here
    path = files.mount / "d.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE t (n)")
    databases = [{"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}}]
    mapped = files.call(extent_map, databases=databases, paths=[str(files.mount / "data")], exclude=["*.tmp"])
    files.call(hot_backup, state="begun", databases=databases)
    for number in range(100):
        other.execute("INSERT INTO t VALUES (?)", (number,))
    (files.mount / "data" / "late").write_text("late")
    (files.mount / "data" / "late.tmp").write_text("late")
    files.call(write_freeze, state="frozen", mounts=mapped["mounts"])
    fsload.split(folder, files.kind)
    files.call(extent_map, state="checked")
    files.call(write_freeze, state="thawed")
    assert files.call(hot_backup, state="ended", databases=databases)["evidence"]["required"] is False
    assert other.execute("SELECT count(*) FROM t").fetchone() == (100,)
    other.close()

    files.restore(folder / "restored")

    place = folder / "restored" / str(files.mount)[1:]
    restored = sqlite3.connect(place / path.name)
    assert restored.execute("SELECT count(*), sum(n) FROM t").fetchone() == (100, sum(range(100)))
    restored.close()
    assert sorted(os.listdir(place / "data")) == ["file", "late"]


def test_discovery_maps_a_tablespace_that_came_since(host: Host) -> None:
    with cluster(host.mount / "pg") as server:
        databases = [server.description()]
        host.call(extent_map, databases=databases)
        host.call(hot_backup, state="begun", databases=databases)
        space = own(host.mount / "space")
        server.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
        server.sql("CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 1000)")

        dry = host.call(backup_discovery, databases=databases, check=True)
        assert (dry["changed"], dry["added"]) == (True, [str(space)])
        assert os.fsencode(space) not in host.map_entries()
        result = host.call(backup_discovery, databases=databases)

        assert (result["changed"], result["added"], result["removed"]) == (True, [str(space)], [])
        assert os.fsencode(space) in host.map_entries()
        assert not host.call(backup_discovery, databases=databases)["changed"]
        assert host.call(hot_backup, state="ended", databases=databases)["evidence"]["ended_cleanly"]


def test_discovery_maps_a_file_system_that_was_mounted_since(files: Host, folder: Path) -> None:
    data = files.mount / "data"
    image = make_image(folder / "more.img", 32, "ext4")
    with loop_device(image) as device:
        options: dict[str, Any] = {
            "paths": [str(data)],
            "pairs": [{"name": "lun", "device": files.device}, {"name": "more", "device": device}],
        }
        files.call(extent_map, **options)
        assert not files.call(backup_discovery, **options)["changed"]
        with mounted(device, data / "inner") as inner:
            (inner / "late").write_bytes(b"late")

            dry = files.call(backup_discovery, check=True, **options)
            assert (dry["changed"], dry["moved"]) == (True, [str(inner)])
            assert os.fsencode(inner / "late") not in files.map_entries()
            result = files.call(backup_discovery, **options)

            assert (result["added"], result["removed"], result["moved"]) == ([], [], [str(inner)])
            assert result["mounts"] == [str(files.mount), str(inner)]
            assert os.fsencode(inner / "late") in files.map_entries()
            assert not files.call(backup_discovery, **options)["changed"]
        assert files.call(backup_discovery, **options)["moved"] == [str(inner)]
        assert os.fsencode(data / "inner" / "late") not in files.map_entries()


def test_check_mode_changes_nothing(files: Host) -> None:
    mounts = [str(files.mount)]
    paths = [str(files.mount / "data")]
    dry = files.call(extent_map, paths=paths, check=True)
    assert (dry["changed"], dry["mounts"]) == (True, mounts)
    assert files.call(write_freeze, state="frozen", mounts=mounts, check=True)["mounts"] == mounts
    options = {"begin": ["/bin/false"], "end": ["/bin/false"]}
    databases = [{"name": "d", "driver": "commands", "commands": options}]
    assert files.call(hot_backup, state="begun", databases=databases, check=True)["changed"]
    assert not os.path.exists(files.state.root)

    files.call(extent_map, paths=paths)
    files.call(write_freeze, state="frozen", mounts=mounts)
    assert files.call(write_freeze, state="thawed", check=True)["mounts"] == mounts
    assert files.call(hot_backup, state="ended", check=True)["changed"]
    assert files.call(hot_backup, state="recovered", check=True)["recovered"] == [{"session": SESSION}]
    assert ask(files.state, SESSION, "status")["result"]["frozen"]


def test_recovery_finishes_what_any_session_left(files: Host, folder: Path) -> None:
    mark = folder / "mark"
    files.call(extent_map, paths=[str(files.mount / "data")])
    files.call(write_freeze, state="frozen", mounts=[str(files.mount)])
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/true"], "recover": ["/usr/bin/touch", str(mark)]}

    databases = [{"name": "d", "driver": "commands", "commands": options}]
    result = files.call(hot_backup, state="recovered", databases=databases)

    assert [one["session"] for one in result["recovered"]] == [SESSION]
    assert result["recovered"][0]["thawed"] == [str(files.mount)]
    assert mark.exists()
    Writer(files.mount / "new").wait_done()
    assert not files.call(hot_backup, state="recovered")["changed"]


def test_a_thaw_without_a_holder(files: Host) -> None:
    files.call(write_freeze, state="frozen", mounts=[str(files.mount)])
    folder = files.state.session_dir(SESSION)
    records = [record for name in ("guard", "backstop", "holder") if (record := read_record(folder, name))]
    assert len(records) == 3
    for record in records:
        os.kill(record.pid, signal.SIGSTOP)  # so that none can act when the others are dead
    for record in records:
        os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(record) for record in records), "all are dead")

    result = files.call(write_freeze, state="thawed", mounts=[str(files.mount)])

    assert result["changed"]
    assert not result["intact"]
    Writer(files.mount / "new").wait_done()


def test_a_thaw_that_leaves_a_database_frozen_fails(files: Host, folder: Path) -> None:
    stopper = folder / "stopper"
    options = {"freeze": ["/usr/bin/touch", str(stopper)], "thaw": ["/bin/rm", str(stopper)]}
    files.call(hot_backup, state="begun", databases=[{"name": "d", "driver": "commands", "commands": options}])
    files.call(write_freeze, state="frozen", mounts=[])
    stopper.rename(folder / "aside")

    assert "d: the thaw command failed" in files.refused(write_freeze, state="thawed")
    (folder / "aside").rename(stopper)
    assert files.call(write_freeze, state="thawed")["changed"]

    assert not stopper.exists()


def test_a_freeze_alone_ends_its_holder_with_the_thaw(files: Host) -> None:
    files.call(write_freeze, state="frozen", mounts=[str(files.mount)])
    files.call(write_freeze, state="thawed")
    assert read_record(files.state.session_dir(SESSION), "holder") is None


def test_an_end_whose_holder_is_gone_fails_and_says_so(files: Host, folder: Path) -> None:
    with cluster(folder / "pg") as server:
        databases = [server.description()]
        files.call(hot_backup, state="begun", databases=databases)
        recover(files.state, SESSION)

        result = files.outcome(hot_backup, state="ended", databases=databases)

    assert result["failed"]
    assert result["code"] == "hot_backup_lost"
    assert result["evidence"] == {
        "required": True,
        "ended_cleanly": False,
        "same_session": False,
        "error": result["msg"],
    }


def test_a_lost_session_fails_the_end(files: Host, folder: Path) -> None:
    with cluster(folder / "pg") as server:
        databases = [server.description()]
        files.call(hot_backup, state="begun", databases=databases)
        server.stop("immediate")

        result = files.outcome(hot_backup, state="ended", databases=databases)

        assert result["failed"]
        assert not result["evidence"]["ended_cleanly"]
        assert read_record(files.state.session_dir(SESSION), "holder") is None


# -- refusals ----------------------------------------------------------------------------------------------------


def test_refusals_before_anything_is_mapped(files: Host, folder: Path) -> None:
    data = str(files.mount / "data")
    assert "nothing to back up" in files.refused(extent_map)
    assert "/etc/hostname" in files.refused(extent_map, paths=["/etc/hostname"])
    assert "cannot be read" in files.refused(extent_map, paths=["/not/there"])
    assert "names no device" in files.refused(extent_map, paths=[data], pairs=[{"name": "lun"}])
    assert "not a session id" in files.refused(extent_map, paths=[data], session="../x")
    unknown = [{"name": "d", "driver": "oracle"}]
    assert "driver 'oracle' is not known; use one of commands, postgresql" in files.refused(
        extent_map, databases=unknown
    )
    foreign = [{"name": "d", "driver": "sqlite", "postgresql": {"port": 1}}]
    assert "driver sqlite takes its options from the key 'sqlite', not from 'postgresql'" in files.refused(
        extent_map, databases=foreign
    )
    dead = [{"name": "d", "driver": "postgresql", "postgresql": {"unix_socket": str(folder)}}]
    assert "the database is not running" in files.refused(extent_map, databases=dead)
    assert "the database is not running" in files.refused(hot_backup, state="begun", databases=dead)
    assert read_record(files.state.session_dir(SESSION), "holder") is None
    assert not os.path.exists(files.state.session_file(SESSION, "map.sqlite"))


def test_a_host_whose_state_folder_would_be_frozen_is_refused_before_it_is_mapped(files: Host) -> None:
    message = files.refused(extent_map, paths=[str(files.mount / "data")], state_dir=str(files.mount / "state"))
    assert "is never frozen" in message
    assert not (files.mount / "state").exists()


def test_the_folder_ansible_works_in_is_refused(files: Host) -> None:
    options = {"paths": [str(files.mount / "data")], "_ansible_remote_tmp": str(files.mount / "tmp")}
    assert "where Ansible puts its modules" in files.refused(extent_map, **options)
    message = files.refused(write_freeze, state="frozen", mounts=["/"])
    assert "/ is never frozen" in message
    assert not os.path.exists(files.state.session_file(SESSION, "holder.json"))


def test_a_map_of_another_session(files: Host) -> None:
    paths = [str(files.mount / "data")]
    files.call(extent_map, paths=paths)
    other = files.state.make_session_dir("s2")
    os.rename(files.state.session_file(SESSION, "map.sqlite"), os.path.join(other, "map.sqlite"))
    assert "another session" in files.refused(backup_discovery, paths=paths, session="s2")


def test_a_file_system_of_the_map_that_is_left_out_is_not_called_frozen(files: Host, folder: Path) -> None:
    with freezing.file_system(folder, "ext4", "more", files.mount / "data" / "inner") as inner:
        device = run("findmnt", "--noheadings", "--output=SOURCE", inner).stdout.strip()
        (inner / "file").write_bytes(b"x")
        pairs = [{"name": "lun", "device": files.device}, {"name": "more", "device": device}]
        mounts = files.call(extent_map, paths=[str(files.mount / "data")], pairs=pairs)["mounts"]
        assert mounts == [str(files.mount), str(inner)]

        message = files.refused(write_freeze, state="frozen", mounts=[str(files.mount)])

        assert files.refused(write_freeze, state="frozen", mounts=[str(files.mount)], check=True) == message
        assert message.startswith(f"mounts: {inner} contains mapped files and is not frozen; ")
        assert not ask(files.state, SESSION, "status")["result"]["frozen"]
        Writer(files.mount / "new").wait_done()
        unfrozen = files.call(extent_map, state="checked")["check"]
        assert not unfrozen["complete"]
        assert unfrozen["error"].startswith(f"mounts: {files.mount} contains mapped files")
        assert files.call(write_freeze, state="frozen", mounts=mounts, check=True)["changed"]
        files.call(write_freeze, state="frozen", mounts=mounts)
        assert files.call(extent_map, state="checked")["check"]["complete"]
        assert files.call(write_freeze, state="thawed")["intact"]


def test_a_map_made_while_less_is_frozen_is_not_checked_completely(files: Host, folder: Path) -> None:
    files.call(write_freeze, state="frozen", mounts=[str(files.mount)])
    with freezing.file_system(folder, "ext4", "more") as other:
        device = run("findmnt", "--noheadings", "--output=SOURCE", other).stdout.strip()
        files.call(extent_map, paths=[str(other)], pairs=[{"name": "more", "device": device}])

        result = ask(files.state, SESSION, "check_thaw")["result"]

        assert (result["check"]["complete"], result["intact"]) == (False, True)
        assert result["error"].startswith(f"mounts: {other} contains mapped files and is not frozen; ")
        with MapFile.open(files.state.session_file(SESSION, "map.sqlite")) as map_file:
            assert map_file.meta("seals") is None


def test_a_check_of_nothing(files: Host) -> None:
    assert "has no holder on this host" in files.refused(extent_map, state="checked")
    files.call(hot_backup, state="begun")
    assert "nothing is mapped in this session" in files.refused(extent_map, state="checked")


def test_a_map_that_fails_leaves_no_holder(files: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
    from ansible_collections.splitmirror.backup.plugins.module_utils.holder import mapping

    def fail(*_args: object, **_options: object) -> None:
        raise SplitMirrorError("map: the disk is full.")

    monkeypatch.setattr(mapping, "map_scopes", fail)
    assert "the disk is full" in files.refused(extent_map, paths=[str(files.mount / "data")])
    assert read_record(files.state.session_dir(SESSION), "holder") is None
