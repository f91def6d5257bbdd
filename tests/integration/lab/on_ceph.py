# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases for the provider rbd, on two images of a Ceph. Runs as root on the lab's client of Ceph: ``on_ceph.py CASE``.

It needs ``rbd`` alone, so the same cases run on the small stand-in of tests/support/rbd.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from types import MappingProxyType
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import sealed
from ansible_collections.splitmirror.backup.tests.seams.mirrors import (
    SESSION,
    TESTS,
    MirrorContract,
    printed_by,
    read,
    refused,
    write,
)

LUN_MIB = 16
POOL = "rbd"


def rbd(*words: str) -> str:
    """Run ``rbd`` to its end and return what it printed; its words are the failure."""
    return printed_by("rbd", *words)


def ask(*words: str) -> Any:
    """Run ``rbd`` and return its answer."""
    return json.loads(rbd(*words, "--format", "json") or "[]")


class Bench(MirrorContract):
    """Two images ``t0`` and ``t1`` that are mapped, as a database host would have them."""

    kind = "rbd"

    def make(self) -> None:
        """See MirrorContract. A case that passed has left the images whole."""
        images = ask("ls", POOL)
        for name in ("t0", "t1"):
            if name not in images:
                rbd("create", "--size", f"{LUN_MIB}M", f"{POOL}/{name}")
            if not self.mapped(name, "-"):
                rbd("device", "map", f"{POOL}/{name}")

    def remove(self, failed: bool) -> None:
        """See MirrorContract."""
        if failed:
            for one in ask("device", "list"):
                rbd("device", "unmap", one["device"])
            for name in ask("ls", POOL):
                for one in ask("snap", "ls", f"{POOL}/{name}"):
                    if one["protected"] == "true":
                        rbd("snap", "unprotect", f"{POOL}/{name}@{one['name']}")
                    rbd("snap", "rm", "--no-progress", f"{POOL}/{name}@{one['name']}")
                rbd("rm", "--no-progress", f"{POOL}/{name}")

    def pairs(self) -> list[dict[str, str]]:
        """See MirrorContract."""
        names = ("t0", "t1")
        return [{"name": n, "primary": f"{POOL}/{n}", "mirror": f"{POOL}/{n}@splitmirror"} for n in names]

    def mapped(self, name: str, snapshot: str) -> list[str]:
        """The devices of an image (``-``) or of its snapshot."""
        return [one["device"] for one in ask("device", "list") if (one["name"], one["snap"]) == (name, snapshot)]

    def primary(self, name: str) -> str:
        """See MirrorContract."""
        (device,) = self.mapped(name, "-")
        return device

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. Of a real Ceph the commands alone, and of t1 the snapshot, because each takes long."""
        if event != "subprocess.Popen" or {"info", "ls", "list"}.intersection(args[1]):
            return False
        return f"{POOL}/t1@" not in args[1][-1] or "create" in args[1]

    def check_whole(self) -> None:
        """See MirrorContract."""
        super().check_whole()
        assert [ask("snap", "ls", f"{POOL}/{name}") for name in ("t0", "t1")] == [[], []]
        assert sorted(one["snap"] for one in ask("device", "list")) == ["-", "-"]

    @contextmanager
    def _renamed(self, name: str) -> Iterator[None]:
        rbd("rename", f"{POOL}/{name}", f"{POOL}/{name}.aside")
        yield
        rbd("rename", f"{POOL}/{name}.aside", f"{POOL}/{name}")

    def not_in_sync(self) -> Any:
        """See MirrorContract."""
        return self._renamed("t0")

    @contextmanager
    def not_splittable(self) -> Iterator[None]:
        """See MirrorContract."""
        (pair,) = [pair for pair in self.pairs() if pair["name"] == "t1"]
        rbd("snap", "create", "--no-progress", f"{pair['mirror']}.{sealed(SESSION)}")
        yield

    @contextmanager
    def foreign(self) -> Iterator[None]:
        """See MirrorContract."""
        rbd("snap", "create", "--no-progress", f"{POOL}/t0@splitmirror")
        yield
        assert [one["name"] for one in ask("snap", "ls", f"{POOL}/t0")] == ["splitmirror"]
        rbd("snap", "rm", "--no-progress", f"{POOL}/t0@splitmirror")


# ---- the cases ----


def a_snapshot_that_is_removed_while_it_is_read_fails_the_session(bench: Bench) -> None:
    """The device of a removed snapshot reads zeros without an error."""
    write(bench.primary("t0"), 0xA1)
    array = bench.provider()
    array.split(SESSION)
    device = array.present(SESSION).devices["t0"]
    assert read(device) == 0xA1
    (snapshot,) = ask("snap", "ls", f"{POOL}/t0")
    name = f"{POOL}/t0@{snapshot['name']}"
    # It is protected, so nobody removes it by mistake.
    assert subprocess.run(["rbd", "snap", "rm", "--no-progress", name], capture_output=True, check=False).returncode
    rbd("snap", "unprotect", name)
    rbd("snap", "rm", "--no-progress", name)
    assert "is gone" in str(array.state()[0].problem)
    refused(lambda: array.present(SESSION), "is gone")
    refused(lambda: array.withdraw(SESSION), "is gone")
    assert len(array.recover()) == 1
    bench.check_whole()


def a_snapshot_that_was_not_protected_in_time_is_protected_before_it_is_read(bench: Bench) -> None:
    array = bench.provider()
    array.split(SESSION)
    for name in ("t0", "t1"):
        (snapshot,) = ask("snap", "ls", f"{POOL}/{name}")
        rbd("snap", "unprotect", f"{POOL}/{name}@{snapshot['name']}")
    array.present(SESSION)
    assert [ask("snap", "ls", f"{POOL}/{name}")[0]["protected"] for name in ("t0", "t1")] == ["true", "true"]
    array.recover()
    bench.check_whole()


def what_is_wrongly_named_is_refused(bench: Bench) -> None:
    def problem(primary: str, mirror: str) -> str:
        pair = {"name": "x", "primary": primary, "mirror": mirror}
        return str(make_provider("rbd", [pair], bench.state_dir).state()[0].problem)

    refused(lambda: problem("t0", "t0@s"), "write POOL/IMAGE")
    refused(lambda: problem(f"{POOL}/t0", f"{POOL}/t1@s"), f"write {POOL}/t0@splitmirror")
    refused(lambda: problem(f"{POOL}/t0", f"{POOL}/t0@a@b"), f"write {POOL}/t0@splitmirror")
    assert "there is no image" in problem(f"{POOL}/none", f"{POOL}/none@s")


CASES = {
    case.__name__: case
    for case in (
        a_snapshot_that_is_removed_while_it_is_read_fails_the_session,
        a_snapshot_that_was_not_protected_in_time_is_protected_before_it_is_read,
        what_is_wrongly_named_is_refused,
    )
}


#: Before the name of a test that goes the way without Ceph's bindings.
BY_PROGRAM = "by_program."
#: How many splits are timed each way.
SPLITS = 20


class WithoutBindings(Bench):
    """No process stands ready."""

    options = MappingProxyType({"ceph_python": "/none"})


def figures() -> None:
    """Print how long splits take, and how much of it is not Ceph's, in ms: each way by turns."""
    took: dict[str, list[float]] = {}
    with Bench() as standing, WithoutBindings() as program:
        for name, bench in [("standing", standing), ("program", program)] * SPLITS:
            prepared = bench.provider().prepare(SESSION)
            began = time.monotonic()
            result = prepared.split()
            split_s = time.monotonic() - began
            prepared.settle()
            bench.provider().recover()
            for what, found_s in ((name, split_s), (f"{name}: beyond the array's split", split_s - result.split_s)):
                took.setdefault(what, []).append(found_s * 1000)
    for what, all_ms in took.items():
        print(f"{what}: median {median(all_ms):.1f}, shortest {min(all_ms):.1f}, longest {max(all_ms):.1f} ms")


def run(case: str) -> None:
    """Run one case, or one test of the contract, or time the split."""
    if case == figures.__name__:
        figures()
        return
    with WithoutBindings() if case.startswith(BY_PROGRAM) else Bench() as bench:
        if case in CASES:
            CASES[case](bench)
        else:
            getattr(bench, case[len(BY_PROGRAM) :] if case.startswith(BY_PROGRAM) else case)()


#: Without the bindings what concerns the split alone; the rest is the same.
_SPLITTING = ("test_the_mirror_is_the_split_only_readable_and_stays_while_in_use", "test_all_pairs_are_split_or_none")
ALL = (*TESTS, *CASES, *(f"{BY_PROGRAM}{test}" for test in _SPLITTING))


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps(ALL))
    else:
        run(sys.argv[1])
        print("passed")
