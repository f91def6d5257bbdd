# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog keeps what it was told, through crashes, and forgets nothing that is not expired."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import MemberRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import (
    Catalog,
    CatalogError,
    Part,
    Volume,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict

GOOD = Verdict(True, "")


def volume(name: str = "V1", uuid: str = "u1") -> Volume:
    return Volume(name, uuid, "pool", 512, "2026-01-01T00:00:00Z", 1, 2)


def member(path: bytes, offset: int, kind: str = "f", linkname: bytes | None = None) -> MemberRecord:
    sha256 = "ab" * 32 if kind == "f" else None
    return MemberRecord(path, kind, 5, offset, 1536, sha256, 1, 0o644, 0, 0, linkname)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(str(tmp_path / "catalog.sqlite"), writable=True) as opened:
        opened.replace_volume(volume())
        yield opened


def write(
    catalog: Catalog,
    session: str,
    members: list[MemberRecord] | None = None,
    *,
    file_number: int = 1,
    created_s: float = 1.0,
    expires_s: float | None = None,
) -> int:
    number = catalog.begin_session(session, "db1", created_s, expires_s)
    part = Part(number, 0, "V1", file_number, 2, 512, 0, 0, False)
    catalog.begin_part(part)
    catalog.add_members(number, 0, members or [])
    catalog.finish_part(part._replace(records=9), files=1, size_bytes=5, write={"complete": True})
    return number


def paths(catalog: Catalog, number: int, *wanted: bytes) -> list[bytes]:
    return [found.path for _part, found in catalog.members(number, list(wanted))]


def test_what_is_entered_is_found_again_and_private(catalog: Catalog) -> None:
    members = [member(b"etc", 0, "d"), member(b"etc/a\xff", 1024), member(b"etc/b", 4096, "h", b"etc/a\xff")]
    number = write(catalog, "s1", members)
    assert [found for _part, found in catalog.members(number)] == members
    session = catalog.session("s1")
    assert session is not None
    assert (session.state, session.files, session.bytes, session.members) == ("open", 1, 5, 3)
    assert session.write == {"complete": True}
    assert catalog.parts(number) == [Part(number, 0, "V1", 1, 2, 512, 0, 9, True)]
    assert catalog.volume("V1") == volume()._replace(files=2, blocks=12)
    for name in os.listdir(os.path.dirname(catalog.path)):
        assert os.stat(os.path.join(os.path.dirname(catalog.path), name)).st_mode & 0o077 == 0


def test_a_selection_is_what_was_named_what_is_below_and_what_links_point_to(catalog: Catalog) -> None:
    number = write(
        catalog,
        "s1",
        [
            member(b"a", 0, "d"),
            member(b"a/1", 1000),
            member(b"a-b", 2000),
            member(b"a/2", 3000, "h", b"a/1"),
            member(b"a0", 4000),
        ],
    )
    assert paths(catalog, number, b"a") == [b"a", b"a/1", b"a/2"]
    assert paths(catalog, number, b"a/2") == [b"a/1", b"a/2"]
    assert paths(catalog, number, b"a0", b"a-b") == [b"a-b", b"a0"]
    assert paths(catalog, number, b"") == [b"a", b"a/1", b"a-b", b"a/2", b"a0"]
    assert paths(catalog, number, b"nowhere") == []
    assert catalog.has_path(number, b"a")
    assert not catalog.has_path(number, b"a/")
    assert not catalog.has_path(number, b"b")


PATHS = st.lists(st.lists(st.sampled_from([b"a", b"b", b"a-", b"a0", b"\xff"]), min_size=1, max_size=3).map(b"/".join))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(names=PATHS.map(lambda found: list(dict.fromkeys(found))), wanted=PATHS)
def test_a_selection_is_by_component(catalog: Catalog, names: list[bytes], wanted: list[bytes]) -> None:
    number = catalog.begin_session(f"s{len(catalog.sessions())}", "db1")
    catalog.add_members(number, 0, [member(name, place * 1000) for place, name in enumerate(names)])
    expected = [name for name in names if any(name == one or name.startswith(one + b"/") for one in wanted)]
    assert paths(catalog, number, *wanted) == expected


def test_sessions_by_host_state_and_time(catalog: Catalog) -> None:
    write(catalog, "s1", created_s=10)
    write(catalog, "s2", created_s=20, file_number=2)
    catalog.close_session("s1", GOOD, {"session": "s1"})
    assert [found.id for found in catalog.sessions()] == ["s1", "s2"]
    assert [found.id for found in catalog.sessions(state="good")] == ["s1"]
    assert [found.id for found in catalog.sessions(at_s=10)] == ["s1"]
    assert catalog.sessions(host="db2") == []


def test_a_session_is_judged_once(catalog: Catalog) -> None:
    write(catalog, "s1")
    assert catalog.close_session("s1", Verdict(False, "the window was broken."), {"session": "s1"})
    assert not catalog.close_session("s1", Verdict(False, "again."), {})
    found = catalog.session("s1")
    assert found is not None
    assert (found.state, found.reason, found.evidence) == ("failed", "the window was broken.", {"session": "s1"})
    with pytest.raises(CatalogError, match="judged failed"):
        catalog.close_session("s1", GOOD, {})
    with pytest.raises(CatalogError, match="not in the catalog"):
        catalog.close_session("s9", GOOD, {})
    with pytest.raises(CatalogError, match="already"):
        catalog.begin_session("s1", "db1")


def test_a_dead_run_is_forgotten_when_its_session_begins_again(catalog: Catalog) -> None:
    number = catalog.begin_session("s1", "db1")
    catalog.begin_part(Part(number, 0, "V1", 1, 2, 512, 0, 0, False))
    catalog.add_members(number, 0, [member(b"x", 0)])
    assert catalog.unfinished("V1", 1)
    again = catalog.begin_session("s1", "db1")
    assert list(catalog.members(again)) == []
    assert catalog.parts(again) == []
    write(catalog, "s2")
    with pytest.raises(CatalogError, match="already"):
        catalog.begin_session("s2", "db1")


def test_the_next_writer_takes_over_the_place_of_a_dead_one(catalog: Catalog) -> None:
    dead = catalog.begin_session("s1", "db1")
    catalog.begin_part(Part(dead, 0, "V1", 1, 2, 512, 0, 0, False))
    write(catalog, "s2")
    assert not catalog.unfinished("V1", 1)
    assert catalog.parts(dead) == []


def test_unexpired_data_protects_its_volume(catalog: Catalog) -> None:
    write(catalog, "s1", expires_s=100.0)
    write(catalog, "s2", expires_s=None, file_number=2)
    assert [found.id for found in catalog.unexpired("V1", 99)] == ["s1", "s2"]
    assert [found.id for found in catalog.unexpired("V1", 100)] == ["s2"]
    with pytest.raises(CatalogError) as caught:
        catalog.replace_volume(volume(uuid="u2"))
    assert caught.value.option == "volume"
    assert catalog.volume("V1") == volume()._replace(files=3, blocks=12)
    catalog.close_session("s2", Verdict(False, "broken."), {})
    catalog.replace_volume(volume(uuid="u2"))
    assert catalog.sessions() == []
    assert catalog.volume("V1") == volume(uuid="u2")


def test_two_may_write_at_once_and_readers_see_what_is_done(catalog: Catalog) -> None:
    with Catalog.open(catalog.path, writable=True) as second, Catalog.open(catalog.path) as reader:
        write(catalog, "s1")
        write(second, "s2", file_number=2)
        assert [found.id for found in reader.sessions()] == ["s1", "s2"]


def test_a_fleet_writes_and_reads_a_catalog_that_is_just_being_made(tmp_path: Path) -> None:
    path = str(tmp_path / "catalog.sqlite")

    def write_three(number: int) -> None:
        for turn in range(3):
            with Catalog.open(path, writable=True) as opened:
                if turn == 0:
                    opened.replace_volume(volume(f"V{number}"))
                session = opened.begin_session(f"s{number}-{turn}", "db1")
                part = Part(session, 0, f"V{number}", turn + 1, 2 + turn, 512, 0, 0, False)
                opened.begin_part(part)
                for batch in range(3):
                    members = [member(b"f%d" % place, place) for place in range(batch * 100, batch * 100 + 100)]
                    opened.add_members(session, 0, members)
                opened.finish_part(part._replace(records=1), files=1, size_bytes=1, write={})

    def read(_number: int) -> None:
        for _turn in range(10):
            with Catalog.open_for(path, writable=False) as opened:
                for found in opened.sessions():
                    list(opened.members(found.number))

    start, go = os.pipe()
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(go)
                os.read(start, 1)
                (write_three if number < 4 else read)(number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(start)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    with Catalog.open(path) as opened:
        assert {(found.id, found.members) for found in opened.sessions()} == {
            (f"s{number}-{turn}", 300) for number in range(4) for turn in range(3)
        }
        assert [(found.files, found.blocks) for found in opened.volumes()] == [(4, 6)] * 4
    assert sorted(name.name for name in tmp_path.iterdir() if ".new" in name.name) == []


def test_what_is_no_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="rebuild"):
        Catalog.open(str(tmp_path / "catalog.sqlite"))
    (tmp_path / "noise").write_bytes(b"noise" * 999)
    with pytest.raises(CatalogError, match="no catalog"):
        Catalog.open(str(tmp_path / "noise"), writable=True)
    with pytest.raises(CatalogError, match="no catalog"):
        Catalog.open(str(tmp_path / "noise"))
