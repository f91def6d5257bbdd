# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog keeps what it was told, through crashes, and forgets nothing that is not expired."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import MemberRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import (
    CatalogError,
    Part,
    Session,
    Volume,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.sqlite_file import CatalogDatabase
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict

GOOD = Verdict(True, "")
#: From 1901 to the last instant that XFS knows, in 2486.
FILE_TIMES = st.integers(-(2**31) * 10**9, 16_299_260_424 * 10**9 + 999_999_999)


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILE_TIMES)
@example(10_413_792_000 * 10**9)
@example(-(2**31) * 10**9)
def test_any_time_that_a_file_can_have_is_kept(catalog: Catalog, mtime_ns: int) -> None:
    number = catalog.begin_session("times", "db1")
    written = member(b"a", 0)._replace(mtime_ns=mtime_ns)
    catalog.add_members(number, 0, [written])
    assert [found for _part, found in catalog.members(number)] == [written]


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
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
    with pytest.raises(CatalogError, match="stays failed"):
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
    assert catalog.unfinished("V1", 1), "its tape file is still there"
    write(catalog, "s2")
    assert not catalog.unfinished("V1", 1)
    with pytest.raises(CatalogError, match="already"):
        catalog.begin_session("s2", "db1")


def test_the_next_writer_takes_over_the_place_of_a_dead_one(catalog: Catalog) -> None:
    dead = catalog.begin_session("s1", "db1")
    catalog.begin_part(Part(dead, 0, "V1", 1, 2, 512, 0, 0, False))
    write(catalog, "s2")
    assert not catalog.unfinished("V1", 1)
    assert catalog.parts(dead) == []


def test_a_session_that_was_found_is_seen_whole_or_not_at_all(catalog: Catalog) -> None:
    found = Session(0, "s1", "db1", "good", "", 1.0, 2.0, None, 1, 5, 2, {"complete": True}, {"session": "s1"})
    part = Part(0, 0, "V1", 1, 2, 512, 0, 9, True)
    members = [member(b"etc", 0, "d"), member(b"etc/a", 1024)]

    def seen_between(*, dies: bool) -> Iterator[MemberRecord]:
        for one in members:
            yield one
            with Catalog.open(catalog.path) as reader:
                assert (reader.sessions(), reader.unfinished("V1", 1), reader.volume("V1")) == ([], False, volume())
        if dies:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.enter_part("s1", part, seen_between(dies=True), lambda _known: found)
    assert (catalog.sessions(), catalog.unfinished("V1", 1), catalog.volume("V1")) == ([], False, volume())
    catalog.enter_part("s1", part, seen_between(dies=False), lambda _known: found)
    (entered,) = catalog.sessions()
    assert entered._replace(number=0) == found
    assert [one for _part, one in catalog.members(entered.number)] == members
    assert catalog.parts(entered.number) == [part._replace(session=entered.number)]
    assert catalog.volume("V1") == volume()._replace(files=2, blocks=12)
    with pytest.raises(CatalogError, match="already"):
        catalog.enter_part("s1", part, members, lambda _known: found)


def test_a_session_that_is_found_takes_the_place_of_its_dead_run_and_never_shortens_the_volume(
    catalog: Catalog,
) -> None:
    write(catalog, "s2", file_number=2)
    dead = catalog.begin_session("s1", "db1")
    catalog.begin_part(Part(dead, 0, "V1", 1, 2, 512, 0, 0, False))
    found = Session(0, "s1", "db1", "failed", "broken.", 1.0, 2.0, None, 1, 5, 1, {}, {})
    part = Part(0, 0, "V1", 1, 2, 512, 0, 9, True)
    catalog.enter_part("s1", part, [member(b"a", 0)], lambda _known: found)
    assert [(one.id, one.state) for one in catalog.sessions(host="db1")] == [("s2", "open"), ("s1", "failed")]
    assert not catalog.unfinished("V1", 1)
    assert catalog.volume("V1") == volume()._replace(files=3, blocks=12)


def test_an_end_that_was_seen_is_all_that_counts(catalog: Catalog) -> None:
    for session, file_number in (("s1", 1), ("s2", 3)):
        dead = catalog.begin_session(session, "db1")
        catalog.begin_part(Part(dead, 0, "V1", file_number, 2, 512, 0, 0, False))
    for unfinished in (True, True, False):
        catalog.set_volume_end("V1", 2, 7, unfinished=unfinished)
        assert [catalog.unfinished("V1", number) for number in (1, 2, 3)] == [False, unfinished, False]
    assert catalog.volume("V1") == volume()._replace(files=2, blocks=7)


def test_unexpired_data_protects_its_volume(catalog: Catalog) -> None:
    write(catalog, "s1", expires_s=100.0)
    write(catalog, "s2", expires_s=None, file_number=2)
    assert [found.id for found in catalog.unexpired("V1", 100)] == ["s1", "s2"], "an open session does not expire"
    catalog.close_session("s1", Verdict(True, ""), {})
    assert [found.id for found in catalog.unexpired("V1", 99)] == ["s1", "s2"]
    assert [found.id for found in catalog.unexpired("V1", 100)] == ["s2"]
    with pytest.raises(CatalogError) as caught:
        catalog.replace_volume(volume(uuid="u2"))
    assert caught.value.option == "volume"
    assert catalog.volume("V1") == volume()._replace(files=3, blocks=12)
    catalog.close_session("s2", Verdict(False, "broken."), {})
    catalog.replace_volume(volume(uuid="u2"), allow_last=True)
    assert catalog.sessions() == []
    assert catalog.volume("V1") == volume(uuid="u2")


#: What happens to the sessions of two hosts on three volumes; each session goes over one or more of them.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["good", "failed", "open", "overwrite", "expire"]),
        st.lists(st.integers(0, 2), min_size=1, max_size=4),
        st.sampled_from("ab"),
    ),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(EVENTS)
def test_a_host_that_has_a_backup_keeps_its_newest_one(
    tmp_path_factory: pytest.TempPathFactory, events: object
) -> None:
    newest: dict[str, str] = {}
    written: dict[str, list[int]] = {}
    files = dict.fromkeys(range(3), 1)
    with Catalog.open(str(tmp_path_factory.mktemp("c") / "catalog.sqlite"), writable=True) as store:
        for place in files:
            store.replace_volume(volume(f"V{place}"))
        for number, (event, places, host) in enumerate(events):  # type: ignore[var-annotated,arg-type]
            place, session = places[0], f"s{number}"
            name = f"V{place}"
            if event == "overwrite":
                lost = {
                    found.id
                    for found in store.sessions()
                    if name in {part.volume for part in store.parts(found.number)}
                }
                refused = bool(lost.intersection(newest.values())) or bool(store.unexpired(name))
                try:
                    store.replace_volume(volume(name, f"u{number}"))
                except CatalogError:
                    assert refused
                else:
                    assert not refused
                    files[place] = 1
                    assert lost.isdisjoint(found.id for found in store.sessions())
            elif event == "expire":
                for found in store.sessions(host=host):
                    if found.id == newest.get(host) and found.expires_s is None:
                        with pytest.raises(CatalogError, match="last good"):
                            store.expire_session(found.id)
                    else:
                        store.expire_session(found.id)
            else:
                # every other one has expired already
                begun = store.begin_session(session, host, float(number), 0.0 if number % 2 else None)
                written[session] = places
                for turn, where in enumerate(places):
                    part = Part(begun, turn, f"V{where}", files[where], 2, 512, turn, 0, False)
                    store.begin_part(part)
                    store.finish_part(part._replace(records=1), files=1, size_bytes=1, write={})
                    files[where] += 1
                if event != "open":
                    store.close_session(session, Verdict(event == "good", ""), {})
                if event == "good":
                    newest[host] = session
            kept = {found.id for found in store.sessions(state="good")}
            assert kept.issuperset(newest.values())
            # A session has all of its parts, or is forgotten.
            for found in store.sessions():
                assert len(store.parts(found.number)) == len(written[found.id])


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


def test_a_catalog_that_others_write_all_the_time_is_not_called_damaged(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{CatalogDatabase.__module__}._BUSY_S", 0.05)
    connection = sqlite3.connect(catalog.path, isolation_level=None)
    with Catalog.open(catalog.path, writable=True) as second, contextlib.closing(connection) as other:
        other.execute("BEGIN IMMEDIATE")
        for call in (lambda: Catalog.open(catalog.path, writable=True), lambda: second.begin_session("s1", "db1")):
            with pytest.raises(CatalogError, match="cannot be used now") as caught:
                call()
            assert caught.value.option == "state_dir"
            assert "move it away" not in caught.value.message
        other.execute("ROLLBACK")
        second.begin_session("s1", "db1")


def test_a_damaged_catalog_is_said_to_be_none(catalog: Catalog) -> None:
    write(catalog, "s1", [member(b"%d" % number, number) for number in range(999)])
    catalog.close()
    with open(catalog.path, "r+b") as stream:
        stream.seek(100)
        stream.write(bytes(4000))
    for writable in (True, False):
        with pytest.raises(CatalogError, match=r"not a catalog .*; move it away"):
            Catalog.open(catalog.path, writable=writable)


@pytest.mark.parametrize("wanted", [None, [b"998"]], ids=["all", "one"])
def test_damage_in_the_midst_of_a_catalog_is_said_when_it_is_read(catalog: Catalog, wanted: list[bytes] | None) -> None:
    number = write(catalog, "s1", [member(b"%d" % number, number) for number in range(999)])
    catalog.close()
    tables = 16 << 10  # the first pages are those of the schema and of what is short
    with open(catalog.path, "r+b") as stream:
        stream.seek(tables)
        stream.write(b"\xff" * (os.path.getsize(catalog.path) - tables))
    with Catalog.open(catalog.path) as opened, pytest.raises(CatalogError, match=r"not a catalog .*; move it away"):
        list(opened.members(number, wanted))


def test_what_is_no_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="rebuild"):
        Catalog.open(str(tmp_path / "catalog.sqlite"))
    (tmp_path / "noise").write_bytes(b"noise" * 999)
    with pytest.raises(CatalogError, match="not a catalog"):
        Catalog.open(str(tmp_path / "noise"), writable=True)
    with pytest.raises(CatalogError, match="not a catalog"):
        Catalog.open(str(tmp_path / "noise"))
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE songs(title)")
    with pytest.raises(CatalogError, match="not a catalog"):
        Catalog.open(str(tmp_path / "other"))


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (n)")
    before = path.read_bytes()
    for writable in (True, False):
        with pytest.raises(CatalogError, match="it is a database of something else"):
            Catalog.open(str(path), writable=writable)
    assert path.read_bytes() == before
