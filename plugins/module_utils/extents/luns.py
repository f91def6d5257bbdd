# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The LUNs of a mirror set as the database host sees them: identity, file systems, bytes read and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ..host import blockdev
from .fsinfo import read_fs_info
from .maprows import MapError
from .stack import (
    BlockStack,
    LunSpec,
    Mount,
    check_fs_type,
    lun_device_number,
    mount_of,
    read_mounts,
)

#: /sys/class/block/*/stat counts in these units whatever the device's own, see Documentation/block/stat.rst.
STAT_SECTOR_BYTES = 512


@dataclass(frozen=True)
class LunFileSystem:
    """A mounted file system that lies on a LUN. :param mount_points: in the order they were mounted."""

    device: str
    fs_type: str
    fs_uuid: Optional[str]
    mount_points: tuple[str, ...]


@dataclass(frozen=True)
class Lun:
    """One LUN. :param read_bytes: read since boot or since the device came; likewise written_bytes."""

    name: str
    device: str
    kernel_device: str
    size_bytes: int
    serial: Optional[str]
    wwn: Optional[str]
    read_bytes: int
    written_bytes: int
    file_systems: tuple[LunFileSystem, ...]


def look_at_luns(luns: Sequence[LunSpec], paths: Sequence[str] = ()) -> list[Lun]:
    """Look at all LUNs and check that all paths lie on them.

    :raises MapError: a device is missing or not the one with the declared serial, or a path is not on a mirrored LUN.
    """
    stack = BlockStack(luns)
    on_luns = _file_systems(stack)
    found = []
    for spec, size_bytes, kernel_wwn in stack.luns():
        number = lun_device_number(spec)
        serial = _serial(number)
        wwn = kernel_wwn or _udev(number).get("ID_WWN")
        _check_identity(spec, serial, wwn)
        read_bytes, written_bytes = _traffic(number)
        kernel_device = "/dev/" + os.path.basename(os.path.realpath(_sysfs(number)))
        file_systems = tuple(system for lun, system in on_luns if lun == spec.name)
        found.append(
            Lun(
                spec.name,
                spec.device,
                kernel_device,
                size_bytes,
                serial,
                wwn,
                read_bytes,
                written_bytes,
                file_systems,
            )
        )
    for path in paths:
        mount = mount_of(path)
        check_fs_type(mount, f"paths: {path}")
        try:
            stack.resolve(mount.dev)
        except MapError as exc:
            raise MapError(
                f"paths: {path} has no mirror: {exc.message}", option="paths", code="file_unmappable"
            ) from exc
    return found


def _file_systems(stack: BlockStack) -> list[tuple[str, LunFileSystem]]:
    """Pairs of a LUN's name and a file system on it."""
    by_device: dict[int, list[Mount]] = {}
    for mount in read_mounts():
        if os.major(mount.dev):
            by_device.setdefault(mount.dev, []).append(mount)
    found = []
    for dev, mounts in by_device.items():
        try:
            segments = stack.resolve(dev)
        except MapError:
            continue  # not on these LUNs, or not wholly
        device = "/dev/" + os.path.basename(os.path.realpath(_sysfs(dev)))
        info = read_fs_info(device)
        system = LunFileSystem(
            device,
            mounts[0].fs_type,
            info.fs_uuid if info else None,
            tuple(os.fsdecode(mount.mount_point) for mount in mounts),
        )
        found += [(lun, system) for lun in dict.fromkeys(segment.lun for segment in segments)]
    return found


def _check_identity(spec: LunSpec, serial: Optional[str], wwn: Optional[str]) -> None:
    if not spec.serial:
        return
    wanted = blockdev.plain_identifier(spec.serial)
    if wanted not in {blockdev.plain_identifier(name) for name in (serial, wwn) if name}:
        raise MapError(
            f"pairs: {spec.name}: {spec.device} has serial {serial or 'none'} and WWN {wwn or 'none'}, not "
            f"{spec.serial}; name the right device.",
            option="pairs",
            code="option_invalid",
        )


def _serial(number: int) -> Optional[str]:
    known = _udev(number)
    for key in ("ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "DM_SERIAL"):
        if known.get(key):
            return known[key]
    for name in ("serial", "device/serial"):  # virtio and NVMe
        try:
            with open(os.path.join(_sysfs(number), name), encoding="utf-8", errors="replace") as stream:
                return stream.read().strip() or None
        except OSError:
            continue
    return None


def _udev(number: int) -> dict[str, str]:
    """What udev knows of a device; nothing where there is no udev."""
    try:
        with open(f"/run/udev/data/b{os.major(number)}:{os.minor(number)}", encoding="utf-8", errors="replace") as data:
            lines = [line[2:].rstrip("\n") for line in data if line.startswith("E:")]
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _traffic(number: int) -> tuple[int, int]:
    with open(os.path.join(_sysfs(number), "stat"), encoding="ascii") as stream:
        fields = [int(word) for word in stream.read().split()]
    return fields[2] * STAT_SECTOR_BYTES, fields[6] * STAT_SECTOR_BYTES


def _sysfs(number: int) -> str:
    return f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
