# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drills on restored databases: what each driver checks, and that none is held outside of the restored files."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import Restored
from ansible_collections.splitmirror.backup.plugins.module_utils.database.pg_drill import private_server
from ansible_collections.splitmirror.backup.plugins.module_utils.database.pg_start import StartError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import (
    DRIVERS,
    hold_drill,
    restored_options_spec,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError

ROOT = Path(__file__).resolve().parents[3]
QUERY: dict[str, Any] = {"sum": "SELECT sum(n) FROM t", "none": "SELECT n FROM t WHERE n < 0"}
#: What a driver cannot do without.
NEEDED: dict[str, dict[str, Any]] = {"postgresql": {"bin_dir": "/no/such/folder", "os_user": "root"}}


def drill(
    kind: str, target: Path, data: Path, *, dry_run: bool = False, **queries: Any
) -> tuple[dict[str, str], list[str]]:
    return hold_drill(kind, Restored(str(target), str(data), NEEDED.get(kind, {})), queries, 60, dry_run)


def refused(option: str, *arguments: Any, **queries: Any) -> SplitMirrorError:
    with pytest.raises(SplitMirrorError) as caught:
        drill(*arguments, **queries)
    assert caught.value.option == option
    return caught.value


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    """A copy of a database whose rows are in its write-ahead log alone."""
    original, copy = tmp_path / "app.db", tmp_path / "restore" / "app.db"
    copy.parent.mkdir()
    with contextlib.closing(sqlite3.connect(original, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(100)])
        for suffix in ("", "-wal"):
            shutil.copy(f"{original}{suffix}", f"{copy}{suffix}")
    return copy


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_sqlite_database_is_recovered_asked_and_checked(restored: Path) -> None:
    before = content(restored.parent)
    assert drill("sqlite", restored.parent, restored, dry_run=True, **QUERY) == ({}, [])
    assert content(restored.parent) == before
    assert drill("sqlite", restored.parent, restored, **QUERY) == ({"sum": "4950", "none": ""}, ["integrity_check"])
    assert list(content(restored.parent)) == ["app.db"]
    assert (
        refused("data_directory", "sqlite", restored.parent, restored, x="SELECT nothing").code
        == "restored_data_unusable"
    )


def test_a_damaged_sqlite_database_is_found(restored: Path) -> None:
    drill("sqlite", restored.parent, restored)
    data = bytearray(restored.read_bytes())
    data[4096 + 8 :] = bytes(len(data) - 4096 - 8)
    restored.write_bytes(data)
    assert refused("data_directory", "sqlite", restored.parent, restored).code == "restored_data_unusable"
    restored.write_bytes(b"something else")
    assert refused("data_directory", "sqlite", restored.parent, restored).code == "restored_data_unusable"


def test_no_link_beside_a_sqlite_database_is_followed(restored: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.write_bytes(b"of the original")
    wal = restored.with_name("app.db-wal")
    wal.unlink()
    wal.symlink_to(live)
    assert "is not a file" in refused("data_directory", "sqlite", restored.parent, restored).message
    wal.unlink()
    restored.rename(tmp_path / "elsewhere")
    restored.symlink_to(tmp_path / "elsewhere")
    refused("target", "sqlite", restored.parent, restored)
    assert live.read_bytes() == b"of the original"


def test_of_commands_nothing_but_the_place_is_known(tmp_path: Path) -> None:
    data = tmp_path / "restore" / "data"
    refused("data_directory", "commands", tmp_path, data)
    data.mkdir(parents=True)
    assert drill("commands", tmp_path / "restore", data) == ({}, [])
    assert "cannot be asked" in refused("queries", "commands", tmp_path, data, n="SELECT 1").message


@pytest.mark.parametrize("kind", sorted(DRIVERS))
@pytest.mark.parametrize("dry_run", [False, True])
def test_no_driver_holds_a_drill_outside_of_the_restored_files(tmp_path: Path, kind: str, dry_run: bool) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "restore").mkdir()
    (tmp_path / "restore/link").symlink_to(tmp_path / "original")
    for place in ("original", "restore/link", "restore/../original"):
        refused("target", kind, tmp_path / "restore", tmp_path / place, dry_run=dry_run)


@pytest.mark.parametrize("name", ["include", "INCLUDE_DIR", "a b", "", "port = 1 #", "x\ny"])
def test_a_setting_that_is_none_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = {"bin_dir": "/x", "os_user": "root", "database": "d", "settings": {name: "1"}}
    with pytest.raises(StartError) as caught, private_server(str(tmp_path / "data"), options, {}, 1):
        pass
    assert (caught.value.option, caught.value.code) == ("driver_options", "option_invalid")
    assert os.listdir(tmp_path) == []


def test_role_and_documentation_name_the_drivers_and_their_options() -> None:
    module = importlib.import_module("ansible_collections.splitmirror.backup.plugins.modules.restore_drill")
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert documented["driver"]["choices"] == sorted(DRIVERS)
    assert documented["driver_options"]["suboptions"].keys() == restored_options_spec()["options"].keys()
    for name, driver in DRIVERS.items():
        said = str(documented["driver_options"])
        assert not driver.restored_spec or f"V({name})" in said
    role = yaml.safe_load((ROOT / "roles/restore_drill/meta/argument_specs.yml").read_text())
    options = role["argument_specs"]["main"]["options"]
    assert options["restore_drill_driver"]["choices"] == sorted(DRIVERS)
    (task,) = [
        task
        for task in yaml.safe_load((ROOT / "roles/restore_drill/tasks/main.yml").read_text())
        if "splitmirror.backup.restore_drill" in task
    ]
    passed = task["splitmirror.backup.restore_drill"]["driver_options"]
    assert passed.keys() == restored_options_spec()["options"].keys()
    assert {f"restore_drill_{name}" for name in passed} <= options.keys()
