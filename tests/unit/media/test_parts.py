# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session of two parts on two volumes: verified, restored, lost and rebuilt, relabelled."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import index_name
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners, WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import open_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import verdict_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_files, find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry, Mapped
from ansible_collections.splitmirror.backup.plugins.module_utils.media.part import ArchiveSource, PartWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, needed_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.selection import Selection
from ansible_collections.splitmirror.backup.plugins.module_utils.media.tape_file import TapeRecordSink
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import place_for
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeDrive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.tickets import DriveTimeout
from ansible_collections.splitmirror.backup.tests.support.tape import (
    RECORD,
    Held,
    Library,
    folder,
    inline,
    link,
    run_module_apart,
    window_evidence,
)

TREE = [
    folder("/srv"),
    inline("/srv/a", b"a" * 3000),
    inline("/srv/one", b"1" * 700, inode=7, nlink=3),
    # here the second part begins
    folder("/srv/sub"),
    inline("/srv/sub/b", b"b" * 2000),
    inline("/srv/sub/three", b"1" * 700, inode=7, nlink=3),
    inline("/srv/two", b"1" * 700, inode=7, nlink=3),
    link("/srv/way", "/etc/passwd"),
]
CUT = b"/srv/sub"
CREATED_S = 4e9  # it is the newest session
FILES = {
    "srv/a": b"a" * 3000,
    "srv/one": b"1" * 700,
    "srv/sub/b": b"b" * 2000,
    "srv/sub/three": b"1" * 700,
    "srv/two": b"1" * 700,
}
PROOF = {"proof": {"mode": "none", "complete": False}, "names": {}}


@pytest.fixture
def two(library: Library) -> Library:
    """A library with two labelled volumes; on the second one is a session already."""
    for name in ("V1", "V2"):
        library.make(name)
        library.label(name)
    library.volume = "V2"
    library.back_up("before", [folder("/other")])
    return library


def head_of(session: str, expires_s: float | None) -> dict[str, Any]:
    """What the indexes of all parts say of a session."""
    return {
        "session": session,
        "host": "db1",
        "created_s": CREATED_S,
        "expires_s": expires_s,
        "evidence": window_evidence(),
        "proof": {"mode": "none"},
        "names": {},
    }


def write_parts(
    library: Library,
    session: str = "s1",
    *,
    last: bool = True,
    expires_s: float | None = None,
    tree: Sequence[FileEntry] | None = None,
    cut: bytes = CUT,
) -> None:
    """Write a session of two parts, as a writer that goes from volume to volume does.

    :param last: write the second one, too. :param cut: with which path it begins.
    """

    def before_the_cut(mapped: Mapped) -> bool:
        return mapped[0].path < cut

    source = ArchiveSource({}, WriterOptions(buffer_bytes=4 << 20), Owners(), None, str(library.state_dir))
    number = library.catalog.begin_session(session, "db1", CREATED_S, expires_s)
    head = head_of(session, expires_s)
    selection = Selection((entry, []) for entry in (TREE if tree is None else tree))
    facts: list[Any] = []
    for volume, fits in (("V1", before_the_cut), ("V2", None)):
        with library.drive() as drive:
            place = place_for(drive, library.catalog, volume, "append")
            with PartWriter(drive, library.catalog, number, place, earlier=facts) as part:
                part.write(source, selection, head, fits)
                facts = part.finish(PROOF)["parts"]
        if not last:
            return


def judge(library: Library, session: str = "s1") -> Session:
    known = library.catalog.session(session)
    assert known is not None
    evidence = {**window_evidence(), "session": session, "write": known.write}
    library.catalog.close_session(session, verdict_of(library.catalog, session, evidence), evidence)
    judged = library.catalog.session(session)
    assert judged is not None
    return judged


@pytest.fixture
def written(two: Library) -> Library:
    write_parts(two)
    assert judge(two).state == "good"
    return two


def verify(library: Library) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return verify_session(find_good_session(library.catalog, "s1", None), library.catalog, Held(drive))


def enter(library: Library, volume: str, *, dry_run: bool = False, allow_last: bool = False) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return rebuild(volume, library.catalog, drive, dry_run=dry_run, allow_last=allow_last)


def lose_catalog(library: Library) -> None:
    library.catalog.close()
    for path in library.state_dir.glob("catalog.sqlite*"):
        path.unlink()
    library.catalog = Catalog.open(library.catalog.path, writable=True)


def refused(call: Callable[[], object], option: str) -> str:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    assert caught.value.option == option
    return caught.value.message


def contents(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def everything(library: Library) -> tuple[Any, ...]:
    """All that the catalog has of the session, but for numbers and the times at which it was entered."""
    session = library.catalog.session("s1")
    assert session is not None
    evidence = {key: value for key, value in session.evidence.items() if key != "write"}
    only_of_the_writer = {"fallback", "writing_s", "stops"}
    counts = [
        {key: value for key, value in part.items() if key not in only_of_the_writer} for part in session.write["parts"]
    ]
    return (
        session._replace(number=0, closed_s=None, write={}, evidence=evidence),
        counts,
        [part._replace(session=0) for part in library.catalog.parts(session.number)],
        list(library.catalog.members(session.number)),
        library.catalog.volumes(),
    )


# -- there and back ------------------------------------------------------------------------------------------------


def test_each_part_is_a_whole_archive_with_its_own_index(written: Library) -> None:
    session = written.catalog.session("s1")
    assert session is not None
    first, second = written.catalog.parts(session.number)
    assert (first.volume, first.file_number, first.offset_bytes) == ("V1", 1, 0)
    assert (second.volume, second.file_number, second.offset_bytes) == ("V2", 2, first.records * RECORD)
    assert (session.files, session.members) == (3, len(TREE) + 2)
    members = list(written.catalog.members(session.number))
    assert [number for number, _member in members] == [0] * 4 + [1] * 6
    assert [found.path for _part, found in members if found.path.startswith(b".")] == [
        index_name("s1"),
        index_name("s1", 1),
    ]
    offsets = [found.offset_bytes for _part, found in members]
    assert offsets == sorted(set(offsets))
    lines = (written.folder / "V2/00002.tar").read_bytes().partition(b'{"created_s"')[2].split(b"\n")
    head = json.loads(b'{"created_s"' + lines[0])
    assert (head["part"], head["last"], head["volumes"]) == (1, True, ["V1", "V2"])
    # Offsets in an index are those of its own archive, so that a part can be read without the others.
    assert json.loads(lines[1])["offset_bytes"] == 0


def test_all_of_it_is_verified(written: Library) -> None:
    found = verify(written)
    assert (found["members"], found["files"], found["volumes"]) == (len(TREE) + 2, 3, ["V1", "V2"])


def test_all_of_it_is_restored(written: Library, tmp_path: Path) -> None:
    back = written.restore("s1", tmp_path / "t")
    assert (back["members"], back["files"], back["volumes"]) == (len(TREE), 3, ["V1", "V2"])
    assert contents(tmp_path / "t") == FILES
    inodes = {(tmp_path / "t" / name).stat().st_ino for name in ("srv/one", "srv/two", "srv/sub/three")}
    assert len(inodes) == 1
    assert os.readlink(tmp_path / "t/srv/way") == "/etc/passwd"
    assert os.listdir(tmp_path / "t") == ["srv"]


def test_one_file_of_the_second_part_needs_the_second_volume_only(written: Library, tmp_path: Path) -> None:
    (written.folder / "V1").rename(written.folder.parent / "offsite")
    job = RestoreJob("s1", str(tmp_path / "t"), paths=["/srv/sub/b"])
    assert needed_volume(job, written.catalog) == "V2"
    back = written.restore("s1", tmp_path / "t", "/srv/sub/b")
    assert (back["volumes"], contents(tmp_path / "t")) == (["V2"], {"srv/sub/b": b"b" * 2000})
    own = -(-2000 // RECORD) + 2
    assert back["records_read"] <= own + 2


def test_a_hard_link_brings_the_file_from_the_part_before(written: Library, tmp_path: Path) -> None:
    back = written.restore("s1", tmp_path / "t", "/srv/two")
    assert back["volumes"] == ["V1", "V2"]
    assert contents(tmp_path / "t") == {name: FILES[name] for name in ("srv/one", "srv/two")}


def test_an_index_is_restored_when_it_is_named(written: Library, tmp_path: Path) -> None:
    written.restore("s1", tmp_path / "t", "/.splitmirror/s1")
    assert sorted(path.name for path in (tmp_path / "t/.splitmirror/s1").iterdir()) == ["index-2.jsonl", "index.jsonl"]


def test_positions_are_those_in_the_tape_file(written: Library) -> None:
    (found,) = find_files(written.catalog, find_good_session(written.catalog, "s1", None), "/srv/sub")
    assert (found["volume"], found["file_number"], found["record"], found["offset_bytes"]) == ("V2", 2, 0, 0)


@pytest.mark.slow
def test_the_modules_go_from_volume_to_volume(written: Library, tmp_path: Path) -> None:
    written.catalog.close()
    drive = {"drive_type": "virtual", "drive": str(written.folder), "state_dir": str(written.state_dir)}
    options: dict[str, Any] = {"session": "s1", **drive}
    for check in (True, False):
        assert run_module_apart("tape_verify", options, check=check)["volumes"] == ["V1", "V2"]
    back = run_module_apart("tape_read", {**options, "target": str(tmp_path / "t")})
    assert back["volumes"] == ["V1", "V2"]
    assert contents(tmp_path / "t") == FILES
    (written.state_dir / "catalog.sqlite").unlink()
    for volume, state in (("V2", "damaged"), ("V1", "good")):
        entered = run_module_apart("catalog_rebuild", {"volume": volume, **drive})["entered"]
        assert [one["state"] for one in entered if one["session"] == "s1"] == [state]
    assert run_module_apart("tape_verify", options)["volumes"] == ["V1", "V2"]


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("volume", "name", "path"), [("V1", "00001.tar", "/srv/a"), ("V2", "00002.tar", "/srv/sub/b")])
def test_damage_in_either_part_is_named(written: Library, tmp_path: Path, volume: str, name: str, path: str) -> None:
    tape_file = written.folder / volume / name
    content = FILES[path[1:]]
    data = tape_file.read_bytes()
    assert data.count(content) == 1
    tape_file.write_bytes(data.replace(content, content[:-1] + b"!"))
    for call in (lambda: verify(written), lambda: written.restore("s1", tmp_path / "t")):
        with pytest.raises(SplitMirrorError) as caught:
            call()
        assert [row["path"] for row in caught.value.facts["doubtful"]] == [path]
        assert caught.value.facts["missing"] == []


INDEXES = {"V1": "/.splitmirror/s1/index.jsonl", "V2": "/.splitmirror/s1/index-2.jsonl"}
#: What is missing without a volume: what is on it, and the hard links to that.
WITHOUT = {
    "V1": {("/srv", "V1"), ("/srv/a", "V1"), ("/srv/one", "V1"), ("/srv/sub/three", "V2"), ("/srv/two", "V2")},
    "V2": {(path, "V2") for path in ("/srv/sub", "/srv/sub/b", "/srv/sub/three", "/srv/two", "/srv/way")},
}
LEFT = {"V1": {"srv/sub/b"}, "V2": {"srv/a", "srv/one"}}


def hide(library: Library, volume: str) -> None:
    (library.folder / volume).rename(library.folder.parent / volume)


def spoil(library: Library, volume: str) -> None:
    (library.folder / volume / "volume.json").write_text("[]")


def missing_of(facts: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(row["path"], row["volume"]) for row in facts["missing"]}


@pytest.mark.parametrize("harm", [hide, spoil])
@pytest.mark.parametrize("volume", ["V1", "V2"])
def test_a_volume_that_cannot_be_had_costs_what_needs_it_and_all_agree_what(
    written: Library, tmp_path: Path, volume: str, harm: Callable[[Library, str], None]
) -> None:
    harm(written, volume)
    for call, indexes in (
        (lambda: verify(written), {(INDEXES[volume], volume)}),
        (lambda: written.restore("s1", tmp_path / "t"), set()),
    ):
        with pytest.raises(SplitMirrorError) as caught:
            call()
        facts = caught.value.facts
        assert missing_of(facts) == WITHOUT[volume] | indexes
        assert facts["missing_count"] == len(WITHOUT[volume] | indexes)
        assert (facts["doubtful"], [one["volume"] for one in facts["unreached"]]) == ([], [volume])
        assert caught.value.code == "volume_missing"
        rows = [json.loads(line) for line in Path(facts["report"]).read_text().splitlines()]
        assert missing_of({"missing": rows}) == missing_of(facts)
    assert contents(tmp_path / "t") == {name: FILES[name] for name in LEFT[volume]}
    assert facts["members"] == len(TREE) - len(WITHOUT[volume])


def test_without_any_volume_nothing_is_touched_and_all_is_named(written: Library, tmp_path: Path) -> None:
    for volume in ("V1", "V2"):
        hide(written, volume)
    for call, indexes in (
        (lambda: verify(written), {(path, volume) for volume, path in INDEXES.items()}),
        (lambda: written.restore("s1", tmp_path / "t"), set()),
    ):
        with pytest.raises(SplitMirrorError) as caught:
            call()
        facts = caught.value.facts
        assert caught.value.code == "volume_missing"
        volumes = {path: "V1" if path < "/srv/sub" else "V2" for path in (f"/{os.fsdecode(e.path)[1:]}" for e in TREE)}
        assert missing_of(facts) == set(volumes.items()) | indexes
        assert [one["volume"] for one in facts["unreached"]] == ["V1", "V2"]
    assert not (tmp_path / "t").exists()


class NoDrive:
    """Drives that others keep. :ivar asked: for which volumes this was called."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def exchange(self, volume: str) -> TapeDrive:
        self.asked.append(volume)
        raise DriveTimeout("drive_timeout_s: nothing became free.", option="drive_timeout_s")


def test_the_same_drives_are_waited_for_once(written: Library) -> None:
    drives = NoDrive()
    with pytest.raises(DriveTimeout) as caught:
        verify_session(find_good_session(written.catalog, "s1", None), written.catalog, drives)
    assert drives.asked == ["V1"]
    assert [one["volume"] for one in caught.value.facts["unreached"]] == ["V1", "V2"]


@pytest.mark.parametrize("volume", ["V1", "V2"])
@pytest.mark.slow
def test_the_modules_go_on_without_a_volume(written: Library, tmp_path: Path, volume: str) -> None:
    written.catalog.close()
    hide(written, volume)
    drive = {"drive_type": "virtual", "drive": str(written.folder), "state_dir": str(written.state_dir)}
    options: dict[str, Any] = {"session": "s1", **drive}
    for check in (True, False):
        seen = run_module_apart("tape_verify", options, check=check)
        assert (seen["failed"], seen["code"]) == (True, "volume_missing")
        assert missing_of(seen) == WITHOUT[volume] | {(INDEXES[volume], volume)}
    back = run_module_apart("tape_read", {**options, "target": str(tmp_path / "t")})
    assert (back["failed"], back["code"], missing_of(back)) == (True, "volume_missing", WITHOUT[volume])
    assert contents(tmp_path / "t") == {name: FILES[name] for name in LEFT[volume]}


def test_a_part_that_fails_is_cut_off_and_the_session_is_not_good(two: Library) -> None:
    write_parts(two, last=False)
    session = two.catalog.session("s1")
    assert session is not None
    before = two.catalog.volumes(), (two.folder / "V2/volume.json").read_bytes()
    source = ArchiveSource({}, WriterOptions(buffer_bytes=4 << 20), Owners(), None, str(two.state_dir))
    broken = inline("/srv/sub", b"short")._replace(size=9)
    with two.drive() as drive:
        place = place_for(drive, two.catalog, "V2", "append")
        writer = PartWriter(drive, two.catalog, session.number, place, earlier=session.write["parts"])
        with pytest.raises(SplitMirrorError, match="the map carries"), writer as part:
            part.write(source, Selection([(broken, [])]), {"session": "s1"})
    assert (two.catalog.volumes(), (two.folder / "V2/volume.json").read_bytes()) == before
    assert len(two.catalog.parts(session.number)) == 1
    judged = judge(two)
    assert (judged.state, "part" in judged.reason) == ("failed", True)


# -- the catalog is lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("V1", "V2"), ("V2", "V1")])
def test_it_is_rebuilt_from_both_volumes_in_either_order(
    written: Library, tmp_path: Path, order: tuple[str, str]
) -> None:
    expected = everything(written)
    lose_catalog(written)
    first, second = order
    for dry_run in (True, False):
        (entered,) = [one for one in enter(written, first, dry_run=dry_run)["entered"] if one["session"] == "s1"]
        assert entered["state"] == "damaged"
    assert [one["session"] for one in enter(written, first)["known"] if one["session"] == "s1"] == ["s1"]
    for dry_run in (True, False):
        (entered,) = [one for one in enter(written, second, dry_run=dry_run)["entered"] if one["session"] == "s1"]
        assert (entered["state"], entered["reason"]) == ("good", "")
    for volume in order:
        assert not enter(written, volume)["changed"]
    assert everything(written) == expected
    verify(written)
    written.restore("s1", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize(("volume", "missing"), [("V1", "what follows part 1"), ("V2", "part 1 on volume V1")])
def test_from_one_volume_it_is_never_good_and_what_is_missing_is_named(
    written: Library, tmp_path: Path, volume: str, missing: str
) -> None:
    lose_catalog(written)
    enter(written, volume)
    session = written.catalog.session("s1")
    assert session is not None
    assert session.state == "damaged"
    assert missing in session.reason
    assert missing in refused(lambda: written.restore("s1", tmp_path / "t"), "session")
    refused(lambda: find_good_session(written.catalog, "latest", "db9"), "host")
    # What is there is kept like a session.
    assert "s1" in [found.id for found in written.catalog.unexpired(volume)]
    assert "unexpired" in refused(lambda: written.label(volume, "other"), "volume")


def test_parts_of_different_runs_are_not_joined(written: Library, tmp_path: Path) -> None:
    """Another run of the same session id, on other volumes, of which the second is put in the place of the first's."""
    (tmp_path / "other").mkdir(mode=0o700)
    other = Library(tmp_path / "other")
    for name in ("V1", "V2"):
        other.make(name)
        other.label(name)
    other.volume = "V2"
    other.back_up("before", [folder("/other")])
    write_parts(other, expires_s=5e9)
    other.catalog.close()
    (written.folder / "V2").rename(written.folder.parent / "away")
    (other.folder / "V2").rename(written.folder / "V2")
    lose_catalog(written)
    enter(written, "V1")
    (damage,) = enter(written, "V2")["damaged"]
    assert "contradicts" in damage["reason"]
    session = written.catalog.session("s1")
    assert session is not None
    assert session.state == "damaged"
    assert [part.volume for part in written.catalog.parts(session.number)] == ["V1"]


def write_part(
    library: Library, number: int, volume: str, members: tuple[int, int], earlier: list[Any]
) -> list[dict[str, Any]]:
    """Write members from one to before another as a part, and return the facts of the session's parts."""
    begin, end = members
    source = ArchiveSource({}, WriterOptions(buffer_bytes=4 << 20), Owners(), None, str(library.state_dir))
    last = TREE[end].path if end < len(TREE) else None
    with library.drive() as drive:
        place = place_for(drive, library.catalog, volume, "append")
        with PartWriter(drive, library.catalog, number, place, earlier=earlier) as part:
            selection = Selection((entry, []) for entry in TREE[begin:])
            part.write(source, selection, head_of("s1", None), lambda mapped: last is None or mapped[0].path < last)
            facts: list[dict[str, Any]] = part.finish(PROOF)["parts"]
            return facts


def stop_finishing(library: Library) -> None:
    """The catalog takes no part as complete any more, as on a full disk."""
    library.catalog._db.execute(
        "CREATE TEMP TRIGGER full BEFORE UPDATE ON parts BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )


@pytest.fixture
def repeated(library: Library) -> Library:
    """Part 2 is whole on V2, where the catalog failed; it was written again, longer, on V3, and part 3 is on V4."""
    for name in ("V1", "V2", "V3", "V4"):
        library.make(name)
        library.label(name)
    number = library.catalog.begin_session("s1", "db1", CREATED_S, None)
    first = write_part(library, number, "V1", (0, 2), [])
    stop_finishing(library)
    with pytest.raises(SplitMirrorError, match="disk is full"):
        write_part(library, number, "V2", (2, 4), first)
    library.catalog._db.execute("DROP TRIGGER full")
    second = write_part(library, number, "V3", (2, 5), first)
    write_part(library, number, "V4", (5, len(TREE)), second)
    return library


def test_a_part_that_failed_is_written_again_on_another_volume(repeated: Library) -> None:
    assert judge(repeated).state == "good"
    assert verify(repeated)["volumes"] == ["V1", "V3", "V4"]
    assert repeated.catalog.unfinished("V2", 1)


@pytest.mark.parametrize("order", list(itertools.permutations(["V1", "V2", "V4"])))
@pytest.mark.slow
def test_a_part_that_was_written_again_never_makes_a_session_good(repeated: Library, order: tuple[str, ...]) -> None:
    lose_catalog(repeated)
    for volume in order:
        enter(repeated, volume)
    session = repeated.catalog.session("s1")
    assert session is not None
    assert (session.state, "part 2 on volume V3" in session.reason) == ("damaged", True)
    assert [found.id for found in repeated.catalog.unexpired("V2")] == ["damaged-V2-1"]
    enter(repeated, "V3")
    assert [part.volume for part in repeated.catalog.parts(find_good_session(repeated.catalog, "s1", None).number)] == [
        "V1",
        "V3",
        "V4",
    ]
    verify(repeated)


def test_a_whole_part_that_the_catalog_could_not_take_is_entered_or_kept(two: Library) -> None:
    number = two.catalog.begin_session("s1", "db1", CREATED_S, None)
    first = write_part(two, number, "V1", (0, 3), [])
    stop_finishing(two)
    with pytest.raises(SplitMirrorError, match="disk is full"):
        write_part(two, number, "V2", (3, len(TREE)), first)
    two.catalog._db.execute("DROP TRIGGER full")
    enter(two, "V2")
    assert find_good_session(two.catalog, "s1", None)
    verify(two)


def test_an_open_session_does_not_expire_and_its_number_is_not_used_again(two: Library) -> None:
    number = two.catalog.begin_session("s1", "db1", CREATED_S, 1.0)
    write_part(two, number, "V1", (0, 3), [])
    assert "s1 as failed" in refused(lambda: two.label("V1", "other"), "volume")
    two.catalog._forget(number)
    assert two.catalog.begin_session("s2", "db1") > number
    with pytest.raises(SplitMirrorError, match="not in the catalog any more"):
        write_part(two, number, "V2", (3, len(TREE)), [])


# -- its volumes are used again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("volume", ["V1", "V2"])
def test_neither_volume_is_relabelled_while_the_session_is_needed(written: Library, volume: str) -> None:
    before = everything(written)
    assert "unexpired" in refused(lambda: written.label(volume, "other"), "volume")
    written.catalog.expire_session("before", allow_last=True)
    written.catalog.expire_session("s1", allow_last=True)
    assert "last good session" in refused(lambda: written.label(volume, "other"), "allow_last")
    assert everything(written)[2:] == before[2:]


@pytest.mark.parametrize("volume", ["V1", "V2"])
def test_relabelling_one_volume_forgets_the_session_and_leaves_nothing_of_it(written: Library, volume: str) -> None:
    written.catalog.expire_session("before", allow_last=True)
    written.catalog.expire_session("s1", allow_last=True)
    number = find_good_session(written.catalog, "s1", None).number
    assert written.label(volume, "other", allow_last=True)
    assert written.catalog.session("s1") is None
    assert (written.catalog.parts(number), list(written.catalog.members(number))) == ([], [])
    other = {"V1": "V2", "V2": "V1"}[volume]
    assert "s1" not in [found.id for found in written.catalog.unexpired(other)]
    # What stands on the other volume stays there, and the next session goes behind it.
    assert {"V1": 2, "V2": 3}[other] == written.place(volume=other).file_number
    written.volume = other
    written.back_up("after", [folder("/srv")])
    entered = enter(written, other)
    assert [one["session"] for one in entered["entered"]] == ["s1"]
    assert entered["entered"][0]["state"] == "damaged"


def test_where_a_writer_died_on_another_volume_stays_known(two: Library) -> None:
    write_parts(two, last=False)
    session = two.catalog.session("s1")
    assert session is not None
    with two.drive() as drive:
        place = place_for(drive, two.catalog, "V2", "append")
        PartWriter(drive, two.catalog, session.number, place, earlier=session.write["parts"]).__enter__()
        drive.write_record(bytes(RECORD))
    assert judge(two).state == "failed"
    assert two.label("V1", "other")
    assert two.catalog.session("s1") is None
    assert two.catalog.unfinished("V2", 2)
    two.volume = "V2"
    assert two.back_up("after", [folder("/srv")])["file_number"] == 2


# -- what somebody may have written into an index ---------------------------------------------------------------------


def rebuilt_with(library: Library, wrong: dict[str, Any]) -> tuple[dict[str, Any], Session]:
    """What a rebuild finds on the second volume, when the index there says something else than it should."""
    write_parts(library, last=False)
    session = library.catalog.session("s1")
    assert session is not None
    (first,) = library.catalog.parts(session.number)
    place = {"part": 1, "offset_bytes": first.end_bytes, "volumes": ["V1", "V2"], "last": True}
    options = WriterOptions(record_bytes=RECORD, buffer_bytes=4 << 20)
    with library.drive() as drive:
        sink = TapeRecordSink(drive, place_for(drive, library.catalog, "V2", "append"))
        with open_archive({}, sink, options, spool_dir=str(library.state_dir)) as archive:
            archive.put_entries((entry, []) for entry in TREE[3:])
            archive.finish({**head_of("s1", None), **place, **wrong})
        sink.finish()
    lose_catalog(library)
    enter(library, "V1")
    found = enter(library, "V2")
    session = library.catalog.session("s1")
    assert session is not None
    return found, session


@pytest.mark.parametrize(
    "wrong",
    [
        {"part": 2},
        {"part": -1},
        {"part": 1 << 80},
        {"part": "1"},
        {"part": True},
        {"part": 0},
        {"volumes": []},
        {"volumes": "V1 and V2"},
        {"volumes": ["V1"]},
        {"offset_bytes": -512},
        {"offset_bytes": 1 << 80},
        {"offset_bytes": 1.5},
        {"offset_bytes": 0},
        {"host": "db2"},
    ],
)
@pytest.mark.slow
def test_a_part_that_says_nonsense_of_itself_joins_no_session(two: Library, wrong: dict[str, Any]) -> None:
    found, session = rebuilt_with(two, wrong)
    assert [damage["file_number"] for damage in found["damaged"]] == [2]
    assert session.state == "damaged"
    assert [part.volume for part in two.catalog.parts(session.number)] == ["V1"]


def test_a_part_that_says_what_is_true_does(two: Library) -> None:
    found, session = rebuilt_with(two, {})
    assert (found["damaged"], session.state) == ([], "good")
