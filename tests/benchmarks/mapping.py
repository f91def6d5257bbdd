# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``map`` and ``check``: what the database host does, before the window and in it."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes, sync_filesystem
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.tests.support.fsload import frozen

from . import trees
from .rig import LUN, SESSION, Options, Result, drop_caches, in_turn, make_disk, primary, time_alone, work

_CHANGED = 100
_MOST_MS = 50
_APPEND = "import sys\nfor path in sys.stdin.read().split():\n    open(path, 'ab').write(b'changed' * 1000)\n"


def mapping(options: Options) -> Result:
    """100,000 files; the rival is filefrag over the same."""
    count = options.count(100_000)
    image = make_disk(options.folder, 600 + count * 24 // 1024, "-N", str(count + count // 5 + 5000))
    with primary(options.folder, image) as (mount, device):
        root = mount / "data"
        trees.small_files(root, count)
        command = work("map", "--map", options.folder / "map", "--device", device, "--root", root)
        ours, rival = in_turn(
            options.runs,
            lambda: time_alone(*command),
            lambda: time_alone("find", str(root), "-type", "f", "-exec", "filefrag", "{}", "+"),
        )
    return Result(
        "map",
        "time to make the map (names, attributes, extents; in a file) / time of filefrag over the same files; cold",
        statistics.median(ours) / statistics.median(rival),
        1.3,
        False,
        "s",
        ours,
        rival,
        "find -exec filefrag {} +",
        {"files": count, "files_per_s": round(count / statistics.median(ours))},
    )


def check(options: Options) -> Result:
    """The check in the window, with 100 files changed and ever more of them mapped."""
    full = (1000, 100_000, 1_000_000)
    counts = [max(number * 2 * _CHANGED, round(count * options.scale)) for number, count in enumerate(full, 1)]
    total = sum(counts)
    image = make_disk(options.folder, 1024 + total * 6 // 1024, "-N", str(total + total // 5 + 5000))
    runs = 2 * options.runs + 1
    found = {}
    with primary(options.folder, image) as (mount, device):
        for count in counts:
            root = mount / f"data{count}"
            trees.tiny_files(root, count)
            found[count] = _check_ms(options.folder / "map", root, device, runs)
            drop_caches()
    medians = [statistics.median(found[count]) for count in counts]
    return Result(
        "check",
        "time of the check while frozen with the most files mapped / with the fewest, 100 changed; and none over 50 ms",
        medians[-1] / medians[0],
        1.2,
        False,
        "ms",
        found[counts[-1]],
        found[counts[0]],
        f"the same with {counts[0]} files mapped",
        {
            "median_ms_by_files": dict(zip(map(str, counts), [round(ms, 2) for ms in medians])),
            "runs_ms_by_files": {str(count): [round(ms, 2) for ms in found[count]] for count in counts},
        },
        also=max(medians) <= _MOST_MS,
    )


def _check_ms(map_path: Path, root: Path, device: str, runs: int) -> list[float]:
    found = []
    dice = random.Random(1)
    tracker = Tracker([str(root.parent)])
    tracker.start()
    try:
        with MapFile.create(str(map_path), SESSION, "bench") as made:
            map_scopes(made, [Scope(str(root))], [LunSpec(LUN, device)])
        with MapFile.open(str(map_path), SESSION) as opened:
            folders = sorted(root.iterdir())
            files = [path for folder in dice.sample(folders, min(5, len(folders))) for path in sorted(folder.iterdir())]
            for _dummy in range(runs):
                pre_check(opened, tracker)
                paths = " ".join(map(str, dice.sample(files, _CHANGED)))
                subprocess.run([sys.executable, "-c", _APPEND], input=paths, text=True, check=True)
                sync_filesystem(os.fsencode(root))
                with frozen(root.parent):
                    began = time.monotonic()
                    counts = check_map(opened, tracker)
                    found.append((time.monotonic() - began) * 1000)
                assert counts.remapped == _CHANGED, counts
    finally:
        tracker.close()
    return found
