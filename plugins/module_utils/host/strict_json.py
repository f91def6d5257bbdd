# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON (RFC 8259) that others may have written or damaged."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse_json(data: bytes) -> Any:
    """Parse a JSON text; unlike json.loads, take no number that is infinite or none, and no half of a surrogate pair.

    Both would be refused later, by a database or a file name, with a message that does not name the text.

    :raises ValueError: it is not such a text. Texts that are nested too deep for the parser count, too.
    """
    try:
        value = _DECODER.decode(data.decode())
        if b"\\ud" in data or b"\\uD" in data:  # all surrogates begin so; most names have none
            json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
