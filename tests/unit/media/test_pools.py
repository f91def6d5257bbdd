# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which volume of a pool is written: the rule against a model, and drives with and without a library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import FAILED, GOOD, Session, Volume
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.standing import Standing, standing_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media import pools
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import PoolVolumes, Wanted, rank
from ansible_collections.splitmirror.backup.plugins.module_utils.media.prepare import prepare
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import APPEND, OVERWRITE
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape import registry
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    DriveLease,
    DriveOptions,
    queue_for_drive,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.mtx import FakeChanger
from ansible_collections.splitmirror.backup.tests.support.robot import robot_options
from ansible_collections.splitmirror.backup.tests.support.tape import (
    RECORD,
    Held,
    Library,
    folder,
    inline,
    judge,
    make_map,
    run_module_apart,
)
from ansible_collections.splitmirror.backup.tests.unit.media.test_encryption import KEYS, RECIPIENTS

# -- the rule ----------------------------------------------------------------------------------------------------


def session_of(state: str, expires_s: Optional[float]) -> Session:
    return Session(1, "s", "h", state, "", 1.0, 2.0, expires_s, 0, 0, 0, {}, {})


@st.composite
def a_pool(draw: Any) -> list[Standing]:
    """Volumes in any state, as they stand at time 100."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        records = draw(st.integers(0, 400))
        files = 1 if not records else draw(st.integers(2, 4))
        volume = Volume(
            f"V{number}", "u", "p", 512, "", files, files + 1 + records, draw(st.sampled_from(["", "", "torn."])),
            draw(st.none() | st.integers(0, 300_000)), draw(st.sampled_from(["", "offsite"])),
        )  # fmt: skip
        sessions = tuple(
            session_of(draw(st.sampled_from([GOOD, FAILED])), draw(st.none() | st.floats(1, 200)))
            for _dummy in range(files - 1)
        )
        needed = tuple(
            session
            for session in sessions
            if session.state == GOOD and (session.expires_s is None or session.expires_s > 100)
        )
        last = sessions[-1:] if draw(st.booleans()) and sessions and sessions[-1].state == GOOD else ()
        found.append(Standing(volume, sessions, needed, last))
    return found


def modelled(pool: list[Standing], mode: str, allow_last: bool) -> set[str]:
    """The names of the volumes that may come first, by the words of the documentation."""

    def nearest(found: list[Standing]) -> list[Standing]:
        return [item for item in found if not item.volume.place] or found

    in_use = [item for item in pool if not item.volume.out_of_use]
    room = [
        item
        for item in in_use
        if item.volume.files > 1
        and (item.volume.capacity_bytes is None or item.volume.capacity_bytes - item.used_bytes >= 16 * 512)
        and (item.volume.capacity_bytes is None or item.room_bytes >= item.volume.capacity_bytes // 256)  # type: ignore[operator]
    ]
    if room and mode == APPEND:
        fullest = max(item.volume.blocks - item.volume.files for item in nearest(room))
        return {item.volume.name for item in nearest(room) if item.volume.blocks - item.volume.files == fullest}
    blank = [item for item in in_use if item.volume.files == 1]
    if blank:
        return {item.volume.name for item in nearest(blank)}
    expired = [item for item in in_use if not item.unexpired and (allow_last or not item.last_good)]

    def ended(item: Standing) -> float:
        return max(
            [
                session.closed_s or 0.0 if session.state == FAILED else session.expires_s or 0.0
                for session in item.sessions
            ]
        )

    first = min((ended(item) for item in nearest(expired)), default=0.0)
    return {item.volume.name for item in nearest(expired) if ended(item) == first}


@given(pool=a_pool(), mode=st.sampled_from([APPEND, OVERWRITE]), allow_last=st.booleans())
def test_the_best_volume_is_that_of_the_rule(pool: list[Standing], mode: str, allow_last: bool) -> None:
    found = rank(pool, mode=mode, allow_last=allow_last)
    expected = modelled(pool, mode, allow_last)
    assert [item.name for item in found[:1]] == [name for name in [item.name for item in found[:1]] if name in expected]
    assert bool(found) == bool(expected)
    by_name = {item.volume.name: item for item in pool}
    assert len({item.name for item in found}) == len(found)
    for name, how in found:
        standing = by_name[name]
        assert not standing.volume.out_of_use
        if how == OVERWRITE:
            assert not standing.unexpired
            assert allow_last or not standing.last_good


# -- volumes in a library ----------------------------------------------------------------------------------------


def make(library: Library, *names: str, pool: str = "p", capacity_bytes: int = 1 << 20) -> None:
    for name in names:
        library.make(name, capacity_bytes)
        library.label(name, pool)


def write(library: Library, volume: str, session: str, records: int, *, expires_s: Optional[float] = None) -> None:
    """A session that is not good on a volume, or one that is kept until a time."""
    library.volume = volume
    library.write(session, [b"x" * RECORD] * records, expires_s=expires_s)
    library.catalog.close_session(session, Verdict(expires_s is None or expires_s > 0, "broken."), {})


class Site:
    """A library, and the tasks that write to its pools."""

    def __init__(self, library: Library, drive_type: str = "virtual", *, timeout_s: int = 0) -> None:
        self.library = library
        self.params = {
            "drive_type": drive_type,
            "drive": str(library.folder),
            "state_dir": str(library.state_dir),
            "drive_timeout_s": timeout_s,
        }
        self.told: list[str] = []
        self.warned: list[str] = []
        self.people: Callable[[str], None] = lambda _reason: None

    def tell(self, reason: Optional[str]) -> None:
        if reason is not None:
            self.told.append(reason)
            self.people(reason)

    @contextmanager
    def source(self, pool: str = "p", *, dry_run: bool = False, **wanted: Any) -> Iterator[PoolVolumes]:
        options = DriveOptions.of(self.params, dry_run=dry_run)
        with queue_for_drive(options, "", who="test", writable=True, tell=self.tell) as lease:
            choice = Wanted(wanted.pop("volume", None), pool, **wanted).choice(
                lease, timeout_s=options.timeout_s, tell=self.tell, warn=self.warned.append
            )
            source = choice(self.library.catalog)
            assert isinstance(source, PoolVolumes)
            yield source

    def first(self, pool: str = "p", **wanted: Any) -> tuple[str, bool]:
        with self.source(pool, **wanted) as source:
            _drive, place = source.first()
            return place.label.volume, place.anew

    def refused(self, pool: str = "p", **wanted: Any) -> TapeError:
        with pytest.raises(TapeError) as caught:
            self.first(pool, **wanted)
        assert (caught.value.option, caught.value.code) == ("pool", "pool_exhausted")
        assert caught.value.message.endswith(".")
        return caught.value


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LOOK_S", 0.01)
    monkeypatch.setattr(pools, "_LIBRARY_LOOK_S", 0.01)


@pytest.fixture
def site(library: Library) -> Site:
    return Site(library)


def test_the_fullest_with_room_then_a_blank_one_then_the_one_that_expired_first(site: Site) -> None:
    library = site.library
    make(library, "V1", "V2", "V3", "V4")
    make(library, "V9", pool="other")
    write(library, "V9", "s9", 900)
    write(library, "V1", "s1", 10, expires_s=30.0)
    write(library, "V2", "s2", 20, expires_s=20.0)
    write(library, "V3", "s3", 1890, expires_s=10.0)
    assert site.first() == ("V2", False), "V3 is nearly full, as the drive reports"
    assert site.first(mode=OVERWRITE) == ("V4", False)
    for volume, session, records in (("V1", "s4", 1880), ("V2", "s5", 1875)):
        write(library, volume, session, records, expires_s=5.0)
    assert site.first() == ("V4", False)
    write(library, "V4", "s6", 1895, expires_s=1.0)
    assert site.first() == ("V3", True), "its last session expired first, and V4 has the last good one"
    assert site.first(allow_last=True) == ("V4", True)


def test_a_session_goes_from_volume_to_volume_and_gets_none_twice(site: Site) -> None:
    make(site.library, "V1", "V2", "V3")
    write(site.library, "V2", "s1", 5)
    with site.source() as source:
        given = [source.first()[1].label.volume, source.next(1 << 40)[1].label.volume, source.next(0)[1].label.volume]
        assert given == ["V2", "V1", "V3"]
        with pytest.raises(TapeError) as caught:
            source.next(1)
        assert caught.value.code == "pool_exhausted"


def test_a_session_that_began_on_a_named_volume_goes_on_in_the_pool(site: Site) -> None:
    make(site.library, "V1", "V2")
    make(site.library, "X1", pool="other")
    with site.source(volume="X1") as source:
        assert [source.first()[1].label.volume, source.next(1)[1].label.volume] == ["X1", "V1"]


def test_what_failed_is_never_chosen_again(site: Site) -> None:
    make(site.library, "V1", "V2")
    with site.source() as source:
        assert source.first()[1].label.volume == "V1"
        source.out_of_use("V1", "a record cannot be written.")
        assert source.next(1)[1].label.volume == "V2"
    assert site.first() == ("V2", False)
    known = site.library.catalog.volume("V1")
    assert known is not None
    assert known.out_of_use == "a record cannot be written."


def described(library: Library, volume: str, **values: Any) -> None:
    path = library.folder / volume / "volume.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def protect(library: Library) -> None:
    described(library, "V1", write_protected=True)


def swap(library: Library) -> None:
    (library.folder / "V1").rename(library.folder / "away")
    (library.folder / "V2").rename(library.folder / "V1")
    (library.folder / "away").rename(library.folder / "V2")


def lose_its_end(library: Library) -> None:
    described(
        library, "V1", files=json.loads((library.folder / "V1/volume.json").read_text(encoding="utf-8"))["files"][:1]
    )


@pytest.mark.parametrize(("harm", "said"), [(protect, "write-protected"), (lose_its_end, "ends before")])
def test_a_volume_that_cannot_be_written_is_passed_over(site: Site, harm: Callable[[Library], None], said: str) -> None:
    make(site.library, "V1", "V2")
    write(site.library, "V1", "s1", 5)
    harm(site.library)
    with site.source() as source:
        assert source.first()[1].label.volume == "V2"
        assert said in source.passed_over["V1"]
    assert [sentence.startswith("pool: V1 should have been written") for sentence in site.warned] == [True]


def test_swapped_volumes_are_both_passed_over(site: Site) -> None:
    make(site.library, "V1", "V2", "V3")
    swap(site.library)
    assert site.first() == ("V3", False)


def test_a_worm_volume_is_written_on_but_not_again(site: Site) -> None:
    library = site.library
    make(library, "V1")
    described(library, "V1", worm=True)
    write(library, "V1", "s1", 5, expires_s=-1.0)
    assert site.first() == ("V1", False)
    assert "once only" in site.refused(mode=OVERWRITE).message


def nothing(_library: Library) -> None:
    """No volume at all."""


def of_another_pool(library: Library) -> None:
    make(library, "V1", pool="other")


def out_of_use(library: Library) -> None:
    make(library, "V1")
    library.catalog.take_out_of_use("V1", "torn.")


def full_for_ever(library: Library) -> None:
    make(library, "V1")
    full(library, None)


def full_until_2096(library: Library) -> None:
    make(library, "V1")
    full(library, 4e9)


def full_of_the_last_good_one(library: Library) -> None:
    make(library, "V1")
    full(library, 9.0)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (nothing, "no volume of pool p in the catalog; label volumes for it."),
        (of_another_pool, "no volume of pool p in the catalog.* that has volumes: other."),
        (out_of_use, "V1 is out of use"),
        (full_for_ever, "V1 is full and needed for ever"),
        (full_until_2096, "V1 is full and needed until 2096-10-02"),
        (full_of_the_last_good_one, "V1 holds the last good session of db1"),
    ],
)
def test_why_no_volume_can_be_written_is_said_at_once(site: Site, state: Callable[[Library], None], words: str) -> None:
    state(site.library)
    assert re.search(words, site.refused().message)


def full(library: Library, expires_s: Optional[float]) -> None:
    library.volume = "V1"
    library.write("s1", [b"x" * RECORD] * 1890, expires_s=expires_s)
    library.catalog.close_session("s1", Verdict(True, ""), {})


def test_an_expired_volume_with_the_last_good_session_is_used_again_when_that_is_said(site: Site) -> None:
    make(site.library, "V1")
    full(site.library, 9.0)
    assert site.first(allow_last=True) == ("V1", True)


def test_a_volume_that_is_not_in_the_library_is_asked_for(library: Library) -> None:
    site = Site(library, timeout_s=60)
    make(library, "V1")
    (library.folder / "V1").rename(library.state_dir / "shelf")
    library.catalog.set_place("V1", "safe")
    site.people = lambda _reason: void((library.state_dir / "shelf").rename(library.folder / "V1"))
    assert site.first() == ("V1", False)
    assert ["insert volume V1 into the library" in reason for reason in site.told] == [True]
    known = library.catalog.volume("V1")
    assert known is not None
    assert known.place == "", "it is back"
    (library.folder / "V1").rename(library.state_dir / "shelf")
    assert "insert volume V1 into the library" in Site(library).refused().message


def void(_dummy: object) -> None:
    """Nothing."""


def test_a_session_that_has_begun_waits_for_a_volume_that_is_labelled_meanwhile(library: Library) -> None:
    site = Site(library, timeout_s=60)
    make(library, "V1")
    site.people = lambda _reason: make(library, "V2")
    with site.source() as source:
        assert [source.first()[1].label.volume, source.next(1)[1].label.volume] == ["V1", "V2"]
    assert len(site.told) == 1


def test_capacities_are_learnt(site: Site) -> None:
    library = site.library
    make(library, "V1")
    assert site.first() == ("V1", False)
    known = library.catalog.volume("V1")
    assert known is not None
    capacity = 1 << 20  # whatever its disk has
    assert known.capacity_bytes == capacity
    library.write("s1", [b"x" * RECORD] * 100)
    library.catalog.close_session("s1", Verdict(False, "broken."), {})
    known = library.catalog.volume("V1")
    assert known is not None
    standing = standing_of(library.catalog, known)
    assert (standing.used_bytes, standing.room_bytes) == (10240 + 100 * RECORD, capacity - 10240 - 100 * RECORD)
    library.label("V1", pool="q")
    known = library.catalog.volume("V1")
    assert known is not None
    assert (known.pool, known.capacity_bytes) == ("q", capacity)


def test_a_session_is_written_over_the_volumes_of_its_pool(site: Site) -> None:
    library = site.library
    make(library, "V1", "V2", "V3", "V4")
    write(library, "V2", "s1", 900, expires_s=5.0)
    write(library, "V3", "s2", 1895, expires_s=7.0)
    write(library, "V4", "s3", 1895)
    library.catalog.take_out_of_use("V4", "torn.")
    tree = [inline(f"/srv/{number}", bytes([number]) * 220_000) for number in range(9)]
    options = DriveOptions.of(site.params)
    with queue_for_drive(options, "", who="test", writable=True) as lease:
        choice = Wanted(None, "p", allow_last=True).choice(lease, timeout_s=0)
        done = write_session(library.job("s9", tree), choice)
    judge(library, "s9", done)
    assert done["volumes"] == ["V2", "V1", "V3"], "the fullest with room, the blank one, the expired one"
    with library.drive(writable=False) as drive:
        session = find_good_session(library.catalog, "s9", None)
        assert verify_session(session, library.catalog, Held(drive))["files"] == 9
    assert library.catalog.session("s2") is None, "its volume was used again"
    with queue_for_drive(options, "", who="test", writable=True) as lease:
        choice = Wanted(None, "p").choice(lease, timeout_s=0)
        with pytest.raises(TapeError) as caught:
            write_session(library.job("s10", tree), choice)
    assert caught.value.code == "pool_exhausted"
    assert [session.id for session in library.catalog.sessions(state="good")] == ["s1", "s3", "s9"]


@pytest.mark.parametrize("is_sealed", [False, True])
def test_parts_are_no_larger_than_asked_and_a_volume_has_several(site: Site, tmp_path: Path, is_sealed: bool) -> None:
    library, most = site.library, 200_000
    make(library, "V1", "V2", "V3")
    write(library, "V1", "s1", 1500, expires_s=5.0)
    library.catalog.take_out_of_use("V2", "torn.")
    tree = [
        inline(f"/srv/{number}", bytes([number]) * size) for number, size in enumerate([9000, 700_000, 50_000, 9000])
    ]
    recipients = RECIPIENTS if is_sealed else ()
    with queue_for_drive(DriveOptions.of(site.params), "", who="test", writable=True) as lease:
        choice = Wanted(None, "p", allow_last=True, part_bytes=most).choice(lease, timeout_s=0)
        done = write_session(library.job("s9", tree, recipients=recipients), choice)
    judge(library, "s9", done)
    session = find_good_session(library.catalog, "s9", None)
    parts = library.catalog.parts(session.number)
    assert len(parts) > 4
    assert all(part.records * part.record_bytes <= most for part in parts)
    assert [part.volume for part in parts].count("V3") > 2
    with library.drive(writable=False) as drive:
        keyring = KEYS if is_sealed else NO_KEYS
        assert verify_session(session, library.catalog, Held(drive), keyring=keyring)["files"] == 4


@pytest.mark.parametrize("wanted", [{"pool": None, "part_bytes": 1 << 20}, {"pool": "p", "part_bytes": -1}])
def test_a_limit_for_parts_needs_a_pool_and_is_not_negative(wanted: dict[str, Any]) -> None:
    with pytest.raises(TapeError, match="part_bytes: parts are limited only"):
        Wanted.of({"volume": "V1", "mode": "append", "allow_last": False, **wanted})


def test_a_limit_for_parts_that_is_too_low_is_refused(site: Site) -> None:
    make(site.library, "V1")
    with queue_for_drive(DriveOptions.of(site.params), "", who="test", writable=True) as lease:
        choice = Wanted(None, "p", part_bytes=1000).choice(lease, timeout_s=0)
        with pytest.raises(TapeError, match="part_bytes: a part of 1000 bytes is too small"):
            write_session(site.library.job("s9", [folder("/srv")]), choice)


@pytest.mark.slow
def test_two_tasks_in_two_drives_of_a_library_write_to_two_volumes(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(library, "V1", "V2", "V3", "V4")
    write(library, "V2", "s1", 9)
    write(library, "V3", "s2", 5)
    # V2 is in the drive that the first task does not ask first, and V4 is in a mail slot.
    made = FakeChanger(tmp_path, ["V1", "V2"], ["", "", "V3", "V4"], mail=1)
    options = robot_options(library, made, monkeypatch)

    def source(lease: DriveLease) -> Any:
        return Wanted(None, "p").choice(lease, timeout_s=0)(library.catalog)

    first_lease = queue_for_drive(options, "", who="one", writable=True)
    second_lease = queue_for_drive(options, "", who="two", writable=True)
    with first_lease as one, second_lease as two:
        first, second = source(one), source(two)
        assert [first.first()[1].label.volume, second.first()[1].label.volume] == ["V2", "V3"]
        assert made.held()[0] == ["V3", "V2"]
        assert first.next(1)[1].label.volume == "V1"
        assert second.next(1)[1].label.volume == "V2", "the first task is done with it"


# -- a drive without a library -----------------------------------------------------------------------------------


class HandFed(VirtualTape):
    """A drive into which people put volumes: the name of the one in it is in a file ``inserted`` beside the volumes."""

    name = "hand"
    uses_changer = True
    makes_volumes = False
    _moving = False

    @classmethod
    def shelf(cls, _drive: str) -> Optional[list[str]]:
        return None

    def _slot(self) -> Path:
        return Path(self._folder) / "inserted"

    def present(self) -> bool:
        return self._slot().exists()

    def load(self, volume: str) -> None:
        if not self.present():
            raise TapeError("drive: there is no volume in it.", option="drive", code="volume_missing")
        self._moving = True
        super().load(self._slot().read_text(encoding="utf-8"))
        self._moving = False

    def close(self) -> None:
        self._moving = True
        super().close()

    def unload(self) -> None:
        super().unload()
        if not self._moving:
            self._slot().unlink()


@pytest.fixture
def by_hand(library: Library, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setitem(registry.DRIVES, "hand", HandFed)
    make(library, "V1", "V2", "V3")
    make(library, "X1", pool="other")
    write(library, "V2", "s1", 5)
    return Site(library, "hand", timeout_s=60)


def insert(site: Site, volume: str) -> None:
    (site.library.folder / "inserted").write_text(volume, encoding="utf-8")


def test_a_volume_of_the_pool_that_is_in_the_drive_is_taken(by_hand: Site) -> None:
    insert(by_hand, "V3")
    assert by_hand.first() == ("V3", False)
    assert by_hand.told == []


def test_people_are_asked_until_the_right_volume_is_there(by_hand: Site) -> None:
    coming = iter(["X1", "V3"])
    by_hand.people = lambda _reason: insert(by_hand, next(coming))
    with by_hand.source() as source:
        assert source.first()[1].label.volume == "V3"
        assert ["insert volume V2, V1 or V3 into the drive" in reason for reason in by_hand.told] == [True, True]
        assert "instead of X1" in by_hand.told[1]
        by_hand.people = lambda _reason: insert(by_hand, "V1")
        assert source.next(1)[1].label.volume == "V1"
        assert "insert volume V2 or V1 into the drive instead of V3" in by_hand.told[2]


def test_a_write_protected_volume_is_given_back(by_hand: Site) -> None:
    insert(by_hand, "V1")
    protect(by_hand.library)
    by_hand.people = lambda _reason: insert(by_hand, "V2")
    assert by_hand.first() == ("V2", False)
    assert "instead of V1" in by_hand.told[0]


def test_nobody_comes(by_hand: Site) -> None:
    by_hand.params["drive_timeout_s"] = 0
    assert "insert volume V2, V1 or V3 into the drive" in by_hand.refused().message
    insert(by_hand, "X1")
    assert "instead of X1" in by_hand.refused().message
    assert not (by_hand.library.folder / "inserted").exists(), "it was given back"


# -- the plan and the modules ------------------------------------------------------------------------------------


def plan(site: Site, *, dry_run: bool = False, pool: str = "p", **options: Any) -> dict[str, Any]:
    drives = DriveOptions.of(site.params, dry_run=dry_run)
    return prepare(str(site.library.state_dir), "s9", drives=drives, wanted=Wanted(None, pool), **options)


def test_the_plan_names_the_volume_and_check_mode_the_same_one(site: Site) -> None:
    make(site.library, "V1", "V2")
    write(site.library, "V2", "s1", 5)
    site.library.catalog.set_capacity("V2", 999_999)
    looked = plan(site, dry_run=True)
    assert (looked["volume"], looked["mode"], looked["file_number"], looked["pool"]) == ("V2", "append", 2, "p")
    known = site.library.catalog.volume("V2")
    assert known is not None
    assert known.capacity_bytes == 999_999, "check mode enters nothing"
    assert plan(site) == looked


def test_a_session_that_is_larger_than_all_volumes_is_refused_beforehand(site: Site) -> None:
    make(site.library, "V1", "V2")
    assert plan(site, expected_bytes=1 << 20)["volume"] == "V1"
    with pytest.raises(SplitMirrorError) as caught:
        plan(site, expected_bytes=1 << 21)
    assert (caught.value.option, caught.value.code) == ("pool", "pool_exhausted")


def test_check_mode_tells_of_a_drive_without_a_library_by_the_catalog(by_hand: Site) -> None:
    assert (plan(by_hand, dry_run=True)["drive"], plan(by_hand, dry_run=True)["volume"]) == (None, "V2")
    insert(by_hand, "V3")
    looked = plan(by_hand, dry_run=True)
    assert (looked["volume"], looked["drive"]) == ("V3", str(by_hand.library.folder))
    insert(by_hand, "X1")
    assert plan(by_hand, dry_run=True)["drive"] is None
    assert (by_hand.library.folder / "inserted").exists(), "it stays"


@pytest.mark.slow
def test_modules_take_a_volume_a_pool_or_both(site: Site, tmp_path: Path) -> None:
    make(site.library, "V1", "V2")
    write(site.library, "V2", "s1", 5)
    site.library.catalog.close()
    common = {
        "session": "s5",
        "drive_timeout_s": 5,
        **{key: site.params[key] for key in ("drive_type", "drive", "state_dir")},
    }
    prepared = run_module_apart("backup_prepare", {**common, "pool": "p"})
    assert prepared["plan"]["volume"] == "V2", prepared
    refused = run_module_apart("backup_prepare", common)
    assert "one of the following is required: volume, pool" in refused["msg"]
    path = make_map(tmp_path, "s5", [inline("/srv/a", b"a")])
    told = {**common, "map": str(path), "devices": {}, "proof": "none"}
    assert run_module_apart("tape_write", {**told, "pool": "q"}, check=True)["code"] == "pool_exhausted"
    done = run_module_apart("tape_write", {**told, "pool": "p"})
    assert (done["volume"], done["file_number"]) == ("V2", 2), done
    del common["session"]
    asked = run_module_apart("preflight_info", {**common, "ask": "media_server", "host": "db1", "pool": "p"})
    answers = {finding["question"]: finding["answer"] for finding in asked["findings"]}
    assert "V2 is labelled, and tape file 3 comes next" in answers["volume"]
    assert "left on the volumes of pool p" in answers["room"]
