# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image provider on a real XFS: clones under load, presentation. The rest is in test_image_contract.py."""

from __future__ import annotations

import mmap
import os
import select
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import blockdev
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider
from ansible_collections.splitmirror.backup.tests.support.blockdev import (
    XFS_MIN_MIB,
    loop_device,
    make_image,
    mounted,
    run,
)
from ansible_collections.splitmirror.backup.tests.support.mirrors import OTHER, SESSION, Array, reflink_array

pytestmark = pytest.mark.root


@pytest.fixture
def array(scratch: Path) -> Iterator[Array]:
    with reflink_array(scratch) as array:
        yield array


def test_split_shares_all_blocks_and_the_primary_goes_on(array: Array) -> None:
    before = {pair.name: Path(pair.primary).read_bytes() for pair in array.pairs}
    result = array.provider.split(SESSION)
    assert result.method == "reflink"
    with open(array.pairs[0].primary, "r+b") as image:
        image.write(b"written after the split")
    for pair in array.pairs:
        assert Path(pair.mirror).read_bytes() == before[pair.name]
    assert array.files() == {"data.img", "wal.img", "data.mirror", "wal.mirror"}


def test_estimate_grows_with_the_extents_of_the_image(array: Array) -> None:
    whole, torn = array.pairs
    with open(torn.primary, "r+b") as image:
        for number in range(100):
            image.seek(number * 8192)
            image.write(b"x" * 4096)
        os.fsync(image.fileno())
    states = array.provider.state()
    assert states[0].split_estimate_s is not None
    assert states[1].split_estimate_s is not None
    assert 50 * states[0].split_estimate_s < states[1].split_estimate_s < 1.0
    assert whole.name == states[0].name


def test_clone_is_one_instant_of_a_primary_under_direct_writes(scratch: Path) -> None:
    """A writer puts the same counter into block after block; no instant shows a later block ahead of an earlier one."""
    with reflink_array(scratch) as array, loop_device(Path(array.pairs[0].primary)) as device:
        block, blocks = 4096, 64
        stop = threading.Event()
        rounds: list[int] = []
        written = threading.Event()

        def write() -> None:
            buffer = mmap.mmap(-1, block)
            disk = os.open(device, os.O_RDWR | os.O_DIRECT)
            try:
                while not stop.is_set():
                    rounds.append(len(rounds))
                    buffer[:8] = struct.pack("<Q", len(rounds))
                    for number in range(blocks):
                        os.pwrite(disk, buffer, number * block)
                    written.set()
            finally:
                os.close(disk)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert written.wait(10)
            seen = []
            for number in range(10):
                session = f"{SESSION}-{number}"
                array.provider.split(session)
                with open(array.pairs[0].mirror, "rb") as mirror:
                    counters = [struct.unpack("<Q", mirror.read(block)[:8])[0] for _dummy in range(blocks)]
                assert counters == sorted(counters, reverse=True)
                assert counters[0] - counters[-1] <= 1
                seen.append(counters[0])
                array.provider.resync(session, wait=True, timeout_s=60)
        finally:
            stop.set()
            writer.join(10)
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]  # the writer really went on


def test_mirror_of_a_frozen_file_system_mounts_read_only_with_the_frozen_state(array: Array, tmp_path: Path) -> None:
    lun = array.pairs[0]
    make_image(Path(lun.primary), XFS_MIN_MIB, "xfs")
    with loop_device(Path(lun.primary)) as device, mounted(device, tmp_path / "db") as folder:
        (folder / "file").write_bytes(os.urandom(3_000_000))
        (folder / "counter").write_text("before")
        run("fsfreeze", "--freeze", folder)
        try:
            array.provider.split(SESSION)
        finally:
            run("fsfreeze", "--unfreeze", folder)
        frozen = (folder / "file").read_bytes()
        (folder / "counter").write_text("after")
        (folder / "file").write_bytes(b"other")
        run("sync", "--file-system", folder)  # this one only: others may have a frozen one
        presented = array.provider.present(SESSION).devices["data"]
        with mounted(presented, tmp_path / "mirror", "ro", "norecovery", "nouuid") as mirror:
            assert (mirror / "file").read_bytes() == frozen
            assert (mirror / "counter").read_text() == "before"
        assert array.provider.withdraw(SESSION)


def test_presented_mirror_has_the_sectors_of_its_primary(array: Array) -> None:
    array.provider.split(OTHER)
    name = os.path.basename(array.provider.present(OTHER).devices["data"])
    # An XFS made on 512-byte sectors would not mount on the 4096 that the kernel takes by itself.
    assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "512"
    array.provider.recover()
    primary = run("losetup", "--find", "--show", "--sector-size=4096", array.pairs[0].primary).stdout.strip()
    try:
        array.provider.split(SESSION)
        name = os.path.basename(array.provider.present(SESSION).devices["data"])
        assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "4096"
        assert Path(f"/sys/block/{name}/loop/dio").read_text().strip() == "1"
    finally:
        run("losetup", "--detach", primary)


def test_mounted_mirror_is_not_withdrawn(array: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "SETTLE_S", 0.2)
    make_image(Path(array.pairs[0].primary), XFS_MIN_MIB, "xfs")
    array.provider.split(SESSION)
    device = array.provider.present(SESSION).devices["data"]
    with mounted(device, tmp_path / "m", "ro", "norecovery") as folder:
        with pytest.raises(MirrorError, match=f"in use by mount {folder}"):
            array.provider.withdraw(SESSION)
        assert (folder / ".").exists()
    array.provider.withdraw(SESSION)


def test_writable_device_over_a_mirror_is_refused(array: Array) -> None:
    array.provider.split(SESSION)
    os.chmod(array.pairs[0].mirror, 0o600)
    with loop_device(Path(array.pairs[0].mirror)), pytest.raises(MirrorError, match="attached writable"):
        array.provider.present(SESSION)


def test_mirror_on_another_file_system_is_refused_before_anything_is_made(array: Array, tmp_path: Path) -> None:
    pairs = [array.pairs[0], Pair("far", array.pairs[1].primary, str(tmp_path / "far.mirror"))]
    with pytest.raises(MirrorError, match=r"pair far: .* cannot share blocks"):
        ImageProvider(pairs, array.provider.state_dir).split(SESSION)
    assert array.files() == {"data.img", "wal.img"}
    assert not list(tmp_path.glob("far*"))
    assert array.records() == []


def test_present_waits_for_the_splitter_to_settle(array: Array) -> None:
    splitter.arm(array.provider, SESSION, 60)
    splitter.split(array.provider.state_dir, SESSION)
    assert set(array.provider.present(SESSION).devices) == {"data", "wal"}
    array.provider.withdraw(SESSION)


def test_one_session_of_two_racing_ones_gets_the_set(array: Array) -> None:
    """Both look before either claims, unless looking and claiming are one step; then the second sees the first."""
    looked = {session: os.pipe() for session in (SESSION, OTHER)}
    children = []
    for session, other in ((SESSION, OTHER), (OTHER, SESSION)):

        class Slow(ImageProvider):
            def check_splittable(self, session: str, other: str = other) -> None:
                super().check_splittable(session)
                os.write(looked[session][1], b"+")
                select.select([looked[other][0]], [], [], 0.5)  # meet the other one here, if it can come

        child = os.fork()
        if child == 0:
            code = 2
            try:
                Slow(array.pairs, array.provider.state_dir).prepare(session)
                code = 0
            except MirrorError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    for pipe in looked.values():
        os.close(pipe[0])
        os.close(pipe[1])
    assert codes == [0, 1]
    assert len(array.records()) == 1
