# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a process finds the control groups of a host, whatever is mounted there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder.outside import root_of
from ansible_collections.splitmirror.backup.tests.support.blockdev import run
from ansible_collections.splitmirror.backup.tests.support.freezing import in_own_mounts


@pytest.mark.root
def test_a_mount_without_a_source_is_passed_over(tmp_path: Path) -> None:
    def look() -> None:
        run("mount", "-t", "tmpfs", "", str(tmp_path))
        assert root_of("no such controller") is None

    in_own_mounts(look)
