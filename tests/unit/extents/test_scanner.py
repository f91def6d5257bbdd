# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attributes as they lie in an inode of ext4: all of them are read, or the kernel is to be asked."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import pack_xattrs
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scanner import parse_attributes

MAGIC = b"\0\0\x02\xea"
PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}
ATTRIBUTES = st.dictionaries(
    st.tuples(st.sampled_from([*PREFIXES, 2, 7]), st.binary(min_size=1, max_size=20)),
    st.binary(max_size=20),
    max_size=4,
)


def area_of(attributes: dict[tuple[int, bytes], bytes], inode: int = 0, size_bytes: int = 400) -> bytes:
    """What ext4 writes: entries from the front, values from the end, and offsets from the first entry on."""
    entries, values = b"", b""
    for (prefix, name), value in attributes.items():
        values = value + bytes(-len(value) % 4) + values
        place = size_bytes - len(MAGIC) - len(values)
        entries += struct.pack("<BBHIII", len(name), prefix, place, inode, len(value), 0) + name + bytes(-len(name) % 4)
    return MAGIC + entries + bytes(size_bytes - len(MAGIC) - len(entries) - len(values)) + values


@given(ATTRIBUTES)
def test_attributes_are_read_unless_the_kernel_translates_them(attributes: dict[tuple[int, bytes], bytes]) -> None:
    found = parse_attributes(area_of(attributes))
    if all(prefix in PREFIXES for prefix, _name in attributes):
        assert found == (pack_xattrs({PREFIXES[prefix] + name: value for (prefix, name), value in attributes.items()}),)
    else:
        assert found is None


def test_a_value_in_an_inode_of_its_own_is_left_to_the_kernel() -> None:
    assert parse_attributes(area_of({(1, b"a"): b"b"}, inode=77)) is None


@given(st.binary(max_size=200))
def test_what_is_damaged_raises_nothing(rest: bytes) -> None:
    found = parse_attributes(MAGIC + rest)
    assert found is None or len(found) == 1
