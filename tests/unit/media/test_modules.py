# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules of tape and catalog: the life of a session, each step twice and in check mode, and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.modules import (
    catalog_info,
    catalog_rebuild,
    catalog_session,
    tape_label,
    tape_read,
    tape_verify,
)
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.tape import (
    folder,
    inline,
    make_map,
    run_module_apart,
    window_evidence,
)

pytestmark = pytest.mark.slow

TREE = [folder("/srv"), inline("/srv/a", b"a" * 3000), inline("/srv/b\udcff", b"b")]


class Site:
    """A state folder and a library, and the modules on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.drive = self.state / "library"

    def run(self, module: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        result = run_module(module.main, {**self._common(module.__name__), **options}, check=check)
        assert not result.get("failed"), result
        return result

    def refused(self, module: Any, *, check: bool = False, **options: Any) -> dict[str, Any]:
        result = run_module(module.main, {**self._common(module.__name__), **options}, check=check)
        assert result.get("failed"), result
        assert result["msg"].endswith(".")
        return result

    def write(self, session: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        path = make_map(self.root, session, TREE)
        told = {
            "session": session,
            "map": str(path),
            "devices": {},
            "volume": "V1",
            "proof": "none",
            "evidence": window_evidence(),
            **self._common("tape_write"),
            **options,
        }
        return run_module_apart("tape_write", told, check=check)

    def _common(self, name: str) -> dict[str, Any]:
        takes_drive = name.rpartition(".")[2] not in ("catalog_info", "catalog_session")
        drive = {"drive_type": "virtual", "drive": str(self.drive)} if takes_drive else {}
        return {"state_dir": str(self.state), **drive}

    def seen(self) -> dict[str, bytes]:
        """All that a module could have changed; what SQLite keeps beside a database that is read does not count."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and path.suffix not in (".sqlite-wal", ".sqlite-shm")
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.slow
def test_the_whole_life_of_a_session(site: Site, tmp_path: Path) -> None:
    before = site.seen()
    look = site.run(tape_label, check=True, volume="V1", capacity="64M")
    assert (look["changed"], look["made"], site.seen()) == (True, True, before)
    first = site.run(tape_label, volume="V1", capacity="64M")
    assert (first["changed"], first["made"], first["in_catalog"]) == (True, True, True)
    assert first["diff"] == {"before": {}, "after": {"volume": "V1", "pool": "default", "record_bytes": 1 << 20}}
    for check in (True, False):
        again = site.run(tape_label, check=check, volume="V1", capacity="64M")
        assert (again["changed"], again["made"], again["volume"]) == (False, False, first["volume"])

    before = site.seen()
    look = site.write("s1", check=True)
    assert (look["changed"], look["file_number"], look["files"]) == (True, 1, 2)
    assert {name: data for name, data in site.seen().items() if "s1.sqlite" not in name} == before
    done = site.write("s1", host="db1", retention_days=1)
    assert (done["changed"], done["file_number"], done["files"], done["host"]) == (True, 1, 2, "db1")
    assert os.path.exists(done["archive"])
    assert "already" in site.write("s1")["msg"]

    evidence = {**window_evidence(), "session": "s1", "write": done["evidence"]}
    look = site.run(catalog_session, check=True, session="s1", state="closed", evidence=evidence)
    assert (look["changed"], look["session_state"]) == (True, "good")
    closed = site.run(catalog_session, session="s1", state="closed", evidence=evidence)
    assert (closed["changed"], closed["session_state"], closed["reason"]) == (True, "good", "")
    assert closed["diff"]["before"] == {"state": "open"}
    assert not site.run(catalog_session, session="s1", state="closed", evidence=evidence)["changed"]

    found = site.run(catalog_info, host="db1", session="latest", path="/srv/*")
    assert [session["session"] for session in found["sessions"]] == ["s1"]
    assert [item["path"] for item in found["files"]] == ["/srv/a", "/srv/b\\xff"]
    assert found["files"][0]["mode"] == "0640"
    assert found["volumes"][0]["unexpired"] == ["s1"]
    assert site.run(catalog_info, path="*", limit=1)["truncated"]
    assert site.run(catalog_info, at="2000-01-01T00:00:00Z")["sessions"] == []

    options: dict[str, Any] = {"session": "latest", "host": "db1", "target": str(tmp_path / "t")}
    look = site.run(tape_read, check=True, paths=["/srv/a"], **options)
    assert ([item["path"] for item in look["positions"]], look["files"]) == (["/srv/a"], 1)
    back = site.run(tape_read, **options)
    assert (back["files"], (tmp_path / "t/srv/a").read_bytes()) == (2, b"a" * 3000)
    assert "not empty" in site.refused(tape_read, **options)["msg"]
    assert site.run(tape_verify, session="s1")["files"] == 2

    (site.state / "catalog.sqlite").unlink()
    known = site.run(tape_label, check=True, volume="V1")
    assert (known["changed"], known["in_catalog"]) == (False, False)
    look = site.run(catalog_rebuild, check=True, volume="V1")
    assert (look["changed"], site.run(catalog_info)["sessions"]) == (True, [])
    rebuilt = site.run(catalog_rebuild, volume="V1")
    assert (rebuilt["changed"], [item["state"] for item in rebuilt["entered"]]) == (True, ["good"])
    assert not site.run(catalog_rebuild, volume="V1")["changed"]

    assert "unexpired" in site.write("s2", mode="overwrite")["msg"]
    for check in (True, False):
        assert site.refused(catalog_session, check=check, session="s1", state="expired")["option"] == "allow_last"
    expired: dict[str, Any] = {"session": "s1", "state": "expired", "allow_last": True}
    assert site.run(catalog_session, check=True, **expired)["changed"]
    assert site.run(catalog_session, **expired)["changed"]
    assert not site.run(catalog_session, **expired)["changed"]
    for check in (True, False):
        assert site.write("s2", check=check, mode="overwrite")["option"] == "allow_last"
    relabelled: dict[str, Any] = {"volume": "V1", "pool": "other"}
    assert site.refused(tape_label, **relabelled)["option"] == "allow_last"
    assert site.run(tape_label, check=True, allow_last=True, **relabelled)["changed"]
    assert site.write("s2", mode="overwrite", allow_last=True)["file_number"] == 1


def test_a_bad_window_is_a_failed_session_and_no_failed_task(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    done = site.write("s1")
    evidence = {**window_evidence(), "session": "s1", "write": done["evidence"], "check": {"complete": "yes"}}
    closed = site.run(catalog_session, session="s1", state="closed", evidence=evidence)
    assert closed["session_state"] == "failed"
    assert "check" in closed["reason"]
    assert "failed" in site.refused(tape_read, session="s1", target=str(site.root / "t"))["msg"]


def test_evidence_of_a_write_that_the_catalog_has_not_seen_is_not_believed(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    done = site.write("s1")
    write = {**done["evidence"], "file_number": 7}
    evidence = {**window_evidence(), "session": "s1", "write": write}
    assert site.run(catalog_session, session="s1", state="closed", evidence=evidence)["session_state"] == "failed"


def test_what_was_written_is_taken_from_the_catalog(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    site.write("s1")
    evidence = {**window_evidence(), "session": "s1"}
    assert site.run(catalog_session, session="s1", state="closed", evidence=evidence)["session_state"] == "good"


def test_a_session_that_failed_early_is_recorded(site: Site) -> None:
    options: dict[str, Any] = {"session": "s1", "host": "db1", "state": "failed", "reason": "The array did not answer."}
    assert site.run(catalog_session, check=True, **options)["session_state"] == "failed"
    assert site.run(catalog_session, **options)["changed"]
    assert not site.run(catalog_session, **options)["changed"]
    (found,) = site.run(catalog_info)["sessions"]
    assert (found["host"], found["state"], found["reason"]) == ("db1", "failed", "The array did not answer.")


def test_a_night_without_a_backup_looks_like_one(site: Site) -> None:
    def at_night(session: str, end: str) -> None:
        for changed in (True, False):
            look = site.run(catalog_session, check=True, session=session, host="db1", state="begun")
            begun = site.run(catalog_session, session=session, host="db1", state="begun")
            assert [(one["changed"], one["session_state"]) for one in (look, begun)] == [(changed, "open")] * 2
        if end == "failed":
            site.run(catalog_session, session=session, state="failed", phase="sync", reason="The array did not answer.")
        elif end == "good":
            site.write(session, host="db1")
            site.run(
                catalog_session, session=session, state="closed", evidence={**window_evidence(), "session": session}
            )

    def stands() -> tuple[Any, ...]:
        (host,) = site.run(catalog_info, host="db1", state="good")["hosts"]
        return tuple(host[key] for key in ("last", "last_state", "last_reason", "last_good", "failed_since"))

    site.run(tape_label, volume="V1", capacity="64M")
    at_night("s1", "failed")
    assert stands() == ("s1", "failed", "The array did not answer.", None, 1)
    at_night("s2", "good")
    assert stands() == ("s2", "good", "", "s2", 0)
    at_night("s3", "killed")
    assert stands() == ("s3", "open", "", "s2", 0)
    at_night("s4", "failed")
    assert site.run(catalog_session, session="s4", host="db1", state="recovered")["recovered"] == ["s3"]
    assert stands() == ("s4", "failed", "The array did not answer.", "s2", 2)
    told = [(one["session"], one["state"], one["phase"]) for one in site.run(catalog_info, host="db1")["sessions"]]
    assert told == [("s1", "failed", "sync"), ("s2", "good", ""), ("s3", "failed", ""), ("s4", "failed", "sync")]
    # what has ended does not begin again
    for session in ("s1", "s2", "s3"):
        assert "already" in site.refused(catalog_session, session=session, host="db1", state="begun")["msg"]
        assert "already" in site.write(session, host="db1")["msg"]


@pytest.mark.parametrize("days", [0, -1, 40000, float("nan")])
def test_a_full_session_cannot_be_due_just_any_time(site: Site, days: float) -> None:
    refused = site.write("s1", level="auto", full_every_days=str(days), check=True)
    assert (refused["failed"], refused["option"]) == (True, "full_every_days")


def test_an_incremental_session_without_a_base_becomes_full_and_warns(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    look = site.write("s1", level="incremental", host="db1", check=True)
    done = site.write("s1", level="incremental", host="db1")
    for result in (look, done):
        assert (result["level"], result["base"]) == ("full", "")
        assert "no good full session of db1" in result["level_reason"]
    assert any("s1 is a full one" in str(warning) for warning in done["warnings"])
    kept = site.state / "bases" / "s1.sqlite"
    assert kept.exists()
    site.run(catalog_session, session="s1", host="db1", state="failed", reason="It was a test.")
    assert not kept.exists()


@pytest.mark.parametrize("days", [-1, 3650000, float("inf"), float("nan")])
@pytest.mark.parametrize("check", [True, False])
def test_a_retention_that_no_calendar_holds_is_refused(site: Site, days: float, check: bool) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    before = site.seen()
    refused = site.write("s1", check=check, retention_days=str(days))
    assert (refused["failed"], refused["option"]) == (True, "retention_days")
    assert {name: data for name, data in site.seen().items() if "s1.sqlite" not in name} == before


def test_times_that_no_calendar_holds_are_shown(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    with Catalog.open(str(site.state / "catalog.sqlite"), writable=True) as catalog:
        for session, expires_s in (("s1", 1e12), ("s2", 1e300), ("s3", -1e300), ("s4", None)):
            catalog.begin_session(session, "db1", 1.0, expires_s)
    assert [found["expires"] for found in site.run(catalog_info)["sessions"]] == [
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
        "1-01-01T00:00:00Z",
        None,
    ]


def test_what_dead_sessions_of_a_host_left_open_is_failed(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    site.write("s1")
    site.write("s2")
    site.run(catalog_session, session="s2", state="closed", evidence={**window_evidence(), "session": "s2"})
    site.write("s3")
    options: dict[str, Any] = {"session": "s3", "state": "recovered"}
    assert site.run(catalog_session, host="db2", **options)["recovered"] == []
    look = site.run(catalog_session, check=True, host="db1", **options)
    assert (look["changed"], look["recovered"]) == (True, ["s1"])
    done = site.run(catalog_session, host="db1", **options)
    assert (done["changed"], done["recovered"], done["session_state"]) == (True, ["s1"], "open")
    assert done["diff"] == {"before": {"s1": "open"}, "after": {"s1": "failed"}} == look["diff"]
    assert not site.run(catalog_session, host="db1", **options)["changed"]
    states = {found["session"]: found["state"] for found in site.run(catalog_info)["sessions"]}
    assert states == {"s1": "failed", "s2": "good", "s3": "open"}


def test_each_refusal_names_its_option(site: Site) -> None:
    site.run(tape_label, volume="V1", capacity="64M")
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (tape_label, {"volume": "V2", "capacity": "much"}, "capacity"),
        (tape_label, {"volume": "../V2"}, "volume"),
        (tape_label, {"volume": "V1", "record_bytes": 1000}, "record_bytes"),
        (tape_label, {"volume": "V2", "pool": "a b"}, "pool"),
        (tape_read, {"session": "s9", "target": str(site.root / "t")}, "session"),
        (tape_read, {"session": "latest", "target": str(site.root / "t")}, "host"),
        (tape_verify, {"session": "s9"}, "session"),
        (catalog_rebuild, {"volume": "V9"}, "volume"),
        (catalog_session, {"session": "s9", "state": "closed", "evidence": {}}, "session"),
        (catalog_session, {"session": "../s", "state": "expired"}, "session"),
        (catalog_info, {"at": "yesterday"}, "at"),
        (catalog_info, {"path": "/x", "limit": -1}, "limit"),
    ]
    for module, options, option in cases:
        assert site.refused(module, **options)["option"] == option
    assert not (site.drive / "V2").exists()
    assert site.write("s2", drive=str(site.root / "missing"))["option"] == "drive"
    assert site.write("s2", volume="V9")["option"] == "volume"
