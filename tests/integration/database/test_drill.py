# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill starts the restored files, whatever their settings say of the original's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook
from ansible_collections.splitmirror.backup.tests.support.postgres import (
    Cluster,
    bin_dir,
    cluster,
    copy_tree,
    own,
    passable_folder,
)

pytestmark = pytest.mark.root

PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: /usr/bin/python3
  roles:
    - splitmirror.backup.restore_drill
  tasks:
    - ansible.builtin.assert:
        that: restore_drill_answers == wanted
        fail_msg: "It answers {{ restore_drill_answers }}."
"""


def drill(tmp_path: Path, target: Path, data: Path, wanted: dict[str, str]) -> tuple[int, str]:
    """Hold a drill on a restored data directory; return its exit code and its words."""
    playbook = tmp_path / "drill.yml"
    playbook.write_text(PLAYBOOK, encoding="utf-8")
    variables = {
        "restore_drill_target": str(target),
        "restore_drill_data_directory": str(data),
        "restore_drill_bin_dir": bin_dir(),
        "restore_drill_queries": {"n": "SELECT sum(n) FROM t", "where": "SHOW data_directory"},
        "wanted": {**wanted, "where": str(data)},
    }
    done = run_playbook(playbook_command("localhost,", playbook, **variables), tmp_path)
    return done.returncode, done.stdout


@contextlib.contextmanager
def restored_beside(target: Path, server: Cluster, *folders: Path) -> Iterator[Path]:
    """Copy the crashed server's folders below a target, and yield the copy of its data directory."""
    server.stop("immediate")
    (server.data / "postmaster.pid").unlink(missing_ok=True)  # a backup leaves it out
    for folder in (server.data, *folders):
        place = target / folder.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_tree(folder, place)
    yield target / server.data.relative_to("/")


def digest(*folders: Path) -> dict[str, str]:
    """What is in folders: links as such, files by their contents and times."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                found[str(path)] = f"link to {os.readlink(path)}"
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = f"{content} {path.stat().st_mtime_ns}"
            else:
                found[str(path)] = "folder"
    return found


def test_no_link_leads_a_drill_to_the_original(tmp_path: Path) -> None:
    with passable_folder() as folder, cluster(folder / "original", wal=folder / "wal", checksums=False) as server:
        big = own(folder / "big")
        server.sql("CREATE TABLE t (n int); CHECKPOINT")
        base = server.data / server.sql("SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'")
        table = server.data / server.sql("SELECT pg_relation_filepath('t')")
        server.stop()
        # A database that was moved, in it a table that was moved again, by a relative link below the link.
        shutil.move(base, big / "moved")
        base.symlink_to(big / "moved")
        one = own(folder / "one")
        shutil.move(table, one / "table")
        table.symlink_to("../../one/table")
        shutil.move(server.data / "pg_hba.conf", big / "hba")
        (server.data / "pg_hba.conf").symlink_to(big / "hba")
        server.start()
        # Recovery writes these rows into the table's file again.
        server.sql("INSERT INTO t SELECT generate_series(1, 10000)")
        originals = (server.data, folder / "wal", big, one)
        with restored_beside(folder / "restore", server, *originals[1:]) as copy:
            before = digest(*originals)
            code, said = drill(tmp_path, folder / "restore", copy, {"n": "50005000"})
            assert code == 0, said[-6000:]
            assert digest(*originals) == before


def test_no_setting_leads_a_drill_to_the_original_or_out_of_the_restored_files(tmp_path: Path) -> None:
    with passable_folder() as folder, cluster(folder / "original", checksums=False) as server:
        outside = own(folder / "outside")
        server.sql("CREATE TABLE t AS SELECT 7 AS n")
        server.sql("ALTER ROLE postgres SET session_preload_libraries = 'no_such_library'")
        server.stop()
        lines = [
            f"data_directory = '{server.data}'",
            f"external_pid_file = '{server.data}/pid'",
            f"log_directory = '{outside}'",
            "logging_collector = on",
            f"archive_command = 'touch {outside}/archived'",
            f"archive_cleanup_command = 'touch {outside}/cleaned'",
            f"stats_temp_directory = '{outside}'" if server_version() < 15 else "",
            f"include '{outside}/not there'",
            f"ssl_cert_file = '{outside}/cert'",
            "shared_preload_libraries = 'no_such_library'",
            f"hba_file = '{outside}/hba'",
        ]
        for name in ("postgresql.conf", "postgresql.auto.conf"):
            with open(server.data / name, "a", encoding="utf-8") as settings:
                settings.write("\n".join(lines) + "\n")
        (server.data / "pg_stat_tmp").rmdir()
        (server.data / "pg_stat_tmp").symlink_to(outside)
        with restored_beside(folder / "restored it", server) as copy:
            before = digest(server.data)
            auto_conf = (copy / "postgresql.auto.conf").read_bytes()
            code, said = drill(tmp_path, folder / "restored it", copy, {"n": "7"})
            assert code == 0, said[-6000:]
            assert digest(server.data) == before
            assert not (copy / "postmaster.pid").exists()
            assert list(outside.iterdir()) == []
            assert (copy / "postgresql.auto.conf").read_bytes() == auto_conf


def server_version() -> int:
    return int(bin_dir().split("/")[-2])


def test_a_drill_refuses_what_recovery_would_create_at_the_originals_path(tmp_path: Path) -> None:
    with passable_folder() as folder, cluster(folder / "original", checksums=False) as server:
        space = own(folder / "space")
        server.sql("CREATE TABLE t AS SELECT 7 AS n; CHECKPOINT")
        server.sql(f"CREATE TABLESPACE fresh LOCATION '{space}'")
        with restored_beside(folder / "restore", server, space) as copy:
            before = digest(space)
            code, said = drill(tmp_path, folder / "restore", copy, {"n": "7"})
            assert code != 0
            assert "recovery would create the tablespace" in said.replace("\n", " ")
            assert digest(space) == before


def test_a_drill_does_not_stop_the_original_whose_lock_file_was_restored(tmp_path: Path) -> None:
    with passable_folder() as folder, cluster(folder / "original", checksums=False) as server:
        server.sql("CREATE TABLE t AS SELECT 7 AS n; CHECKPOINT")
        copy = folder / "restore"
        copy_tree(server.data, copy)
        code, said = drill(tmp_path, copy, copy, {"n": "7"})
        assert code != 0
        assert "is not a server on these files" in said.replace("\n", " ")
        assert server.sql("SELECT n FROM t") == "7"
