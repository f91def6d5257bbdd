# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layers between a file system and a real LUN of the lab. What is done on the database host is in on_database.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import on_database
from .guest import on

pytestmark = [pytest.mark.root, pytest.mark.slow]

COLLECTION = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def host(lab: RunningLab) -> Iterator[RunningLab]:
    """Give the lab whose database host has the collection's code, and one more LUN."""
    target = lab.machine(lab.lab().host("db1")).root / "opt/ansible_collections/splitmirror/backup"
    shutil.copytree(COLLECTION / "plugins/module_utils", target / "plugins/module_utils", dirs_exist_ok=True)
    shutil.copytree(COLLECTION / "tests/support", target / "tests/support", dirs_exist_ok=True)
    shutil.copy(on_database.__file__, target / "on_database.py")
    unit = "--lld iscsi --mode logicalunit --tid 1 --lun 9"
    on(
        lab,
        "array1",
        f"""lvcreate --yes --wipesignatures=n --size=96M --name=spare san
        tgtadm {unit} --op new --bstype=rdwr --bsoflags=direct --backing-store=/dev/san/spare
        tgtadm {unit} --op update --params=scsi_sn=spare,scsi_id=0123456789abcdef""",
    )
    on(lab, "db1", "iscsiadm --mode=session --rescan; udevadm settle")
    yield lab
    on(lab, "db1", f"echo 1 >/sys/block/$(basename $(readlink -f /dev/disk/by-id/{on_database.WWN}))/device/delete")
    on(lab, "array1", f"tgtadm {unit} --op delete; lvremove --yes san/spare")


@pytest.mark.parametrize("case", [case.__name__ for case in on_database.CASES])
def test_on_the_database_host(host: RunningLab, case: str) -> None:
    second = host.lab().host("array1").address
    script = "/opt/ansible_collections/splitmirror/backup/on_database.py"
    assert on(host, "db1", f"SECOND_PORTAL={second} PYTHONPATH=/opt python3 {script} {case}") == '"passed"'
