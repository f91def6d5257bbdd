# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SQLite driver against real database files."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import DatabaseError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import make_driver
from ansible_collections.splitmirror.backup.plugins.module_utils.database.sqlite import SqliteDriver


@pytest.fixture(params=["delete", "truncate", "persist", "wal"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "a?b#c%20.sqlite"
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
    return made


@pytest.fixture
def driver(path: Path) -> Iterator[SqliteDriver]:
    made = make_driver({"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}})
    assert isinstance(made, SqliteDriver)
    yield made
    made.close()


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        yield connection


def test_writes_stop_and_reads_go_on(driver: SqliteDriver, writer: sqlite3.Connection) -> None:
    driver.preflight()
    driver.prepare_window()
    driver.in_window(1)

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.execute("INSERT INTO t VALUES (2)")
    assert writer.execute("SELECT count(*) FROM t").fetchone() == (1,)

    driver.thaw()
    writer.execute("INSERT INTO t VALUES (2)")
    driver.thaw()  # nothing happens


@pytest.mark.slow
def test_the_named_files_are_a_whole_database(
    driver: SqliteDriver, writer: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    for number in range(2, 100):
        writer.execute("INSERT INTO t VALUES (?)", (number,))
    driver.in_window(1)
    copies = tmp_path / "copies"
    copies.mkdir()
    for scope in driver.files():
        shutil.copy(scope.root, copies)
    driver.thaw()

    with contextlib.closing(sqlite3.connect(copies / path.name)) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert restored.execute("SELECT count(*), sum(n) FROM t").fetchone() == (99, sum(range(100)))


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 2\0 or so, more than sixteen bytes"])
def test_no_database(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    driver = make_driver({"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}})
    with pytest.raises(DatabaseError, match="set path to the database file"):
        driver.preflight()
    with pytest.raises(DatabaseError, match="set path to the database file"):
        driver.files()


def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    driver = make_driver({"name": "d", "driver": "sqlite", "sqlite": {"path": str(path)}})
    with pytest.raises(DatabaseError, match="cannot be read; SQLite says"):
        driver.preflight()
    driver.close()
