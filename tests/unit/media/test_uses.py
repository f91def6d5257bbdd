# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drive says after each use of a volume is in the catalog, and its warnings reach the user."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import VolumeUse
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.uses import noting_uses
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_facts import DriveFacts
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_json import DriveSettings
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.plugins.modules import (
    catalog_info,
    catalog_session,
    tape_label,
    tape_read,
)
from ansible_collections.splitmirror.backup.tests.support.tape import run_module_apart, window_evidence
from ansible_collections.splitmirror.backup.tests.unit.media.test_modules import Site

pytestmark = pytest.mark.slow

FACTS = {"serial": "SN1", "alerts": [3, 10, 21], "write_corrected": 12, "loads": 4}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.run(tape_label, volume="V1", capacity="8M", record_bytes=512)
    return made


def settings(site: Site, **told: Any) -> None:
    (site.drive / "drive.json").write_text(json.dumps({"format_version": 1, **told}))


def judge(site: Site, session: str, told: dict[str, Any]) -> None:
    evidence = {**window_evidence(), "session": session, "write": told["evidence"]}
    site.run(catalog_session, session=session, state="closed", evidence=evidence)


def uses(site: Site) -> list[dict[str, Any]]:
    (volume,) = site.run(catalog_info)["volumes"]
    found: list[dict[str, Any]] = volume["uses"]
    return found


def apart(site: Site, name: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """A module in a process of its own: Ansible keeps the warnings of all modules of one process together."""
    return run_module_apart(name, {**site._common(name), **options}, check=check)


def alerts_in(told: dict[str, Any]) -> list[str]:
    """Numbers of the flags that a module warned of, whatever form its version of Ansible gives to warnings."""
    return re.findall(r"\(TapeAlert (\d+)\)", json.dumps(told.get("warnings", [])))


def test_each_use_is_kept_with_what_the_drive_said_and_its_warnings_are_told(site: Site) -> None:
    settings(site, facts=FACTS, bytes_per_s=1 << 40)
    told = site.write("s1")
    assert alerts_in(told) == ["3", "21"]
    assert told["drive_stops"] == 0
    assert told["drive_bytes_per_s"] > 0
    assert told["evidence"]["parts"][0]["stops"] == 0
    judge(site, "s1", told)
    settings(site, facts={**FACTS, "loads": 5, "alerts": []})
    assert "warnings" not in apart(site, "tape_verify", session="s1")
    assert uses(site)[0]["facts"] == {**FACTS, "loads": 5, "alerts": []}
    site.run(tape_read, session="s1", target=str(site.root / "t"))
    with Catalog.open(str(site.state / "catalog.sqlite")) as catalog:
        assert [(use.what, use.session, use.drive) for use in catalog.uses("V1")] == [
            (what, "s1", str(site.drive)) for what in ("write", "verify", "restore")
        ]
    assert [(use["what"], use["drive"]) for use in uses(site)] == [("restore", str(site.drive))]


def test_a_task_that_fails_leaves_a_note_and_its_warnings(site: Site) -> None:
    judge(site, "s1", site.write("s1"))
    settings(site, facts=FACTS)
    data = bytearray((site.drive / "V1/00001.tar").read_bytes())
    data[600] ^= 1
    (site.drive / "V1/00001.tar").write_bytes(data)
    refused = apart(site, "tape_verify", session="s1")
    assert refused["failed"]
    assert alerts_in(refused) == ["3", "21"]
    assert [use["what"] for use in uses(site)] == ["verify"]


def test_a_drive_that_says_nothing_leaves_no_note_and_no_check_mode_asks(site: Site) -> None:
    told = site.write("s1")
    judge(site, "s1", told)
    assert told["drive_stops"] is None
    assert told["drive_bytes_per_s"] > 0
    assert "stops" not in told["evidence"]
    assert uses(site) == []
    settings(site, facts=FACTS)
    assert "warnings" not in apart(site, "tape_verify", session="s1", check=True)
    assert "warnings" not in site.write("s2", check=True)
    assert uses(site) == []


def test_a_volume_that_is_labelled_anew_keeps_its_uses_and_only_the_newest_ones(site: Site) -> None:
    with Catalog.open(str(site.state / "catalog.sqlite"), writable=True) as catalog:
        every = [
            VolumeUse("V1", f"d{number % 2}", "write", "s", float(number), {"loads": number}) for number in range(250)
        ]
        catalog.add_uses(every)
        assert catalog.uses("V1") == every[50:]
        assert [use.facts["loads"] for use in catalog.last_uses("V1")] == [248, 249]
        catalog.add_uses([every[0]])
        assert [use.facts["loads"] for use in catalog.last_uses("V1")] == [249, 0]
    site.run(tape_label, volume="V1", pool="other", record_bytes=512)
    assert len(uses(site)) == 2


def test_a_catalog_of_an_older_format_has_no_uses_and_gets_them(site: Site) -> None:
    path = site.state / "catalog.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE volume_uses")
        for table, column in (("volumes", "out_of_use"), ("parts", "archive_bytes"), ("parts", "lead_bytes")):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("UPDATE meta SET value = '2' WHERE key = 'format_version'")
        db.commit()
    for _dummy in range(2):
        assert uses(site) == []
    settings(site, facts=FACTS)
    site.write("s1")
    assert len(uses(site)) == 1


def test_a_catalog_that_cannot_be_written_is_a_warning(site: Site) -> None:
    judge(site, "s1", site.write("s1"))
    settings(site, facts={"loads": 1})
    with contextlib.closing(sqlite3.connect(site.state / "catalog.sqlite")) as db:
        db.execute("CREATE TRIGGER no BEFORE INSERT ON volume_uses BEGIN SELECT raise(ABORT, 'no room'); END")
        db.commit()
    told = apart(site, "tape_verify", session="s1")
    assert not told.get("failed")
    assert "no room" in json.dumps(told["warnings"])


class CleanedTape(VirtualTape):
    """A drive in a library that cleans it; ``cartridge`` does, or the word for why it cannot.

    :param cleaned: what the drive says when it was cleaned.
    """

    def __init__(self, drive: str, cartridge: str, cleaned: DriveFacts) -> None:
        super().__init__(drive)
        self._cartridge = cartridge
        self._cleaned: Optional[DriveFacts] = cleaned
        self.avoided: set[str] = set()

    def clean(self, avoid: Collection[str] = ()) -> str:
        self.avoided = set(avoid)
        if self._cartridge in avoid or not self._cartridge:
            raise TapeError("changer: the library has no cleaning cartridge to use.", option="changer")
        self._settings = DriveSettings(None, self._cleaned or DriveFacts())
        return self._cartridge


def left_after(site: Site, cartridge: str, cleaned: DriveFacts, *, auto_clean: bool = True) -> list[str]:
    """The warnings when a task leaves a drive that asks to be cleaned."""
    settings(site, facts=FACTS)
    said: list[str] = []
    noting = noting_uses(StateDir(str(site.state)), "verify", "s1", said.append, auto_clean=auto_clean)
    with noting as left, CleanedTape(str(site.drive), cartridge, cleaned) as drive:
        left(drive, "V1")
    return said


def test_a_drive_that_asks_for_it_is_cleaned_and_only_what_is_left_is_told(site: Site) -> None:
    assert alerts_in({"warnings": left_after(site, "CLN001", DriveFacts(), auto_clean=False)}) == ["3", "21"]
    assert alerts_in({"warnings": left_after(site, "CLN001", DriveFacts(alerts=()))}) == ["3"]
    # The cartridge did not help, or is used up: that is told, and it is not taken again.
    said = left_after(site, "CLN001", DriveFacts(alerts=(20, 22)))
    assert alerts_in({"warnings": said}) == ["20", "22", "3"]
    assert "CLN001" in said[0]
    said = left_after(site, "CLN001", DriveFacts())
    assert "was not" in said[0]
    assert alerts_in({"warnings": said}) == ["3"]
    with Catalog.open(str(site.state / "catalog.sqlite")) as catalog:
        assert catalog.used_up() == {"CLN001"}
        assert [(use.what, use.facts) for use in catalog.uses("CLN001")] == [
            ("clean", {"alerts": []}),
            ("clean", {"alerts": [20, 22]}),
        ]
        assert [use.what for use in catalog.uses("V1")] == ["verify"] * 4


def test_a_library_is_needed_to_clean(site: Site) -> None:
    judge(site, "s1", site.write("s1"))
    refused = site.refused(tape_read, session="s1", target=str(site.root / "t"), auto_clean=True)
    assert refused["option"] == "auto_clean"
    with VirtualTape(str(site.drive)) as drive, pytest.raises(TapeError) as caught:
        drive.clean()
    assert caught.value.option == "changer"
