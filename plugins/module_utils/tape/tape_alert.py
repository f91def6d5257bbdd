# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The TapeAlert flags (SSC-3): what each of them means, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

#: Flags by which a drive asks to be cleaned: at once, and when its task is done.
CLEANING = frozenset((20, 21))

_COPY = "copy the sessions on it to another volume, and write no more to it"
_OTHER_VOLUME = "try another volume, and if that happens with it too, have the drive serviced"
_SERVICE = "have the drive serviced"
_WRITABLE = "use a volume that the drive can write"
#: Flags that are not here need nobody: the drive or a task said so already, or they are obsolete.
_ADVICE: dict[int, tuple[str, str]] = {
    1: ("the drive has difficulty reading the volume", _OTHER_VOLUME),
    2: ("the drive has difficulty writing the volume", _OTHER_VOLUME),
    3: ("the drive met an error that it could not correct", _OTHER_VOLUME),
    4: ("the volume is faulty", _COPY),
    5: ("the drive can no longer read the volume", _OTHER_VOLUME),
    6: ("the drive can no longer write the volume", _OTHER_VOLUME),
    7: ("the volume is worn out", _COPY),
    8: ("the volume is not of data grade", _COPY),
    11: ("there is a cleaning cartridge in the drive", "load a data volume"),
    12: ("the drive does not know the format of the volume", _WRITABLE),
    13: ("the tape of the volume broke", "take it out of the drive, and use it no more"),
    14: ("the tape of the volume broke inside the drive", _SERVICE),
    15: ("the memory chip of the volume is faulty", _COPY),
    17: ("the drive can read the volume, and not write it", _WRITABLE),
    18: ("the directory of the volume is damaged, and finding a place takes long", "read the volume to its end"),
    19: ("the volume is nearly worn out", _COPY),
    20: ("the drive must be cleaned now", "load a cleaning cartridge"),
    21: ("the drive is due to be cleaned", "load a cleaning cartridge"),
    22: ("the cleaning cartridge is used up", "clean the drive with a new one"),
    23: ("the cleaning cartridge is of a wrong type", "clean the drive with another one"),
    24: ("the tape of the volume is not wound evenly", "wind it to its end and back, as mt retension does"),
    25: ("one of the interfaces of the drive fails", "check its cables"),
    26: ("a fan of the drive fails", _SERVICE),
    27: ("a power supply of the drive fails", _SERVICE),
    28: ("the drive takes more power than it may", _SERVICE),
    29: ("the drive is due to be serviced", _SERVICE),
    30: ("the drive is faulty", f"switch it off and on, and {_SERVICE} if that does not help"),
    31: ("the drive is faulty", _SERVICE),
    32: ("the interface of the drive fails", "check its cables"),
    33: ("the drive could not complete what it did", "take the volume out and load it again"),
    34: ("the firmware of the drive could not be replaced", "load the firmware again"),
    35: ("the air at the drive is too humid or too dry", "correct that"),
    36: ("the drive is too hot or too cold", "check its cooling"),
    37: ("the drive gets a wrong voltage", "check its power supply"),
    38: ("the drive will fail soon", _SERVICE),
    39: ("the drive asks for a diagnosis", _SERVICE),
    49: ("the volume holds less than it did when it was new", _COPY),
    51: ("the directory of the volume is damaged, and finding a place takes long", "read the volume to its end"),
    52: ("the system area of the volume could not be written", _COPY),
    53: ("the system area of the volume cannot be read", _COPY),
    54: ("the beginning of the data on the volume is not found", _COPY),
    55: ("the drive could not load the volume", "take it out and load it again"),
    56: ("the drive cannot let go of the volume", _SERVICE),
    57: ("the interface between drive and library fails", _SERVICE),
    58: ("the firmware of the drive failed", _SERVICE),
    59: ("the check of a WORM volume failed", _COPY),
}


def sentences(alerts: Iterable[int], drive: str, volume: str) -> list[str]:
    """What flags mean and what to do, a sentence for each one that needs somebody."""
    return [
        f"drive {drive} with volume {volume}: {_ADVICE[alert][0]}; {_ADVICE[alert][1]} (TapeAlert {alert})."
        for alert in alerts
        if alert in _ADVICE
    ]
