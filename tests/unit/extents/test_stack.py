# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a device down to the LUNs, on sysfs folders and device-mapper tables as real machines show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import (
    BlockStack,
    LunSpec,
    Mount,
    Segment,
    check_fs_type,
    mount_of,
    read_mounts,
    visible_mounts,
)

SDB, SDC, SDB1, DM0, DM1, MD0, LOOP0 = (
    os.makedev(*n) for n in ((8, 16), (8, 32), (8, 17), (253, 0), (253, 1), (9, 0), (7, 0))
)
LUNS = {"data": SDB, "log": SDC}


class Machine:
    """A sysfs tree of its own, and the tables that dmsetup would tell."""

    def __init__(self, folder: Path) -> None:
        self.sysfs = folder
        self.tables: dict[str, str] = {}
        (folder / "dev/block").mkdir(parents=True)
        self.add("sdb", SDB, 1 << 20)
        self.add("sdc", SDC, 1 << 20)
        (folder / "devices/sdb/device").mkdir()
        (folder / "devices/sdb/device/wwid").write_text("naa.6001405\n")

    def add(self, place: str, dev: int, sectors: int, **entries: str) -> None:
        folder = self.sysfs / "devices" / place
        folder.mkdir(parents=True)
        number = f"{os.major(dev)}:{os.minor(dev)}"
        for name, value in {"size": str(sectors), "dev": number, **entries}.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(value + "\n")
        (self.sysfs / "dev/block" / number).symlink_to(folder)

    def stack(self) -> BlockStack:
        luns = [LunSpec(name, f"/dev/{name}") for name in LUNS]
        return BlockStack(luns, str(self.sysfs), self.tables.__getitem__, lambda lun: LUNS[lun.name])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_lun_is_itself(machine: Machine) -> None:
    assert machine.stack().resolve(SDB) == [Segment(0, "data", 0, 512 << 20)]
    assert [(lun.name, size, wwn) for lun, size, wwn in machine.stack().luns()] == [
        ("data", 512 << 20, "naa.6001405"),
        ("log", 512 << 20, None),
    ]


def test_a_partition_begins_where_it_starts(machine: Machine) -> None:
    machine.add("sdb/sdb1", SDB1, 1000, partition="1", start="2048")
    assert machine.stack().resolve(SDB1) == [Segment(0, "data", 2048 * 512, 1000 * 512)]


def test_a_partition_that_ends_behind_its_lun_is_refused(machine: Machine) -> None:
    machine.add("sdb/sdb1", SDB1, 1 << 20, partition="1", start="2048")
    with pytest.raises(MapError, match="is smaller than"):
        machine.stack().resolve(SDB1)


def test_lvm_linear_over_a_partition_and_two_luns(machine: Machine) -> None:
    machine.add("sdb/sdb1", SDB1, 900_000, partition="1", start="2048")
    machine.add("dm-0", DM0, 300_000, dm__name="vg-pg")
    machine.tables["vg-pg"] = (
        "0 100000 linear 8:17 2048\n100000 100000 linear 8:17 102048\n200000 100000 linear 8:32 384\n"
    )
    assert machine.stack().resolve(DM0) == [
        # Two extents of LVM that lie behind one another are one.
        Segment(0, "data", (2048 + 2048) * 512, 200_000 * 512),
        Segment(200_000 * 512, "log", 384 * 512, 100_000 * 512),
    ]


def test_lvm_on_a_partition_of_a_multipath_device(machine: Machine) -> None:
    machine.add("dm-0", DM0, 1 << 20, dm__name="mpatha")
    machine.add("dm-1", DM1, 5000, dm__name="mpatha1")
    machine.tables["mpatha"] = (
        "0 1048576 multipath 2 queue_if_no_path retain_attached_hw_handler 1 alua 2 1 service-time 0 1 2 "
        "65:32 1 1 service-time 0 1 2 8:16 1 1 \n"
    )
    machine.tables["mpatha1"] = "0 5000 linear 253:0 2048\n"
    assert machine.stack().resolve(DM1) == [Segment(0, "data", 2048 * 512, 5000 * 512)]


def test_a_declared_device_is_the_lun_whatever_lies_below_it(machine: Machine) -> None:
    machine.add("dm-0", DM0, 1000, dm__name="vg-mirrored")
    luns = [LunSpec("data", "/dev/vg/mirrored")]
    stack = BlockStack(luns, str(machine.sysfs), machine.tables.__getitem__, lambda lun: DM0)
    assert stack.resolve(DM0) == [Segment(0, "data", 0, 1000 * 512)]


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("0 1000 crypt aes-xts-plain64 :64:logon:cryptsetup:x 0 8:16 32768\n", "crypt"),
        ("0 1000 thin 253:4 1\n", "thin"),
        ("0 1000 raid raid1 3 0 region_size 4096 2 253:1 253:2 253:3 253:4\n", "raid"),
        ("0 500 linear 8:16 0\n500 500 striped 2 128 8:16 500 8:32 0\n", "striped"),
    ],
)
def test_other_layers_of_device_mapper_are_refused_by_name(machine: Machine, table: str, kind: str) -> None:
    machine.add("dm-0", DM0, 1000, dm__name="some")
    machine.tables["some"] = table
    with pytest.raises(MapError, match=f"some .*type {kind}.*LVM linear or multipath") as error:
        machine.stack().resolve(DM0)
    assert error.value.option == "pairs"


def test_md_and_loop_devices_are_refused_by_name(machine: Machine) -> None:
    machine.add("md0", MD0, 1000, md__level="raid1")
    machine.add("loop0", LOOP0, 1000, loop__backing_file="/images/a.img")
    with pytest.raises(MapError, match=r"/dev/md0 is an md array \(raid1\)"):
        machine.stack().resolve(MD0)
    with pytest.raises(MapError, match=r"/dev/loop0 is a loop device on the file /images/a\.img"):
        machine.stack().resolve(LOOP0)


def test_an_undeclared_device_is_refused_with_what_is_declared(machine: Machine) -> None:
    machine.add("sdz", os.makedev(65, 0), 1000)
    with pytest.raises(MapError, match=r"/dev/sdz is not on a mirrored LUN \(declared: /dev/data, /dev/log\)"):
        machine.stack().resolve(os.makedev(65, 0))
    machine.add("dm-0", DM0, 1000, dm__name="mpathb")
    machine.tables["mpathb"] = "0 1000 multipath 0 0 1 1 service-time 0 1 2 65:32 1 1\n"
    with pytest.raises(MapError, match="not on a mirrored LUN"):
        machine.stack().resolve(DM0)
    with pytest.raises(MapError, match="not a block device in sysfs"):
        machine.stack().resolve(os.makedev(0, 44))


def test_another_path_to_a_declared_lun_is_refused_as_such(machine: Machine) -> None:
    machine.add("sdz", os.makedev(65, 0), 1 << 20, device__wwid="naa.6001405")
    with pytest.raises(MapError, match=r"/dev/sdz is another path to the LUN of pair data .*/dev/data; put multipath"):
        machine.stack().resolve(os.makedev(65, 0))


def test_wrong_declarations_are_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"data and log name the same device|log and data name the same device"):
        BlockStack([LunSpec("data", "/dev/x"), LunSpec("log", "/dev/x")], str(machine.sysfs), None, lambda lun: SDB)
    with pytest.raises(MapError, match=r"data: .*/nothing is not there"):
        BlockStack([LunSpec("data", f"{tmp_path}/nothing")])
    with pytest.raises(MapError, match="is not a block device"):
        BlockStack([LunSpec("data", str(tmp_path))])


@pytest.mark.parametrize(
    ("table", "seen"),
    [
        ("1 0 /|2 1 /a|3 2 /a/b|4 1 /a/c", "1 2 3"),  # what was mounted below /a before /a is hidden by it
        ("1 0 /|2 1 /a|3 2 /a|4 3 /a/b", "1 3 4"),  # one over the other
        ("1 0 /|2 1 /a/b|3 1 /a", "1 3"),
        ("1 0 /|2 1 /", "2"),  # over the root itself
        ("7 5 /a|8 7 /a/b", "7 8"),  # a root of its own that is no mount
        ("1 1 /|2 1 /a|9 2 /a/b/c", "1 2 9"),
    ],
)
def test_a_mount_is_visible_where_a_path_leads_to_it(table: str, seen: str) -> None:
    rows = [line.split() for line in table.split("|")]
    mounts = [Mount(point.encode(), "x", "xfs", 1, b"/", int(number), int(over)) for number, over, point in rows]
    assert [str(mount.number) for mount in visible_mounts(mounts)] == seen.split()


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        b"30 22 8:17 / /a\\040b\\134 rw - xfs /dev/sdb1 rw,noquota\n"
        b"31 22 8:17 /in/side /bound rw,nosuid shared:3 master:4 - xfs /dev/sdb1 rw\n"
        b"32 30 0:44 / /a\\040b\\134/over rw - tmpfs tmpfs rw\n"
        b"33 32 8:32 / /a\\040b\\134/over rw - ext4 /dev/sdc rw\n"
    )
    mounts = read_mounts(str(table))
    assert mounts[1] == Mount(b"/a b\\", "/dev/sdb1", "xfs", SDB1, b"/", 30, 22)
    assert mounts[2].root == b"/in/side"
    assert visible_mounts(mounts) == [mounts[0], mounts[1], mounts[2], mounts[4]]
    assert mount_of("/a b\\/deep/er", mounts) == mounts[1]
    assert mount_of("/a b\\extra", mounts) == mounts[0]
    assert mount_of("/a b\\/over/x", mounts) == mounts[4]


@pytest.mark.parametrize(
    ("fs_type", "reason"),
    [
        ("btrfs", "not offsets on a device"),
        ("zfs", "no extent map"),
        ("nfs4", "network"),
        ("overlay", "other file systems"),
        ("tmpfs", "memory"),
        ("fuse.sshfs", "kernel does not know"),
        ("jfs", "only the extents of XFS and ext4"),
    ],
)
def test_file_systems_that_cannot_be_mapped_are_refused_by_name(fs_type: str, reason: str) -> None:
    with pytest.raises(
        MapError, match=f"^paths: /data lies on {fs_type} .*{reason}.*; move it to XFS or ext4"
    ) as error:
        check_fs_type(Mount(b"/data", "x", fs_type, 1), "paths: /data")
    assert error.value.option == "paths"
    check_fs_type(Mount(b"/data", "x", "xfs", 1), "paths: /data")
