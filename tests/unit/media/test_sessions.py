# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions written to a volume, restored, verified, lost and found again, with everything that can go wrong between."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive import writer
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import head_line
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import MemberRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import (
    EXTENDED,
    REGULAR,
    record,
    time_value,
    ustar_block,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import PIECE_BYTES
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import fail_session, verdict_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import pack_xattrs
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import read_status
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import dry_run as dry_restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import APPEND, OVERWRITE
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import (
    dry_run,
    write_session,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    Buffer,
    DriveStatus,
    Position,
    TapeError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults, FaultyTape
from ansible_collections.splitmirror.backup.tests.support.tape import (
    MTIME_NS,
    RECORD,
    Held,
    Library,
    folder,
    inline,
    judge,
    link,
    window_evidence,
)

TREE = [
    folder("/srv"),
    inline("/srv/a", b"a" * 3000),
    folder("/srv/b"),
    inline("/srv/b/empty", b""),
    inline("/srv/b/one", b"1", inode=7, nlink=2),
    inline("/srv/b/two", b"1", inode=7, nlink=2),
    link("/srv/b/way", "/etc/passwd"),
    inline("/srv/c", bytes(range(256)) * 20)._replace(xattrs=pack_xattrs({b"user.note": b"kept"})),
]
FILES = {
    "srv/a": b"a" * 3000,
    "srv/b/empty": b"",
    "srv/b/one": b"1",
    "srv/b/two": b"1",
    "srv/c": bytes(range(256)) * 20,
}


def contents(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def refused(call: Callable[[], object], option: str | None = None) -> str:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    if option is not None:
        assert caught.value.option == option
    assert caught.value.message.endswith(".")
    return caught.value.message


class Named(NamedTuple):
    """Members that a refusal names, and where the whole list is."""

    missing: set[str]
    doubtful: set[str]


def named(call: Callable[[], object], option: str = "session") -> Named:
    """What a restore or a verification names that failed."""
    with pytest.raises(SplitMirrorError) as caught:
        call()
    assert caught.value.option == option
    facts = caught.value.facts
    found = Named({row["path"] for row in facts["missing"]}, {row["path"] for row in facts["doubtful"]})
    assert (len(found.missing), len(found.doubtful)) == (facts["missing_count"], facts["doubtful_count"])
    rows = [json.loads(line) for line in Path(facts["report"]).read_text().splitlines()]
    assert {row["path"] for row in rows if row["state"] == "missing"} == found.missing
    assert {row["path"] for row in rows if row["state"] == "doubtful"} == found.doubtful
    assert all(path in caught.value.message for path in sorted(found.missing)[:1])
    return found


def damage(call: Callable[[], Any]) -> Named:
    """What a restore or a verification names, or nothing."""
    try:
        facts = call()
    except SplitMirrorError as exc:
        facts = exc.facts
    return Named({row["path"] for row in facts["missing"]}, {row["path"] for row in facts["doubtful"]})


def without(*paths: str) -> dict[str, bytes]:
    return {name: data for name, data in FILES.items() if name not in paths}


def verify(library: Library, session: str) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return verify_session(find_good_session(library.catalog, session, None), library.catalog, Held(drive))


def patch(library: Library, old: bytes, new: bytes, name: str = "00001.tar") -> None:
    """Change bytes on the tape itself."""
    path = library.folder / "V1" / name
    data = path.read_bytes()
    assert data.count(old) >= 1
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


# -- there and back ----------------------------------------------------------------------------------------------


def test_what_is_written_is_restored(labelled: Library, tmp_path: Path) -> None:
    done = labelled.back_up("s1", TREE)
    assert (done["files"], done["bytes"], done["file_number"]) == (4, 3000 + 5120 + 1, 1)
    target = tmp_path / "target"
    back = labelled.restore("s1", target)
    assert (back["members"], back["files"], back["bytes"], back["volumes"]) == (8, 4, 3000 + 5120 + 1, ["V1"])
    assert contents(target) == FILES
    assert (target / "srv/b/one").stat().st_ino == (target / "srv/b/two").stat().st_ino
    assert os.readlink(target / "srv/b/way") == "/etc/passwd"
    found = (target / "srv/a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o640, MTIME_NS)
    assert os.listdir(target) == ["srv"]


def test_a_file_from_the_year_2300_is_written_verified_and_found_again_on_the_volume(labelled: Library) -> None:
    mtime_ns = 10_413_792_000 * 10**9 + 1
    labelled.back_up("s1", [folder("/srv"), inline("/srv/late", b"x")._replace(mtime_ns=mtime_ns)])
    verify(labelled, "s1")
    for _again in range(2):
        session = find_good_session(labelled.catalog, "s1", None)
        (found,) = [member for _part, member in labelled.catalog.members(session.number, [b"srv/late"])]
        assert found.mtime_ns == mtime_ns
        labelled.catalog.close()
        os.unlink(labelled.catalog.path)
        labelled.catalog = Catalog.open(labelled.catalog.path, writable=True)
        with labelled.drive(writable=False) as drive:
            rebuild("V1", labelled.catalog, drive)


def test_plain_tar_restores_it_too(labelled: Library, tmp_path: Path) -> None:
    done = labelled.back_up("s1", TREE)
    subprocess.run(["tar", "-xf", done["archive"], "-C", str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    assert {name: data for name, data in contents(tmp_path).items() if name.startswith("srv")} == FILES


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("path", ["/srv/a", "/srv/b/empty", "/srv/c", "/srv/b/way"])
def test_one_file_costs_its_own_records_and_two_more(labelled: Library, tmp_path: Path, path: str, tells: bool) -> None:
    labelled.back_up("s0", TREE)
    done = labelled.back_up("s1", TREE)
    with labelled.drive(writable=False, tells=tells) as drive:
        back = restore(RestoreJob("s1", str(tmp_path / "t"), paths=[path]), labelled.catalog, Held(drive))
    session = labelled.catalog.session("s1")
    assert session is not None
    members = [member for _part, member in labelled.catalog.members(session.number)]
    place = next(number for number, member in enumerate(members) if b"/" + member.path == path.encode())
    begin, end = members[place].offset_bytes, members[place + 1].offset_bytes
    own = -(-end // RECORD) - begin // RECORD
    assert back["records_read"] <= own + 2
    assert done["records"] > 20
    assert set(contents(tmp_path / "t")) <= {path[1:]}


def test_folders_and_links_bring_what_belongs_to_them(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    labelled.restore("s1", tmp_path / "one", "/srv/b/")
    assert contents(tmp_path / "one") == {name: data for name, data in FILES.items() if name.startswith("srv/b/")}
    labelled.restore("s1", tmp_path / "two", "/srv/b/two", "/srv/c")
    assert set(contents(tmp_path / "two")) == {"srv/b/one", "srv/b/two", "srv/c"}


@pytest.mark.parametrize("path", ["//srv//b", "/srv/./b/", "/srv/b//", "/data//b", "/data/./b/", "//data/b"])
def test_a_path_may_be_written_otherwise(labelled: Library, tmp_path: Path, path: str) -> None:
    job = labelled.job("s1", TREE)
    with MapFile.open(job.map_path) as map_file:
        map_file.set_meta("names", json.dumps({"/data": "/srv", "/other": "/nowhere"}))
    with labelled.drive() as drive:
        judge(labelled, "s1", write_session(job, labelled.on(drive)))
    labelled.restore("s1", tmp_path / "t", path)
    expected = {name: data for name, data in FILES.items() if name.startswith("srv/b/")}
    assert contents(tmp_path / "t") == expected
    for wrong in ("/database/b", "/other/b", "/srv/../srv/b"):
        refused(lambda wrong=wrong: labelled.restore("s1", tmp_path / "u", wrong), "paths")  # type: ignore[misc]
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        rebuild("V1", labelled.catalog, drive)
    labelled.restore("s1", tmp_path / "v", path)
    assert contents(tmp_path / "v") == expected


def test_the_latest_good_session_of_the_host_is_taken(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", [folder("/srv"), inline("/srv/x", b"old")])
    labelled.back_up("s2", [folder("/srv"), inline("/srv/x", b"new")])
    labelled.back_up("s3", [folder("/srv"), inline("/srv/x", b"not judged")], judged=False)
    assert labelled.restore("latest", tmp_path / "t", host="db1")["session"] == "s2"
    assert contents(tmp_path / "t") == {"srv/x": b"new"}
    refused(lambda: labelled.restore("latest", tmp_path / "u"), "host")
    refused(lambda: labelled.restore("latest", tmp_path / "u", host="db9"), "host")
    refused(lambda: labelled.restore("s1", tmp_path / "u", host="db9"), "host")


def test_check_mode_tells_where_the_members_lie(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    plan = dry_restore(RestoreJob("s1", str(tmp_path / "t"), paths=["/srv/b"]), labelled.catalog)
    assert (plan["members"], plan["files"], plan["volumes"]) == (5, 2, ["V1"])
    records = [position["record"] for position in plan["positions"]]
    assert records == sorted(records)
    assert {(position["volume"], position["file_number"]) for position in plan["positions"]} == {("V1", 1)}
    assert not (tmp_path / "t").exists()


# -- refusals of a restore -----------------------------------------------------------------------------------------


def test_only_good_sessions_are_offered(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE, judged=False)
    assert "open" in refused(lambda: labelled.restore("s1", tmp_path / "t"), "session")
    fail_session(labelled.catalog, "s1", "db1", "the window was broken.")
    assert "the window was broken" in refused(lambda: labelled.restore("s1", tmp_path / "t"), "session")
    assert "not in the catalog" in refused(lambda: labelled.restore("s9", tmp_path / "t"), "session")
    assert not (tmp_path / "t").exists()


def test_a_file_in_no_session_and_one_in_another_are_told_apart(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    labelled.back_up("s2", [folder("/srv"), inline("/srv/new", b"new")])
    said = refused(lambda: labelled.restore("s2", tmp_path / "t", "/srv/a"), "paths")
    assert "session s1 holds it" in said
    said = refused(lambda: labelled.restore("s2", tmp_path / "t", "/srv/new", "/srv/nowhere"), "paths")
    assert "/srv/nowhere" in said
    assert "no good session" in said
    refused(lambda: labelled.restore("s2", tmp_path / "t", "srv/a"), "paths")
    assert not (tmp_path / "t").exists()


def test_a_target_with_anything_in_it_is_refused(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    target = tmp_path / "t"
    target.mkdir()
    (target / ".hidden").write_text("mine")
    assert "not empty" in refused(lambda: labelled.restore("s1", target), "target")
    refused(lambda: labelled.restore("s1", target / ".hidden"), "target")
    refused(lambda: labelled.restore("s1", Path("relative")), "target")
    assert os.listdir(target) == [".hidden"]
    (target / ".hidden").unlink()
    labelled.restore("s1", target)
    assert contents(target) == FILES


def retold_header(library: Library, name: bytes, field: int, new: bytes) -> None:
    """Change a field in the header of a member on tape, with the right checksum, as somebody who tampers with it."""
    path = library.folder / "V1" / "00001.tar"
    data = bytearray(path.read_bytes())
    place = -1
    for block in range(0, len(data), 512):
        if data[block : block + 100].rstrip(b"\0") == name and data[block + 257 : block + 262] == b"ustar":
            place = block
    assert place >= 0
    data[place + field : place + field + len(new)] = new
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    path.write_bytes(data)


@pytest.mark.parametrize("name", [b"../escaped", b"/escaped", b"srv/../../escaped", b"srv/b/../c", b"other"])
def test_a_tampered_member_is_named_and_stands_nowhere(labelled: Library, tmp_path: Path, name: bytes) -> None:
    labelled.back_up("s1", TREE)
    retold_header(labelled, b"srv/c", 0, name.ljust(100, b"\0"))
    target = tmp_path / "in" / "target"
    assert named(lambda: labelled.restore("s1", target)) == Named({"/srv/c"}, set())
    assert contents(target) == without("srv/c")
    assert os.listdir(target) == ["srv"]
    assert os.listdir(tmp_path / "in") == ["target"]
    assert not Path("/escaped").exists()
    assert damage(lambda: verify(labelled, "s1")) == Named({"/srv/c"}, set())


def test_headers_for_all_members_behind_them_are_refused(labelled: Library, tmp_path: Path) -> None:
    """GNU tar would go by them, and take the content of an honest file for members that nobody has checked."""

    def for_all(*records: tuple[bytes, bytes]) -> bytes:
        told = b"".join(record(key, value) for key, value in records)
        return ustar_block(b"PaxHeaders/splitmirror", b"g", len(told)) + told.ljust(512, b"\0")

    upload = for_all((b"comment", b"x")) + ustar_block(b"srv/a", REGULAR, 6) + b"forged".ljust(512, b"\0")
    labelled.back_up("s1", [*TREE[:3], inline("/srv/upload", upload), inline("/srv/z", b"z")])
    path = labelled.folder / "V1/00001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        place = archive.getmember("srv/b").offset
    assert data[place + 156 : place + 157] == EXTENDED
    data[place : place + 1024] = for_all((b"mtime", time_value(MTIME_NS)), (b"size", b"0"))
    path.write_bytes(data)

    assert named(lambda: labelled.restore("s1", tmp_path / "t")) == Named({"/srv/b"}, set())
    assert contents(tmp_path / "t") == {"srv/a": b"a" * 3000, "srv/upload": upload, "srv/z": b"z"}


@pytest.mark.parametrize(
    ("name", "field", "new"),
    [
        pytest.param(b"srv/a", 124, b"+0000005670", id="a size that tar reads in base 64"),
        pytest.param(b"srv/b/", 124, b"00000001000", id="a folder with a size"),
        pytest.param(b"srv/a", 156, b"7", id="a kind of member that is not ours"),
        pytest.param(b"srv/a", 257, b"ustar  \0", id="the older form"),
        pytest.param(b"srv/a", 100, b"0004755", id="another mode"),
        pytest.param(b"srv/a", 108, b"0000001", id="another owner"),
    ],
)
def test_a_header_that_is_not_as_it_was_written_is_refused(
    labelled: Library, tmp_path: Path, name: bytes, field: int, new: bytes
) -> None:
    labelled.back_up("s1", TREE)
    retold_header(labelled, name, field, new)
    path = "/" + name.decode().rstrip("/")
    assert named(lambda: labelled.restore("s1", tmp_path / "t")) == Named({path}, set())
    assert contents(tmp_path / "t") == without(path[1:])
    assert damage(lambda: verify(labelled, "s1")) == Named({path}, set())


def test_a_tampered_catalog_cannot_make_it_leave_the_target_either(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    session = labelled.catalog.session("s1")
    assert session is not None
    evil = MemberRecord(b"../escaped", "f", 1, 1 << 30, 512, "00" * 32, 0, 0o644, 0, 0, None)
    labelled.catalog.add_members(session.number, 0, [evil])
    assert "leave the target" in refused(lambda: labelled.restore("s1", tmp_path / "t"))
    assert not (tmp_path / "t").exists()


def test_a_hard_link_out_of_the_target_is_refused(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    session = labelled.catalog.session("s1")
    assert session is not None
    evil = MemberRecord(b"srv/evil", "h", 0, 1 << 30, 512, None, 0, 0o644, 0, 0, b"../../etc/shadow")
    labelled.catalog.add_members(session.number, 0, [evil])
    assert "leave the target" in refused(lambda: labelled.restore("s1", tmp_path / "t"))


def test_a_file_that_comes_back_otherwise_is_named_and_the_others_are_there(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    patch(labelled, b"a" * 3000, b"a" * 2999 + b"b")
    assert named(lambda: labelled.restore("s1", tmp_path / "t")) == Named(set(), {"/srv/a"})
    assert contents(tmp_path / "t") == {**FILES, "srv/a": b"a" * 2999 + b"b"}
    patch(labelled, b"1" + bytes(511), b"2" + bytes(511))
    expected = Named(set(), {"/srv/a", "/srv/b/one", "/srv/b/two"})
    assert named(lambda: labelled.restore("s1", tmp_path / "u")) == expected
    assert damage(lambda: verify(labelled, "s1")) == expected


class WornTape(FaultyTape):
    """Some records of tape file 1 cannot be read, and then nobody knows where the head stands."""

    bad: frozenset[int] = frozenset()
    lost = False
    stays_lost = False

    def read_record(self, max_bytes: int) -> bytes:
        place = self.position()
        assert not self.lost, "it is read where the head happens to stand"
        if place is not None and place.file == 1 and place.record in self.bad:
            self.lost = True
            raise TapeError("drive: it cannot read a record (Input/output error).", option="drive")
        return super().read_record(max_bytes)

    def locate(self, target: Position, block: int | None = None) -> None:
        if self.lost and self.stays_lost:
            raise TapeError("drive: it cannot locate (Input/output error).", option="drive")
        self.lost = False
        super().locate(target, block)


def worn(library: Library, *places: tuple[bytes, int], tells: bool = True, record_bytes: int = RECORD) -> WornTape:
    """A drive that cannot read these records: so many bytes behind the beginning of these members of s1."""
    session = library.catalog.session("s1")
    assert session is not None
    begins = {member.path: member.offset_bytes for _part, member in library.catalog.members(session.number)}
    drive = WornTape(str(library.folder), tells=tells)
    drive.bad = frozenset((begins[path] + offset) // record_bytes for path, offset in places)
    return drive


#: Two blocks of a pax header and the header itself.
HEADERS = 3 * 512


@pytest.mark.parametrize("tells", [True, False])
def test_a_record_that_cannot_be_read_costs_only_what_is_on_it(labelled: Library, tmp_path: Path, tells: bool) -> None:
    labelled.back_up("s1", [*TREE[:-1], inline("/srv/bb", b"b" * (PIECE_BYTES + 3000)), TREE[-1]])
    bad = [(b"srv/bb", HEADERS + PIECE_BYTES + 1024), (b"srv/b/empty", 512), (b"srv/c", 1024)]
    with worn(labelled, *bad, tells=tells) as drive:
        found = named(lambda: restore(RestoreJob("s1", str(tmp_path / "t")), labelled.catalog, Held(drive)))
    assert found == Named({"/srv/b/empty", "/srv/c"}, {"/srv/bb"})
    expected = {**FILES, "srv/bb": b"b" * PIECE_BYTES + bytes(3000)}
    del expected["srv/b/empty"], expected["srv/c"]
    assert contents(tmp_path / "t") == expected
    assert os.readlink(tmp_path / "t/srv/b/way") == "/etc/passwd"


@pytest.mark.parametrize("tells", [True, False])
def test_members_that_begin_on_the_same_bad_record_are_all_left_out(
    library: Library, tmp_path: Path, tells: bool
) -> None:
    library.make()
    library.label(record_bytes=8192)
    library.back_up("s1", [*TREE, inline("/srv/d", b"d")])
    with worn(library, (b"srv/c", 0), tells=tells, record_bytes=8192) as drive:
        found = named(lambda: restore(RestoreJob("s1", str(tmp_path / "t")), library.catalog, Held(drive)))
    assert found.missing == {"/srv/b/empty", "/srv/b/one", "/srv/b/two", "/srv/b/way", "/srv/c"}
    assert found.doubtful <= {"/srv/b"}
    assert contents(tmp_path / "t") == {"srv/a": FILES["srv/a"], "srv/d": b"d"}


@pytest.mark.parametrize(("place", "became"), [(HEADERS, b"\0"), (1024, None)], ids=["content", "header"])
def test_hard_links_share_what_became_of_their_file(
    labelled: Library, tmp_path: Path, place: int, became: bytes | None
) -> None:
    labelled.back_up("s1", TREE)
    with worn(labelled, (b"srv/b/one", place)) as drive:
        names = named(lambda: restore(RestoreJob("s1", str(tmp_path / "t")), labelled.catalog, Held(drive)))
    assert names[became is not None] == {"/srv/b/one", "/srv/b/two"}
    assert not names[became is None]
    found = contents(tmp_path / "t")
    assert (found.pop("srv/b/one", None), found.pop("srv/b/two", None)) == (became, became)
    assert found == {name: data for name, data in FILES.items() if name not in ("srv/b/one", "srv/b/two")}


def test_a_folder_that_cannot_be_read_takes_nothing_with_it(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    with worn(labelled, (b"srv/b", 0)) as drive:
        found = named(lambda: restore(RestoreJob("s1", str(tmp_path / "t")), labelled.catalog, Held(drive)))
    assert found == Named({"/srv/b"}, set())
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize("paths", [(), ("/srv",), ("/srv/a", "/srv", "/srv/c")])
def test_a_drive_that_finds_no_place_any_more_ends_the_restore(
    labelled: Library, tmp_path: Path, paths: tuple[str, ...]
) -> None:
    labelled.back_up("s1", TREE)
    drive = worn(labelled, (b"srv/b/one", HEADERS))
    drive.stays_lost = True
    with drive:
        found = named(
            lambda: restore(RestoreJob("s1", str(tmp_path / "t"), paths=paths), labelled.catalog, Held(drive))
        )
    assert found == Named({"/srv/b/two", "/srv/b/way", "/srv/c"}, {"/srv/b/one"})
    assert contents(tmp_path / "t") == {**without("srv/b/two", "srv/c"), "srv/b/one": b"\0"}


def test_a_drive_that_finds_no_place_at_all_leaves_the_target_as_it_was(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    drive = worn(labelled, (b"srv", 0))
    drive.stays_lost = True
    with drive:
        refused(lambda: restore(RestoreJob("s1", str(tmp_path / "t")), labelled.catalog, Held(drive)), "drive")
    assert not (tmp_path / "t").exists()


def test_the_volume_must_be_the_one_of_the_catalog(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    patch(labelled, b'"volume": "V1"', b'"volume": "V2"', "00000.tar")
    assert "holds V2" in refused(lambda: labelled.restore("s1", tmp_path / "t"), "volume")
    assert not (tmp_path / "t").exists()


def test_what_the_target_cannot_hold_is_said_and_the_files_are_there(labelled: Library, tmp_path: Path) -> None:
    known_to_no_file_system = pack_xattrs({b"system.nonsense": b"x"})
    labelled.back_up("s1", [*TREE[:2], inline("/srv/c", b"c")._replace(xattrs=known_to_no_file_system)])
    assert "system.nonsense" in refused(lambda: labelled.restore("s1", tmp_path / "t"), "target")
    assert contents(tmp_path / "t") == {"srv/a": b"a" * 3000, "srv/c": b"c"}


def test_a_member_that_the_target_cannot_take_costs_only_itself(labelled: Library, tmp_path: Path) -> None:
    long = "/srv/" + "x" * 250 + "/" + "y" * 300
    labelled.back_up("s1", [*TREE, inline(long, b"1")])
    assert named(lambda: labelled.restore("s1", tmp_path / "t"), "target") == Named({long}, set())
    assert contents(tmp_path / "t") == FILES


def test_a_new_file_system_is_empty_enough(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", [*TREE, folder("/lost+found")])
    found = tmp_path / "lost+found"
    target = tmp_path / "t"
    for made in (target, target / "lost+found"):
        made.mkdir(mode=0o700)
    (target / "lost+found" / "#12").write_text("mine")
    assert "not empty" in refused(lambda: labelled.restore("s1", target), "target")
    (target / "lost+found" / "#12").unlink()
    labelled.restore("s1", target)
    assert contents(target) == FILES
    assert not found.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("SPLITMIRROR_ROUNDS", "40"))))
def test_one_flipped_bit_costs_one_file_and_all_agree_which(labelled: Library, tmp_path: Path, seed: int) -> None:
    labelled.back_up("s1", TREE)
    path = labelled.folder / "V1/00001.tar"
    data = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    found = damage(lambda: labelled.restore("s1", tmp_path / "t"))
    bad = {name[1:] for name in found.missing | found.doubtful}
    assert len(bad - {"srv/b/two"}) <= 1  # a second name of srv/b/one
    assert {name: text for name, text in contents(tmp_path / "t").items() if name not in bad} == without(*bad)
    index = "/.splitmirror/s1/index.jsonl"
    seen = damage(lambda: verify(labelled, "s1"))
    assert Named(seen.missing - {index}, seen.doubtful - {index}) == found


def test_one_lost_record_costs_what_is_on_it_and_all_agree_what(labelled: Library, tmp_path: Path) -> None:
    records = labelled.back_up("s1", TREE)["records"]
    index = "/.splitmirror/s1/index.jsonl"
    session = find_good_session(labelled.catalog, "s1", None)
    for number in range(records):
        target = tmp_path / str(number)
        with worn(labelled) as drive:
            assert isinstance(drive, WornTape)
            drive.bad = frozenset((number,))
            job = RestoreJob("s1", str(target))
            found = damage(functools.partial(restore, job, labelled.catalog, Held(drive)))
            drive.lost = False
            seen = damage(functools.partial(verify_session, session, labelled.catalog, Held(drive)))
        bad = {name[1:] for name in found.missing | found.doubtful}
        assert len(bad - {"srv/b/two"}) <= 1
        assert {name: text for name, text in contents(target).items() if name not in bad} == without(*bad)
        assert Named(seen.missing - {index}, seen.doubtful - {index}) == found


def test_what_arrives_is_compared_whatever_tar_says(
    labelled: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled.back_up("s1", TREE)
    tar = tmp_path / "bin" / "tar"
    tar.parent.mkdir()
    tar.write_text(f'#!/bin/sh\nexec {shutil.which("tar")} "$@" --exclude=srv/a --no-same-permissions\n')
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", str(tar.parent), prepend=":")
    found = named(lambda: labelled.restore("s1", tmp_path / "t"), "target")
    assert found.missing == {"/srv/a"}
    assert contents(tmp_path / "t") == without("srv/a")


def test_what_tar_complains_of_is_named_also_where_nothing_else_shows_it(
    labelled: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that tells only when a file is closed that it had no room for it."""
    labelled.back_up("s1", TREE)
    tar = tmp_path / "bin" / "tar"
    tar.parent.mkdir()
    said = "tar: srv/a: Cannot close: No space left on device"
    tar.write_text(f'#!/bin/sh\n{shutil.which("tar")} "$@"\necho "{said}" >&2\nexit 2\n')
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", str(tar.parent), prepend=":")
    found = named(lambda: labelled.restore("s1", tmp_path / "t"), "target")
    assert found == Named(set(), {"/srv/a"})
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize("paths", [(), ("/srv",)])
def test_a_tar_that_gives_up_is_no_fault_of_the_session(
    labelled: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...]
) -> None:
    large = [inline(f"/srv/z{number:02}", bytes(40_000)) for number in range(30)]
    labelled.back_up("s1", [*TREE, *large])
    tar = tmp_path / "bin" / "tar"
    tar.parent.mkdir()
    tar.write_text(f'#!/bin/sh\nhead -c 50000 | {shutil.which("tar")} "$@"\n')
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", str(tar.parent), prepend=":")
    found = named(lambda: labelled.restore("s1", tmp_path / "t", *paths), "target")
    assert found == Named({f"/srv/z{number:02}" for number in range(1, 30)}, {"/srv/z00"})
    assert contents(tmp_path / "t").items() >= FILES.items()


def test_a_name_that_reads_like_an_error_is_none(labelled: Library, tmp_path: Path) -> None:
    future = inline("/srv/x: Cannot y", b"1")._replace(mtime_ns=8_000_000_000 * 10**9)
    labelled.back_up("s1", [*TREE, future])
    labelled.restore("s1", tmp_path / "t")
    assert contents(tmp_path / "t") == {**FILES, "srv/x: Cannot y": b"1"}


def test_variables_for_tar_change_nothing(labelled: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled.back_up("s1", TREE)
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=srv/a --no-xattrs")
    labelled.restore("s1", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES
    assert os.getxattr(tmp_path / "t/srv/c", "user.note") == b"kept"


# -- refusals and failures of a backup -----------------------------------------------------------------------------


def test_a_map_that_was_not_checked_or_is_of_another_session_is_refused(labelled: Library) -> None:
    before = labelled.content()
    job = labelled.job("s1", TREE)
    labelled.make_map("s1", TREE, state="mapped")
    with labelled.drive() as drive:
        assert "not checked" in refused(lambda: write_session(job, labelled.on(drive)), "map")
        other = dataclasses.replace(job, map_path=str(labelled.make_map("s2", TREE)))
        assert "s2" in refused(lambda: write_session(other, labelled.on(drive)))
    assert labelled.content() == before
    assert labelled.catalog.sessions() == []


def test_a_session_too_large_is_refused_before_anything_is_written(library: Library) -> None:
    library.make(capacity_bytes=2 << 20)
    library.label()
    before = library.content()
    assert "too small" in refused(lambda: library.back_up("s1", [inline("/x", bytes(3 << 20))]), "volume")
    assert library.content() == before
    assert library.catalog.sessions() == []


class SilentTape(VirtualTape):
    """A drive that does not tell how much room is left, as many real ones."""

    def status(self) -> DriveStatus:
        return dataclasses.replace(super().status(), remaining_bytes=None)


def test_the_end_of_the_medium_fails_the_session_and_loses_nothing(library: Library, tmp_path: Path) -> None:
    library.make(capacity_bytes=3 << 20)
    library.label()
    library.back_up("s1", TREE)
    before = library.content()
    job = library.job("s2", [inline("/x", bytes(3 << 20))])
    with SilentTape(str(library.folder), writable=True) as drive:
        assert "is full after" in refused(lambda: write_session(job, library.on(drive)), "volume")
    assert library.content() == before
    found = library.catalog.session("s2")
    assert found is not None
    assert found.state == "open"
    library.restore("s1", tmp_path / "t")
    assert library.back_up("s3", TREE)["file_number"] == 2


@pytest.mark.parametrize("record", [0, 1, 7])
def test_a_write_error_fails_the_session_and_the_next_run_succeeds(
    labelled: Library, tmp_path: Path, record: int
) -> None:
    labelled.back_up("s1", TREE)
    before = labelled.content()
    job = labelled.job("s2", TREE)
    with labelled.drive(faults=Faults(write_error_at=record)) as drive:
        assert "cannot be written" in refused(lambda: write_session(job, labelled.on(drive)), "drive")
    assert labelled.content() == before
    evidence = {**window_evidence(), "session": "s2"}
    assert not verdict_of(labelled.catalog, "s2", evidence).good
    labelled.back_up("s2", TREE)
    labelled.restore("s2", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize("tells", [True, False])
def test_a_filemark_that_is_lost_fails_the_session(labelled: Library, tells: bool) -> None:
    labelled.back_up("s1", TREE)
    before = labelled.content()
    job = labelled.job("s2", TREE)
    with labelled.drive(faults=Faults(lost_filemark=0), tells=tells) as drive:
        assert "filemark" in refused(lambda: write_session(job, labelled.on(drive)), "volume")
    assert labelled.content() == before


class DyingTape(VirtualTape):
    """The process dies when this record is to be written."""

    dies_at = 5

    def write_record(self, record: Buffer) -> None:
        self.dies_at -= 1
        if self.dies_at < 0:
            os._exit(9)
        super().write_record(record)


def test_a_killed_run_is_no_backup_and_the_next_one_takes_its_place(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    job = labelled.job("s2", TREE)
    child = os.fork()
    if not child:
        try:
            with DyingTape(str(labelled.folder), writable=True) as drive:
                write_session(job, labelled.on(drive))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = labelled.catalog.session("s2")
    assert found is not None
    assert found.state == "open"
    refused(lambda: labelled.restore("s2", tmp_path / "t"), "session")
    assert labelled.back_up("s3", TREE)["file_number"] == 2
    assert labelled.back_up("s2", TREE)["file_number"] == 3
    labelled.restore("s2", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES


def test_a_session_is_written_once_and_by_one(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    before = labelled.content()
    assert "already" in refused(lambda: labelled.back_up("s1", TREE), "session")
    handle = os.open(StateDir(str(labelled.state_dir)).make_session_dir("s2"), os.O_RDONLY)
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another process" in refused(lambda: labelled.back_up("s2", TREE), "session")
    os.close(handle)
    assert labelled.content() == before


def test_expired_volumes_are_written_from_their_start(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE, retention_days=30)
    assert "unexpired" in refused(lambda: labelled.back_up("s2", TREE, mode=OVERWRITE), "volume")
    labelled.catalog.expire_session("s1", allow_last=True)
    before = labelled.content()
    assert "last good" in refused(lambda: labelled.back_up("s2", TREE, mode=OVERWRITE), "allow_last")
    assert labelled.content() == before
    done = labelled.back_up("s2", TREE, mode=OVERWRITE, allow_last=True)
    assert done["file_number"] == 1
    assert labelled.catalog.session("s1") is None
    labelled.restore("s2", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize("mode", [APPEND, OVERWRITE])
@pytest.mark.parametrize(
    "wrong",
    [{"queue_depth": 300}, {"buffer_bytes": 4 * RECORD - 1}, {"buffer_bytes": 1 << 50}, {"buffer_bytes": 1 << 70}],
)
def test_an_option_that_cannot_work_is_refused_before_the_volume_is_touched(
    labelled: Library, mode: str, wrong: dict[str, int]
) -> None:
    labelled.back_up("s1", TREE)
    labelled.catalog.expire_session("s1", allow_last=True)
    before = labelled.content()
    job = labelled.job("s2", TREE, **wrong)
    (option,) = wrong

    with labelled.drive() as drive:
        choose = labelled.on(drive, mode, allow_last=True)
        refused(lambda: dry_run(job, choose), option)
        refused(lambda: dry_run(dataclasses.replace(job, map_path="/nowhere"), choose), option)
        refused(lambda: write_session(job, choose), option)

    assert labelled.content() == before
    assert [session.id for session in labelled.catalog.sessions()] == ["s1"]


def test_progress_and_the_plan_are_told(labelled: Library) -> None:
    with labelled.drive(writable=False) as drive:
        plan = dry_run(labelled.job("s1", TREE), labelled.on(drive))
        assert (plan["file_number"], plan["files"], plan["host"]) == (1, 4, "db1")
        assert plan["bytes_archive"] > plan["bytes"]
        job = dataclasses.replace(labelled.job("s1", TREE), map_path="/nowhere")
        assert dry_run(job, labelled.on(drive))["volume"] == "V1"
    assert labelled.catalog.sessions() == []
    labelled.back_up("s1", TREE)
    status = read_status(str(labelled.state_dir / "sessions/s1/status.json"))
    assert status is not None
    written = sum(len(content) for name, content in labelled.content().items() if name != "00000.tar")
    assert (status.phase, status.done, status.total, status.eta_s) == ("write", written, written, 0)


def test_the_estimate_is_never_too_small(labelled: Library) -> None:
    trees = [TREE, [], [inline("/" + "n" * 200 + str(number), b"x" * number) for number in range(200)]]
    for number, entries in enumerate(trees):
        with labelled.drive(writable=False) as drive:
            plan = dry_run(labelled.job(f"s{number}", entries), labelled.on(drive))
        assert labelled.back_up(f"s{number}", entries)["bytes_archive"] <= plan["bytes_archive"]


# -- verify and rebuild --------------------------------------------------------------------------------------------


def test_a_sound_session_verifies(labelled: Library) -> None:
    labelled.back_up("s0", TREE)
    done = labelled.back_up("s1", TREE)
    found = verify(labelled, "s1")
    assert (found["members"], found["files"], found["records_read"]) == (done["members"], 4, done["records"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"a" * 3000, b"a" * 2999 + b"b", "/srv/a: its content is not what was written"),
        (b'"path":"srv/a"', b'"path":"srv/x"', "/srv/a is on the tape where the index has /srv/x"),
        (b'"mode":416', b'"mode":511', "differs from the index in mode"),
        (
            b"user.note=kept",
            b"user.note=lost",
            "/srv/c: its headers are not what was written, they differ in header_digest",
        ),
    ],
)
def test_any_change_on_the_tape_is_found(labelled: Library, old: bytes, new: bytes, told: str) -> None:
    labelled.back_up("s1", TREE)
    patch(labelled, old, new)
    assert told in refused(lambda: verify(labelled, "s1"), "session")


def test_a_torn_last_record_is_found(labelled: Library, tmp_path: Path) -> None:
    job = labelled.job("s1", TREE)
    with labelled.drive(faults=Faults(torn_last_record=True)) as drive:
        done = write_session(job, labelled.on(drive))
    evidence = {**window_evidence(), "session": "s1", "write": done["evidence"]}
    labelled.catalog.close_session("s1", verdict_of(labelled.catalog, "s1", evidence), evidence)
    assert "damaged" in refused(lambda: verify(labelled, "s1"))
    with labelled.drive() as drive:
        found = rebuild("V1", labelled.catalog, drive)
    assert [item["file_number"] for item in found["damaged"]] == [1]


def test_a_catalog_that_lies_is_found(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    session = labelled.catalog.session("s1")
    assert session is not None
    extra = MemberRecord(b"srv/more", "f", 1, 1 << 30, 512, "00" * 32, 0, 0o644, 0, 0, None)
    labelled.catalog.add_members(session.number, 0, [extra])
    assert "/srv/more: it was not reached" in refused(lambda: verify(labelled, "s1"))


def all_of(catalog: Catalog) -> list[object]:
    """Everything in a catalog that a restore or the next backup needs."""
    return [
        catalog.volumes(),
        [
            (found.id, found.host, found.state, found.reason, found.files, found.bytes, found.members, found.expires_s)
            for found in catalog.sessions()
        ],
        [[part._replace(session=0) for part in catalog.parts(found.number)] for found in catalog.sessions()],
        [list(catalog.members(found.number)) for found in catalog.sessions()],
    ]


@pytest.mark.parametrize("tells", [True, False])
def test_a_lost_catalog_is_rebuilt_from_the_volume(labelled: Library, tmp_path: Path, tells: bool) -> None:
    broken = {**window_evidence(), "check": {"complete": False}}
    labelled.back_up("s1", TREE, retention_days=3)
    labelled.back_up("s2", TREE, judged=False, evidence=broken)
    evidence = {**broken, "session": "s2"}
    labelled.catalog.close_session("s2", verdict_of(labelled.catalog, "s2", evidence), evidence)
    labelled.back_up("s3", [folder("/srv"), inline("/srv/x", b"x")])
    before = all_of(labelled.catalog)
    lose_catalog(labelled)
    with labelled.drive(writable=False, tells=tells) as drive:
        look = rebuild("V1", labelled.catalog, drive, dry_run=True)
        assert labelled.catalog.volumes() == []
        found = rebuild("V1", labelled.catalog, drive)
        assert look == found
        assert found["changed"]
        assert [(item["session"], item["state"]) for item in found["entered"]] == [
            ("s1", "good"),
            ("s2", "failed"),
            ("s3", "good"),
        ]
        again = rebuild("V1", labelled.catalog, drive)
        assert not again["changed"]
        assert [item["session"] for item in again["known"]] == ["s1", "s2", "s3"]
    assert all_of(labelled.catalog) == before
    labelled.restore("s1", tmp_path / "t")
    assert contents(tmp_path / "t") == FILES
    verify(labelled, "s3")
    assert labelled.back_up("s4", TREE)["file_number"] == 4


def lose_catalog(library: Library) -> None:
    """An empty catalog in place of the one that there was."""
    library.catalog.close()
    for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
        (library.state_dir / name).unlink(missing_ok=True)
    library.catalog = Catalog.open(str(library.state_dir / "catalog.sqlite"), writable=True)


def tear(library: Library, *, cut_bytes: int = 0) -> None:
    """Take the last filemark of V1 away, as when the power fails, and the end of what is before it."""
    path = library.folder / "V1" / "volume.json"
    told = json.loads(path.read_text())
    told["files"][-1]["filemark"] = False
    path.write_text(json.dumps(told))
    data = library.folder / "V1" / f"{len(told['files']) - 1:05d}.tar"
    os.truncate(data, data.stat().st_size - cut_bytes)


@pytest.mark.slow
def test_a_rebuild_that_dies_anywhere_gives_nothing_away(labelled: Library) -> None:
    for number in (1, 2):
        labelled.back_up(f"s{number}", [inline(f"/srv/{number}-{file}", b"x") for file in range(150)])
    before = labelled.content()
    dead = []
    for size_bytes in range(40 << 10, 480 << 10, 20 << 10):
        lose_catalog(labelled)
        labelled.catalog.close()
        child = os.fork()
        if not child:
            try:
                # the kernel ends it when one of its files, the log of the catalog, becomes larger
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
                with Catalog.open(labelled.catalog.path, writable=True) as catalog:
                    with labelled.drive(writable=False) as drive:
                        rebuild("V1", catalog, drive)
                    os._exit(0)
            finally:
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, -signal.SIGXFSZ)
        labelled.catalog = Catalog.open(labelled.catalog.path, writable=True)
        dead.append((bool(ended), [(found.id, found.state) for found in labelled.catalog.sessions()]))
        # It may also end when all is entered.
        if ended and len(dead[-1][1]) < 2:
            refused(lambda: labelled.back_up("s3", TREE), "volume")
        assert labelled.content() == before
    assert dead == sorted(dead, key=lambda one: (not one[0], len(one[1])))
    assert dead[0] == (True, [])
    assert (True, [("s1", "good")]) in dead
    assert dead[-1] == (False, [("s1", "good"), ("s2", "good")])


def write_over(library: Library, how: str) -> None:
    """Write over everything on V1."""
    if how == "overwrite":
        library.back_up("s9", TREE, mode=OVERWRITE)
    else:
        library.label(pool="other")


@pytest.mark.parametrize("how", ["overwrite", "label"])
def test_what_a_rebuild_did_not_come_to_is_not_written_over(
    labelled: Library, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    labelled.back_up("s1", TREE)
    labelled.back_up("s2", TREE)
    before = labelled.content()
    lose_catalog(labelled)
    with monkeypatch.context() as patched, labelled.drive(writable=False) as drive:
        patched.setattr(type(labelled.catalog), "enter_part", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rebuild("V1", labelled.catalog, drive)

    assert "rebuild" in refused(lambda: write_over(labelled, how), "volume")
    assert labelled.content() == before


def interrupt(*_dummy: object, **_named: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["overwrite", "label"])
def test_a_damaged_session_is_kept_until_it_is_let_go(labelled: Library, how: str) -> None:
    labelled.back_up("s1", TREE)
    patch(labelled, b"a" * 3000, b"a" * 2999 + b"b")
    before = labelled.content()
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        look = rebuild("V1", labelled.catalog, drive, dry_run=True)
        first = rebuild("V1", labelled.catalog, drive)
        again = rebuild("V1", labelled.catalog, drive)
    (damage,) = first["damaged"]
    assert look["damaged"] == again["damaged"] == [damage]
    assert (look["changed"], first["changed"], again["changed"]) == (True, True, False)
    kept = labelled.catalog.session(damage["session"])
    assert kept is not None
    assert (kept.state, kept.expires_s, kept.reason) == ("damaged", None, damage["reason"])
    assert damage["session"] in refused(lambda: write_over(labelled, how), "volume")
    assert "is damaged" in refused(lambda: labelled.restore(damage["session"], Path("/nowhere")), "session")
    assert labelled.content() == before

    labelled.catalog.expire_session(damage["session"])
    write_over(labelled, how)
    assert labelled.content() != before


def test_what_was_called_damaged_and_can_be_read_again_is_a_session(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    patch(labelled, b"a" * 3000, b"a" * 2999 + b"b")
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        rebuild("V1", labelled.catalog, drive)
        patch(labelled, b"a" * 2999 + b"b", b"a" * 3000)
        rebuild("V1", labelled.catalog, drive)
    assert [session.id for session in labelled.catalog.sessions()] == ["s1"]
    assert len(labelled.catalog.parts(labelled.catalog.sessions()[0].number)) == 1


def test_a_catalog_that_was_copied_while_a_session_was_written_gives_nothing_away(labelled: Library) -> None:
    number = labelled.catalog.begin_session("s1", "db1")
    labelled.catalog.begin_part(Part(number, 0, "V1", 1, 2, RECORD, 0, 0, False))
    names = ("catalog.sqlite", "catalog.sqlite-wal")
    copy = {name: (labelled.state_dir / name).read_bytes() for name in names}
    for session in ("s1", "s2", "s3"):
        labelled.back_up(session, TREE)
    before = labelled.content()
    lose_catalog(labelled)
    labelled.catalog.close()
    for name, content in copy.items():
        (labelled.state_dir / name).write_bytes(content)
    labelled.catalog = Catalog.open(str(labelled.state_dir / "catalog.sqlite"), writable=True)

    assert "rebuild" in refused(lambda: labelled.back_up("s4", TREE), "volume")
    assert labelled.content() == before


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_torn_end_that_no_catalog_knows_is_usable_after_a_rebuild(
    labelled: Library, tells: bool, whole: bool
) -> None:
    labelled.back_up("s1", TREE)
    before = labelled.content()
    if whole:
        labelled.back_up("torn", TREE)
    else:
        labelled.write("torn", [b"x" * RECORD] * 3, dies=True)
    tear(labelled)
    lose_catalog(labelled)
    with labelled.drive(writable=False, tells=tells) as drive:
        found = rebuild("V1", labelled.catalog, drive)
        assert ([item["file_number"] for item in found["damaged"]], len(found["entered"])) == ([2], 1)
        assert not rebuild("V1", labelled.catalog, drive)["changed"]
    assert labelled.back_up("s2", TREE)["file_number"] == 2
    assert {name: data for name, data in labelled.content().items() if name in before} == before
    assert [item.id for item in labelled.catalog.sessions(state="good")] == ["s1", "s2"]


@pytest.mark.parametrize("tells", [True, False])
def test_a_last_tape_file_with_a_bad_spot_is_never_given_away(labelled: Library, tells: bool) -> None:
    labelled.back_up("s1", TREE)
    labelled.back_up("s2", TREE)
    tear(labelled, cut_bytes=RECORD)
    before = labelled.content()
    lose_catalog(labelled)
    with labelled.drive(writable=False, tells=tells) as drive:
        assert [item["file_number"] for item in rebuild("V1", labelled.catalog, drive)["damaged"]] == [2]
    assert "does not end" in refused(lambda: labelled.back_up("s3", TREE), "volume")
    assert labelled.content() == before


def test_an_archive_that_the_catalog_knows_is_never_given_away(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    labelled.back_up("s2", TREE)
    tear(labelled)
    before = labelled.content()
    with labelled.drive(writable=False) as drive:
        assert [item["file_number"] for item in rebuild("V1", labelled.catalog, drive)["damaged"]] == [2]
    assert "does not end" in refused(lambda: labelled.back_up("s3", TREE), "volume")
    assert labelled.content() == before


def test_a_dead_run_does_not_block_its_volume_when_its_session_begins_again_on_another(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    labelled.write("s2", [b"x" * RECORD] * 3, dies=True)
    labelled.make("V2")
    labelled.label("V2")
    labelled.volume = "V2"
    assert labelled.back_up("s2", TREE)["file_number"] == 1
    labelled.volume = "V1"
    assert labelled.back_up("s3", TREE)["file_number"] == 2


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (b'"expires_s": null', b'"expires_s": "no"', None),
        (b'"expires_s": null', b'"expires_s": [10]', None),
        (b'"expires_s": null', b'"expires_s": 1e99', "failed"),
        (b'"evidence": {}', b'"evidence": 12', "failed"),
    ],
)
def test_nonsense_in_an_index_is_told(labelled: Library, old: bytes, new: bytes, state: str | None) -> None:
    labelled.back_up("s1", TREE, evidence=None)
    patch(labelled, old, new)
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        found = rebuild("V1", labelled.catalog, drive)
    assert [item["state"] for item in found["entered"]] == ([] if state is None else [state])
    assert len(found["damaged"]) == (state is None)


def test_what_is_read_is_kept_in_the_state_folder(labelled: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled.back_up("s1", TREE)
    monkeypatch.setattr(tempfile, "tempdir", str(labelled.state_dir / "nowhere"))
    verify(labelled, "s1")
    with labelled.drive(writable=False) as drive:
        assert len(rebuild("V1", labelled.catalog, drive)["known"]) == 1


def test_sessions_that_carry_no_evidence_are_not_called_good(labelled: Library) -> None:
    labelled.back_up("s1", TREE, evidence=None)
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        (entered,) = rebuild("V1", labelled.catalog, drive)["entered"]
    assert entered["state"] == "failed"
    assert "events of the window" in entered["reason"]


@pytest.mark.parametrize("tells", [True, False])
def test_rebuilding_passes_over_what_is_no_session_and_never_gives_its_place_away(
    labelled: Library, tells: bool
) -> None:
    labelled.back_up("s1", TREE)
    with labelled.drive() as drive:
        drive.load("V1")
        drive.space_end_of_data()
        drive.write_record(b"foreign" * 100)
        drive.write_record(b"foreign")
        drive.write_filemarks(1)
        known = labelled.catalog.volume("V1")
        assert known is not None
        labelled.catalog.set_volume_end("V1", 3, known.blocks + 3)
    labelled.back_up("s2", TREE)
    before = labelled.content()
    labelled.catalog.set_volume_end("V1", 2, known.blocks)
    refused(lambda: labelled.back_up("s3", TREE), "volume")
    with labelled.drive(writable=False, tells=tells) as drive:
        found = rebuild("V1", labelled.catalog, drive)
    assert ([item["file_number"] for item in found["damaged"]], len(found["known"])) == ([2], 2)
    assert labelled.back_up("s3", TREE)["file_number"] == 4
    assert {name: data for name, data in labelled.content().items() if name in before} == before


def test_an_unfinished_end_is_no_session(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    labelled.write("dead", [b"x" * RECORD] * 3, dies=True)
    tear(labelled)
    with labelled.drive(writable=False) as drive:
        found = rebuild("V1", labelled.catalog, drive)
    assert [item["file_number"] for item in found["damaged"]] == [2]
    assert labelled.back_up("s2", TREE, mode=APPEND)["file_number"] == 2


def test_a_volume_of_the_same_name_with_unexpired_data_is_not_replaced(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    (labelled.folder / "V1").rename(labelled.folder / "away")
    (labelled.state_dir / "other").mkdir()
    other = Library(labelled.state_dir / "other")
    other.make()
    other.label()
    other.catalog.close()
    (other.folder / "V1").rename(labelled.folder / "V1")
    with labelled.drive(writable=False) as drive:
        assert "unexpired" in refused(lambda: rebuild("V1", labelled.catalog, drive), "volume")
    labelled.catalog.expire_session("s1", allow_last=True)
    with labelled.drive(writable=False) as drive:
        assert "last good" in refused(lambda: rebuild("V1", labelled.catalog, drive), "allow_last")
        assert rebuild("V1", labelled.catalog, drive, allow_last=True)["changed"]
    assert labelled.catalog.session("s1") is None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "x", [], {"a": 1}])
@pytest.mark.parametrize("key", ["created_s", "expires_s"])
@pytest.mark.slow
def test_a_time_in_an_index_that_is_none_costs_its_session_only(
    labelled: Library, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    labelled.back_up("s1", TREE)
    with monkeypatch.context() as patched:
        patched.setattr(writer, "head_line", lambda meta: head_line({**meta, key: value}))
        labelled.back_up("s2", TREE)
    lose_catalog(labelled)
    with labelled.drive(writable=False) as drive:
        found = rebuild("V1", labelled.catalog, drive)
    assert [one["session"] for one in found["entered"]] == ["s1"]
    assert [key in one["reason"] for one in found["damaged"]] == [True]
    assert [session.id for session in labelled.catalog.sessions()] == ["s1", "damaged-V1-2"]
