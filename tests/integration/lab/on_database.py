# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs on a database host of the lab as root: layers between a file system and a real LUN, and what its kernel does.

``python3 on_database.py CASE`` goes through one case, mostly on the LUN ``spare``, and prints ``"passed"``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.checking import MapChecker
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.protocol import EventLog
from ansible_collections.splitmirror.backup.tests.support.blockdev import mounted, run
from ansible_collections.splitmirror.backup.tests.support.fsload import frozen, make_all_sorts, tree_of, tree_of_map

WWN = "wwn-0x60000000000000000123456789abcdef"
LUN = os.path.realpath(f"/dev/disk/by-id/{WWN}")


def maps(where: Path, device: str, lun: str = LUN) -> None:
    """Make a file system on ``device``: what is read from the LUN alone, by the map, is what is in it."""
    run("mkfs.ext4", "-q", "-F", device)
    with mounted(device, where / "mnt") as mount:
        make_all_sorts(mount / "data")
        with MapFile.create(str(where / "map"), "s1", "host") as made:
            map_scopes(made, [Scope(str(mount / "data"))], [LunSpec("lun", lun)], workers=0)
            with frozen(mount):
                assert tree_of_map(made.entries(), {1: LUN}) == tree_of(os.fsencode(mount / "data"))
            assert made.counts().fallback == 0


@contextlib.contextmanager
def partition() -> Iterator[str]:
    """The second of two partitions of the LUN."""
    table = "label: gpt\nsize=16MiB\nsize=48MiB\n"
    subprocess.run(["sfdisk", "--quiet", "--wipe=always", LUN], input=table, text=True, check=True)
    run("udevadm", "settle")
    try:
        yield LUN + "2"
    finally:
        run("sfdisk", "--quiet", "--delete", LUN)
        run("udevadm", "settle")


@contextlib.contextmanager
def torn_volume(device: str) -> Iterator[str]:
    """A linear volume in two pieces on ``device``, with another volume between them."""
    run("vgcreate", "--yes", "torn", device)
    try:
        for name in ("a", "between"):
            run("lvcreate", "--yes", "--wipesignatures=n", "--size=16M", f"--name={name}", "torn")
        run("lvextend", "--size=+12M", "torn/a")
        assert run("dmsetup", "table", "torn-a").stdout.count("linear") == 2
        yield "/dev/torn/a"
    finally:
        run("vgremove", "--yes", "torn")
        run("pvremove", "--yes", device)


# ---- the cases ----


def a_whole_lun(where: Path) -> None:
    maps(where, LUN)


def a_partition(where: Path) -> None:
    with partition() as device:
        maps(where, device)


def a_linear_volume_in_pieces_on_a_partition(where: Path) -> None:
    with partition() as device, torn_volume(device) as volume:
        maps(where, volume)


def paths_of_one_lun_under_multipath(where: Path) -> None:
    """Two sessions to the array, as two paths; the LUN may be declared by a path, or by the multipath device."""
    portal = os.environ["SECOND_PORTAL"]
    run("iscsiadm", "--mode=discovery", "--type=sendtargets", f"--portal={portal}")
    run("iscsiadm", "--mode=node", f"--portal={portal}", "--login")
    try:
        run("udevadm", "settle")
        for module in ("dm-multipath", "dm-service-time"):
            run("modprobe", module)
        Path("/etc/multipath.conf").write_text("defaults {\n find_multipaths no\n user_friendly_names no\n}\n")
        run("multipath", "-v0", LUN)
        name = next(word for word in run("multipath", "-l", "-v1").stdout.split())
        try:
            device = f"/dev/mapper/{name}"
            assert run("lsblk", "--noheadings", "--raw", "--inverse", "--output=TYPE", device).stdout.count("disk") == 2
            maps(where, device)
            (where / "map").unlink()
            maps(where, device, device)
        finally:
            run("udevadm", "settle")
            run("multipath", "-f", name)
    finally:
        run("iscsiadm", "--mode=node", f"--portal={portal}", "--logout")
        run("iscsiadm", "--mode=node", f"--portal={portal}", "--op=delete")


def a_layer_that_cannot_be_translated_is_refused_by_name(where: Path) -> None:
    run("modprobe", "dm-delay")
    sectors = run("blockdev", "--getsz", LUN).stdout.strip()
    run("dmsetup", "create", "slow", "--table", f"0 {sectors} delay {LUN} 0 0")
    try:
        message = "it was mapped"
        try:
            maps(where, "/dev/mapper/slow")
        except MapError as exc:
            message = exc.message
        assert "device-mapper slow" in message and "type delay" in message, message  # noqa: PT018
    finally:
        run("udevadm", "settle")
        run("dmsetup", "remove", "slow")


def a_file_that_grows_is_looked_at_while_its_xfs_is_frozen(where: Path) -> None:
    """This kernel frees what is allocated behind the end of a file when that is closed, which a frozen XFS cannot."""
    mount = Path("/srv/data")
    device = run("findmnt", "--noheadings", "--output=SOURCE", mount).stdout.strip()
    checker = MapChecker(str(where / "map"), "s1", EventLog())
    checker.track([str(mount)])
    try:
        with tempfile.TemporaryDirectory(dir=mount) as folder, open(Path(folder) / "file", "wb", buffering=0) as file:
            grow(file)
            with MapFile.create(str(where / "map"), "s1", "host") as made:
                map_scopes(made, [Scope(folder)], [LunSpec("lun", device)], workers=0)
            checker.pre_check({os.stat(mount).st_dev})
            grow(file)
            found = os.stat(file.name)
            assert found.st_blocks * 512 > found.st_size, "nothing was allocated behind the end of the file"
            with frozen(mount):
                checked = checker.check({os.stat(mount).st_dev})
            checker.thawed()
            assert (checked["complete"], checked["remapped"]) == (True, 1)
    finally:
        checker.close()


def grow(file: BinaryIO) -> None:
    """Append in small pieces that reach the disk, as a database does."""
    for _dummy in range(4):
        for _dummy in range(10):
            file.write(bytes(8192))
        os.fsync(file.fileno())


CASES = [
    a_whole_lun,
    a_partition,
    a_linear_volume_in_pieces_on_a_partition,
    paths_of_one_lun_under_multipath,
    a_layer_that_cannot_be_translated_is_refused_by_name,
    a_file_that_grows_is_looked_at_while_its_xfs_is_frozen,
]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as the_folder:
        {case.__name__: case for case in CASES}[sys.argv[1]](Path(the_folder))
    print(json.dumps("passed"))
