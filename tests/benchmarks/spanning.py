# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``span``: what it costs that a session goes over several volumes."""

from __future__ import annotations

import shutil
import statistics

from .reading import large_mirror, small_mirror
from .rig import Options, Result, in_turn, time_alone

_BAR = 0.97
_VOLUMES = 10


def span(options: Options) -> Result:
    """The files of ``large``, two of which cross volumes, and of ``small``, over ten volumes; and on one volume."""
    with large_mirror(options) as (_mount, command):
        large = _both(options, command)
    for name in ("lun.img", "map"):
        (options.folder / name).unlink()
    with small_mirror(options) as (_mount, command):
        small = _both(options, command)
    ours = [sum(pair) for pair in zip(large[0], small[0])]
    rival = [sum(pair) for pair in zip(large[1], small[1])]
    return Result(
        "span",
        f"time of a session on one virtual volume / over {_VOLUMES}, large and small together; both cold",
        statistics.median(rival) / statistics.median(ours),
        _BAR,
        True,
        "s",
        ours,
        rival,
        "the same on one volume",
        {
            name: {
                "ratio": round(statistics.median(found[1]) / statistics.median(found[0]), 3),
                "spanning_s": [round(value, 3) for value in found[0]],
                "on_one_volume_s": [round(value, 3) for value in found[1]],
            }
            for name, found in (("large", large), ("small", small))
        },
    )


def _both(options: Options, command: list[str]) -> tuple[list[float], list[float]]:
    """Seconds over several volumes, and on one."""
    state = options.folder / "state"
    tape = ["tape" if word == "write" else word for word in command]

    def write(volumes: int) -> float:
        took_s = time_alone(*tape, "--state", str(state), "--volumes", str(volumes))
        shutil.rmtree(state)
        return took_s

    ours, rival = in_turn(options.runs, lambda: write(_VOLUMES), lambda: write(1))
    return ours, rival
