# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every tape drive has to do. A drive's test is a class that derives from DriveContract and says how to open it.

It needs neither pytest nor anything else that a host of the lab does not have: on_media.py runs it there on the drives
of the library.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    DriveBusy,
    EndOfData,
    Position,
    TapeDrive,
    TapeError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_facts import DriveFacts
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DriveKey
from ansible_collections.splitmirror.backup.tests.support.tapemodel import MARK, Item, Model, play

#: What is tried, and how often of each other.
OPERATIONS = {"write": 4, "read": 2, "filemarks": 2, "pass": 1, "files": 2, "records": 2} | dict.fromkeys(
    ("rewind", "end", "locate", "reopen"), 1
)
_RECORD = b"record" * 100


class DriveContract:
    """The contract of TapeDrive, on one volume that the tests may overwrite."""

    #: The volume.
    volume = "V1"
    #: The drive can encrypt by itself.
    encrypts = False
    #: Rows of operations that are compared with the model, and operations in each.
    rows = 20
    row_length = 30
    #: Whether tell_block knows the position.
    tells = True

    @abstractmethod
    def opened(self, *, writable: bool = True) -> TapeDrive:
        """The drive, open, with nothing loaded."""

    @abstractmethod
    def blank(self) -> list[Item]:
        """Leave the volume as a new one is, and return what is on it."""

    def fitting(self, model: Model, what: str, value: Any) -> Any:
        """The value of an operation, or one near it where this drive is known not to keep the contract."""
        return value

    def check_medium(self, model: Model) -> None:
        """What else is known of the medium, when the drive was closed behind a row of operations."""

    def loaded(self, *, writable: bool = True) -> TapeDrive:
        """The drive with the volume in it."""
        drive = self.opened(writable=writable)
        try:
            drive.load(self.volume)
        except BaseException:
            drive.close()
            raise
        return drive

    # ---- the tests ----

    def test_any_row_of_operations_equals_the_model(self) -> None:
        for seed in range(self.rows):
            self._play_row(seed)

    def test_a_place_is_found_by_its_block_and_by_its_file_and_record(self) -> None:
        model = self._new()
        with self.loaded() as drive:
            for item in (b"r" * 512, b"s" * 512, MARK, MARK, b"t" * 512, b"u" * 512, MARK):
                kind, value = ("filemarks", 1) if item is MARK else ("write", item)
                assert play(drive, model, kind, value) == (None, None)
            for block in range(len(model.items)):
                model.head = block
                drive.locate(model.place(), block if self.tells else None)
                drive.rewind()
                drive.locate(model.place())
                assert drive.position() == model.place()
                assert drive.tell_block() == (block if self.tells else None)

    def test_what_was_written_is_there_when_the_volume_is_loaded_again(self) -> None:
        self._new()
        with self.loaded() as drive:
            drive.write_record(_RECORD)
            drive.write_filemarks(1)
            drive.write_record(_RECORD[:512])
        with self.loaded(writable=False) as drive:
            assert [drive.read_record(4096) for _dummy in range(4)] == [_RECORD, b"", _RECORD[:512], b""]
            refused(EndOfData, lambda: drive.read_record(4096))

    def test_writing_cuts_off_what_is_behind(self) -> None:
        self._new()
        with self.loaded() as drive:
            for _dummy in range(3):
                drive.write_record(_RECORD)
                drive.write_filemarks(1)
            drive.locate(Position(1, 0))
            drive.write_record(_RECORD[:512])
            drive.write_filemarks(1)
            drive.space_end_of_data()
            assert drive.position() in (Position(2, 0), None)
            drive.locate(Position(1, 0))
            assert drive.read_record(4096) == _RECORD[:512]

    def test_a_drive_that_is_opened_for_reading_is_not_written(self) -> None:
        self._new()
        with self.loaded() as drive:
            drive.write_record(_RECORD)
            drive.write_filemarks(1)
        drive = self.loaded(writable=False)
        refused(TapeError, lambda: drive.write_record(_RECORD[:512]))
        drive.close()
        with self.loaded(writable=False) as drive:
            assert drive.read_record(4096) == _RECORD

    def test_asking_what_the_drive_says_of_itself_moves_nothing(self) -> None:
        self._new()
        with self.loaded() as drive:
            drive.write_record(_RECORD)
            facts = drive.facts()
            assert DriveFacts.of(facts.told()) == facts
            drive.write_record(_RECORD[:512])
            drive.write_filemarks(1)
            drive.rewind()
            assert drive.read_record(4096) == _RECORD
            assert drive.facts() == facts
            assert drive.read_record(4096) == _RECORD[:512]

    def test_a_key_is_refused_by_name_or_used_until_it_is_taken_out(self) -> None:
        self._new()
        key = DriveKey(bytes(range(32)))
        with self.loaded() as drive:
            if not self.encrypts:
                assert "encrypt" in refused(TapeError, drive.prove_encrypts).message
                refused(TapeError, lambda: drive.set_key(key))
                drive.set_key(None)
                drive.write_record(_RECORD)
                return
            drive.prove_encrypts()
            drive.write_record(_RECORD)
            drive.set_key(key)
            drive.write_record(_RECORD[:512])
            drive.prove_key()
            drive.write_filemarks(1)
            drive.rewind()
            # With the key, all of it can be read; it goes when the volume is loaded anew.
            assert [drive.read_record(4096), drive.read_record(4096)] == [_RECORD, _RECORD[:512]]
            drive.load(self.volume)
            assert drive.next_key() is None
            assert drive.read_record(4096) == _RECORD
            assert drive.next_key() == key.fingerprint
            refused(TapeError, lambda: drive.read_record(4096))

    def test_one_drive_serves_one_user(self) -> None:
        with self.opened():
            refused(DriveBusy, self.opened)
        self.opened().close()

    def test_a_volume_that_is_not_there_names_the_option(self) -> None:
        self._new()
        with self.opened() as drive:
            volumes = drive.volumes()
            if volumes is not None:
                assert self.volume in volumes
                assert refused(TapeError, lambda: drive.load("NONE99")).option == "volume"

    # ---- inside ----

    def _new(self) -> Model:
        model = Model()
        model.items = self.blank()
        return model

    def _play_row(self, seed: int) -> None:
        model = self._new()
        drive = self.loaded()
        done: list[Any] = [("seed", seed)]
        for what, wanted in any_row(random.Random(seed), self.row_length):
            wrote = done[-1][0] == "write"
            if what == "reopen":
                # A drive that was closed right behind a record writes a filemark; later it need not.
                if model.items and model.items[-1] is not MARK and not wrote:
                    self._play(drive, model, done, ("end", None))
                    self._play(drive, model, done, ("filemarks", 1))
                drive.close()
                drive = self.loaded()
                model.reopen()
                done.append(("reopen", None))
                continue
            if wrote and what in ("rewind", "locate", "files", "records", "end"):
                # Whether a drive writes a filemark before it moves is its own affair, so nobody counts on it.
                self._play(drive, model, done, ("filemarks", 1))
            self._play(drive, model, done, (what, self.fitting(model, what, wanted)))
        drive.close()
        self.check_medium(model)

    def _play(self, drive: TapeDrive, model: Model, done: list[Any], step: tuple[str, Any]) -> None:
        """Do one operation. :param done: the operations before it, for the message of a failure."""
        what, value = step
        played = play(drive, model, what, bytes([value[0]]) * value[1] if what == "write" else value)
        done.append((what, value))
        assert played.got == played.expected, (done, played.got, played.expected)
        place = drive.position()
        assert place in (None, model.place()), (done, place, model.place())
        if place is not None:
            assert drive.tell_block() == (model.head if self.tells else None), done
        elif played.expected == "error":
            drive.rewind()
            model.head = 0


def any_row(rng: random.Random, length: int) -> list[tuple[str, Any]]:
    """A row of operations. Records have four bytes and more, which all drives take."""
    row: list[tuple[str, Any]] = []
    for what in rng.choices(list(OPERATIONS), weights=list(OPERATIONS.values()), k=length):
        value: Any = {
            "write": (rng.randrange(256), rng.choice([4, 8, 40, 3000])),
            "filemarks": rng.choice([0, 1, 1, 1, 2]),
            "read": rng.choice([8, 3000]),
            "files": rng.randint(-3, 3),
            "records": rng.randint(-4, 4),
            "locate": (rng.randint(0, 4), rng.randint(0, 4)),
        }.get(what)
        row.append((what, value))
    return row


def refused(error: type[SplitMirrorError], call: Callable[[], object]) -> SplitMirrorError:
    """The error that a call ends with."""
    try:
        call()
    except error as exc:
        return exc
    raise AssertionError(f"there was no {error.__name__}")
