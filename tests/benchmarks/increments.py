# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``incremental``: what a session costs of which nearly nothing changed."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import sync_filesystem
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.since import TICK_NS

from . import trees
from .rig import Options, Result, drop_caches, make_disk, map_folder, mirror, primary, time_alone, weigh, work

_ALLOWED_S = 3.0
_CHANGED_EVERY = 1000


def incremental(options: Options) -> Result:
    """1,000,000 files, of which 0.1 % changed since the base; mapping and proof are not counted."""
    count = options.count(1_000_000)
    image = make_disk(options.folder, 1024 + count * 6 // 1024, "-N", str(count + count // 5 + 5000))
    with primary(options.folder, image) as (mount, device):
        root = mount / "data"
        trees.tiny_files(root, count)
        map_folder(options.folder / "base", root, device)
        # As if all files had been there for a while.
        _check(options.folder / "base", time.time_ns() + TICK_NS)
        for path in itertools.islice(_files(root), 0, None, min(_CHANGED_EVERY, count // 2)):
            with open(path, "ab") as file:
                file.write(b"changed")
        sync_filesystem(os.fsencode(root))
        map_folder(options.folder / "later", root, device)
        _check(options.folder / "later", time.time_ns() + TICK_NS)
    with mirror(options.folder, image) as (_mount, device):
        numbers = itertools.count()

        def session(source: str, proof: str) -> list[str]:
            """The command that writes the next session. All of them but the first build on the first one."""
            name = f"s{next(numbers)}"
            path = options.folder / f"map-{name}"
            shutil.copyfile(options.folder / source, path)
            with MapFile.open(str(path)) as map_file:
                map_file.set_meta("session", name)
            state = options.folder / "state"
            return work(
                "session", "--map", path, "--device", device, "--state", state, "--session", name, "--proof", proof
            )

        full_s = time_alone(*session("base", "none"))
        ours = []
        for _dummy in range(options.runs):
            command = session("later", "none")
            drop_caches()
            ours.append(time_alone(*command))
        peak_mib, _dummy_s = weigh(*session("later", "none"))
        proved_s = time_alone(*session("later", "full"))
    return Result(
        "incremental",
        "time of all but mapping and proof for a session of which 0.1 % of the files changed / what is allowed; cold",
        statistics.median(ours) / _ALLOWED_S,
        1.0,
        False,
        "s",
        ours,
        [_ALLOWED_S] * len(ours),
        "what is allowed",
        {
            "files": count,
            "peak_mib": round(peak_mib),
            "with_full_proof_s": round(proved_s, 1),
            "full_session_s": round(full_s, 1),
            "load": [round(value, 1) for value in os.getloadavg()],
        },
    )


def _check(map_path: Path, checked_ns: int) -> None:
    with MapFile.open(str(map_path)) as map_file:
        map_file.set_meta("checked_ns", str(checked_ns))
        map_file.set_state("checked")


def _files(root: Path) -> Iterator[str]:
    for folder, _folders, names in os.walk(root):
        for name in names:
            yield os.path.join(folder, name)
