# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What parse_json takes, and who uses it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import (
    FORMAT_VERSION,
    read_head,
    read_member,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.strict_json import parse_json
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.label import new_label, pack_label, unpack_label

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
#: Texts that json.loads takes, or on which it ends with another error than ValueError.
ODD = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\\ud800"', b'"\\udc80x"', b"[" * 100_000, b'{"a":' * 100_000]


@pytest.mark.slow
@given(VALUES, st.booleans())
def test_every_value_comes_back(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary())
def test_noise_is_a_value_or_an_error(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError:
        pass


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:12])
def test_what_would_be_refused_later_is_refused(text: bytes) -> None:
    for whole in (text, b"[%b]" % text, b'{"key":%b}' % text):
        with pytest.raises(ValueError):  # noqa: PT011 - it says no more
            parse_json(whole)


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:12])
def test_no_reader_of_a_tape_ends_otherwise(text: bytes) -> None:
    head = b'{"format_version":%d,"created_s":%b}' % (FORMAT_VERSION, text)
    for read in (read_head, read_member):
        with pytest.raises(ArchiveError):
            read(head)
    label = pack_label(new_label("V1", "daily", 1 << 20))
    content = label.index(b"{")
    room = label.rindex(b"}") + 1 - content
    told = b'{"splitmirror_volume":1,"pool":%b' % text[: room - 40]
    assert unpack_label(label[:content] + told.ljust(room - 1) + b"}" + label[content + room :]).label is None


def test_a_version_is_a_number() -> None:
    with pytest.raises(ArchiveError, match="format True"):
        read_head(b'{"format_version":true}')
