# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures of the tests of tapes and of what is done with them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.tests.support.tape import Library

# Before any test: some let Ansible find collections by itself from then on (init_plugin_loader), and then a namespace
# package that Python has found already gives no further module.
for _path in sorted((Path(__file__).resolve().parents[2] / "plugins/modules").glob("*.py")):
    importlib.import_module(f"ansible_collections.splitmirror.backup.plugins.modules.{_path.stem}")


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
