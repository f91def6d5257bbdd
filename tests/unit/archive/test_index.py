# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index gives back what went in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import (
    head_line,
    index_name,
    member_line,
    read_head,
    read_member,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, MemberRecord

NAMES = st.one_of(
    st.binary(min_size=1, max_size=50),
    st.text(min_size=1, max_size=50).map(
        lambda t: t.encode("utf-8", "surrogateescape") if t.isascii() else t.encode("utf-8", "replace")
    ),
)
MEMBERS = st.builds(
    MemberRecord,
    path=NAMES,
    kind=st.sampled_from("fdlcbph"),
    size=st.integers(0, 2**63),
    offset_bytes=st.integers(0, 2**50),
    header_bytes=st.integers(512, 2**20),
    sha256=st.one_of(st.none(), st.binary(min_size=32, max_size=32).map(bytes.hex)),
    mtime_ns=st.integers(-(2**62), 2**64),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    linkname=st.one_of(st.none(), NAMES),
    header_digest=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
)


@given(MEMBERS)
def test_a_member_comes_back(member: MemberRecord) -> None:
    line = member_line(member)
    assert line.isascii()
    assert line.count(b"\n") == 1
    json.loads(line)
    assert read_member(line) == member


def test_the_head_comes_back() -> None:
    head = read_head(head_line({"session": "s", "host": "hörst"}))
    assert head == {"format_version": 2, "session": "s", "host": "hörst"}
    assert index_name("s") == b".splitmirror/s/index.jsonl"


INFINITE = (
    b'{"path":"a","kind":"d","size":1e999,"offset_bytes":0,"header_bytes":512,"mtime_ns":0,"mode":0,"uid":0,"gid":0}'
)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"path":"a","kind":"f"}', INFINITE])
def test_a_damaged_line_is_refused(line: bytes) -> None:
    with pytest.raises(ArchiveError, match="index"):
        read_member(line)


def test_another_format_is_refused() -> None:
    with pytest.raises(ArchiveError, match="format 3"):
        read_head(b'{"format_version": 3}')
