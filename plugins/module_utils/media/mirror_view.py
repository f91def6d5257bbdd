# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the media server sees of the mirror: the right LUNs, and the file systems on them mounted read-only."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Optional

from ..errors import SplitMirrorError
from ..extents.fsinfo import read_fs_info
from ..extents.mapfile import MapFile
from ..extents.maprows import FileEntry, FileSystem
from ..extents.seal import broken_seal
from ..host.beneath import open_beneath
from ..host.blockdev import BlockDeviceError, drop_cache
from ..host.tools import run_program
from ..session import make_private

#: linux/sched.h, for unshare(2).
_CLONE_NEWNS = 0x00020000
# Device nodes and programs on it are of another host.
_MOUNT_OPTIONS = {"xfs": "ro,nodev,nosuid,noexec,norecovery,nouuid", "ext4": "ro,nodev,nosuid,noexec,noload"}


class MirrorViewError(SplitMirrorError):
    """A device is not the mirror it should be, or cannot be mounted."""

    code = "mirror_wrong"


def check_devices(map_file: MapFile, devices: Mapping[str, str]) -> dict[int, str]:
    """Prove that the devices are the mirrors of the map: their sizes, and the file systems at their places.

    :param devices: device by name of the pair.
    :returns: device by number of the LUN in the map.
    :raises SplitMirrorError: one is missing, or is the wrong LUN.
    """
    found: dict[int, str] = {}
    for lun in map_file.luns():
        device = devices.get(lun.name)
        if device is None:
            raise MirrorViewError(
                f"devices: there is no device for pair {lun.name}; give the path of its mirror on this host.",
                option="devices",
                code="option_invalid",
            )
        size_bytes = _device_size(device)
        if size_bytes != lun.size_bytes:
            raise MirrorViewError(
                f"devices: {device} is the wrong LUN for pair {lun.name}, it has {size_bytes} bytes and the map says "
                f"{lun.size_bytes}; give the mirror that was split in this session.",
                option="devices",
            )
        found[lun.id] = device
    for fs in map_file.filesystems():
        device = found[fs.lun]
        info = read_fs_info(device, fs.lun_offset_bytes)
        if info is None or (info.fs_type, info.fs_uuid) != (fs.fs_type, fs.fs_uuid):
            seen = "no file system" if info is None else f"{info.fs_type} {info.fs_uuid}"
            raise MirrorViewError(
                f"devices: {device} is the wrong LUN, it holds {seen} where the map says {fs.fs_type} {fs.fs_uuid}; "
                "give the mirror that was split in this session.",
                option="devices",
            )
    check_seals(map_file, found)
    return found


def check_seals(map_file: MapFile, devices: Mapping[int, str]) -> None:
    """Prove that the mirrors are of the freeze of this session, and that nothing was written to them since.

    :param devices: what check_devices returned.
    :raises SplitMirrorError: one is not.
    """
    fs = broken_seal(map_file, devices)
    if fs is not None:
        raise MirrorViewError(
            f"devices: {devices[fs.lun]} is not the mirror as it was split in this session: "
            f"{os.fsdecode(fs.mount_point)} does not begin as it did during the freeze; give the mirror of this "
            "session. If it was resynced since, take a new backup.",
            option="devices",
        )


def leave_mount_namespace() -> None:
    """Give this process mounts of its own, so that they end with it, however it ends.

    Without the right to do so everything works, only less safely. Call it before any thread is started.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0:
        # What others unmount must go here too, or we would keep it busy.
        run_program(["mount", "--make-rslave", "/"])


class ReadOnlyMounts:
    """File systems of the mirror, mounted read-only below one folder for as long as this context lasts.

    :param folder: where the mount points are made; it and they are removed afterwards.
    :param devices: what check_devices returned.
    :ivar folders: mount point by number of the file system in the map.
    """

    def __init__(self, folder: str, map_file: MapFile, devices: Mapping[int, str]) -> None:
        self._folder = folder
        self._map_file = map_file
        self._devices = devices
        self._stack = ExitStack()
        self._filesystems: dict[int, FileSystem] = {}
        self.folders: dict[int, str] = {}

    def __enter__(self) -> ReadOnlyMounts:
        try:
            for fs in self._map_file.filesystems():
                self._filesystems[fs.id] = fs
                self.folders[fs.id] = self._mount(fs)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stack.close()

    def open(self, entry: FileEntry) -> BinaryIO:
        """Open a file of the map through its mount.

        :raises OSError: it is not there, is not a regular file, or is reached over a symbolic link only.
        """
        fs = self._filesystems[entry.fs]
        inside = os.path.relpath(entry.path, fs.mount_point)
        path = os.path.join(fs.root.strip(b"/"), inside)
        # O_NONBLOCK: a fifo of that name must not hold us.
        fd = open_beneath(os.fsencode(self.folders[fs.id]), path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return open(fd, "rb")

    def _mount(self, fs: FileSystem) -> str:
        segments = self._map_file.segments(fs.id)
        if len(segments) != 1:
            raise MirrorViewError(
                f"proof: {os.fsdecode(fs.mount_point)} lies in {len(segments)} pieces on the LUNs and cannot be "
                "mounted from the mirror; set proof to none.",
                option="proof",
                code="mirror_failed",
            )
        device = self._devices[fs.lun]
        folder = os.path.join(self._folder, str(fs.id))
        _drop_cache(device)
        make_private(folder, self._folder, "mounts_dir")
        self._stack.callback(_remove_folders, folder, self._folder)
        options = _MOUNT_OPTIONS[fs.fs_type]
        if segments[0].lun_offset:
            # mount(8) makes a loop device for the piece and frees it on umount
            options += f",loop,offset={segments[0].lun_offset},sizelimit={segments[0].length}"
        done = run_program(["mount", "-t", fs.fs_type, "-o", options, "--", device, folder])
        if done.returncode:
            raise MirrorViewError(
                f"devices: {device} cannot be mounted read-only ({done.stderr.strip()}); the media server needs a "
                f"kernel that knows {fs.fs_type}, or set proof to none.",
                option="devices",
                code="mirror_failed",
            )
        self._stack.callback(_unmount, folder)
        return folder


def _unmount(folder: str) -> None:
    done = run_program(["umount", "--", folder])
    if done.returncode:
        raise MirrorViewError(
            f"mounts_dir: {folder} cannot be unmounted ({done.stderr.strip()}); unmount it when nothing uses it any "
            "more.",
            option="mounts_dir",
            code="mirror_failed",
        )


def _remove_folders(*folders: str) -> None:
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            # another file system of the session is still mounted beside it; the last one removes the folder
            pass


def _device_size(device: str) -> int:
    try:
        handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.lseek(handle, 0, os.SEEK_END)
        finally:
            os.close(handle)
    except OSError as exc:
        raise MirrorViewError(
            f"devices: {device} cannot be opened ({exc.strerror}); give the path of the presented mirror.",
            option="devices",
        ) from exc


def _drop_cache(device: str) -> None:
    """Drop the cache of a mirror: a resync changes the mirror without the kernel's knowledge."""
    try:
        drop_cache(device)
    except BlockDeviceError as exc:
        raise MirrorViewError(f"devices: {exc.message} It must be a block device.", option="devices") from exc
