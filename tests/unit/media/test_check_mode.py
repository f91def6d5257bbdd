# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check mode changes nothing on the media server: no file, no folder, not even a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import CatalogError
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.prepare import prepare
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    DriveOptions,
    VolumeNotAtHand,
    use_drive,
)
from ansible_collections.splitmirror.backup.tests.support.tape import Library, inline, run_module_apart

pytestmark = pytest.mark.slow

#: Each module that works on the media server, with what makes it go as far as it goes.
MODULES: dict[str, dict[str, Any]] = {
    "backup_prepare": {"session": "s2", "volume": "V1"},
    "catalog_info": {},
    "catalog_rebuild": {"volume": "V1"},
    "catalog_retention": {"keep_last": 1},
    "catalog_session": {"session": "s2", "host": "db1", "state": "failed", "reason": "It failed.", "phase": "map"},
    "catalog_volume": {"volume": "V1", "state": "out_of_use", "reason": "torn"},
    "library_label": {"pattern": "V*"},
    "library_mail": {"state": "noted", "volumes": ["V1"], "place": "safe"},
    "tape_label": {"volume": "V2"},
    "tape_read": {"session": "s1", "target": "/nonexistent/target"},
    "tape_verify": {"session": "s1"},
    "tape_write": {"session": "s2", "devices": {}, "volume": "V1"},
    "volume_info": {},
}
WITHOUT_DRIVE = ("catalog_info", "catalog_retention", "catalog_session", "catalog_volume")


def fingerprint(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All there is in a folder, with content and times."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        facts = os.lstat(path)
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (facts.st_mode, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, data)
    return found


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("module", MODULES)
def test_check_mode_changes_nothing(labelled: Library, module: str, used: bool) -> None:
    labelled.back_up("s1", [inline("/srv/a", b"abc")])
    labelled.catalog.close()
    state = {"state_dir": str(labelled.state_dir)}
    drive = {} if module in WITHOUT_DRIVE else {"drive_type": "virtual", "drive": str(labelled.folder)}
    if used:  # the folder of the queue is there
        run_module_apart(
            "tape_verify", {"session": "s1", "drive_type": "virtual", "drive": str(labelled.folder), **state}
        )
        # reading for real leaves SQLite's files beside the catalog, which the next writer takes away
        Catalog.open(str(labelled.state_dir / "catalog.sqlite"), writable=True).close()
    before = fingerprint(labelled.state_dir)
    result = run_module_apart(module, {**MODULES[module], **state, **drive}, check=True)
    assert "failed" not in result, result
    assert fingerprint(labelled.state_dir) == before


@pytest.mark.parametrize("found", [None, "s9 is not what was written."])
def test_what_was_written_while_it_was_looked_at_without_a_lock_is_not_told(
    labelled: Library, found: str | None
) -> None:
    path = str(labelled.state_dir / "catalog.sqlite")
    labelled.catalog.close()
    looking = Catalog.open(path, no_trace=True)
    with Catalog.open(path, writable=True) as writing:
        writing.begin_session("s1", "db1", 1.0, None)

    def look() -> None:
        with looking:
            looking.volumes()
            if found:
                raise SplitMirrorError(found)

    with pytest.raises(CatalogError, match="look again"):
        look()


def test_check_mode_loads_nothing_and_tells_by_the_catalog(
    labelled: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mtx is the one part that is not real: it tells what a library tells, and writes down what it is asked.
    programs, asked, changer = tmp_path / "bin", tmp_path / "asked", tmp_path / "changer"
    programs.mkdir()
    changer.touch()
    (programs / "mtx").write_text(
        f'#!/bin/sh\necho "$3" >>{asked}\ncat <<END\n'
        "Data Transfer Element 0:Full (Storage Element 1 Loaded):VolumeTag = V0\n"
        "      Storage Element 1:Empty\n"
        "      Storage Element 2:Full :VolumeTag=V1\nEND\n",
        encoding="utf-8",
    )
    (programs / "mtx").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    params = {
        "drive_type": "st",
        "drive": "/dev/null",
        "drive_element": 0,
        "changer": str(changer),
        "drive_timeout_s": 0,
        "state_dir": str(labelled.state_dir),
    }
    options = DriveOptions.of(params, dry_run=True)
    with pytest.raises(VolumeNotAtHand), contextlib.ExitStack() as stack:
        stack.enter_context(use_drive(options, "V1", who="me"))
    plan = prepare(str(labelled.state_dir), "s1", drives=options, wanted=Wanted("V1"))
    assert (plan["drive"], plan["volume"], plan["file_number"]) == (None, "V1", 1)
    assert set(asked.read_text(encoding="utf-8").split()) == {"status"}
    assert not (labelled.state_dir / "drives").exists()
