# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A volume of the virtual tape: what its ``volume.json`` says of the records and filemarks on it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ..errors import shorten
from ..host.files import replace_file
from ..host.strict_json import read_json, whole
from .base import TapeError

_FORMAT = 1
#: With records of 16 MiB, the longest that a drive takes, their bytes are still counted with 63 bits.
_MOST_RECORD_BYTES = 16 << 20
_MOST_RECORDS = 1 << 38
VOLUME_JSON = "volume.json"


@dataclass
class TapeFile:
    """Records between two filemarks. :param runs: [length in bytes, how many] of records of equal length."""

    runs: list[list[int]] = field(default_factory=list)
    closed: bool = False

    def records(self) -> int:
        """How many there are."""
        return sum(count for _length, count in self.runs)

    def size_bytes(self) -> int:
        """The length of them all."""
        return sum(length * count for length, count in self.runs)

    def find(self, record: int) -> tuple[int, int]:
        """Offset in bytes and length of a record; the length is 0 behind the last one."""
        offset = 0
        for length, count in self.runs:
            if record < count:
                return offset + record * length, length
            offset += length * count
            record -= count
        return offset, 0

    def append(self, length: int) -> None:
        """Add a record behind the last one. :param length: in bytes."""
        if self.runs and self.runs[-1][0] == length:
            self.runs[-1][1] += 1
        else:
            self.runs.append([length, 1])

    def cut(self, records: int) -> None:
        """Keep the first records and open the file."""
        kept: list[list[int]] = []
        for length, count in self.runs:
            if records <= 0:
                break
            kept.append([length, min(count, records)])
            records -= count
        self.runs = kept
        self.closed = False


def _run(told: Any) -> list[int]:
    """A run of records, from JSON. :raises ValueError, TypeError: it is something else."""
    length, count = told
    return [whole(length, 1, _MOST_RECORD_BYTES), whole(count, 1, _MOST_RECORDS)]


def _switch(told: Any) -> bool:
    """A truth value, from JSON. :raises ValueError: it is something else."""
    if isinstance(told, bool):
        return told
    raise ValueError(f"{shorten(told)} is neither true nor false")


@dataclass
class Medium:
    """One volume.

    :param folder: its own.
    :param write_protected: as by the switch of a cartridge.
    :param worm: it is of the kind that can be written once.
    """

    folder: str
    capacity_bytes: int
    early_warning_bytes: int
    write_protected: bool
    files: list[TapeFile]
    worm: bool = False

    @classmethod
    def read(cls, folder: str) -> Medium:
        """Read a volume. :raises OSError, ValueError, KeyError, TypeError: the folder holds none."""
        data: dict[str, Any] = read_json(os.path.join(folder, VOLUME_JSON))
        if whole(data["format_version"]) != _FORMAT:
            raise ValueError("format_version")
        files = [TapeFile([_run(run) for run in item["records"]], _switch(item["filemark"])) for item in data["files"]]
        whole(sum(item.records() for item in files), most=_MOST_RECORDS)
        if not all(item.closed for item in files[:-1]):
            raise ValueError("a filemark is missing between two tape files")
        capacity, warning = whole(data["capacity_bytes"]), whole(data["early_warning_bytes"])
        protected, worm = _switch(data["write_protected"]), _switch(data.get("worm", False))
        return cls(folder, capacity, warning, protected, files, worm)

    def save(self) -> None:
        """Replace volume.json so that a crash leaves the old or the new one."""
        try:
            self._save()
        except OSError as exc:
            raise TapeError(f"drive: {self.folder} cannot be written ({exc.strerror}).", option="drive") from exc

    def _save(self) -> None:
        data = {
            "format_version": _FORMAT,
            "capacity_bytes": self.capacity_bytes,
            "early_warning_bytes": self.early_warning_bytes,
            "write_protected": self.write_protected,
            **({"worm": True} if self.worm else {}),
            "files": [{"records": item.runs, "filemark": item.closed} for item in self.files],
        }
        replace_file(os.path.join(self.folder, VOLUME_JSON), json.dumps(data), durable=True, alone=True)

    def data_path(self, number: int) -> str:
        """Where the records of a tape file are, one after another."""
        return os.path.join(self.folder, f"{number:05d}.tar")
