# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which process on this controller runs the play, and whether one that did before is still there."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import platform
from pathlib import Path
from typing import Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Owner


def this_run() -> Owner:
    """The process that runs the play; called in a worker, which that has forked.

    A worker may outlive a play that is killed, and has another parent then, init for instance, which lives for ever.
    """
    forked_by = multiprocessing.parent_process()
    pid = forked_by.pid if forked_by and forked_by.pid else os.getppid()
    boot_id, namespace = _place()
    record = DaemonRecord.of(pid) if boot_id else None
    if boot_id and record is None and pid != os.getppid():
        record = DaemonRecord(pid, 0, boot_id)  # it is dead, as everybody will find
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        user = str(os.getuid())
    return Owner(platform.node(), user, boot_id if record else "", namespace, pid, record.start_ticks if record else 0)


def is_running(owner: Owner) -> Optional[bool]:
    """Whether a run still lives; None when it runs, or ran, where nobody here can look."""
    if not owner.boot_id or (owner.boot_id, owner.pid_namespace) != _place():
        return None
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):  # what a host tells may be no process id at all
        return False
    except PermissionError:
        pass
    if not os.path.exists(f"/proc/{owner.pid}/stat"):
        return None  # hidden from us, see hidepid in proc(5)
    record = DaemonRecord.of(owner.pid)
    return record is not None and record.start_ticks == owner.start_ticks


def _place() -> tuple[str, str]:
    """What makes a process id one of a kind: boot of the kernel, and namespace. Empty where there is no /proc."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot_id, os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""
