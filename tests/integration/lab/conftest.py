# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One small lab for all tests of this folder, and for those of providers that need a SAN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.splitmirror.backup.tests.lab.description import DEFAULT_FILE, load
from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab, missing_packages

SMALL = ("database_hosts.count=1", "media_servers.volume_mib=64", "media_servers.scratch_mib=1024")


@pytest.fixture(scope="session")
def lab_tools() -> None:
    """Skip where the lab cannot stand, and say what is missing."""
    missing = missing_packages()
    if missing:
        pytest.skip(f"the lab needs these Debian packages: {' '.join(missing)}")


@pytest.fixture(scope="session")
def lab(lab_tools: None) -> Iterator[RunningLab]:
    """Yield a lab of one array, one database host and one media server that is up."""
    running = RunningLab("pytest")
    running.up(load(DEFAULT_FILE, SMALL))
    try:
        yield running
    finally:
        running.down()
