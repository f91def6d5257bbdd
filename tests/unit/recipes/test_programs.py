# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs of recipes, with stand-ins for the makers' libraries that know their calls and keep a small array."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.tests.support.recipes import ROLE

SHORT = "sm6n5v2mcxxmj2nc22"

#: The methods of PyU4V 10.2 that are called, with the names of their parameters. The array is a file.
PYU4V = """
import json, os
from .utils.exception import ResourceNotFoundException

class Kept(dict):
    def __init__(self): super().__init__(json.load(open(os.environ["ARRAY"])))
    def keep(self): json.dump(self, open(os.environ["ARRAY"], "w"))

class Provisioning:
    def get_volumes_from_storage_group(self, storage_group_id): return Kept()["groups"][storage_group_id]
    def get_volume(self, device_id): return {"volumeId": device_id, "wwn": "60000970ABC" + device_id}

class Replication:
    def create_storage_group_snapshot(
        self, storage_group_id, snap_name, ttl=None, hours=False, secure=False, bothsides=False
    ):
        kept = Kept()
        snap_id = len(kept["snapshots"])
        kept["snapshots"].append({"group": storage_group_id, "name": snap_name, "id": snap_id, "linked": None})
        kept.keep()
    def get_storage_group_snapshot_snap_id_list(self, storage_group_id, snap_name):
        found = [s["id"] for s in Kept()["snapshots"] if (s["group"], s["name"]) == (storage_group_id, snap_name)]
        if not found: raise ResourceNotFoundException("404")
        return found
    def get_snapshot_snap_id_details(self, sg_id, snap_name, snap_id):
        return [{"linked": s["linked"] is not None} for s in Kept()["snapshots"] if s["id"] == snap_id][0]
    def link_snapshot_by_snap_id(self, sg_id, link_sg_name, snap_name, snap_id, _async=False):
        self.link(snap_id, link_sg_name)
    def unlink_snapshot_by_snap_id(self, sg_id, unlink_sg_name, snap_name, snap_id, _async=False):
        self.link(snap_id, None)
    def link(self, snap_id, group):
        kept = Kept()
        [s for s in kept["snapshots"] if s["id"] == snap_id][0]["linked"] = group
        kept.keep()
    def delete_storage_group_snapshot_by_snap_id(
        self, storage_group_id, snap_name, snap_id, force=False, array_id=None, symforce=False
    ):
        kept = Kept()
        assert [s["linked"] for s in kept["snapshots"] if s["id"] == snap_id] == [None]
        kept["snapshots"] = [s for s in kept["snapshots"] if s["id"] != snap_id]
        kept.keep()

class U4VConn:
    def __init__(self, username=None, password=None, server_ip=None, port=None, verify=None, array_id=None):
        if password != "secret": raise ValueError("401 Unauthorized")
        self.provisioning, self.replication = Provisioning(), Replication()
"""

#: The calls of boto3's client for EC2, as the API has them.
BOTO3 = """
import json, os

class Kept(dict):
    def __init__(self): super().__init__(json.load(open(os.environ["ARRAY"])))
    def keep(self): json.dump(self, open(os.environ["ARRAY"], "w"))

class Client:
    def describe_instances(self, *, InstanceIds):
        volumes = Kept()["volumes"]
        mappings = [{"DeviceName": d, "Ebs": {"VolumeId": v}} for d, v in volumes.items()]
        return {"Reservations": [{"Instances": [{"RootDeviceName": "/dev/xvda", "BlockDeviceMappings": mappings}]}]}
    def describe_volumes(self, *, VolumeIds):
        return {"Volumes": [{"VolumeId": volume, "Size": 2} for volume in VolumeIds]}
    def create_snapshots(self, *, InstanceSpecification, Description, TagSpecifications):
        kept, made = Kept(), []
        left_out = set(InstanceSpecification["ExcludeDataVolumeIds"])
        for device, volume in kept["volumes"].items():
            if volume in left_out or device == "/dev/xvda" and InstanceSpecification["ExcludeBootVolume"]: continue
            made.append({"SnapshotId": "snap-" + volume, "VolumeId": volume, "State": "pending"})
        kept["snapshots"] += [{**one, "Tags": TagSpecifications[0]["Tags"]} for one in made]
        kept.keep()
        return {"Snapshots": made}
    def get_paginator(self, name): assert name == "describe_snapshots"; return self
    def paginate(self, *, OwnerIds, Filters):
        for one in Kept()["snapshots"]:
            if one["Tags"][0]["Value"] in Filters[0]["Values"]: yield {"Snapshots": [one]}
    def delete_snapshot(self, *, SnapshotId):
        kept = Kept()
        kept["snapshots"] = [one for one in kept["snapshots"] if one["SnapshotId"] != SnapshotId]
        kept.keep()

def client(service, *, region_name, aws_access_key_id, aws_secret_access_key):
    if not aws_access_key_id: raise ValueError("Unable to locate credentials")
    return Client()
"""


class Bench:
    """A program, the stand-in of its library, and the array."""

    def __init__(self, folder: Path, program: str, words: list[str], array: dict[str, Any]) -> None:
        self.folder = folder
        self.command = [sys.executable, str(ROLE / "files" / program), *words]
        self.secrets = {"username": "u", "password": "secret", "access_key": "k", "secret_key": "s"}
        (folder / "array.json").write_text(json.dumps(array))

    def snapshots(self) -> list[Any]:
        """What is on the array."""
        found: list[Any] = json.loads((self.folder / "array.json").read_text())["snapshots"]
        return found

    def say(self, pairs: list[dict[str, str]], *ops: str) -> list[dict[str, Any]]:
        """Have a conversation, and return the answers."""
        hello = {"protocol": 1, "session": "s", "short": SHORT, "pairs": pairs, "secrets": self.secrets}
        lines = [hello, *({"op": op} for op in ops), {"op": "stop"}]
        done = subprocess.run(
            self.command,
            input="".join(f"{json.dumps(line)}\n" for line in lines),
            env={**os.environ, "PYTHONPATH": str(self.folder), "ARRAY": str(self.folder / "array.json")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def powermax(tmp_path: Path) -> Bench:
    (tmp_path / "PyU4V/utils").mkdir(parents=True)
    (tmp_path / "PyU4V/__init__.py").write_text(PYU4V)
    (tmp_path / "PyU4V/utils/__init__.py").touch()
    (tmp_path / "PyU4V/utils/exception.py").write_text("class ResourceNotFoundException(Exception): pass\n")
    words = ["--unisphere", "u", "--array", "1", "--group", "db1", "--target-group", "db1_m"]
    return Bench(
        tmp_path,
        "powermax_snapvx.py",
        words,
        {"groups": {"db1": ["0002F", "00030"], "db1_m": ["0104A", "0104B"]}, "snapshots": []},
    )


POWERMAX_PAIRS = [
    {"name": "data", "primary": "0002F", "mirror": "0104A"},
    {"name": "wal", "primary": "00030", "mirror": "0104B"},
]


def test_powermax_makes_and_takes_away_one_snapshot(powermax: Bench) -> None:
    ready, look, split, present = powermax.say(POWERMAX_PAIRS, "look", "split", "present")
    assert ready == {"ready": True}
    assert look == {"ok": True, "pairs": {"data": {}, "wal": {}}}
    assert split == {"ok": True, "pairs": ["data", "wal"]}
    assert present["pairs"] == {"data": {"wwn": "60000970abc0104a"}, "wal": {"wwn": "60000970abc0104b"}}
    assert [(one["name"], one["linked"]) for one in powermax.snapshots()] == [(SHORT, "db1_m")]
    # Another run of the program finds it by its name, also if there is nothing left.
    assert [one["ok"] for one in powermax.say(POWERMAX_PAIRS, "withdraw")[1:]] == [True]
    assert [one["linked"] for one in powermax.snapshots()] == [None]
    assert [one["ok"] for one in powermax.say(POWERMAX_PAIRS, "present", "undo", "undo", "withdraw")[1:]] == [True] * 4
    assert powermax.snapshots() == []


def test_powermax_refuses_what_is_not_the_set(powermax: Bench) -> None:
    (ready,) = powermax.say(POWERMAX_PAIRS[:1], "split")
    assert ready["ready"] is False
    assert "00030" in ready["error"]
    # A snapshot that nobody has taken is not presented.
    (_ready, present) = powermax.say(POWERMAX_PAIRS, "present")
    assert present["ok"] is False
    powermax.secrets["password"] = "wrong"
    assert powermax.say(POWERMAX_PAIRS)[0] == {"ready": False, "error": "401 Unauthorized"}
    assert powermax.snapshots() == []


@pytest.fixture
def ebs(tmp_path: Path) -> Bench:
    (tmp_path / "boto3.py").write_text(BOTO3)
    volumes = {"/dev/xvda": "vol-root", "/dev/sdf": "vol-1", "/dev/sdg": "vol-2", "/dev/sdh": "vol-other"}
    words = ["--region", "r", "--instance", "i-1"]
    return Bench(tmp_path, "ebs_snapshots.py", words, {"volumes": volumes, "snapshots": []})


EBS_PAIRS = [
    {"name": "data", "primary": "vol-1", "mirror": "/dev/sdf"},
    {"name": "wal", "primary": "vol-2", "mirror": "/dev/sdg"},
]


def test_ebs_takes_the_volumes_of_the_set_and_no_other(ebs: Bench) -> None:
    ready, look, split = ebs.say(EBS_PAIRS, "look", "split")
    assert ready == {"ready": True}
    assert look["pairs"] == {"data": {"size_bytes": 2 << 30}, "wal": {"size_bytes": 2 << 30}}
    assert sorted(split["pairs"]) == ["data", "wal"]
    assert [one["VolumeId"] for one in ebs.snapshots()] == ["vol-1", "vol-2"]
    assert [one["ok"] for one in ebs.say(EBS_PAIRS, "undo", "undo")[1:]] == [True, True]
    assert ebs.snapshots() == []


def test_ebs_refuses_a_volume_of_another_instance(ebs: Bench) -> None:
    (ready,) = ebs.say([{"name": "data", "primary": "vol-9", "mirror": "/dev/sdf"}], "split")
    assert ready["ready"] is False
    assert "vol-9" in ready["error"]
    del ebs.secrets["access_key"]
    assert ebs.say(EBS_PAIRS)[0] == {"ready": False, "error": "Unable to locate credentials"}
