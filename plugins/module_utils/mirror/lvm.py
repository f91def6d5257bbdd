# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``lvm``: a LUN is an LVM raid1, the mirror one of its images, split and merged with tracking of changes.

``primary`` is ``VG/LV``, ``mirror`` the image, ``VG/LV_rimage_N``. After the split LVM shows the image as a volume of
its own with the same offsets (lvmraid(7), "RAID1 Tracking"); at the merge only what changed is copied. LVM splits one
volume for each command, so several volumes show the same instant only under the freeze.

The session is a tag on the volume, so that its split is recognized even if our own records are lost. A split without
this tag belongs to somebody else and is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ..host.blockdev import is_read_only, kernel_device, set_read_only
from ..session import StateDir
from .base import Capabilities, MirrorError, Pair, PreparedSplit, check_names
from .host import await_device, run_tool
from .raid import IN, OUT, PairView, RaidProvider

_NAME = r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*"
_VOLUME = re.compile(rf"{_NAME}/{_NAME}")
#: Followed by the session; a tag of a volume.
TAG = "splitmirror.session="
_FIELDS = (
    "vg_name,lv_name,segtype,lv_size,lv_active,sync_percent,raid_sync_action,lv_health_status,raidintegritymode,"
    "vg_lock_type,vg_permissions,lv_tags,devices,lv_kernel_major,lv_kernel_minor"
)
#: In the window, LVM does not write its archive of metadata, which may be on a frozen file system (tagging and merging
#: write it), and does not wait until udev has named the image, which takes longer than the split.
IN_WINDOW = ("--config", "backup{archive=0 backup=0}", "--noudevsync")


@dataclass(frozen=True)
class Volume:
    """A logical volume, as lvs reports it. :param hidden: it is part of another one. :param devices: below it."""

    segtype: str
    size_bytes: int
    active: bool
    sync_percent: Optional[float]
    sync_action: str
    health: str
    integrity: bool
    lock_type: str
    writable: bool
    tags: tuple[str, ...]
    devices: tuple[str, ...]
    number: str
    hidden: bool


def check_volume_names(pairs: Iterable[Pair], provider: str) -> None:
    """Refuse a primary or mirror that is not written ``VG/LV``. :raises MirrorError: the first that is refused."""
    check_names(pairs, provider, _VOLUME, "VG/LV")


def report(pairs: Sequence[Pair], fields: str) -> list[dict[str, str]]:
    """What lvs reports on all logical volumes of the volume groups of these pairs, one dict for each segment.

    A missing group has none.
    """
    groups = dict.fromkeys(pair.primary.split("/")[0] for pair in pairs)
    wanted = " || ".join(f"vg_name={group}" for group in groups)
    words = ["--all", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields]
    rows: list[dict[str, str]] = json.loads(run_tool("lvs", *words, "--select", wanted))["report"][0]["lv"]
    return rows


def session_of(tags: Iterable[str]) -> Optional[str]:
    """The session whose mark is among these tags of a volume; None if there is none."""
    return next((tag[len(TAG) :] for tag in tags if tag.startswith(TAG)), None)


def read_volumes(pairs: Sequence[Pair]) -> dict[str, Volume]:
    """All logical volumes of the volume groups of these pairs, by ``VG/LV``."""
    volumes: dict[str, Volume] = {}
    for row in report(pairs, _FIELDS):
        name = f"{row['vg_name']}/{row['lv_name'].strip('[]')}"
        devices = tuple(re.sub(r"\(\d+\)$", "", device) for device in row["devices"].split(",") if device)
        if name in volumes:  # a row for each segment
            devices = volumes[name].devices + devices
        volumes[name] = _volume(row, tuple(dict.fromkeys(devices)))
    return volumes


def _volume(row: dict[str, Any], devices: tuple[str, ...]) -> Volume:
    return Volume(
        segtype=row["segtype"],
        size_bytes=int(row["lv_size"]),
        active=row["lv_active"] == "active",
        sync_percent=float(row["sync_percent"]) if row["sync_percent"] else None,
        sync_action=row["raid_sync_action"],
        health=row["lv_health_status"],
        integrity=bool(row["raidintegritymode"]) or row["segtype"] == "integrity",
        lock_type=row["vg_lock_type"],
        writable=row["vg_permissions"] == "writeable",
        tags=tuple(row["lv_tags"].split(",")),
        devices=devices,
        number=f"{row['lv_kernel_major']}:{row['lv_kernel_minor']}",
        hidden=row["lv_name"].startswith("["),
    )


class LvmProvider(RaidProvider):
    """Mirrors as images of LVM raid1 volumes of this host."""

    name = "lvm"
    capabilities = Capabilities(takes_turns=True)

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        self._disks: dict[str, tuple[str, ...]] = {}
        check_volume_names(pairs, self.name)
        for pair in pairs:
            if not re.fullmatch(re.escape(pair.primary) + r"_rimage_\d+", pair.mirror):
                raise MirrorError(
                    f"pairs: the mirror of pair {pair.name} is {pair.mirror}, which is not an image of {pair.primary}; "
                    f"name an image, such as {pair.primary}_rimage_1.",
                    option="pairs",
                    code="option_invalid",
                )

    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        """See RaidProvider."""
        volumes = read_volumes(pairs)
        return [view_of(pair, volumes) for pair in pairs]

    def mark(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        run_tool("lvchange", "--yes", "--addtag", TAG + session, pair.primary)

    def unmark(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        primary = read_volumes([pair]).get(pair.primary)
        if primary is not None and TAG + session in primary.tags:
            run_tool("lvchange", "--yes", "--deltag", TAG + session, pair.primary)

    def take_out(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        split = ("--splitmirrors", "1", "--trackchanges", pair.primary)
        run_tool("lvconvert", "--yes", *IN_WINDOW, *split, *self._disks[pair.mirror])

    def put_back(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        self._set_read_only(pair, False)
        run_tool("lvconvert", "--yes", "--merge", pair.mirror)

    def make_readable(self, pair: Pair) -> str:
        """See RaidProvider. LVM reports the image as read-only, but its device accepts writes (seen with 2.03.16)."""
        self._set_read_only(pair, True)
        return await_device(pair, f"/dev/{pair.mirror}")

    def make_unreadable(self, pair: Pair) -> None:
        """See RaidProvider."""
        self._set_read_only(pair, False)

    def leg_device(self, pair: Pair) -> str:
        """See RaidProvider."""
        image = read_volumes([pair]).get(pair.mirror)
        if image is None:
            raise MirrorError(f"pair {pair.name}: {pair.primary} has no image {pair.mirror}.")
        return image.number

    def prepare(self, session: str) -> PreparedSplit:
        """See MirrorProvider."""
        volumes = read_volumes(self.pairs)
        # Find out now, not in the window, on which disks the image is.
        self._disks = {pair.mirror: volumes[pair.mirror].devices for pair in self.pairs if pair.mirror in volumes}
        return super().prepare(session)

    def _set_read_only(self, pair: Pair, read_only: bool) -> None:
        set_read_only(kernel_device(self.leg_device(pair)), read_only)


def view_of(pair: Pair, volumes: dict[str, Volume]) -> PairView:
    """What LVM reports about a pair. :param volumes: from read_volumes."""
    primary, image = volumes.get(pair.primary), volumes.get(pair.mirror)
    broken = _why_broken(pair, primary, image, volumes)
    if primary is None or image is None:
        return PairView(broken=broken)
    split = not image.hidden
    read_only = split and is_read_only(image.number)
    return PairView(
        size_bytes=primary.size_bytes,
        sync_percent=None if split else primary.sync_percent,
        broken=broken,
        syncing=None if split else _why_syncing(pair, primary),
        leg=OUT if split else IN,
        mark=session_of(primary.tags),
        devices=(kernel_device(image.number),) if split else (),
        presented=f"/dev/{pair.mirror}" if read_only else None,
    )


def _why_broken(
    pair: Pair, primary: Optional[Volume], image: Optional[Volume], volumes: dict[str, Volume]
) -> Optional[str]:
    """Why LVM would refuse the split, or why the split would be useless."""
    who = f"pair {pair.name}: {pair.primary}"
    if primary is None:
        return f"{who} is not a logical volume of this host."
    if primary.segtype != "raid1":
        return f"{who} is of type {primary.segtype}, and only raid1 has a mirror to split (lvconvert --type raid1)."
    images = sorted(name for name in volumes if re.fullmatch(re.escape(pair.primary) + r"_rimage_\d+", name))
    if image is None:
        return f"{who} has no image {pair.mirror}; it has {', '.join(images)}."
    if not primary.active:
        return f"{who} is not active on this host; activate it (lvchange --activate y)."
    if not primary.writable:
        return f"{who} is in a volume group that is read-only here, and a split changes its metadata; make it writable."
    if primary.integrity or any(volumes[name].integrity for name in images):
        return (
            f"{who} uses raid integrity, with which LVM cannot track a split; remove it (lvconvert --raidintegrity n)."
        )
    if primary.lock_type == "sanlock":
        return f"{who} is in a volume group that uses sanlock, with which LVM cannot split a mirror."
    others = [name for name in images if name != pair.mirror and not volumes[name].hidden]
    if others:
        return f"{who} has another split image, {others[0]}, and LVM tracks only one; merge it (lvconvert --merge)."
    if primary.health:
        return (
            f"{who} has the health status {primary.health!r} (lvs -o lv_health_status); repair it first (lvmraid(7))."
        )
    return None


def _why_syncing(pair: Pair, primary: Volume) -> Optional[str]:
    if primary.sync_action in ("", "idle") and primary.sync_percent == 100.0:
        return None
    percent = "percentage unknown" if primary.sync_percent is None else f"{primary.sync_percent:.2f} %"
    action = primary.sync_action or "unknown"
    return f"pair {pair.name}: {pair.primary} is not in sync yet: {percent} (action: {action})."
