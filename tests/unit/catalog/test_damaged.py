# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A damaged catalog is a sentence or harmless, whatever is wrong with it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import (
    complete_parts,
    find_files,
    find_good_session,
    host_facts,
    session_facts,
    use_facts,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import VolumeUse
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.tests.support.tape import Library, folder, inline

ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "60"))
VALUES: list[Any] = [
    None, -1, 0, 1, 7, (1 << 63) - 1, -(1 << 63), 1.5, math.inf, "", "x", "good", "open", "[]", "{}", "[" * 9999,
    b"", b"\xff", b"f",
]  # fmt: skip


def made(path: Path) -> Path:
    """The catalog of a library with one good session."""
    library = Library(path)
    library.make()
    library.label()
    library.back_up("s1", [folder("/srv"), inline("/srv/a", b"hello"), inline("/srv/b", b"")])
    library.catalog.add_uses([VolumeUse("V1", "d", "write", "s1", 1.0, {"alerts": [20], "loads": 1, "serial": "x"})])
    library.catalog.close()
    return path / "catalog.sqlite"


def ask_all(path: Path) -> list[Any]:
    """All that modules ask of a catalog."""
    with Catalog.open(str(path)) as catalog:
        sessions = catalog.sessions()
        told: list[Any] = [catalog.volumes(), host_facts(sessions), catalog.volume("V1"), catalog.unexpired("V1")]
        told += [use_facts(use) for use in catalog.last_uses("V1")]
        for session in sessions:
            told += [session_facts(catalog, session), list(find_files(catalog, session, "*"))]
        session = find_good_session(catalog, "latest", "db1")
        told += [complete_parts(catalog, session), list(catalog.members(session.number, [b"srv/a"]))]
        return told


def test_a_whole_catalog_is_read(tmp_path: Path) -> None:
    assert len(ask_all(made(tmp_path))) == 9


@pytest.mark.slow
def test_a_wrong_value_in_any_column_is_a_sentence_or_harmless(tmp_path: Path) -> None:
    path = made(tmp_path)
    whole = path.read_bytes()
    db = sqlite3.connect(path)
    with contextlib.closing(db):
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")]
    refused = 0
    for table, column in columns:
        for value in VALUES:
            path.write_bytes(whole)
            db = sqlite3.connect(path, isolation_level=None)
            with contextlib.closing(db), contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA synchronous=OFF")
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
            try:
                ask_all(path)
            except SplitMirrorError:
                refused += 1
    assert refused > 200


def test_flipped_bits_are_a_sentence_or_harmless(tmp_path: Path) -> None:
    path = made(tmp_path)
    whole = path.read_bytes()
    places = [place for place in range(len(whole)) if any(whole[max(0, place - 8) : place + 8])]
    chosen = random.Random(ROUNDS)
    for _round in range(ROUNDS * 10):
        flipped = bytearray(whole)
        flipped[chosen.choice(places)] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(SplitMirrorError):
            ask_all(path)
