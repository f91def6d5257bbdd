# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program for provider external: SnapVX snapshots of a storage group on a Dell PowerMax, by its library PyU4V.

The recipe powermax says how it is used. It needs snapshot ids (PowerMaxOS 5978.669.669 or newer).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import PyU4V
from PyU4V.utils.exception import ResourceNotFoundException


class SnapVX:
    """The snapshots of one session."""

    def __init__(self, options: argparse.Namespace, hello: Mapping[str, Any]) -> None:
        self.options = options
        self.short = hello["short"]
        self.pairs = hello["pairs"]
        self.array = PyU4V.U4VConn(
            server_ip=options.unisphere,
            port=options.port,
            verify=options.ca_file or True,
            username=hello["secrets"]["username"],
            password=hello["secrets"]["password"],
            array_id=options.array,
        )
        for group, side in ((options.group, "primary"), (options.target_group, "mirror")):
            there = sorted(self.array.provisioning.get_volumes_from_storage_group(group))
            wanted = sorted(pair[side] for pair in self.pairs)
            if there != wanted:
                raise ValueError(f"storage group {group} has the volumes {there}, and the pairs name {wanted}.")

    def look(self) -> dict[str, Any]:
        """Whether the pairs can be split: that the groups are these volumes has been seen when it began."""
        return {"pairs": {pair["name"]: {} for pair in self.pairs}}

    def split(self) -> dict[str, Any]:
        """Take the snapshot. Unisphere answers when it is there, because the request does not ask for a job."""
        self.array.replication.create_storage_group_snapshot(
            self.options.group, self.short, ttl=str(self.options.keep_hours), hours=True
        )
        return {"pairs": [pair["name"] for pair in self.pairs]}

    def present(self) -> dict[str, Any]:
        """Link the snapshot to the target group, which is masked to the media server."""
        snapshots = self._snapshots()
        if len(snapshots) != 1:
            raise ValueError(f"there are {len(snapshots)} snapshots {self.short} of {self.options.group}, not one.")
        if not self._is_linked(snapshots[0]):
            self.array.replication.link_snapshot_by_snap_id(
                self.options.group, self.options.target_group, self.short, snapshots[0]
            )
        volumes = {pair["name"]: self.array.provisioning.get_volume(pair["mirror"]) for pair in self.pairs}
        return {"pairs": {name: {"wwn": volume["wwn"].lower()} for name, volume in volumes.items()}}

    def withdraw(self) -> dict[str, Any]:
        """Take the link away."""
        for snapshot in self._snapshots():
            if self._is_linked(snapshot):
                self.array.replication.unlink_snapshot_by_snap_id(
                    self.options.group, self.options.target_group, self.short, snapshot
                )
        return {}

    def undo(self) -> dict[str, Any]:
        """Delete the snapshot."""
        self.withdraw()
        for snapshot in self._snapshots():
            self.array.replication.delete_storage_group_snapshot_by_snap_id(self.options.group, self.short, snapshot)
        return {}

    def _snapshots(self) -> list[int]:
        try:
            return list(self.array.replication.get_storage_group_snapshot_snap_id_list(self.options.group, self.short))
        except ResourceNotFoundException:
            return []

    def _is_linked(self, snapshot: int) -> bool:
        details = self.array.replication.get_snapshot_snap_id_details(self.options.group, self.short, snapshot)
        return bool(details["linked"])


def main() -> None:
    """Answer lines until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--unisphere", required=True)
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--ca-file")
    parser.add_argument("--array", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--target-group", required=True)
    parser.add_argument("--keep-hours", type=int, default=72, help="after which the array deletes what nobody has")
    options = parser.parse_args()
    hello = json.loads(sys.stdin.readline())
    try:
        array = SnapVX(options, hello)
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
