# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drive that encrypts by itself, in software: what SSC-3 says of SECURITY PROTOCOL IN and OUT, and a tape to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer, TapeDrive, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.data_encryption import DriveEncryption
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DriveKey
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.scsi import CommandRefused
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.tape import Library

INVALID_COMMAND = (5, 0x20, 0)
INVALID_PARAMETER = (5, 0x26, 0)
POWER_ON = (6, 0x29, 0)


@dataclasses.dataclass
class Target:
    """The drive as a SCSI device. It lives on when the process that uses it dies: its state is in a file.

    :param path: of the state. :param index: its number for AES-256-GCM. :param management: it has the page 0012h.
    :param attention: so many commands are answered by a unit attention first.
    :param deaf: it accepts what is sent, and does nothing.
    :ivar sent: commands and data, as they came.
    """

    path: Path
    index: int = 1
    encrypts: bool = True
    management: bool = True
    prevented: bool = False
    for_volume: bool = True
    most_associated: int = 32
    fixed_length: bool = False
    reading: int = 3
    code: int = 0x00010014
    attention: int = 0
    deaf: bool = False
    elsewhere: int = 1
    sent: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        """What is in force."""
        if self.path.exists():
            found: dict[str, Any] = json.loads(self.path.read_text())
            return found
        return {"scope": 0, "flags": 0, "encrypt": 0, "decrypt": 0, "key": "", "kad": "", "instance": 0}

    def ask(self, command: bytes, _answer_bytes: int) -> bytes:
        self._arrives(command)
        assert (command[0], len(command), command[4:6], command[10:]) == (0xA2, 12, b"\0\0", b"\0\0")
        page = int.from_bytes(command[2:4], "big")
        if command[1] != 0x20 or (page == 0x12 and not self.management):
            raise CommandRefused(2, INVALID_PARAMETER)
        body = {0x10: self._capabilities, 0x12: self._may, 0x20: self._status, 0x21: self._next}[page]()
        return command[2:4] + len(body).to_bytes(2, "big") + body

    def tell(self, command: bytes, data: bytes) -> None:
        self._arrives(command, data)
        assert command == bytes.fromhex("b52000100000") + len(data).to_bytes(4, "big") + b"\0\0"
        assert int.from_bytes(data[2:4], "big") == len(data) - 4
        assert data[:2] == b"\0\x10"
        scope, flags, encrypt, decrypt, index = data[4:9]
        length = int.from_bytes(data[18:20], "big")
        if (encrypt or decrypt) and (length != 32 or index != self.index or self.prevented):
            raise CommandRefused(2, INVALID_PARAMETER)
        kad = data[20 + length :]
        if kad and len(kad) - 4 > self.most_associated:
            raise CommandRefused(2, INVALID_PARAMETER)
        if self.deaf:
            return
        self.set(scope=scope >> 5, flags=flags, encrypt=encrypt, decrypt=decrypt, kad=kad.hex())
        self.set(key=data[20 : 20 + length].hex() if encrypt or decrypt else "", instance=self.state["instance"] + 1)

    def set(self, **changed: Any) -> None:
        """Change what is in force."""
        self.path.write_text(json.dumps({**self.state, **changed}))

    def demount(self) -> None:
        """The volume leaves the drive."""
        if self.state["flags"] & 4:
            self.set(encrypt=0, decrypt=0, key="", kad="")

    def next_kad(self) -> Optional[bytes]:
        """The key-associated data of the next block; None if it is not encrypted. For a tape to say."""
        return None

    def _arrives(self, command: bytes, data: bytes = b"") -> None:
        self.sent.append((command, data))
        if self.attention:
            self.attention -= 1
            raise CommandRefused(2, POWER_ON)
        if not self.encrypts:
            raise CommandRefused(2, INVALID_COMMAND)

    def _capabilities(self) -> bytes:
        # What stenc's tests have of a real LTO drive: EXTDECC, CFG_P; two algorithms, of which ours is the second.
        head = bytes((0x08 | (2 if self.prevented else 1),)) + bytes(15)
        other = bytes.fromhex("07 00 0014 8a 8f 0020 003c 0020 d9 00 0000 0000 0000 00010010")
        mine = (
            bytes((self.index, 0))
            + bytes.fromhex("0014")
            + bytes((0x0A | self.for_volume << 7, 0x8C | self.fixed_length << 1))
            + self.most_associated.to_bytes(2, "big")
            + bytes.fromhex("003c0020")
            + bytes((0x2D | self.reading << 6, 0))
            + bytes(6)
            + self.code.to_bytes(4, "big")
        )
        return head + other + mine

    def _may(self) -> bytes:
        return bytes((1, 7, 0, 7)) + bytes(8)

    def _status(self) -> bytes:
        now = self.state
        is_on = now["encrypt"] or now["decrypt"]
        kad: str = now["kad"]
        instance: int = now["instance"]
        return (
            bytes((now["scope"] << 5 | now["scope"], now["encrypt"], now["decrypt"], self.index if is_on else 0))
            + instance.to_bytes(4, "big")
            + bytes((self.elsewhere << 4,))
            + bytes(11)
            + bytes.fromhex(kad)
        )

    def _next(self) -> bytes:
        kad = self.next_kad()
        return bytes(8) + bytes((3 if kad is None else 6, self.index, 0, 0)) + (kad or b"")


class KeyTape(VirtualTape):
    """A virtual tape in a drive that encrypts: records that were written with a key are read with it alone."""

    encrypts = True

    def __init__(self, drive: str, target: Target, *, writable: bool = False) -> None:
        super().__init__(drive, writable=writable)
        self.target = target
        target.next_kad = self._next_kad  # type: ignore[method-assign]
        self.encryption = DriveEncryption(drive, target.ask, target.tell)

    # As StTape does it:

    def prove_encrypts(self) -> None:
        self.encryption.prove()

    def prove_clear(self) -> None:
        self.encryption.clear_left(writes=True)

    def set_key(self, key: Optional[DriveKey]) -> None:
        if key is None:
            self.encryption.clear()
        else:
            self.encryption.set(key, encrypt=self._writable)

    def prove_key(self) -> None:
        self.encryption.prove_in_force()

    def next_key(self) -> Optional[str]:
        found = self.encryption.next_block()
        return found.fingerprint if found.encrypted else None

    def load(self, volume: str) -> None:
        super().load(volume)
        self.encryption.clear_left(writes=self._writable, has_key=self.key is not None)

    def unload(self) -> None:
        if self._medium is not None:
            self.set_key(None)
        super().unload()

    # The medium: beside the records of a volume, what each encrypted one was written with.

    def write_record(self, record: Buffer) -> None:
        now, place = self.target.state, (self._file, self._record)
        data = bytes(record)
        super().write_record(_mixed(data, now["key"], place) if now["encrypt"] == 2 else data)
        self._note(place, [_check(now["key"]), now["kad"]] if now["encrypt"] == 2 else None)

    def read_record(self, max_bytes: int) -> bytes:
        place, now = (self._file, self._record), self.target.state
        noted = self._noted().get(_name(place))
        if noted is not None and (not now["decrypt"] or _check(now["key"]) != noted[0]):
            raise TapeError("drive: cannot read a record (Input/output error).", option="drive", code="tape_damaged")
        data = super().read_record(max_bytes)
        return data if noted is None or not data else _mixed(data, now["key"], place)

    def _next_kad(self) -> Optional[bytes]:
        noted = self._noted().get(_name((self._file, self._record)))
        return None if noted is None else bytes.fromhex(noted[1])

    def _noted(self) -> dict[str, list[str]]:
        path = Path(self.device) / str(self._volume) / "keys.json"
        if not path.exists():
            return {}
        found: dict[str, list[str]] = json.loads(path.read_text())
        return found

    def _note(self, place: tuple[int, int], noted: Optional[list[str]]) -> None:
        kept = {
            name: value for name, value in self._noted().items() if tuple(int(word) for word in name.split("/")) < place
        }
        if noted is not None:
            kept[_name(place)] = noted
        (Path(self.device) / str(self._volume) / "keys.json").write_text(json.dumps(kept))


class KeyLibrary(Library):
    """A library whose drive encrypts. :ivar target: the drive. :ivar key: with which sessions are written."""

    key: Optional[DriveKey] = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.target = Target(folder / "drive-state.json")

    def encrypted(self, volume: str) -> list[tuple[int, int]]:
        """Tape file and number of each record of a volume that is encrypted."""
        path = self.folder / volume / "keys.json"
        names = json.loads(path.read_text()) if path.exists() else {}
        return sorted((int(file), int(record)) for file, record in (name.split("/") for name in names))

    def drive(self, *, writable: bool = True, **_faults: Any) -> TapeDrive:
        drive = KeyTape(str(self.folder), self.target, writable=writable)
        drive.key = self.key
        return drive


def _name(place: tuple[int, int]) -> str:
    return f"{place[0]}/{place[1]}"


def _check(key: str) -> str:
    return hashlib.sha256(f"check {key}".encode()).hexdigest()


def _mixed(data: bytes, key: str, place: tuple[int, int]) -> bytes:
    """A toy of a cipher, but one that needs the key and the place."""
    pad = hashlib.shake_128(f"{key} {place}".encode()).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(data), "big")
