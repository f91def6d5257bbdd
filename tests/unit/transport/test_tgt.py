# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tgtadm prints is read as it stands, also of a target that is half made."""

from __future__ import annotations

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.tgt import read_targets

SHOWN = """Target 1: iqn.2026-01.test.splitmirror:array1.db1
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 1
            Initiator: iqn.2026-01.test.splitmirror:db1 alias: db1
            Connection: 0
                IP Address: 10.213.1.100
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            SCSI SN: beaf10
            Online: Yes
            Readonly: No
            Backing store path: None
            Backing store flags:
        LUN: 1
            Type: disk
            SCSI ID: 755f6cec8ca12ef5
            SCSI SN: db1_data
            Online: Yes
            Readonly: Yes
            Backing store type: rdwr
            Backing store path: /dev/dm-3
            Backing store flags: direct
    Account information:
        20260131T020000Z-db1-9f3c:0123456789abcdef
    ACL information:
        10.213.1.50
        fd00::50
        iqn.2026-01.test.splitmirror:db1
Target 7: iqn.2026-01.test.splitmirror:half
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
    Account information:
    ACL information:
"""


def test_targets_as_tgtadm_shows_them() -> None:
    whole, half = read_targets(SHOWN)
    assert (whole.tid, whole.name) == ("1", "iqn.2026-01.test.splitmirror:array1.db1")
    assert whole.initiators == ["iqn.2026-01.test.splitmirror:db1"]
    assert [unit["LUN"] for unit in whole.units] == ["0", "1"]
    assert (whole.units[1]["SCSI SN"], whole.units[1]["Readonly"]) == ("db1_data", "Yes")
    assert whole.units[1]["Backing store path"] == "/dev/dm-3"
    assert whole.acl == ["10.213.1.50", "fd00::50", "iqn.2026-01.test.splitmirror:db1"]
    assert whole.accounts == ["20260131T020000Z-db1-9f3c:0123456789abcdef"]
    assert (half.tid, half.units, half.initiators, half.acl) == ("7", [], [], [])
    assert read_targets("") == []
