# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bech32 (BIP 173), the form in which age writes keys: ``age1…`` and ``AGE-SECRET-KEY-1…``.

A key of age is longer than the 90 characters of the standard; otherwise nothing differs.
"""

from __future__ import annotations

from collections.abc import Iterable

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {letter: value for value, letter in enumerate(_LETTERS)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LETTERS = 6


def encode(prefix: str, data: bytes) -> str:
    """Data behind a prefix in small letters, in small letters."""
    values = list(_regroup(data, 8, 5, pad=True))
    return f"{prefix}1{''.join(_LETTERS[value] for value in [*values, *_checksum(prefix, values)])}"


def decode(text: str) -> tuple[str, bytes]:
    """The prefix in small letters, and the data. :raises ValueError: it is not Bech32, or a letter is wrong."""
    if text not in (text.lower(), text.upper()):
        raise ValueError("it has small and capital letters")
    prefix, mark, rest = text.lower().rpartition("1")
    if not mark or not prefix or len(rest) < _CHECKSUM_LETTERS:
        raise ValueError("it is too short")
    if not all(33 <= ord(letter) <= 126 for letter in prefix) or not all(letter in _VALUES for letter in rest):
        raise ValueError("it has a character that no key has")
    values = [_VALUES[letter] for letter in rest]
    data, checksum = values[:-_CHECKSUM_LETTERS], values[-_CHECKSUM_LETTERS:]
    if checksum != _checksum(prefix, data):
        raise ValueError("its checksum is wrong")
    return prefix, bytes(_regroup(data, 5, 8, pad=False))


def _checksum(prefix: str, values: Iterable[int]) -> list[int]:
    expanded = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    state = 1
    for value in [*expanded, *values, *[0] * _CHECKSUM_LETTERS]:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate(_GENERATOR):
            state ^= factor if top >> bit & 1 else 0
    state ^= 1
    return [state >> 5 * (_CHECKSUM_LETTERS - 1 - place) & 31 for place in range(_CHECKSUM_LETTERS)]


def _regroup(values: Iterable[int], bits: int, to_bits: int, *, pad: bool) -> Iterable[int]:
    """Numbers of so many bits as numbers of other length. :raises ValueError: the bits left over are not padding."""
    state = held = 0
    for value in values:
        state = state << bits | value
        held += bits
        while held >= to_bits:
            held -= to_bits
            yield state >> held
            state &= (1 << held) - 1
    if pad and held:
        yield state << to_bits - held
    elif held >= bits or state:
        raise ValueError("it does not end with a whole byte")
