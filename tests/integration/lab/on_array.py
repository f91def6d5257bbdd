# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The providers lvm and md on the array of the lab: two small mirrored LUNs to break, and cases. See contract.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.host.files import partial
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.raid import RaidProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.tests.seams.mirrors import (
    MIB,
    MirrorContract,
    printed_by,
    read,
    refused,
    write,
)

__all__ = ["OWN_CASES", "Bench", "read", "run", "write"]

LUN_MIB = 16
BITMAP = "--bitmap=internal --bitmap-chunk=64K"


def run(*command: str) -> None:
    """Run a command to its end; its words are the failure."""
    printed_by(*command)


class Bench(MirrorContract):
    """Two LUNs ``t0`` and ``t1``, and providers over them. Writes go to their first half."""

    resynced_bytes = (2 * MIB, LUN_MIB * MIB - 1)

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.keeps_marks = kind == "lvm"

    def make(self) -> None:
        """See MirrorContract. Making them takes longer than most cases; a case that passed has left them whole."""
        if os.path.exists(self.primary("t0")):
            return
        for name in ("t0", "t1"):
            if self.kind == "lvm":
                words = f"--yes --type=raid1 --mirrors=1 --nosync --size={LUN_MIB}m --name={name} san"
                run("lvcreate", *words.split())
                continue
            for leg, disk in enumerate(("/dev/ubda", "/dev/ubdb")):
                words = f"--yes --wipesignatures=y --size={LUN_MIB + 4}m --name={name}_leg{leg} san {disk}"
                run("lvcreate", *words.split())
            words = f"--run --level=1 --raid-devices=2 --size={LUN_MIB}M {BITMAP} --assume-clean --homehost=any"
            run("mdadm", "--create", f"/dev/md/{name}", *words.split(), *(f"/dev/san/{name}_leg{n}" for n in range(2)))
        run("udevadm", "settle")

    def remove(self, failed: bool) -> None:
        """See MirrorContract."""
        if not failed:
            return
        names = ["t0", "t1"] if self.kind == "lvm" else [f"t{n}_leg{leg}" for n in range(2) for leg in range(2)]
        if self.kind == "md":
            run("losetup", "--detach-all")
            # udev assembles what it can as soon as a leg is let go, until no superblock is left.
            clear = ["mdadm", "--quiet", "--zero-superblock", *(f"/dev/san/{name}" for name in names)]
            for _dummy in range(20):
                subprocess.run(["mdadm", "--quiet", "--stop", "--scan"], check=False)
                if subprocess.run(clear, check=False).returncode == 0:
                    break
                run("udevadm", "settle")
        run("udevadm", "settle")
        run("lvremove", "--yes", *(f"san/{name}" for name in names))

    def pairs(self) -> list[dict[str, str]]:
        """See MirrorContract."""
        if self.kind == "lvm":
            return [{"name": n, "primary": f"san/{n}", "mirror": f"san/{n}_rimage_1"} for n in ("t0", "t1")]
        return [{"name": n, "primary": f"/dev/md/{n}", "mirror": f"/dev/san/{n}_leg1"} for n in ("t0", "t1")]

    def provider(self, **changed: Any) -> RaidProvider:
        """See MirrorContract."""
        provider = super().provider(**changed)
        assert isinstance(provider, RaidProvider)
        return provider

    def primary(self, name: str = "t0") -> str:
        """See MirrorContract."""
        return f"/dev/san/{name}" if self.kind == "lvm" else f"/dev/md/{name}"

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. Commands take long here: only those of split and resync, and the notes about a leg.

        Of t1 only the beginning of its split.
        """
        text = " ".join(args[1]) if event == "subprocess.Popen" else str(args[0])
        begins = "--splitmirrors" in text or "--fail" in text
        step = text.startswith(("lvconvert", "mdadm")) or ".leg" in text
        return super().is_step(event, args) and step and (begins or "t0" in text)

    @contextmanager
    def not_in_sync(self) -> Iterator[None]:
        """See MirrorContract. A check of the array that does not come to its end."""
        if self.kind == "lvm":
            run("lvchange", "--maxrecoveryrate", "1k", "san/t0")
            run("lvchange", "--syncaction", "check", "san/t0")
            yield
            run("lvchange", "--maxrecoveryrate", "0", "san/t0")
            return
        md = f"/sys/block/{os.path.basename(os.path.realpath('/dev/md/t0'))}/md"
        put(f"{md}/sync_speed_max", "1")
        put(f"{md}/sync_action", "check")
        yield
        put(f"{md}/sync_speed_max", "system")

    @contextmanager
    def not_splittable(self) -> Iterator[None]:
        """See MirrorContract."""
        if self.kind == "lvm":
            run("lvrename", "san/t1", "san/t1x")
            yield
            run("lvrename", "san/t1x", "san/t1")
            return
        run("mdadm", "/dev/md/t1", "--fail", "/dev/san/t1_leg1", "--remove", "/dev/san/t1_leg1")
        yield
        # By hand, because nobody can tell whether it took a write.
        run("mdadm", "/dev/md/t1", "--re-add", "/dev/san/t1_leg1")

    @contextmanager
    def foreign(self) -> Iterator[None]:
        """See MirrorContract."""
        if self.kind == "lvm":
            run("lvconvert", "--yes", "--splitmirrors", "1", "--trackchanges", "san/t0")
            yield
            run("lvconvert", "--yes", "--merge", "san/t0_rimage_1")
            return
        for word in ("--fail", "--remove"):
            run("mdadm", "/dev/md/t0", word, "/dev/san/t0_leg1")
        yield
        run("mdadm", "/dev/md/t0", "--re-add", "/dev/san/t0_leg1")


def put(path: str, text: str) -> None:
    """Write a word into a file of the kernel."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


# ---- the cases ----


def what_is_no_mirror_is_refused_by_name(bench: Bench) -> None:
    def problem(primary: str, mirror: str) -> Optional[str]:
        pair = {"name": "x", "primary": primary, "mirror": mirror}
        provider: MirrorProvider = make_provider(bench.kind, [pair], bench.state_dir)
        return provider.state()[0].problem

    if bench.kind == "lvm":
        assert "not a logical volume" in str(problem("san/none", "san/none_rimage_1"))
        assert "not a logical volume" in str(problem("none/t0", "none/t0_rimage_1"))
        assert "it has san/t0_rimage_0, san/t0_rimage_1" in str(problem("san/t0", "san/t0_rimage_7"))
        refused(lambda: problem("san/t0", "san/t1_rimage_1"), "not an image of san/t0")
        refused(lambda: problem("/dev/san/t0", "san/t0_rimage_1"), "VG/LV")
        return
    assert "not a running md array" in str(problem("/dev/md/none", "/dev/san/t0_leg1"))
    assert "not a running md array" in str(problem("/dev/san/t0_leg0", "/dev/san/t0_leg1"))
    assert "not a leg of" in str(problem("/dev/md/t0", "/dev/san/t1_leg1"))
    assert "no such device" in str(problem("/dev/md/t0", "/dev/san/none"))
    run("mdadm", "--grow", "/dev/md/t0", "--bitmap=none")
    assert "no write-intent bitmap" in str(problem("/dev/md/t0", "/dev/san/t0_leg1"))
    run("mdadm", "--grow", "/dev/md/t0", *BITMAP.split())


def a_leg_that_took_a_write_is_never_added_again(bench: Bench) -> None:
    bench.provider().split("s1")
    write("/dev/san/t0_leg1", 0xEE, 4 * MIB)
    refused(lambda: bench.provider().resync("s1", wait=True, timeout_s=60), "were written to /dev/san/t0_leg1")
    refused(lambda: bench.provider().recover(), "were written to /dev/san/t0_leg1")
    run("mdadm", "--zero-superblock", "/dev/san/t0_leg1")
    run("mdadm", "/dev/md/t0", "--add", "/dev/san/t0_leg1")
    bench.provider().resync("s1", wait=True, timeout_s=60)
    bench.check_whole()


def a_resync_is_waited_for_no_longer_than_told(bench: Bench) -> None:
    action = f"/sys/block/{os.path.basename(os.path.realpath('/dev/md/t0'))}/md/sync_action"
    bench.provider().split("s1")
    write(bench.primary(), 0xB1)
    with open(action, "w") as file:
        file.write("frozen")
    refused(lambda: bench.provider().resync("s1", wait=False, timeout_s=60), "action: frozen")
    refused(lambda: bench.provider().resync("s1", wait=True, timeout_s=0), "action: frozen")
    assert bench.phases() == ["split", "split"]
    with open(action, "w") as file:
        file.write("idle")
    bench.provider().resync("s1", wait=True, timeout_s=60)
    bench.check_whole()


def a_leg_that_cannot_go_on_its_way_out_is_put_back_later(bench: Bench) -> None:
    prepared = bench.provider().prepare("s1")
    in_the_way = partial(f"{bench.state_dir}/mirrors/s1.t0.leg")
    os.mkdir(in_the_way)
    for action in (prepared.split, prepared.cancel):
        refused(action, "cannot be written")
        refused(lambda: bench.provider().sync(wait=True, timeout_s=30), "is faulty")
    os.rmdir(in_the_way)
    prepared.cancel()
    bench.check_whole()


def a_session_is_not_forgotten_while_its_array_does_not_run(bench: Bench) -> None:
    bench.provider().split("s1")
    run("mdadm", "--stop", "/dev/md/t0")
    refused(bench.provider().recover, "not a running md array")
    run("mdadm", "--assemble", "--run", "/dev/md/t0", "/dev/san/t0_leg0")
    assert len(bench.provider().recover()) == 1
    bench.check_whole()


#: The cases of each provider's own.
OWN_CASES: dict[str, list[Callable[[Bench], None]]] = {
    "lvm": [what_is_no_mirror_is_refused_by_name],
    "md": [
        what_is_no_mirror_is_refused_by_name,
        a_leg_that_took_a_write_is_never_added_again,
        a_resync_is_waited_for_no_longer_than_told,
        a_leg_that_cannot_go_on_its_way_out_is_put_back_later,
        a_session_is_not_forgotten_while_its_array_does_not_run,
    ],
}
