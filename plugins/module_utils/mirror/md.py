# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``md``: a LUN is a raid1 of mdadm with a write-intent bitmap, the mirror one of its legs.

``primary`` is the array (``/dev/md/NAME``), ``mirror`` the leg's block device. The split fails and removes the leg; the
resync adds it again, and the bitmap tells md what to copy (md(4), "RE-ADD"). On the leg, the LUN begins after md's
superblock, at the data offset. The leg is presented through a loop device that begins there.

md trusts a leg that is added again: if somebody has written to it, the array would return that data. The provider
therefore records at the split how many bytes were written to the leg, and does not add a leg again that was written to.

md cannot store a mark of the session. A leg that is out and has no record may be out because its disk failed, so it is
left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..host.blockdev import kernel_device
from ..host.files import remove_partials, replace_file
from ..host.strict_json import read_json, whole
from ..session import StateDir
from . import loop
from .base import MirrorError, Pair
from .host import Written, leg_number, run_tool, written, written_between
from .raid import FAULTY, IN, OUT, PairView, RaidProvider

SECTOR_BYTES = 512
#: How long md may take to release a leg that was marked as failed.
_REMOVE_TIMEOUT_S = 10.0


class MdProvider(RaidProvider):
    """Mirrors as legs of md raid1 arrays of this host."""

    name = "md"

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        for pair in pairs:
            for what, device in (("primary", pair.primary), ("mirror", pair.mirror)):
                if not device.startswith("/dev/"):
                    raise MirrorError(
                        f"pairs: the {what} of pair {pair.name} is {device!r}; provider md needs a path under /dev.",
                        option="pairs",
                        code="option_invalid",
                    )

    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        """See RaidProvider."""
        return [_view(pair) for pair in pairs]

    def mark(self, pair: Pair, session: str) -> None:
        """See RaidProvider; md cannot store a mark."""

    def unmark(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        note = self._note(pair, session)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(note)
        # There is no folder before the first split.
        with contextlib.suppress(FileNotFoundError):
            remove_partials(note)

    def take_out(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        run_tool("mdadm", "--quiet", pair.primary, "--fail", pair.mirror)
        # Once now, in case the process dies before the second time; writes may still be under way.
        self._note_written(pair, session)
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        while True:
            try:
                run_tool("mdadm", "--quiet", pair.primary, "--remove", pair.mirror)
                break
            except MirrorError:  # busy while writes to it are under way
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._note_written(pair, session)

    def refuse_changed(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        changed_bytes = written_between(self._written_at_split(pair, session), written(self.leg_device(pair)))
        if changed_bytes:
            raise MirrorError(
                f"pair {pair.name}: {changed_bytes} bytes were written to {pair.mirror} while it was split, and md "
                f"cannot notice them; let md copy everything: mdadm --zero-superblock {pair.mirror}, then mdadm "
                f"{pair.primary} --add {pair.mirror}."
            )

    def put_back(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        self.refuse_changed(pair, session)
        run_tool("mdadm", "--quiet", pair.primary, "--re-add", pair.mirror)

    def make_readable(self, pair: Pair) -> str:
        """See RaidProvider."""
        array = _sysfs(pair.primary)
        sector_bytes = int(_read(f"{array}/queue/logical_block_size"))
        size_bytes = int(_read(f"{array}/size")) * SECTOR_BYTES
        return loop.attach(os.path.realpath(pair.mirror), sector_bytes, _data_offset_bytes(pair.mirror), size_bytes)

    def make_unreadable(self, pair: Pair) -> None:
        """See RaidProvider."""
        for device in loop.loops_of(pair.mirror):
            loop.detach(device.path, pair.mirror)

    def leg_device(self, pair: Pair) -> str:
        """See RaidProvider."""
        return leg_number(pair)

    def _note(self, pair: Pair, session: str) -> str:
        return self.state_dir.leg_file(session, pair.name)

    def _note_written(self, pair: Pair, session: str) -> None:
        """Record what was written to the leg so far. Not durably, because a reboot also resets the kernel's counter."""
        path = self._note(pair, session)
        try:
            replace_file(path, json.dumps(written(self.leg_device(pair))._asdict()))
        except OSError as exc:
            raise MirrorError(
                f"pair {pair.name}: {path} cannot be written ({exc.strerror}); it records how much was written to "
                "the mirror, so make room there."
            ) from exc

    def _written_at_split(self, pair: Pair, session: str) -> Written:
        try:
            note = Written(**read_json(self._note(pair, session)))
            return Written(str(note.disk), whole(note.bytes))
        except (FileNotFoundError, ValueError, TypeError):
            # After a reboot the kernel's counter began at zero, too. If the file is lost otherwise, everything counts.
            return Written("", 0)
        except OSError as exc:
            raise MirrorError(f"{self._note(pair, session)}: it cannot be read ({exc.strerror}); remove it.") from exc


def _view(pair: Pair) -> PairView:
    array = _sysfs(pair.primary)
    broken = _why_no_mirror(pair, array)
    if broken or array is None:
        return PairView(broken=broken)
    size_bytes = int(_read(f"{array}/size")) * SECTOR_BYTES
    member = _member(array, pair.mirror)
    if member is None:
        if _array_uuid("--examine", pair.mirror) != _array_uuid("--detail", pair.primary):
            return PairView(size_bytes, broken=f"pair {pair.name}: {pair.mirror} is not a leg of {pair.primary}.")
        presented = [device.path for device in loop.loops_of(pair.mirror) if device.read_only]
        device = presented[0] if presented else kernel_device(_number(pair.mirror))
        return PairView(size_bytes, leg=OUT, devices=(device,), presented=presented[0] if presented else None)
    state = _read(f"{member}/state").split(",")
    if "faulty" in state:
        broken = (
            f"pair {pair.name}: {pair.mirror} is faulty in {pair.primary}; replace it, or clean up first if a session "
            "died while it split the pair (mirror_sync with state: recovered)."
        )
        return PairView(size_bytes, broken=broken, leg=FAULTY)
    degraded, action = int(_read(f"{array}/md/degraded")), _read(f"{array}/md/sync_action")
    in_sync = "in_sync" in state
    # Another leg is missing and is not being rebuilt, so this one has to stay.
    if degraded and in_sync and action == "idle":
        broken = f"pair {pair.name}: {pair.primary} lacks a leg other than {pair.mirror}; repair it first."
    mismatches = int(_read(f"{array}/md/mismatch_cnt"))
    if mismatches and action == "idle":
        broken = (
            f"pair {pair.name}: the legs of {pair.primary} differ in {mismatches} sectors (mismatch_cnt); write repair "
            "to its sync_action first."
        )
    percent = 100.0 if in_sync and action == "idle" else _progress_percent(array)
    syncing = None
    if not in_sync or action != "idle":
        how_far = "percentage unknown" if percent is None else f"{percent:.2f} %"
        syncing = f"pair {pair.name}: {pair.primary} is not in sync yet: {how_far} (action: {action})."
    return PairView(size_bytes, percent, broken, syncing, IN)


def _why_no_mirror(pair: Pair, array: Optional[str]) -> Optional[str]:
    who = f"pair {pair.name}: {pair.primary}"
    if array is None:
        return f"{who} is not a running md array of this host."
    level = _read(f"{array}/md/level")
    if level != "raid1":
        return f"{who} is of level {level}, and only raid1 has a mirror to split."
    if _read(f"{array}/md/bitmap/location") == "none":
        return (
            f"{who} has no write-intent bitmap, so each resync would copy all of it (mdadm --grow --bitmap=internal)."
        )
    if not os.path.exists(pair.mirror):
        return f"{who} has no leg {pair.mirror}; there is no such device."
    return None


def _sysfs(device: str) -> Optional[str]:
    """The folder of an md array under /sys; None if the device is not one."""
    try:
        folder = os.path.realpath(f"/sys/dev/block/{_number(device)}")
    except OSError:
        return None
    return folder if os.path.exists(f"{folder}/md/level") else None


def _number(device: str) -> str:
    number = os.stat(device).st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _member(array: str, leg: str) -> Optional[str]:
    """The folder of a leg below that of the array; None if the leg is out."""
    number = _number(leg)
    for name in os.listdir(f"{array}/md"):
        with contextlib.suppress(OSError):  # a member that disappears meanwhile
            if name.startswith("dev-") and _read(f"{array}/md/{name}/block/dev") == number:
                return f"{array}/md/{name}"
    return None


def _array_uuid(how: str, device: str) -> Optional[str]:
    try:
        found = re.search(r"^MD_UUID=(\S+)$", run_tool("mdadm", how, "--export", device), re.MULTILINE)
    except MirrorError:  # no superblock
        return None
    return found.group(1) if found else None


def _data_offset_bytes(leg: str) -> int:
    """Where the LUN begins on a leg that is out. Metadata 0.90 has no offset, because it is at the end."""
    found = re.search(r"^\s*Data Offset : (\d+) sectors$", run_tool("mdadm", "--examine", leg), re.MULTILINE)
    return int(found.group(1)) * SECTOR_BYTES if found else 0


def _progress_percent(array: str) -> Optional[float]:
    """How far md has come, from sync_completed: ``sectors / sectors`` or ``none``."""
    words = _read(f"{array}/md/sync_completed").split(" / ")
    return 100.0 * int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()
