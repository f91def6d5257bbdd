# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a library tells is understood, and volumes go where they shall."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.library import (
    Bay,
    BayState,
    Contents,
    Library,
    Slot,
    VolumeElsewhere,
    find_bay,
    parse_status,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.scsi import parse_drive_serials, parse_worm

STATUS = """\
  Storage Changer /dev/sg3:3 Drives, 6 Slots ( 1 Import/Export )
Data Transfer Element 0:Full (Storage Element 1 Loaded):VolumeTag = LAB001L9
Data Transfer Element 1:Empty
Data Transfer Element 2:Full (Unknown Storage Element Loaded):VolumeTag = LAB003L9
      Storage Element 1:Empty:VolumeTag=
      Storage Element 2:Full :VolumeTag=LAB002L9
      Storage Element 3:Full
      Storage Element 4:Empty
      Storage Element 5:Full :VolumeTag=CLN001L1
      Storage Element 6 IMPORT/EXPORT:Full :VolumeTag=LAB009L9
"""


def test_what_mtx_prints_is_understood() -> None:
    contents = parse_status(STATUS)
    assert contents.bays == [
        BayState(0, True, "LAB001L9", 1),
        BayState(1, False),
        BayState(2, True, "LAB003L9", None),
    ]
    assert contents.slots == [
        Slot(1, False),
        Slot(2, True, "LAB002L9"),
        Slot(3, True),
        Slot(4, False),
        Slot(5, True, "CLN001L1"),
        Slot(6, True, "LAB009L9", mail=True),
    ]
    assert contents.volumes() == ["LAB001L9", "LAB002L9", "LAB003L9"]
    with pytest.raises(TapeError) as caught:
        parse_status("Product Type: Tape Drive\n")
    assert caught.value.option == "changer"


#: What a medium may be called: nothing, a barcode, one of 36 characters, blanks, and characters that mean something.
TAGS = ["", "LAB001L9", "LAB001L9".ljust(36), "X" * 36, " " * 36, "A B", "Full:Empty", "(Loaded)", "a=b", "\x7f"]
ALTERNATES = ["", "ALT001", " " * 36]


def printed(bays: list[BayState], slots: list[Slot], tags: list[tuple[str, str]]) -> str:
    """What Status() of mtx.c prints; ``tags`` are the primary and the alternate tag of each bay, then of each slot."""
    mail = sum(slot.mail for slot in slots)
    lines = [f"  Storage Changer /dev/sg3:{len(bays)} Drives, {len(slots)} Slots ( {mail} Import/Export )"]
    for bay, (primary, alternate) in zip(bays, tags):
        line = f"Data Transfer Element {bay.number}:"
        if bay.full:
            line += f"Full ({'Unknown Storage Element' if bay.home is None else f'Storage Element {bay.home}'} Loaded)"
            line += f":VolumeTag = {primary}" if primary else ""
            line += f":AlternateVolumeTag = {alternate}" if alternate else ""
        else:
            line += "Empty"
        lines.append(line)
    for slot, (primary, alternate) in zip(slots, tags[len(bays) :]):
        line = f"      Storage Element {slot.number}{' IMPORT/EXPORT' if slot.mail else ''}:"
        line += "Full " if slot.full else "Empty"
        line += f":VolumeTag={primary}" if primary else ""
        line += f":AlternateVolumeTag={alternate}" if alternate else ""
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_every_form_that_mtx_can_print_is_understood() -> None:
    every = list(itertools.product((True, False), TAGS, ALTERNATES, (True, False)))
    bays, slots, tags = [], [], []
    for number, (full, tag, alternate, known) in enumerate(every):
        barcode = tag.strip() or None
        bays.append(BayState(number, full, barcode if full else None, number + 1 if known and full else None))
        tags.append((tag, alternate))
    for number, (full, tag, alternate, mail) in enumerate(every, 1):
        slots.append(Slot(number, full, (tag.strip() or None) if full else None, mail))
        tags.append((tag, alternate))
    contents = parse_status(printed(bays, slots, tags))
    assert contents.bays == bays
    assert contents.slots == slots


def page(descriptors: list[bytes], tags: int = 0) -> bytes:
    body = b"".join(descriptors)
    head = bytes((4, tags)) + len(descriptors[0]).to_bytes(2, "big") + b"\0" + len(body).to_bytes(3, "big")
    whole = head + body
    return b"\0\1\0" + bytes((len(descriptors),)) + b"\0" + len(whole).to_bytes(3, "big") + whole


def test_serial_numbers_of_drives_are_read_in_all_their_forms() -> None:
    plain = bytes(12) + bytes((2, 0, 0, 12)) + b"SERIAL000001"
    t10 = bytes(12) + bytes((2, 1, 0, 34)) + b"VENDOR  PRODUCT         SERIAL0002"
    other = bytes(12) + bytes((1, 3, 0, 8)) + bytes(8)
    tagged = bytes(12) + b"LAB001L9".ljust(36) + plain[12:]
    assert parse_drive_serials(page([plain])) == ["SERIAL000001"]
    assert parse_drive_serials(page([t10, t10])) == ["SERIAL0002"] * 2
    assert parse_drive_serials(page([other])) == [None]
    assert parse_drive_serials(page([tagged], 0x80)) == ["SERIAL000001"]
    assert parse_drive_serials(page([bytes(16)])) == [None]
    # some libraries count eight bytes too few and send no more
    assert parse_drive_serials(page([t10, t10])[:-8]) == ["SERIAL0002", None]


def test_a_medium_that_can_be_written_once_is_known_by_its_mode_page() -> None:
    def answer(flags: int, descriptors: bytes = b"", page: int = 0x1D) -> bytes:
        body = descriptors + bytes((page, 0x1E, flags)) + bytes(29)
        return bytes((3 + len(body), 0, 0x10, len(descriptors))) + body

    assert [parse_worm(answer(flags)) for flags in (0, 1, 0xFE)] == [False, True, False]
    assert parse_worm(answer(1, bytes(8), 0x9D)) is True
    for other in (answer(1, page=0x10), answer(1)[:6], b"", b"\0\0\0"):
        assert parse_worm(other) is None


class Shelf(Library):
    """A library in memory: the second implementation of the seam."""

    def __init__(self, changer: str = "", serials: Optional[list[Optional[str]]] = None) -> None:
        self.contents = parse_status(STATUS)
        self.told = serials or []
        self.moves: list[tuple[str, int, int]] = []

    def look(self) -> Contents:
        return self.contents

    def serials(self) -> list[Optional[str]]:
        return self.told

    def load(self, slot: int, bay: int) -> None:
        self.moves.append(("load", slot, bay))

    def unload(self, slot: int, bay: int) -> None:
        self.moves.append(("unload", slot, bay))

    def transfer(self, slot: int, other: int) -> None:
        self.moves.append(("transfer", slot, other))

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield


def ejected(shelf: Shelf) -> None:
    shelf.moves.append(("eject", 0, 0))


def test_a_volume_goes_into_the_drive_after_the_other_went_home() -> None:
    shelf = Shelf()
    Bay(shelf, 1).load("LAB002L9", lambda: ejected(shelf))
    assert shelf.moves == [("load", 2, 1)]
    shelf.moves.clear()
    Bay(shelf, 0).load("LAB001L9", lambda: ejected(shelf))
    assert shelf.moves == []
    Bay(shelf, 0).load("LAB002L9", lambda: ejected(shelf))
    assert shelf.moves == [("eject", 0, 0), ("unload", 1, 0), ("load", 2, 0)]
    shelf.moves.clear()
    # Nobody knows where this one came from; the first free slot will do.
    Bay(shelf, 2).unload(lambda: ejected(shelf))
    assert shelf.moves == [("eject", 0, 0), ("unload", 1, 2)]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ("CLN001L1", "cleaning"),
        ("LAB009L9", "import/export slot 6"),
        ("LAB777L9", "not in the library"),
    ],
)
def test_what_cannot_be_loaded_moves_nothing(volume: str, words: str) -> None:
    shelf = Shelf()
    with pytest.raises(TapeError, match=words) as caught:
        Bay(shelf, 0).load(volume, lambda: ejected(shelf))
    assert caught.value.option == "volume"
    assert shelf.moves == []


def test_a_volume_in_another_drive_is_told_when_this_one_is_empty() -> None:
    shelf = Shelf()
    with pytest.raises(VolumeElsewhere) as caught:
        Bay(shelf, 0).load("LAB003L9", lambda: ejected(shelf))
    assert caught.value.element == 2
    assert shelf.moves == [("eject", 0, 0), ("unload", 1, 0)]


def test_a_full_library_a_drive_that_is_cleaned_and_one_that_is_not_there() -> None:
    shelf = Shelf()
    shelf.contents = Contents(shelf.contents.bays, [slot for slot in shelf.contents.slots if slot.full])
    with pytest.raises(TapeError, match="no slot is free"):
        Bay(shelf, 0).unload(lambda: ejected(shelf))
    assert shelf.moves == []
    with pytest.raises(TapeError, match="drive_element"):
        Bay(shelf, 7).load("LAB002L9", lambda: ejected(shelf))
    shelf.contents = Contents([BayState(0, True, "CLN001L1")], shelf.contents.slots)
    with pytest.raises(TapeError, match="being cleaned"):
        Bay(shelf, 0).load("LAB002L9", lambda: ejected(shelf))


def test_which_drive_stands_where_is_never_guessed() -> None:
    with pytest.raises(TapeError) as caught:
        find_bay(Shelf(), "/dev/nst0", None)
    assert caught.value.option == "drive_element"
    assert find_bay(Shelf(), "/dev/nst0", 2).number == 2
    alone = Shelf()
    alone.contents = Contents(alone.contents.bays[:1], alone.contents.slots)
    assert find_bay(alone, "/dev/nst0", None).number == 0


def test_a_drive_is_cleaned_by_a_cartridge_that_comes_and_goes_back() -> None:
    shelf = Shelf()
    used = Bay(shelf, 0).clean(lambda: ejected(shelf), lambda: shelf.moves.append(("wait", 0, 0)))
    assert used == "CLN001L1"
    assert shelf.moves == [("eject", 0, 0), ("unload", 1, 0), ("load", 5, 0), ("wait", 0, 0), ("unload", 5, 0)]
    shelf.moves.clear()
    Bay(shelf, 1).clean(lambda: ejected(shelf), lambda: None)
    assert shelf.moves == [("load", 5, 1), ("unload", 5, 1)]


def test_the_picker_is_free_while_a_drive_is_cleaned() -> None:
    held: list[bool] = []

    class Watched(Shelf):
        @contextmanager
        def alone(self) -> Iterator[None]:
            held.append(True)
            yield
            held.pop()

    Bay(Watched(), 1).clean(lambda: None, lambda: held.append(bool(held)))
    assert held == [False]


def test_a_cartridge_goes_back_from_a_drive_that_was_not_cleaned() -> None:
    shelf = Shelf()

    def wait() -> None:
        raise TapeError("drive: it was not cleaned.", option="drive")

    with pytest.raises(TapeError, match="not cleaned"):
        Bay(shelf, 1).clean(lambda: ejected(shelf), wait)
    assert shelf.moves == [("load", 5, 1), ("unload", 5, 1)]


def test_without_a_cartridge_that_cleans_nothing_moves() -> None:
    shelf = Shelf()
    with pytest.raises(TapeError, match=r"CLN001L1\) are used up"):
        Bay(shelf, 0).clean(lambda: ejected(shelf), lambda: None, {"CLN001L1"})
    mailed = [
        slot if slot.barcode != "CLN001L1" else Slot(5, True, "CLN001L1", mail=True) for slot in shelf.contents.slots
    ]
    shelf.contents = Contents(shelf.contents.bays, mailed)
    with pytest.raises(TapeError, match="it has none"):
        Bay(shelf, 0).clean(lambda: ejected(shelf), lambda: None)
    shelf.contents = Contents([BayState(0, True, "CLN001L1")], shelf.contents.slots)
    with pytest.raises(TapeError, match="being cleaned"):
        Bay(shelf, 0).clean(lambda: ejected(shelf), lambda: None)
    assert shelf.moves == []
