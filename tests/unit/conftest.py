# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of the tests of tapes and of what is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.tape import Library


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    """An empty library with a catalog."""
    made = Library(tmp_path)
    yield made
    made.catalog.close()


@pytest.fixture
def labelled(library: Library) -> Library:
    """A library with a labelled volume V1."""
    library.make()
    library.label()
    return library
