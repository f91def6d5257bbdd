# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of the holder share: file systems of their own, and a holder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.freezing import HolderUnderTest, file_system, holder


@pytest.fixture(params=["xfs", "ext4"])
def mount(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Path]:
    with file_system(scratch, request.param) as folder:
        yield folder


@pytest.fixture
def ext4(scratch: Path) -> Iterator[Path]:
    with file_system(scratch, "ext4") as folder:
        yield folder


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HolderUnderTest]:
    with holder(tmp_path) as running:
        yield running
