# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab's life: up, down, status. All of it lies in one folder and one namespace, so that nothing stays behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..support.blockdev import run
from . import network, rootfs
from .description import Host, Lab, LabError
from .inventory import inventory, ssh_options
from .kernel import Machine, guest_settings

#: Program -> Debian package.
REQUIRED = {
    "ip": "iproute2",
    "linux.uml": "user-mode-linux",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
#: A kernel boots on one core; two at a time keep a small machine usable. Setting up also waits for disks.
BOOTS_AT_ONCE = 2
SET_UPS_AT_ONCE = 3
BOOT_LIMIT_S = 120
WAIT_LIMIT_S = 900
POLL_S = 0.2


class RunningLab:
    """A lab by its name, running or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = f"splitmirror-{name}"
        self.folder = rootfs.cache_dir() / "labs" / name
        self.key = self.folder / "key"
        self.known_hosts = self.folder / "known_hosts"
        self.inventory_file = self.folder / "inventory.json"
        self._description = self.folder / "lab.json"

    # ---- up and down ----

    def up(
        self,
        lab: Lab,
        report: Callable[[str], None] = lambda _dummy: None,
        keep: bool = False,
        packages: str = "",
    ) -> None:
        """Build, boot and set up the lab. What an earlier life left behind goes away first.

        :param keep: leave what came up when a step fails, to look at it.
        :param packages: what the hosts need beside the packages of all labs, see rootfs.ensure.
        :raises LabError: when it runs already, or cannot be brought up; then it is taken down again.
        """
        _check_machine()
        with self._lock():
            if self.running():
                raise LabError(f"the lab {self.name!r} is up; take it down first")
            self._remove()
            image = rootfs.ensure(packages)
            report(f"root file system {image.name}")
            try:
                self._create(lab, image)
                machines = [self.machine(host) for host in lab.hosts]
                self._bring_up(machines, report)
            except BaseException:
                if not keep:
                    self._remove()
                raise

    def start(self, name: str) -> None:
        """Boot one host again after it was killed."""
        machine = self.machine(self.lab().host(name))
        machine.start()
        self._boot_wait(machine)
        self._set_up(machine)

    def down(self) -> None:
        """Take everything away: kernels, overlays, network, folder. There need not be anything."""
        with self._lock():
            self._remove()

    def running(self) -> bool:
        """Whether all of the lab's kernels run."""
        return self._description.exists() and all(self.machine(host).runs() for host in self.lab().hosts)

    def _create(self, lab: Lab, image: Path) -> None:
        self.folder.mkdir(parents=True, mode=0o700)
        self._description.write_text(json.dumps(asdict(lab)))
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "splitmirror-lab", "-f", self.key)
        known_hosts = []
        names = "".join(f"{host.address} {host.name}\n" for host in lab.hosts)
        for host in lab.hosts:
            host_key = self.folder / "host_key"
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", host_key)
            public = host_key.with_suffix(".pub")
            known_hosts.append(f"{host.address} {public.read_text()}")
            files = {
                "etc/hostname": f"{host.name}\n",
                "etc/hosts": f"127.0.0.1 localhost\n{names}",
                "etc/iscsi/initiatorname.iscsi": f"InitiatorName={host.initiator}\n",
                "etc/splitmirror-lab.json": guest_settings(host),
                "etc/ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
                "etc/ssh/ssh_host_ed25519_key": host_key.read_text(),
            }
            host_key.unlink()
            public.unlink()
            self.machine(host).prepare(image, files)
        self.known_hosts.write_text("".join(known_hosts))
        self.inventory_file.write_text(json.dumps(inventory(lab, self.key, self.known_hosts), indent=2) + "\n")
        network.create(self.namespace, lab.hosts)

    def _remove(self) -> None:
        hosts = self.folder / "hosts"
        for folder in sorted(hosts.iterdir()) if hosts.exists() else ():
            # By the folder alone: a lab that died while it was made has no whole description.
            Machine(self.folder, self.namespace, Host(folder.name, "", 0, 0)).remove()
        network.destroy(self.namespace)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder.parent / f".{self.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ---- hosts ----

    def lab(self) -> Lab:
        """The description of the lab that is up. :raises LabError: when none is."""
        try:
            text = json.loads(self._description.read_text())
        except (OSError, ValueError) as exc:
            raise LabError(f"the lab {self.name!r} is not up") from exc
        hosts = tuple(Host(**{**host, "disks_mib": tuple(host["disks_mib"])}) for host in text["hosts"])
        return Lab(text["name"], hosts)

    def machine(self, host: Host) -> Machine:
        """The host's folder and kernel."""
        return Machine(self.folder, self.namespace, host)

    def ssh_command(self, name: str, command: Iterable[str] = ()) -> list[str]:
        """The words that run ``command`` (or a shell) on a host, inside the namespace, as the user ``ops``."""
        host = self.lab().host(name)
        options = ssh_options(self.key, self.known_hosts)
        return [*self.inside(), "ssh", *options, f"ops@{host.address}", *command]

    def inside(self) -> list[str]:
        """The words before a command that make it run in the lab's network."""
        # Not `ip netns exec`: its mount namespace would keep mounts of others busy as long as the command runs.
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def ssh(self, name: str, command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host; its exit status and output are in what is returned."""
        words = self.ssh_command(name, ["--", command])
        return subprocess.run(words, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL, **options)

    def wait_for(self, name: str, command: str, limit_s: float = WAIT_LIMIT_S) -> None:
        """Wait until a shell command succeeds on a host, as root.

        :raises LabError: it does not within the limit.
        """
        end = time.monotonic() + limit_s
        # The host itself asks again: each login costs it far more than most commands.
        again = f"until {{ {command}\n}}; do sleep {POLL_S}; done"
        while (left_s := end - time.monotonic()) > 0:
            answer = self.ssh(name, f"sudo timeout {left_s:.1f} sh -c {shlex.quote(again)}")
            if not answer.returncode:
                return
            time.sleep(POLL_S)
        raise LabError(f"{name}: still not after {limit_s:.0f} s: {command}")

    def _boot(self, machine: Machine) -> None:
        machine.start()
        self._boot_wait(machine)

    def _boot_wait(self, machine: Machine) -> None:
        end = time.monotonic() + BOOT_LIMIT_S
        while True:
            answer = self.ssh(machine.host.name, "true")
            if not answer.returncode:
                return
            hopeless = "Permission denied" in answer.stderr or not machine.runs()
            if hopeless or time.monotonic() > end:
                raise LabError(f"{machine.host.name} does not boot:\n{machine.console_tail()}\n{answer.stderr}")
            time.sleep(POLL_S)

    def _set_up(self, machine: Machine) -> None:
        answer = self.ssh(machine.host.name, "sudo python3 /usr/local/sbin/lab-setup")
        if answer.returncode:
            raise LabError(f"{machine.host.name} cannot be set up: {answer.stderr}{answer.stdout}")

    def _bring_up(self, machines: list[Machine], report: Callable[[str], None]) -> None:
        """Boot all and set them up, a few at a time; database hosts wait for the LUNs of their arrays."""
        boots, set_ups = threading.Semaphore(BOOTS_AT_ONCE), threading.Semaphore(SET_UPS_AT_ONCE)
        arrays: list[Future[None]] = []

        def step(machine: Machine, room: threading.Semaphore, do: Callable[[Machine], None], done: str) -> None:
            with room:
                began = time.monotonic()
                do(machine)
                report(f"{machine.host.name} {done} ({time.monotonic() - began:.1f} s)")

        def work(machine: Machine) -> None:
            step(machine, boots, self._boot, "boots")
            if machine.host.role == "database":
                for array in arrays:
                    array.result()
            step(machine, set_ups, self._set_up, "is set up")

        # One thread each: who waits for an array holds nothing that it needs.
        with ThreadPoolExecutor(len(machines)) as pool:

            def begin(role: str) -> list[Future[None]]:
                return [pool.submit(work, machine) for machine in machines if machine.host.role == role]

            arrays += begin("array")
            for job in [*arrays, *begin("database"), *begin("media"), *begin("client")]:
                job.result()


def missing_packages() -> list[str]:
    """The Debian packages that the lab still needs on this machine."""
    return sorted({package for program, package in REQUIRED.items() if not shutil.which(program)})


def _check_machine() -> None:
    if os.geteuid():
        raise LabError("the lab needs root: it makes a network namespace, taps and overlay mounts")
    missing = missing_packages()
    if missing:
        raise LabError(f"Debian packages are missing: apt-get install {' '.join(missing)}")
