# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``crypt``: what encryption costs the writing of a session."""

from __future__ import annotations

import statistics
import time

from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.age import (
    CHUNK_BYTES,
    SEALED_CHUNK_BYTES,
    Chunks,
)

from .reading import large_mirror, small_mirror
from .rig import MIB, Options, Result, in_turn, time_into_cat

_BAR = 0.7
_CIPHER_MB_S = 400
_CIPHER_BYTES = 256 * MIB


def crypt(options: Options) -> Result:
    """The files of ``small`` and of ``large``, encrypted, and in the clear; and the cipher alone."""
    with small_mirror(options) as (_mount, plain):
        small = _both(options, plain)
    for name in ("lun.img", "map"):
        (options.folder / name).unlink()
    with large_mirror(options) as (_mount, plain):
        large = _both(options, plain)
    cipher = _cipher_mb_s()
    return Result(
        "crypt",
        "time of writing in the clear / encrypted, the worse of small and large; both cold, with checksums, by a pipe",
        min(_ratio(small), _ratio(large)),
        _BAR,
        True,
        "s",
        [*small[0], *large[0]],
        [*small[1], *large[1]],
        "the same in the clear",
        {
            **{
                name: {
                    "ratio": round(_ratio(found), 3),
                    "encrypted_s": [round(value, 3) for value in found[0]],
                    "in_the_clear_s": [round(value, 3) for value in found[1]],
                }
                for name, found in (("small", small), ("large", large))
            },
            "cipher_mb_per_s_of_one_core": round(cipher),
        },
        cipher >= _CIPHER_MB_S,
    )


def _both(options: Options, plain: list[str]) -> tuple[list[float], list[float]]:
    """Seconds encrypted, and in the clear."""
    ours, rival = in_turn(options.runs, lambda: time_into_cat(*plain, "--encrypt"), lambda: time_into_cat(*plain))
    return ours, rival


def _ratio(found: tuple[list[float], list[float]]) -> float:
    ours, rival = found
    return statistics.median(rival) / statistics.median(ours)


def _cipher_mb_s() -> float:
    """Megabytes that one core encrypts in a second of its time."""
    chunks, plain = Chunks(bytes(16), bytes(16)), memoryview(bytearray(CHUNK_BYTES))
    sealed = memoryview(bytearray(SEALED_CHUNK_BYTES))
    began = time.process_time()
    for number in range(_CIPHER_BYTES // CHUNK_BYTES):
        chunks.seal_into(number, plain, sealed, last=False)
    return _CIPHER_BYTES / 1e6 / (time.process_time() - began)
