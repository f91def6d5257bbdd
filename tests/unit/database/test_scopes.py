# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host backs up when databases and paths name the same places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Mapping

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import (
    Capabilities,
    DatabaseDriver,
    DatabaseError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.scopes import host_scopes, other_names
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope


class Folders(DatabaseDriver):
    """A database that is a list of folders: the seam's smallest driver."""

    name: ClassVar[str] = "folders"
    argument_spec: ClassVar[dict[str, dict[str, Any]]] = {}
    file_options: ClassVar[tuple[str, ...]] = ("folder",)

    @classmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        return Capabilities(False, False)

    def preflight(self) -> dict[str, Any]:
        return {}

    def files(self) -> list[Scope]:
        return [Scope(root, exclude=("pg_wal",), label=self.title) for root in self.options["roots"]]


def folders(*roots: Path | str) -> Folders:
    return Folders("d", {"roots": [str(root) for root in roots], "folder": None}, "freeze")


def test_paths_come_after_databases_with_their_exceptions(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    assert host_scopes([folders("/data")], [str(tmp_path / "more")], ["*.tmp"]) == [
        Scope("/data", exclude=("pg_wal",), label="d"),
        Scope(str(tmp_path / "more"), exclude=("*.tmp",)),
    ]


def test_links_in_a_path_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (scope,) = host_scopes([], [str(tmp_path / "link")], [])
    assert scope.root == str(tmp_path / "real")


def test_names_over_links_are_remembered_with_what_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    real, linked = str(tmp_path / "real"), str(tmp_path / "link")
    database = Folders("d", {"roots": [], "folder": f"{linked}/sub"}, "freeze")
    assert other_names([database], [f"/{linked}/", real, f"{real}//sub"]) == {
        linked: real,
        f"{linked}/sub": f"{real}/sub",
    }


def test_a_part_of_a_database_named_again_keeps_the_databases_rules(tmp_path: Path) -> None:
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    paths = [str(tmp_path / "data"), str(tmp_path / "data" / "pg_wal")]
    assert [scope.label for scope in host_scopes([folders(tmp_path / "data")], paths, [])] == ["d"]


def test_a_path_around_a_database_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    roots = [scope.root for scope in host_scopes([folders(tmp_path / "data")], [str(tmp_path)], [])]
    assert roots == [str(tmp_path / "data"), str(tmp_path)]


def test_what_is_named_twice_is_a_scope_once(tmp_path: Path) -> None:
    two = [folders("/data", "/space"), folders("/other", "/space")]
    assert [scope.root for scope in host_scopes(two, [str(tmp_path), str(tmp_path)], [])] == [
        "/data",
        "/space",
        "/other",
        str(tmp_path),
    ]


def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert host_scopes([], [str(tmp_path / "file")], [])[0].root == str(tmp_path / "file")


def test_refusals(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in {
        "relative": "paths: 'relative' is not an absolute path",
        str(tmp_path / "gone"): "cannot be read",
        str(tmp_path / "pipe"): "neither a folder nor a regular file",
    }.items():
        with pytest.raises(DatabaseError, match=sentence):
            host_scopes([], [path], [])
    with pytest.raises(DatabaseError, match="nothing to back up"):
        host_scopes([], [], [])
