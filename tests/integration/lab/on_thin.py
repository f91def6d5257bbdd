# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider lvm_thin on the array of the lab: two small thin volumes, and cases. See contract.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.lvm_thin import (
    NESTED_FREEZE,
    LvmThinProvider,
    kernel_version,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.seams.mirrors import MirrorContract, refused, write

from .on_array import LUN_MIB, run

POOL = "san/thin_pool"


class Bench(MirrorContract):
    """Two thin volumes in a pool of their own."""

    kind = "lvm_thin"

    def make(self) -> None:
        """See MirrorContract. A case that passed has left them whole."""
        if os.path.exists(self.primary("t0")):
            return
        run("lvcreate", "--yes", "--type=thin-pool", "--size=48m", f"--name={POOL}")
        for pair in self.pairs():
            run("lvcreate", "--yes", f"--virtualsize={LUN_MIB}m", f"--name={pair['primary']}", f"--thinpool={POOL}")
        run("udevadm", "settle")

    def remove(self, failed: bool) -> None:
        """See MirrorContract."""
        if failed:
            run("udevadm", "settle")
            run("lvremove", "--yes", POOL)

    def pairs(self) -> list[dict[str, str]]:
        """See MirrorContract."""
        return [{"name": n, "primary": f"san/{n}_thin", "mirror": f"san/{n}_mirror"} for n in ("t0", "t1")]

    def primary(self, name: str = "t0") -> str:
        """See MirrorContract."""
        return f"/dev/san/{name}_thin"

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. The commands that change something; of t1 only its split, because they take long here."""
        text = " ".join(args[1]) if event == "subprocess.Popen" else ""
        takes = text.startswith("lvcreate") and "--test" not in text
        return takes or (text.startswith(("lvchange --activate y", "lvremove")) and "t0" in text)

    @contextmanager
    def not_in_sync(self) -> Iterator[None]:
        """See MirrorContract."""
        run("lvchange", "--activate=n", "san/t0_thin")
        yield
        run("lvchange", "--activate=y", "san/t0_thin")

    @contextmanager
    def not_splittable(self) -> Iterator[None]:
        """See MirrorContract."""
        run("lvrename", "san/t1_thin", "san/t1_thinx")
        yield
        run("lvrename", "san/t1_thinx", "san/t1_thin")

    @contextmanager
    def foreign(self) -> Iterator[None]:
        """See MirrorContract."""
        run("lvcreate", "--yes", "--snapshot", "--name=t0_mirror", "san/t0_thin")
        yield
        run("lvremove", "--yes", "san/t0_mirror")

    def problem(self, **changed: Any) -> Optional[str]:
        """The problem of the first pair, if there is one."""
        return self.provider(**changed).state()[0].problem


def what_has_no_thin_snapshots_is_refused_by_name(bench: Bench) -> None:
    def problem(primary: str, mirror: str = "san/x_mirror") -> str:
        return str(bench.problem(pairs=[{"name": "x", "primary": primary, "mirror": mirror}]))

    assert "not a logical volume" in problem("san/none")
    assert "not a logical volume" in problem("none/t0_thin", "none/x_mirror")
    run("lvcreate", "--yes", "--size=4m", "--name=plain", "san")
    assert "is of type linear, and only a thin volume" in problem("san/plain")
    run("lvremove", "--yes", "san/plain")
    assert "is of type thin-pool" in problem(POOL)
    refused(lambda: problem("/dev/san/t0_thin"), "needs VG/LV")
    refused(lambda: problem("san/t0_thin", "other/x_mirror"), "name the mirror san/LV")


def a_pool_that_is_nearly_full_is_refused(bench: Bench) -> None:
    write(bench.primary(), 0xC1)
    problem = str(bench.problem(options={"pool_limit_percent": 1}))
    assert "in the thin pool san/thin_pool, whose data space is " in problem
    assert "pool_limit_percent, which is 1" in problem
    refused(lambda: bench.provider(options={"pool_limit_percent": 1}).split("s1"), "data space is ")
    bench.check_whole()


def a_file_system_that_is_frozen_here_is_split_or_refused_by_name(bench: Bench) -> None:
    run("mkfs.ext4", "-q", bench.primary())
    run("mount", bench.primary(), "/mnt")
    try:
        if kernel_version() >= NESTED_FREEZE:
            assert bench.problem() is None
            run("fsfreeze", "--freeze", "/mnt")
            bench.provider().split("s1")
            # It is still frozen: LVM has thawed its own freeze only.
            run("fsfreeze", "--unfreeze", "/mnt")
            bench.provider().recover()
            return
        assert "mounted on this host, and Linux " in str(bench.problem())
        refused(lambda: bench.provider().split("s1"), "cannot take a snapshot while it is frozen")
        # What it is spared: the kernel refuses inside the window.
        run("fsfreeze", "--freeze", "/mnt")
        bare = LvmThinProvider([Pair("t0", "san/t0_thin", "san/t0_mirror")], StateDir(bench.state_dir))
        refused(lambda: bare.take(bare.pairs[0], "s1"), "t0_thin")
        run("fsfreeze", "--unfreeze", "/mnt")
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", "/mnt"], capture_output=True, check=False)
        run("umount", "/mnt")
    bench.check_whole()


def a_snapshot_is_no_device_before_it_is_presented_and_not_presented_if_it_takes_writes(bench: Bench) -> None:
    bench.provider().split("s1")
    run("vgchange", "--activate=y", "san")
    assert not os.path.exists("/dev/san/t0_mirror")
    run("lvchange", "--permission=rw", "san/t1_mirror")
    refused(lambda: bench.provider().present("s1"), "pair t1: its mirror san/t1_mirror takes writes")
    assert len(bench.provider().recover()) == 1
    bench.check_whole()


OWN_CASES: list[Callable[[Bench], None]] = [
    what_has_no_thin_snapshots_is_refused_by_name,
    a_pool_that_is_nearly_full_is_refused,
    a_file_system_that_is_frozen_here_is_split_or_refused_by_name,
    a_snapshot_is_no_device_before_it_is_presented_and_not_presented_if_it_takes_writes,
]
