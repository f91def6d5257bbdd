# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move a process out of the reach of whatever ends the session that started it.

A service manager ends or freezes a login session as a whole, by its control group. Where systemd runs, a process gets
a scope of its own (org.freedesktop.systemd1(5), StartTransientUnit); elsewhere it goes to the root of each hierarchy
that can freeze or kill, which is not possible for the root itself (Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

import contextlib
import os
from typing import Optional

from ..database.limited import run_limited

#: The folder whose existence means that systemd runs (sd_booted(3)).
SYSTEMD = "/run/systemd/system"
BUSCTL = "/usr/bin/busctl"
_PATIENCE_S = 5.0


def leave_group(name: str) -> None:
    """Take this process out of the control group that it was started in, as far as this host lets us.

    :param name: of a scope, unique on the host.
    """
    if os.path.isdir(SYSTEMD) and _become_scope(f"{name}.scope"):
        return
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        for line in stream:
            _number, controllers, _path = line.rstrip("\n").split(":", 2)
            if controllers in ("", "freezer"):
                root = root_of(controllers)
                # Where it is not ours to write, as in some containers, the process stays where it is.
                with contextlib.suppress(OSError):
                    if root is not None:
                        _enter(root)


def _become_scope(unit: str) -> bool:
    """Let systemd make a scope of this process; return whether it has."""
    manager = "org.freedesktop.systemd1"
    # (sv) Description, PIDs and CollectMode; no auxiliary units.
    properties = ["3", "Description", "s", "Thaws what a dead backup has frozen", "PIDs", "au", "1", str(os.getpid())]
    properties += ["CollectMode", "s", "inactive-or-failed", "0"]
    argv = [BUSCTL, "--quiet", "call", manager, "/org/freedesktop/systemd1", f"{manager}.Manager"]
    argv += ["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", *properties]
    try:
        done = run_limited(argv, _PATIENCE_S)
    except OSError:
        return False
    return done.code == 0


def root_of(controllers: str) -> Optional[str]:
    """Where the root of a hierarchy is mounted; the empty string means version 2."""
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        for line in stream:
            before, _dash, after = line.partition(" - ")
            fields = before.split()
            fs_type, _source, options = after.split(" ")[:3]  # a source may be empty
            version2 = fs_type == "cgroup2" and not controllers
            version1 = fs_type == "cgroup" and controllers in options.split(",") and bool(controllers)
            if fields[3] == "/" and (version2 or version1):
                return fields[4]
    return None


def _enter(group: str) -> None:
    fd = os.open(os.path.join(group, "cgroup.procs"), os.O_WRONLY)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)
