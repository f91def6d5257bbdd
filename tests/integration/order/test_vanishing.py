# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo is taken away. These tests come last, for it is gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import Demo

from .pausing import kill_after

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_demo_goes_away_with_what_a_killed_run_left(bench: Demo, tmp_path: Path) -> None:
    kill_after(bench, "prepare", tmp_path)
    assert bench.daemon("array1", "splitter")
    bench.bring("absent")
    assert not bench.folder.exists()
    bench.folder.mkdir(mode=0o755)
