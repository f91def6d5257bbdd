# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of volumes, and volumes that leave a library and come back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import VolumeUse
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mail import export
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.library import MtxLibrary
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.tickets import QueueTicket
from ansible_collections.splitmirror.backup.plugins.modules import catalog_volume, library_mail, volume_info
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.mtx import FakeChanger
from ansible_collections.splitmirror.backup.tests.support.robot import robot_options
from ansible_collections.splitmirror.backup.tests.support.tape import RECORD, Library


@pytest.fixture
def pool(library: Library) -> Library:
    """Volumes V1 to V4 of pool p, V1 to V3 with a session, and X1 of another pool."""
    for name in ("V1", "V2", "V3", "V4", "X1"):
        library.make(name)
        library.label(name, "other" if name == "X1" else "p")
    for number, expires_s in ((1, 5.0), (2, None), (3, 4e9)):
        library.volume = f"V{number}"
        library.write(f"s{number}", [b"x" * RECORD] * 100, expires_s=expires_s)
        library.catalog.close_session(f"s{number}", Verdict(number > 1, "broken." if number == 1 else ""), {})
    return library


@pytest.fixture
def changer(pool: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeChanger:
    made = FakeChanger(tmp_path, [""], ["V1", "V2", "V3", "CLN001", "NEW1", "", "", ""], mail=2)
    monkeypatch.setenv("PATH", str(made.programs), prepend=os.pathsep)
    return made


def ask(library: Library, changer: FakeChanger | None = None, **options: Any) -> dict[str, Any]:
    told = {"state_dir": str(library.state_dir), **options}
    if changer is not None:
        told.update(drive_type="st", drive="/dev/null", drive_element=0, changer=str(changer.device))
    result = run_module(volume_info.main, told)
    assert not result.get("failed"), result
    return {**result, "by_name": {item["volume"]: item for item in result["volumes"]}}


def test_volumes_are_told_by_the_catalog(pool: Library) -> None:
    pool.catalog.set_capacity("V1", 10240 + 104 * RECORD)
    pool.catalog.set_capacity("V2", 10240 + 104 * RECORD)
    pool.catalog.take_out_of_use("X1", "torn.")
    pool.catalog.set_place("V3", "in the safe", 5.0)
    uses: list[dict[str, Any]] = [
        {"loads": 7, "write_uncorrected": 1},
        {"loads": 8, "read_uncorrected": 2, "alerts": [3, 20]},
    ]
    pool.catalog.add_uses(VolumeUse("V3", "/dev/nst0", "write", "s3", 9.0, facts) for facts in uses)
    found = ask(pool)["by_name"]
    assert {name: item["state"] for name, item in found.items()} == {
        "V1": "reusable",
        "V2": "full",
        "V3": "filling",
        "V4": "blank",
        "X1": "out_of_use",
    }
    three = found["V3"]
    room_bytes = (8 << 20) - three["used_bytes"]
    assert (three["used_bytes"], three["free_bytes"]) == (10240 + 100 * RECORD, room_bytes)
    assert (three["sessions"], three["needed"], three["last_good"]) == (["s3"], ["s3"], ["s3"])
    assert (three["expires"], found["V2"]["expires"], found["V4"]["written"]) == ("2096-10-02T07:06:40Z", None, None)
    assert (three["loads"], three["errors"], three["alerts"]) == (8, 3, [3, 20])
    assert three["place"] == {
        "kind": "elsewhere",
        "number": None,
        "note": "in the safe",
        "since": "1970-01-01T00:00:05Z",
    }
    assert found["V2"]["free_bytes"] == 4 * RECORD
    assert found["X1"]["out_of_use"] == "torn."
    assert [item["volume"] for item in ask(pool, pool="other")["volumes"]] == ["X1"]


def test_a_library_says_where_they_are(pool: Library, changer: FakeChanger) -> None:
    changer.put(8, "V4")
    found = ask(pool, changer)
    places = {name: (item["place"]["kind"], item["place"]["number"]) for name, item in found["by_name"].items()}
    assert places == {
        "V1": ("slot", 1),
        "V2": ("slot", 2),
        "V3": ("slot", 3),
        "V4": ("mail_slot", 8),
        "X1": ("unknown", None),
    }
    assert [(item["volume"], item["place"]["number"]) for item in found["unknown"]] == [("NEW1", 5)]
    virtual = ask(pool, drive_type="virtual", drive=str(pool.folder))["by_name"]
    assert {item["place"]["kind"] for item in virtual.values()} == {"folder"}


def test_a_volume_goes_out_of_use_and_comes_back(pool: Library) -> None:
    def turn(state: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        told = {"volume": "V1", "state": state, "state_dir": str(pool.state_dir), **options}
        return run_module(catalog_volume.main, told, check=check)

    for check, changed in ((True, True), (False, True), (False, False)):
        told = turn("out_of_use", check=check, reason="It is old.")
        assert (told["changed"], told["out_of_use"]) == (changed, "It is old.")
    assert told["diff"]["before"] == {"out_of_use": "It is old."}
    with pytest.raises(TapeError, match=r"V1 is out of use \(It is old\)"):
        pool.place(volume="V1")
    assert turn("in_use")["changed"]
    pool.place(volume="V1")
    assert (turn("out_of_use", reason=" ")["option"], turn("in_use", volume="V9")["option"]) == ("reason", "volume")


def mail(
    library: Library, changer: FakeChanger | None, state: str, *, check: bool = False, **options: Any
) -> dict[str, Any]:
    told = {"state": state, "state_dir": str(library.state_dir), **options}
    if changer is not None:
        told.update(drive_type="st", drive="/dev/null", drive_element=0, changer=str(changer.device))
    return run_module(library_mail.main, told, check=check)


def moved(told: dict[str, Any]) -> list[tuple[str, int | None]]:
    assert not told.get("failed"), told
    return [(item["volume"], item["slot"]) for item in told["moved"]]


def test_volumes_leave_by_the_mail_slots_and_come_back(pool: Library, changer: FakeChanger) -> None:
    options: dict[str, Any] = {"pool": "p", "place": "Bank, box 17"}
    before = changer.held()
    look = mail(pool, changer, "exported", check=True, **options)
    assert (moved(look), look["changed"], changer.held()) == ([("V1", None), ("V2", None)], True, before)
    told = mail(pool, changer, "exported", **options)
    assert moved(told) == [("V1", 7), ("V2", 8)]
    assert [(item["volume"], "no import/export slot is free" in item["reason"]) for item in told["left"]] == [
        ("V3", True)
    ]
    assert changer.held()[1] == ["", "", "V3", "CLN001", "NEW1", "", "V1", "V2"]
    again = mail(pool, changer, "exported", **options)
    assert (again["changed"], moved(again)) == (False, [])
    for slot in (7, 8):
        changer.put(slot, "")
    assert moved(mail(pool, changer, "exported", **options)) == [("V3", 7)]
    places = {name: item["place"] for name, item in ask(pool, changer)["by_name"].items()}
    assert [(places[name]["kind"], places[name]["note"]) for name in ("V1", "V3", "V4")] == [
        ("elsewhere", "Bank, box 17"),
        ("mail_slot", "Bank, box 17"),
        ("unknown", ""),
    ]
    changer.put(8, "V2")
    changer.put(1, "V1")
    look = mail(pool, changer, "imported", check=True)
    assert (moved(look), look["noted"]) == ([("V2", None), ("V3", None)], ["V1"])
    back = mail(pool, changer, "imported")
    assert (moved(back), back["noted"]) == ([("V2", 2), ("V3", 3)], ["V1"])
    assert not mail(pool, changer, "imported")["changed"]
    assert {item["place"]["note"] for item in ask(pool, changer)["volumes"]} == {""}


def test_what_is_used_or_still_open_stays(pool: Library, changer: FakeChanger) -> None:
    pool.volume = "V2"
    pool.write("s9", [b"x" * RECORD])
    drives = pool.state_dir / "drives"
    drives.mkdir(mode=0o700)
    with QueueTicket(str(drives), "tape_read of session s3", "V3", ["/dev/null"]):
        told = mail(pool, changer, "exported", pool="p", place="Bank")
    assert moved(told) == [("V1", 7)]
    assert {item["volume"]: item["reason"] for item in told["left"]} == {
        "V2": "a session on it is still open",
        "V3": "another task uses it, or waits for it",
    }


def test_a_volume_leaves_from_a_drive_by_way_of_its_slot(
    pool: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FakeChanger(tmp_path, ["V1", "V2"], ["", "", "V3", ""], mail=1)
    options = robot_options(pool, made, monkeypatch)
    with queue_for_drive(options, "", who="test") as lease:
        done = export(lease, MtxLibrary(str(made.device)), pool.catalog, ["V2"], "Bank")
    assert done.moved == {"V2": 4}
    drives, slots = made.held()
    assert (slots[2:], sorted(drives + slots[:2])) == (["V3", "V2"], ["", "", "", "V1"])


def test_a_full_library_takes_nothing_in(pool: Library, changer: FakeChanger) -> None:
    changer.put(6, "NEW2")
    changer.put(7, "V4")
    told = mail(pool, changer, "imported")
    assert (moved(told), told["left"][0]["volume"]) == ([], "V4")


def test_a_note_needs_no_library(pool: Library) -> None:
    for check, changed in ((True, True), (False, True), (False, False)):
        told = mail(pool, None, "noted", check=check, volumes=["V1"], place="safe")
        assert (told["changed"], told["noted"]) == (changed, ["V1"] if changed else [])
    known = pool.catalog.volume("V1")
    assert known is not None
    assert known.place == "safe"
    assert mail(pool, None, "noted", volumes=["V1"], place="")["noted"] == ["V1"]


@pytest.mark.parametrize(
    ("options", "option"),
    [({"volumes": ["V9"]}, "volumes"), ({"pool": "none"}, "pool")],
)
def test_volumes_and_pools_that_are_not_there_are_refused(pool: Library, options: dict[str, Any], option: str) -> None:
    told = mail(pool, None, "noted", place="safe", **options)
    assert (told["failed"], told["option"]) == (True, option)


def test_a_library_without_mail_slots_says_so(pool: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    bare = FakeChanger(tmp_path / "lib", [""], ["V1", ""])
    monkeypatch.setenv("PATH", str(bare.programs), prepend=os.pathsep)
    told = mail(pool, bare, "exported", pool="p", place="Bank")
    assert (told["option"], told["code"]) == ("changer", "library_failed")
    assert "no import/export slot" in told["msg"]
