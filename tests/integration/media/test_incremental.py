# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Incremental sessions of a real file system: what is restored is the mirror of their time, for rsync too."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.since import TICK_NS
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    file_system,
    frozen,
    make_all_sorts,
    mirror,
    split,
)
from ansible_collections.splitmirror.backup.tests.support.tape import Library, judge

pytestmark = pytest.mark.root


def back_up(library: Library, folder: Path, kind: str, device: str, session: str, *, late: bool = False) -> Any:
    """Map and split a file system, and write what changed. :param late: something is only found by the proof."""
    data = folder / f"mnt-{kind}" / "data"
    path = folder / f"map-{session}.sqlite"
    with MapFile.create(str(path), session, "db1") as map_file:
        map_scopes(map_file, [Scope(str(data))], [LunSpec("data", device)])
        # As if all that is there had been there for a while.
        map_file.set_meta("checked_ns", str(time.time_ns() + TICK_NS))
        map_file.set_state("checked")
    if late:
        (data / "late").write_bytes(b"late" * 3000)
        (data / "sub" / "two").unlink()
        os.chmod(data / "owned", 0o711)
    with frozen(data.parent):
        split(folder, kind)
    options: dict[str, Any] = {
        "map_path": str(path),
        "devices": {"data": str(folder / "mirror.img")},
        "proof": "full",
        "level": "incremental",
    }
    with loop_device(folder / "mirror.img", read_only=True) as copy, library.drive() as drive:
        options["devices"] = {"data": copy}
        done = write_session(library.job(session, [], **options), library.on(drive))
    judge(library, session, done)
    return done


def change(data: Path, chance: random.Random) -> None:
    """Do to a tree all that can be done to one."""
    sub = data / "sub"
    sub.mkdir(exist_ok=True)
    for number in range(6):
        (sub / f"f{number}").write_bytes(chance.randbytes(5000 * number))
    (sub / "two").write_bytes(b"2")
    names = sorted(path for path in data.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "two")
    victim = chance.choice([path for path in names if path.stat().st_size])
    before = victim.stat()
    with open(victim, "r+b") as stream:
        stream.write(chance.randbytes(min(before.st_size, 900)))
    # The same size, and the time put back: the time of change of the inode alone shows it.
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    with open(chance.choice(names), "r+b") as stream:
        stream.truncate(1 << 20)
        stream.seek(700_000)
        stream.write(b"after a hole")
    moved = sub / f"moved{chance.randrange(1000)}"
    moved.mkdir()
    for name in chance.sample([path for path in names if path != victim], 4):
        name.rename(moved / f"{chance.randrange(1 << 30)}")
    inside = sorted(moved.iterdir())
    os.link(inside[0], data / f"linked{chance.randrange(1 << 30)}")
    inside[1].unlink()
    inside[1].mkdir()
    (inside[1] / "in").symlink_to("nowhere")
    os.setxattr(inside[2], b"user.n", chance.randbytes(9))
    chance.choice([path for path in names if path.exists()]).unlink()


def differences(expected: Path, found: Path) -> str:
    """What rsync would do to make a restored tree the mirror. A socket is in no archive."""
    command = ["rsync", "-naHAX", "--delete", "--checksum", "--itemize-changes", "--exclude=/socket"]
    # How XFS shows once more the ACLs that it has.
    command.append("--filter=-x trusted.SGI_ACL_*")
    return subprocess.run([*command, f"{expected}/", f"{found}/"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_each_session_is_the_mirror_of_its_time(kind: str, scratch: Path, tmp_path: Path) -> None:
    library = Library(scratch)
    library.make(capacity_bytes=256 << 20)
    library.label(record_bytes=64 << 10)
    chance = random.Random(13)
    seen = {}
    with file_system(scratch, kind) as (mount, device):
        data = mount / "data"
        make_all_sorts(data)
        for number in range(3):
            change(data, chance)
            session = f"s{number}"
            seen[session] = back_up(library, scratch, kind, device, session, late=number == 1)
            os.rename(scratch / "mirror.img", scratch / f"{session}.img")
    assert [(done["level"], done["base"]) for done in seen.values()] == [
        ("full", ""),
        ("incremental", "s0"),
        ("incremental", "s1"),
    ]
    assert seen["s1"]["proof"]["added"] == 1
    assert seen["s2"]["unchanged"] > 10
    assert seen["s2"]["files"] < seen["s0"]["files"]
    for session in seen:
        library.restore(session, tmp_path / session, numeric_owner=True)
        os.rename(scratch / f"{session}.img", scratch / "mirror.img")
        with mirror(scratch, kind) as (there, _device):
            assert differences(there / "data", tmp_path / session / str(data)[1:]) == ""
        os.rename(scratch / "mirror.img", scratch / f"{session}.img")
    library.catalog.close()
