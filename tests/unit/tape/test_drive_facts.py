# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drive is asked for and how its answers are read, byte for byte, and what an answer that is nonsense does."""

from __future__ import annotations

import json
import random
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_facts import (
    READ_ERRORS_PAGE,
    TAPE_ALERT_PAGE,
    TAPE_CAPACITY_PAGE,
    VOLUME_STATISTICS_PAGE,
    WRITE_ERRORS_PAGE,
    DriveFacts,
    alerts_on,
    ask,
    ask_room,
    first_partition,
    log_sense,
    parse_attributes,
    parse_log_page,
    read_attributes,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.tape_alert import CLEANING, sentences

# SSC-3: page code 2Eh, page length 320, 64 parameters of one byte. 14h (clean now) and 40h are on.
ALERTS = bytes.fromhex("2e000140") + b"".join(
    number.to_bytes(2, "big") + bytes.fromhex("c001") + bytes((number in (0x14, 0x40),)) for number in range(1, 65)
)
# SPC-4: page code 02h, page length 48; parameters of two, four and eight bytes.
WRITE_ERRORS = bytes.fromhex(
    "02000030"
    "0000 00 02 0005"
    "0001 00 02 0001"
    "0002 00 04 00000007"
    "0003 00 04 0000002a"
    "0005 00 08 0000012345678900"
    "0006 00 04 00000003"
)
READ_ERRORS = bytes.fromhex("030000100003 00 04 000000100006 00 04 00000000")
# SPC-4: 4 bytes of length, then identifier, format (bit 7: read only), length, value. The capacities are in MiB.
ATTRIBUTES = bytes.fromhex(
    "00000045"
    "0000 80 0008 000000000000ea60"
    "0001 80 0008 0000000001194000"
    "0003 80 0008 0000000000000011"
    "0400 81 0008 4d414b4552202020"
    "0401 81 0006 534e31323334"
    "0408 80 0001 00"
)
# SSC-4: page code 17h; the page is valid, 17 mounts, and for each of two partitions a record with its capacity, what
# of it is used and what is left of it, in 10^6 bytes.
STATISTICS = bytes.fromhex(
    "1700004d"
    "0000 03 01 01"
    "0001 03 04 00000011"
    "0202 03 10 07 00 0000 0016e360 07 00 0001 00000c80"
    "0203 03 10 07 00 0000 00000fa0 07 00 0001 00000000"
    "0204 03 10 07 00 0000 0016d3c0 07 00 0001 00000c80"
    "0300 03 00"
)
# Page code 31h: what is left of the first and the second partition, and how large they are, in MiB.
CAPACITY = bytes.fromhex("31000020 0001 40 04 0000ea60 0002 40 04 00000000 0003 40 04 01194000 0004 40 04 00000000")
ANSWERS = {TAPE_ALERT_PAGE: ALERTS, WRITE_ERRORS_PAGE: WRITE_ERRORS, READ_ERRORS_PAGE: READ_ERRORS, None: ATTRIBUTES}
WHOLE = DriveFacts("SN1", (20, 64), 42, 3, 16, 0, 17, 0x1194000 << 20, 60000 << 20)


class Answering:
    """A drive that answers so. An answer of None is a command that it refuses."""

    def __init__(self, answers: dict[Optional[int], Optional[bytes]]) -> None:
        self._answers = answers
        self.commands: list[bytes] = []

    def __call__(self, command: bytes, answer_bytes: int) -> bytes:
        self.commands.append(command)
        answer = self._answers.get(command[2] & 0x3F if command[0] == 0x4D else None)
        if answer is None:
            raise OSError("the command was refused with status 2")
        return answer[:answer_bytes]


def test_the_commands_are_those_of_the_standard() -> None:
    assert log_sense(TAPE_ALERT_PAGE) == bytes.fromhex("4d 00 6e 00 00 00 00 1000 00")
    assert log_sense(WRITE_ERRORS_PAGE) == bytes.fromhex("4d 00 42 00 00 00 00 1000 00")
    assert log_sense(READ_ERRORS_PAGE) == bytes.fromhex("4d 00 43 00 00 00 00 1000 00")
    assert log_sense(VOLUME_STATISTICS_PAGE) == bytes.fromhex("4d 00 57 00 00 00 00 1000 00")
    assert log_sense(TAPE_CAPACITY_PAGE) == bytes.fromhex("4d 00 71 00 00 00 00 1000 00")
    assert read_attributes(0) == bytes.fromhex("8c 00 000000 00 00 00 0000 00001000 00 00")
    assert read_attributes(0x0401)[8:10] == bytes.fromhex("0401")


def test_a_drive_that_tells_everything_is_understood() -> None:
    drive = Answering(dict(ANSWERS))
    assert ask(drive, "SN1") == WHOLE
    assert drive.commands == [log_sense(0x2E), log_sense(2), log_sense(3), read_attributes(0)]
    assert parse_attributes(ATTRIBUTES)[0x0401] == b"SN1234"


def test_the_room_on_a_volume_is_asked_for_alone() -> None:
    drive = Answering(dict(ANSWERS))
    assert ask_room(drive) == (0x1194000 << 20, 60000 << 20)
    assert drive.commands == [read_attributes(0)]
    assert ask_room(Answering({})) == (None, None)


def test_the_room_comes_from_the_log_pages_where_the_attributes_do_not_tell_it() -> None:
    drive = Answering({VOLUME_STATISTICS_PAGE: STATISTICS, TAPE_CAPACITY_PAGE: CAPACITY})
    assert ask_room(drive) == (1_500_000_000_000, 1_496_000_000_000)
    assert drive.commands == [read_attributes(0), log_sense(0x17)]
    assert ask(drive).loads == 17
    drive = Answering({TAPE_CAPACITY_PAGE: CAPACITY})
    assert ask_room(drive) == (0x1194000 << 20, 60000 << 20)
    assert drive.commands == [read_attributes(0), log_sense(0x17), log_sense(0x31)]


def test_each_source_tells_only_what_those_before_it_did_not() -> None:
    capacity_alone = bytes.fromhex("0000000d 0001 80 0008 0000000000000064")
    told: dict[Optional[int], Optional[bytes]] = {
        None: capacity_alone,
        VOLUME_STATISTICS_PAGE: STATISTICS,
        TAPE_CAPACITY_PAGE: CAPACITY,
    }
    assert ask_room(Answering(told)) == (100 << 20, 1_496_000_000_000)
    # A page that says itself that it is not valid, and counters that nobody has counted.
    told[VOLUME_STATISTICS_PAGE] = STATISTICS.replace(bytes.fromhex("0000030101"), bytes.fromhex("0000030100"))
    assert ask_room(Answering(told)) == (100 << 20, 60000 << 20)
    told[VOLUME_STATISTICS_PAGE] = STATISTICS.replace(bytes.fromhex("0016d3c0"), bytes.fromhex("ffffffff"))
    assert ask_room(Answering(told)) == (100 << 20, 60000 << 20)


@pytest.mark.parametrize(
    ("value", "counter"),
    [
        ("07 00 0000 00000001 07 00 0001 00000002", "00000001"),
        ("07 00 0001 00000002 07 00 0000 00000001", "00000001"),
        ("0b 00 0000 0000000100000000", "0000000100000000"),
        ("07 00 0001 00000002", ""),
        ("07 00 0000 000000", ""),
        ("00 00 0000 00000001", ""),
        ("", ""),
    ],
)
def test_of_the_counters_of_all_partitions_the_first_one_is_taken(value: str, counter: str) -> None:
    assert first_partition(bytes.fromhex(value)) == bytes.fromhex(counter)


@pytest.mark.parametrize("missing", list(ANSWERS))
def test_what_a_drive_refuses_is_not_told_and_the_rest_is(missing: Optional[int]) -> None:
    found = ask(Answering({**ANSWERS, missing: None}), "SN1").told()
    gone = {
        TAPE_ALERT_PAGE: {"alerts"},
        WRITE_ERRORS_PAGE: {"write_corrected", "write_uncorrected"},
        READ_ERRORS_PAGE: {"read_corrected", "read_uncorrected"},
        None: {"loads", "capacity_bytes", "remaining_bytes"},
    }[missing]
    assert found == {name: value for name, value in WHOLE.told().items() if name not in gone}


def test_a_drive_that_tells_nothing_has_no_facts() -> None:
    assert ask(Answering({})) == DriveFacts()
    assert DriveFacts().told() == {}


def test_a_drive_without_an_alert_says_so() -> None:
    quiet = ALERTS[:4] + b"".join(ALERTS[place : place + 4] + b"\0" for place in range(4, len(ALERTS), 5))
    assert ask(Answering({TAPE_ALERT_PAGE: quiet})) == DriveFacts(alerts=())


def test_an_answer_of_another_page_is_none() -> None:
    for answer in (b"", b"\x2e", ALERTS[:3], b"\0" + ALERTS[1:], b"\x6e\x01" + ALERTS[2:]):
        with pytest.raises(ValueError, match="another page"):
            parse_log_page(answer, TAPE_ALERT_PAGE)
    # The two flags above the code say how the page is kept, and whether it has a subpage.
    assert list(alerts_on(parse_log_page(b"\xae" + ALERTS[1:], TAPE_ALERT_PAGE))) == [20, 64]
    with pytest.raises(ValueError, match="too short"):
        parse_attributes(b"\0\0\0")


def test_numbers_that_no_counter_can_have_are_not_told() -> None:
    unknown = bytes.fromhex("0000000d 0003 80 0008 ffffffffffffffff")
    empty = bytes.fromhex("02000008 0003 00 00 0006 00 00")
    long = bytes.fromhex("03000104 0003 00 ff") + b"\x01" * 255
    facts = ask(Answering({None: unknown, WRITE_ERRORS_PAGE: empty, READ_ERRORS_PAGE: long}))
    assert facts == DriveFacts()


def test_an_answer_that_is_cut_anywhere_tells_what_is_whole_in_it() -> None:
    for code, answer in {**ANSWERS, VOLUME_STATISTICS_PAGE: STATISTICS, TAPE_CAPACITY_PAGE: CAPACITY}.items():
        whole = ask(Answering({code: answer}), "SN1").told()
        for length in range(len(answer)):
            found = ask(Answering({code: answer[:length]}), "SN1").told()
            assert found.items() <= {**whole, "alerts": found.get("alerts")}.items()
            assert set(found.get("alerts") or ()) <= {20, 64}


def test_an_answer_with_flipped_bits_never_fails_and_can_be_kept() -> None:
    chance = random.Random(1)
    for code, answer in {**ANSWERS, VOLUME_STATISTICS_PAGE: STATISTICS, TAPE_CAPACITY_PAGE: CAPACITY}.items():
        for _dummy in range(300):
            damaged = bytearray(answer)
            for _flip in range(chance.randrange(1, 6)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            told = ask(Answering({code: bytes(damaged)})).told()
            assert DriveFacts.of(json.loads(json.dumps(told))).told() == told


def test_facts_go_there_and_back() -> None:
    assert DriveFacts.of(json.loads(json.dumps(WHOLE.told()))) == WHOLE
    assert DriveFacts.of({}) == DriveFacts()


def test_each_flag_that_needs_somebody_is_a_sentence_that_says_what_to_do() -> None:
    said = sentences(range(1, 65), "/dev/nst0", "WEEK01L9")
    # A write-protected volume, a locked or forced cartridge, what is obsolete, lost statistics, WORM: a task says so.
    quiet = {9, 10, 16, *range(40, 49), 50, *range(60, 65)}
    assert [f"(TapeAlert {alert})." in " ".join(said) for alert in range(1, 65)] == [
        alert not in quiet for alert in range(1, 65)
    ]
    assert all(one.startswith("drive /dev/nst0 with volume WEEK01L9: ") and one.endswith(").") for one in said)
    assert all("; " in one for one in said)
    cleaning = sentences(sorted(CLEANING), "/dev/nst0", "WEEK01L9")
    assert ["clean" in one for one in cleaning] == [True, True]
