# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport masked: what an array says of its LUNs is taken as it is meant, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import AttachOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.disks import Disk
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.masked import (
    MaskedAttacher,
    lun_of,
    wanted_from_identities,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError

SESSION = "20260131T020000Z-db1-9f3c"
PAIRS: list[dict[str, Any]] = [{"name": "data", "serial": "PRIMARY1"}, {"name": "wal", "serial": None}]
WWN = "6000c29a" + "b" * 24
LUNS: dict[str, Any] = {"data": {"serial": "S1", "lun": 3, "size_bytes": "4096"}, "wal": {"wwn": f"naa.{WWN}"}}


def test_serial_or_wwn_is_enough() -> None:
    (data, wal) = wanted_from_identities(LUNS, PAIRS)
    assert (data.name, data.serial, data.wwn, data.size_bytes) == ("data", "S1", "", 4096)
    assert (wal.serial, wal.wwn, wal.size_bytes) == (f"naa.{WWN}", f"naa.{WWN}", None)


@pytest.mark.parametrize(
    ("luns", "words"),
    [
        ({}, "the array presents nothing, and the pairs are data, wal"),
        ({**LUNS, "more": {"serial": "S2"}}, "and the pairs are data, wal"),
        ({**LUNS, "wal": {"lun": 1}}, "pair wal has neither serial nor wwn"),
        ({**LUNS, "wal": {"serial": " "}}, "pair wal has neither serial nor wwn"),
        ({**LUNS, "wal": {"serial": 7}}, "pair wal: give serial or wwn"),
        ({**LUNS, "wal": "S2"}, "pair wal: give serial or wwn"),
        ({**LUNS, "wal": {"serial": "S2", "lun": "x"}}, "pair wal: give serial or wwn"),
        ({**LUNS, "wal": {"serial": "S2", "size_bytes": -1}}, "pair wal: give serial or wwn"),
        ({**LUNS, "wal": {"serial": "s1"}}, "pairs data and wal have the same LUN"),
        ({**LUNS, "wal": {"serial": "S2", "wwn": "0xS1"}}, "pairs data and wal have the same LUN"),
        # The LUN that all of this is a mirror of.
        ({**LUNS, "wal": {"serial": "S2", "wwn": "primary1"}}, "primary1|PRIMARY1 is the primary of pair data"),
    ],
)
def test_what_is_no_identity_is_refused(luns: dict[str, Any], words: str) -> None:
    with pytest.raises(TransportError, match=words) as refused:
        wanted_from_identities(luns, PAIRS)
    assert refused.value.option == "luns"


def test_the_number_of_a_lun_is_that_of_its_path(tmp_path: Path) -> None:
    disk = Disk("sdx", "S1", (), 4096)
    address = tmp_path / "devices/host3/target3:0:0/3:0:0:12"
    address.mkdir(parents=True)
    folder = tmp_path / "class/block/sdx"
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(address)
    assert lun_of(disk, str(tmp_path)) == 12
    assert lun_of(Disk("nvme0n1", "S1", (), 4096), str(tmp_path)) is None


def test_what_a_dead_session_attached_is_known_by_its_record(tmp_path: Path) -> None:
    state = StateDir(str(tmp_path))
    for session in (SESSION, "20260131T020000Z-db2-9f3c"):
        state.make_session_dir(session)
        record = {"data": {"serial": f"none-{session}", "wwn": ""}}
        Path(state.session_file(session, "luns.json")).write_text(json.dumps(record), encoding="utf-8")
    options: dict[str, Any] = {"transport": "masked", "state_dir": str(tmp_path)}
    assert MaskedAttacher(AttachOptions(host="db1", **options)).detach(dry_run=True) == [f"none-{SESSION}"]
    assert MaskedAttacher(AttachOptions(host="db1", **options)).detach() == [f"none-{SESSION}"]
    assert MaskedAttacher(AttachOptions(host="db1", **options)).detach() == []
    assert MaskedAttacher(AttachOptions(session="20260131T020000Z-db2-9f3c", **options)).detach(dry_run=True) != []
