# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A freeze on a disk that is too slow for its deadline is not begun: nobody could end it while the kernel writes.

The kernel's own throttle makes the disk slow (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.tests.support.freezing import Writer, file_system, holder

pytestmark = pytest.mark.root

THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
SLOW_BYTES_PER_S = 4 << 20
#: Rewrites a megabyte for ever, so that each round of writing out finds some.
BUSY = """
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
print(os.pwrite(fd, bytes(1 << 20), 0), flush=True)
while True:
    os.pwrite(fd, os.urandom(1 << 18) * 4, 0)
"""


@contextlib.contextmanager
def slow(mount: Path) -> Iterator[None]:
    """Let the kernel write slowly to the device of a file system, whoever asks for it."""
    number = os.stat(mount).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    THROTTLE.write_text(f"{device} {SLOW_BYTES_PER_S}\n", encoding="ascii")
    try:
        yield
    finally:
        THROTTLE.write_text(f"{device} 0\n", encoding="ascii")


@contextlib.contextmanager
def busy_writer(path: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY, os.fspath(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(
    not THROTTLE.exists(), reason="the kernel's throttle for writes (blkio of cgroup v1) is not mounted"
)
@pytest.mark.parametrize("fs_type", ["xfs", "ext4"])
def test_a_freeze_that_could_not_end_in_time_is_not_begun(scratch: Path, tmp_path: Path, fs_type: str) -> None:
    with file_system(scratch, fs_type) as mount, holder(tmp_path) as held:
        with slow(mount), busy_writer(mount / "busy"):
            with pytest.raises(Refused, match=r"deadline_s: 1 s is too short .* set a deadline of at least") as refused:
                held.ask("freeze", mounts=[str(mount)], deadline_s=1)
            assert str(mount) in str(refused.value)
            assert "freeze_sent" not in held.events()
        # Nothing is frozen, and on a disk that is fast again the same freeze is done.
        Writer(mount / "file").wait_done()
        held.ask("freeze", mounts=[str(mount)], deadline_s=10)
        assert held.ask("thaw")["intact"]
