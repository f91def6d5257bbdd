# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cannot be mapped is refused before anything is mapped, with one sentence that names the option."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import LEAVE_OUT
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import MapError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.survey import survey
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.fsload import file_system

pytestmark = pytest.mark.root


@pytest.fixture
def lun(scratch: Path) -> Iterator[tuple[Path, str]]:
    """A mounted ext4 with a folder ``data``, and its device."""
    with file_system(scratch, "ext4", 32) as (mount, device):
        (mount / "data").mkdir()
        yield mount, device


def refused(scopes: Sequence[Scope], luns: Sequence[LunSpec], option: str, message: str) -> None:
    """Mapping is refused with this message about this option; a sentence that is one line and ends."""
    with pytest.raises(MapError) as error:
        survey(scopes, luns)
    assert re.search(message, error.value.message), error.value.message
    assert error.value.option == option
    assert "\n" not in error.value.message
    assert error.value.message.endswith(".")


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """A file system in memory is mounted on a folder."""
    run("mount", "-t", "tmpfs", "tmpfs", folder)
    try:
        yield
    finally:
        run("umount", folder)


def test_a_path_that_is_not_there_or_leads_through_a_link(lun: tuple[Path, str]) -> None:
    mount, device = lun
    (mount / "link").symlink_to("data")
    spec = [LunSpec("pair", device)]
    refused([Scope(f"{mount}/missing")], spec, "paths", "^paths: .*/missing does not exist; name a folder")
    refused([Scope(f"{mount}/link")], spec, "paths", f"symbolic link.*; name {mount}/data")
    refused([Scope(f"{mount}/data/../data", label="sqlite")], spec, "paths", "^sqlite: .*not a plain path")


def test_file_systems_that_cannot_be_mapped(lun: tuple[Path, str]) -> None:
    mount, device = lun
    spec = [LunSpec("pair", device)]
    refused([Scope("/proc")], spec, "paths", "^paths: /proc lies on proc .* only the extents of XFS and ext4")
    (mount / "data/over").mkdir()
    with tmpfs(mount / "data/over"):
        refused([Scope(f"{mount}/data")], spec, "paths", "data/over lies on tmpfs .*memory.*or leave it out")
        refused([Scope(f"{mount}/data/over")], spec, "paths", "lies on tmpfs")
        # Where it is left out, it is no hindrance.
        for scope in (Scope(f"{mount}/data", exclude=("over",)), Scope(f"{mount}/data", empty=("over",))):
            assert [found.mount.mount_point for found in survey([scope], spec)] == [os.fsencode(mount)]
        for name in ("lower", "upper", "work", "merged"):
            (mount / "data/over" / name).mkdir()
        top = mount / "data/over"
        options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
        run("mount", "-t", "overlay", "-o", options, "overlay", top / "merged")
        try:
            refused([Scope(f"{top}/merged")], spec, "paths", "lies on overlay .*other file systems")
        finally:
            run("umount", top / "merged")


@pytest.mark.skipif(shutil.which("mkfs.btrfs") is None, reason="needs mkfs.btrfs")
def test_btrfs(scratch: Path) -> None:
    image = make_image(scratch / "btrfs.img", 200, "btrfs")
    with loop_device(image) as device, mounted(device, scratch / "btrfs") as mount:
        refused([Scope(str(mount))], [LunSpec("pair", device)], "paths", "lies on btrfs .*no offsets of a device")


def test_a_path_on_no_mirrored_lun(lun: tuple[Path, str], scratch: Path) -> None:
    mount, device = lun
    with loop_device(make_image(scratch / "other.img", 32, "ext4")) as other:
        name = f"on no mirrored LUN|is a loop device on the file {scratch}/ext4.img"
        refused([Scope(f"{mount}/data")], [LunSpec("pair", other)], "pairs", f"^pairs: {mount}/data .*({name})")
        with mounted(other, mount / "data/nested") as nested:
            refused([Scope(f"{mount}/data")], [LunSpec("pair", device)], "pairs", f"^pairs: {nested} .*{other}")
            luns = [LunSpec("pair", device), LunSpec("second", other)]
            assert len(survey([Scope(f"{mount}/data")], luns)) == 2


def test_a_file_with_a_mount_of_its_own(lun: tuple[Path, str]) -> None:
    mount, device = lun
    (mount / "data/file").touch()
    (mount / "other").touch()
    run("mount", "--bind", mount / "other", mount / "data/file")
    try:
        refused([Scope(f"{mount}/data")], [LunSpec("pair", device)], "paths", "data/file is a file with a mount")
    finally:
        run("umount", mount / "data/file")


def test_luns_that_are_not_what_they_should_be(lun: tuple[Path, str], scratch: Path) -> None:
    mount, device = lun
    scope = [Scope(f"{mount}/data")]
    refused(scope, [LunSpec("pair", "/dev/nothing")], "pairs", "^pairs: pair: /dev/nothing is not there")
    refused(scope, [LunSpec("pair", "/etc/passwd")], "pairs", "/etc/passwd is not a block device")
    refused(scope, [LunSpec("a", device), LunSpec("b", device)], "pairs", "b and a name the same device")


def test_an_xfs_with_a_log_on_another_device(scratch: Path) -> None:
    with (
        loop_device(make_image(scratch / "data.img", 320)) as device,
        loop_device(make_image(scratch / "log.img", 100)) as log,
    ):
        run("mkfs.xfs", "-q", "-f", "-l", f"logdev={log},size=64m", device)
        with mounted(device, scratch / "mount", f"logdev={log}") as mount:
            refused([Scope(str(mount))], [LunSpec("pair", device)], "paths", "xfs that has its log on another device")


def encrypt_folder(folder: Path) -> None:
    """Have the kernel encrypt what is made in an empty folder, with a key of its file system's own.

    (Documentation/filesystems/fscrypt.rst: fscrypt_add_key_arg, fscrypt_policy_v2.)
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        by_identifier, key = 2, os.urandom(64)
        added = bytearray(struct.pack("=II32sI36s", by_identifier, 0, b"", len(key), b"") + key)
        fcntl.ioctl(fd, 0xC0506617, added)  # FS_IOC_ADD_ENCRYPTION_KEY
        version, aes_256_xts, aes_256_cts = 2, 1, 4
        policy = struct.pack("=BBBB4s16s", version, aes_256_xts, aes_256_cts, 3, b"", bytes(added[8:24]))
        fcntl.ioctl(fd, 0x800C6613, policy)  # FS_IOC_SET_ENCRYPTION_POLICY
    finally:
        os.close(fd)


def test_encrypted_files(scratch: Path) -> None:
    image = make_image(scratch / "image", 32)
    run("mkfs.ext4", "-q", "-O", "encrypt", image)
    with loop_device(image) as device, mounted(device, scratch / "mount") as mount:
        (mount / "secret").mkdir()
        try:
            encrypt_folder(mount / "secret")
        except OSError as exc:
            pytest.skip(f"this kernel has no fscrypt ({exc.strerror})")
        luns = [LunSpec("pair", device)]

        def mapping(name: str, *exclude: str) -> None:
            with MapFile.create(str(scratch / name), "s1", "host") as made:
                map_scopes(made, [Scope(str(mount), exclude=exclude)], luns)

        (mount / "plain").write_bytes(b"x" * 5000)
        mapping("an-empty-folder")
        (mount / "secret/link").symlink_to("target")
        with pytest.raises(MapError, match=f"^paths: {mount}/secret is encrypted .*; leave it out with exclude"):
            mapping("a-link")
        (mount / "secret/file").write_bytes(b"x" * 5000)
        (mount / "secret/file").rename(mount / "outside")
        with pytest.raises(MapError, match=f"^paths: {mount}/outside is encrypted .*; leave it out with exclude"):
            mapping("a-file", "secret")
        mapping("neither", "secret", "outside")
        with MapFile.create(str(scratch / "left-out"), "s1", "host") as made:
            counts = map_scopes(made, [Scope(str(mount))], luns, on_unreadable=LEAVE_OUT)
            assert [path for path, _why in made.left_out()] == [
                os.fsencode(mount / name) for name in ("outside", "secret")
            ]
            assert counts == made.counts()
            assert made.get(os.fsencode(mount / "plain")) is not None
            assert made.get(os.fsencode(mount / "secret")) is None


def test_nothing_is_left_of_a_map_that_was_refused(lun: tuple[Path, str], scratch: Path) -> None:
    mount, device = lun
    with pytest.raises(MapError), MapFile.create(str(scratch / "map"), "s1", "host") as made:
        map_scopes(made, [Scope(f"{mount}/missing")], [LunSpec("pair", device)])
    with pytest.raises(MapError, match="map the session first"):
        MapFile.open(str(scratch / "map"), "s1")
