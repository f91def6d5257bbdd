# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Labels: what is written is read again, and nothing else passes for one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.label import (
    LABEL_RECORD_BYTES,
    MEMBER,
    Label,
    LabelReading,
    check_record_bytes,
    new_label,
    pack_label,
    read_label,
    unpack_label,
    write_label,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape


@pytest.fixture
def drive(tmp_path: Path) -> VirtualTape:
    made = VirtualTape(str(tmp_path), writable=True)
    made.make_volume("V1", 8 << 20)
    made.load("V1")
    return made


@given(
    volume=st.text("ABC09.-_", min_size=1, max_size=32),
    pool=st.text("abc09", min_size=1, max_size=64),
    record_bytes=st.integers(1, 32768).map(lambda blocks: blocks * 512),
)
def test_a_label_comes_back(volume: str, pool: str, record_bytes: int) -> None:
    label = new_label(volume, pool, record_bytes)
    record = pack_label(label)
    assert len(record) == LABEL_RECORD_BYTES
    assert unpack_label(record) == LabelReading(label)


@given(record=st.binary(max_size=2000))
@settings(max_examples=50)
def test_noise_is_foreign(record: bytes) -> None:
    reading = unpack_label(record)
    assert reading.foreign
    assert not reading.blank


@given(place=st.integers(0, 1500), value=st.integers(0, 255))
def test_a_damaged_label_is_refused_or_read_but_never_breaks_the_reader(place: int, value: int) -> None:
    record = bytearray(pack_label(Label("V1", "default", 1 << 20, "0" * 36, "2026-01-01T00:00:00Z")))
    record[place] = value
    reading = None
    with contextlib.suppress(TapeError):
        reading = unpack_label(bytes(record))
    assert reading is None or not reading.blank


def test_two_labels_of_one_name_are_two_volumes() -> None:
    assert new_label("V1", "p", 512).uuid != new_label("V1", "p", 512).uuid


def test_a_later_format_is_refused() -> None:
    record = pack_label(new_label("V1", "p", 512)).replace(b'"splitmirror_volume": 1', b'"splitmirror_volume": 2')
    with pytest.raises(TapeError, match="later version"):
        unpack_label(record)


def test_blank_weof_and_foreign_volumes(drive: VirtualTape) -> None:
    assert read_label(drive).blank
    drive.rewind()
    drive.write_filemarks(1)
    assert read_label(drive).blank
    drive.write_record(b"behind")
    assert read_label(drive).foreign
    drive.rewind()
    drive.write_record(bytes(2 << 20))
    assert read_label(drive).foreign


def test_plain_tar_reads_a_label_and_it_stands_alone(drive: VirtualTape, tmp_path: Path) -> None:
    label = new_label("V1", "weekly", 1 << 20)
    write_label(drive, label)
    assert drive.tell_block() == 2
    assert read_label(drive).label == label
    drive.close()
    command = ["tar", "-xOf", str(tmp_path / "V1" / "00000.tar"), MEMBER]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (told["volume"], told["pool"], told["record_bytes"]) == ("V1", "weekly", 1 << 20)
    assert "tar" in told["how_to_read"]


@pytest.mark.parametrize("record_bytes", [0, 1000, 32 << 20])
def test_odd_record_sizes_are_refused(drive: VirtualTape, record_bytes: int) -> None:
    with pytest.raises(TapeError) as caught:
        check_record_bytes(drive, record_bytes)
    assert caught.value.option == "record_bytes"


def test_an_odd_pool_is_refused() -> None:
    with pytest.raises(TapeError) as caught:
        new_label("V1", "a/b", 512)
    assert caught.value.option == "pool"
