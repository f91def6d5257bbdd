# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The primitives of age, from the package ``cryptography``, which a media server needs only for encrypted sessions.

Why that package: it is in all distributions (Debian: python3-cryptography; version 38 does) and gives the parts out of
which the small published format is made. ``pyrage``, the library for the format as a whole, is in no distribution,
and reads and writes whole files only: it cannot decrypt from a chunk on, which the restore of one file needs.
"""

from __future__ import annotations

from typing import Union

from ..errors import SplitMirrorError

try:
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    _IS_THERE = True
except ImportError:  # need_cryptography() reports it, because only encrypted sessions need it
    _IS_THERE = False

KEY_BYTES = 32
TAG_BYTES = 16
Buffer = Union[bytes, bytearray, memoryview]


class CryptError(SplitMirrorError):
    """A session cannot be encrypted, or not be decrypted, with the keys that were given."""

    code = "key_missing"


def need_cryptography(option: str) -> None:
    """:raises CryptError: this host cannot encrypt. :param option: what asks for it."""
    if not _IS_THERE:
        raise CryptError(
            f"{option}: the Python of this host has no cryptography, which encrypted sessions need; install it (Debian "
            "and Red Hat: python3-cryptography) for the interpreter that ansible_python_interpreter names.",
            option=option,
            code="host_program",
        )
    try:
        ChaCha20Poly1305(bytes(KEY_BYTES))
    except UnsupportedAlgorithm as exc:
        raise CryptError(
            f"{option}: the OpenSSL of this host does not do ChaCha20-Poly1305, which encrypted sessions need; switch "
            "off its FIPS mode, or take another media server.",
            option=option,
            code="host_program",
        ) from exc


class Aead:
    """ChaCha20-Poly1305 (RFC 8439) under one key, without associated data."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, nonce: bytes, plain: Buffer) -> bytes:
        """Encrypt; the tag is at the end."""
        return self._cipher.encrypt(nonce, bytes(plain), None)

    def seal_into(self, nonce: bytes, plain: memoryview, sealed: memoryview) -> None:
        """Encrypt into memory of the right length: of what is given plus TAG_BYTES."""
        if hasattr(self._cipher, "encrypt_into"):
            # Without copies, which take nearly half as long as the cipher; not in old versions.
            self._cipher.encrypt_into(nonce, plain, None, sealed)
        else:
            sealed[:] = self.seal(nonce, plain)

    def open(self, nonce: bytes, sealed: Buffer) -> bytes:
        """Decrypt. :raises ValueError: it was not encrypted so, or was changed."""
        try:
            return self._cipher.decrypt(nonce, bytes(sealed), None)
        except InvalidTag as exc:
            raise ValueError("the tag is wrong") from exc


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def make_secret() -> bytes:
    """A new secret of X25519 (RFC 7748), 32 bytes."""
    secret = X25519PrivateKey.generate()
    return secret.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def public_of(secret: bytes) -> bytes:
    """The public key of a secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def agree(secret: bytes, public: bytes) -> bytes:
    """What both sides of X25519 know. :raises ValueError: the public key is one with which everybody knows it."""
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
