# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one error of the collection: a sentence that says what is wrong and what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Optional

_MOST_SHOWN = 80


class SplitMirrorError(Exception):
    """A refusal or a failure, told in one clear sentence.

    Packages derive their own errors from it; modules turn every one of them into ``fail_json``.

    :param message: which option, what is wrong, what would be right.
    :param option: the name of the option at fault, if one is.
    :param code: what kind of failure it is, in a word that stays the same when the sentence changes; docs/errors.md
        lists all of them. None is that of the class.
    :ivar facts: what a module returns beside the sentence.
    """

    code: str = "failed"
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, option: Optional[str] = None, *, code: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.option = option
        if code is not None:
            self.code = code


def cut(text: str) -> str:
    """A text from elsewhere as messages show it: only its beginning if it is long."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def shorten(value: Any) -> str:
    """A value from elsewhere as messages show it: as Python writes it, and only its beginning if that is long."""
    if isinstance(value, int) and value.bit_length() > 256:
        # Python may refuse to write thousands of digits.
        return f"a number of {value.bit_length()} bits"
    try:
        # Cut first: repr of a long text is long, too.
        return cut(repr(value[: 2 * _MOST_SHOWN] if isinstance(value, (str, bytes)) else value))
    except RecursionError:
        return "something nested too deep"
