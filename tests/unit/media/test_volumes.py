# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Promise 5, tried with every volume that must not be written; and archives written to and read from volumes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import CatalogError, Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.prepare import prepare
from ansible_collections.splitmirror.backup.plugins.module_utils.media.tape_file import TapeRecordSink, TapeStream
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import (
    APPEND,
    OVERWRITE,
    WritePosition,
    begin_anew,
    check_room,
    cut_back,
    label_volume,
    place_for,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import EndOfData, Position, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.label import (
    new_label,
    read_label,
    write_label,
)
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults
from ansible_collections.splitmirror.backup.tests.support.tape import RECORD, Library


def record(fill: bytes) -> bytes:
    return fill * RECORD


# -- labelling ---------------------------------------------------------------------------------------------------


def test_labelling_is_idempotent(library: Library) -> None:
    library.make()
    assert library.label()
    before = library.content()
    assert not library.label()
    assert library.content() == before


def test_looking_writes_nothing(library: Library) -> None:
    library.make()
    with library.drive(writable=False) as drive:
        drive.load("V1")
        assert label_volume(drive, library.catalog, "V1", "p", RECORD, dry_run=True).changed
        assert read_label(drive).blank
    assert library.catalog.volume("V1") is None


def test_a_volume_with_data_keeps_it_when_the_label_is_as_asked(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    assert not library.label()
    assert library.content()["00001.tar"] == record(b"1")


def test_a_foreign_volume_is_never_labelled(library: Library) -> None:
    library.make()
    with library.drive() as drive:
        drive.load("V1")
        drive.write_record(b"precious" * 100)
        drive.write_filemarks(1)
    before = library.content()
    with pytest.raises(TapeError, match="foreign"):
        library.label()
    with pytest.raises(TapeError, match="foreign"):
        library.place()
    assert library.content() == before


def test_another_volume_than_asked_for_is_never_labelled(library: Library) -> None:
    library.make()
    library.label()
    (library.folder / "V1").rename(library.folder / "V2")
    for call in (lambda: library.label("V2"), lambda: library.place(volume="V2")):
        with pytest.raises(TapeError, match="holds V1, not V2") as caught:
            call()
        assert caught.value.option == "volume"


def test_another_pool_needs_expired_data(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    with pytest.raises(CatalogError, match="unexpired"):
        library.label(pool="other")
    assert library.content()["00001.tar"] == record(b"1")
    library.catalog.close_session("s1", Verdict(False, "broken."), {})
    assert library.label(pool="other")
    assert set(library.content()) == {"00000.tar"}


def test_another_pool_on_a_volume_that_the_catalog_does_not_know_is_refused(library: Library) -> None:
    library.make()
    with library.drive() as drive:
        drive.load("V1")
        write_label(drive, new_label("V1", "p", RECORD))
    with pytest.raises(TapeError, match="not in the catalog"):
        library.label(pool="other")
    with pytest.raises(TapeError, match="not in the catalog"):
        library.place()
    assert library.label(), "an empty volume is entered"
    library.place()


def test_a_blank_volume_does_not_take_the_name_of_one_with_unexpired_data(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    (library.folder / "V1").rename(library.folder / "away")
    library.make()
    with pytest.raises(CatalogError, match="unexpired"):
        library.label()
    with library.drive() as drive:
        drive.load("V1")
        assert read_label(drive).blank


# -- where to write ----------------------------------------------------------------------------------------------


def test_sessions_are_appended_one_behind_another(library: Library) -> None:
    library.make()
    library.label()
    for number in (1, 2, 3):
        place = library.write(f"s{number}", [record(b"%d" % number)] * number, tells=number != 2)
        assert place.file_number == number
    assert [library.content()[f"0000{number}.tar"] for number in (1, 2, 3)] == [
        record(b"1"),
        record(b"2") * 2,
        record(b"3") * 3,
    ]


def test_unlabelled_and_missing_volumes_are_refused(library: Library) -> None:
    library.make()
    for volume, said in (("V1", "unlabelled"), ("V9", "no volume V9")):
        with pytest.raises(TapeError, match=said) as caught:
            library.place(volume=volume)
        assert caught.value.option == "volume"


@pytest.mark.parametrize("tells", [True, False])
def test_more_or_less_on_the_volume_than_the_catalog_knows_is_refused(library: Library, tells: bool) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    known = library.catalog.volume("V1")
    assert known is not None
    number = library.catalog.begin_session("another", "db2")
    for files, blocks in ((1, 2), (3, 6), (2, 5)):
        if (files, tells) == (2, False):
            continue  # only a drive that tells its block can see this
        part = Part(number, files, "V1", files - 1, 0, RECORD, 0, blocks - 1, False)
        library.catalog.begin_part(part)
        library.catalog.finish_part(part, files=0, size_bytes=0, write={})
        before = library.content()
        with library.drive(tells=tells) as drive, pytest.raises(TapeError, match="rebuild"):
            place_for(drive, library.catalog, "V1", APPEND)
        assert library.content() == before


def test_a_dead_writer_does_not_block_its_volume(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    library.write("dead", [record(b"x")] * 5, dies=True)
    place = library.write("s2", [record(b"2")])
    assert place.file_number == 2
    assert library.content() == {
        "00000.tar": library.content()["00000.tar"],
        "00001.tar": record(b"1"),
        "00002.tar": record(b"2"),
    }


def test_overwriting_needs_expired_data_and_makes_another_volume_of_it(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")], expires_s=None)
    with pytest.raises(CatalogError, match="unexpired"):
        library.place(OVERWRITE)
    library.catalog.close_session("s1", Verdict(False, "broken."), {})
    old = library.place(OVERWRITE)
    library.write("s2", [record(b"2")], expires_s=10.0, mode=OVERWRITE)
    with pytest.raises(CatalogError, match="close session s2 as failed"):
        library.place(OVERWRITE)
    judged(library, "s2")
    library.write("s3", [record(b"3")], mode=OVERWRITE, allow_last=True)
    assert library.content()["00001.tar"] == record(b"3")
    assert [found.id for found in library.catalog.sessions()] == ["s3"]
    assert library.place().label.uuid != old.label.uuid


def judged(library: Library, session: str, *, good: bool = True) -> None:
    library.catalog.close_session(session, Verdict(good, "" if good else "broken."), {})


def lose_by_overwriting(library: Library, allow_last: bool) -> None:
    library.write("s9", [record(b"9")], mode=OVERWRITE, allow_last=allow_last)


def lose_by_another_label(library: Library, allow_last: bool) -> None:
    library.label(pool="other", allow_last=allow_last)


def lose_by_a_blank_volume_of_that_name(library: Library, allow_last: bool) -> None:
    if not allow_last:
        (library.folder / "V1").rename(library.folder / "away")
        library.make()
    library.label(allow_last=allow_last)


@pytest.mark.parametrize("lose", [lose_by_overwriting, lose_by_another_label, lose_by_a_blank_volume_of_that_name])
def test_with_one_volume_the_last_good_session_is_lost_only_when_that_is_said(library: Library, lose: Any) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")], expires_s=10.0)
    judged(library, "s1")
    with pytest.raises(CatalogError, match="s1, the last good session of db1") as caught:
        lose(library, False)
    assert caught.value.option == "allow_last"
    found = library.catalog.session("s1")
    assert found is not None
    assert (found.state, library.catalog.parts(found.number)[0].complete) == ("good", True)
    if library.content():
        assert library.content()["00001.tar"] == record(b"1")
    lose(library, True)
    assert library.catalog.session("s1") is None


def test_with_several_volumes_the_old_one_stays_readable_until_the_new_one_is_good(library: Library) -> None:
    for name in ("V1", "V2"):
        library.make(name)
        library.label(name)

    def write(volume: str, session: str, *, good: bool) -> None:
        library.volume = volume
        library.write(session, [record(session[-1].encode())], expires_s=10.0, mode=OVERWRITE)
        # as long as it is not judged, the older one is what there is
        judged(library, session, good=good)

    def readable() -> list[str]:
        found = library.catalog.sessions(state="good")
        parts = [library.catalog.parts(session.number)[0] for session in found]
        tapes = [library.folder / part.volume / f"{part.file_number:05}.tar" for part in parts]
        assert [tape.read_bytes() for tape in tapes] == [record(session.id[-1].encode()) for session in found]
        return [session.id for session in found]

    write("V1", "s1", good=True)
    with pytest.raises(CatalogError, match="V2 for instance"):
        write("V1", "s2", good=True)
    write("V2", "s2", good=False)
    assert readable() == ["s1"]
    write("V2", "s3", good=True)
    assert readable() == ["s1", "s3"]
    with pytest.raises(CatalogError, match="V1 for instance"):
        write("V2", "s4", good=True)
    write("V1", "s4", good=False)
    assert readable() == ["s3"], "the last good one"
    with pytest.raises(CatalogError, match="last good"):
        write("V2", "s5", good=True)
    write("V1", "s5", good=True)
    write("V2", "s6", good=True)
    assert readable() == ["s5", "s6"]


def test_data_that_came_since_the_place_was_found_is_not_overwritten(library: Library) -> None:
    library.make()
    library.label()
    place = library.place(OVERWRITE)
    library.write("s1", [record(b"1")])
    before = library.content()
    with library.drive() as drive:
        drive.load("V1")
        with pytest.raises(CatalogError, match="unexpired"):
            begin_anew(drive, library.catalog, place)
    assert library.content() == before


def test_a_volume_that_can_be_written_once_takes_sessions_and_is_never_used_again(library: Library) -> None:
    library.make()
    described = library.folder / "V1/volume.json"
    described.write_text(described.read_text(encoding="utf-8").replace('{"', '{"worm": true, "', 1), encoding="utf-8")
    library.label()
    for session in ("s1", "s2"):
        library.write(session, [record(b"1")])
        judged(library, session, good=False)
    before = library.content()
    with pytest.raises(TapeError, match="once only") as caught:
        library.place(OVERWRITE)
    assert caught.value.code == "volume_protected"
    with pytest.raises(TapeError, match="once only"):
        library.label(pool="other")
    assert library.content() == before


def test_a_volume_labelled_elsewhere_since_is_refused(library: Library) -> None:
    library.make()
    library.label()
    with library.drive() as drive:
        drive.load("V1")
        write_label(drive, new_label("V1", "p", RECORD))
    for mode in (APPEND, OVERWRITE):
        with pytest.raises(TapeError, match="another label"):
            library.place(mode)


def test_a_label_that_the_drive_cannot_follow_is_refused(library: Library) -> None:
    library.make(capacity_bytes=64 << 20)
    library.label(record_bytes=16 << 20)
    with library.drive() as drive:
        drive.max_record_bytes = 1 << 20  # type: ignore[misc]
        with pytest.raises(TapeError, match="record_bytes"):
            place_for(drive, library.catalog, "V1", APPEND)


def test_a_small_volume_is_refused_before_anything_is_written(library: Library) -> None:
    library.make(capacity_bytes=1 << 20)
    library.label()
    place = library.place()
    assert place.remaining_bytes == (1 << 20) - (64 << 10) - 10240
    check_room(place, place.remaining_bytes)
    with pytest.raises(TapeError, match="too small") as caught:
        check_room(place, place.remaining_bytes + 1)
    assert caught.value.option == "volume"


def test_prepare_tells_the_plan_and_refuses_early(library: Library) -> None:
    library.make()
    library.label()
    drives = DriveOptions.of(
        {
            "drive_type": "virtual",
            "drive": str(library.folder),
            "state_dir": str(library.state_dir),
            "drive_timeout_s": 0,
        }
    )
    plan = prepare(str(library.state_dir), "s1", drives=drives, wanted=Wanted("V1"), expected_bytes=1000)
    assert (plan["file_number"], plan["block"], plan["record_bytes"], plan["pool"]) == (1, 2, RECORD, "p")
    with pytest.raises(TapeError, match="too small"):
        prepare(str(library.state_dir), "s1", drives=drives, wanted=Wanted("V1"), expected_bytes=1 << 40)
    with pytest.raises(SplitMirrorError) as caught:
        prepare(str(library.state_dir / "nowhere"), "s1", drives=drives, wanted=Wanted("V1"))
    assert caught.value.option == "state_dir"


# -- archives ----------------------------------------------------------------------------------------------------


def test_a_full_volume_is_said_and_cut_back(library: Library) -> None:
    library.make(capacity_bytes=1 << 20)
    library.label()
    library.write("s1", [record(b"1")])
    before = library.content()
    with library.drive() as drive:
        place = place_for(drive, library.catalog, "V1", APPEND)
        sink = TapeRecordSink(drive, place)
        for _dummy in range(1899):
            sink.write_record(memoryview(record(b"x")))
        with pytest.raises(TapeError, match="full after 1899"):
            sink.write_record(memoryview(record(b"x")))
        cut_back(drive, place)
    assert library.content() == before
    library.write("s2", [record(b"2")])


@pytest.mark.parametrize("tells", [True, False])
def test_a_lost_filemark_is_noticed(library: Library, tells: bool) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    with library.drive(faults=Faults(lost_filemark=0), tells=tells) as drive:
        place = place_for(drive, library.catalog, "V1", APPEND)
        sink = TapeRecordSink(drive, place)
        sink.write_record(memoryview(record(b"2")))
        with pytest.raises(TapeError, match="filemark"):
            sink.finish()
        cut_back(drive, place)
    assert set(library.content()) == {"00000.tar", "00001.tar"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(seed=st.integers(0, 2**32), tells=st.booleans())
def test_any_piece_of_an_archive_is_read_back(library: Library, seed: int, tells: bool) -> None:
    chance = random.Random(seed)
    if not library.content_exists():
        library.make()
        library.label()
        library.write("s1", [record(b"1")])
        library.write("s2", [bytes([n]) * RECORD for n in range(9)])
        library.write("s3", [record(b"3")])
    archive = library.content()["00002.tar"]
    with library.drive(writable=False, tells=tells) as drive:
        drive.load("V1")
        stream = TapeStream(drive, 2, 4 if tells else None, RECORD)
        for _dummy in range(6):
            start = chance.randrange(len(archive) + 1)
            length = chance.randrange(len(archive) - start + 1)
            stream.seek(start)
            read = b""
            before = stream.records_read
            while len(read) < length:
                read += stream.read(length - len(read))
            assert read == archive[start : start + length]
            assert stream.records_read - before <= -(-length // RECORD) + 2
        assert stream.skip_to_filemark() == 9
        assert stream.read(1) == b""


def test_records_of_odd_size_and_missing_filemarks_are_said(library: Library) -> None:
    library.make()
    library.label()
    with library.drive() as drive:
        drive.load("V1")
        drive.locate(Position(1, 0))
        drive.write_record(bytes(100))
        with pytest.raises(TapeError, match="instead of 512"):
            TapeStream(drive, 1, None, RECORD).read(1)
        drive.locate(Position(1, 0))
        drive.write_record(record(b"x"))
        stream = TapeStream(drive, 1, None, RECORD)
        assert stream.read(9) == b"x" * 9
        with pytest.raises(TapeError, match="without a filemark"):
            stream.skip_to_filemark()


def test_a_drive_at_the_wrong_place_cuts_nothing(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    before = library.content()
    with library.drive() as drive:
        place = place_for(drive, library.catalog, "V1", APPEND)
        drive.rewind()
        wrong = WritePosition(place.label, 5, 99, None)
        with pytest.raises(TapeError):
            cut_back(drive, wrong)
    assert library.content() == before


def test_a_torn_label_is_not_taken_for_one(library: Library) -> None:
    library.make()
    with library.drive(faults=Faults(torn_last_record=True)) as drive:
        drive.load("V1")
        with pytest.raises(TapeError, match="does not read back"):
            label_volume(drive, library.catalog, "V1", "p", RECORD)
    assert library.catalog.volume("V1") is None


def test_the_head_stands_where_the_place_says(library: Library) -> None:
    library.make()
    library.label()
    library.write("s1", [record(b"1")])
    with library.drive() as drive:
        place = place_for(drive, library.catalog, "V1", APPEND)
        assert (drive.position(), drive.tell_block()) == (place.position, place.block)
        with pytest.raises(EndOfData):
            drive.read_record(RECORD)
