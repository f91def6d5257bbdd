# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The age v1 format (age-encryption.org/v1): header, and payload in chunks, for X25519 recipients.

A file is a header in text, 16 random bytes, and chunks of 64 KiB, each encrypted under a number of its own (STREAM). A
chunk can be decrypted without those before it, and the last one is marked, so that a file that was cut short is known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from .keys import Identity, Recipient
from .primitives import TAG_BYTES, Aead, Buffer, agree, derive, make_secret, public_of

CHUNK_BYTES = 64 << 10
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
NONCE_BYTES = 16

_VERSION = b"age-encryption.org/v1\n"
_FILE_KEY_BYTES = 16
_COLUMNS = 64
# Room for more recipients than anybody has; a reader does not look further for the end of a header.
_MOST_BYTES = 64 << 10
_X25519 = "X25519"
_X25519_INFO = b"age-encryption.org/v1/X25519"
#: With content of a multiple of this length, an age file with our header has one too: what is left at the end of a tape
#: file is then not so short that a drive refuses it.
GRAIN_BYTES = 16
# Fills the header up.
_FILL = "-"
#: The stanza that names session, part and keys; other programs pass over stanzas that they do not know.
_OURS = "splitmirror.backup"


class AgeError(ValueError):
    """Something is not an age file, or not what was written. Says what, for a sentence of the caller."""


class Stream(Protocol):
    """What an age file is read from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none at the end."""


@dataclass(frozen=True)
class Stanza:
    """A part of a header: for whom it is, and what only they can use."""

    words: tuple[str, ...]
    body: bytes = b""

    def __bytes__(self) -> bytes:
        text = _encode(self.body)
        lines = [text[place : place + _COLUMNS] for place in range(0, len(text) + 1, _COLUMNS)]
        return b"-> " + " ".join(self.words).encode("ascii") + b"\n" + b"".join(line + b"\n" for line in lines)


@dataclass(frozen=True)
class Named:
    """What a header says in the clear.

    :param session: its id. :param part: number of the part, from 0.
    :param keys: fingerprints of the recipients.
    """

    session: str
    part: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Header:
    """The header of an age file.

    :param text: all of it, up to its last line feed.
    """

    stanzas: tuple[Stanza, ...]
    text: bytes

    @property
    def named(self) -> Optional[Named]:
        """What it says in the clear; None when it is of another program."""
        for stanza in self.stanzas:
            if stanza.words[0] == _OURS and len(stanza.words) > 3 and stanza.words[2].isdigit():
                keys = tuple(word for word in stanza.words[3:] if word.strip(_FILL))
                return Named(stanza.words[1], int(stanza.words[2]), keys)
        return None

    def file_key(self, identities: Sequence[Identity]) -> Optional[bytes]:
        """The key of the file, None when it is for none of the identities.

        :raises AgeError: it was changed, or is damaged.
        """
        for stanza in self.stanzas:
            if stanza.words[0] == _X25519:
                for identity in identities:
                    key = _unwrap(stanza, identity)
                    if key is not None:
                        self._check_mac(key)
                        return key
        return None

    def _check_mac(self, key: bytes) -> None:
        covered, _mark, rest = self.text.rpartition(b" ")
        if not hmac.compare_digest(_mac(key, covered), _decode(rest[:-1])):
            raise AgeError("its header was changed")


def make_header(key: bytes, recipients: Sequence[Recipient], named: Optional[Named] = None) -> bytes:
    """The header of a file with this key.

    :param named: what is said in the clear. The header then has a multiple of GRAIN_BYTES.
    """
    stanzas = [_wrap(key, recipient) for recipient in recipients]
    if named is None:
        return _header(key, stanzas)
    words = (_OURS, named.session, str(named.part), *named.keys)
    missing = -len(_header(key, [*stanzas, Stanza((*words, _FILL))])) % GRAIN_BYTES
    return _header(key, [*stanzas, Stanza((*words, _FILL * (1 + missing)))])


def make_file_key() -> bytes:
    """A key for one file. Never use one for two: both would encrypt by the same numbers."""
    return secrets.token_bytes(_FILE_KEY_BYTES)


def make_nonce() -> bytes:
    """What stands between header and payload."""
    return secrets.token_bytes(NONCE_BYTES)


def read_header(stream: Stream) -> tuple[Header, bytes, bytes]:
    """The header at the beginning of a stream, the nonce behind it, and what was read beyond.

    :raises AgeError: it is not one.
    """
    data = b""
    while True:
        end = _end_of_header(data)
        if end is not None and len(data) >= end + NONCE_BYTES:
            return parse_header(data[:end]), data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :]
        if not looks_like_age(data) or (end is None and len(data) > _MOST_BYTES):
            raise AgeError("it is not an age file")
        more = stream.read(_MOST_BYTES)
        if not more:
            raise AgeError("it ends inside its header" if data else "it is empty")
        data += more


def looks_like_age(data: bytes) -> bool:
    """Whether an age file may begin so."""
    return data[: len(_VERSION)] == _VERSION[: len(data)]


def parse_header(text: bytes) -> Header:
    """A header from its text. :raises AgeError: it is not one."""
    if not text.startswith(_VERSION):
        raise AgeError("it is not an age file")
    try:
        lines = text.decode("ascii").split("\n")[1:]
    except UnicodeDecodeError as exc:
        raise AgeError("its header is not text") from exc
    stanzas = []
    place = 0
    while lines[place].startswith("-> "):
        words = tuple(lines[place][3:].split(" "))
        if not all(word and all(33 <= ord(letter) <= 126 for letter in word) for word in words):
            raise AgeError("its header is damaged")
        place += 1
        body = ""
        while place < len(lines):
            line = lines[place]
            body += line
            place += 1
            if len(line) != _COLUMNS:
                break
        if place >= len(lines) or len(lines[place - 1]) > _COLUMNS:
            raise AgeError("its header is damaged")
        stanzas.append(Stanza(words, _decode(body.encode("ascii"))))
    if not stanzas or not lines[place].startswith("--- ") or lines[place + 1 :] != [""]:
        raise AgeError("its header is damaged")
    if len(_decode(lines[place][4:].encode("ascii"))) != hashlib.sha256().digest_size:
        raise AgeError("its header is damaged")
    return Header(tuple(stanzas), text)


def age_bytes(header_bytes: int, plain_bytes: int) -> int:
    """Length of an age file. :param plain_bytes: what is in it. :param header_bytes: length of its header."""
    chunks = max(-(-plain_bytes // CHUNK_BYTES), 1)
    return header_bytes + NONCE_BYTES + plain_bytes + chunks * TAG_BYTES


def plain_room(header_bytes: int, age_room_bytes: int) -> int:
    """The longest content of an age file that may have this length; negative when even an empty one has no room."""
    room = age_room_bytes - header_bytes - NONCE_BYTES
    chunks, rest = divmod(room, SEALED_CHUNK_BYTES)
    return chunks * CHUNK_BYTES + max(rest - TAG_BYTES, 0) if room >= TAG_BYTES else -1


class Chunks:
    """Encrypts and decrypts the chunks of one file, by number.

    :param key: of the file. :param nonce: what stands behind its header.
    """

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = Aead(derive(key, nonce, b"payload"))

    def seal(self, number: int, plain: Buffer, *, last: bool) -> bytes:
        """Encrypt a chunk. Only the last one may be shorter than CHUNK_BYTES, and empty only if it is the first."""
        return self._cipher.seal(_number(number, last), plain)

    def seal_into(self, number: int, plain: memoryview, sealed: memoryview, *, last: bool) -> None:
        """The same, into memory of the right length."""
        self._cipher.seal_into(_number(number, last), plain, sealed)

    def open(self, number: int, sealed: Buffer, *, last: Optional[bool] = None) -> tuple[bytes, bool]:
        """Decrypt a chunk, and say whether it is the last one.

        :param last: whether it has to be; None when that is not known.
        :raises AgeError: it is not this chunk of this file.
        """
        for is_last in (False, True) if last is None else (last,):
            try:
                return self._cipher.open(_number(number, is_last), sealed), is_last
            except ValueError:
                continue
        raise AgeError(f"its chunk {number} is not what was written")


def _number(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _header(key: bytes, stanzas: Sequence[Stanza]) -> bytes:
    covered = _VERSION + b"".join(map(bytes, stanzas)) + b"---"
    return covered + b" " + _encode(_mac(key, covered)) + b"\n"


def _mac(key: bytes, covered: bytes) -> bytes:
    return hmac.new(derive(key, b"", b"header"), covered, "sha256").digest()


def _wrap(key: bytes, recipient: Recipient) -> Stanza:
    secret = make_secret()
    share = public_of(secret)
    wrapping = derive(agree(secret, recipient.public), share + recipient.public, _X25519_INFO)
    return Stanza((_X25519, _encode(share).decode("ascii")), Aead(wrapping).seal(bytes(12), key))


def _unwrap(stanza: Stanza, identity: Identity) -> Optional[bytes]:
    """The file's key, None when the stanza is for another key. :raises AgeError: it is damaged."""
    if len(stanza.words) != 2 or len(stanza.body) != _FILE_KEY_BYTES + TAG_BYTES:
        raise AgeError("its header is damaged")
    share = _decode(stanza.words[1].encode("ascii"))
    try:
        known = agree(identity.secret, share)
    except ValueError as exc:
        raise AgeError("its header is damaged") from exc
    try:
        return Aead(derive(known, share + identity.recipient.public, _X25519_INFO)).open(bytes(12), stanza.body)
    except ValueError:
        return None


def _end_of_header(data: bytes) -> Optional[int]:
    mark = data.find(b"\n--- ")
    end = data.find(b"\n", mark + 1) if mark >= 0 else -1
    return end + 1 if end >= 0 else None


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    """:raises AgeError: it is not the one form in which these bytes are written."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise AgeError("its header is damaged") from exc
    if _encode(data) != text:
        raise AgeError("its header is damaged")
    return data
