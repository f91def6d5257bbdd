# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases for the provider zfs, on two volumes of a pool. ``./run lab zfs`` runs this as root on a machine with OpenZFS.

It needs ``zfs`` alone, so the same cases run on the stand-in of tests/support/fake_zfs.py.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.host import await_device
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.zfs import ZfsProvider
from ansible_collections.splitmirror.backup.tests.seams.mirrors import (
    MIB,
    SESSION,
    TESTS,
    MirrorContract,
    printed_by,
    read,
    refused,
    write,
    written_all_the_time,
)

LUN_MIB = 16
#: The pool that ``./run lab zfs`` makes.
POOL = "tank"
SPLITS = 20


def zfs(*words: str) -> str:
    """Run ``zfs`` as an administrator would, to its end, and return what it printed; its words are the failure."""
    return printed_by("zfs", *words)


def refused_by_zfs(*words: str) -> str:
    """Run ``zfs``, which refuses, and return its words."""
    done = subprocess.run(["zfs", *words], text=True, capture_output=True, check=False)
    assert done.returncode != 0, f"zfs {' '.join(words)} is not refused"
    return done.stderr


class Bench(MirrorContract):
    """Two volumes ``t0`` and ``t1``."""

    kind = "zfs"
    pool = POOL

    def make(self) -> None:
        """See MirrorContract."""
        for name in ("t0", "t1"):
            zfs("create", "-V", str(LUN_MIB * MIB), f"{self.pool}/{name}")
            await_device(Pair(name, f"{self.pool}/{name}", ""), self.primary(name))

    def remove(self, failed: bool) -> None:
        """See MirrorContract."""
        for one in self.left():
            if failed and "@" in one:
                for line in zfs("holds", "-H", one).splitlines():
                    zfs("release", line.split("\t")[1], one)
        for one in self.left():
            # One of a volume and its clones takes the others along.
            if one != self.pool and "@" not in one:
                subprocess.run(["zfs", "destroy", "-R", one], capture_output=True, check=False)
        assert self.left() == [self.pool]

    def pairs(self) -> list[dict[str, str]]:
        """See MirrorContract."""
        return [{"name": n, "primary": f"{self.pool}/{n}", "mirror": f"{self.pool}/{n}_mirror"} for n in ("t0", "t1")]

    def primary(self, name: str) -> str:
        """See MirrorContract."""
        return f"/dev/zvol/{self.pool}/{name}"

    def left(self) -> list[str]:
        """All volumes, file systems and snapshots in the pool."""
        return sorted(zfs("list", "-H", "-r", "-t", "all", "-o", "name", self.pool).splitlines())

    def check_whole(self) -> None:
        """See MirrorContract."""
        super().check_whole()
        assert [one for one in self.left() if one != self.pool] == [f"{self.pool}/t0", f"{self.pool}/t1"]

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. The commands that change something; of t1 only the snapshots."""
        if event != "subprocess.Popen" or args[1][0] != "zfs" or args[1][1] in ("get", "holds"):
            return False
        return any(f"{self.pool}/t0" in word for word in args[1])

    def slow_udev(self) -> None:
        """Make udev so slow that it is late; on an emulated machine it is."""

    def settle(self) -> None:
        """Let udev do all that it has to do."""
        subprocess.run(["udevadm", "settle"], check=True)

    @contextmanager
    def _renamed(self, name: str) -> Iterator[None]:
        zfs("rename", f"{self.pool}/{name}", f"{self.pool}/aside")
        yield
        zfs("rename", f"{self.pool}/aside", f"{self.pool}/{name}")

    def not_in_sync(self) -> AbstractContextManager[object]:
        """See MirrorContract."""
        return self._renamed("t0")

    def not_splittable(self) -> AbstractContextManager[object]:
        """See MirrorContract."""
        return self._renamed("t1")

    @contextmanager
    def foreign(self) -> Iterator[None]:
        """See MirrorContract."""
        zfs("create", f"{self.pool}/t0_mirror")
        yield
        zfs("destroy", f"{self.pool}/t0_mirror")

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """Leave the pool with less free space than t0 has data, which a snapshot of it would need."""
        with open(self.primary("t0"), "wb") as device:
            device.write(os.urandom(LUN_MIB * MIB))  # what can be compressed needs less
        subprocess.run(["zpool", "sync", self.pool], check=True)
        free = int(zfs("get", "-H", "-p", "-o", "value", "available", self.pool))
        zfs("create", "-o", f"reservation={free - MIB}", f"{self.pool}/room")
        yield
        zfs("destroy", f"{self.pool}/room")


# ---- the cases ----


def what_is_no_volume_is_refused_by_name(bench: Bench) -> None:
    def problem(primary: str, mirror: str = f"{bench.pool}/m") -> str:
        pair = {"name": "x", "primary": primary, "mirror": mirror}
        return str(bench.provider(pairs=[pair]).state()[0].problem)

    zfs("create", f"{bench.pool}/fs")
    assert "is a filesystem, and only a volume" in problem(f"{bench.pool}/fs")
    assert "is not a dataset of this host" in problem(f"{bench.pool}/none")
    assert "is not a dataset of this host" in problem("nopool/t0", "nopool/m")
    refused(lambda: problem("/dev/zvol/pool/x"), "needs POOL/NAME")
    refused(lambda: problem(f"{bench.pool}/t0", "other/m"), f"name the mirror {bench.pool}/NAME")
    zfs("destroy", f"{bench.pool}/fs")


def one_command_splits_both_at_one_instant_while_they_are_written(bench: Bench) -> None:
    assert bench.provider().capabilities.atomic_set
    with ExitStack() as writers:
        for name in ("t0", "t1"):
            writers.enter_context(written_all_the_time(bench.primary(name)))(2)
        result = bench.provider().split(SESSION)
        assert len({(pair.before_mono_s, pair.after_mono_s) for pair in result.pairs}) == 1
    txgs = {
        zfs("get", "-H", "-p", "-o", "value", "createtxg", f"{bench.pool}/{name}@splitmirror-{SESSION}")
        for name in ("t0", "t1")
    }
    assert len(txgs) == 1
    bench.provider().recover()
    bench.check_whole()
    other = {"name": "t2", "primary": "other/t2", "mirror": "other/t2_mirror"}
    assert not bench.provider(pairs=[*bench.pairs(), other]).capabilities.atomic_set


def a_snapshot_of_a_session_is_held_until_its_resync(bench: Bench) -> None:
    bench.provider().split(SESSION)
    snapshot = f"{bench.pool}/t0@splitmirror-{SESSION}"
    assert "being held" in refused_by_zfs("destroy", snapshot)
    zfs("release", SESSION, snapshot)
    zfs("destroy", snapshot)
    refused(lambda: bench.provider().present(SESSION), "pair t0: the snapshot")
    assert len(bench.provider().recover()) == 1
    bench.check_whole()


def the_mark_is_a_user_property_of_its_own(bench: Bench) -> None:
    """A mark that a volume passes on to its snapshots is not one, nor is the name of a snapshot."""
    zfs("set", f"splitmirror:session={SESSION}", f"{bench.pool}/t0")
    foreign = [f"{bench.pool}/t0@splitmirror-weekly", f"{bench.pool}/t1@hourly"]
    zfs("snapshot", *foreign)
    zfs("hold", "rotation", foreign[1])
    assert [state.problem for state in bench.provider().state()] == [None, None]
    assert bench.provider().recover() == []
    bench.provider().split(SESSION)
    shown = bench.provider().present(SESSION).devices
    assert sorted(shown) == ["t0", "t1"]
    bench.provider().withdraw(SESSION)
    bench.provider().resync(SESSION, wait=True, timeout_s=60)
    assert sorted(foreign) == [one for one in bench.left() if "@" in one]
    zfs("release", "rotation", foreign[1])
    for name in foreign:
        zfs("destroy", name)
    zfs("inherit", "splitmirror:session", f"{bench.pool}/t0")
    bench.check_whole()


def what_came_into_the_place_of_the_clone_after_the_split_is_not_presented(bench: Bench) -> None:
    bench.provider().split(SESSION)
    zfs("create", "-V", str(LUN_MIB * MIB), f"{bench.pool}/t0_mirror")
    refused(lambda: bench.provider().present(SESSION), "this session has not made it")
    assert len(bench.provider().recover()) == 1
    zfs("destroy", f"{bench.pool}/t0_mirror")
    bench.check_whole()


def a_clone_does_not_get_the_name_of_the_one_before(bench: Bench) -> None:
    """udev takes that away late, when the new one may have it already."""
    bench.slow_udev()
    write(bench.primary("t0"), 0xA1)
    write(bench.primary("t1"), 0xB1)
    bench.provider().split(SESSION)
    bench.provider().present(SESSION)
    bench.provider().withdraw(SESSION)
    # It gets the device number of the clone that is gone.
    zfs("create", "-V", str(LUN_MIB * MIB), f"{bench.pool}/other")
    shown = bench.provider().present(SESSION).devices
    assert [read(shown[name]) for name in ("t0", "t1")] == [0xA1, 0xB1]
    bench.settle()
    assert [read(shown[name]) for name in ("t0", "t1")] == [0xA1, 0xB1]
    bench.provider().withdraw(SESSION)
    bench.provider().resync(SESSION, wait=True, timeout_s=60)
    zfs("destroy", f"{bench.pool}/other")
    bench.check_whole()


def a_clone_that_takes_writes_is_not_presented(bench: Bench) -> None:
    bench.provider().split(SESSION)
    bench.provider().present(SESSION)
    zfs("set", "readonly=off", f"{bench.pool}/t1_mirror")
    refused(lambda: bench.provider().present(SESSION), "pair t1: its mirror")
    refused(lambda: bench.provider().withdraw(SESSION), "takes writes")
    bench.provider().recover()
    bench.check_whole()


def a_pool_without_room_is_found_out_before_the_window(bench: Bench) -> None:
    with bench.no_room():
        refused(lambda: bench.provider().prepare(SESSION), "out of space")
    bench.check_whole()


CASES = {
    case.__name__: case
    for case in (
        what_is_no_volume_is_refused_by_name,
        one_command_splits_both_at_one_instant_while_they_are_written,
        a_snapshot_of_a_session_is_held_until_its_resync,
        the_mark_is_a_user_property_of_its_own,
        what_came_into_the_place_of_the_clone_after_the_split_is_not_presented,
        a_clone_does_not_get_the_name_of_the_one_before,
        a_clone_that_takes_writes_is_not_presented,
        a_pool_without_room_is_found_out_before_the_window,
    )
}


def how_long_a_split_takes(bench: Bench) -> str:
    """Of both volumes, while one of them is written."""
    took_s = []
    array = bench.provider()
    assert isinstance(array, ZfsProvider)
    prepared = array.prepare(SESSION)
    with written_all_the_time(bench.primary("t0")):
        for _dummy in range(SPLITS):
            began = time.monotonic()
            prepared.split()
            took_s.append(time.monotonic() - began)
            for pair in array.pairs:
                array.delete(pair, SESSION)
    prepared.cancel()
    bench.check_whole()
    return f"{SPLITS} splits: median {statistics.median(took_s):.3f} s, {min(took_s):.3f} to {max(took_s):.3f} s"


def run(case: str) -> str:
    """Run one case, or one test of the contract; what there is to say about it."""
    with Bench() as bench:
        if case == how_long_a_split_takes.__name__:
            return how_long_a_split_takes(bench)
        if case in CASES:
            CASES[case](bench)
        else:
            getattr(bench, case)()
    return "passed"


def main(only: str) -> int:
    """Run the cases whose names have ``only`` in them, and print how each ended."""
    failed = 0
    for case in (one for one in (*CASES, how_long_a_split_takes.__name__, *TESTS) if only in one):
        began = time.monotonic()
        try:
            said = run(case)
        except Exception:
            failed += 1
            said = f"FAILED\n{traceback.format_exc()}"
        print(f"{time.monotonic() - began:6.1f} s  {case}: {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
