# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON (RFC 8259) that others may have written or damaged, and the numbers in it."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, Union

from ..errors import shorten

#: The most that a number of ours can be: what 64 bits hold.
MOST = (1 << 63) - 1


def whole(value: Any, least: int = 0, most: int = MOST) -> int:
    """A whole number in a range. :raises ValueError: it is something else; a bool is not a number."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise ValueError(f"{shorten(value)} is not a whole number from {least} to {most}")


def number(value: Any, least: float = 0, most: float = MOST) -> float:
    """A number in a range, as whole; a fraction is accepted."""
    # Compared as they are: a float cannot be made of every int.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise ValueError(f"{shorten(value)} is not a number from {least} to {most}")


def text(value: Any) -> str:
    """A text. :raises ValueError: it is something else."""
    if isinstance(value, str):
        return value
    raise ValueError(f"{shorten(value)} is not a text")


def read_json(path: str) -> Any:
    """The JSON text in a file of ours. :raises OSError: it cannot be read. :raises ValueError: see parse_own_json."""
    with open(path, "rb") as stream:
        return parse_own_json(stream.read())


def parse_own_json(data: Union[bytes, str]) -> Any:
    """Parse a JSON text that processes of ours exchange; unlike json.loads, take no number that is infinite or none.

    Names that are not UTF-8 have halves of surrogate pairs in them, as in os.fsdecode.

    :raises ValueError: it is not such a text. Texts that are nested too deep for the parser count, too.
    """
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


def parse_json(data: bytes) -> Any:
    """Parse a JSON text as parse_own_json, and take no half of a surrogate pair either.

    It would be refused later, by a database or a file name, with a message that does not name the text.

    :raises ValueError: see parse_own_json.
    """
    value = parse_own_json(data)
    if b"\\ud" in data or b"\\uD" in data:  # all surrogates begin so; most names have none
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
