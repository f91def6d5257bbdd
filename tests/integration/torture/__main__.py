# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Torture backups for some minutes: ``./run torture --minutes N [--seed S] [--fs xfs|ext4]``."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import leave_mount_namespace

from .load import Size
from .rounds import Round, SpoiltWindow, rig

_FS_TYPES = ("xfs", "ext4")
#: A load is begun anew after so long, with another seed, so that file systems of all ages are met.
_EPISODE_S = 480
_SIZE = Size(files=24_000, large_bytes=1 << 30, sparse_bytes=1 << 30, pace=1500)
_LUN_MIB = 8192
_SHOWN = 20


def main() -> int:
    """Run until the time is over or a difference is found; the exit status tells which."""
    parser = argparse.ArgumentParser(prog="./run torture", description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="begin no new round after so many minutes")
    parser.add_argument("--seed", type=int, help="repeat the loads of a run that printed this seed")
    parser.add_argument("--fs", choices=_FS_TYPES, action="append", help="only this file system")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("this needs root, for loop devices and mounts")
    # Clean up after this one too.
    signal.signal(signal.SIGTERM, lambda *_dummy: sys.exit(1))
    # Who copies the mounts of this machine meanwhile must not keep ours busy, and they end with this process.
    leave_mount_namespace()
    seed = random.SystemRandom().randrange(1 << 20) if options.seed is None else options.seed
    fs_types = options.fs or _FS_TYPES
    end = time.monotonic() + options.minutes * 60
    total: list[Round] = []
    print(f"seed {seed}: ./run torture --minutes {options.minutes:g} --seed {seed}", flush=True)
    while time.monotonic() < end:
        fs_type = fs_types[seed % len(fs_types)]
        if not _episode(fs_type, seed, min(end, time.monotonic() + _EPISODE_S), total):
            return 1
        seed += 1
    _tell_total(total)
    return 0


def _episode(fs_type: str, seed: int, end: float, total: list[Round]) -> bool:
    """Rounds over one load; whether all of them came out right."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="splitmirror-torture-") as folder,
        rig(Path(folder), fs_type, seed, _SIZE, _LUN_MIB) as made,
    ):
        while True:
            try:
                done = made.round()
            except SpoiltWindow:
                print(f"{fs_type} seed {seed}: somebody else thawed the file system in the window; not counted")
                continue
            total.append(done)
            print(_line(fs_type, seed, done), flush=True)
            for difference in done.differences[:_SHOWN]:
                print(f"  {difference}", flush=True)
            if done.differences:
                print(f"repeat it with: ./run torture --minutes 10 --seed {seed} --fs {fs_type}", flush=True)
                return False
            if time.monotonic() >= end:
                return True


def _line(fs_type: str, seed: int, done: Round) -> str:
    check, proof = done.check, done.proof
    return (
        f"{fs_type} seed {seed}: {done.members} members, {done.size_bytes / 2**30:.2f} GiB compared, "
        f"{len(done.differences)} differences; window {done.window_s * 1000:.0f} ms; "
        f"check ({check.tracker}, {check.examined} examined) {check.remapped} remapped, {check.added} added, "
        f"{check.removed} removed, {check.attributes} attributes; proof {proof['remapped']} remapped, "
        f"{proof['added']} added, {proof['removed']} removed, {proof['attributes']} attributes; "
        f"{done.fallback} through the mount"
    )


def _tell_total(total: list[Round]) -> None:
    members = sum(done.members for done in total)
    size = sum(done.size_bytes for done in total)
    windows = sorted(done.window_s * 1000 for done in total)
    corrected = sum(done.proof[what] for done in total for what in ("remapped", "added", "removed", "attributes"))
    print(
        f"{len(total)} rounds, {members} members and {size / 2**30:.1f} GiB compared, no difference; "
        f"windows {windows[0]:.0f} to {windows[-1]:.0f} ms, half of them up to {windows[len(windows) // 2]:.0f} ms; "
        f"the proof corrected {corrected} entries"
    )


if __name__ == "__main__":
    sys.exit(main())
