# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Freezing real file systems: that writes stop and go on, who is refused, and what is never frozen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import freeze
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import FreezeError, Needed, check_mounts
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
from ansible_collections.splitmirror.backup.tests.support.freezing import (
    HolderUnderTest,
    Writer,
    file_system,
    holder,
    in_own_mounts,
)

pytestmark = pytest.mark.root


def test_a_write_waits_from_freeze_to_thaw(mount: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(mount)], deadline_s=60)
    writer = Writer(mount / "file")
    writer.wait_blocked()

    result = held.ask("thaw")

    writer.wait_done()
    assert result["thawed"]
    assert result["intact"]
    assert result["window_s"] > 0
    assert held.events() == ["freeze_sent", "freeze_acknowledged", "thaw_sent", "thaw_acknowledged"]


def test_what_was_written_before_the_freeze_is_on_the_device(ext4: Path, held: HolderUnderTest, scratch: Path) -> None:
    (ext4 / "file").write_bytes(b"just written, never synced")

    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)

    assert b"just written, never synced" in (scratch / "fs.img").read_bytes()


def test_a_frozen_file_system_can_be_unmounted_soon_after_its_thaw(mount: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(mount)], deadline_s=60)
    held.ask("thaw")

    run("umount", mount)

    run("mount", Path(f"{mount}.img"), mount)  # for the fixture to unmount


def test_several_file_systems_freeze_as_one_and_thaw_in_reverse(scratch: Path, held: HolderUnderTest) -> None:
    with (
        file_system(scratch, "ext4", "outer") as outer,
        file_system(scratch, "ext4", "other", outer / "inner") as inner,
    ):
        result = held.ask("freeze", mounts=[str(inner), str(outer)], deadline_s=60)
        assert result["mounts"] == [str(outer), str(inner)]
        writers = [Writer(outer / "file"), Writer(inner / "file")]
        for writer in writers:
            writer.wait_blocked()

        assert held.ask("thaw")["intact"]

        for writer in writers:
            writer.wait_done()


def test_a_file_system_in_a_file_of_another_is_not_frozen_with_it(scratch: Path) -> None:
    def body() -> None:
        with file_system(scratch, "ext4", "lower") as lower, file_system(lower, "ext4", "upper") as upper:
            with pytest.raises(FreezeError, match=f"{upper} lies in a file on {lower}"):
                check_mounts([str(lower), str(upper)], [])
            assert len(check_mounts([str(upper)], [])) == 1

    in_own_mounts(body)


def test_check_thaw_thaws_although_nothing_can_be_checked(ext4: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    writer = Writer(ext4 / "file")
    writer.wait_blocked()

    result = held.ask("check_thaw")

    writer.wait_done()
    assert not result["check"]["complete"]
    assert "nothing is mapped" in result["error"]
    assert held.events()[-4:] == ["freeze_sent", "freeze_acknowledged", "thaw_sent", "thaw_acknowledged"]


def test_a_file_system_frozen_by_someone_else_stays_theirs(ext4: Path, held: HolderUnderTest) -> None:
    run("fsfreeze", "--freeze", ext4)

    with pytest.raises(Refused, match="already frozen by someone else"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)

    writer = Writer(ext4 / "file")
    writer.wait_blocked()
    run("fsfreeze", "--unfreeze", ext4)
    writer.wait_done()
    assert not held.ask("status")["frozen"]


def test_what_is_frozen_before_a_refusal_is_thawed(scratch: Path, held: HolderUnderTest) -> None:
    with file_system(scratch, "ext4", "a") as first, file_system(scratch, "ext4", "b") as second:
        run("fsfreeze", "--freeze", second)

        with pytest.raises(Refused, match=f"{second} is already frozen"):
            held.ask("freeze", mounts=[str(first), str(second)], deadline_s=60)

        Writer(first / "file").wait_done()


def test_a_thaw_by_someone_else_breaks_the_window(ext4: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    run("fsfreeze", "--unfreeze", ext4)

    result = held.ask("check_thaw")

    assert not result["intact"]
    assert "was thawed by someone else" in result["error"]


def test_a_thaw_and_freeze_by_someone_else_is_noticed(mount: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(mount)], deadline_s=60)
    run("fsfreeze", "--unfreeze", mount)
    (mount / "file").write_bytes(b"written in the window")
    run("fsfreeze", "--freeze", mount)

    result = held.ask("check_thaw")

    assert not result["intact"]
    assert f"{mount} was written to while it was frozen" in result["error"]
    Writer(mount / "file after").wait_done()


def test_a_thaw_and_freeze_is_noticed_also_where_the_kernel_counts_nothing(ext4: Path, held: HolderUnderTest) -> None:
    device = Path(run("findmnt", "--noheadings", "--output=SOURCE", ext4).stdout.strip()).name
    counting = Path(f"/sys/block/{device}/queue/iostats")
    counting.write_text("0")
    try:
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
        run("fsfreeze", "--unfreeze", ext4)
        (ext4 / "file").write_bytes(os.urandom(1 << 20))
        run("fsfreeze", "--freeze", ext4)

        assert not held.ask("thaw")["intact"]

        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
        assert held.ask("thaw")["intact"]
    finally:
        counting.write_text("1")  # or the next test that gets this device counts nothing


def test_a_second_freeze_of_the_session_is_refused_and_harmless(ext4: Path, held: HolderUnderTest) -> None:
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)

    with pytest.raises(Refused, match="has frozen already"):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=60)

    assert held.ask("status")["frozen"]
    assert held.ask("thaw")["intact"]


def test_thaw_of_nothing_says_so(held: HolderUnderTest) -> None:
    assert not held.ask("thaw")["thawed"]


@pytest.mark.parametrize("deadline_s", [0, -1, 86400])
def test_a_freeze_needs_a_deadline(ext4: Path, held: HolderUnderTest, deadline_s: float) -> None:
    with pytest.raises(Refused, match="deadline_s: "):
        held.ask("freeze", mounts=[str(ext4)], deadline_s=deadline_s)


def test_nothing_to_freeze_is_refused(held: HolderUnderTest) -> None:
    with pytest.raises(Refused, match="nothing to freeze"):
        held.ask("freeze", mounts=[], deadline_s=10)


def test_the_root_file_system_is_refused(held: HolderUnderTest) -> None:
    with pytest.raises(Refused, match="/ is never frozen: it contains /, which the system and Ansible need"):
        held.ask("freeze", mounts=["/"], deadline_s=10)


def test_the_file_system_of_the_state_folder_is_refused(scratch: Path) -> None:
    with file_system(scratch, "ext4") as mount, holder(mount) as running:
        assert mount.is_mount()
        with pytest.raises(Refused, match=f"{mount} is never frozen: it contains {mount}/state"):
            running.ask("freeze", mounts=[str(mount)], deadline_s=10)


def test_the_file_system_where_ansible_works_is_refused(ext4: Path, tmp_path: Path) -> None:
    needed = [Needed(str(ext4 / "not" / "there" / "yet"), "where Ansible puts its modules (remote_tmp)")]
    with holder(tmp_path, needed=needed) as running, pytest.raises(Refused, match="remote_tmp"):
        running.ask("freeze", mounts=[str(ext4)], deadline_s=10)


def test_a_file_system_with_a_swap_file_is_refused(ext4: Path, tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    name = str(ext4 / "swap file")
    swaps.write_text("Filename Type Size Used Priority\n" + name.replace(" ", "\\040") + " file 1024 0 -2\n")

    with pytest.raises(FreezeError, match="swap file, which is swapped to"):
        check_mounts([str(ext4)], [], str(swaps))


def test_a_file_system_without_a_local_device_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "none", folder)
    try:
        with pytest.raises(FreezeError, match=f"{folder} is tmpfs, which is not on a local block device"):
            check_mounts([str(folder)], [])
    finally:
        run("umount", folder)


def test_a_folder_that_is_no_mount_point_is_refused(ext4: Path) -> None:
    (ext4 / "folder").mkdir()
    with pytest.raises(FreezeError, match="not a mount point"):
        check_mounts([str(ext4 / "folder")], [])


def test_a_file_system_mounted_twice_is_frozen_once(ext4: Path, tmp_path: Path, held: HolderUnderTest) -> None:
    again = tmp_path / "again"
    again.mkdir()
    run("mount", "--bind", ext4, again)
    try:
        assert len(held.ask("freeze", mounts=[str(again), str(ext4)], deadline_s=60)["mounts"]) == 1
        assert held.ask("thaw")["intact"]
    finally:
        run("umount", again)


def test_the_record_of_a_freeze_is_there_while_it_lasts(ext4: Path, held: HolderUnderTest) -> None:
    record = Path(held.state.session_file(held.session, "frozen.json"))
    held.ask("freeze", mounts=[str(ext4)], deadline_s=60)
    assert record.exists()
    held.ask("thaw")
    assert not record.exists()


def test_thaw_tells_whether_it_was_frozen(ext4: Path) -> None:
    (mount,) = check_mounts([str(ext4)], [])
    fd = freeze.open_mount(mount)
    try:
        assert not freeze.thaw(fd)
        freeze.freeze(fd, "it")
        assert freeze.thaw(fd)
    finally:
        os.close(fd)


def test_the_holder_does_not_keep_the_task_waiting(tmp_path: Path) -> None:
    """It holds neither terminal nor pipe of its starter, or Ansible would wait for it to its end."""
    with holder(tmp_path) as running:
        fds = Path(f"/proc/{running.record().pid}/fd")
        assert {(fds / number).readlink().name for number in "01"} == {"null"}
