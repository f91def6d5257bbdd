# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each bench runs, on a thousandth of its files, and tells what docs/benchmarks.md promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.benchmarks.__main__ import BENCHES

pytestmark = [pytest.mark.root, pytest.mark.slow]

MODULE = "ansible_collections.splitmirror.backup.tests.benchmarks"


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_prints_one_object(scratch: Path, name: str) -> None:
    words = [name, "--json", "--scale", "0.001", "--runs", "2", "--folder", str(scratch)]
    done = subprocess.run(
        [sys.executable, "-m", MODULE, *words],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["bench"] == name
    assert found["ratio"] > 0
    assert all(figure > 0 for side in ("ours", "rival") for figure in found[side]["runs"])
    assert len(found["ours"]["runs"]) == len(found["rival"]["runs"]) or name == "check"
    assert found["reached"] in (True, False)
    assert found["machine"]["cores"] > 0
    assert not any(scratch.iterdir())
