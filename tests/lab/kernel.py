# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One host of the lab: its folder, its overlay of the shared root, its disks, and its kernel, an ordinary process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from ..support.blockdev import run
from .description import MANAGEMENT_NETWORK, STORAGE_NETWORK, Host, LabError
from .network import taps

GUEST = Path(__file__).with_name("guest")
#: More than all labs of a run take together.
_PLENTY_BYTES = 10 << 30


class Machine:
    """A host of a running lab.

    :param lab_folder: folder of the lab; the host's own is ``hosts/<name>`` in it.
    :param namespace: network namespace with the host's taps.
    """

    def __init__(self, lab_folder: Path, namespace: str, host: Host) -> None:
        self.host = host
        self.folder = lab_folder / "hosts" / host.name
        self.root = self.folder / "root"
        self.console = self.folder / "console"
        self._namespace = namespace
        # These two words on the command line tell the kernel's processes from all others of the machine.
        self._marks = (f"uml_dir={lab_folder}/uml/", f"umid={host.name}")

    def prepare(self, image: Path, files: dict[str, str]) -> None:
        """Make the host's folder, disks and root. :param files: what the host's root has of its own: path to text."""
        upper = self.folder / "upper"
        for folder in (upper, self.folder / "work", self.root):
            folder.mkdir(parents=True)
        for name, text in files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600 if name.startswith("etc/ssh/ssh_host_") else 0o644)
        for name, target in (("init.sh", "init.sh"), ("setup.py", "usr/local/sbin/lab-setup")):
            (upper / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(GUEST / name, upper / target)
            (upper / target).chmod(0o755)
        for number, size_mib in enumerate(self.host.disks_mib):
            with open(self._disk(number), "wb") as disk:
                disk.truncate(size_mib << 20)
        options = f"lowerdir={image},upperdir={upper},workdir={self.folder / 'work'}"
        run("mount", "-t", "overlay", "-o", options, "splitmirror-lab", self.root)

    def _disk(self, number: int) -> Path:
        return self.folder / f"disk{number}"

    def start(self) -> None:
        """Start the kernel; it goes on when this process ends."""
        if self.processes():
            raise LabError(f"{self.host.name} runs already")
        host = self.host
        command = ["nsenter", f"--net=/run/netns/{self._namespace}", "linux.uml", *self._marks]
        command += [f"mem={host.memory_mib}M", "root=/dev/root", "rootfstype=hostfs", f"rootflags={self.root}", "rw"]
        command += ["init=/init.sh", "quiet"]
        command += [f"ubd{number}={self._disk(number)}" for number in range(len(host.disks_mib))]
        command += [
            f"vec{number}:transport=tap,ifname={tap},depth=64,gro=1,mac=02:5b:{number:02x}:00:00:{host.number:02x}"
            for number, tap in enumerate(taps(host))
        ]
        command += ["con=null", "con0=null,fd:1", f"LAB_HOSTNAME={host.name}"]
        command += [f"LAB_ADDRESS={host.address}/{MANAGEMENT_NETWORK.prefixlen}"]
        command += [f"LAB_STORAGE={host.storage_address}/{STORAGE_NETWORK.prefixlen}"]
        with open(self.console, "ab") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "TMPDIR": _memory_folder()},
            )
        (self.folder / "pid").write_text(f"{process.pid}\n")

    def runs(self) -> bool:
        """Whether the kernel itself lives."""
        return self._leader() in self.processes()

    def _leader(self) -> int:
        """The process that was started, whose session all others are in; 0 when none was."""
        try:
            return int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def processes(self) -> list[int]:
        """All processes of the kernel: it has one for each address space, which outlive it when it is killed."""
        leader, entries = self._leader(), Path("/proc").iterdir()
        return [int(entry.name) for entry in entries if entry.name.isdigit() and self._is_own(entry, leader)]

    def _is_own(self, process: Path, leader: int) -> bool:
        """Whether a process is one of the kernel's. :param process: its folder in /proc. :param leader: see _leader."""
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return False
        return all(mark in words for mark in self._marks) or (words == [""] and _is_dying_kernel(process, leader))

    def kill(self) -> None:
        """End the kernel as a power cut would, and wait until it is gone."""
        while True:
            found = self.processes()
            if not found:
                return
            for pid in found:
                self._kill(pid)

    def _kill(self, pid: int) -> None:
        """Kill one of the kernel's processes, and wait until it is gone."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Most die with the kernel's first process, and their numbers may be those of another kernel's by now. Which
            # process the handle is for does not change from here on.
            if not self._is_own(Path("/proc", str(pid)), self._leader()):
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(10_000):
                raise LabError(f"process {pid} does not die")
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def remove(self) -> None:
        """Kill the kernel and take away all that the host had."""
        self.kill()
        while self.root.is_mount():
            run("umount", self.root)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def console_tail(self) -> str:
        """The last lines of the console."""
        if not self.console.exists():
            return ""
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-15:])


def _memory_folder() -> str:
    """Where the file lies that is a kernel's memory: in this machine's memory, if there is plenty.

    The pages of a file on a disk are written back all the time, and the kernel waits for a page that is being written.
    """
    with contextlib.suppress(OSError):
        shared = os.statvfs("/dev/shm")
        runs_programs = not shared.f_flag & os.ST_NOEXEC
        lines = Path("/proc/meminfo").read_text().splitlines()
        free_bytes = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        if runs_programs and min(shared.f_bavail * shared.f_frsize, free_bytes) > _PLENTY_BYTES:
            return "/dev/shm"
    return tempfile.gettempdir()


def _is_dying_kernel(process: Path, leader: int) -> bool:
    """Whether it has lost its memory and not yet its files, which keep its root busy. :param leader: of its session.

    Another kernel that is being started looks the same for a moment.
    """
    try:
        comm, _end, rest = (process / "stat").read_text().partition("(")[2].rpartition(") ")
    except OSError:
        return False
    state, _parent, _group, session = rest.split()[:4]
    return comm == "linux.uml" and state not in ("Z", "X") and int(session) == leader


def guest_settings(host: Host) -> str:
    """What the host's own set-up reads."""
    return json.dumps({"role": host.role, "initiator": host.initiator, **host.settings}, indent=1)
