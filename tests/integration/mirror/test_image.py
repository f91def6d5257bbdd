# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image provider on a real XFS: clones under load, crashes at every step, presentation."""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import loop, splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, Pair, PreparedSplit
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider, ImageSplit, _Job
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.journal import Journal, SplitRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.blockdev import (
    XFS_MIN_MIB,
    loop_device,
    make_image,
    mounted,
    run,
)
from ansible_collections.splitmirror.backup.tests.support.mirrors import OTHER, SESSION, Array, in_child, reflink_array

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


class Crash:
    """A provider whose process is killed at one step of the split."""

    def __init__(self, array: Array, step: str, nth: int = 0) -> None:
        self.array = array
        self.step = step
        self.nth = nth

    def __call__(self, step: str) -> None:
        if step == self.step:
            if self.nth == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.nth -= 1

    def provider(self) -> ImageProvider:
        crash = self

        class CrashingSplit(ImageSplit):
            def _open(self, job: _Job, allow_copy: bool) -> None:
                crash("open")
                super()._open(job, allow_copy)

            def _clone(self, job: _Job) -> None:
                crash("clone")
                super()._clone(job)
                crash("cloned")

            def _publish(self, job: _Job) -> None:
                crash("publish")
                super()._publish(job)
                crash("published")

            def settle(self) -> None:
                crash("settle")
                super().settle()

        class CrashingJournal(Journal):
            def write(self, record: SplitRecord) -> None:
                if record.result is not None:
                    crash("record")
                super().write(record)

        class CrashingProvider(ImageProvider):
            def _prepared(self, record: SplitRecord) -> PreparedSplit:
                return CrashingSplit(record, CrashingJournal(self.state_dir), self.options["allow_copy"])

        return CrashingProvider(self.array.pairs, StateDir(str(self.array.state)))


STEPS = [(step, nth) for step in ("open", "clone", "cloned", "publish", "published") for nth in (0, 1)]
STEPS += [("settle", 0), ("record", 0)]


@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_splitter_killed_at_any_step_is_found_and_cleaned_up(array: Array, step: str, nth: int) -> None:
    before = {pair.primary: Path(pair.primary).read_bytes() for pair in array.pairs}
    status = in_child(lambda: Crash(array, step, nth).provider().split(SESSION))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL

    assert {(state.phase, state.session) for state in array.provider.state()} == {("broken", SESSION)}
    assert array.provider.split_result(SESSION) is None  # never taken for a split
    for action in (array.provider.present, array.provider.split):
        with pytest.raises(MirrorError, match=r"did not finish|died while"):
            action(SESSION)

    assert [(done.session, done.phase) for done in array.provider.recover()] == [(SESSION, "broken")]
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []
    assert {path: Path(path).read_bytes() for path in before} == before
    assert array.provider.recover() == []
    array.provider.split(OTHER)


@pytest.mark.parametrize("step", ["clones", "record"])
def test_resync_that_dies_is_finished_by_the_next(array: Array, step: str) -> None:
    array.provider.split(SESSION)

    class DyingJournal(Journal):
        def remove(self, session: str) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    def resync() -> None:
        array.provider._journal = DyingJournal(array.provider.state_dir)
        if step == "clones":
            os.unlink(array.pairs[0].mirror)  # as far as it came
            os.kill(os.getpid(), signal.SIGKILL)
        array.provider.resync(SESSION, wait=True, timeout_s=60)

    assert os.WIFSIGNALED(in_child(resync))
    assert array.records() == [f"{SESSION}.json"]
    array.provider.resync(SESSION, wait=True, timeout_s=60)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []


def test_presentation_is_read_only_and_the_same_again(array: Array) -> None:
    array.provider.split(SESSION)
    presented = array.provider.present(SESSION)
    assert presented.changed
    assert set(presented.devices) == {"data", "wal"}
    for device in presented.devices.values():
        name = os.path.basename(device)
        assert Path(f"/sys/block/{name}/ro").read_text().strip() == "1"
        # An XFS made on 512-byte sectors would not mount on the 4096 that the kernel takes by itself.
        assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "512"
    again = array.provider.present(SESSION)
    assert (again.devices, again.changed) == (presented.devices, False)
    assert [state.devices for state in array.provider.state()] == [(device,) for device in presented.devices.values()]
    assert sorted(array.provider.withdraw(SESSION)) == sorted(presented.devices.values())
    assert array.provider.withdraw(SESSION) == []
    assert [loop.loops_of(pair.mirror) for pair in array.pairs] == [[], []]


def test_presented_mirror_has_the_sectors_of_its_primary(array: Array) -> None:
    primary = run("losetup", "--find", "--show", "--sector-size=4096", array.pairs[0].primary).stdout.strip()
    try:
        array.provider.split(SESSION)
        name = os.path.basename(array.provider.present(SESSION).devices["data"])
        assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "4096"
        assert Path(f"/sys/block/{name}/loop/dio").read_text().strip() == "1"
    finally:
        run("losetup", "--detach", primary)


def test_presented_mirror_is_not_resynced(array: Array) -> None:
    array.provider.split(SESSION)
    array.provider.present(SESSION)
    with pytest.raises(MirrorError, match="still presented as /dev/loop"):
        array.provider.resync(SESSION, wait=True, timeout_s=60)
    assert os.path.exists(array.pairs[0].mirror)
    array.provider.withdraw(SESSION)
    array.provider.resync(SESSION, wait=True, timeout_s=60)


def test_mirror_that_is_read_is_neither_withdrawn_nor_recovered(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SETTLE_S", 0.2)
    array.provider.split(SESSION)
    device = array.provider.present(SESSION).devices["wal"]
    with subprocess.Popen(["sh", "-c", f"exec <{device}; echo open; exec sleep 60"], stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"open\n"
            for action in (lambda: array.provider.withdraw(SESSION), array.provider.recover):
                with pytest.raises(MirrorError, match=rf"in use by process {reader.pid} \(sleep\)"):
                    action()
            assert array.provider.state()[1].users == (f"process {reader.pid} (sleep)",)
        finally:
            reader.kill()
    # All or nothing: the other device is still there too.
    assert [len(state.devices) for state in array.provider.state()] == [1, 1]
    array.provider.withdraw(SESSION)


def test_mounted_mirror_is_not_withdrawn(array: Array, tmp_path: Path) -> None:
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


def test_recover_withdraws_what_a_dead_session_presented(array: Array) -> None:
    array.provider.split(SESSION)
    devices = set(array.provider.present(SESSION).devices.values())
    (done,) = array.provider.recover()
    assert (done.session, done.phase, set(done.withdrawn)) == (SESSION, "split", devices)
    assert array.files() == {"data.img", "wal.img"}


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
