# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading an age file from any place on: a stream over another stream."""

from __future__ import annotations

from typing import Protocol

from .age import CHUNK_BYTES, NONCE_BYTES, SEALED_CHUNK_BYTES, AgeError, Chunks


class Source(Protocol):
    """The age file, as bytes."""

    def seek(self, offset_bytes: int, /) -> object:
        """Go to a byte of it."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes from there on, none at the end."""


class OpenedFile:
    """The content of an age file. The chunk that was decrypted last is kept.

    :param source: the age file.
    :param header_bytes: length of its header.
    :param key: of the file.
    """

    def __init__(self, source: Source, header_bytes: int, key: bytes, nonce: bytes) -> None:
        self._source = source
        self._begin = header_bytes + NONCE_BYTES
        self._chunks = Chunks(key, nonce)
        self._number = -1  # of the chunk in memory
        self._chunk = b""
        self._is_last = False
        self._offset = 0

    def place_of(self, offset_bytes: int) -> int:
        """Where in the age file the chunk with a byte of the content begins."""
        return self._begin + offset_bytes // CHUNK_BYTES * SEALED_CHUNK_BYTES

    def has(self, offset_bytes: int) -> bool:
        """Whether a byte of the content is in memory."""
        return offset_bytes // CHUNK_BYTES == self._number

    def seek(self, offset_bytes: int) -> None:
        """Go to a byte of the content."""
        self._offset = offset_bytes

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes from there on, less only at the end of a chunk; none at the end of the content.

        :raises AgeError: it is not what was written.
        """
        number, place = divmod(self._offset, CHUNK_BYTES)
        if number != self._number:
            if self._is_last and number > self._number:
                return b""
            self._load(number)
        data = self._chunk[place : place + size]
        self._offset += len(data)
        return data

    def _load(self, number: int) -> None:
        """Read a chunk, and behind the last one prove that the file ends."""
        self._number, self._is_last = -1, False
        self._source.seek(self._begin + number * SEALED_CHUNK_BYTES)
        sealed = self._take(SEALED_CHUNK_BYTES)
        if not sealed:
            raise AgeError(f"it ends before its chunk {number}")
        # Only the last one is short.
        chunk, is_last = self._chunks.open(number, sealed, last=None if len(sealed) == SEALED_CHUNK_BYTES else True)
        if not chunk and number:
            raise AgeError(f"its chunk {number} is empty")
        self._number, self._chunk, self._is_last = number, chunk, is_last

    def prove_end(self) -> None:
        """Prove that nothing follows the last chunk, which is in memory.

        :raises AgeError: the chunk in memory is not the last one, or something follows.
        """
        if not self._is_last:
            raise AgeError("it goes on")
        if self._source.read(1):
            raise AgeError("something follows its last chunk")

    def _take(self, size: int) -> bytes:
        data = self._source.read(size)
        while data and len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                break
            data += more
        return data
