# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider drbd on the array of the lab: two replicated volumes, and cases. See contract.py.

Both ends are in the one kernel, over two addresses of its loopback: resource ``t0`` is the Secondary, ``p0`` its
Primary, which the provider's configuration does not know.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, MirrorContract, refused, write

from .on_array import LUN_MIB, run

PEER = "/etc/drbd-peer.conf"
_END = "on {host} {{ device /dev/drbd{minor}; disk /dev/san/{name}; address 127.0.0.{end}:779{number}; }}"


def peer(*words: str) -> None:
    """Run drbdadm at the other end."""
    run("drbdadm", "--config-file", PEER, *words)


class Bench(MirrorContract):
    """Two replicated volumes. Writes go to their first half."""

    kind = "drbd"
    keeps_marks = False
    resynced_bytes = (2 * MIB, LUN_MIB * MIB - 1)

    def make(self) -> None:
        """See MirrorContract. A case that passed has left them whole."""
        if os.path.exists("/dev/drbd20"):
            return
        # Its handler would call drbdadm, which does not know the resources of the other end.
        run("modprobe", "drbd", "usermode_helper=/bin/true")
        run("ip", "address", "replace", "127.0.0.2/8", "dev", "lo")
        here, there = "global { usage-count no; }\n", "global { usage-count no; }\n"
        for number in range(2):
            own = {"minor": 10 + number, "name": f"t{number}_drbd", "end": 1, "number": number}
            other = {"minor": 20 + number, "name": f"t{number}_peer", "end": 2, "number": number}
            for end in (own, other):
                words = f"--yes --wipesignatures=y --size={LUN_MIB + 4}m --name={end['name']} san"
                run("lvcreate", *words.split())
            settings = "net { protocol C; connect-int 1; } meta-disk internal;"
            host = os.uname().nodename
            ends = (_END.format(host=host, **own), _END.format(host="peer", **other))
            here += f"resource t{number} {{ {settings} {' '.join(ends)} }}\n"
            ends = (_END.format(host=host, **other), _END.format(host="peer", **own))
            there += f"resource p{number} {{ {settings} {' '.join(ends)} }}\n"
        for path, text in (("/etc/drbd.conf", here), (PEER, there)):
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        for number in range(2):
            run("drbdadm", "create-md", "--force", f"t{number}")
            peer("create-md", "--force", f"p{number}")
            run("drbdadm", "up", f"t{number}")
            peer("up", f"p{number}")
            run("drbdsetup", "wait-connect", f"{10 + number}")
            # Both are all zeros: no first synchronization.
            peer("new-current-uuid", "--clear-bitmap", f"p{number}")
            peer("primary", f"p{number}")

    def remove(self, failed: bool) -> None:
        """See MirrorContract."""
        if failed:
            run("losetup", "--detach-all")
            run("drbdadm", "down", "all")
            peer("down", "all")
            run("udevadm", "settle")
            run("lvremove", "--yes", *(f"san/t{n}_{end}" for n in range(2) for end in ("drbd", "peer")))

    def pairs(self) -> list[dict[str, str]]:
        """See MirrorContract. Both ways to write a volume."""
        return [
            {"name": "t0", "primary": "t0", "mirror": "/dev/san/t0_drbd"},
            {"name": "t1", "primary": "t1/0", "mirror": "/dev/san/t1_drbd"},
        ]

    def primary(self, name: str = "t0") -> str:
        """See MirrorContract."""
        return f"/dev/drbd2{name[1]}"

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """See MirrorContract. The commands that change something; of t1 only its split, because they take long here."""
        text = " ".join(args[1]) if event == "subprocess.Popen" else str(args[0])
        return text.startswith(("drbdsetup disconnect", "drbdadm connect t0", "drbdadm outdate t0"))

    @contextmanager
    def _without_peer(self, number: int) -> Iterator[None]:
        peer("disconnect", f"p{number}")
        yield
        peer("connect", f"p{number}")

    def not_in_sync(self) -> Any:
        """See MirrorContract."""
        return self._without_peer(0)

    def not_splittable(self) -> Any:
        """See MirrorContract. The connection is lost in the meantime, and the leg of t1 is no mirror any more."""
        return self._without_peer(1)

    @contextmanager
    def foreign(self) -> Iterator[None]:
        """See MirrorContract."""
        run("drbdadm", "disconnect", "t0")
        yield
        run("drbdadm", "connect", "t0")

    def problem(self, primary: str, mirror: str) -> Optional[str]:
        """The problem of a pair, if there is one."""
        return self.provider(pairs=[{"name": "x", "primary": primary, "mirror": mirror}]).state()[0].problem


def what_is_no_secondary_is_refused_by_name(bench: Bench) -> None:
    assert "not a running DRBD resource" in str(bench.problem("none", "/dev/san/t0_drbd"))
    assert "has no volume 3" in str(bench.problem("t0/3", "/dev/san/t0_drbd"))
    assert "has the lower device /dev/san/t0_drbd, not /dev/san/t1_drbd" in str(bench.problem("t0", "/dev/san/t1_drbd"))
    assert "is Primary on this host" in str(bench.problem("p0", "/dev/san/t0_peer"))
    refused(lambda: bench.problem("/dev/drbd10", "/dev/san/t0_drbd"), "needs the name of a resource")
    refused(lambda: bench.problem("t0", "t0_drbd"), "needs a path under /dev")


def a_connection_that_may_lack_writes_is_refused(bench: Bench) -> None:
    for protocol in ("A", "C"):
        run("drbdadm", "net-options", f"--protocol={protocol}", "t0")
        problem = bench.problem("t0", "/dev/san/t0_drbd")
        assert ("uses protocol A" in str(problem)) == (protocol == "A"), problem
    bench.check_whole()


def a_leg_can_be_promoted_by_force_alone_and_is_the_mirror_no_more(bench: Bench) -> None:
    bench.provider().split("s1")
    bench.provider().present("s1")
    done = subprocess.run(["drbdadm", "primary", "t0"], capture_output=True, text=True, check=False)
    assert "Need access to UpToDate data" in done.stderr, done
    run("drbdadm", "primary", "--force", "t0")
    for action in (bench.provider().present, bench.provider().withdraw):
        refused(lambda action=action: action("s1"), "pair t0: t0 was promoted on this host")  # type: ignore[misc]
    run("drbdadm", "secondary", "t0")
    refused(lambda: bench.provider().resync("s1", wait=True, timeout_s=60), "drbdadm connect --discard-my-data t0")
    refused(bench.provider().recover, "was promoted")
    run("drbdadm", "connect", "--discard-my-data", "t0")
    deadline = time.monotonic() + 30
    while bench.provider().state()[0].problem and "not connected" in str(bench.provider().state()[0].problem):
        assert time.monotonic() < deadline
        subprocess.run(["drbdadm", "--config-file", PEER, "connect", "p0"], capture_output=True, check=False)
    bench.provider().resync("s1", wait=True, timeout_s=60)
    bench.check_whole()


def a_connection_that_was_lost_before_the_split_is_no_split(bench: Bench) -> None:
    write(bench.primary(), 0xA1)
    prepared = bench.provider().prepare("s1")
    peer("disconnect", "p0")
    write(bench.primary(), 0xA2)
    refused(prepared.split, "pair t0: t0 is not connected to its peer")
    peer("connect", "p0")
    prepared.cancel()
    bench.check_whole()


OWN_CASES: list[Callable[[Bench], None]] = [
    what_is_no_secondary_is_refused_by_name,
    a_connection_that_may_lack_writes_is_refused,
    a_leg_can_be_promoted_by_force_alone_and_is_the_mirror_no_more,
    a_connection_that_was_lost_before_the_split_is_no_split,
]
