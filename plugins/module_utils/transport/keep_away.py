# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep everything else on the media server away from mirrors: LVM, mdadm, systemd, udisks, and links by UUID.

A mirror looks like its primary: the same UUIDs, labels, volume groups. When it appears, the host's LVM would activate
it, mdadm would assemble it and write to it, and a mount by UUID could get it in place of another disk. So before a LUN
is looked for, a udev rule for its identity hides what is on it (udev(7), systemd.device(5)); what names the LUN itself
stays. The rule lies in /run, and goes when the mirror is let go of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable

from ..host.blockdev import plain_identifier
from ..host.files import replace_file
from ..host.tools import ToolError, run_tool
from .base import Wanted

#: Rules named 61-… come after 60-persistent-storage.rules, which asks the disk who it is, and before
#: 64-md-raid-assembly.rules and 69-lvm.rules.
RULES = "/run/udev/rules.d"
#: Where a disk's identity stands, for SCSI, NVMe and virtio.
_PROPERTIES = ("ID_SERIAL_SHORT", "ID_SCSI_SERIAL", "ID_SERIAL", "ID_WWN_WITH_EXTENSION", "ID_WWN")
_HIDE = """\
GOTO="splitmirror_end"
LABEL="splitmirror_mirror"
SYMLINK-="disk/by-uuid/$env{ID_FS_UUID_ENC}"
SYMLINK-="disk/by-label/$env{ID_FS_LABEL_ENC}"
SYMLINK-="disk/by-partuuid/$env{ID_PART_ENTRY_UUID}"
SYMLINK-="disk/by-partlabel/$env{ID_PART_ENTRY_NAME}"
ENV{ID_FS_TYPE}="", ENV{ID_FS_USAGE}="", ENV{SYSTEMD_READY}="0", ENV{UDISKS_IGNORE}="1"
LABEL="splitmirror_end"
"""


def rule_of(one: Wanted) -> str:
    """The text of the rule for a LUN."""
    lines = ["# Written by splitmirror.backup: the mirror of a disk that another host uses."]
    lines.append('SUBSYSTEM!="block", GOTO="splitmirror_end"')
    for identity in dict.fromkeys((one.serial.strip(), plain_identifier(one.serial), plain_identifier(one.wwn))):
        # Whatever has a meaning in a rule stands for any character.
        pattern = re.sub(r"[^A-Za-z0-9._:-]", "?", identity)
        if pattern:
            lines += [f'ENV{{{name}}}=="*{pattern}", GOTO="splitmirror_mirror"' for name in _PROPERTIES]
            lines.append(f'ENV{{DM_UUID}}=="*mpath-*{pattern}", GOTO="splitmirror_mirror"')
    return "\n".join(lines) + "\n" + _HIDE


def keep_away(wanted: Iterable[Wanted], rules: str = RULES) -> None:
    """Let nothing on this host use these LUNs by what is on them. A host without udev has nobody who would."""
    if not os.path.isdir(os.path.dirname(rules)):
        return
    os.makedirs(rules, 0o755, exist_ok=True)
    for one in wanted:
        replace_file(_path(one.serial, rules), rule_of(one))
    _reload()


def let_in(serials: Iterable[str], rules: str = RULES) -> None:
    """Remove the rules for LUNs that are let go of. :param serials: as they were in ``wanted``."""
    for serial in serials:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(serial, rules))
    _reload()


def _path(serial: str, rules: str) -> str:
    name = hashlib.sha256(plain_identifier(serial).encode()).hexdigest()[:16]
    return os.path.join(rules, f"61-splitmirror-{name}.rules")


def _reload() -> None:
    with contextlib.suppress(ToolError):
        run_tool("udevadm", "control", "--reload")
