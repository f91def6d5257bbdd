# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``lvm_thin``: a LUN is a thin volume of LVM, the mirror a thin snapshot of it.

``primary`` is ``VG/LV``, ``mirror`` the snapshot that the split makes in the same volume group. Until it is presented,
the snapshot is not active, so that no device shows the file system of the primary a second time. LVM takes one snapshot
for each command, so several volumes show the same instant only under the freeze.

The session is a tag on the snapshot. A volume without this tag belongs to somebody else and is never removed.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from ..host.blockdev import kernel_device
from ..options import Spec
from ..session import StateDir
from .base import Capabilities, MirrorError, Pair, PreparedSplit
from .host import await_device, run_tool
from .journal import SplitRecord
from .lvm import IN_WINDOW, TAG, check_volume_names, report, session_of
from .snapshots import SnapshotProvider, SnapshotView

_FIELDS = (
    "vg_name,lv_name,segtype,lv_size,lv_active,lv_attr,lv_tags,lv_kernel_major,lv_kernel_minor,pool_lv,"
    "data_percent,metadata_percent,lv_health_status,vg_permissions"
)
#: The first Linux in which device mapper can suspend a volume whose file system is frozen already (fs/super.c,
#: FREEZE_MAY_NEST). An older one refuses the snapshot with EBUSY.
NESTED_FREEZE = (6, 8)


@dataclass(frozen=True)
class ThinVolume:
    """A logical volume, as lvs reports it. :param pool: the thin pool of a thin volume, ``VG/LV``."""

    segtype: str
    size_bytes: int
    active: bool
    writable: bool
    tags: tuple[str, ...]
    number: str
    pool: str
    data_percent: Optional[float]
    metadata_percent: Optional[float]
    health: str
    group_writable: bool


def read_volumes(pairs: Sequence[Pair]) -> dict[str, ThinVolume]:
    """All logical volumes of the volume groups of these pairs, by ``VG/LV``."""
    volumes = {}
    for row in report(pairs, _FIELDS):
        name = row["lv_name"].strip("[]")
        volumes[f"{row['vg_name']}/{name}"] = ThinVolume(
            segtype=row["segtype"],
            size_bytes=int(row["lv_size"]),
            active=row["lv_active"] == "active",
            writable=row["lv_attr"][1] == "w",  # lv_permissions is unknown while it is not active
            tags=tuple(row["lv_tags"].split(",")),
            number=f"{row['lv_kernel_major']}:{row['lv_kernel_minor']}",
            pool=f"{row['vg_name']}/{row['pool_lv'].strip('[]')}",
            data_percent=float(row["data_percent"]) if row["data_percent"] else None,
            metadata_percent=float(row["metadata_percent"]) if row["metadata_percent"] else None,
            health=row["lv_health_status"],
            group_writable=row["vg_permissions"] == "writeable",
        )
    return volumes


class LvmThinProvider(SnapshotProvider):
    """Mirrors as snapshots of thin volumes of this host."""

    name = "lvm_thin"
    method = "thin snapshot"
    capabilities = Capabilities(takes_turns=True)
    argument_spec: ClassVar[Spec] = {"pool_limit_percent": {"type": "int", "default": 90}}

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        check_volume_names(pairs, self.name)
        for pair in pairs:
            group = pair.primary.split("/")[0]
            if pair.mirror.split("/")[0] != group:
                raise MirrorError(
                    f"pairs: the mirror of pair {pair.name} is {pair.mirror}, and a snapshot of {pair.primary} is in "
                    f"its volume group; name the mirror {group}/LV.",
                    option="pairs",
                    code="option_invalid",
                )

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """See SnapshotProvider."""
        volumes = read_volumes(pairs)
        return [view_of(pair, volumes, self.options["pool_limit_percent"]) for pair in pairs]

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider. LVM is asked beforehand whether it would take each snapshot."""
        prepared = super().prepared(record)
        try:
            for pair in record.pairs:
                self._create(pair, record.session, "--test")
        except MirrorError:
            prepared.cancel()
            raise
        return prepared

    def take(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        self._create(pair, session)

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        snapshot = read_volumes([pair]).get(pair.mirror)
        if snapshot is not None and session_of(snapshot.tags) == session:
            run_tool("lvremove", "--yes", pair.mirror)

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider. LVM sets the kernel's read-only flag, because the snapshot has no write permission."""
        run_tool("lvchange", "--activate", "y", "--ignoreactivationskip", pair.mirror)
        return await_device(pair, f"/dev/{pair.mirror}")

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider."""
        run_tool("lvchange", "--activate", "n", pair.mirror)

    def _create(self, pair: Pair, session: str, *more: str) -> None:
        how = ("--snapshot", "--activate", "n", "--permission", "r", "--addtag", TAG + session)
        run_tool("lvcreate", "--yes", *more, *IN_WINDOW, *how, "--name", pair.mirror.split("/")[1], pair.primary)


def view_of(pair: Pair, volumes: dict[str, ThinVolume], pool_limit_percent: int) -> SnapshotView:
    """What LVM reports about a pair. :param volumes: from read_volumes."""
    primary, snapshot = volumes.get(pair.primary), volumes.get(pair.mirror)
    lost = None
    if snapshot is not None and snapshot.writable:
        lost = f"pair {pair.name}: its mirror {pair.mirror} takes writes, so it may have changed; start a new session."
    return SnapshotView(
        size_bytes=primary.size_bytes if primary else None,
        broken=_why_broken(pair, primary, volumes, pool_limit_percent),
        mark=None if snapshot is None else session_of(snapshot.tags) or "",
        devices=(f"/dev/{pair.mirror}",) if snapshot is not None and snapshot.active else (),
        lost=lost,
    )


def _why_broken(
    pair: Pair, primary: Optional[ThinVolume], volumes: dict[str, ThinVolume], pool_limit_percent: int
) -> Optional[str]:
    """Why LVM would refuse the snapshot, or why it would endanger the primary."""
    who = f"pair {pair.name}: {pair.primary}"
    if primary is None:
        return f"{who} is not a logical volume of this host."
    if primary.segtype != "thin":
        return f"{who} is of type {primary.segtype}, and only a thin volume has thin snapshots (lvmthin(7))."
    if not primary.active:
        return f"{who} is not active on this host; activate it (lvchange --activate y)."
    if not primary.group_writable:
        return (
            f"{who} is in a volume group that is read-only here, and a snapshot changes its metadata; make it writable."
        )
    pool = volumes[primary.pool]
    if pool.health:
        return (
            f"{who} is in the thin pool {primary.pool}, which has the health status {pool.health!r} (lvs -o "
            "lv_health_status); repair it first (lvmthin(7))."
        )
    for what, percent in (("data", pool.data_percent), ("metadata", pool.metadata_percent)):
        if percent is not None and percent >= pool_limit_percent:
            return (
                f"{who} is in the thin pool {primary.pool}, whose {what} space is {percent:g} % full, and a snapshot "
                f"needs more of it for each write to the primary; extend the pool (lvextend), or set "
                f"pool_limit_percent, which is {pool_limit_percent}, in provider_options."
            )
    if kernel_version() < NESTED_FREEZE and file_system_on(primary.number):
        return (
            f"{who} has a file system that is mounted on this host, and Linux {os.uname().release} cannot take a "
            f"snapshot while it is frozen; use Linux {'.'.join(map(str, NESTED_FREEZE))} or later here, or run the "
            "database on another host or in a guest."
        )
    return None


def kernel_version() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    numbers = re.findall(r"\d+", os.uname().release)
    return int(numbers[0]), int(numbers[1])


def file_system_on(number: str) -> bool:
    """Whether a file system is mounted from this block device itself, in any mount namespace.

    The file systems of which extents can be mapped have a folder of that name for each mount.

    :param number: ``major:minor``.
    """
    return bool(glob.glob(f"/sys/fs/*/{os.path.basename(kernel_device(number))}"))
