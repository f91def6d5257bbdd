# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Incremental sessions bring back the tree as it was at their time, whatever became of it before and after."""

from __future__ import annotations

import functools
import io
import itertools
import os
import random
import sqlite3
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_files
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import SOURCE_CONTENT, FileEntry
from ansible_collections.splitmirror.backup.plugins.module_utils.media.bases import drop_maps
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import OVERWRITE
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.tape import (
    MTIME_NS,
    Held,
    InTurn,
    Library,
    folder,
    inline,
    judge,
)

SECOND_NS = 1_000_000_000
TOP = "/srv"
NAMES = ("a", "b", "c", "d")
#: What a path is: kind, permissions, time of change, content or target, and its first other name.
Node = tuple[Any, ...]


@dataclass(frozen=True)
class Inode:
    kind: str
    number: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    data: bytes = b""


class Tree:
    """A model of a file system."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now_ns = 1_700_000_000 * SECOND_NS
        self._numbers = itertools.count(10)
        self.inodes: dict[str, Inode] = {}
        self.inodes[TOP] = self._new("d")

    def _tick(self) -> int:
        self._now_ns += self._random.choice((0, 1, SECOND_NS, 5 * SECOND_NS))
        return self._now_ns

    def _new(self, kind: str) -> Inode:
        now_ns = self._tick()
        data = b"" if kind == "d" else self._random.randbytes(self._random.choice((1, 3, 600)))
        data = data[:3].hex().encode() if kind == "l" else data
        return Inode(kind, next(self._numbers), 0o777 if kind == "l" else 0o750, now_ns, now_ns, data)

    def _any(self, *kinds: str) -> str | None:
        found = [path for path, inode in self.inodes.items() if inode.kind in kinds and path != TOP]
        return self._random.choice(found) if found else None

    def _free(self) -> str | None:
        folder = self._random.choice([path for path, inode in self.inodes.items() if inode.kind == "d"])
        free = [name for name in NAMES if f"{folder}/{name}" not in self.inodes]
        return f"{folder}/{self._random.choice(free)}" if free else None

    def _set(self, path: str, **values: Any) -> None:
        old = self.inodes[path]
        for name in [name for name, inode in self.inodes.items() if inode.number == old.number]:
            self.inodes[name] = replace(old, ctime_ns=self._tick(), **values)

    def _touch_folder(self, path: str) -> None:
        self._set(os.path.dirname(path), mtime_ns=self._tick())

    def step(self) -> None:
        """Something happens."""
        getattr(
            self, self._random.choice(("_make", "_make", "_write", "_mode", "_link", "_remove", "_move", "_become"))
        )()

    def _make(self) -> None:
        path = self._free()
        if path:
            self.inodes[path] = self._new(self._random.choice("fffdl"))
            self._touch_folder(path)

    def _write(self) -> None:
        path = self._any("f")
        if path:
            old = self.inodes[path]
            # The time of change of the content is often put back.
            mtime_ns = self._random.choice((old.mtime_ns, self._tick()))
            self._set(path, data=self._random.randbytes(len(old.data)), mtime_ns=mtime_ns)

    def _mode(self) -> None:
        path = self._any("f", "d")
        if path:
            self._set(path, mode=self._random.choice((0o700, 0o711, 0o755)))

    def _link(self) -> None:
        old, new = self._any("f", "l"), self._free()
        if old and new:
            self.inodes[new] = self.inodes[old]
            self._set(old)
            self._touch_folder(new)

    def _remove(self) -> None:
        path = self._any("f", "d", "l")
        if path:
            for name in [name for name in self.inodes if name == path or name.startswith(path + "/")]:
                gone = self.inodes.pop(name)
                for other, inode in self.inodes.items():
                    if inode.number == gone.number:
                        self._set(other)
                        break
            self._touch_folder(path)

    def _move(self) -> None:
        old, new = self._any("f", "d", "l"), self._free()
        if old and new and not new.startswith(old + "/"):
            for name in [name for name in self.inodes if name == old or name.startswith(old + "/")]:
                self.inodes[new + name[len(old) :]] = self.inodes.pop(name)
            self._set(new)
            self._touch_folder(old)
            self._touch_folder(new)

    def _become(self) -> None:
        path = self._any("f", "d", "l")
        if path:
            for name in [name for name in self.inodes if name.startswith(path + "/")]:
                gone = self.inodes.pop(name)
                other = next((name for name, inode in self.inodes.items() if inode.number == gone.number), None)
                if other:
                    self._set(other)
            gone = self.inodes.pop(path)
            other = next((name for name, inode in self.inodes.items() if inode.number == gone.number), None)
            if other:
                self._set(other)
            self.inodes[path] = self._new(self._random.choice([kind for kind in "fdl" if kind != gone.kind]))
            self._touch_folder(path)

    def snapshot(self) -> tuple[list[FileEntry], int, dict[str, Node]]:
        """Entries of a map, when it was checked, and what a restore has to bring."""
        self._now_ns += self._random.choice((0, SECOND_NS, 9 * SECOND_NS))
        counts: dict[int, int] = {}
        for inode in self.inodes.values():
            counts[inode.number] = counts.get(inode.number, 0) + 1
        entries = []
        for path, inode in sorted(self.inodes.items(), key=lambda item: item[0].split("/")):
            is_file = inode.kind == "f"
            entries.append(
                FileEntry(
                    path.encode(),
                    inode.kind,
                    inode=inode.number,
                    nlink=2 if inode.kind == "d" else counts[inode.number],
                    mode=inode.mode,
                    uid=os.getuid(),
                    gid=os.getgid(),
                    size=len(inode.data) if is_file else 0,
                    mtime_ns=inode.mtime_ns,
                    ctime_ns=inode.ctime_ns,
                    target=inode.data if inode.kind == "l" else None,
                    source=SOURCE_CONTENT if is_file else "none",
                    content=inode.data if is_file else None,
                )
            )
        first: dict[int, str] = {}
        nodes: dict[str, Node] = {}
        for path, inode in sorted(self.inodes.items()):
            name = path[1:]
            nodes[name] = (
                inode.kind,
                inode.mode,
                inode.mtime_ns,
                inode.data,
                first.setdefault(inode.number, name),
            )
        return entries, self._now_ns, nodes


def seen(where: Path) -> dict[str, Node]:
    """The same of a folder to which something was restored."""
    found: dict[str, Node] = {}
    first: dict[int, str] = {}
    for path in sorted((where / TOP[1:], *(where / TOP[1:]).rglob("*"))):
        facts, name = os.lstat(path), str(path.relative_to(where))
        kind = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}[stat.S_IFMT(facts.st_mode)]
        data = path.read_bytes() if kind == "f" else os.readlink(os.fsencode(path)) if kind == "l" else b""
        link = first.setdefault(facts.st_ino, name)
        found[name] = (kind, stat.S_IMODE(facts.st_mode), facts.st_mtime_ns, data, link)
    return found


def by_hand(library: Library, session: str, target: Path) -> None:
    """Restore with tar and rm alone, as docs/restore.md says."""
    known = library.catalog.session(session)
    assert known is not None
    target.mkdir()
    for found in (*reversed(library.catalog.bases(known)), known):
        script = r"""
set -eu
if [ "$3" != full ]; then
    tar --extract --to-stdout --file="$1" ".splitmirror/$2/removed" | xargs --null --no-run-if-empty rm -rf --
fi
tar --extract --file="$1" --acls --xattrs --xattrs-include='*' --preserve-permissions
"""
        part = library.catalog.parts(found.number)[0]
        archive = library.folder / part.volume / f"{part.file_number:05d}.tar"
        subprocess.run(["sh", "-c", script, "sh", archive, found.id, found.level], cwd=target, check=True)


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path)
    made.make()
    made.label()
    yield made
    made.catalog.close()


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1 << 30))
def test_a_session_brings_back_the_tree_of_its_time(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as where:
        library = Library(Path(where))
        library.make()
        library.label()
        tree = Tree(seed)
        expected: dict[str, dict[str, Node]] = {}
        for number in range(4):
            for _dummy in range(chance.choice((2, 9, 20))):
                tree.step()
            entries, checked_ns, nodes = tree.snapshot()
            level = chance.choice(("incremental", "incremental", "differential"))
            done = library.back_up(f"s{number}", entries, level=level, checked_ns=checked_ns)
            assert (done["level"] == level) == bool(done["base"]) == (number > 0)
            expected[f"s{number}"] = nodes
        session = chance.choice(list(expected))
        library.restore(session, Path(where) / "back")
        assert seen(Path(where) / "back") == expected[session]
        by_hand(library, session, Path(where) / "by_hand")
        assert seen(Path(where) / "by_hand") == expected[session]
        # A catalog that was rebuilt knows as much.
        known = held(library.catalog, "s3")
        library.catalog.close()
        library.catalog = Catalog.open(str(library.state_dir / "rebuilt.sqlite"), writable=True)
        with library.drive() as drive:
            rebuild("V1", library.catalog, drive)
        assert held(library.catalog, "s3") == known
        library.catalog.close()


def held(catalog: Catalog, session: str) -> set[tuple[str, str]]:
    """The files of a session, each with the session that has it."""
    known = catalog.session(session)
    assert known is not None
    return {(found["path"], found["session"]) for found in find_files(catalog, known, "/srv*")}


def tree_of(seed: int, steps: int) -> Tree:
    tree = Tree(seed)
    for _dummy in range(steps):
        tree.step()
    return tree


def back_up(library: Library, tree: Tree, session: str, **options: Any) -> tuple[Any, dict[str, Node]]:
    entries, checked_ns, nodes = tree.snapshot()
    return library.back_up(session, entries, checked_ns=checked_ns, **{"level": "incremental", **options}), nodes


def test_what_cannot_be_built_on_makes_a_full_session_that_says_so(library: Library) -> None:
    tree = tree_of(1, 20)
    assert "no good full session of db1" in back_up(library, tree, "s0")[0]["level_reason"]
    done, _nodes = back_up(library, tree, "s1")
    assert (done["level"], done["base"], done["level_reason"]) == ("incremental", "s0", "")
    os.unlink(StateDir(str(library.state_dir)).base_map("s1"))
    done, _nodes = back_up(library, tree, "s2")
    assert (done["level"], done["base"]) == ("full", "")
    assert "its map is not kept" in done["level_reason"]
    assert done["evidence"].get("base") is None
    Path(StateDir(str(library.state_dir)).base_map("s2")).write_bytes(b"not a map")
    assert "cannot be read" in back_up(library, tree, "s3")[0]["level_reason"]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE meta SET value = '\u00b2' WHERE key = 'checked_ns'",
        f"UPDATE meta SET value = '{'9' * 40}' WHERE key = 'checked_ns'",
        "UPDATE files SET sort_key = CAST(sort_key || 'x' AS TEXT)",
        "UPDATE files SET sort_key = CAST(sort_key || x'002e2e' AS BLOB)",
    ],
)
def test_a_base_map_that_was_forged_or_damaged_makes_a_full_session(library: Library, harm: str) -> None:
    tree = tree_of(11, 9)
    back_up(library, tree, "s0")
    with closing(sqlite3.connect(StateDir(str(library.state_dir)).base_map("s0"), isolation_level=None)) as db:
        db.execute(harm)
    done, _nodes = back_up(library, tree, "s1")
    assert (done["level"], done["base"]) == ("full", "")
    assert "session s0 cannot be built on" in done["level_reason"]
    assert back_up(library, tree, "s2")[0]["base"] == "s1"


def test_what_the_session_itself_writes_over_is_not_built_on(library: Library, tmp_path: Path) -> None:
    tree = tree_of(12, 9)
    back_up(library, tree, "s0")
    back_up(library, tree, "s1")
    for session in ("s1", "s0"):
        library.catalog.expire_session(session, allow_last=True)
    done, nodes = back_up(library, tree, "s2", mode=OVERWRITE, allow_last=True)
    assert (done["level"], done["level_reason"]) == (
        "full",
        "session s1 cannot be built on: volume V1, which has s1, is to be used again.",
    )
    library.restore("s2", tmp_path / "back")
    assert seen(tmp_path / "back") == nodes


def test_what_is_no_map_among_those_that_are_kept_is_left_alone(library: Library) -> None:
    state = StateDir(str(library.state_dir))
    (library.state_dir / "bases").write_text("in the way")
    drop_maps(state, library.catalog)
    (library.state_dir / "bases").unlink()
    back_up(library, tree_of(13, 3), "s0")
    (library.state_dir / "bases" / "lost+found").mkdir()
    (library.state_dir / "bases" / "old.sqlite").mkdir()
    drop_maps(state, library.catalog)
    assert sorted(os.listdir(state.bases_dir)) == ["lost+found", "old.sqlite", "s0.sqlite"]


def test_auto_is_full_when_the_last_full_one_is_old_enough(library: Library) -> None:
    tree = tree_of(2, 9)
    levels = [back_up(library, tree, f"s{number}", level="auto", full_every_days=7)[0]["level"] for number in range(3)]
    assert levels == ["full", "incremental", "incremental"]
    assert back_up(library, tree, "s3", level="auto", full_every_days=0.01)[0]["level"] == "full"


def test_only_the_maps_that_can_be_built_on_are_kept(library: Library) -> None:
    tree, state = tree_of(3, 9), StateDir(str(library.state_dir))
    for number in range(3):
        back_up(library, tree, f"s{number}")
    drop_maps(state, library.catalog)
    assert sorted(os.listdir(state.bases_dir)) == ["s0.sqlite", "s2.sqlite"]
    assert back_up(library, tree, "s3", level="differential")[0]["base"] == "s0"


def test_a_map_that_cannot_be_kept_does_not_fail_its_session(library: Library) -> None:
    tree = tree_of(10, 5)
    (library.state_dir / "bases").write_text("in the way")
    assert back_up(library, tree, "s0")[0]["level"] == "full"
    (library.state_dir / "bases").unlink()
    assert "its map is not kept" in back_up(library, tree, "s1")[0]["level_reason"]


def test_what_left_the_scopes_and_came_back_is_in_the_sessions_that_had_it(library: Library, tmp_path: Path) -> None:
    old = [inline(f"/srv/{name}", name.encode())._replace(ctime_ns=SECOND_NS, inode=5) for name in ("a", "b")]
    for number, (entries, level) in enumerate(
        [(old, "full"), (old[:1], "incremental"), (old, "incremental"), (old, "differential")]
    ):
        done = library.back_up(f"s{number}", entries, level=level, checked_ns=(number + 9) * SECOND_NS)
        assert (done["files"], done["removed"]) == ((2, 0), (0, 1), (1, 0), (0, 0))[number]
        library.restore(f"s{number}", tmp_path / f"s{number}")
        assert sorted(os.listdir(tmp_path / f"s{number}" / "srv")) == [entry.path[-1:].decode() for entry in entries]


def test_a_missing_base_costs_what_only_it_has(library: Library, tmp_path: Path) -> None:
    tree = tree_of(4, 12)
    back_up(library, tree, "s0")
    library.make("V2")
    library.label("V2")
    library.volume = "V2"
    tree._make()
    done, nodes = back_up(library, tree, "s1")
    assert done["unchanged"] > 0
    library.catalog.close()
    library.catalog = Catalog.open(str(library.state_dir / "rebuilt.sqlite"), writable=True)
    with library.drive() as drive:
        entered = rebuild("V2", library.catalog, drive)["entered"]
    assert [(found["session"], found["state"], found["base_missing"]) for found in entered] == [("s1", "good", "s0")]
    assert "s0, on which it builds" in entered[0]["reason"]
    with pytest.raises(RestoreError, match="s0, on which s1 builds") as refused:
        library.restore("s1", tmp_path / "some")
    assert refused.value.facts["base_missing"] == "s0"
    some = seen(tmp_path / "some")
    assert some
    assert all(nodes[name][3] == node[3] for name, node in some.items())
    with library.drive() as drive:
        rebuild("V1", library.catalog, drive)
    library.restore("s1", tmp_path / "all")
    assert seen(tmp_path / "all") == nodes


def label_tar(where: Path, name: str, content: bytes) -> str:
    """Label files as a hot backup leaves them."""
    path = where / f"{name}.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(f"srv/{name}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_label_files_and_logs_of_a_base_are_not_those_of_a_later_session(library: Library, tmp_path: Path) -> None:
    tree = tree_of(5, 6)
    back_up(library, tree, "s0", extras=label_tar(tmp_path, "log.1", b"one"))
    done, _nodes = back_up(library, tree, "s1", extras=label_tar(tmp_path, "log.2", b"two"))
    assert done["removed"] == 1
    back_up(library, tree, "s2", extras=label_tar(tmp_path, "log.2", b"three"))
    for session, logs in (("s0", {"log.1": b"one"}), ("s1", {"log.2": b"two"}), ("s2", {"log.2": b"three"})):
        library.restore(session, tmp_path / session)
        found = {path.name: path.read_bytes() for path in (tmp_path / session / "srv").glob("log.*")}
        assert found == logs


def test_a_session_over_several_volumes_builds_and_is_built_on(library: Library, tmp_path: Path) -> None:
    names = [f"S{number}" for number in range(9)]
    for name in names:
        library.make(name, 1 << 20)
        library.label(name, record_bytes=4096)
    contents = {f"srv/big{number}": bytes([number]) * 400_000 for number in range(5)}
    changed_ns = dict.fromkeys(contents, SECOND_NS)
    expected = {}
    for number in range(3):
        session = f"s{number}"
        for name in list(contents)[: 4 * number]:
            contents[name] = os.urandom(400_000)
            changed_ns[name] = 100 * number * SECOND_NS
        contents.pop(f"srv/big{number + 2}" if number else "", None)
        entries = [inline(f"/{name}", data)._replace(ctime_ns=changed_ns[name]) for name, data in contents.items()]
        job = library.job(session, entries, level="incremental", checked_ns=(100 * number + 50) * SECOND_NS)
        with library.drive() as drive:
            done = write_session(job, functools.partial(InTurn, drives=Held(drive), names=names))
        judge(library, session, done)
        expected[session] = dict(contents)
        written = library.catalog.session(session)
        assert written is not None
        with library.drive() as drive:
            verify_session(written, library.catalog, Held(drive))
    assert len(done["volumes"]) > 1
    assert (done["base"], done["removed"]) == ("s1", 1)
    for session, files in expected.items():
        library.restore(session, tmp_path / session)
        there = tmp_path / session
        assert {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("big*")} == files
    known = held(library.catalog, "s2")
    library.catalog.close()
    library.catalog = Catalog.open(str(library.state_dir / "rebuilt.sqlite"), writable=True)
    with library.drive() as drive:
        for name in reversed(names):
            rebuild(name, library.catalog, drive)
    assert held(library.catalog, "s2") == known


def test_what_an_unreachable_base_has_is_named_and_the_rest_is_there(library: Library, tmp_path: Path) -> None:
    tree = tree_of(9, 14)
    back_up(library, tree, "s0")
    library.make("V2")
    library.label("V2")
    library.volume = "V2"
    tree._make()
    _done, nodes = back_up(library, tree, "s1")
    (library.folder / "V1").rename(library.folder / "lost")
    with pytest.raises(RestoreError) as refused:
        library.restore("s1", tmp_path / "some")
    facts = refused.value.facts
    assert [found["volume"] for found in facts["unreached"]] == ["V1"]
    there = seen(tmp_path / "some")
    missing = {found["path"][1:] for found in facts["missing"]}
    assert missing
    assert there.keys() | missing == nodes.keys()


def test_a_path_is_restored_as_it_was_or_is_named_as_missing(library: Library, tmp_path: Path) -> None:
    entries = [folder("/srv"), inline("/srv/kept", b"k"), inline("/srv/gone", b"g"), inline("/srv/new", b"1")]
    entries = [entry._replace(ctime_ns=SECOND_NS, inode=number) for number, entry in enumerate(entries)]
    library.back_up("s0", entries, checked_ns=9 * SECOND_NS)
    later = [*entries[:2], entries[3]._replace(content=b"2", ctime_ns=20 * SECOND_NS)]
    done = library.back_up("s1", later, level="incremental", checked_ns=30 * SECOND_NS)
    assert (done["unchanged"], done["removed"], done["files"]) == (1, 1, 1)
    result = library.restore("s1", tmp_path / "one", "/srv/kept")
    assert (result["files"], result["records_read"] < 12) == (1, True)
    assert (tmp_path / "one/srv/kept").read_bytes() == b"k"
    with pytest.raises(SplitMirrorError, match="/srv/gone is not in session s1; session s0 holds it"):
        library.restore("s1", tmp_path / "two", "/srv/gone")
    by_hand(library, "s1", tmp_path / "by_hand")
    # The folder is as it was, although a file in it was unpacked anew.
    assert (tmp_path / "by_hand/srv").stat().st_mtime_ns == MTIME_NS
    assert held(library.catalog, "s1") == {("/srv", "s1"), ("/srv/kept", "s0"), ("/srv/new", "s1")}
