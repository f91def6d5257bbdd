# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which WAL files a backup needs."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import DatabaseError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.pg_wal import (
    WalRange,
    needed_files,
    parse_lsn,
    wal_name,
    wal_range,
)

MIB = 1 << 20
LABEL = b"START WAL LOCATION: 1/FE000028 (file 0000000300000001000000FE)\nCHECKPOINT LOCATION: 1/FE000060\n"


def test_the_range_is_read_from_label_and_stop() -> None:
    assert wal_range(LABEL, "2/1000100", 16 * MIB) == WalRange(
        3, (1 << 32) + 0xFE000028, (2 << 32) + 0x1000100, 16 * MIB
    )


def test_file_names_go_on_over_the_end_of_an_id() -> None:
    assert wal_range(LABEL, "2/1000100", 16 * MIB).names() == [
        "0000000300000001000000FE",
        "0000000300000001000000FF",
        "000000030000000200000000",
        "000000030000000200000001",
    ]


def test_a_stop_at_the_beginning_of_a_file_needs_only_the_one_before() -> None:
    assert WalRange(1, 16 * MIB + 40, 32 * MIB, 16 * MIB).names() == ["000000010000000000000001"]


def test_no_label() -> None:
    with pytest.raises(DatabaseError, match="does not name a WAL position"):
        wal_range(b"LABEL: START WAL LOCATION: 1/2 (file x)\n", "1/2", 16 * MIB)


def test_files_are_paths_and_the_history_of_a_later_timeline_belongs_to_them(tmp_path: Path) -> None:
    wanted = WalRange(3, 40, 16 * MIB + 1, 16 * MIB)
    names = ["000000030000000000000000", "000000030000000000000001", "00000003.history"]
    for name in names:
        (tmp_path / name).touch()
    assert needed_files("here", str(tmp_path), wanted) == [str(tmp_path / name) for name in names]

    (tmp_path / names[0]).unlink()
    with pytest.raises(DatabaseError, match=f"here: the WAL file {tmp_path / names[0]} .* is gone already"):
        needed_files("here", str(tmp_path), wanted)


@given(st.integers(0, 1 << 62), st.integers(1, 1 << 34), st.sampled_from([1, 2, 16, 64, 1024]))
def test_the_files_cover_the_range_and_no_more(start: int, length: int, size_mib: int) -> None:
    size = size_mib * MIB
    length = min(length, 50 * size)
    names = WalRange(1, start, start + length, size).names()
    first = start // size
    assert names[0] == wal_name(1, first, size)
    assert names == sorted(set(names))
    assert (first + len(names)) * size >= start + length
    assert (first + len(names) - 1) * size < start + length


@given(st.integers(0, (1 << 64) - 1))
def test_positions_are_read_as_the_server_writes_them(position: int) -> None:
    assert parse_lsn(f"{position >> 32:X}/{position & 0xFFFFFFFF:X}") == position
