# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hosts of the lab do what the collection needs of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from .guest import on

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_ansible_reaches_all_hosts_as_an_ordinary_user_who_may_become_root(lab: RunningLab, tmp_path: Path) -> None:
    ansible = Path(sys.executable).with_name("ansible")
    command = [*lab.inside(), str(ansible), "all", "-i", str(lab.inventory_file), "-m", "command", "-a", "id -un"]
    environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path)}
    for options, user in (([], "ops"), (["--become"], "root")):
        done = subprocess.run(
            command + options, text=True, capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for host in lab.lab().hosts:
            assert f"{host.name} | CHANGED | rc=0 >>\n{user}\n" in done.stdout
    inventory = json.loads(lab.inventory_file.read_text())
    assert set(inventory["all"]["children"]) == {
        "splitmirror_arrays",
        "splitmirror_database_hosts",
        "splitmirror_media_servers",
    }


def test_nobody_logs_in_as_root(lab: RunningLab) -> None:
    words = [word.replace("ops@", "root@") for word in lab.ssh_command("db1", ["true"])]
    done = subprocess.run(words, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_postgresql_lives_on_xfs_on_the_luns_of_the_array(lab: RunningLab) -> None:
    assert on(lab, "db1", "runuser -u postgres -- psql -Atc 'show data_directory'") == "/srv/data/postgresql"
    assert on(lab, "db1", "readlink -f /srv/data/postgresql/pg_wal") == "/srv/wal/pg_wal"
    for mount, serial in (("/srv/data", "db1_data"), ("/srv/wal", "db1_wal")):
        device, kind = on(lab, "db1", f"findmnt -no SOURCE,FSTYPE {mount}").split()
        assert kind == "xfs"
        assert on(lab, "db1", f"lsblk -dno SERIAL {device}") == serial


def test_a_lun_is_for_its_own_database_host(lab: RunningLab) -> None:
    settings = lab.lab().host("db1").settings
    portal, target = settings["portal"], settings["target"]
    on(lab, "media1", f"iscsiadm -m node -o new -T {target} -p {portal}")
    try:
        answer = lab.ssh("media1", f"sudo iscsiadm -m node -T {target} -p {portal} --login")
        assert answer.returncode != 0
        assert "login failure" in answer.stderr
    finally:
        on(lab, "media1", f"iscsiadm -m node -o delete -T {target} -p {portal}")


def test_the_split_mirror_is_the_primary_at_the_freeze(lab: RunningLab) -> None:
    image, mirror = "/dev/san/db1_data_rimage_1", "/mnt/mirror"
    on(
        lab,
        "db1",
        "mkdir -p /srv/data/files; for n in {1..20}; do head -c 100000 /dev/urandom >/srv/data/files/$n; done",
    )
    at_freeze = on(lab, "db1", "cd /srv/data/files; sha256sum *; fsfreeze --freeze /srv/data")
    try:
        on(lab, "array1", "lvconvert --yes --splitmirrors 1 --trackchanges san/db1_data")
    finally:
        on(lab, "db1", "fsfreeze --unfreeze /srv/data")
    on(lab, "db1", "echo later | tee /srv/data/files/* >/srv/data/files/new; sync -f /srv/data")
    on(lab, "array1", f"mkdir -p {mirror}; mount -t xfs -o ro,norecovery,nouuid {image} {mirror}")
    try:
        assert on(lab, "array1", f"cd {mirror}/files; sha256sum *") == at_freeze
    finally:
        on(lab, "array1", f"umount {mirror}")
    on(lab, "array1", "lvconvert --yes --merge san/db1_data_rimage_1")
    synced = "lvs --noheadings --separator / -o sync_percent,raid_sync_action san/db1_data"
    on(lab, "array1", f"until {synced} | grep -q 100.00/idle; do sleep 0.2; done")


def test_the_library_loads_a_volume_by_its_barcode_and_the_drive_keeps_what_is_written(lab: RunningLab) -> None:
    host = json.loads(lab.inventory_file.read_text())["all"]["children"]["splitmirror_media_servers"]["hosts"]["media1"]
    changer, drive = host["lab_changer"], host["lab_drives"][1]
    slot = f"mtx -f {changer} status | sed -n 's/.*Storage Element \\([0-9]*\\):Full :VolumeTag=LAB003.*/\\1/p'"
    number = on(lab, "media1", slot)
    on(lab, "media1", f"mtx -f {changer} load {number} 1")
    try:
        on(lab, "media1", f"mt -f {drive} setblk 0; mt -f {drive} rewind")
        write = f"head -c 655360 /dev/urandom >$file; dd if=$file of={drive} bs=64k status=none"
        on(lab, "media1", f"cd /srv/scratch; for file in one two; do {write}; done")
        on(lab, "media1", f"mt -f {drive} rewind; mt -f {drive} fsf 1")
        on(lab, "media1", f"dd if={drive} bs=64k status=none | cmp - /srv/scratch/two")
        on(lab, "media1", f"mt -f {drive} rewind; dd if={drive} bs=64k status=none | cmp - /srv/scratch/one")
        assert "VolumeTag = LAB003" in on(lab, "media1", f"mtx -f {changer} status")
    finally:
        on(lab, "media1", f"mt -f {drive} rewind; mtx -f {changer} unload {number} 1")
