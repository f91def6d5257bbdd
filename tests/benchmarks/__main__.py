# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measure a part of the product against its rival: ``./run bench NAME [--json]``; docs/benchmarks.md tells of each."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import leave_mount_namespace

from . import encrypting, increments, mapping, plot, reading, rig, spanning, writing
from .rig import Options, Result

BENCHES: dict[str, Callable[[Options], Result]] = {
    "small": reading.small,
    "small-aged": reading.small_aged,
    "large": reading.large,
    "map": mapping.mapping,
    "check": mapping.check,
    "proof": writing.proof,
    "memory": writing.memory,
    "crypt": encrypting.crypt,
    "span": spanning.span,
    "incremental": increments.incremental,
}


def main() -> int:
    """Run one bench; the exit status is 0 whether or not the bar is reached."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHES, "plot"], help="plot draws docs/images/benchmarks.svg anew")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", action="store_true", help="keep the object in tests/benchmarks/results, for the plot")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full number of files, for quick trials")
    parser.add_argument("--runs", type=int, default=5, help="how often each side runs")
    parser.add_argument("--urgent", action="store_true", help="take the CPUs first, on a machine that has other work")
    parser.add_argument("--folder", default="/var/tmp", help="where the images lie; a disk that knows direct I/O")
    words = parser.parse_args()
    if words.name == "plot":
        plot.draw()
        return 0
    if os.geteuid():
        parser.error("this needs root, for loop devices, mounts and cold caches")
    if words.urgent:
        rig.take_cpus_first()
    # Clean up after this one too.
    signal.signal(signal.SIGTERM, lambda *_dummy: sys.exit(1))
    # Who copies the mounts of this machine meanwhile must not keep ours busy, and they end with this process.
    leave_mount_namespace()
    with tempfile.TemporaryDirectory(dir=words.folder, prefix="splitmirror-bench-") as folder:
        options = Options(Path(folder), words.scale, words.runs)
        facts = {**rig.machine(options.folder), "urgent": words.urgent}
        found = BENCHES[words.name](options).as_dict(options, facts)
    if words.save:
        plot.save(found)
    print(json.dumps(found, indent=None if words.json else 2) if words.json else _table(found))
    return 0


def _table(found: dict[str, Any]) -> str:
    ours, rival = found["ours"], found["rival"]
    verdict = "reached" if found["reached"] else "NOT reached"
    return (
        f"{found['bench']}: {found['ratio']} ({found['reached_when']}, which is {found['bar']}: {verdict})\n"
        f"  {found['meaning']}\n"
        f"  ours   {ours['median']} {found['unit']}: {ours['runs']}\n"
        f"  rival  {rival['median']} {found['unit']}: {rival['runs']} ({rival['name']})\n"
        f"  {found['details']}"
    )


if __name__ == "__main__":
    sys.exit(main())
