# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import Demo, demo


@pytest.fixture(scope="package")
def bench() -> Iterator[Demo]:
    """One demo for all tests of the order; each test leaves it ready for the next."""
    with demo() as made:
        made.must("label")
        yield made
