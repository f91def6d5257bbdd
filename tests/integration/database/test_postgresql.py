# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The PostgreSQL driver against real servers: hot backup that restores, and every refusal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database import pg_session
from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import (
    DatabaseDriver,
    DatabaseError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import make_driver
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.extras import write_extras
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.postgres import (
    Cluster,
    bin_dir,
    cluster,
    copy_tree,
    own,
    passable_folder,
)

pytestmark = pytest.mark.root

SMALL_WAL = ["--wal-segsize=1"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with passable_folder() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """One cluster for the tests that change nothing in it."""
    with passable_folder() as made, cluster(made / "data") as running:
        yield running


@pytest.fixture
def drivers() -> Iterator[list[DatabaseDriver]]:
    made: list[DatabaseDriver] = []
    yield made
    for driver in made:
        driver.close()


def driver_of(server: Cluster, drivers: list[DatabaseDriver], quiesce: str = "auto", **options: Any) -> DatabaseDriver:
    driver = make_driver({**server.description(**options), "quiesce": quiesce})
    drivers.append(driver)
    return driver


def restore(scopes: list[Scope], copies: Path) -> None:
    """Put the copies in place of the server's folders, and label files and WAL on top, as a restore does."""
    for number, scope in enumerate(scopes):
        root = Path(scope.root)
        shutil.rmtree(root)
        copy_tree(copies / str(number), root)
        emptied = [root] if "*" in scope.exclude else [root / name for name in scope.empty]
        for folder in emptied:
            if not folder.is_symlink():
                shutil.rmtree(folder)
                own(folder)
        for pattern in scope.exclude:
            for path in root.rglob(pattern):
                path.unlink()
    run("tar", "--extract", "--file", copies / "extras.tar", "--directory", "/")


def test_a_hot_backup_restores_with_all_that_was_committed_before_its_end(
    folder: Path, drivers: list[DatabaseDriver]
) -> None:
    space, wal, copies = own(folder / "a space"), folder / "wal", folder / "copies"
    copies.mkdir()
    with cluster(folder / "data", wal=wal, initdb=SMALL_WAL) as server:
        server.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
        server.sql("CREATE TABLE here (n int); CREATE TABLE there (n int) TABLESPACE far")
        driver = driver_of(server, drivers)
        driver.preflight()
        scopes = driver.files()
        assert [scope.root for scope in scopes] == [str(server.data), str(space), str(wal)]

        driver.begin("a label")
        for number, scope in enumerate(scopes):
            server.sql("INSERT INTO here SELECT generate_series(1, 1000)")
            copy_tree(Path(scope.root), copies / str(number))
            server.sql("INSERT INTO there SELECT generate_series(1, 1000)")
        result = driver.end()
        assert {Path(label.path).name for label in result.label_files} == {"backup_label", "tablespace_map"}
        write_extras(str(copies / "extras.tar"), [result])
        driver.close()

        server.stop("immediate")
        restore(scopes, copies)
        server.start()

        assert server.sql("SELECT (SELECT count(*) FROM here), (SELECT count(*) FROM there)") == "3000|3000"
        server.stop()
        run(os.path.join(bin_dir(), "pg_checksums"), "--check", "--pgdata", server.data)


def test_the_label_files_are_those_of_the_server(shared: Cluster, drivers: list[DatabaseDriver]) -> None:
    driver = driver_of(shared, drivers)
    driver.begin("splitmirror é")
    result = driver.end()

    (label,) = result.label_files
    assert label.path == str(shared.data / "backup_label")
    assert (label.mode, label.uid) == (0o600, shared.data.stat().st_uid)
    assert label.content.startswith(b"START WAL LOCATION: ")
    assert "LABEL: splitmirror é\n".encode() in label.content
    assert f"(file {Path(result.log_files[0]).name})".encode() in label.content
    assert Path(result.log_files[0]).parent == shared.data / "pg_wal"


def test_files_leaves_out_what_a_base_backup_leaves_out(shared: Cluster, drivers: list[DatabaseDriver]) -> None:
    (scope,) = driver_of(shared, drivers).files()
    assert scope.root == str(shared.data)
    assert {"pg_wal", "pg_replslot", "pg_stat_tmp"} <= set(scope.empty)
    assert {"postmaster.pid", "pgsql_tmp*"} <= set(scope.exclude)


def test_with_quiesce_freeze_the_wal_is_part_of_the_files(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data", wal=folder / "wal") as server:
        data, wal = driver_of(server, drivers, "freeze").files()
    assert "pg_wal" not in data.empty
    assert wal.root == str(folder / "wal")
    assert not wal.exclude


def test_wal_of_a_long_backup_is_kept(folder: Path, drivers: list[DatabaseDriver]) -> None:
    settings = {"max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0"}
    with cluster(folder / "data", initdb=SMALL_WAL, settings=settings) as server:
        driver = driver_of(server, drivers)
        driver.begin("x")
        make_wal(server)
        result = driver.end()

        assert len(result.log_files) > 10
        make_wal(server)  # until close() it stays
        assert all(os.path.exists(path) for path in result.log_files)
        driver.close()
        wait_for(lambda: server.sql("SELECT count(*) FROM pg_replication_slots") == "0", "the slot is gone")


def test_wal_that_is_gone_fails_the_backup(folder: Path, drivers: list[DatabaseDriver]) -> None:
    settings = {"max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0", "max_replication_slots": "0"}
    with cluster(folder / "data", initdb=SMALL_WAL, settings=settings) as server:
        driver = driver_of(server, drivers)
        driver.begin("x")
        make_wal(server)
        with pytest.raises(DatabaseError, match=r"the WAL file .* is gone already; .*wal_keep_size"):
            driver.end()


def make_wal(server: Cluster) -> None:
    for _round in range(15):
        server.sql("SELECT pg_switch_wal(); CHECKPOINT")


def test_a_role_with_the_documented_rights_is_enough(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data") as server:
        server.sql(
            "CREATE ROLE backup LOGIN REPLICATION; GRANT pg_read_all_settings TO backup;"
            "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup"
        )
        driver = driver_of(server, drivers, login_user="backup")
        driver.preflight()
        driver.begin("x")
        assert driver.end().label_files


def test_timeouts_of_the_server_do_not_end_the_session(folder: Path, drivers: list[DatabaseDriver]) -> None:
    settings = {
        "idle_session_timeout": "300ms",
        "statement_timeout": "2s",
        "idle_in_transaction_session_timeout": "300ms",
    }
    with cluster(folder / "data", settings=settings) as server:
        driver = driver_of(server, drivers)
        driver.begin("x")
        server.sql("SELECT pg_sleep(1)")  # by the server's clock more than its limit for idle sessions
        driver.ping()
        assert driver.end().label_files


# -- refusals: one clear sentence each ---------------------------------------------------------------------------


def refusal(server: Cluster, drivers: list[DatabaseDriver], **options: Any) -> str:
    with pytest.raises(DatabaseError) as refused:
        driver_of(server, drivers, **options).preflight()
    return refused.value.message


def test_a_server_that_is_not_running(shared: Cluster, drivers: list[DatabaseDriver]) -> None:
    message = refusal(shared, drivers, port=5999)
    assert message.startswith("databases: main: the database is not running: no PostgreSQL answers at ")
    assert "5999" in message


def test_a_server_that_is_not_running_on_tcp(shared: Cluster, drivers: list[DatabaseDriver]) -> None:
    assert "not running: no PostgreSQL answers at 127.0.0.1, port 9" in refusal(
        shared, drivers, login_host="127.0.0.1", port=9
    )


def test_wrong_credentials(folder: Path, drivers: list[DatabaseDriver]) -> None:
    hba = "local all postgres peer\nlocal all all scram-sha-256\n"
    with cluster(folder / "data", hba=hba) as server:
        server.sql("CREATE ROLE backup LOGIN SUPERUSER PASSWORD 'right'")
        (folder / "password").write_text("right\n", encoding="utf-8")

        assert "refuses the login of 'backup'" in refusal(server, drivers, login_user="backup", login_password="wrong")
        assert "refuses the login of 'nobody'" in refusal(server, drivers, login_user="nobody", login_password="x")
        driver_of(server, drivers, login_user="backup", login_password="right").preflight()
        driver_of(server, drivers, login_user="backup", login_password_file=str(folder / "password")).preflight()


def test_a_missing_psycopg2(shared: Cluster, drivers: list[DatabaseDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg_session, "psycopg2", None)
    assert "has no psycopg2; install it" in refusal(shared, drivers)


def test_a_data_folder_of_another_server(shared: Cluster, folder: Path, drivers: list[DatabaseDriver]) -> None:
    assert "is not a data folder of PostgreSQL" in refusal(shared, drivers, pgdata=str(folder))
    with cluster(folder / "other") as other:
        assert "belongs to another server" in refusal(shared, drivers, pgdata=str(other.data))


def test_a_role_that_may_not_begin_a_backup(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data") as server:
        server.sql("CREATE ROLE plain LOGIN")
        assert "may not read data_directory; grant it pg_read_all_settings" in refusal(
            server, drivers, login_user="plain"
        )
        server.sql("GRANT pg_read_all_settings TO plain")
        assert "'plain' may not call pg_backup_start" in refusal(server, drivers, login_user="plain")


def test_wal_level_minimal(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data", settings={"wal_level": "minimal", "max_wal_senders": "0"}) as server:
        assert "wal_level is minimal" in refusal(server, drivers)
        driver_of(server, drivers, "freeze").preflight()  # which needs none


def test_a_standby(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data") as server:
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        assert "standby or in recovery; back up its primary" in refusal(server, drivers)


def test_archiving_that_fails(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data", settings={"archive_mode": "on", "archive_command": "/bin/false"}) as server:
        server.sql("CREATE TABLE t (); SELECT pg_switch_wal()")
        wait_for(lambda: server.sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t", "archiving has failed", 60)
        message = refusal(server, drivers)
        assert "archiving is broken: the server fails to archive 0000000100000000" in message


def test_archiving_that_works(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data", settings={"archive_mode": "on", "archive_command": "/bin/true"}) as server:
        driver = driver_of(server, drivers)
        assert driver.preflight()["archiving"]
        driver.begin("x")
        result = driver.end()
        assert all(os.path.exists(path) for path in result.log_files)


def test_archiving_without_a_command(folder: Path, drivers: list[DatabaseDriver]) -> None:
    with cluster(folder / "data", settings={"archive_mode": "on"}) as server:
        assert "archiving is broken: archive_mode is on, but archive_command is empty" in refusal(server, drivers)


def test_a_tablespace_that_leads_nowhere(folder: Path, drivers: list[DatabaseDriver]) -> None:
    space = own(folder / "space")
    with cluster(folder / "data") as server:
        server.sql(f"CREATE TABLESPACE far LOCATION '{space}'")
        shutil.rmtree(space)
        assert f"points to {space}, which is not a folder" in refusal(server, drivers)


def test_what_links_lead_to_belongs_to_the_files(folder: Path, drivers: list[DatabaseDriver]) -> None:
    big, conf = own(folder / "big"), folder / "main.conf"
    with cluster(folder / "data") as server:
        server.sql("CREATE TABLE t (n int)")
        (number,) = {server.sql("SELECT oid FROM pg_database WHERE datname = 'postgres'")}
        server.stop()
        shutil.move(server.data / "base" / number, big / number)
        (server.data / "base" / number).symlink_to(big / number)
        shutil.move(server.data / "postgresql.conf", conf)
        (server.data / "postgresql.conf").symlink_to("../main.conf")
        (big / number / "below").symlink_to(own(folder / "below"))
        server.start()
        scopes = {scope.root: scope for scope in driver_of(server, drivers).files()}
        assert set(scopes) == {str(server.data), str(big / number), str(conf), str(folder / "below")}
        assert "pgsql_tmp*" in scopes[str(big / number)].exclude


@pytest.mark.parametrize(
    ("leads_to", "words"),
    [
        ("/nowhere/at/all", "cannot be opened"),
        ("loop", "cannot be opened"),
        ("/dev/zero", "neither a folder nor a regular file"),
        ("../..", "which holds"),
        ("/", "which holds"),
    ],
)
def test_a_link_that_cannot_be_followed_is_refused(
    shared: Cluster, drivers: list[DatabaseDriver], leads_to: str, words: str
) -> None:
    link = shared.data / "base" / "loop"
    link.symlink_to(leads_to)
    try:
        with pytest.raises(DatabaseError, match=words) as refused:
            driver_of(shared, drivers).files()
        assert str(link) in refused.value.message
    finally:
        link.unlink()


def test_links_in_what_is_left_out_are_nobodys_business(shared: Cluster, drivers: list[DatabaseDriver]) -> None:
    links = [shared.data / "pg_stat_tmp" / "x", shared.data / "base" / "pgsql_tmp7"]
    for link in links:
        link.symlink_to("/nowhere")
    try:
        assert [scope.root for scope in driver_of(shared, drivers).files()] == [str(shared.data)]
    finally:
        for link in links:
            link.unlink()
