# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sparse files in the form GNU.sparse 1.0 ("Sparse Formats" in the manual of GNU tar; libarchive reads it too).

The map stands in front of the data, in decimal lines padded to a block: the number of pieces, then offset and length
of each. The data of the pieces follow without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

from .model import BLOCK_BYTES
from .pax import Record, pad

Piece = tuple[int, int]


def sparse_map(pieces: Sequence[Piece], size: int) -> bytes:
    """The map of a file of ``size`` bytes with data only in ``pieces`` (offset, length), padded to a block.

    A file that ends in a hole gets an empty piece at its end, which makes GNU tar extend it to its size.
    """
    ends = list(pieces)
    if not ends or sum(ends[-1]) < size:
        ends.append((size, 0))
    text = b"%d\n" % len(ends) + b"".join([b"%d\n%d\n" % piece for piece in ends])
    return text + bytes(pad(len(text)))


def sparse_records(name: bytes, size: int) -> list[Record]:
    """The records that tell readers how to take the member."""
    return [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", b"%d" % size),
    ]


def sparse_header_name(name: bytes) -> bytes:
    """What stands in the ustar header: a reader that does not know the form extracts it under this name."""
    return b"GNUSparseFile.0/" + name.rpartition(b"/")[2][-80:]


def is_worth_it(stored_bytes: int, map_bytes: int, size: int) -> bool:
    """Whether leaving out the holes makes the member smaller by at least one block."""
    return stored_bytes + pad(stored_bytes) + map_bytes + BLOCK_BYTES <= size
