# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks are known by what they say of themselves, and named by udev's names for that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.disks import (
    all_disks,
    check_size,
    serial_in,
    stable_name,
    wwns_in,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError

NAA = bytes.fromhex("6001405a0fe08c6c479317f57172bc3a")
PAGE_80 = b"\0\x80\0\x08  S-0001"
#: A designator of the target port (association 1), then those of the LUN: T10 text, EUI-64, NAA.
PAGE_83 = (
    b"\0\x83\0\0"
    + b"\x01\x13\0\x08"
    + b"\x50" * 8
    + b"\x02\x01\0\x04"
    + b"ACME"
    + b"\x01\x02\0\x08"
    + bytes(range(8))
    + b"\x01\x03\0\x10"
    + NAA
)


def test_pages_of_vital_product_data() -> None:
    assert serial_in(PAGE_80) == "S-0001"
    assert wwns_in(PAGE_83) == ["0001020304050607", NAA.hex()]
    assert serial_in(b"") == ""
    assert wwns_in(b"") == wwns_in(PAGE_83[:6]) == []


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Make a /sys with a LUN on two paths under multipath, a partition, an NVMe disk on two hidden paths, a loop."""

    def put(path: str, data: bytes) -> None:
        file = tmp_path / "class/block" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    for path in ("sda", "sdb"):
        put(f"{path}/dev", b"8:0\n")
        put(f"{path}/size", b"2048\n")
        put(f"{path}/device/vpd_pg80", PAGE_80)
        put(f"{path}/device/vpd_pg83", PAGE_83)
        put(f"{path}/holders/dm-0", b"")
    put("sda1/dev", b"8:1\n")
    put("sda1/size", b"1024\n")
    put("sda1/partition", b"1\n")
    put("sda1/device/vpd_pg80", PAGE_80)
    put("dm-0/size", b"2048\n")
    put("dm-0/dm/uuid", b"mpath-3" + NAA.hex().encode())
    put("nvme0n1/dev", b"259:0\n")
    put("nvme0n1/size", b"4096\n")
    put("nvme0n1/wwid", b"eui.0025385B71B0A1C2\n")
    put("nvme0n1/device/serial", b"NV-7  \n")
    for path in ("nvme0c0n1", "nvme0c1n1"):
        put(f"{path}/hidden", b"1\n")
        put(f"{path}/size", b"4096\n")
        put(f"{path}/wwid", b"eui.0025385B71B0A1C2\n")
        put(f"{path}/device/serial", b"NV-7  \n")
    put("loop0/size", b"8\n")
    return tmp_path


def test_a_disk_is_found_by_any_of_its_names(sysfs: Path) -> None:
    disks = {disk.name: disk for disk in all_disks(str(sysfs))}
    assert set(disks) == {"sda", "sdb", "nvme0n1"}
    for name in ("S-0001", "s-0001", "naa." + NAA.hex().upper(), "0x" + NAA.hex(), NAA.hex()):
        assert disks["sda"].is_called(name)
        assert not disks["nvme0n1"].is_called(name)
    for name in ("NV-7", "eui.0025385b71b0a1c2", "0025385b71b0a1c2"):
        assert disks["nvme0n1"].is_called(name)
    for name in ("", " ", "0x", "S-000", "ACME"):
        assert not any(disk.is_called(name) for disk in disks.values())


def test_the_multipath_device_is_read_where_there_is_one(sysfs: Path) -> None:
    disks = {disk.name: disk for disk in all_disks(str(sysfs))}
    assert disks["sda"].top == disks["sdb"].top == "/dev/dm-0"
    assert disks["nvme0n1"].top == "/dev/nvme0n1"


def test_a_lun_of_another_size_is_refused(sysfs: Path) -> None:
    disk = all_disks(str(sysfs))[0]
    check_size("data", disk, disk.size_bytes)
    check_size("data", disk, None)
    with pytest.raises(TransportError, match=r"pair data: .* bytes here, and 512 on the array"):
        check_size("data", disk, 512)


def test_a_multipath_device_of_an_old_size_is_refused(sysfs: Path) -> None:
    (sysfs / "class/block/dm-0/size").write_text("1024\n")
    with pytest.raises(TransportError, match=r"has 524288 bytes here, and 1048576 on the array"):
        check_size("data", next(disk for disk in all_disks(str(sysfs)) if disk.multipath), 2048 * 512)


def test_a_path_whose_multipath_device_is_to_come_is_not_read_by_itself(sysfs: Path, tmp_path: Path) -> None:
    by_id, udev_data = tmp_path / "by-id", tmp_path / "udev"
    by_id.mkdir()
    udev_data.mkdir()
    for path in ("sda", "sdb"):
        (sysfs / "class/block" / path / "holders/dm-0").unlink()
    (sysfs / "class/block/dm-0/dev").write_text("254:0\n")
    (udev_data / "b8:0").write_text("S:disk/by-id/wwn-0x1\nE:DM_MULTIPATH_DEVICE_PATH=1\n")
    (udev_data / "b254:0").write_text("S:disk/by-id/dm-uuid-mpath-3\n")
    (by_id / "wwn-0x1").symlink_to("/dev/sda")
    (by_id / "dm-uuid-mpath-3").symlink_to("/dev/dm-0")
    disks = [disk for disk in all_disks(str(sysfs)) if disk.serial == "S-0001"]

    def name(timeout_s: float = 0) -> str:
        return stable_name(disks, str(by_id), timeout_s, str(sysfs), str(udev_data))

    with pytest.raises(TransportError, match="/dev/sda: udev takes it for a path of a multipath device"):
        name()

    def lay_it_over() -> None:
        for path in ("sda", "sdb"):
            (sysfs / "class/block" / path / "holders/dm-0").touch()

    later = threading.Timer(0.05, lay_it_over)
    later.start()
    assert name(timeout_s=30) == str(by_id / "dm-uuid-mpath-3")
    later.join()
    # What multipath.conf excludes has another record.
    for path in ("sda", "sdb"):
        (sysfs / "class/block" / path / "holders/dm-0").unlink()
    (udev_data / "b8:0").write_text("S:disk/by-id/wwn-0x1\nE:DM_MULTIPATH_DEVICE_PATH=0\n")
    assert name() == str(by_id / "wwn-0x1")


def test_the_name_says_which_lun_it_is(sysfs: Path, tmp_path: Path) -> None:
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    disks = [disk for disk in all_disks(str(sysfs)) if disk.serial == "S-0001"]
    udev_data = tmp_path / "udev"
    udev_data.mkdir()
    (sysfs / "class/block/dm-0/dev").write_text("254:0\n")

    def name(timeout_s: float = 0) -> str:
        return stable_name(disks, str(by_id), timeout_s, str(sysfs), str(udev_data))

    (by_id / "wwn-0x1").symlink_to("/dev/sda")
    with pytest.raises(TransportError, match="/dev/dm-0: udev makes no link"):
        name()
    for link in ("scsi-36001405", "dm-name-mpatha", "wwn-0x6001405"):
        (by_id / link).symlink_to("/dev/dm-0")
    # udev may still be making links: a better one may follow.
    with pytest.raises(TransportError, match="/dev/dm-0: udev makes no link"):
        name()
    best = by_id / "dm-uuid-mpath-36001405"
    record = "S:disk/by-id/wwn-0x6001405\nS:disk/by-id/dm-uuid-mpath-36001405\nI:2795242\n"
    (udev_data / "b254:0").write_text(record)

    def make_the_best() -> None:
        best.symlink_to("/dev/dm-0")

    # What is recorded may be of the device that had this number before: its links are waited for.
    later = threading.Timer(0.05, make_the_best)
    later.start()
    assert name(timeout_s=30) == str(best)
    later.join()
    # A link that another device has is not waited for without end.
    best.unlink()
    best.symlink_to("/dev/sda")
    assert name() == str(by_id / "wwn-0x6001405")
