# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rounds of map, window, write and compare over one file system under load, by the code that backups run on.

The LUN is an image on an array (an XFS that shares blocks) and its mirror a clone of it, taken while it is frozen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import CheckCounts, check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volume_source import one_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import label_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import WriteJob, write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.reflink import clone
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.tape import Held

from .comparing import compare_archive
from .load import Size, under_load

#: Direct I/O to a cloned image needs sectors as large as the blocks of the array's file system.
_SECTOR_BYTES = 4096
_RECORD_BYTES = 1 << 18
_VOLUME = "TORTURE"
_MOUNT_OPTIONS = {"xfs": ("ro", "norecovery", "nouuid"), "ext4": ("ro", "noload")}


class Round(NamedTuple):
    """One round: what was compared, what the two layers of the check did, how long the file system stood still."""

    members: int
    size_bytes: int
    window_s: float
    check: CheckCounts
    proof: dict[str, Any]
    fallback: int
    differences: list[str]


class SpoiltWindow(Exception):
    """Somebody else thawed the file system inside the window: a failed session, with nothing to compare."""


class Rig:
    """A LUN that is mounted, with a load on it in the folder ``root``."""

    def __init__(self, folder: Path, fs_type: str, device: str, root: Path) -> None:
        self._folder = folder
        self._fs_type = fs_type
        self._array = folder / "array"
        self._device = device
        self._mount = root.parent
        self._root = root
        self._number = 0

    def round(self, proof: str = "full") -> Round:
        """Back up once and compare what came out with the mirror. :raises SpoiltWindow: thawed from outside."""
        self._number += 1
        session = f"torture-{self._number}"
        state = self._folder / session
        map_path = state / "map.sqlite"
        mirror = self._array / "mirror.img"
        state.mkdir(mode=0o700)
        try:
            check, window_s = self._map_and_split(session, map_path, mirror)
            with _attached(mirror, read_only=True) as device:
                done = _write(session, state, map_path, device, proof)
                with mounted(device, self._folder / "mirror", *_MOUNT_OPTIONS[self._fs_type]) as mount:
                    found = compare_archive(Path(done["archive"]), mount, self._mount)
            return Round(*found[:2], window_s, check, done["proof"], done["fallback"], found.differences)
        finally:
            mirror.unlink(missing_ok=True)
            shutil.rmtree(state)

    def _map_and_split(self, session: str, map_path: Path, mirror: Path) -> tuple[CheckCounts, float]:
        tracker = Tracker([str(self._mount)])
        tracker.start()
        try:
            with MapFile.create(str(map_path), session, "torture") as made:
                map_scopes(made, [Scope(str(self._root))], [LunSpec("lun", self._device)])
            with (
                MapFile.open(str(map_path), session) as opened,
                open(self._array / "lun.img", "rb") as source,
                open(mirror, "xb") as target,
            ):
                pre_check(opened, tracker)
                with _frozen(self._mount):
                    began = time.monotonic()
                    clone(source.fileno(), target.fileno())
                    check = check_map(opened, tracker)
                    window_s = time.monotonic() - began
                return check, window_s
        finally:
            tracker.close()


def _write(session: str, state: Path, map_path: Path, device: str, proof: str) -> dict[str, Any]:
    library = state / "library"
    library.mkdir()
    with VirtualTape(str(library), writable=True) as drive:
        drive.make_volume(_VOLUME, 1 << 40)
        drive.load(_VOLUME)
        with Catalog.open(str(state / "catalog.sqlite"), writable=True) as catalog:
            label_volume(drive, catalog, _VOLUME, "torture", _RECORD_BYTES)
        job = WriteJob(
            session=session,
            state_dir=str(state),
            map_path=str(map_path),
            devices={"lun": device},
            mounts_dir=str(state / "mounts"),
            proof=proof,
            buffer_bytes=64 << 20,
        )
        return write_session(job, one_volume(Held(drive), _VOLUME))


@contextlib.contextmanager
def _frozen(mount: Path) -> Iterator[None]:
    """The file system is frozen inside. :raises SpoiltWindow: it was not to the end."""
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        freeze.sync(fd)
        freeze.freeze(fd, os.fspath(mount))
        try:
            yield
        finally:
            intact = freeze.thaw(fd)
        if not intact:
            raise SpoiltWindow
    finally:
        os.close(fd)


@contextlib.contextmanager
def _attached(image: Path, *, read_only: bool = False) -> Iterator[str]:
    """A loop device with the sectors of the LUN."""
    words = ["losetup", "--find", "--show", "--direct-io=on", f"--sector-size={_SECTOR_BYTES}"]
    device = run(*words, *(["--read-only"] if read_only else []), image).stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def rig(folder: Path, fs_type: str, seed: int, size: Size, lun_mib: int) -> Iterator[Rig]:
    """An array, a LUN with a file system of ``fs_type`` on it, and the load of ``seed``; all of it goes away again."""
    image = make_image(folder / "array.img", 3 * lun_mib, "xfs")
    try:
        with loop_device(image) as array_device, mounted(array_device, folder / "array") as array:
            lun = make_image(array / "lun.img", lun_mib)
            with _attached(lun) as device:
                run(f"mkfs.{fs_type}", "-q", device)
                with mounted(device, folder / "primary") as mount, under_load(mount, fs_type, seed, size) as root:
                    yield Rig(folder, fs_type, device, root)
    finally:
        image.unlink()
