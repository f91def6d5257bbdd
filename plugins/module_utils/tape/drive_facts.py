# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drive says of its own health and of the volume in it.

Facts are from SPC-4 (LOG SENSE, READ ATTRIBUTE, the error counter pages, the medium auxiliary memory), SSC-3 (the
TapeAlert page) and SSC-4 (the Volume Statistics page). Page 31h, Tape Capacity, belongs to the vendors; HP and IBM
have the same one. A drive may know none of it, a part of it, or answer with nonsense: what cannot be read is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Callable, NamedTuple, Optional

from ..host.strict_json import MOST, whole

_LOG_SENSE = 0x4D
_CUMULATIVE = 1 << 6
_READ_ATTRIBUTE = 0x8C
_ANSWER_BYTES = 0x1000

WRITE_ERRORS_PAGE = 0x02
READ_ERRORS_PAGE = 0x03
VOLUME_STATISTICS_PAGE = 0x17
TAPE_ALERT_PAGE = 0x2E
TAPE_CAPACITY_PAGE = 0x31
_CORRECTED = 0x0003
_UNCORRECTED = 0x0006
_REMAINING = 0x0000
_CAPACITY = 0x0001
_LOADS = 0x0003
# Of the Volume Statistics page: whether it is valid, how often the volume was loaded, and per partition its native
# capacity and what is left of it before the early warning.
_PAGE_VALID = 0x0000
_MOUNTS = 0x0001
_PARTITION_CAPACITY = 0x0202
_PARTITION_REMAINING = 0x0204
# Of the Tape Capacity page, for the first partition.
_MAIN_REMAINING = 0x0001
_MAIN_CAPACITY = 0x0003
_MIB = 1 << 20
_MB = 1_000_000
_MOST_ALERTS = 64
_UNKNOWN_BYTES = 4

#: Sends a command that only reads: the command, and how long the answer may be. Raises OSError when it is refused.
Command = Callable[[bytes, int], bytes]


@dataclass(frozen=True)
class DriveFacts:
    """What was told; None for what was not.

    :param serial: serial number of the drive.
    :param alerts: numbers of the TapeAlert flags that are on, in order. Asking for them switches them off.
    :param write_corrected: errors that were corrected while writing (soft errors), since the drive began to count,
        which is the loading of the volume on LTO; :param read_corrected: while reading.
    :param write_uncorrected: errors that could not be corrected; :param read_uncorrected: while reading.
    :param loads: how often the volume was loaded in its life.
    :param capacity_bytes: native capacity of the volume; :param remaining_bytes: what is left of it.
    """

    serial: Optional[str] = None
    alerts: Optional[tuple[int, ...]] = None
    write_corrected: Optional[int] = None
    write_uncorrected: Optional[int] = None
    read_corrected: Optional[int] = None
    read_uncorrected: Optional[int] = None
    loads: Optional[int] = None
    capacity_bytes: Optional[int] = None
    remaining_bytes: Optional[int] = None

    def told(self) -> dict[str, Any]:
        """What was told, as JSON takes it."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value is not None
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> DriveFacts:
        """The inverse of told. :raises ValueError: something in it is not such a fact."""
        numbers = [item.name for item in fields(cls) if item.name not in ("serial", "alerts")]
        unknown = set(told).difference(numbers, ("serial", "alerts"))
        if unknown:
            raise ValueError(f"{min(unknown)} is unknown")
        serial, alerts = told.get("serial"), told.get("alerts")
        if serial is not None and not isinstance(serial, str):
            raise ValueError("serial is not a text")
        if alerts is not None and not isinstance(alerts, list):
            raise ValueError("alerts is not a list")
        return cls(
            serial,
            None if alerts is None else tuple(whole(alert, 1, _MOST_ALERTS) for alert in alerts),
            **{name: whole(told[name]) for name in numbers if told.get(name) is not None},
        )


def ask(command: Command, serial: Optional[str] = None) -> DriveFacts:
    """Ask a drive with a volume in it for all it tells.

    :param command: sends commands to it. :param serial: its serial number, where it is known.
    """

    def page(code: int) -> dict[int, bytes]:
        return _answered(command, log_sense(code), lambda answer: parse_log_page(answer, code))

    alerts, written, read = page(TAPE_ALERT_PAGE), page(WRITE_ERRORS_PAGE), page(READ_ERRORS_PAGE)
    medium = _ask_medium(command)
    return DriveFacts(
        serial,
        tuple(alerts_on(alerts)) if alerts else None,
        _number(written, _CORRECTED),
        _number(written, _UNCORRECTED),
        _number(read, _CORRECTED),
        _number(read, _UNCORRECTED),
        medium.loads,
        medium.capacity_bytes,
        medium.remaining_bytes,
    )


def ask_room(command: Command) -> tuple[Optional[int], Optional[int]]:
    """Ask for the native capacity of the volume in bytes, and what is left behind its last record; None if not told."""
    medium = _ask_medium(command)
    return medium.capacity_bytes, medium.remaining_bytes


class _Medium(NamedTuple):
    """What is told of the volume, as DriveFacts has it."""

    loads: Optional[int]
    capacity_bytes: Optional[int]
    remaining_bytes: Optional[int]

    def or_else(self, other: _Medium) -> _Medium:
        """What the other says fills the gaps."""
        return _Medium(*(mine if mine is not None else its for mine, its in zip(self, other)))


def _ask_medium(command: Command) -> _Medium:
    """Ask in turn for all that knows the volume, until its room is known."""
    told = _Medium(None, None, None)
    for ask_one in (_ask_attributes, _ask_statistics, _ask_capacity):
        told = told.or_else(ask_one(command))
        if told.capacity_bytes is not None and told.remaining_bytes is not None:
            break
    return told


def _ask_attributes(command: Command) -> _Medium:
    found = _answered(command, read_attributes(_REMAINING), parse_attributes)
    return _Medium(_number(found, _LOADS), _number(found, _CAPACITY, _MIB), _number(found, _REMAINING, _MIB))


def _ask_statistics(command: Command) -> _Medium:
    page = VOLUME_STATISTICS_PAGE
    found = _answered(command, log_sense(page), lambda answer: parse_log_page(answer, page))
    valid = found.get(_PAGE_VALID)
    if valid is not None and not valid[-1:] > b"\0":
        return _Medium(None, None, None)
    first = {code: first_partition(found.get(code, b"")) for code in (_PARTITION_CAPACITY, _PARTITION_REMAINING)}
    room = (_number(first, code, _MB) for code in (_PARTITION_CAPACITY, _PARTITION_REMAINING))
    return _Medium(_number(found, _MOUNTS), *room)


def _ask_capacity(command: Command) -> _Medium:
    page = TAPE_CAPACITY_PAGE
    found = _answered(command, log_sense(page), lambda answer: parse_log_page(answer, page))
    return _Medium(None, _number(found, _MAIN_CAPACITY, _MIB), _number(found, _MAIN_REMAINING, _MIB))


def log_sense(page: int) -> bytes:
    """The command for the cumulative values of a log page: ten bytes."""
    return bytes((_LOG_SENSE, 0, _CUMULATIVE | page, 0, 0, 0, 0)) + _ANSWER_BYTES.to_bytes(2, "big") + b"\0"


def read_attributes(first: int) -> bytes:
    """The command for the values of all attributes of the medium from a number on: sixteen bytes."""
    return (
        bytes((_READ_ATTRIBUTE, 0, 0, 0, 0, 0, 0, 0))
        + first.to_bytes(2, "big")
        + _ANSWER_BYTES.to_bytes(4, "big")
        + bytes(2)
    )


def parse_log_page(answer: bytes, page: int) -> dict[int, bytes]:
    """Values of a log page by their parameter codes. One that is cut short, and what is behind it, is left out.

    :raises ValueError: it is another page.
    """
    # Byte 0 has two flags above the code. With the second one, byte 1 is the number of a subpage.
    if len(answer) < 4 or answer[0] & 0x3F != page or (answer[0] & 0x40 and answer[1]):
        raise ValueError("another page was asked for")
    return dict(_items(answer[4 : 4 + int.from_bytes(answer[2:4], "big")], head=4, length_at=3))


def parse_attributes(answer: bytes) -> dict[int, bytes]:
    """Values of the attributes of a medium by their identifiers. One that is cut short is left out, as above.

    :raises ValueError: there is no answer.
    """
    if len(answer) < 4:
        raise ValueError("the answer is too short")
    return dict(_items(answer[4 : 4 + int.from_bytes(answer[:4], "big")], head=5, length_at=3))


def alerts_on(values: Mapping[int, bytes]) -> Iterator[int]:
    """The TapeAlert flags that are on, of the values of their page."""
    for number in range(1, _MOST_ALERTS + 1):
        if values.get(number, b"")[:1] and values[number][0] & 1:
            yield number


def first_partition(value: bytes) -> bytes:
    """The counter of partition 0 in a parameter of the Volume Statistics page that has one for each partition.

    A record is the length of what follows in it, a reserved byte, the number of the partition and the counter.

    :returns: nothing if there is no such record, or it is cut short.
    """
    place = 0
    while place + 4 < len(value) and value[place] > 3:
        end = place + 1 + value[place]
        if not int.from_bytes(value[place + 2 : place + 4], "big"):
            return value[place + 4 : end] if end <= len(value) else b""
        place = end
    return b""


def _items(data: bytes, *, head: int, length_at: int) -> Iterator[tuple[int, bytes]]:
    """Numbers and values that stand behind each other. :param head: bytes before a value; its length ends them."""
    place = 0
    while place + head <= len(data):
        end = place + head + int.from_bytes(data[place + length_at : place + head], "big")
        if end > len(data):
            return
        yield int.from_bytes(data[place : place + 2], "big"), data[place + head : end]
        place = end


def _answered(command: Command, words: bytes, parse: Callable[[bytes], dict[int, bytes]]) -> dict[int, bytes]:
    """What an answer holds; nothing when there is none that makes sense."""
    try:
        return parse(command(words, _ANSWER_BYTES))
    except (OSError, ValueError):
        return {}


def _number(values: Mapping[int, bytes], code: int, unit: int = 1) -> Optional[int]:
    """A number, None when it is not told. Four bytes or more that are all set mean that the drive does not know it."""
    value = values.get(code, b"")
    number = int.from_bytes(value, "big") * unit
    unknown = not value or (len(value) >= _UNKNOWN_BYTES and not value.strip(b"\xff"))
    return None if unknown or number > MOST else number
