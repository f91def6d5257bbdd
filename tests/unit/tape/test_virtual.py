# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual drive behaves like a list of records and filemarks with a head in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    TapeError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import open_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults, FaultyTape


def make(folder: Path, capacity_bytes: int = 64 << 20, volume: str = "V1") -> None:
    with VirtualTape(str(folder)) as drive:
        drive.make_volume(volume, capacity_bytes)


def loaded(folder: Path, **options: object) -> FaultyTape:
    drive = FaultyTape(str(folder), writable=True, **options)  # type: ignore[arg-type]
    drive.load("V1")
    return drive


def test_the_warning_comes_before_the_end_and_nothing_is_lost(tmp_path: Path) -> None:
    make(tmp_path, 2 << 20)  # warns 128 KiB before the end
    record = bytes(64 << 10)
    written = 0
    warned_at = 0
    with loaded(tmp_path) as drive:
        while True:
            try:
                drive.write_record(record)
                written += 1
            except EarlyWarning:
                warned_at = warned_at or written
            except EndOfMedium:
                break
        drive.write_filemarks(1)
        assert (warned_at, written) == (30, 32)
        drive.rewind()
        assert [len(drive.read_record(1 << 20)) for _dummy in range(33)] == [64 << 10] * 32 + [0]


def test_a_killed_writer_leaves_what_filemarks_made_safe(tmp_path: Path) -> None:
    make(tmp_path)
    script = (
        "import os, sys\n"
        "from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape\n"
        "drive = VirtualTape(sys.argv[1], writable=True)\n"
        "drive.load('V1')\n"
        "drive.write_record(b'safe'); drive.write_filemarks(1); drive.write_record(b'lost' * 99)\n"
        "os._exit(9)\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    assert done.returncode == 9
    with loaded(tmp_path) as drive:
        assert drive.read_record(99) == b"safe"
        assert drive.read_record(99) == b""
        with pytest.raises(EndOfData):
            drive.read_record(99)
        drive.write_record(b"next")
    assert (tmp_path / "V1" / "00001.tar").read_bytes() == b"next"


def test_a_writer_killed_while_it_overwrites_leaves_a_readable_volume(tmp_path: Path) -> None:
    make(tmp_path)
    with loaded(tmp_path) as drive:
        for fill in (b"1", b"2", b"3"):
            drive.write_record(fill * 9)
            drive.write_filemarks(1)
    child = os.fork()
    if not child:
        try:
            drive = loaded(tmp_path)
            drive.space_files(1)
            drive.write_record(b"x")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with loaded(tmp_path) as drive:
        assert (drive.read_record(99), drive.read_record(99)) == (b"1" * 9, b"")
        with pytest.raises(EndOfData):
            drive.read_record(99)


def test_a_protected_volume_and_a_drive_opened_for_reading_are_not_written(tmp_path: Path) -> None:
    make(tmp_path)
    with VirtualTape(str(tmp_path)) as drive:
        drive.load("V1")
        with pytest.raises(TapeError, match="write-protected"):
            drive.write_record(b"x")
        with pytest.raises(TapeError, match="write-protected"):
            drive.write_filemarks(1)
    path = tmp_path / "V1" / "volume.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "write_protected": True}))
    with loaded(tmp_path) as drive:
        assert drive.status().write_protected
        with pytest.raises(TapeError, match="write-protected"):
            drive.write_record(b"x")


@pytest.mark.parametrize(
    ("volume", "option"), [("nowhere", "volume"), ("../V1", "volume"), ("", "volume"), ("other", "volume")]
)
def test_what_is_no_volume_is_not_loaded(tmp_path: Path, volume: str, option: str) -> None:
    make(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "volume.json").write_text("{}")
    with VirtualTape(str(tmp_path)) as drive, pytest.raises(TapeError) as caught:
        drive.load(volume)
    assert caught.value.option == option


def test_a_volume_is_made_once(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(TapeError, match="cannot be made"):
        make(tmp_path)
    for capacity_bytes in (4096, 1 << 63):
        with pytest.raises(TapeError) as caught:
            make(tmp_path, capacity_bytes, "V2")
        assert caught.value.option == "capacity"
    make(tmp_path, (1 << 63) - 1, "V2")
    with VirtualTape(str(tmp_path)) as drive:
        drive.load("V2")


OPEN = {"records": [[512, 1]], "filemark": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"format_version": True},
        {"capacity_bytes": -1},
        {"early_warning_bytes": "1"},
        {"write_protected": 0},
        {"files": [OPEN, OPEN]},
        {"files": [{**OPEN, "filemark": 1}]},
        {"files": [{**OPEN, "records": [[512, 1 << 62]]}]},
        {"files": [{**OPEN, "records": [[1, 1 << 38], [2, 1]]}]},
        {"files": [{**OPEN, "records": [[(16 << 20) + 1, 1]]}]},
        {"files": [{**OPEN, "records": [[512, 0]]}]},
        {"files": [{**OPEN, "records": [[512]]}]},
    ],
)
def test_a_volume_that_says_nonsense_of_itself_is_not_loaded(tmp_path: Path, wrong: dict[str, Any]) -> None:
    make(tmp_path)
    path = tmp_path / "V1" / "volume.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "files": [OPEN]}))
    with VirtualTape(str(tmp_path)) as drive:
        drive.load("V1")
    path.write_text(json.dumps({**told, **wrong}))
    with VirtualTape(str(tmp_path)) as drive, pytest.raises(TapeError) as caught:
        drive.load("V1")
    assert caught.value.option == "volume"


def test_unknown_types_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError) as caught:
        open_drive("punchcard", str(tmp_path))
    assert caught.value.option == "drive_type"
    with pytest.raises(TapeError) as caught:
        open_drive("virtual", str(tmp_path / "missing"))
    assert caught.value.option == "drive"


def test_faults_happen_where_they_are_put(tmp_path: Path) -> None:
    make(tmp_path)
    with loaded(tmp_path, faults=Faults(write_error_at=1)) as drive:
        drive.write_record(b"a")
        with pytest.raises(TapeError, match="cannot be written"):
            drive.write_record(b"b")
    with loaded(tmp_path, faults=Faults(lost_filemark=0)) as drive:
        drive.write_record(b"a")
        drive.write_filemarks(1)
        assert drive.tell_block() == 1
    with loaded(tmp_path, faults=Faults(torn_last_record=True)) as drive:
        drive.write_record(b"abcd")
        drive.write_record(b"efgh")
        drive.write_filemarks(1)
        drive.rewind()
        assert drive.read_record(9) == b"abcd"
        with pytest.raises(TapeError, match="damaged"):
            drive.read_record(9)
