# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The media server's records of targets, among them those of other arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport import attach, initiator
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError, target_of

OURS = target_of("20260131T020000Z-db1-9f3c", ["data"])
RECORDS = f"""filer.example.com:3260,1 iqn.1992-08.com.netapp:sn.1
[fe80::5054:ff:fe12:3456%eth1]:3260,4294967295 iqn.2001-05.com.equallogic:other
10.20.0.11:3260,1 {OURS}
"""


Iscsiadm = Callable[[str], None]


@pytest.fixture
def iscsiadm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iscsiadm:
    """Make a shell script the program of this name."""

    def make(script: str) -> None:
        tool = tmp_path / "iscsiadm"
        tool.write_text(f"#!/bin/sh\n{script}", encoding="ascii")
        tool.chmod(0o700)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_portals_of_other_arrays_may_be_anything(iscsiadm: Iscsiadm) -> None:
    iscsiadm(f"cat <<'END'\n{RECORDS}END\n")
    initiator.preflight()
    assert initiator.known_targets() == [line.split()[1] for line in RECORDS.splitlines()]
    assert attach.attached_targets(host="db1") == [OURS]


def test_records_that_others_delete_meanwhile_are_no_error(tmp_path: Path, iscsiadm: Iscsiadm) -> None:
    """iscsiadm(8) fails with exit code 6 when a record vanishes while it goes through all of them."""
    iscsiadm(
        f"""if [ ! -e {tmp_path}/vanished ]; then
    : > {tmp_path}/vanished
    echo 'iscsiadm: iface iter could not stat /etc/iscsi/nodes/iqn.other/10.20.0.11,3260.' >&2
    exit 6
fi
echo '10.20.0.11:3260,1 {OURS}'
"""
    )
    assert initiator.known_targets() == [OURS]


def test_records_that_stay_unreadable_are_told(iscsiadm: Iscsiadm, monkeypatch: pytest.MonkeyPatch) -> None:
    iscsiadm("echo 'iscsiadm: no such luck' >&2\nexit 6\n")
    monkeypatch.setattr(initiator, "_DATABASE_TRIES", 2)
    with pytest.raises(TransportError, match="no such luck"):
        initiator.known_targets()
