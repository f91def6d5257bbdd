# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill starts the restored files, whatever their settings say of the original's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import playbook_command, run_playbook
from ansible_collections.splitmirror.backup.tests.support.postgres import bin_dir, cluster, copy_tree, passable_folder

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


def test_a_drill_leaves_the_original_alone(tmp_path: Path) -> None:
    playbook = tmp_path / "drill.yml"
    playbook.write_text(PLAYBOOK, encoding="utf-8")
    with passable_folder() as folder, cluster(folder / "original", checksums=False) as server:
        server.sql("CREATE TABLE t AS SELECT 7 AS n")
        server.stop()
        with open(server.data / "postgresql.conf", "a", encoding="utf-8") as settings:
            settings.write(f"data_directory = '{server.data}'\nexternal_pid_file = '{server.data}/pid'\n")
        restored = folder / "restored it"
        copy_tree(server.data, restored)
        before = sorted(os.listdir(server.data))
        variables = {
            "restore_drill_data_directory": str(restored),
            "restore_drill_bin_dir": bin_dir(),
            "restore_drill_queries": {"n": "SELECT n FROM t", "where": "SHOW data_directory"},
            "wanted": {"n": "7", "where": str(restored)},
        }
        done = run_playbook(playbook_command("localhost,", playbook, **variables), tmp_path)
        assert done.returncode == 0, done.stdout[-6000:]
        assert sorted(os.listdir(server.data)) == before
        assert not (restored / "postmaster.pid").exists()
