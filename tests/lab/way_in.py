# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From this machine into a lab's network: ``ProxyCommand`` of ssh, with ``ProxyUseFdpass=yes`` (ssh_config(5)).

``python3 way_in.py NAMESPACE HOST PORT`` connects inside the network namespace and hands the connected socket to
ssh, so that Ansible need not run in the namespace itself.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys

#: linux/sched.h
_CLONE_NEWNET = 0x40000000


def main() -> None:
    """Connect, and hand the socket over through standard output, which is a socket, too."""
    namespace, host, port = sys.argv[1:4]
    with open(f"/run/netns/{namespace}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            sys.exit(f"{namespace}: its network cannot be entered: {os.strerror(ctypes.get_errno())}")
    try:
        with socket.create_connection((host, int(port))) as connection, socket.socket(fileno=os.dup(1)) as ssh:
            socket.send_fds(ssh, [b"\0"], [connection.fileno()])
    except OSError as exc:
        sys.exit(f"{host} port {port} in {namespace}: {exc.strerror}")


if __name__ == "__main__":
    main()
