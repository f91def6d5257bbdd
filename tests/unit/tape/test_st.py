# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is encoded for the st driver, and the way to a place by spacing alone."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.tape import mtio as driver
from ansible_collections.splitmirror.backup.plugins.module_utils.tape import st as st_module
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Position, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.st import StTape


def test_the_numbers_of_the_ioctls_are_those_of_the_kernel() -> None:
    """As strace prints them on a 64-bit machine."""
    assert (driver.MTIOCTOP, driver.MTIOCGET, driver.MTIOCPOS) == (0x40086D01, 0x80306D02, 0x80086D03)


@given(operation=st.integers(0, 35), count=st.integers(-(2**31), 2**31 - 1))
def test_an_operation_has_a_short_a_gap_and_an_int(operation: int, count: int) -> None:
    packed = driver.pack_operation(operation, count)
    assert len(packed) == 8
    assert struct.unpack_from("=h", packed, 0) == (operation,)
    assert struct.unpack_from("=i", packed, 4) == (count,)


def test_a_count_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TapeError):
        driver.pack_operation(driver.MTSEEK, 2**31)


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (0x41010000, driver.MtStatus(True, False, False, False, False)),  # BOT ONLINE IM_REP_EN, as mt prints it
        (0x81010000, driver.MtStatus(True, False, False, True, False)),
        (0x09010000, driver.MtStatus(True, False, True, False, False)),
        (0x45010000, driver.MtStatus(True, True, False, False, False)),
        (0x00050000, driver.MtStatus(False, False, False, False, True)),  # DR_OPEN
    ],
)
def test_a_status_is_read_from_its_flags(flags: int, status: driver.MtStatus) -> None:
    data = struct.pack("@lllllii", 0x72, 0, 0x58000000, flags, 0, 3, 17)
    assert len(data) == 48
    assert driver.unpack_status(data) == status


def test_a_block_number_has_64_bits() -> None:
    assert driver.unpack_block(struct.pack("@l", 2**40)) == 2**40


PLACES = st.builds(Position, st.integers(0, 50), st.integers(0, 1000))


@given(start=st.none() | PLACES, target=PLACES)
def test_the_way_by_spacing_leads_to_the_target(start: Position | None, target: Position) -> None:
    place = start
    for operation, count in driver.route(start, target):
        if operation == driver.MTREW:
            place = Position(0, 0)
        elif operation == driver.MTFSF:
            assert place is not None
            place = Position(place.file + count, 0)
        else:
            assert operation == driver.MTFSR
            assert place is not None
            place = Position(place.file, place.record + count)
        assert count > 0
    assert place == target


def test_only_the_ways_back_rewind() -> None:
    assert driver.route(Position(2, 5), Position(2, 9)) == [(driver.MTFSR, 4)]
    assert driver.route(Position(2, 5), Position(4, 0)) == [(driver.MTFSF, 2)]
    assert driver.route(Position(2, 5), Position(2, 5)) == []
    assert driver.route(Position(2, 5), Position(2, 4))[0] == (driver.MTREW, 1)


def test_what_is_no_tape_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (str(tmp_path / "file"), "/dev/null", str(tmp_path / "missing")):
        with pytest.raises(TapeError) as caught:
            StTape(name)
        assert caught.value.option == "drive"


class Cleaned(StTape):
    """A drive whose status is told before; a list of whether it is empty."""

    def __init__(self, empty: list[bool]) -> None:
        self.device = "/dev/nst0"
        self.empty = empty
        self.ejected = 0

    def _open(self, *, protected: bool = False) -> None:
        """There is no device."""

    def close(self) -> None:
        """There is no device."""

    def _eject(self) -> None:
        self.ejected += 1

    def _get(self) -> driver.MtStatus:
        return driver.MtStatus(False, False, False, False, self.empty.pop(0) if len(self.empty) > 1 else self.empty[0])


def test_a_drive_is_clean_when_it_has_had_the_cartridge_and_let_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st_module, "_LOOK_S", 0)
    drive = Cleaned([True, True, False, False, True, False])
    drive._wait_until_cleaned()
    assert drive.empty == [False]
    # A cartridge that is used up may be out again before it was seen.
    monkeypatch.setattr(st_module, "_TAKEN_S", -1)
    drive = Cleaned([True, False])
    drive._wait_until_cleaned()
    assert (drive.empty, drive.ejected) == ([False], 0)


def test_a_drive_that_keeps_the_cartridge_is_told_to_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st_module, "_CLEANED_S", -1)
    drive = Cleaned([False])
    with pytest.raises(TapeError, match="not cleaned"):
        drive._wait_until_cleaned()
    assert drive.ejected == 1
