# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``proof`` and ``memory``: what the media server does beside reading."""

from __future__ import annotations

import statistics

from . import trees
from .rig import MIB, Options, Result, in_turn, make_disk, map_folder, mirror, primary, time_into_cat, weigh, work

#: LTO-9, uncompressed.
_TAPE_BYTES_S = 400e6
_HOST_MIB, _MEDIA_MIB = 150, 256
_BUFFER_BYTES = 256 * MIB


def proof(options: Options) -> Result:
    """The full proof of 100,000 files beside the writing of them; the rival is the writing alone."""
    count = options.count(100_000)
    image = make_disk(options.folder, 600 + count * 24 // 1024, "-N", str(count + count // 5 + 5000))
    with primary(options.folder, image) as (mount, device):
        trees.small_files(mount / "data", count)
        root = mount
        map_folder(options.folder / "map", mount / "data", device)
    with mirror(options.folder, image) as (mount, device):
        base = work("write", "--map", options.folder / "map", "--device", device)
        proved = [*base, "--mount", str(mount), "--proof", "full"]
        tape = ["--limit", str(_TAPE_BYTES_S)]
        ours, rival, ours_tape, rival_tape = in_turn(
            options.runs,
            lambda: time_into_cat(*proved),
            lambda: time_into_cat(*base),
            lambda: time_into_cat(*proved, *tape),
            lambda: time_into_cat(*base, *tape),
        )
    assert root != mount
    return Result(
        "proof",
        "time of writing with full proof / without; both cold, through a pipe that takes all that comes",
        statistics.median(ours) / statistics.median(rival),
        1.1,
        False,
        "s",
        ours,
        rival,
        "writing without proof",
        {
            "files": count,
            "at_400_mb_per_s": {
                "ratio": round(statistics.median(ours_tape) / statistics.median(rival_tape), 3),
                "ours": [round(value, 3) for value in ours_tape],
                "rival": [round(value, 3) for value in rival_tape],
            },
        },
    )


def memory(options: Options) -> Result:
    """1,000,000 files: the memory of the processes that map and check, and of those that prove, encrypt and write."""
    count = options.count(1_000_000)
    image = make_disk(options.folder, 1024 + count * 6 // 1024, "-N", str(count + count // 5 + 5000))
    map_path = options.folder / "map"
    with primary(options.folder, image) as (mount, device):
        trees.tiny_files(mount / "data", count)
        host_mib, host_s = weigh(
            *work("host", "--map", map_path, "--device", device, "--root", mount / "data", "--mount", mount)
        )
    with mirror(options.folder, image) as (mount, device):
        media_mib, media_s = weigh(
            *work(
                "tape", "--map", map_path, "--device", device, "--state", options.folder / "state",
                "--buffer", _BUFFER_BYTES, "--encrypt",
            )
        )  # fmt: skip
    buffer_mib = _BUFFER_BYTES / MIB
    return Result(
        "memory",
        "peak memory / what is allowed, of the worse of database host (150 MiB) and media server (256 MiB and buffer)",
        max(host_mib / _HOST_MIB, media_mib / (_MEDIA_MIB + buffer_mib)),
        1.0,
        False,
        "MiB",
        [host_mib, media_mib],
        [_HOST_MIB, _MEDIA_MIB + buffer_mib],
        "what is allowed on the database host and on the media server",
        {"files": count, "buffer_mib": buffer_mib, "map_and_check_s": round(host_s, 1), "write_s": round(media_s, 1)},
    )
