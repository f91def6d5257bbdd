# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What DRBD reports is understood, also in states that a test machine cannot easily be brought into."""

from __future__ import annotations

from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import Pair
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.drbd import Report, view_of
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.raid import IN, OUT

PAIR = Pair("data", "db/1", "/dev/vg0/db_1")
# Of DRBD 8.4.11, as printed there, but for names and the second volume.
WHOLE = """\
exists resource name:db role:Secondary suspended:no write-ordering:flush
exists connection name:db peer-node-id:0 conn-name:peer connection:Connected role:Primary congested:no
exists device name:db volume:0 minor:10 disk:UpToDate size:1048576 read:0 written:0
exists device name:db volume:1 minor:11 disk:UpToDate size:20440 read:0 written:0
exists peer-device name:db peer-node-id:0 volume:0 replication:Established peer-disk:UpToDate out-of-sync:0
exists peer-device name:db peer-node-id:0 volume:1 replication:Established peer-disk:UpToDate out-of-sync:0
exists -
"""
SHOWN = """\
resource db {
    options {
    }
    net {
        protocol        	C; # default
    }
    _this_host {
        volume 0 {
            device			minor 10;
            disk			"/dev/vg0/db_0";
            meta-disk			internal;
            disk {
                size            	0s; # bytes, default
            }
        }
        volume 1 {
            device			minor 11;
            disk			"/dev/vg0/db_1";
            meta-disk			internal;
            disk {
            }
        }
    }
}
"""
VOLUME_1 = "volume:1 replication:Established peer-disk:UpToDate out-of-sync:0"


def report_of(text: str) -> Report:
    report = Report()
    for line in text.splitlines():
        report.read(line)
    return report


def test_a_whole_mirror_can_be_split() -> None:
    view = view_of(PAIR, report_of(WHOLE), SHOWN)
    assert (view.broken, view.syncing, view.leg, view.sync_percent) == (None, None, IN, 100.0)
    assert view.size_bytes == 20440 * 1024


@pytest.mark.parametrize(
    ("old", "new", "words", "percent"),
    [
        ("connection:Connected", "connection:Connecting", "is not connected to its peer (Connecting)", None),
        (VOLUME_1, "volume:1 replication:SyncTarget peer-disk:UpToDate out-of-sync:5110", "(SyncTarget)", 75.0),
        (VOLUME_1, "volume:1 replication:VerifyS peer-disk:UpToDate out-of-sync:0", "(VerifyS)", 100.0),
        (
            VOLUME_1,
            "volume:1 replication:Established peer-disk:Diskless out-of-sync:0",
            "peer whose disk is Dis",
            100.0,
        ),
        ("minor:11 disk:UpToDate", "minor:11 disk:Inconsistent", "on this host that is Inconsistent", 100.0),
    ],
)
def test_what_is_not_a_copy_of_the_peer_now_is_not_in_sync(
    old: str, new: str, words: str, percent: Optional[float]
) -> None:
    assert old in WHOLE
    view = view_of(PAIR, report_of(WHOLE.replace(old, new)), SHOWN)
    assert (view.broken, view.sync_percent) == (None, percent)
    assert words in str(view.syncing)


@pytest.mark.parametrize(
    ("report", "shown", "words"),
    [
        (WHOLE.replace("name:db", "name:other"), "", "is not a running DRBD resource of this host"),
        (WHOLE.replace("volume:1", "volume:2"), SHOWN, "has no volume 1"),
        (WHOLE.replace("role:Secondary", "role:Primary"), SHOWN, "is Primary on this host"),
        (WHOLE, SHOWN.replace("db_1", "db_2"), "has the lower device /dev/vg0/db_2, not /dev/vg0/db_1"),
        (WHOLE, SHOWN.replace("C; # default", "B;"), "uses protocol B"),
    ],
)
def test_what_cannot_be_a_mirror_is_broken_with_its_reason(report: str, shown: str, words: str) -> None:
    assert words in str(view_of(PAIR, report_of(report), shown).broken)


def test_events_change_what_is_known() -> None:
    report = report_of(WHOLE)
    assert report.read("change connection name:db peer-node-id:0 connection:Disconnecting role:Unknown\n") == (
        "connection",
        {"name": "db", "peer-node-id": "0", "connection": "Disconnecting", "role": "Unknown"},
    )
    assert report.why_not_whole("db") == "is not connected to its peer (Disconnecting)"
    report.read("destroy connection name:db peer-node-id:0 conn-name:peer\n")
    assert report.read("- skipped 5") == report.read("exists -") == ("", {})
    assert view_of(PAIR, report, SHOWN).leg == OUT


def test_each_peer_of_a_newer_drbd_has_to_be_whole() -> None:
    second = WHOLE.replace("peer-node-id:0", "peer-node-id:2")
    assert report_of(WHOLE + second).why_not_whole("db") is None
    second = second.replace("replication:Established", "replication:PausedSyncT")
    assert report_of(WHOLE + second).why_not_whole("db") == "is not in sync yet (PausedSyncT)"
