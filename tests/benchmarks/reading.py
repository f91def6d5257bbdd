# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``small``, ``small-aged``, ``large``: from the mirror to the archive, against the tools that people have."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.splitmirror.backup.tests.support.blockdev import run

from . import trees
from .rig import MIB, Options, Result, in_turn, make_disk, map_folder, mirror, primary, time_into_cat, work

_GIB = 1 << 30


def small(options: Options, *, aged: bool = False) -> Result:
    """100,000 files of 4 to 16 KiB; the rival is GNU tar on the mounted mirror."""
    count = options.count(100_000)
    with small_mirror(options, aged=aged) as (mount, command):
        ours, rival = in_turn(
            options.runs,
            lambda: time_into_cat(*command),
            lambda: time_into_cat("tar", "--create", "--file=-", "--directory", str(mount), "data"),
        )
    return Result(
        "small-aged" if aged else "small",
        "time of GNU tar on the mounted mirror / ours, checksums and index included; both cold, through a pipe",
        statistics.median(rival) / statistics.median(ours),
        3.0 if aged else 5.0,
        True,
        "s",
        ours,
        rival,
        run("tar", "--version").stdout.splitlines()[0],
        {
            "files": count,
            "files_per_s": round(count / statistics.median(ours)),
        },
    )


@contextlib.contextmanager
def small_mirror(options: Options, *, aged: bool = False) -> Iterator[tuple[Path, list[str]]]:
    """The mirror of 100,000 files of 4 to 16 KiB: where it is mounted, and the command that writes the archive."""
    count = options.count(100_000)
    image = make_disk(options.folder, 600 + count * 24 // 1024, "-N", str(count + count // 5 + 5000))
    with primary(options.folder, image) as (mount, device):
        trees.small_files(mount / "data", count, aged=aged)
        map_folder(options.folder / "map", mount / "data", device)
    with mirror(options.folder, image) as (mount, device):
        yield mount, work("write", "--map", options.folder / "map", "--device", device)


def small_aged(options: Options) -> Result:
    """The same files, written in any order, a third of them again."""
    return small(options, aged=True)


def large(options: Options) -> Result:
    """4 files of 1 GiB; the rival is dd with O_DIRECT."""
    size = _size_of_large(options)
    with large_mirror(options) as (mount, command):
        files = sorted((mount / "data").iterdir())
        ours, rival = in_turn(
            options.runs,
            lambda: time_into_cat(*command),
            lambda: sum(_dd(path) for path in files),
        )
    total = 4 * size
    return Result(
        "large",
        "time of dd with O_DIRECT for the same files / ours, checksums and index included; both cold, through a pipe",
        statistics.median(rival) / statistics.median(ours),
        0.95,
        True,
        "s",
        ours,
        rival,
        "dd bs=1M iflag=direct",
        {
            "bytes": total,
            "mib_per_s": round(total / MIB / statistics.median(ours)),
            "rival_mib_per_s": round(total / MIB / statistics.median(rival)),
        },
    )


@contextlib.contextmanager
def large_mirror(options: Options) -> Iterator[tuple[Path, list[str]]]:
    """The mirror of 4 files of 1 GiB: where it is mounted, and the command that writes the archive."""
    size = _size_of_large(options)
    image = make_disk(options.folder, 512 + 5 * size // MIB)
    with primary(options.folder, image) as (mount, device):
        trees.large_files(mount / "data", 4, size)
        map_folder(options.folder / "map", mount / "data", device)
    with mirror(options.folder, image) as (mount, device):
        yield mount, work("write", "--map", options.folder / "map", "--device", device)


def _size_of_large(options: Options) -> int:
    return max(MIB, round(_GIB * options.scale) // MIB * MIB)


def _dd(path: Path) -> float:
    return time_into_cat("dd", f"if={path}", "bs=1M", "iflag=direct", "status=none")
