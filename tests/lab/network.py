# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network of a lab: one namespace, a bridge for ssh and one for storage, two taps a host. Nothing leads out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..support.blockdev import run
from .description import MANAGEMENT_NETWORK, STORAGE_NETWORK, Host

NETWORKS = (("mgmt", MANAGEMENT_NETWORK), ("san", STORAGE_NETWORK))


def taps(host: Host) -> tuple[str, str]:
    """Names of a host's taps: its way to the management bridge and to the storage bridge."""
    return (f"{host.name}-mgmt", f"{host.name}-san")


def exists(namespace: str) -> bool:
    """Whether the namespace is there."""
    return Path("/run/netns", namespace).exists()


def create(namespace: str, hosts: Iterable[Host]) -> None:
    """Make the namespace with bridges and taps; the controller is .1 in both networks."""
    run("ip", "netns", "add", namespace)
    lines = ["link set lo up"]
    for bridge, network in NETWORKS:
        # Without spanning tree and its delay, a tap forwards at once.
        lines += [f"link add {bridge} type bridge forward_delay 0", f"link set {bridge} up"]
        lines += [f"address add {network[1]}/{network.prefixlen} dev {bridge}"]
    for host in hosts:
        for tap, (bridge, _dummy) in zip(taps(host), NETWORKS):
            lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} master {bridge} up"]
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip -batch in {namespace}: {done.stderr.strip()}")


def destroy(namespace: str) -> None:
    """Remove the namespace and all that is in it."""
    if exists(namespace):
        run("ip", "netns", "delete", namespace)
