# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drive is told to encrypt, and how its answers are read, byte for byte; and what is left in it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.data_encryption import (
    ALL_NEXUS,
    CAPABILITIES_PAGE,
    LOCAL,
    MANAGEMENT_PAGE,
    MARK,
    NEXT_BLOCK_PAGE,
    STATUS_PAGE,
    Algorithm,
    Capabilities,
    DriveEncryption,
    NextBlock,
    Status,
    parse_capabilities,
    parse_management,
    parse_next_block,
    parse_status,
    security_in,
    security_out,
    set_page,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import (
    DriveKey,
    DriveKeyError,
    clearing_on_signals,
    drive_keys_of,
    writing_key_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.mtio import MtStatus
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.scsi import CommandRefused, parse_sense
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.st import StTape
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.keydrive import Target

SECRET = bytes(range(0x40, 0x60))
KEY = DriveKey(SECRET)
OTHER = DriveKey(bytes(32))
#: printf %s 404142…5f | sha256sum | cut -c1-16
FINGERPRINT = "cca0e26b70b7ed5a"
MARKED = b"splitmirror " + FINGERPRINT.encode()

# SSC-3, as a real LTO drive answers; the second algorithm is AES-256-GCM and must be given data of 32 bytes.
CAPABILITIES = bytes.fromhex(
    "0010 0040 09 000000000000000000000000000000"
    "01 00 0014 8a 8c 0020 003c 0020 ed 00 0000 0000 0000 00010010"
    "00 00 0014 8a 8e 0020 003c 0020 2d 00 0000 0000 0000 00010014"
)
MANAGEMENT = bytes.fromhex("0012 000c 01 07 00 07 0000000000000000")
STATUS = bytes.fromhex("0020 0034 21 02 03 01 0000002a 18 00 0000 0000000000000000 00 01 001c") + MARKED
NEXT_BLOCK = bytes.fromhex("0021 002c 0000000000000001 06 01 00 00 00 02 001c") + MARKED


def drive(target: Target) -> DriveEncryption:
    return DriveEncryption("/dev/nst0", target.ask, target.tell)


def refused(call: Callable[[], object], error: type[SplitMirrorError] = TapeError) -> SplitMirrorError:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.message.endswith(".")
    return caught.value


def test_the_commands_are_those_of_the_standard() -> None:
    assert security_in(CAPABILITIES_PAGE) == bytes.fromhex("a2 20 0010 00 00 00002000 00 00")
    assert security_in(MANAGEMENT_PAGE) == bytes.fromhex("a2 20 0012 00 00 00002000 00 00")
    assert security_in(STATUS_PAGE) == bytes.fromhex("a2 20 0020 00 00 00002000 00 00")
    assert security_in(NEXT_BLOCK_PAGE) == bytes.fromhex("a2 20 0021 00 00 00002000 00 00")
    assert security_out(0x0010, 0x54) == bytes.fromhex("b5 20 0010 00 00 00000054 00 00")


def test_the_page_that_sets_a_key_is_that_of_the_standard() -> None:
    page = set_page(1, LOCAL, SECRET, encrypt=True, on_demount=True, associated=MARKED)
    assert page == bytes.fromhex("0010 0050 20 44 02 03 01 00 00 00000000000000 0020") + SECRET + bytes.fromhex(
        "00 00 001c"
    ) + (MARKED)
    page = set_page(0, ALL_NEXUS, SECRET, encrypt=False, on_demount=False)
    assert page == bytes.fromhex("0010 0030 40 40 00 03 00 00 00 00000000000000 0020") + SECRET
    # As stenc has it in its tests, but for the scope.
    page = set_page(1, ALL_NEXUS, None, encrypt=False, on_demount=False)
    assert page == bytes.fromhex("0010 0010 40 40 00 00 01 00 00 00000000000000 0000")


def test_the_answers_are_understood() -> None:
    assert parse_capabilities(CAPABILITIES) == Capabilities(Algorithm(0, True, 32, True, False), False)
    assert parse_management(MANAGEMENT) == (True, True)
    assert parse_management(bytes.fromhex("0012 000c 00 00 00 05 0000000000000000")) == (False, False)
    assert parse_status(STATUS) == Status(1, True, True, 1, 42, False, FINGERPRINT)
    assert parse_next_block(NEXT_BLOCK) == NextBlock(True, FINGERPRINT)
    for status, encrypted in {0: None, 1: None, 2: None, 3: False, 4: True, 5: True, 6: True}.items():
        answer = bytes.fromhex("0021 000c 0000000000000001") + bytes((status, 1, 0, 0))
        assert parse_next_block(answer) == NextBlock(encrypted, "")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (4 + 16 + 24 + 23, 0x10),  # another code
        (4 + 16 + 24 + 4, 0x88),  # cannot write
        (4 + 16 + 24 + 4, 0x82),  # cannot read
        (4 + 16 + 24 + 4, 0x8F),  # not by itself
        (4 + 16 + 24 + 11, 0x10),  # keys of another length
    ],
)
def test_an_algorithm_that_will_not_do_is_not_taken(place: int, value: int) -> None:
    answer = bytearray(CAPABILITIES)
    answer[place] = value
    assert parse_capabilities(bytes(answer)).algorithm is None


@pytest.mark.parametrize(
    ("parse", "answer"),
    [
        (parse_capabilities, CAPABILITIES),
        (parse_management, MANAGEMENT),
        (parse_status, STATUS),
        (parse_next_block, NEXT_BLOCK),
    ],
)
def test_an_answer_that_is_cut_or_damaged_is_refused_or_understood(
    parse: Callable[[bytes], Any], answer: bytes
) -> None:
    chance = random.Random(1)
    for length in range(len(answer)):
        with contextlib.suppress(ValueError):
            parse(answer[:length])
    for _dummy in range(300):
        damaged = bytearray(answer)
        for _flip in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(ValueError):
            parse(bytes(damaged))
    with pytest.raises(ValueError, match="another page"):
        parse(b"\1" + answer[1:])


def test_sense_data_of_both_formats_are_read() -> None:
    assert parse_sense(bytes.fromhex("70 00 05 00000000 0a 00000000 20 00 00 000000")) == (5, 0x20, 0)
    assert parse_sense(bytes.fromhex("72 05 24 00 00000000")) == (5, 0x24, 0)
    assert parse_sense(bytes.fromhex("f0 00 06")) == (6, 0, 0)
    assert parse_sense(b"") is None
    assert parse_sense(b"\x72\x05") is None
    assert "05/20/00" in str(CommandRefused(2, (5, 0x20, 0)))


def test_a_key_is_set_for_this_host_until_the_volume_leaves_and_is_taken_out(tmp_path: Path) -> None:
    target = Target(tmp_path / "state", index=0, fixed_length=True)
    one = drive(target)
    one.set(KEY, encrypt=True)
    sent = [data for command, data in target.sent if data]
    assert sent == [set_page(0, LOCAL, SECRET, encrypt=True, on_demount=True, associated=MARKED.ljust(32, b"\0"))]
    assert target.state["key"] == SECRET.hex()
    one.prove_in_force()
    one.set(KEY, encrypt=True)
    assert [data for command, data in target.sent if data] == sent
    one.clear()
    assert (target.state["encrypt"], target.state["decrypt"], target.state["key"]) == (0, 0, "")
    before = len(target.sent)
    one.clear()
    assert len(target.sent) == before


def test_a_drive_without_the_page_of_what_it_may_gets_the_key_for_all_hosts(tmp_path: Path) -> None:
    target = Target(tmp_path / "state", management=False, most_associated=27)
    drive(target).set(KEY, encrypt=True)
    sent = [data for command, data in target.sent if data]
    assert sent == [set_page(1, ALL_NEXUS, SECRET, encrypt=True, on_demount=False)]


@pytest.mark.parametrize(("reading", "told"), [(0, b""), (1, MARKED), (2, b""), (3, MARKED)])
def test_a_key_for_reading_says_which_it_is_where_the_drive_takes_that(
    tmp_path: Path, reading: int, told: bytes
) -> None:
    target = Target(tmp_path / "state", reading=reading)
    drive(target).set(KEY, encrypt=False)
    sent = [data for command, data in target.sent if data]
    assert sent == [set_page(1, LOCAL, SECRET, encrypt=False, on_demount=True, associated=told)]


def test_another_key_takes_the_place_of_the_first(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")
    one = drive(target)
    one.set(KEY, encrypt=True)
    one.set(OTHER, encrypt=True)
    assert target.state["key"] == bytes(32).hex()
    one.clear()
    assert target.state["key"] == ""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"encrypts": False}, "does not encrypt (the command was refused with status 2 and sense 05/20/00)"),
        ({"code": 0x00010010}, "AES-256-GCM"),
        ({"prevented": True}, "application-managed"),
        ({"for_volume": False}, "LTO-4"),
        ({"deaf": True}, "does not use it"),
    ],
)
def test_a_drive_that_cannot_is_refused_by_name(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    target = Target(tmp_path / "state", **how)
    said = refused(lambda: drive(target).set(KEY, encrypt=True))
    assert words in said.message
    assert "/dev/nst0" in said.message
    if not target.deaf:
        assert refused(lambda: drive(target).prove()).code == "option_invalid"
        assert not [data for command, data in target.sent if data]
    assert SECRET.hex() not in str(said)


def test_a_unit_attention_is_no_refusal(tmp_path: Path) -> None:
    target = Target(tmp_path / "state", attention=3)
    one = drive(target)
    one.set(KEY, encrypt=True)
    target.attention = 3
    one.clear()
    assert target.state["key"] == ""
    target.attention = 4
    refused(lambda: one.set(KEY, encrypt=True))


def test_what_a_killed_task_left_is_taken_out_before_the_next_use(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")
    for encrypt in (True, False):
        drive(target).set(KEY, encrypt=encrypt)
        drive(target).clear_left(writes=True)
        assert target.state["key"] == ""
    target.management = False
    drive(target).set(KEY, encrypt=True)
    drive(target).clear_left(writes=False)
    assert (target.state["key"], target.state["scope"]) == ("", ALL_NEXUS)
    # A drive that does not let go of it must not be used.
    drive(target).set(KEY, encrypt=True)
    target.deaf = True
    assert "switch it off" in refused(lambda: drive(target).clear_left(writes=False)).message


def test_a_key_of_another_program_stays_and_nothing_is_written_with_it(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")
    target.tell(security_out(0x10, 52), set_page(1, ALL_NEXUS, bytes(32), encrypt=True, on_demount=False))
    drive(target).clear_left(writes=False)
    assert "another program" in refused(lambda: drive(target).clear_left(writes=True)).message
    assert target.state["key"] == bytes(32).hex()
    # A task with a key of its own takes over, so that labels are in the clear.
    kept = target.state
    drive(target).clear_left(writes=True, has_key=True)
    assert target.state["key"] == ""
    target.set(**kept)
    # The library's business is not ours.
    target.elsewhere = 3
    drive(target).clear_left(writes=True)
    assert target.state["key"] == bytes(32).hex()


def test_a_drive_that_lost_the_key_is_found_out(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")
    one = drive(target)
    one.set(KEY, encrypt=True)
    one.prove_in_force()
    target.set(instance=9)
    assert "in the clear" in refused(one.prove_in_force).message
    one.clear()
    one.prove_in_force()


def test_a_drive_that_does_not_encrypt_bothers_nobody_without_a_key(tmp_path: Path) -> None:
    target = Target(tmp_path / "state", encrypts=False)
    one = drive(target)
    one.clear_left(writes=True)
    one.clear()
    one.prove_in_force()
    assert one.next_block() == NextBlock(None, "")


class Deviceless(StTape):
    """A drive of the st driver without a device, whose commands a target answers."""

    def __init__(self, target: Target) -> None:
        self.device = "/dev/nst0"
        self._bay = None
        self._fd = 3
        self._writable = True
        self._encryption = drive(target)

    def _close(self) -> None:
        self._fd = -1

    def _operate(self, what: str, operation: int, count: int = 1, *, ends: bool = False) -> None:
        """There is no device."""


def test_a_record_that_cannot_be_read_for_lack_of_a_key_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path / "state")
    one = Deviceless(target)
    monkeypatch.setattr(one, "_get", lambda: MtStatus(True, False, False, False, False))
    read_end, write_end = os.pipe()
    # A read of the writing end fails, as one of the drive does.
    monkeypatch.setattr(one, "_fd", write_end)
    assert FINGERPRINT not in refused(lambda: one.read_record(512)).message
    kad = bytes.fromhex("0000001c") + MARKED
    monkeypatch.setattr(target, "next_kad", lambda: kad)
    said = refused(lambda: one.read_record(512))
    assert (FINGERPRINT in said.message, said.code) == (True, "key_missing")
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("how", ["close", "unload", "fetch"])
def test_the_drive_has_no_key_any_more_when_its_use_is_over(tmp_path: Path, how: str) -> None:
    target = Target(tmp_path / "state")
    one = Deviceless(target)
    one.set_key(KEY)
    assert target.state["encrypt"] == 2
    uses: dict[str, Callable[[], None]] = {
        "close": one.close,
        "unload": one.unload,
        "fetch": lambda: one.fetch("V1"),
    }
    uses[how]()
    assert target.state["key"] == ""


def test_a_failure_is_not_hidden_by_a_key_that_stays(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")

    def fail() -> None:
        with Deviceless(target) as one:
            one.set_key(KEY)
            target.deaf = True
            raise TapeError("drive: /dev/nst0 cannot write a record.", option="drive")

    said = refused(fail).message
    assert said.startswith("drive: /dev/nst0 cannot write a record. drive: /dev/nst0 still has the key")
    target.deaf = False
    one = Deviceless(target)
    one.set_key(KEY)
    target.deaf = True
    assert "still has the key" in refused(one.close).message
    assert one._fd == -1


def test_a_process_that_is_told_to_end_cleans_up_first(tmp_path: Path) -> None:
    target = Target(tmp_path / "state")

    def work(number: int) -> None:
        with clearing_on_signals(True), Deviceless(target) as one:
            one.set_key(KEY)
            os.kill(os.getpid(), number)
            signal.pause()

    for number in (signal.SIGTERM, signal.SIGHUP):
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as left:
            work(number)
        assert left.value.code == 128 + number
        assert target.state["key"] == ""
        assert signal.getsignal(number) == before
        with clearing_on_signals(False):
            assert signal.getsignal(number) == before


def test_a_virtual_drive_refuses_by_name(tmp_path: Path) -> None:
    with VirtualTape(str(tmp_path)) as one:
        said = refused(lambda: one.set_key(KEY))
        assert "virtual" in said.message
        one.set_key(None)
        assert one.next_key() is None


# -- keys ----------------------------------------------------------------------------------------------------------


def options(**given: Any) -> dict[str, Any]:
    return {"drive_key_file": None, "drive_key": None, "recipients": [], **given}


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "drive.key"
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_key_is_read_from_a_file_or_a_text_and_named_by_its_fingerprint(tmp_path: Path) -> None:
    assert KEY.fingerprint == FINGERPRINT
    assert MARK + FINGERPRINT.encode() == MARKED
    assert SECRET.hex() not in repr(KEY)
    text = f"# of 2026\n\n  {SECRET.hex().upper()}\n"
    assert writing_key_of(options(drive_key=text)) == KEY
    assert writing_key_of(options(drive_key_file=key_file(tmp_path, text))) == KEY
    assert writing_key_of(options()) is None
    assert drive_keys_of(options()) == ([], "drive_key")
    two = f"{SECRET.hex()}\n{bytes(32).hex()}\n{SECRET.hex()}\n"
    assert drive_keys_of(options(drive_key=two)) == ([KEY, OTHER], "drive_key")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"drive_key": "x" * 64}, "line 1"),
        ({"drive_key": f"{SECRET.hex()}\n{SECRET.hex()[:-2]}"}, "line 2"),
        ({"drive_key": "# nothing"}, "no key in it"),
        ({"drive_key": SECRET.hex(), "drive_key_file": "/x"}, "one of them"),
        ({"drive_key": SECRET.hex(), "recipients": ["age1x"]}, "either"),
        ({"drive_key": f"{SECRET.hex()}\n{bytes(32).hex()}"}, "2 keys"),
        ({"drive_key_file": "/nowhere/at/all"}, "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_without_the_key(given: dict[str, Any], words: str) -> None:
    said = refused(lambda: writing_key_of(options(**given)), DriveKeyError)
    assert words in said.message
    assert said.option in ("drive_key", "drive_key_file")
    assert SECRET.hex()[:20] not in said.message
    assert "xxxx" not in said.message


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o640, 0o604, 0o660):
        path = key_file(tmp_path, SECRET.hex(), mode)
        assert "0600" in refused(lambda path=path: drive_keys_of(options(drive_key_file=path)), DriveKeyError).message  # type: ignore[misc]
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert (
        "0600" in refused(lambda: drive_keys_of(options(drive_key_file=str(tmp_path / "fifo"))), DriveKeyError).message
    )
