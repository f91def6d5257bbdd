# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all benches share: file systems on loop devices, cold caches, processes to time or to weigh, and results."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run

SESSION = "bench"
LUN = "lun"
MIB = 1 << 20
_PIPE_BYTES = MIB
_F_SETPIPE_SZ = 1031
_WORK = "ansible_collections.splitmirror.backup.tests.benchmarks.work"
_SAMPLE_S = 0.1
_Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Options:
    """How large and how often. :param scale: 1 is the full size; less of it is for quick trials."""

    folder: Path
    scale: float = 1.0
    runs: int = 5

    def count(self, full: int) -> int:
        """A number of files at this scale."""
        return max(100, round(full * self.scale))


@dataclass(frozen=True)
class Result:
    """What a bench found.

    :param ratio: the figure that is held against ``asked``; at least that much where ``at_least``, else at most.
    :param ours: every run's figure; its median and the rival's make the ratio unless ``meaning`` says otherwise.
    """

    bench: str
    meaning: str
    ratio: float
    asked: float
    at_least: bool
    unit: str
    ours: Sequence[float]
    rival: Sequence[float]
    rival_name: str
    details: dict[str, Any] = field(default_factory=dict)
    also: bool = True

    @property
    def reached(self) -> bool:
        """Whether the bar is reached; ``also`` is what the bench asks for beside the ratio."""
        return self.also and (self.ratio >= self.asked if self.at_least else self.ratio <= self.asked)

    def as_dict(self, options: Options, machine: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that is printed."""
        return {
            "bench": self.bench,
            "meaning": self.meaning,
            "ratio": round(self.ratio, 3),
            "bar": self.asked,
            "reached_when": "at least the bar" if self.at_least else "at most the bar",
            "reached": self.reached,
            "scale": options.scale,
            "unit": self.unit,
            "ours": _series(self.ours),
            "rival": {"name": self.rival_name, **_series(self.rival)},
            "details": self.details,
            "machine": machine,
        }


def _series(values: Sequence[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 4) if values else None, "runs": [round(v, 4) for v in values]}


def machine(folder: Path) -> dict[str, Any]:
    """The machine, as far as a reader needs it to judge figures; ``load`` are the averages when the bench began."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "disk_fs": run("stat", "--file-system", "--format=%T", folder).stdout.strip(),
        "load": os.getloadavg(),
    }


def take_cpus_first() -> None:
    """Let this process and its children go before others that want the CPUs, the rivals too; see sched(7), autogroup.

    The kernel's own threads, which do the work of loop devices, are left as they are.
    """
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    Path("/proc/self/autogroup").write_text("-20", encoding="utf-8")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


# -- file systems ----------------------------------------------------------------------------------------------------


def make_disk(folder: Path, size_mib: int, *mkfs: str) -> Path:
    """An image with an ext4 on it."""
    image = make_image(folder / "lun.img", size_mib)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", *mkfs, image)
    return image


@contextlib.contextmanager
def primary(folder: Path, image: Path) -> Iterator[tuple[Path, str]]:
    """The LUN on the database host: where it is mounted, and its device."""
    with loop_device(image) as device, mounted(device, folder / "primary") as mount:
        yield mount, device


@contextlib.contextmanager
def mirror(folder: Path, image: Path) -> Iterator[tuple[Path, str]]:
    """The mirror on the media server. It is the image itself: benches split nothing, for nobody writes meanwhile."""
    with (
        loop_device(image, read_only=True) as device,
        mounted(device, folder / "mirror", "ro", "noload") as mount,
    ):
        yield mount, device


def map_folder(path: Path, root: Path, device: str) -> None:
    """The extent map of a folder on the primary."""
    with MapFile.create(str(path), SESSION, "bench") as made:
        map_scopes(made, [Scope(str(root))], [LunSpec(LUN, device)])
        made.set_state("checked")


def drop_caches() -> None:
    """Make the next reader go to the disk, for data and for inodes."""
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")


# -- processes -------------------------------------------------------------------------------------------------------


def work(*arguments: object) -> list[str]:
    """The command for a part of the product in a process of its own, see work.py."""
    return [sys.executable, "-m", _WORK, *map(str, arguments)]


def time_into_cat(*command: str) -> float:
    """Seconds that a command takes, cold, to write all its output through a pipe into cat."""
    with _standing_ready(command, subprocess.PIPE) as (writer, go):
        assert writer.stdout is not None
        fcntl.fcntl(writer.stdout, _F_SETPIPE_SZ, _PIPE_BYTES)
        with subprocess.Popen(["cat"], stdin=writer.stdout, stdout=subprocess.DEVNULL) as cat:
            writer.stdout.close()
            began = go()
            cat.wait()
            writer.wait()
            took_s = time.monotonic() - began
    assert writer.returncode == 0, command
    return took_s


def time_alone(*command: str) -> float:
    """Seconds that a command takes, cold; what it says is thrown away."""
    with _standing_ready(command, subprocess.DEVNULL) as (process, go):
        began = go()
        process.wait()
        took_s = time.monotonic() - began
    assert process.returncode == 0, command
    return took_s


@contextlib.contextmanager
def _standing_ready(
    command: Sequence[str], stdout: int
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], float]]]:
    """Start a command that waits for its sign, and yield how to give it, which returns the time.

    The processes of the product are started and have imported everything long before they are needed, so their start is
    not measured. Other commands wait too, in a shell that becomes them.
    """
    ours, theirs = socket.socketpair()
    words = list(command) if _WORK in command else ["sh", "-c", 'echo >&"$0"; read -r _ <&"$0"; exec "$@"']
    words += ["--door", str(theirs.fileno())] if _WORK in command else [str(theirs.fileno()), *command]
    with ours, theirs:
        process = subprocess.Popen(words, stdout=stdout, pass_fds=[theirs.fileno()], env=_environment())
        with process:
            assert ours.recv(1), command

            def go() -> float:
                drop_caches()
                ours.send(b"\n")
                return time.monotonic()

            yield process, go


def weigh(*command: str) -> tuple[float, float]:
    """Run a command and return its peak memory in MiB, with all its children, and the seconds it took.

    The memory is the sum of their proportional set sizes (proc_pid_smaps(5)), which counts shared pages once, sampled
    while it runs. Caches of the kernel are not in it.
    """
    drop_caches()
    began = time.monotonic()
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment()) as process:
        while process.poll() is None:
            peak = max(peak, sum(_pss_kib(pid) for pid in _family(process.pid)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SAMPLE_S)
    assert process.returncode == 0, command
    return peak / 1024, time.monotonic() - began


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="utf-8").split())
    return found


def _pss_kib(pid: int) -> int:
    try:
        return next(int(line.split()[1]) for line in _lines(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "LC_ALL": "C.UTF-8"}


def in_turn(runs: int, *parts: Callable[[], float]) -> list[list[float]]:
    """Run the parts in turn, so that a machine that gets slower or faster treats them alike; one list for each."""
    found: list[list[float]] = [[] for _dummy in parts]
    for _dummy in range(runs):
        for part, series in zip(parts, found):
            series.append(part())
    return found
