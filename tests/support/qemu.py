# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A qemu-storage-daemon for tests: a process of its own, with disks that it also shows as files."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import fuse
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, terminate
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.qmp import Qmp
from ansible_collections.splitmirror.backup.tests.support.blockdev import run


def need_storage_daemon() -> None:
    """Skip where there is none, and say what is missing."""
    for program, package in (("qemu-storage-daemon", "qemu-system-common"), ("qemu-img", "qemu-utils")):
        if not shutil.which(program):
            pytest.skip(f"this needs {program}, of Debian's package {package}")


class StorageDaemon:
    """A storage daemon whose files lie in one folder; a context manager.

    :param around: the words of a program that starts it, in a mount namespace of its own.
    :ivar socket: of its QMP monitor. :ivar disks: their names.
    """

    def __init__(self, folder: Path, around: Sequence[str] = ()) -> None:
        self.folder = folder
        self._around = around
        self.socket = folder / "qmp.sock"
        self.disks: list[str] = []
        self._shown: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> StorageDaemon:
        self.start()
        return self

    def __exit__(self, *_dummy: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it with the disks that it had. It takes connections at once, because the socket is there before it."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen()
            words = [
                *self._around,
                "qemu-storage-daemon",
                "--chardev",
                f"socket,id=qmp,fd={listener.fileno()},server=on,wait=off",
            ]
            words += ["--monitor", "chardev=qmp"]
            self._process = subprocess.Popen(words, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
        disks, self.disks = self.disks, []
        for name in disks:
            self.add_disk(name)

    def kill(self) -> None:
        """End it as a power cut would, and take away what the kernel keeps of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)
            for name in [] if self._around else self._shown:
                run("umount", self.shown(name))
            self._shown.clear()

    def quit(self) -> None:
        """Tell it to end, and wait for that."""
        self.ask("quit")
        assert self._process is not None
        self._process.wait()
        self._shown.clear()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a QMP command."""
        with Qmp(str(self.socket)) as qmp:
            return qmp.ask(command, **arguments)

    def nodes(self) -> list[str]:
        """The names of all nodes, but for those that QEMU itself named."""
        names = [node["node-name"] for node in self.ask("query-named-block-nodes", flat=True)]
        return sorted(name for name in names if not name.startswith("#"))

    def add_disk(self, name: str, size_bytes: int = 0, driver: str = "raw") -> None:
        """Add a disk, made if it has a size; it can be written through the file ``shown``."""
        image = self.folder / f"{name}.{driver}"
        if size_bytes:
            run("qemu-img", "create", "-q", "-f", driver, image, str(size_bytes))
        file = {"driver": "file", "filename": str(image)}
        self.ask("blockdev-add", driver=driver, node_name=name, file=file)
        self.shown(name).touch()
        self.ask(
            "block-export-add", type="fuse", id=name, node_name=name, mountpoint=str(self.shown(name)), writable=True
        )
        self.disks.append(name)
        self._shown.append(name)

    def unshow(self, name: str) -> None:
        """Take away the file of a disk."""
        self.ask("block-export-del", id=name)
        while os.path.ismount(self.shown(name)):
            os.sched_yield()
        self._shown.remove(name)

    def remove_disk(self, name: str) -> None:
        """Take a disk away; its image stays."""
        self.unshow(name)
        self.ask("blockdev-del", node_name=name)
        self.disks.remove(name)

    def shown(self, name: str) -> Path:
        """The file through which a disk is read and written."""
        return self.folder / f"{name}.disk"


def clear(folder: Path) -> None:
    """Take away what storage daemons have below a folder: loop devices, the daemons, what is mounted of them."""
    for entry in Path("/sys/class/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if entry.read_text().startswith(f"{folder}/"):
                run("losetup", "--detach", f"/dev/{entry.parts[-3]}")
    for note in folder.rglob("*.loop"):
        for device in fuse.loops_over(str(note.with_suffix(""))):
            run("losetup", "--detach", device)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().startswith(b"qemu-storage-daemon\0") and f'"{folder}/'.encode() in entry.read_bytes():
                record = DaemonRecord.of(int(entry.parts[-2]))
                assert record is None or terminate(record, 0)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            run("umount", line.split()[1])
