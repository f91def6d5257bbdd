# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``qemu``: what is its own, on a qemu-storage-daemon. Its contract is in test_qemu_contract.py."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.qemu import job_of
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, read, write
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.qemu import StorageDaemon, clear, need_storage_daemon

pytestmark = pytest.mark.root

SESSION, OTHER = "20260131T020000Z-db1-9f3c", "20260131T020000Z-db2-00aa"
BLOCK = 4096


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StorageDaemon]:
    """Yield a storage daemon; what tests leave of it goes away."""
    need_storage_daemon()
    with StorageDaemon(tmp_path) as daemon:
        try:
            yield daemon
        finally:
            daemon.kill()
            clear(tmp_path)


def provider(daemon: StorageDaemon, *names: str, scratch: Path | None = None, **options: object) -> MirrorProvider:
    """The provider over disks of a daemon."""
    folder = scratch or daemon.folder
    pairs = [{"name": name, "primary": name, "mirror": f"{folder}/{name}.mirror"} for name in names]
    state_dir = str(daemon.folder / "state")
    return make_provider("qemu", pairs, state_dir, {"qmp_socket": str(daemon.socket), **options})


def left(daemon: StorageDaemon) -> list[str]:
    """What sessions have left in the daemon and in its folder."""
    jobs = [job["id"] for job in daemon.ask("query-jobs")]
    nodes = [node for node in daemon.nodes() if node not in daemon.disks]
    return [*jobs, *nodes, *(path.name for path in daemon.folder.glob("*.mirror*"))]


def test_a_mirror_whose_job_ends_while_it_is_read_fails_the_session(daemon: StorageDaemon) -> None:
    """From then on the mirror shows what the guest writes, without any error."""
    for name in ("a", "b"):
        daemon.add_disk(name, 16 * MIB)
    write(str(daemon.shown("b")), 0xA1)
    array = provider(daemon, "a", "b")
    array.split(SESSION)
    device = array.present(SESSION).devices["b"]
    assert read(device) == 0xA1
    daemon.ask("block-job-cancel", device=job_of(array.pairs[1], SESSION), force=True)
    write(str(daemon.shown("b")), 0xEE)
    assert read(device) == 0xEE
    first, second = array.state()
    assert first.problem is not None
    assert "already split" in first.problem
    assert second.problem is not None
    assert "the backup job that keeps the mirror" in second.problem
    with pytest.raises(MirrorError, match="pair b: the backup job") as lost:
        array.present(SESSION)
    assert lost.value.code == "mirror_lost"
    with pytest.raises(MirrorError, match="pair b: the backup job") as lost:
        array.withdraw(SESSION)
    assert lost.value.code == "mirror_lost"
    assert [state.devices for state in array.state()] == [(), ()]
    assert [done.session for done in array.recover()] == [SESSION]
    assert left(daemon) == []


def test_a_guest_that_dies_takes_the_mirror_with_it_and_nothing_stays(daemon: StorageDaemon) -> None:
    daemon.add_disk("a", 16 * MIB)
    array = provider(daemon, "a")
    array.split(SESSION)
    device = array.present(SESSION).devices["a"]
    daemon.kill()
    with pytest.raises(OSError, match="Input/output"):
        read(device)
    (state,) = array.state()
    assert state.phase == "split"
    assert state.devices == (device,)
    assert state.problem is not None
    assert "QEMU cannot be reached" in state.problem
    daemon.start()
    with pytest.raises(MirrorError, match="QEMU was started anew"):
        array.withdraw(SESSION)
    assert [done.session for done in array.recover()] == [SESSION]
    assert left(daemon) == []
    array.check_splittable(OTHER)


@pytest.mark.parametrize("ended", ["killed", "by itself"])
def test_what_a_guest_that_is_gone_has_left_is_cleaned_up(daemon: StorageDaemon, ended: str) -> None:
    daemon.add_disk("a", 16 * MIB)
    array = provider(daemon, "a")
    array.split(SESSION)
    array.present(SESSION)
    if ended == "by itself":
        daemon.quit()  # it takes its mounts away, also those under loop devices
    daemon.kill()
    (done,) = array.recover()
    assert (done.session, len(done.withdrawn)) == (SESSION, 1)
    assert list(daemon.folder.glob("*.mirror*")) == []


def test_a_scratch_image_is_not_taken_from_a_qemu_that_cannot_be_reached(daemon: StorageDaemon) -> None:
    """Its socket has gone, and it runs on."""
    daemon.add_disk("a", 16 * MIB)
    array = provider(daemon, "a")
    array.split(SESSION)
    aside = daemon.socket.rename(daemon.folder / "aside")
    with pytest.raises(MirrorError, match="QEMU cannot be reached"):
        array.recover()
    aside.rename(daemon.socket)
    assert [done.session for done in array.recover()] == [SESSION]
    assert left(daemon) == []


def test_all_disks_of_a_set_show_one_instant(daemon: StorageDaemon) -> None:
    """A writer puts one number after the other on all disks in turn, so no disk may be ahead of one before it."""
    names = [f"d{number}" for number in range(16)]
    for name in names:
        daemon.add_disk(name, MIB)
    stop, running = threading.Event(), threading.Event()

    def load() -> None:
        handles = [os.open(daemon.shown(name), os.O_WRONLY | os.O_DIRECT) for name in names]
        number = 0
        with mmap.mmap(-1, BLOCK) as buffer:
            while not stop.is_set():
                number += 1
                buffer[:8] = number.to_bytes(8, "little")
                for handle in handles:
                    os.pwrite(handle, buffer, 0)
                running.set()
        for handle in handles:
            os.close(handle)

    array = provider(daemon, *names)
    assert array.capabilities.atomic_set
    writer = threading.Thread(target=load)
    writer.start()
    try:
        assert running.wait(60)
        array.split(SESSION)
        devices = array.present(SESSION).devices
    finally:
        stop.set()
        writer.join()
    numbers = [number_on(devices[name]) for name in names]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] > 0
    assert numbers[0] - numbers[-1] <= 1
    array.withdraw(SESSION)
    array.resync(SESSION, wait=True, timeout_s=60)
    assert left(daemon) == []


def number_on(device: str) -> int:
    """The number at the beginning of a device."""
    with open(device, "rb") as stream:
        return int.from_bytes(stream.read(8), "little")


def test_an_image_of_any_format_is_read_as_the_guest_sees_it(daemon: StorageDaemon) -> None:
    daemon.add_disk("a", 16 * MIB, driver="qcow2")
    write(str(daemon.shown("a")), 0xA1)
    array = provider(daemon, "a")
    array.split(SESSION)
    write(str(daemon.shown("a")), 0xA2)
    device = array.present(SESSION).devices["a"]
    assert run("blockdev", "--getsize64", "--getss", "--getro", device).stdout.split() == [str(16 * MIB), "512", "1"]
    assert read(device) == 0xA1
    array.withdraw(SESSION)
    array.resync(SESSION, wait=True, timeout_s=60)
    assert left(daemon) == []


def test_a_pair_may_name_the_sector_size_of_its_disk(daemon: StorageDaemon) -> None:
    daemon.add_disk("a", 16 * MIB)
    pair = {"name": "a", "primary": "a", "mirror": f"{daemon.folder}/a.mirror", "options": {"sector_bytes": 4096}}
    array = make_provider("qemu", [pair], str(daemon.folder / "state"), {"qmp_socket": str(daemon.socket)})
    array.split(SESSION)
    assert run("blockdev", "--getss", array.present(SESSION).devices["a"]).stdout.strip() == "4096"
    array.recover()


def test_a_mirror_that_this_host_does_not_see_is_refused(tmp_path: Path) -> None:
    """As when QEMU has a mount namespace of its own: what it mounts there is an empty file here."""
    need_storage_daemon()
    with StorageDaemon(tmp_path, ["unshare", "--mount"]) as daemon:
        daemon.add_disk("a", 16 * MIB)
        array = provider(daemon, "a")
        array.split(SESSION)
        with pytest.raises(MirrorError, match="this host does not see it there"):
            array.present(SESSION)
        array.recover()
        assert left(daemon) == []


def test_disks_of_two_guests_may_have_the_same_name(tmp_path: Path, daemon: StorageDaemon) -> None:
    daemon.add_disk("a", 16 * MIB)
    (tmp_path / "second").mkdir()
    with StorageDaemon(tmp_path / "second") as other:
        other.add_disk("a", 16 * MIB)
        arrays = [
            make_provider(
                "qemu",
                [{"name": "a", "primary": "a", "mirror": str(one.folder / "a.mirror")}],
                str(tmp_path / "state"),
                {"qmp_socket": str(one.socket)},
            )
            for one in (daemon, other)
        ]
        for array, session in zip(arrays, (SESSION, OTHER)):
            array.split(session)
        assert [array.state()[0].session for array in arrays] == [SESSION, OTHER]
        for array, session in zip(arrays, (SESSION, OTHER)):
            assert [done.session for done in array.recover()] == [session]


def test_the_room_of_a_scratch_image_is_reserved(daemon: StorageDaemon) -> None:
    """The guest's own writes would fail if it were not there when they need it."""
    daemon.add_disk("a", 64 * MIB)
    array = provider(daemon, "a")
    prepared = array.prepare(SESSION)
    (scratch,) = daemon.folder.glob("a.mirror.*.qcow2")
    reserved = os.stat(scratch).st_blocks * 512
    assert reserved >= 64 * MIB
    prepared.split()
    for offset in range(0, 64 * MIB, MIB):
        write(str(daemon.shown("a")), 0xA1, offset)
    assert os.stat(scratch).st_blocks * 512 == reserved
    prepared.cancel()


def test_a_folder_without_room_for_scratch_images_is_refused(daemon: StorageDaemon) -> None:
    for name in ("a", "b"):
        daemon.add_disk(name, 16 * MIB)
    image = make_image(daemon.folder / "small", 32, "ext4")
    with loop_device(image) as device, mounted(device, daemon.folder / "scratch") as scratch:
        # Each has room, and both together have not.
        array = provider(daemon, "a", "b", scratch=scratch)
        assert [state.problem for state in array.state()] == [None, None]
        with pytest.raises(MirrorError, match="fallocate"):
            array.prepare(SESSION)
        assert [path.name for path in scratch.iterdir()] == ["lost+found"]
        array = provider(daemon, "a", scratch=scratch, scratch_percent=300)
        with pytest.raises(MirrorError, match=r"pair a: .* bytes free, and its scratch image needs"):
            array.check_splittable(SESSION)
        array = provider(daemon, "a", "b", scratch=scratch, scratch_percent=10)
        array.split(SESSION)
        array.recover()
    assert left(daemon) == []


def test_a_disk_that_qemu_will_not_back_up_is_refused_before_the_window(daemon: StorageDaemon) -> None:
    for name in ("a", "b"):
        daemon.add_disk(name, 16 * MIB)
    array = provider(daemon, "a", "b")
    # An administrator copies b, which is not in use, to another disk; QEMU lets nobody else near it.
    daemon.unshow("b")
    daemon.ask("blockdev-add", driver="null-co", node_name="copy", size=16 * MIB, read_zeroes=True)
    daemon.ask("blockdev-mirror", device="b", target="copy", sync="full", job_id="his")
    with pytest.raises(MirrorError, match="QEMU cannot split"):
        array.prepare(SESSION)
    daemon.ask("block-job-cancel", device="his")
    daemon.ask("blockdev-del", node_name="copy")
    assert left(daemon) == []


def test_what_answers_or_does_not_is_said(daemon: StorageDaemon, tmp_path: Path) -> None:
    daemon.add_disk("a", 16 * MIB)
    (state,) = provider(daemon, "b").state()
    assert state.problem == "pair b: QEMU has no node or device b; name one of its disks."
    (state,) = provider(daemon, "a", scratch=tmp_path / "none").state()
    assert state.problem is not None
    assert "the folder" in state.problem
    with pytest.raises(MirrorError, match="absolute path"):
        provider(daemon, "a", scratch=Path("relative"))
    with pytest.raises(MirrorError, match="needs the option 'qmp_socket'"):
        make_provider("qemu", [{"name": "a", "primary": "a", "mirror": "/m"}], str(tmp_path))
