# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image files as an array, for the tests of the mirrors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.testing import patch_module_args

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import loop
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.blockdev import XFS_MIN_MIB, loop_device, make_image, mounted

SESSION = "20260101T000000Z-db1-0001"
OTHER = "20260101T000000Z-db1-0002"


class Array:
    """An array of image files in one folder. :ivar provider: over the pairs ``data`` and ``wal``."""

    def __init__(self, folder: Path, state: Path, size_bytes: int = 1 << 20, allow_copy: bool = False) -> None:
        self.folder = folder
        self.state = state
        self.pairs = [
            Pair(name, str(folder / f"{name}.img"), str(folder / f"{name}.mirror")) for name in ("data", "wal")
        ]
        for pair in self.pairs:
            with open(pair.primary, "wb") as image:
                image.write(pair.name.encode() * 1000)
                image.truncate(size_bytes)
        self.provider = ImageProvider(self.pairs, StateDir(str(state)), {"allow_copy": allow_copy})

    def files(self) -> set[str]:
        """Names in the image folder."""
        return set(os.listdir(self.folder))

    def records(self) -> list[str]:
        """Names of the journal's records."""
        folder = self.state / "mirrors"
        return sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.exists() else []

    def detach_all(self) -> None:
        """Detach every loop device over a mirror, whatever a failed test left."""
        for pair in self.pairs:
            for device in loop.loops_of(pair.mirror):
                loop.detach(device.path, pair.mirror)


@contextlib.contextmanager
def reflink_array(tmp_path: Path) -> Iterator[Array]:
    """An array on an XFS that shares blocks."""
    image = make_image(tmp_path / "array.xfs", XFS_MIN_MIB, "xfs")
    with loop_device(image) as device, mounted(device, tmp_path / "array") as folder:
        array = Array(folder, tmp_path / "state")
        try:
            yield array
        finally:
            array.detach_all()


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child and return its wait status; 0 when it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def run_module(main: Callable[[], None], arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run a module in this process and return its result; a failed one has ``failed`` set."""
    out = io.StringIO()
    with (
        patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main()
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def kill(pid: int) -> None:
    """Kill a process that need not be our child, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0], f"process {pid} does not end"
    finally:
        os.close(pidfd)
