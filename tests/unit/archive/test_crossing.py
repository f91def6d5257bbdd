# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The headers with which a tape file goes on with a member: written, read back, and damaged."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.crossing import (
    Crossing,
    comment_of,
    crossing,
    lead_of,
    read_lead,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.members import MemberPlan
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import HeaderMaker
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry

BLOCK = 512
HEAD: dict[str, Any] = {"session": "s1", "part": 3, "volumes": ["V1", "V2"], "last": False}


def member(name: bytes, size: int) -> Crossing:
    entry = FileEntry(b"/" + name, "f", mode=0o640, uid=3_000_000, size=size, mtime_ns=1_700_000_000_000_000_001)
    return crossing(entry, MemberPlan(name, "f", size, None, bytes(BLOCK)), 0)


def made(name: bytes, size: int, left: int, record_bytes: int, head: dict[str, Any]) -> bytes:
    return lead_of(member(name, size), left, head, HeaderMaker(Owners()), record_bytes)


@settings(max_examples=60)
@given(
    name=st.binary(min_size=1, max_size=300).filter(lambda name: not set(name) & {0, 10} and not name.endswith(b"/")),
    size=st.integers(1, 1 << 45),
    part=st.integers(1, 1 << 45),
    blocks=st.sampled_from([1, 2, 3, 20, 2048]),
    words=st.integers(0, 3000),
)
def test_what_a_lead_says_is_read_back(name: bytes, size: int, part: int, blocks: int, words: int) -> None:
    left = part % size + 1
    head = {**HEAD, "evidence": "x" * words}
    lead = made(name, size, left, blocks * BLOCK, head)
    assert not len(lead) % (blocks * BLOCK)
    found = read_lead(lead[:BLOCK], io.BytesIO(lead[BLOCK:]), blocks * BLOCK)
    assert (found.name, found.left, found.offset, found.lead_bytes) == (name, left, size - left, len(lead))
    assert head.items() <= found.head.items()
    # No record more than it takes.
    assert len(lead) < len(comment_of(head)) + len(name) + 6 * BLOCK + blocks * BLOCK


def test_any_damage_of_a_lead_is_found() -> None:
    lead = made(b"srv/data", 1 << 40, 1 << 39, BLOCK, HEAD)
    for place in range(len(lead)):
        bad = bytearray(lead)
        bad[place] ^= 1 << place % 8
        with pytest.raises(ArchiveError):
            read_lead(bytes(bad[:BLOCK]), io.BytesIO(bytes(bad[BLOCK:])), BLOCK)


@pytest.mark.parametrize("length", [0, 1, BLOCK, 3 * BLOCK])
def test_a_lead_that_is_cut_short_is_refused(length: int) -> None:
    lead = made(b"srv/data", 1000, 10, BLOCK, HEAD)
    with pytest.raises(ArchiveError):
        read_lead(lead[:BLOCK].ljust(BLOCK, b"\0"), io.BytesIO(lead[BLOCK : BLOCK + length]), BLOCK)
