# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys with which a tape drive encrypts: 32 bytes, written as 64 hex digits."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Optional

from ..errors import SplitMirrorError
from ..host.files import read_private

KEY_BYTES = 32
_FINGERPRINT_DIGITS = 16
_KEY = re.compile(r"[0-9A-Fa-f]{64}")
# A key and a description in each line, with room for comments.
_MOST_BYTES = 1 << 20
_HOW = "openssl rand -hex 32 makes one"
#: Options of modules (documentation fragment splitmirror.backup.keys.drive_key).
DRIVE_KEY_SPEC: dict[str, dict[str, Any]] = {
    "drive_key_file": {"type": "path", "no_log": False},
    "drive_key": {"type": "str", "no_log": True},
}


class DriveKeyError(SplitMirrorError):
    """A key for the drive is missing, or cannot be used."""

    code = "key_missing"


@dataclass(frozen=True)
class DriveKey:
    """A key. :param secret: 32 bytes."""

    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the key as 64 small hex digits: catalog and tape name it so."""
        return hashlib.sha256(self.secret.hex().encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def drive_keys_of(params: Mapping[str, Any]) -> tuple[list[DriveKey], str]:
    """The keys in the options of a module (DRIVE_KEY_SPEC), and the option that they are from.

    :raises DriveKeyError: they cannot be used.
    """
    path, text = params["drive_key_file"], params["drive_key"]
    if path and text:
        raise DriveKeyError(
            "drive_key: drive_key_file is given as well; give one of them.", option="drive_key", code="option_invalid"
        )
    if path:
        return read_drive_keys(path), "drive_key_file"
    return (_parse(text, "drive_key: the text", "drive_key") if text else []), "drive_key"


def writing_key_of(params: Mapping[str, Any]) -> Optional[DriveKey]:
    """The key in the options of a module that writes; None if the drive is not to encrypt.

    :raises DriveKeyError: it cannot be used, there are several, or the session is to be encrypted in software as well.
    """
    keys, option = drive_keys_of(params)
    if not keys:
        return None
    if params["recipients"]:
        raise DriveKeyError(
            f"{option}: the session is to be encrypted to recipients as well; let either the drive encrypt it or the "
            "media server, and leave the other option out.",
            option=option,
            code="option_invalid",
        )
    if len(keys) > 1:
        raise DriveKeyError(
            f"{option}: there are {len(keys)} keys in it, and a session is written with one; give that alone.",
            option=option,
            code="option_invalid",
        )
    return keys[0]


def read_drive_keys(path: str, option: str = "drive_key_file") -> list[DriveKey]:
    """The keys in a file, one a line. :raises DriveKeyError: others may read it, or it has something else in it."""
    try:
        data = read_private(path, _MOST_BYTES)
    except OSError as exc:
        raise DriveKeyError(
            f"{option}: {path} cannot be read ({exc.strerror}); name the file of the key on the media server.",
            option=option,
        ) from exc
    if data is None:
        raise DriveKeyError(
            f"{option}: {path} is open to others; it must be a file that belongs to root or to the user who runs the "
            "module, with mode 0600.",
            option=option,
            code="option_invalid",
        )
    return _parse(data.decode("utf-8", "replace"), f"{option}: {path}", option)


def _parse(text: str, where: str, option: str) -> list[DriveKey]:
    """Keys, each once. What else is in the text is not in the message."""
    found: dict[bytes, DriveKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if not _KEY.fullmatch(words):
            raise DriveKeyError(
                f"{where} has something in line {number} that is not a key of 64 hex digits; give one a line ({_HOW}).",
                option=option,
                code="option_invalid",
            )
        secret = bytes.fromhex(words)
        found[secret] = DriveKey(secret)
    if not found:
        raise DriveKeyError(
            f"{where} has no key in it; give one of 64 hex digits ({_HOW}).", option=option, code="option_invalid"
        )
    return list(found.values())


@contextlib.contextmanager
def clearing_on_signals(has_key: bool) -> Iterator[None]:
    """Let a process that is told to end (SIGTERM, SIGHUP) clean up first, so that the drive does not keep a key.

    :param has_key: there may be one in the drive; else nothing is changed.
    """

    def leave(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP) if has_key else ()
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
