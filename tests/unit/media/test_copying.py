# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions are copied to another pool, byte for byte, and restored from whatever can be read of all copies."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import CatalogError, Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.copying import (
    Copier,
    CopyError,
    CopyJob,
    check_parts,
    copy_sessions,
    plan,
    target_pool,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.retention import Rule, apply
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import APPEND, label_volume, place_for
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    Choice,
    DriveOptions,
    queue_for_drive,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.medium import Medium
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVES
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.support.tape import Held, InTurn, Library, folder, inline, judge
from ansible_collections.splitmirror.backup.tests.unit.media.test_encryption import KEYS, RECIPIENTS

RECORD = 2048
_CHANCE = random.Random(5)
#: A member of s1 crosses from V2 to V3.
FILES = {
    "s1": {"srv/a": _CHANCE.randbytes(3000), "srv/large": _CHANCE.randbytes(80_000), "srv/z": _CHANCE.randbytes(5000)},
    "secret": {"srv/b": _CHANCE.randbytes(9000)},
    "later": {"srv/c": b"c"},
}


class Scratched(VirtualTape):
    """A drive in which some records cannot be read, or written.

    :cvar unreadable: (volume, tape file, record). :cvar unwritable: the same.
    """

    unreadable: ClassVar[set[tuple[str, int, int]]] = set()
    unwritable: ClassVar[set[tuple[str, int, int]]] = set()

    def read_record(self, max_bytes: int) -> bytes:
        where = (str(self._volume), self._file, self._record)
        data = super().read_record(max_bytes)
        if data and where in self.unreadable:
            raise TapeError(f"drive: record {where} cannot be read.", option="drive", code="tape_damaged")
        return data

    def write_record(self, record: Buffer) -> None:
        if (str(self._volume), self._file, self._record) in self.unwritable:
            raise TapeError("drive: it cannot be written.", option="drive")
        super().write_record(record)


@pytest.fixture(autouse=True)
def scratched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DRIVES, "virtual", Scratched)
    yield
    Scratched.unreadable.clear()
    Scratched.unwritable.clear()


class Site(Library):
    """A virtual library with the pool ``disk``, another one with the pools ``tape`` and ``far``, and two sessions."""

    def __init__(self, where: Path) -> None:
        super().__init__(where)
        self.tapes = where / "tapes"
        self.tapes.mkdir(exist_ok=True)
        (where / "drives").mkdir(mode=0o700, exist_ok=True)
        self.one_drive = False
        self.spool_dir = where

    def add(
        self, shelf: Path, name: str, pool: str, capacity_bytes: int = 256 << 10, record_bytes: int = RECORD
    ) -> None:
        (shelf / name).mkdir(mode=0o700)
        Medium(str(shelf / name), capacity_bytes, 4096, False, []).save()
        with VirtualTape(str(shelf), writable=True) as drive:
            drive.load(name)
            label_volume(drive, self.catalog, name, pool, record_bytes)

    def write_over(self, session: str, *volumes: str, **options: Any) -> None:
        tree = [folder("/srv"), *(inline(f"/{name}", data) for name, data in sorted(FILES[session].items()))]
        with self.drive() as drive:
            done = write_session(self.job(session, tree, **options), lambda found: InTurn(found, Held(drive), volumes))
        judge(self, session, done)

    def options(self, shelf: Path) -> DriveOptions:
        return DriveOptions("virtual", (Choice(str(shelf)),), None, 5, str(self.state_dir / "drives"))

    @property
    def libraries(self) -> Libraries:
        tapes = self.options(self.tapes)
        return Libraries(self.options(self.folder), {"tape": tapes, "far": tapes})

    def drives(self) -> LibraryDrives:
        return LibraryDrives(
            self.libraries, self.catalog, lambda options, name: queue_for_drive(options, name, who="test")
        )

    def copy(
        self, pool: Optional[str] = "tape", *sessions: str, volume: Optional[str] = None, **more: Any
    ) -> list[str]:
        """Copy sessions; return those that were copied."""
        job = CopyJob(Wanted(volume, pool), str(self.spool_dir), sessions, **more)
        libraries = self.libraries
        planned = plan(job, self.catalog)
        target = libraries.of_pool(target_pool(job, self.catalog))
        check_parts(job, self.catalog, planned)
        queue = queue_for_drive(target, "", who="test", writable=True)
        with self.drives() as drives, queue as lease:
            choose = job.target.choice(lease, timeout_s=0)

            def beside(place: Part) -> bool:
                return not self.one_drive and libraries.of_volume(self.catalog, place.volume).goes_beside(target)

            copier = Copier(job, self.catalog, drives, lease, beside, choose)
            result = copy_sessions(
                copier, planned, lambda _one: contextlib.nullcontext(StatusWriter(None, "copy", "bytes"))
            )
        assert result["changed"] == bool(result["copied"])
        return [one["session"] for one in result["copied"]]

    def bring_back(self, session: str, target: Path) -> dict[str, bytes]:
        with self.drives() as drives:
            restore(RestoreJob(session, str(target)), self.catalog, drives)
        found = {name: (target / name).read_bytes() for name in FILES[session]}
        shutil.rmtree(target)
        return found

    def places(self, session: str) -> list[list[Part]]:
        known = self.catalog.session(session)
        return [] if known is None else list(self.catalog.places(known.number).values())

    def file_of(self, place: Part) -> bytes:
        shelf = self.folder if (self.folder / place.volume).exists() else self.tapes
        return (shelf / place.volume / f"{place.file_number:05}.tar").read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that nobody changes."""
    site = Site(tmp_path_factory.mktemp("site"))
    for name in ("V1", "V2", "V3"):
        site.add(site.folder, name, "disk", 72 << 10)
    site.add(site.folder, "V4", "disk")
    for name, pool in (("T1", "tape"), ("T2", "tape"), ("F1", "far")):
        site.add(site.tapes, name, pool)
    site.write_over("s1", "V1", "V2", "V3")
    site.write_over("secret", "V4", recipients=RECIPIENTS)
    site.catalog.close()
    return site.state_dir


@pytest.fixture
def site(sound: Path, tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(sound, tmp_path / "site")
    found = Site(tmp_path / "site")
    yield found
    found.catalog.close()


def refused(call: Any, *words: str) -> SplitMirrorError:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    for word in words:
        assert word in caught.value.message, caught.value.message
    return caught.value


@pytest.mark.parametrize("one_drive", [False, True])
def test_all_sessions_are_copied_as_they_are_and_only_once(site: Site, tmp_path: Path, one_drive: bool) -> None:
    site.one_drive = one_drive
    assert site.copy() == ["s1", "secret"]
    for session in ("s1", "secret"):
        for first, copy in site.places(session):
            assert site.file_of(first) == site.file_of(copy)
            assert first.sha256
    assert site.copy() == []
    assert site.copy("far", "secret") == ["secret"]
    for name in ("V1", "V2", "V3"):
        shutil.rmtree(site.folder / name)
    assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_what_the_drive_encrypted_is_not_copied_in_the_clear(site: Site) -> None:
    with contextlib.closing(sqlite3.connect(site.catalog.path, isolation_level=None)) as catalog:
        catalog.execute("UPDATE parts SET drive_key = '0123456789abcdef' WHERE volume = 'V2'")
    assert refused(lambda: site.copy("tape", "s1"), "encrypted by the drive").code == "key_missing"
    assert [len(places) for places in site.places("s1")] == [1, 1, 1]
    assert site.copy("tape", "secret") == ["secret"]


def test_a_copy_goes_to_the_volume_that_is_named(site: Site) -> None:
    assert site.copy(None, "s1", volume="T2") == ["s1"]
    assert {copy.volume for _first, copy in site.places("s1")} == {"T2"}


def test_a_copy_has_its_own_expiry_which_a_later_run_can_give_to_one_that_was_found(site: Site) -> None:
    site.copy("tape", "s1", retention_days=90.0)
    session = site.catalog.session("s1")
    assert session is not None
    assert session.expires_s is None
    copies = site.catalog.copies(session.number)
    assert {copy.expires_s for copy in copies} == {session.created_s + 90 * 86400}
    site.catalog.set_copy_expiry(session.number, {copy.volume for copy in copies}, None)
    assert site.copy("tape", "s1", retention_days=90.0) == ["s1"]
    assert site.catalog.copies(session.number) == copies


@pytest.mark.parametrize("one_drive", [False, True])
def test_a_volume_that_cannot_be_written_is_left_for_the_next(site: Site, one_drive: bool) -> None:
    site.one_drive = one_drive
    Scratched.unwritable.add(("T1", 1, 3))
    assert site.copy("tape", "s1") == ["s1"]
    assert {copy.volume for _first, copy in site.places("s1")} == {"T2"}
    known = site.catalog.volume("T1")
    assert known is not None
    assert known.out_of_use
    assert known.files == 1


@pytest.mark.parametrize("one_drive", [False, True])
def test_what_fails_half_way_is_cut_off_and_the_next_run_goes_on(site: Site, tmp_path: Path, one_drive: bool) -> None:
    site.one_drive = one_drive
    second = site.places("s1")[1][0]
    Scratched.unreadable.add((second.volume, second.file_number, 2))
    refused(lambda: site.copy("tape", "s1"), "part 2 of s1 cannot be copied")
    assert [len(places) for places in site.places("s1")] == [2, 1, 1]
    volume = site.catalog.volume("T1")
    assert volume is not None
    # The volume ends behind the first part, as the catalog has it.
    assert not site.catalog.unfinished("T1", volume.files)
    Scratched.unreadable.clear()
    assert site.copy("tape", "s1") == ["s1"]
    assert [len(places) for places in site.places("s1")] == [2, 2, 2]
    assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_what_a_dead_process_left_is_written_over(site: Site) -> None:
    first = site.places("s1")[0][0]
    with VirtualTape(str(site.tapes), writable=True) as drive:
        place = place_for(drive, site.catalog, "T1", APPEND)
        site.catalog.begin_copy(first._replace(volume="T1", file_number=place.file_number, block=place.block))
        drive.write_record(bytes(RECORD))
    assert site.copy("tape", "s1") == ["s1"]
    assert [(copy.volume, copy.file_number) for _first, copy in site.places("s1")] == [("T1", 1), ("T1", 2), ("T1", 3)]


def test_the_base_of_a_session_is_copied_with_it_and_kept_as_long(site: Site) -> None:
    site.catalog._db.execute("UPDATE sessions SET level = 'incremental', base = 's1' WHERE id = 'secret'")
    assert site.copy("tape", "secret", retention_days=9.0) == ["s1", "secret"]
    base, session = site.catalog.session("s1"), site.catalog.session("secret")
    assert base is not None
    assert session is not None
    assert session.created_s > base.created_s
    expires = {copy.expires_s for number in (base.number, session.number) for copy in site.catalog.copies(number)}
    assert expires == {session.created_s + 9 * 86400}


def test_the_copy_of_a_base_is_kept_as_long_as_what_is_copied_later(site: Site) -> None:
    site.copy("tape", "s1", retention_days=1e-9)
    site.catalog._db.execute("UPDATE sessions SET level = 'incremental', base = 's1' WHERE id = 'secret'")
    assert site.copy("tape", "secret", retention_days=9.0) == ["s1", "secret"]
    base, session = site.catalog.session("s1"), site.catalog.session("secret")
    assert base is not None
    assert session is not None
    assert {copy.expires_s for copy in site.catalog.copies(base.number)} == {session.created_s + 9 * 86400}
    assert site.copy("tape", "secret", retention_days=9.0) == []
    # Until when the copy of what builds on it is kept was said before.
    assert site.copy("tape", "secret", retention_days=30.0) == []


def test_a_damaged_base_does_not_keep_sessions_from_being_copied(site: Site) -> None:
    site.catalog._db.execute("UPDATE sessions SET level = 'incremental', base = 's1' WHERE id = 'secret'")
    # As if the first volume of the base was not entered yet.
    site.catalog._db.execute("UPDATE sessions SET state = 'damaged' WHERE id = 's1'")
    site.catalog._db.execute("DELETE FROM parts WHERE volume = 'V1'")
    assert site.copy("tape") == ["secret"]


def test_one_session_that_cannot_be_read_does_not_keep_the_others(site: Site) -> None:
    first = site.places("s1")[0][0]
    Scratched.unreadable.add((first.volume, first.file_number, 0))
    error = refused(site.copy, "part 1 of s1 cannot be copied")
    assert isinstance(error, CopyError)
    assert [one["session"] for one in error.facts["copied"]] == ["secret"]


@pytest.mark.parametrize("one_drive", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_what_is_damaged_is_taken_from_another_copy(site: Site, one_drive: bool, silent: bool) -> None:
    site.copy("tape", "s1")
    site.one_drive = one_drive
    first = site.places("s1")[1][0]
    if silent:
        path = site.folder / first.volume / f"{first.file_number:05}.tar"
        data = bytearray(path.read_bytes())
        data[-RECORD - 5] ^= 1
        path.write_bytes(data)
    else:
        Scratched.unreadable.add((first.volume, first.file_number, 5))
    assert site.copy("far", "s1") == ["s1"]
    for _first, copy, far in site.places("s1"):
        assert site.file_of(copy) == site.file_of(far)


def test_a_silent_change_is_not_copied(site: Site) -> None:
    for session, where in (("s1", -RECORD - 5), ("secret", 100)):
        first = site.places(session)[0][0]
        path = site.folder / first.volume / f"{first.file_number:05}.tar"
        data = bytearray(path.read_bytes())
        data[where] ^= 1
        path.write_bytes(data)
    refused(site.copy, "2 sessions cannot be copied", "is not what was written", "header is not the one")
    assert not site.catalog.sessions_on("T1")


def test_each_record_of_one_copy_may_be_lost(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    for first, _copy in site.places("s1"):
        for number in range(0, first.records, 3):
            Scratched.unreadable = {(first.volume, first.file_number, number)}
            assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_both_copies_may_be_damaged_at_different_places(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    # Every other record of the one, and every other one of the other.
    lost = {
        (place.volume, place.file_number, number)
        for places in site.places("s1")
        for which, place in enumerate(places)
        for number in range(which, place.records, 2)
    }
    Scratched.unreadable = lost
    assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_the_same_record_of_both_copies_is_named_as_lost(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    Scratched.unreadable = {(place.volume, place.file_number, 9) for place in site.places("s1")[1]}
    error = refused(lambda: site.bring_back("s1", tmp_path / "back"), "1 members of s1 are doubtful")
    assert [one["path"] for one in error.facts["doubtful"]] == ["/srv/large"]
    assert (tmp_path / "back/srv/z").read_bytes() == FILES["s1"]["srv/z"]


def test_at_random_damage_a_file_is_whole_or_named(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    target, came_back = tmp_path / "back", 0
    for seed in range(8):
        chance = random.Random(seed)
        bad = [
            {(place.part, number) for place in places for number in range(place.records) if chance.random() < seed / 20}
            for places in zip(*site.places("s1"))
        ]
        Scratched.unreadable = {
            (place.volume, place.file_number, number)
            for which, places in enumerate(zip(*site.places("s1")))
            for place in places
            for part, number in bad[which]
            if part == place.part
        }
        named: set[str] = set()
        try:
            with site.drives() as drives:
                restore(RestoreJob("s1", str(target)), site.catalog, drives)
        except SplitMirrorError as exc:
            assert bad[0] & bad[1], "each record can be read somewhere"
            named = {one["path"][1:] for one in (*exc.facts["missing"], *exc.facts["doubtful"])}
        for name, data in FILES["s1"].items():
            if name not in named:
                assert (target / name).read_bytes() == data, seed
                came_back += 1
        shutil.rmtree(target, ignore_errors=True)
    assert came_back > 8


def test_content_that_was_changed_is_read_again_from_the_other_copy(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    for first, _copy in site.places("s1"):
        path = site.folder / first.volume / f"{first.file_number:05}.tar"
        data = path.read_bytes()
        for place in itertools.chain(range(20, len(data), 6000), range(700, len(data), 9000)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
            assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]
        path.write_bytes(data)


def test_the_disk_is_used_again_and_the_session_lives_on_tape(site: Site, tmp_path: Path) -> None:
    site.copy("tape", "s1")
    site.catalog.expire_session("s1", allow_last=True)
    with pytest.raises(CatalogError, match="unexpired"):
        site.catalog.refuse_needed("T1", allow_last=True)
    for name in ("V1", "V2", "V3"):
        site.catalog.refuse_needed(name, allow_last=True)
        known = site.catalog.volume(name)
        assert known is not None
        site.catalog.replace_volume(known._replace(uuid=f"new {name}", files=1, blocks=2), allow_last=True)
    assert [[place.volume for place in places] for places in site.places("s1")] == [["T1"], ["T1"], ["T1"]]
    assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_a_part_that_fits_on_no_volume_is_refused(site: Site) -> None:
    for name in ("T1", "T2"):
        site.catalog.set_capacity(name, 16 << 10)
    refused(lambda: site.copy("tape", "s1"), "of s1 has", "splitmirror_part_bytes")


def test_a_part_that_a_fresh_volume_did_not_take_is_refused(site: Site) -> None:
    site.add(site.tapes, "F2", "far", 16 << 10)
    for name in ("F1", "F2"):
        # As if the drive had not told it.
        site.catalog._db.execute("UPDATE volumes SET capacity_bytes = NULL WHERE name = ?", (name,))
    site.catalog.take_out_of_use("F1", "test")
    refused(lambda: site.copy("far", "s1"), "part 1 of s1 has", "splitmirror_part_bytes")
    assert not site.catalog.unfinished("F2", 1)


def test_bad_input_is_named(site: Site) -> None:
    site.add(site.tapes, "O1", "other", record_bytes=4096)
    refused(lambda: site.copy("disk", source="disk"), "source: disk is the pool to copy to as well")
    refused(lambda: site.copy("nowhere"), "pool: there is no volume of pool nowhere")
    refused(lambda: site.copy("tape", source="nowhere"), "source: there is no volume of pool nowhere")
    refused(lambda: site.copy("far", "s1", source="tape"), "source: s1 is not in pool tape")
    refused(lambda: site.copy("other", "s1"), "records of 4096 bytes, and s1 has records of 2048")
    refused(lambda: site.copy("tape", "s9"), "s9 is not in the catalog")
    refused(lambda: site.copy(None, "s1", volume="X1"), "volume: X1 is not in the catalog")
    refused(lambda: site.copy("tape", "s1", host="db9"), "belongs to host db1")
    site.catalog.begin_session("open", "db1")
    refused(lambda: site.copy("tape", "open"), "open is open, not good")


def test_a_part_that_has_no_room_in_the_spool_is_refused(site: Site, tmp_path: Path) -> None:
    site.one_drive = True
    site.spool_dir = tmp_path / "missing"
    refused(lambda: site.copy("tape", "s1"), "spool_dir: part 1 of s1 cannot be kept", "splitmirror_part_bytes")


ALL = {"V1": "disk", "V2": "disk", "V3": "disk", "V4": "disk", "T1": "tape", "T2": "tape"}


def rebuilt(site: Site, volumes: Sequence[str], keyring: Keyring = NO_KEYS) -> None:
    """Lose the catalog, and rebuild it from these volumes."""
    site.catalog.close()
    for path in site.state_dir.glob("catalog.sqlite*"):
        path.unlink()
    site.catalog = Catalog.open(str(site.state_dir / "catalog.sqlite"), writable=True)
    for name in volumes:
        shelf = site.folder if ALL[name] == "disk" else site.tapes
        with VirtualTape(str(shelf)) as drive:
            rebuild(name, site.catalog, drive, keyring=keyring)
            again = rebuild(name, site.catalog, drive, keyring=keyring)
            assert not again["changed"], again


@pytest.mark.parametrize(
    ("volumes", "missing"),
    [
        (["T1", "T2"], {"V1", "V2", "V3", "V4"}),
        (["T1", "T2", "V1", "V2", "V3", "V4"], {"T1", "T2"}),
        (["V3", "T2", "V4", "V2", "T1", "V1"], {"V1", "V2", "V3", "V4"}),
        (["V1", "V3", "T1", "T2"], {"V2", "V4"}),
    ],
)
def test_a_lost_catalog_is_rebuilt_from_copies_or_from_a_mix(
    site: Site, tmp_path: Path, volumes: list[str], missing: set[str]
) -> None:
    site.copy("tape")
    whole = {
        session: {place.volume for places in site.places(session) for place in places} for session in ("s1", "secret")
    }
    rebuilt(site, volumes, KEYS)
    for session in ("s1", "secret"):
        known = site.catalog.session(session)
        assert known is not None
        assert (known.state, known.reason) == ("good", "")
        found = {place.volume for places in site.places(session) for place in places}
        assert found == whole[session] & set(volumes)
    for name in missing:
        shutil.rmtree((site.folder if ALL[name] == "disk" else site.tapes) / name, ignore_errors=True)
    assert site.bring_back("s1", tmp_path / "back") == FILES["s1"]


def test_a_copy_that_no_key_opens_is_known_by_its_header(site: Site) -> None:
    site.copy("tape", "secret")
    rebuilt(site, ["V4"], KEYS)
    with VirtualTape(str(site.tapes)) as drive:
        found = rebuild("T1", site.catalog, drive)
    assert [one["session"] for one in found["entered"]] == ["secret"]
    assert [place.volume for place in site.places("secret")[0]] == ["V4", "T1"]


def test_what_is_found_as_a_copy_is_kept_until_a_run_says_until_when(site: Site) -> None:
    site.copy("tape", "s1", retention_days=1.0)
    rebuilt(site, ["T1", "V1", "V2", "V3"])
    session = site.catalog.session("s1")
    assert session is not None
    assert session.expires_s is None
    # What lives by a copy alone gets its expiry from the next run, but for the last good session of its host.
    rebuilt(site, ["T1", "V4"], KEYS)
    site.write_over("later", "V4")
    assert site.copy("tape", "s1", retention_days=9.0) == ["s1"]
    session = site.catalog.session("s1")
    assert session is not None
    assert session.expires_s == session.created_s + 9 * 86400
    assert site.copy("tape", "s1", retention_days=9.0) == []


def test_the_rule_for_sessions_leaves_copies_alone(site: Site) -> None:
    site.copy("tape", "s1", retention_days=90.0)
    site.catalog.expire_session("s1", allow_last=True)
    for name in ("V1", "V2", "V3"):
        known = site.catalog.volume(name)
        assert known is not None
        site.catalog.replace_volume(known._replace(uuid=f"new {name}", files=1, blocks=2), allow_last=True)
    apply(site.catalog, Rule(keep_last=1), "db1", time.time())
    session = site.catalog.session("s1")
    assert session is not None
    assert session.expires_s == session.created_s + 90 * 86400


def test_a_copy_is_verified(site: Site) -> None:
    site.copy()
    first, copy = site.places("secret")[0]

    def verify(session: str, pool: Optional[str]) -> dict[str, Any]:
        with site.drives() as drives:
            return verify_session(find_good_session(site.catalog, session, None), site.catalog, drives, pool=pool)

    assert verify("s1", "tape")["volumes"] == ["T1"]
    assert verify("secret", "tape")["proved"] == "records"
    path = site.tapes / copy.volume / f"{copy.file_number:05}.tar"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    refused(lambda: verify("secret", "tape"), "its content is not what was copied")
    assert verify("secret", None)["volumes"] == [first.volume]
    refused(lambda: verify("secret", "far"), "on no volume of pool far")
