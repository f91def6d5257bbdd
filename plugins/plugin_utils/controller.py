# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which process on this controller runs the play, and whether the process of an earlier run is still alive."""

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
    """The process that runs the play. Called in one of its workers, which it has forked.

    A worker may outlive a play that was killed. Its parent is then another process, such as init, which never ends.
    """
    forked_by = multiprocessing.parent_process()
    pid = forked_by.pid if forked_by and forked_by.pid else os.getppid()
    boot_id, namespace = _place()
    record = DaemonRecord.of(pid) if boot_id else None
    if boot_id and record is None and pid != os.getppid():
        record = DaemonRecord(pid, 0, boot_id)  # it is dead
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        user = str(os.getuid())
    return Owner(platform.node(), user, boot_id if record else "", namespace, pid, record.start_ticks if record else 0)


def is_running(owner: Owner) -> Optional[bool]:
    """Whether a run is still alive; None if it was started elsewhere, so that this cannot be found out here."""
    if not owner.boot_id or (owner.boot_id, owner.pid_namespace) != _place():
        return None
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):  # a host may have sent something that is not a process id
        return False
    except PermissionError:
        pass
    if not os.path.exists(f"/proc/{owner.pid}/stat"):
        return None  # hidden from us, see hidepid in proc(5)
    record = DaemonRecord.of(owner.pid)
    return record is not None and record.start_ticks == owner.start_ticks


def _place() -> tuple[str, str]:
    """What makes a process id unique: boot id and namespace. Empty if there is no /proc."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot_id, os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""
