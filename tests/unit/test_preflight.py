# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions before a backup: each has an answer, whatever is raised, and nothing is made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.preflight import ask_media_server
from ansible_collections.splitmirror.backup.plugins.module_utils.preflight import Finding, Preflight, folder_ready
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Position
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.agekeys import PUBLIC
from ansible_collections.splitmirror.backup.tests.support.tape import Library, inline


def wrong(preflight: Preflight) -> dict[str, str]:
    return {finding.question: finding.answer for finding in preflight.findings if not finding.right}


def test_what_goes_wrong_is_an_answer_and_the_next_question_is_asked() -> None:
    preflight = Preflight()

    def fails(exc: Exception) -> str:
        raise exc

    assert not preflight.ask("a", lambda: fails(SplitMirrorError("a: it is wrong.")))
    assert not preflight.ask("b", lambda: fails(OSError(13, "Permission denied", "/b")))
    assert preflight.ask("c", lambda: "It is right.")
    assert preflight.findings == [
        Finding("a", False, "a: it is wrong."),
        Finding("b", False, "/b: Permission denied"),
        Finding("c", True, "It is right."),
    ]


@pytest.mark.parametrize("ahead_s", [-7200.0, -1.0, 1.0, 7200.0])
def test_a_clock_that_goes_wrong_is_found(ahead_s: float) -> None:
    preflight = Preflight()
    preflight.ask_common(root=False, controller_time_s=time.time() - ahead_s, clock_tolerance_s=600)
    assert set(wrong(preflight)) == ({"clock"} if abs(ahead_s) > 600 else set())


def test_a_folder_is_found_ready_without_being_made(tmp_path: Path) -> None:
    assert "can be made" in folder_ready(str(tmp_path / "a/b"), "state_dir", 0)
    assert "is there" in folder_ready(str(tmp_path), "state_dir", 0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, room_bytes in ((tmp_path / "file/a", 0), (tmp_path, 1 << 62)):
        with pytest.raises(SplitMirrorError, match="state_dir"):
            folder_ready(str(path), "state_dir", room_bytes)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library whose volume V1 holds a session, with room for no other one as large."""
    library = Library(tmp_path)
    library.make(capacity_bytes=2 << 20)
    library.label()
    library.back_up("s1", [inline("/srv/a", bytes(1200000))])
    return library


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, {"room"}),
        ({"host": "db9"}, set()),
        ({"volume": "V9"}, {"volume"}),
        ({"volume": None, "pool": "none"}, {"volume"}),
        ({"volume": None, "pool": "p"}, {"room"}),
        ({"volume": None, "pool": "p", "level": "auto"}, set()),
        ({"volume": None, "pool": "p", "level": "auto", "full_every_days": 1e-6}, {"room"}),
        ({"volume": None, "pool": "p", "host": "db9", "level": "incremental"}, set()),
        ({"volume": None, "pool": "p", "host": "db9"}, set()),
        ({"drive_type": "wax"}, {"volume"}),
        ({"drive": "/nowhere"}, {"volume"}),
        ({"mode": "overwrite"}, {"volume"}),
    ],
)
def test_a_media_server_tells_what_is_wrong_with_the_volume(
    library: Library, params: dict[str, Any], found: set[str]
) -> None:
    assert wrong_on_media_server(library, **params) == found


def test_room_is_not_asked_for_the_holes_of_the_last_session(library: Library) -> None:
    library.make("V2", capacity_bytes=2 << 20)
    library.label("V2")
    library.volume = "V2"
    library.back_up("s2", [inline("/srv/holes", b"")._replace(size=2**62)])
    assert wrong_on_media_server(library, volume="V2") == set()


@pytest.mark.parametrize("times", [1, 3])
def test_others_may_write_to_the_catalog_while_the_volume_is_looked_at(
    library: Library, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Another host's session is entered, as that takes no drive."""
    library.make("V2", capacity_bytes=4 << 20)
    library.label("V2")
    library.catalog.close()
    path, sessions = str(library.state_dir / "catalog.sqlite"), [f"other{number}" for number in range(times)]
    find = VirtualTape.locate

    def locate(drive: VirtualTape, target: Position, block: int | None = None) -> None:
        find(drive, target, block)
        if sessions:
            with Catalog.open(path, writable=True) as catalog:
                catalog.begin_session(sessions.pop(), "db2")

    monkeypatch.setattr(VirtualTape, "locate", locate)
    assert wrong_on_media_server(library, volume="V2") == set()
    assert not sessions


def wrong_on_media_server(library: Library, **params: object) -> set[str]:
    preflight = Preflight()
    asked = {
        "drive_type": "virtual",
        "drive": str(library.folder),
        "drive_timeout_s": 0,
        "state_dir": str(library.state_dir),
        "volume": "V1",
        "pool": None,
        "mode": "append",
        "allow_last": False,
        "recipients": [],
        "drive_key_file": None,
        "drive_key": None,
        "host": "db1",
        "part_bytes": 0,
        "copies": [],
        "libraries": [],
        "spool_dir": None,
        "level": "full",
        "full_every_days": 7,
        **params,
    }
    ask_media_server(preflight, StateDir(str(library.state_dir)), asked)
    return set(wrong(preflight))


def test_whom_a_session_is_encrypted_to_is_asked_for(library: Library) -> None:
    assert wrong_on_media_server(library, host="db9", recipients=[PUBLIC]) == set()
    assert wrong_on_media_server(library, host="db9", recipients=["age1x"]) == {"encryption"}


def copy_to(pool: str | None, **more: object) -> dict[str, object]:
    return {"pool": pool, "volume": None, "source": None, "retention_days": None, **more}


def library_of(folder: Path, *pools: str) -> dict[str, object]:
    drive = {"drive": str(folder), "drives": None, "drive_element": None, "changer": None}
    return {"pools": list(pools), "drive_type": "virtual", **drive}


def test_where_sessions_are_to_be_copied_is_asked_for(library: Library, tmp_path: Path) -> None:
    (tmp_path / "tapes").mkdir()
    tapes = Library(tmp_path / "tapes")
    tapes.catalog.close()
    tapes.catalog = library.catalog
    tapes.make("T1", 4 << 20)
    tapes.label("T1", "tape")
    pool = {"host": "db9", "volume": None, "pool": "p", "libraries": [library_of(tapes.folder, "tape")]}
    assert wrong_on_media_server(library, **pool, copies=[copy_to("tape"), copy_to(None, volume="T1")]) == set()
    for copy, question in (
        (copy_to("none"), "copy to pool none"),
        (copy_to("p"), "copy to pool p"),
        (copy_to("tape", source="none"), "copy to pool tape"),
        (copy_to("tape", retention_days=-1), "copy to pool tape"),
        (copy_to(None, volume="T9"), "copy to volume T9"),
    ):
        assert wrong_on_media_server(library, **pool, copies=[copy]) == {question}
    # In the main library there is no such volume.
    for libraries in ([], [library_of(tmp_path / "away", "tape")]):
        asked = {**pool, "libraries": libraries}
        assert wrong_on_media_server(library, **asked, copies=[copy_to("tape")]) == {"copy to pool tape"}
    (tmp_path / "file").touch()
    spool = {"spool_dir": str(tmp_path / "file")}
    assert wrong_on_media_server(library, **pool, **spool, copies=[copy_to("tape")]) == {"copy to pool tape"}


def test_how_large_a_part_may_be_is_asked_for(library: Library) -> None:
    assert wrong_on_media_server(library, host="db9", volume=None, pool="p", part_bytes=1 << 20) == set()
    assert wrong_on_media_server(library, volume=None, pool="p", part_bytes=5) == {"volume"}
    assert wrong_on_media_server(library, part_bytes=1 << 20) == {"volume"}
