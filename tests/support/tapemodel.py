# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tape is: a model that drives are compared with, operation by operation."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Union

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    EndOfData,
    FilemarkHit,
    Position,
    TapeDrive,
    TapeError,
)

MARK = None
Item = Optional[bytes]
Outcome = Union[bytes, str, bool, None]


class Model:
    """A tape as SCSI describes it: a list of records and filemarks (None) and a head between two of them."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.head = 0
        self.wrote = False

    def write(self, record: bytes) -> Outcome:
        self.items[self.head :] = [record]
        self.head += 1
        self.wrote = True
        return None

    def filemarks(self, count: int) -> Outcome:
        if count:
            self.items[self.head :] = [MARK] * count
            self.head += count
        return None

    def read(self, max_bytes: int) -> Outcome:
        if self.head == len(self.items):
            return "end of data"
        item = self.items[self.head]
        self.head += 1
        if item is MARK:
            return b""
        return item if len(item) <= max_bytes else "error"

    def pass_record(self) -> Outcome:
        if self.head == len(self.items):
            return "end of data"
        self.head += 1
        return self.items[self.head - 1] is not MARK

    def files(self, count: int) -> Outcome:
        while count > 0:
            if self.head == len(self.items):
                return "end of data"
            count -= self.items[self.head] is MARK
            self.head += 1
        while count < 0:
            if self.head == 0:
                return "error"
            self.head -= 1
            count += self.items[self.head] is MARK
        return None

    def records(self, count: int) -> Outcome:
        while count > 0:
            if self.head == len(self.items):
                return "end of data"
            self.head += 1
            if self.items[self.head - 1] is MARK:
                return "filemark"
            count -= 1
        while count < 0:
            if self.head == 0:
                return "error"
            self.head -= 1
            if self.items[self.head] is MARK:
                return "filemark"
            count += 1
        return None

    def place(self) -> Position:
        before = self.items[: self.head]
        marks = before.count(MARK)
        last = max((number + 1 for number, item in enumerate(before) if item is MARK), default=0)
        return Position(marks, len(before) - last)

    def reopen(self) -> Outcome:
        if self.items and self.items[-1] is not MARK:
            self.items.append(MARK)
        self.head = 0
        return None


def outcome(call: object, *arguments: object) -> Outcome:
    try:
        return call(*arguments)  # type: ignore[operator, no-any-return]
    except EndOfData:
        return "end of data"
    except FilemarkHit:
        return "filemark"
    except TapeError:
        return "error"


class Played(NamedTuple):
    """What one operation gave on the drive, and what the model says that it gives."""

    got: Outcome
    expected: Outcome


def play(drive: TapeDrive, model: Model, what: str, value: Any) -> Played:
    """Do one operation on a drive and in the model."""
    if what == "write":
        return Played(outcome(drive.write_record, value), model.write(value))
    if what == "filemarks":
        return Played(outcome(drive.write_filemarks, value), model.filemarks(value))
    if what == "read":
        return Played(outcome(drive.read_record, value), model.read(value))
    if what == "pass":
        return Played(outcome(drive.pass_record), model.pass_record())
    if what == "files":
        return Played(outcome(drive.space_files, value), model.files(value))
    if what == "records":
        return Played(outcome(drive.space_records, value), model.records(value))
    if what == "rewind":
        model.head = 0
        return Played(outcome(drive.rewind), None)
    if what == "end":
        model.head = len(model.items)
        return Played(outcome(drive.space_end_of_data), None)
    target = Position(*value)
    model.head = 0
    expected = model.files(target.file)
    expected = expected if expected is not None else model.records(target.record)
    return Played(outcome(drive.locate, target), expected)
