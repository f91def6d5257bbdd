# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encryption by the drive itself, as LTO drives have it from generation 4 on.

Facts are from SPC-4 (SECURITY PROTOCOL IN and OUT) and SSC-3 (security protocol 20h, tape data encryption). What the
standard leaves open is decided so:

- *Algorithm*: AES-256-GCM, found by its code. Drives number it differently, 0 included.
- *Scope*: the key is for this host alone (LOCAL) where the drive can do that, else for all hosts (ALL I_T NEXUS).
- *Lifetime*: until we take it out, or the volume leaves the drive (CKOD) where the drive can do that. A task that was
  killed takes nothing out, so each use of a volume begins with looking for what is left (``clear_left``).
- *Reading*: MIXED, for labels are in the clear. The mode in which a block was written is not checked (CEEM), because
  some drives know no other value. RAW is never used, and whether others may read raw is left as the drive has it
  (RDMC): raw data are encrypted data.
- *Which key*: its fingerprint goes with each block (unauthenticated key-associated data), so a volume says which key
  it needs without a catalog. Where the drive has no room for it, only the catalog knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

from .base import TapeError
from .drive_key import KEY_BYTES, DriveKey
from .scsi import CommandRefused

_IN, _OUT = 0xA2, 0xB5
_TAPE_DATA_ENCRYPTION = 0x20
CAPABILITIES_PAGE = 0x0010
MANAGEMENT_PAGE = 0x0012
STATUS_PAGE = 0x0020
NEXT_BLOCK_PAGE = 0x0021
SET_PAGE = 0x0010
_ANSWER_BYTES = 0x2000

AES_256_GCM = 0x00010014
LOCAL, ALL_NEXUS = 1, 2
_NOT_CHECKED = 1 << 6
_CLEAR_ON_DEMOUNT = 1 << 2
_DISABLE, _ENCRYPT, _MIXED = 0, 2, 3
# Of ENCRYPT_C and DECRYPT_C: by firmware, by hardware.
_CAPABLE = (1, 2)
_CONFIGURATION_PREVENTED = 2
# Of DKAD_C: key-associated data must, or may, be given for reading.
_FOR_READING = (1, 3)
# Of PARAMETERS CONTROL: the library, or a management interface.
_ELSEWHERE = (3, 4)
_UNAUTHENTICATED = 0
#: What the key-associated data begin with that we set; the fingerprint follows.
MARK = b"splitmirror "
_MARKED_BYTES = len(MARK) + 16
# Of ENCRYPTION STATUS: the next block is in the clear; it is encrypted, and the drive cannot, can, or lacks the key.
_PLAIN, _ENCRYPTED = 3, (4, 5, 6)
_UNIT_ATTENTION = 0x06
_TRIES = 4

#: Sends a command that reads: the command, and how long the answer may be. Raises OSError when it is refused.
Ask = Callable[[bytes, int], bytes]
#: Sends a command with data. Raises OSError when it is refused.
Tell = Callable[[bytes, bytes], None]


class Algorithm(NamedTuple):
    """How a drive can encrypt.

    :param number: the drive's own for it. :param for_volume: the volume in the drive can be encrypted so.
    :param most_unauthenticated: how long the unauthenticated key-associated data may be, in bytes.
    :param fixed_length: they must be as long as that. :param for_reading: they may be given for reading, too.
    """

    number: int
    for_volume: bool
    most_unauthenticated: int
    fixed_length: bool
    for_reading: bool


class Capabilities(NamedTuple):
    """What a drive can do.

    :param algorithm: AES-256-GCM; None without it. :param prevented: it takes no key from us.
    """

    algorithm: Optional[Algorithm]
    prevented: bool


class Status(NamedTuple):
    """What a drive does now.

    :param key_scope: whom the key that is in force was set for. :param algorithm: the drive's number for it.
    :param instance: another number for each key that was set. :param elsewhere: the library, or a
        management interface, controls the keys.
    :param fingerprint: of the key, if we have set it; None if not, or if the drive keeps no such data.
    """

    key_scope: int
    encrypts: bool
    decrypts: bool
    algorithm: int
    instance: int
    elsewhere: bool
    fingerprint: Optional[str]


class NextBlock(NamedTuple):
    """What is known of the next block.

    :param encrypted: None if the drive cannot tell. :param fingerprint: of the key, if we have set it; empty if not.
    """

    encrypted: Optional[bool]
    fingerprint: str


def security_in(page: int) -> bytes:
    """The command that asks for a page of tape data encryption: twelve bytes."""
    return (
        bytes((_IN, _TAPE_DATA_ENCRYPTION))
        + page.to_bytes(2, "big")
        + bytes(2)
        + _ANSWER_BYTES.to_bytes(4, "big")
        + bytes(2)
    )


def security_out(page: int, length: int) -> bytes:
    """The command that sends a page of tape data encryption of this length: twelve bytes."""
    return (
        bytes((_OUT, _TAPE_DATA_ENCRYPTION)) + page.to_bytes(2, "big") + bytes(2) + length.to_bytes(4, "big") + bytes(2)
    )


def set_page(
    algorithm: int, scope: int, key: Optional[bytes], *, encrypt: bool, on_demount: bool, associated: bytes = b""
) -> bytes:
    """The page Set Data Encryption.

    :param key: None switches encryption and decryption off.
    :param encrypt: write encrypted as well; else it is only for reading. :param on_demount: forget the key when the
        volume leaves the drive.
    :param associated: unauthenticated key-associated data; none if it is empty.
    """
    modes = (_DISABLE, _DISABLE) if key is None else (_ENCRYPT if encrypt else _DISABLE, _MIXED)
    flags = _NOT_CHECKED | (_CLEAR_ON_DEMOUNT if on_demount else 0)
    secret = key or b""
    rest = bytes((scope << 5, flags, *modes, algorithm)) + bytes(9) + len(secret).to_bytes(2, "big") + secret
    if associated:
        rest += bytes((_UNAUTHENTICATED, 0)) + len(associated).to_bytes(2, "big") + associated
    return SET_PAGE.to_bytes(2, "big") + len(rest).to_bytes(2, "big") + rest


def parse_capabilities(answer: bytes) -> Capabilities:
    """The page Data Encryption Capabilities. :raises ValueError: it is another page."""
    data = _body(answer, CAPABILITIES_PAGE, 16)
    place = 16
    found = None
    while place + 4 <= len(data) and found is None:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        one = data[place : place + 4 + length]
        if len(one) >= 24 and int.from_bytes(one[20:24], "big") == AES_256_GCM:
            able = one[4] & 3 in _CAPABLE and one[4] >> 2 & 3 in _CAPABLE
            if able and int.from_bytes(one[10:12], "big") == KEY_BYTES:
                found = Algorithm(
                    one[0],
                    bool(one[4] & 0x80),
                    int.from_bytes(one[6:8], "big"),
                    bool(one[5] & 0x02),
                    one[12] >> 6 in _FOR_READING,
                )
        place += 4 + length
    return Capabilities(found, data[0] & 3 == _CONFIGURATION_PREVENTED)


def parse_management(answer: bytes) -> tuple[bool, bool]:
    """The page Data Encryption Management Capabilities.

    :returns: whether a key can be forgotten when the volume leaves the drive; whether it can be for one host alone.

    :raises ValueError: it is another page.
    """
    data = _body(answer, MANAGEMENT_PAGE, 4)
    return bool(data[1] & 0x04), bool(data[3] & 0x02)


def parse_status(answer: bytes) -> Status:
    """The page Data Encryption Status. :raises ValueError: it is another page."""
    data = _body(answer, STATUS_PAGE, 20)
    return Status(
        data[0] & 7,
        data[1] != _DISABLE,
        data[2] != _DISABLE,
        data[3],
        int.from_bytes(data[4:8], "big"),
        data[8] >> 4 & 7 in _ELSEWHERE,
        _fingerprint(data[20:]),
    )


def parse_next_block(answer: bytes) -> NextBlock:
    """The page Next Block Encryption Status. :raises ValueError: it is another page."""
    data = _body(answer, NEXT_BLOCK_PAGE, 12)
    status = data[8] & 0x0F
    encrypted = True if status in _ENCRYPTED else False if status == _PLAIN else None
    return NextBlock(encrypted, _fingerprint(data[12:]) or "")


def _body(answer: bytes, page: int, least: int) -> bytes:
    """What follows the head of a page. :raises ValueError: it is another page, or shorter than that."""
    data = answer[4 : 4 + int.from_bytes(answer[2:4], "big")]
    if len(answer) < 4 or int.from_bytes(answer[:2], "big") != page or len(data) < least:
        raise ValueError("another page was asked for")
    return data


def _fingerprint(descriptors: bytes) -> Optional[str]:
    """The fingerprint in a list of key-associated data; None if there is none of ours."""
    for kind, value in _descriptors(descriptors):
        text = value.rstrip(b"\0 ")
        if kind == _UNAUTHENTICATED and text.startswith(MARK) and len(text) == _MARKED_BYTES:
            return text[len(MARK) :].decode("ascii", "replace")
    return None


def _descriptors(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + 4 <= len(data):
        end = place + 4 + int.from_bytes(data[place + 2 : place + 4], "big")
        if end > len(data):
            return
        yield data[place], data[place + 4 : end]
        place = end


@dataclass
class DriveEncryption:
    """What a drive is told about encryption, and what it is asked.

    :param device: its path, for messages.
    """

    device: str
    ask: Ask
    tell: Tell
    _key: Optional[DriveKey] = None
    # What was in force when the key was set.
    _set: Optional[Status] = None
    _scope: int = LOCAL

    def prove(self) -> None:
        """Prove that the drive can encrypt the volume in it. :raises TapeError: it cannot; nothing was changed."""
        self._algorithm()

    def set(self, key: DriveKey, *, encrypt: bool) -> None:
        """Give the drive a key, and prove that it uses it.

        :param encrypt: for writing as well. :raises TapeError: the drive cannot do that, or does not.
        """
        if self._key == key:
            return
        self.clear()
        algorithm = self._algorithm()
        on_demount, local = self._management()
        self._scope = LOCAL if local else ALL_NEXUS
        associated = MARK + key.fingerprint.encode()
        if len(associated) > algorithm.most_unauthenticated or not (encrypt or algorithm.for_reading):
            associated = b""
        elif algorithm.fixed_length:
            associated = associated.ljust(algorithm.most_unauthenticated, b"\0")
        page = set_page(
            algorithm.number,
            self._scope,
            key.secret,
            encrypt=encrypt,
            on_demount=on_demount,
            associated=associated,
        )
        # If the answer is lost, the key may be in the drive all the same.
        self._key = key
        try:
            self._tell(page)
        except OSError as exc:
            raise self._error(f"does not take the key ({exc})") from exc
        found = self._status()
        if found is None or (found.encrypts, found.decrypts, found.algorithm) != (encrypt, True, algorithm.number):
            raise self._error("took the key, and does not use it")
        self._set = found

    def prove_in_force(self) -> None:
        """Prove that the key was in force since it was set. :raises TapeError: it was not."""
        if self._key is not None and self._status() != self._set:
            raise self._error(
                "lost the key, or got another one, while it wrote; what was written may be in the clear on the volume, "
                "behind its end"
            )

    def clear(self) -> None:
        """Take our key out of the drive. :raises TapeError: it may still be in it."""
        if self._key is None:
            return
        found = self._status()
        if found is None or found.encrypts or found.decrypts:
            self._switch_off(self._scope, None if found is None else found.algorithm)
        self._key = self._set = None

    def clear_left(self, *, writes: bool, has_key: bool = False) -> None:
        """Before a use: take out the key that a task of ours left which was killed.

        A key that another program has set stays, unless the task has one of its own; nothing is written with it, for
        the catalog would not know it.

        :param writes: something is to be written. :param has_key: with a key of the task.
        :raises TapeError: the key is still in the drive; or it is a foreign one, and something is to be written.
        """
        self._key = self._set = None
        found = self._status()
        if found is None or found.elsewhere or not (found.encrypts or found.decrypts):
            return
        if found.encrypts and found.fingerprint is None and not has_key:
            if writes:
                raise self._error(
                    "encrypts with a key that another program has set, so nobody would know which key the session "
                    "needs; take it out there, or give the key as drive_key_file"
                )
            return
        self._switch_off(LOCAL if found.key_scope == LOCAL else ALL_NEXUS, found.algorithm)

    def next_block(self) -> NextBlock:
        """What is known of the next block; of a drive that does not encrypt, nothing."""
        try:
            return parse_next_block(self._ask(NEXT_BLOCK_PAGE))
        except (OSError, ValueError):
            return NextBlock(None, "")

    # -- inside ------------------------------------------------------------------------------------------------

    def _algorithm(self) -> Algorithm:
        try:
            found = parse_capabilities(self._ask(CAPABILITIES_PAGE))
        except (OSError, ValueError) as exc:
            raise self._error(f"does not encrypt ({exc}){_OTHER_WAY}", code="option_invalid") from exc
        if found.algorithm is None:
            raise self._error(f"does not offer AES-256-GCM{_OTHER_WAY}", code="option_invalid")
        if found.prevented:
            raise self._error(
                "takes no key from a program, because its library or its settings manage the keys; set it to "
                "application-managed encryption, or leave drive_key_file and drive_key out",
                code="option_invalid",
            )
        if not found.algorithm.for_volume:
            raise self._error(
                "cannot encrypt the volume in it; use a volume of a generation that it can encrypt (LTO-4 or newer)",
                code="option_invalid",
            )
        return found.algorithm

    def _management(self) -> tuple[bool, bool]:
        try:
            return parse_management(self._ask(MANAGEMENT_PAGE))
        except (OSError, ValueError):
            return False, False

    def _status(self) -> Optional[Status]:
        """None if the drive does not encrypt, or says nothing that makes sense."""
        try:
            return parse_status(self._ask(STATUS_PAGE))
        except (OSError, ValueError):
            return None

    def _switch_off(self, scope: int, algorithm: Optional[int]) -> None:
        try:
            self._tell(set_page(algorithm or 0, scope, None, encrypt=False, on_demount=False))
            found = self._status()
            if found is not None and not (found.encrypts or found.decrypts):
                return
            reason = "it goes on with it"
        except OSError as exc:
            reason = str(exc)
        raise self._error(f"still has the key of a session ({reason}); switch it off and on")

    def _ask(self, page: int) -> bytes:
        for _dummy in range(_TRIES - 1):
            try:
                return self.ask(security_in(page), _ANSWER_BYTES)
            except CommandRefused as exc:
                if exc.sense is None or exc.sense[0] != _UNIT_ATTENTION:
                    raise
        return self.ask(security_in(page), _ANSWER_BYTES)

    def _tell(self, page: bytes) -> None:
        command = security_out(SET_PAGE, len(page))
        for _dummy in range(_TRIES - 1):
            try:
                self.tell(command, page)
            except CommandRefused as exc:
                # It only says that something happened before, and was not done (SPC-4).
                if exc.sense is None or exc.sense[0] != _UNIT_ATTENTION:
                    raise
            else:
                return
        self.tell(command, page)

    def _error(self, what: str, *, code: Optional[str] = None) -> TapeError:
        return TapeError(f"drive: {self.device} {what}.", option="drive", code=code)


_OTHER_WAY = "; leave drive_key_file and drive_key out, or encrypt in software (recipients)"
