# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys of age: recipients (public) and identities (secret), as ``age-keygen`` writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import shorten
from ..host.files import read_private
from . import bech32
from .primitives import KEY_BYTES, CryptError, need_cryptography, public_of

_PUBLIC, _SECRET = "age", "age-secret-key-"
_FINGERPRINT_DIGITS = 16
# A file of identities has a line for each, and comments.
_MOST_BYTES = 1 << 20
_HOW = "age-keygen -o KEY makes one, age-keygen -y KEY prints the recipient"


@dataclass(frozen=True)
class Recipient:
    """Whom a session is encrypted to: a public key. :param public: 32 bytes."""

    public: bytes

    def __str__(self) -> str:
        return bech32.encode(_PUBLIC, self.public)

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the recipient as text, by which catalog and tape name the key."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:_FINGERPRINT_DIGITS]


@dataclass(frozen=True)
class Identity:
    """Who can decrypt. :param secret: 32 bytes."""

    secret: bytes = field(repr=False)
    recipient: Recipient


def parse_recipients(texts: Sequence[str], option: str) -> list[Recipient]:
    """Recipients in their order, each once.

    :param option: where they were given.
    :raises CryptError: one is not a recipient of age, or this host cannot encrypt.
    """
    if not texts:
        return []
    need_cryptography(option)
    found: dict[bytes, Recipient] = {}
    for text in texts:
        recipient = _parse_recipient(text.strip(), option)
        found[recipient.public] = recipient
    return list(found.values())


def _parse_recipient(text: str, option: str) -> Recipient:
    if text.lower().startswith(_SECRET):
        raise CryptError(
            f"{option}: one of them is a secret key, which only a restore needs; give its recipient, which begins with "
            "age1 (age-keygen -y KEY prints it), and make a new key if others may have seen this one.",
            option=option,
            code="option_invalid",
        )
    try:
        prefix, public = bech32.decode(text)
        if prefix != _PUBLIC or text != text.lower():
            raise ValueError("it does not begin with age1")
        if len(public) != KEY_BYTES:
            raise ValueError("it has another length")
    except ValueError as exc:
        raise CryptError(
            f"{option}: {shorten(text)} is not a recipient of age ({exc}); give a public key that begins with age1 "
            f"({_HOW}).",
            option=option,
            code="option_invalid",
        ) from exc
    return Recipient(public)


def read_identities(path: str, option: str = "identity_file") -> list[Identity]:
    """The secret keys in a file, as ``age -i`` takes it.

    :raises CryptError: others may read it, it cannot be read, or has something else in it.
    """
    where = f"{option}: {path}"
    try:
        data = read_private(path, _MOST_BYTES)
    except OSError as exc:
        raise CryptError(
            f"{where} cannot be read ({exc.strerror}); name the file of age-keygen on the media server.",
            option=option,
        ) from exc
    if data is None:
        raise CryptError(
            f"{where} is open to others; it must be a file that belongs to root or to the user who runs the module, "
            "with mode 0600.",
            option=option,
            code="option_invalid",
        )
    return _parse_identities(data.decode("utf-8", "replace"), where, option)


def parse_identities(text: str, option: str = "identity") -> list[Identity]:
    """Secret keys, one a line. :raises CryptError: something else is among them; the text is not in the message."""
    return _parse_identities(text, f"{option}: the text", option)


def _parse_identities(text: str, where: str, option: str) -> list[Identity]:
    need_cryptography(option)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        try:
            prefix, secret = bech32.decode(words)
        except ValueError:
            prefix, secret = "", b""
        if prefix != _SECRET or len(secret) != KEY_BYTES:
            raise CryptError(
                f"{where} has something in line {number} that is not a secret key of age; give lines that begin with "
                f"AGE-SECRET-KEY-1 ({_HOW}).",
                option=option,
                code="option_invalid",
            ) from None
        found.append(Identity(secret, Recipient(public_of(secret))))
    if not found:
        raise CryptError(
            f"{where} has no secret key in it; give lines that begin with AGE-SECRET-KEY-1 ({_HOW}).",
            option=option,
            code="option_invalid",
        )
    return found
