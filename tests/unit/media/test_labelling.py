# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All blank volumes of a library get a label, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.modules import library_label
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.tape import RECORD, Library


def run(library: Library, *, check: bool = False, **options: Any) -> dict[str, Any]:
    told = {
        "pattern": "DAY*",
        "pool": "daily",
        "record_bytes": RECORD,
        "drive_type": "virtual",
        "drive": str(library.folder),
        "state_dir": str(library.state_dir),
        **options,
    }
    return run_module(library_label.main, told, check=check)


def contents(library: Library) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in library.folder.rglob("*") if path.is_file()}


def test_what_is_blank_and_matches_is_labelled_once(library: Library) -> None:
    for name in ("DAY1", "DAY2", "DAY3", "DAY4", "DAY5", "WEEK1"):
        library.make(name)
    library.label("DAY3", "weekly")
    with library.drive() as drive:
        drive.load("DAY4")
        drive.write_record(b"precious" * 64)
        drive.write_filemarks(1)
    library.volume = "DAY3"
    library.write("s1", [b"1" * RECORD])
    (library.folder / "DAY5/volume.json").write_text(
        (library.folder / "DAY5/volume.json").read_text(encoding="utf-8").replace('ected": false', 'ected": true'),
        encoding="utf-8",
    )
    before = contents(library)
    for check in (True, False):
        told = run(library, check=check)
        assert (told["changed"], told["labelled"], told["known"]) == (True, ["DAY1", "DAY2"], ["DAY3"])
        assert [item["volume"] for item in told["left_alone"]] == ["DAY4", "DAY5"]
        assert "is not blank" in told["left_alone"][0]["reason"]
        assert "write-protected" in told["left_alone"][1]["reason"]
        if check:
            assert contents(library) == before
            assert library.catalog.volume("DAY1") is None
    assert {volume.name: volume.pool for volume in library.catalog.volumes()} == {
        "DAY1": "daily",
        "DAY2": "daily",
        "DAY3": "weekly",
    }
    after = contents(library)
    again = run(library)
    assert (again["changed"], again["labelled"], again["known"]) == (False, [], ["DAY1", "DAY2", "DAY3"])
    assert contents(library) == after
    changed = {path for path in after if after[path] != before.get(path)}
    assert {path.split("/")[-2] for path in changed} == {"DAY1", "DAY2"}


def test_a_labelled_volume_that_the_catalog_does_not_know_is_left_to_a_rebuild(library: Library) -> None:
    library.make("DAY1")
    library.label("DAY1", "daily")
    library.catalog.close()
    (library.state_dir / "catalog.sqlite").unlink()
    told = run(library)
    assert (told["changed"], told["labelled"]) == (False, [])
    assert "enter it with catalog_rebuild" in told["left_alone"][0]["reason"]


@pytest.mark.parametrize(
    ("options", "option"),
    [({"pattern": "NIGHT*"}, "pattern"), ({"pool": "no good"}, "pool"), ({"record_bytes": 513}, "record_bytes")],
)
def test_what_is_impossible_is_refused(library: Library, options: dict[str, Any], option: str) -> None:
    library.make("DAY1")
    before = contents(library)
    told = run(library, **options)
    assert (told["failed"], told["option"]) == (True, option)
    assert contents(library) == before


def test_without_a_library_there_are_no_barcodes(library: Library) -> None:
    told = run(library, drive_type="st", drive="/dev/null")
    assert (told["option"], told["code"]) == ("changer", "option_invalid")
