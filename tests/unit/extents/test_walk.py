# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to the scopes, and that it comes in logical order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileSystem, MapError, sort_key
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.rules import Rule, ScopeTree
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.walk import FileSystems, walk

NAMES = st.sampled_from(["a", "b", "c.log", "a b", "ü", "temp"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
SCOPES = st.lists(
    st.tuples(
        PATHS, st.lists(PATHS, max_size=1), st.lists(st.sampled_from(["*.log", "a/*", "b", "temp/a"]), max_size=2)
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda scope: scope[0],
)


def walked(tree: ScopeTree, top: str) -> list[bytes]:
    fs = FileSystem(1, os.fsencode(top), "xfs", "u", 4096, os.stat(top).st_dev, 1, 0, b"/")
    return [run.prefix + name for run in walk(tree, FileSystems.live([fs])) for name in run.names]


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(files=st.lists(PATHS, max_size=12), scopes=SCOPES)
def test_the_walk_meets_exactly_what_the_rules_allow_in_logical_order(
    files: list[str], scopes: list[tuple[str, list[str], list[str]]]
) -> None:
    with tempfile.TemporaryDirectory() as top:
        for name in [*files, *(scope[0] for scope in scopes)]:
            path = Path(top, name)
            if not any(parent.is_file() for parent in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_bytes(b"")
        tree = ScopeTree(Scope(f"{top}/{root}", tuple(empty), tuple(exclude)) for root, empty, exclude in scopes)
        # A root that is not there is for survey to refuse.
        found = [path for path in walked(tree, top) if os.path.lexists(path)]
        everything = [
            os.path.join(folder, name)
            for folder, folders, files_here in os.walk(os.fsencode(top))
            for name in (*folders, *files_here)
        ]
        assert found == sorted((path for path in everything if tree.rule_of(path) is not None), key=sort_key)


def test_patterns_without_a_slash_match_names_and_others_whole_paths() -> None:
    rule = Rule(Scope("/d", exclude=("*.pid", "log/*.csv", "/top")))
    for path in (b"/d/x.pid", b"/d/a/b/x.pid", b"/d/log/x.csv", b"/d/top"):
        assert not rule.allows(path)
    for path in (b"/d", b"/d/x.pid.d", b"/d/a/log/x.csv", b"/d/a/top", b"/d/x\xff"):
        assert rule.allows(path)


@pytest.mark.parametrize("name", ["gr\u00fcn", "gr\u65e5n", "gr\U0001f600n", "gr\udcffn", "gr\nn", "gron"])
@pytest.mark.parametrize("pattern", ["gr?n", "gr[!a]n", "gr*n", "*/gr?n", "gr{}n"])
def test_a_pattern_matches_characters_not_bytes(name: str, pattern: str) -> None:
    rule = Rule(Scope("/d", exclude=(pattern.format(name[2:-1]),)))
    path = b"/d/a/" + os.fsencode(name)
    assert not rule.allows(path)
    assert rule.allows(path + b"x")


def test_many_names_in_one_folder_come_in_several_runs(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"f{number}").touch()
    (tmp_path / "f7777").mkdir()
    (tmp_path / "f7777/in").touch()
    found = walked(ScopeTree([Scope(str(tmp_path))]), str(tmp_path))
    assert len(found) == 1503
    assert found == sorted(found, key=sort_key)


def test_what_vanishes_or_becomes_a_link_is_passed_over(tmp_path: Path) -> None:
    for name in ("a/file", "b/file", "c/file"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    fs = FileSystem(1, os.fsencode(tmp_path), "xfs", "u", 4096, os.stat(tmp_path).st_dev, 1, 0, b"/")
    runs = walk(ScopeTree([Scope(str(tmp_path))]), FileSystems.live([fs]))
    found = [next(runs), next(runs)]
    (tmp_path / "b").rename(tmp_path / "moved")
    (tmp_path / "b").symlink_to("moved")
    (tmp_path / "c/file").unlink()
    (tmp_path / "c").rmdir()
    found += list(runs)
    files = [run.prefix + name for run in found for name in run.names if name == b"file"]
    assert files == [os.fsencode(tmp_path / "a/file")]


def test_a_scope_named_twice_is_refused() -> None:
    with pytest.raises(MapError, match=r"/d is named twice \(paths, postgresql main\)"):
        ScopeTree([Scope("/d"), Scope("/d", label="postgresql main")])
