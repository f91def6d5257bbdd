# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program for provider external: snapshots of the EBS volumes of one instance, at one instant, by boto3.

The recipe ebs says how it is used. Without access_key and secret_key among the secrets boto3 finds its own, those of
the instance's role for example.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import boto3

TAG = "splitmirror"


class Ebs:
    """The snapshots of one session."""

    def __init__(self, options: argparse.Namespace, hello: Mapping[str, Any]) -> None:
        self.instance = options.instance
        self.short = hello["short"]
        self.names = {pair["primary"]: pair["name"] for pair in hello["pairs"]}
        secrets = hello["secrets"]
        self.ec2 = boto3.client(
            "ec2",
            region_name=options.region,
            aws_access_key_id=secrets.get("access_key"),
            aws_secret_access_key=secrets.get("secret_key"),
        )
        (reservation,) = self.ec2.describe_instances(InstanceIds=[self.instance])["Reservations"]
        (instance,) = reservation["Instances"]
        devices = {one["Ebs"]["VolumeId"]: one["DeviceName"] for one in instance["BlockDeviceMappings"]}
        missing = sorted(set(self.names) - set(devices))
        if missing:
            raise ValueError(f"instance {self.instance} does not have {', '.join(missing)}; primary is a volume's id.")
        boot = [volume for volume, device in devices.items() if device == instance["RootDeviceName"]]
        self.left_out = sorted(set(devices) - set(self.names) - set(boot))
        self.without_boot = not set(boot) & set(self.names)

    def look(self) -> dict[str, Any]:
        """How large the volumes are."""
        volumes = self.ec2.describe_volumes(VolumeIds=sorted(self.names))["Volumes"]
        return {"pairs": {self.names[one["VolumeId"]]: {"size_bytes": one["Size"] << 30} for one in volumes}}

    def split(self) -> dict[str, Any]:
        """Take the snapshots. The instant is taken when they are answered, though their data is copied for hours."""
        made = self.ec2.create_snapshots(
            InstanceSpecification={
                "InstanceId": self.instance,
                "ExcludeBootVolume": self.without_boot,
                "ExcludeDataVolumeIds": self.left_out,
            },
            Description=f"{TAG} {self.short}",
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": TAG, "Value": self.short}]}],
        )["Snapshots"]
        taken = [one["VolumeId"] for one in made if one["State"] in ("pending", "completed")]
        return {"pairs": [self.names[volume] for volume in taken if volume in self.names]}

    def undo(self) -> dict[str, Any]:
        """Delete them."""
        pages = self.ec2.get_paginator("describe_snapshots").paginate(
            OwnerIds=["self"], Filters=[{"Name": f"tag:{TAG}", "Values": [self.short]}]
        )
        for snapshot in [one["SnapshotId"] for page in pages for one in page["Snapshots"]]:
            self.ec2.delete_snapshot(SnapshotId=snapshot)
        return {}


def main() -> None:
    """Answer lines until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--region", required=True)
    parser.add_argument("--instance", required=True, help="id of the instance whose volumes are split")
    options = parser.parse_args()
    hello = json.loads(sys.stdin.readline())
    try:
        array = Ebs(options, hello)
    except Exception as exc:
        answer({"ready": False, "error": str(exc)})
        return
    answer({"ready": True})
    for line in sys.stdin:
        op = json.loads(line)["op"]
        if op == "stop":
            break
        try:
            answer({"ok": True, **getattr(array, op)()})
        except Exception as exc:
            answer({"ok": False, "error": str(exc)})


def answer(said: dict[str, Any]) -> None:
    """Write one line."""
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
