# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session over as many volumes as it needs, with every fault that a volume can have on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import looks_like_index
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners, WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_files, find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import GOOD, Part, Session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_identities, parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    SOURCE_DEVICE,
    ExtentRow,
    FileEntry,
    Mapped,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.part import ArchiveSource
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.selection import Selection
from ansible_collections.splitmirror.backup.plugins.module_utils.media.span import SessionParts, write_parts
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import WriteJob, write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import (
    Buffer,
    DriveStatus,
    EarlyWarning,
    TapeDrive,
    TapeError,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.medium import Medium
from ansible_collections.splitmirror.backup.tests.support.agekeys import (
    PUBLIC,
    SECRET,
    decrypt,
    key_file,
    needs_age,
)
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults, FaultyTape
from ansible_collections.splitmirror.backup.tests.support.tape import (
    Held,
    InTurn,
    Library,
    folder,
    inline,
    judge,
    link,
    window_evidence,
)

pytestmark = pytest.mark.slow

RECORD_BYTES = 2048
#: Of a volume, label included; so a part has about 40 KiB.
CAPACITY_BYTES = 64 << 10
EARLY_BYTES = 4096
VOLUMES = [f"V{number}" for number in range(1, 16)]
#: All places where something fails are tried when this says so, else some of them.
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "6"))

_random = random.Random(13)
BIG = _random.randbytes(100_000)
LARGE_NAME = "/srv/m/" + "x" * 120
TREE = [
    folder("/srv"),
    *(inline(f"/srv/a{number:02}", _random.randbytes(_random.randrange(1, 7000))) for number in range(14)),
    inline("/srv/b", b"1" * 700, inode=7, nlink=2),
    folder("/srv/m"),
    inline(LARGE_NAME, BIG),
    inline("/srv/n", b"1" * 700, inode=7, nlink=2),
    *(inline(f"/srv/o{number:02}", _random.randbytes(5000)) for number in range(4)),
    link("/srv/way", "/etc/passwd"),
]
FILES = {os.fsdecode(entry.path)[1:]: entry.content for entry in TREE if entry.kind == "f"}


def make_volumes(library: Library, names: Sequence[str] = VOLUMES, capacity_bytes: int = CAPACITY_BYTES) -> None:
    for name in names:
        (library.folder / name).mkdir(mode=0o700)
        Medium(str(library.folder / name), capacity_bytes, EARLY_BYTES, False, []).save()
        library.label(name, record_bytes=RECORD_BYTES)


@pytest.fixture
def pool(library: Library) -> Library:
    """A library of small labelled volumes."""
    make_volumes(library)
    return library


def back_up(
    library: Library,
    session: str = "s1",
    *,
    faults: Optional[Faults] = None,
    names: Sequence[str] = VOLUMES,
    tree: Any = None,
    recipients: Any = (),
    **options: Any,
) -> Any:
    """Write a session over the volumes, and judge it."""
    with library.drive(faults=faults) as drive:
        job = library.job(session, TREE if tree is None else tree, recipients=recipients)
        done = write_session(job, lambda catalog: InTurn(catalog, Held(drive), names, **options))
    judge(library, session, done)
    return done


@pytest.fixture
def spanned(pool: Library) -> Library:
    """A session over several volumes, one member of which crosses three of them."""
    back_up(pool)
    return pool


def session_of(library: Library, session: str = "s1") -> Session:
    found = library.catalog.session(session)
    assert found is not None
    return found


def parts_of(library: Library, session: str = "s1") -> list[Part]:
    return library.catalog.parts(session_of(library, session).number)


def tape_file(library: Library, part: Part) -> Path:
    return library.folder / part.volume / f"{part.file_number:05d}.tar"


def crossed(library: Library) -> list[Part]:
    """The parts that the large member is on."""
    parts = parts_of(library)
    first = min(part.part for part in parts if part.lead_bytes) - 1
    return [part for part in parts if part.part == first or part.lead_bytes]


def verify(library: Library, session: str = "s1", keyring: Keyring = NO_KEYS) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        known = find_good_session(library.catalog, session, None)
        return verify_session(known, library.catalog, Held(drive), keyring=keyring)


def enter(library: Library, volume: str, *, dry_run: bool = False, keyring: Keyring = NO_KEYS) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return rebuild(volume, library.catalog, drive, dry_run=dry_run, keyring=keyring)


def lose_catalog(library: Library) -> None:
    library.catalog.close()
    for path in library.state_dir.glob("catalog.sqlite*"):
        path.unlink()
    library.catalog = Catalog.open(library.catalog.path, writable=True)


def contents(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def comes_back(library: Library, target: Path, session: str = "s1", files: Any = None) -> None:
    """The session is what was backed up: by verification, and by a restore."""
    verify(library, session)
    library.restore(session, target)
    assert contents(target) == (FILES if files is None else files)
    shutil.rmtree(target)


def everything(library: Library) -> tuple[Any, ...]:
    """All that the catalog has of the session, but for numbers and the times at which it was entered."""
    session = session_of(library)
    evidence = {key: value for key, value in session.evidence.items() if key != "write"}
    unknown = ("fallback", "stops", "writing_s")
    counts = [{key: value for key, value in part.items() if key not in unknown} for part in session.write["parts"]]
    # How much goes on a volume is learned when it is written.
    volumes = [volume._replace(capacity_bytes=None) for volume in library.catalog.volumes() if volume.files > 1]
    return (
        session._replace(number=0, closed_s=None, write={}, evidence=evidence),
        counts,
        [part._replace(session=0) for part in library.catalog.parts(session.number)],
        list(library.catalog.members(session.number)),
        volumes,
    )


def refused(call: Any) -> SplitMirrorError:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    assert caught.value.message.endswith(".")
    return caught.value


# -- there and back ----------------------------------------------------------------------------------------------------


def test_only_a_member_larger_than_a_volume_crosses(spanned: Library) -> None:
    parts = parts_of(spanned)
    assert [part.volume for part in parts] == VOLUMES[: len(parts)]
    assert len(parts) >= 6
    large = crossed(spanned)
    assert [part.part for part in large] == list(range(large[0].part, large[0].part + 3))
    assert [part.lead_bytes % RECORD_BYTES for part in large] == [0, 0, 0]
    for before, after in itertools.pairwise(parts):
        assert before.end_bytes == after.offset_bytes
    # Whole members stand in every other part, so plain tar reads it alone; an index is the last of them.
    for part in parts:
        listed = subprocess.run(["tar", "-tf", tape_file(spanned, part)], capture_output=True, check=False)
        cut = part in large[:-1]
        assert (listed.returncode != 0) == cut
        assert looks_like_index(listed.stdout.splitlines()[-1]) == (not cut)
    members = [member.path for _part, member in spanned.catalog.members(session_of(spanned).number)]
    assert len(members) == len(set(members)) == len(TREE) + len(parts) - 2


def test_all_of_it_comes_back(spanned: Library, tmp_path: Path) -> None:
    found = verify(spanned)
    assert (found["files"], found["volumes"]) == (len(FILES) - 1, [part.volume for part in parts_of(spanned)])
    back = spanned.restore("s1", tmp_path / "t")
    assert (back["members"], back["volumes"]) == (len(TREE), found["volumes"])
    assert contents(tmp_path / "t") == FILES
    assert (tmp_path / "t/srv/b").stat().st_ino == (tmp_path / "t/srv/n").stat().st_ino


def test_plain_tar_joins_the_parts(spanned: Library, tmp_path: Path) -> None:
    after = {name for name in FILES if name >= "srv/m/"}
    for files, wanted, asks in (
        (parts_of(spanned), set(FILES), False),
        # From the member that crosses on; tar asks for one more volume, because the session goes on.
        (crossed(spanned), {LARGE_NAME[1:], "srv/n"}, True),
    ):
        target = tmp_path / str(len(files))
        target.mkdir()
        names = itertools.chain.from_iterable(("-f", tape_file(spanned, part)) for part in files)
        command: list[Any] = [
            "tar",
            "-x",
            "-M",
            "-b",
            str(RECORD_BYTES // 512),
            *names,
            "-C",
            target,
            "--exclude=srv/n",
        ]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert (done.returncode, "Prepare volume" in done.stderr) == ((2, True) if asks else (0, False))
        found = {name: data for name, data in contents(target).items() if not name.startswith(".splitmirror")}
        assert found.items() <= FILES.items()
        assert wanted - {"srv/n"} <= set(found) <= (after if asks else wanted)


def test_one_file_needs_the_volumes_that_it_is_on(spanned: Library, tmp_path: Path) -> None:
    large = crossed(spanned)
    for path, volumes in (
        (LARGE_NAME, [part.volume for part in large]),
        ("/srv/o03", [parts_of(spanned)[-1].volume]),
    ):
        back = spanned.restore("s1", tmp_path / path[5], path)
        assert back["volumes"] == volumes
        assert contents(tmp_path / path[5]) == {path[1:]: FILES[path[1:]]}
    assert back["records_read"] <= -(-5000 // RECORD_BYTES) + 1 + 2 + 1
    (found,) = find_files(spanned.catalog, find_good_session(spanned.catalog, "s1", None), LARGE_NAME)
    assert (found["volume"], found["record"], found["offset_bytes"]) == (large[0].volume, 0, 0)


def test_a_second_session_begins_behind_the_first(spanned: Library, tmp_path: Path) -> None:
    last = parts_of(spanned)[-1].volume
    back_up(spanned, "s2", names=VOLUMES[VOLUMES.index(last) :])
    assert parts_of(spanned, "s2")[0].file_number == 2
    for session in ("s1", "s2"):
        comes_back(spanned, tmp_path / "t", session)


def test_a_sparse_file_crosses_as_well(pool: Library, tmp_path: Path) -> None:
    stored = _random.randbytes(120 << 10)
    device = tmp_path / "device"
    device.write_bytes(stored)
    hole = 1 << 20
    half = len(stored) // 2
    entry = FileEntry(b"/srv/\xff" + b"y" * 90, "f", mode=0o600, size=half + hole + half, source=SOURCE_DEVICE)
    extents = [ExtentRow(0, 0, 0, half), ExtentRow(half + hole, 0, half, half)]
    entries: list[Mapped] = [(folder("/srv"), []), (entry, extents), (inline("/srv/z", b"z" * 100), [])]
    catalog = pool.catalog
    head = {"session": "s1", "host": "db1", "created_s": 1.0, "expires_s": None, "evidence": window_evidence()}
    head.update(proof={"mode": "none"}, names={})
    source = ArchiveSource(
        {0: str(device)}, WriterOptions(buffer_bytes=4 << 20), Owners(), None, str(pool.state_dir), {}
    )
    with pool.drive() as drive:
        volumes = InTurn(catalog, Held(drive), VOLUMES)
        parts = SessionParts(
            catalog,
            catalog.begin_session("s1", "db1"),
            source,
            Selection(entries, None, lambda: entries),
            head,
            common=lambda: {"proof": {"mode": "none", "complete": False}, "names": {}},
            before_end=lambda: None,
            expected_bytes=0,
        )
        done = write_parts(parts, volumes, *volumes.first())
    judge(pool, "s1", {"evidence": done.facts})
    assert len(crossed(pool)) == 4
    wanted = stored[:half] + bytes(hole) + stored[half:]
    name = "srv/" + os.fsdecode(b"\xff") + "y" * 90
    comes_back(pool, tmp_path / "t", files={name: wanted, "srv/z": b"z" * 100})
    names = itertools.chain.from_iterable(("-f", tape_file(pool, part)) for part in parts_of(pool))
    command: list[Any] = ["tar", "-x", "-M", "-b", str(RECORD_BYTES // 512), *names, "-C", tmp_path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / name).read_bytes() == wanted
    assert (tmp_path / name).stat().st_blocks * 512 < hole
    for volume in reversed(VOLUMES[:5]):
        lose_catalog(pool) if volume == VOLUMES[4] else None
        enter(pool, volume)
    comes_back(pool, tmp_path / "t", files={name: wanted, "srv/z": b"z" * 100})


@needs_age
def test_an_encrypted_session_goes_over_volumes(library: Library, tmp_path: Path) -> None:
    make_volumes(library, VOLUMES[:12], capacity_bytes=96 << 10)
    keys = Keyring(parse_identities(SECRET))
    for session, faults in (("s1", None), ("s2", Faults(full_at=40)), ("s3", Faults(write_error_at=50))):
        back_up(
            library, session, recipients=parse_recipients([PUBLIC], "recipients"), faults=faults, names=VOLUMES[:12]
        )
        verify(library, session, keys)
        library.restore(session, tmp_path / session, keyring=keys)
        assert contents(tmp_path / session) == FILES
        if session != "s3":
            library.catalog.expire_session(session, allow_last=True)
            for volume in VOLUMES[:12]:
                library.label(volume, session, record_bytes=RECORD_BYTES, allow_last=True)
    assert len([part for part in parts_of(library, "s3") if part.lead_bytes]) >= 1
    for part in parts_of(library, "s3"):
        plain = decrypt(key_file(tmp_path), tape_file(library, part).read_bytes())
        assert len(plain) == part.archive_bytes
        (tmp_path / f"{part.part}.tar").write_bytes(plain)
    names = itertools.chain.from_iterable(("-f", tmp_path / f"{part.part}.tar") for part in parts_of(library, "s3"))
    (tmp_path / "by hand").mkdir()
    command: list[Any] = ["tar", "-x", "-M", "-b", str(RECORD_BYTES // 512), *names, "-C", tmp_path / "by hand"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert FILES.items() <= contents(tmp_path / "by hand").items()
    volumes = [part.volume for part in parts_of(library, "s3")]
    lose_catalog(library)
    for volume in volumes:
        enter(library, volume, keyring=keys)
    verify(library, "s3", keys)


# -- the catalog is lost -----------------------------------------------------------------------------------------------


def test_it_is_rebuilt_from_its_volumes_in_any_order(spanned: Library, tmp_path: Path) -> None:
    expected = everything(spanned)
    volumes = [part.volume for part in parts_of(spanned)]
    orders = [volumes, volumes[::-1], *(random.Random(seed).sample(volumes, len(volumes)) for seed in range(3))]
    for order in orders:
        lose_catalog(spanned)
        for place, volume in enumerate(order):
            missing = set(volumes) - set(order[:place]) - {volume}
            for dry_run in (True, False):
                (entered,) = enter(spanned, volume, dry_run=dry_run)["entered"]
                assert entered["state"] == ("damaged" if missing else "good")
            for other in missing:
                late = volumes.index(other) > max(volumes.index(known) for known in order[: place + 1])
                assert late or f"on volume {other}" in entered["reason"] or entered["reason"].count("volume V") == 5
        assert everything(spanned) == expected
        assert not any(enter(spanned, volume)["changed"] for volume in order)
    comes_back(spanned, tmp_path / "t")


@pytest.mark.parametrize("lost", range(3))
def test_without_one_of_its_volumes_the_large_member_is_doubtful_and_the_rest_is_there(
    spanned: Library, tmp_path: Path, lost: int
) -> None:
    part = crossed(spanned)[lost]
    (spanned.folder / part.volume).rename(tmp_path / "away")
    gone = {
        member.path for number, member in spanned.catalog.members(session_of(spanned).number) if number == part.part
    }
    listed = {os.fsdecode(path) for path in gone if not path.startswith(b".")} - {LARGE_NAME[1:]}
    for call in (lambda: verify(spanned), lambda: spanned.restore("s1", tmp_path / "t")):
        facts = (error := refused(call)).facts
        assert error.code == "volume_missing"
        assert [one["volume"] for one in facts["unreached"]] == [part.volume]
        named = {row["path"]: row for row in (*facts["missing"], *facts["doubtful"])}
        assert {path[1:] for path in named if not path.startswith("/.")} == listed | {LARGE_NAME[1:]}
    found = contents(tmp_path / "t")
    found.pop(LARGE_NAME[1:], None)
    assert found == {name: data for name, data in FILES.items() if name not in listed | {LARGE_NAME[1:]}}


# -- faults ------------------------------------------------------------------------------------------------------------


def places(count: int) -> list[int]:
    """Some of the places from 0 on, or all of them."""
    return sorted(random.Random(ROUNDS).sample(range(count), min(count, ROUNDS)))


def tried(library: Library) -> tuple[int, int]:
    """How many records and filemarks a session takes on a library like this one."""
    with library.drive() as drive:
        write_session(library.job("s0", TREE), lambda catalog: InTurn(catalog, Held(drive), VOLUMES))
        assert isinstance(drive, FaultyTape)
        return drive.tried


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """Records and filemarks that the session takes."""
    library = Library(tmp_path_factory.mktemp("shape"))
    make_volumes(library)
    counts = tried(library)
    library.catalog.close()
    return counts


def fresh(where: Path, pattern: Path) -> Library:
    """A library like another one."""
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(pattern, where)
    return Library(where)


@pytest.fixture
def pattern(pool: Library) -> Path:
    """The folder of a library with a pool, closed, to be copied."""
    back_up(pool, "before", tree=[folder("/other"), inline("/other/x", b"kept")], names=["V2"])
    pool.catalog.close()
    return pool.state_dir


def test_a_volume_that_ends_at_any_record_is_a_normal_answer(
    pattern: Path, shape: tuple[int, int], tmp_path: Path
) -> None:
    for record in places(shape[0]):
        library = fresh(tmp_path / "again", pattern)
        back_up(library, faults=Faults(full_at=record))
        comes_back(library, tmp_path / "t")
        comes_back(library, tmp_path / "t", "before", {"other/x": b"kept"})
        assert not any(volume.out_of_use for volume in library.catalog.volumes())
        library.catalog.close()


def test_a_volume_that_ends_at_any_filemark_is_a_normal_answer(
    pattern: Path, shape: tuple[int, int], tmp_path: Path
) -> None:
    for mark in places(shape[1]):
        library = fresh(tmp_path / "again", pattern)
        back_up(library, faults=Faults(full_at_filemark=mark))
        comes_back(library, tmp_path / "t")
        library.catalog.close()


def test_a_volume_that_fails_at_any_record_is_taken_out_of_use_and_the_session_goes_on(
    pattern: Path, shape: tuple[int, int], tmp_path: Path
) -> None:
    for record in places(shape[0]):
        library = fresh(tmp_path / "again", pattern)
        back_up(library, faults=Faults(write_error_at=record))
        (failed,) = [volume for volume in library.catalog.volumes() if volume.out_of_use]
        assert "cannot be written" in failed.out_of_use
        assert failed.name not in [part.volume for part in parts_of(library)[-1:]]
        comes_back(library, tmp_path / "t")
        error = refused(functools.partial(library.place, volume=failed.name))
        assert (error.option, "is out of use" in error.message) == ("volume", True)
        library.catalog.close()


class DyingTape(FaultyTape):
    """The process dies before this record."""

    dies_at = 0

    def write_record(self, record: Buffer) -> None:
        if self.tried[0] == self.dies_at:
            os._exit(9)
        super().write_record(record)


def die_at(library: Library, job: WriteJob, record: int) -> None:
    """Write a session in a process that dies before this record."""
    drive = DyingTape(str(library.folder), writable=True)
    drive.dies_at = record
    write_session(job, lambda catalog: InTurn(catalog, Held(drive), VOLUMES))


def test_a_run_that_is_killed_at_any_record_loses_nothing_and_is_no_backup(
    pattern: Path, shape: tuple[int, int], tmp_path: Path
) -> None:
    for record in places(shape[0]):
        library = fresh(tmp_path / "again", pattern)
        job = library.job("s1", TREE)
        child = os.fork()
        if not child:
            try:
                die_at(library, job, record)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert session_of(library).state == "open"
        refused(functools.partial(library.restore, "s1", tmp_path / "t"))
        # The next run goes on behind what was finished, or over what was not.
        back_up(library, "s2")
        comes_back(library, tmp_path / "t", "s2")
        # Also for who has only the volumes.
        lose_catalog(library)
        for volume in VOLUMES:
            enter(library, volume)
        states = {session.id: session.state for session in library.catalog.sessions()}
        assert (states.pop("s2"), states.pop("before"), GOOD in states.values()) == (GOOD, GOOD, False)
        comes_back(library, tmp_path / "t", "s2")
        comes_back(library, tmp_path / "t", "before", {"other/x": b"kept"})
        library.catalog.close()


def test_two_volumes_in_a_row_that_fail_are_the_fault_of_the_drive(pool: Library) -> None:
    class BrokenTape(FaultyTape):
        def write_record(self, record: Buffer) -> None:
            raise TapeError("drive: a record cannot be written.", option="drive")

    with BrokenTape(str(pool.folder), writable=True) as drive:
        error = refused(
            lambda: write_session(pool.job("s1", TREE), lambda catalog: InTurn(catalog, Held(drive), VOLUMES))
        )
    assert (error.option, "two volumes in a row" in error.message) == ("drive", True)
    assert len([volume for volume in pool.catalog.volumes() if volume.out_of_use]) == 1


class Exchanged:
    """A lease that gives another drive for each volume, as a library with several may, and closes the one before.

    :param faults: of the drive that is given in this turn, from 0.
    """

    def __init__(self, library: Library, faults: dict[int, Faults]) -> None:
        self._library = library
        self._faults = faults
        self._turn = 0
        self.drive: Optional[TapeDrive] = None

    def exchange(self, _volume: str) -> TapeDrive:
        if self.drive is not None:
            self.drive.close()
        self.drive = self._library.drive(faults=self._faults.get(self._turn))
        self._turn += 1
        return self.drive


@pytest.mark.parametrize("turn", [0, 4])
@pytest.mark.parametrize("faults", [Faults(full_at=9), Faults(write_error_at=9)])
def test_each_volume_may_be_in_another_drive(pool: Library, tmp_path: Path, turn: int, faults: Faults) -> None:
    drives = Exchanged(pool, {turn: faults})
    done = write_session(pool.job("s1", TREE), lambda catalog: InTurn(catalog, drives, VOLUMES))
    assert drives.drive is not None
    drives.drive.close()
    judge(pool, "s1", done)
    comes_back(pool, tmp_path / "t")


class SilentTape(FaultyTape):
    """A drive that does not report how much room is left."""

    def status(self) -> DriveStatus:
        return dataclasses.replace(super().status(), remaining_bytes=None)


def test_a_drive_that_does_not_report_its_room_is_counted(pool: Library, tmp_path: Path) -> None:
    with SilentTape(str(pool.folder), writable=True) as drive:
        done = write_session(pool.job("s1", TREE), lambda catalog: InTurn(catalog, Held(drive), VOLUMES))
    judge(pool, "s1", done)
    comes_back(pool, tmp_path / "t")
    assert len(parts_of(pool)) >= 5


def test_a_volume_that_is_full_at_its_label_is_left_out(pool: Library, tmp_path: Path) -> None:
    done = back_up(pool, faults=Faults(full_at=1), mode="overwrite")
    assert "V1" not in done["volumes"]
    comes_back(pool, tmp_path / "t")


class PatientTape(FaultyTape):
    """A drive that writes no filemark until something has happened.

    :ivar warnings: how often it was full before it said so.
    """

    def __init__(self, library: Library, until: threading.Event) -> None:
        super().__init__(str(library.folder), writable=True)
        self._until = until
        self.warnings = 0

    def write_filemarks(self, count: int) -> None:
        assert self._until.wait(60)
        super().write_filemarks(count)

    def write_record(self, record: Buffer) -> None:
        try:
            super().write_record(record)
        except EarlyWarning:
            self.warnings += 1
            raise


def handed_out(entries: Sequence[FileEntry], reached: bytes, event: threading.Event) -> Iterator[Mapped]:
    """Entries in order; the event is set at one of them."""
    for entry in entries:
        if entry.path == reached:
            event.set()
        yield entry, []


@pytest.mark.parametrize("less", ["nothing", "room", "record_bytes"])
def test_the_next_part_is_laid_out_before_the_end_of_the_last_one_is_written(
    library: Library, tmp_path: Path, less: str
) -> None:
    """Also when it turns out that it is not to be written so, because there is less of something on its volume."""
    make_volumes(library, ["V1"])
    make_volumes(library, VOLUMES[1:], CAPACITY_BYTES // 2 if less == "room" else CAPACITY_BYTES)
    for volume in VOLUMES[1:] if less == "record_bytes" else ():
        library.label(volume, record_bytes=RECORD_BYTES // 2)
    tree = [inline(f"/srv/{number:02}", _random.randbytes(5000)) for number in range(16)]
    event = threading.Event()
    catalog = library.catalog
    head = {"session": "s1", "host": "db1", "created_s": 1.0, "expires_s": None, "evidence": window_evidence()}
    head.update(proof={"mode": "none"}, names={})
    drive = PatientTape(library, event)
    with drive:
        volumes = InTurn(catalog, Held(drive), VOLUMES)
        parts = SessionParts(
            catalog,
            catalog.begin_session("s1", "db1"),
            ArchiveSource({}, WriterOptions(buffer_bytes=4 << 20), Owners(), None, str(library.state_dir)),
            # Six of them go on the first volume, and one more is looked at.
            Selection(handed_out(tree, b"/srv/08", event), None, lambda: ((entry, []) for entry in tree)),
            head,
            common=lambda: {"proof": {"mode": "none", "complete": False}, "names": {}},
            before_end=lambda: None,
            expected_bytes=0,
        )
        done = write_parts(parts, volumes, *volumes.first())
        assert drive.warnings == 0
    judge(library, "s1", {"evidence": done.facts})
    written = parts_of(library)
    assert [part.volume for part in written] == VOLUMES[: len(written)]
    assert {part.record_bytes for part in written[1:]} == {RECORD_BYTES // (2 if less == "record_bytes" else 1)}
    assert (len(written) > 4) == (less == "room")
    comes_back(library, tmp_path / "t", files={os.fsdecode(entry.path)[1:]: entry.content for entry in tree})


def test_a_drive_that_streams_gets_each_part_to_its_end(pool: Library, tmp_path: Path) -> None:
    (pool.folder / "drive.json").write_text('{"format_version": 1, "bytes_per_s": 100000000}')
    done = back_up(pool)
    assert done["drive_stops"] is not None
    comes_back(pool, tmp_path / "t")


def test_it_goes_over_the_volumes_of_a_pool(pool: Library, tmp_path: Path) -> None:
    told = {"drive_type": "virtual", "drive": str(pool.folder), "drive_timeout_s": 5, "state_dir": str(pool.state_dir)}
    with queue_for_drive(DriveOptions.of(told), "", who="a test", writable=True) as lease:
        done = write_session(pool.job("s1", TREE), Wanted(None, "p").choice(lease, timeout_s=5))
    judge(pool, "s1", done)
    assert len(set(done["volumes"])) == len(parts_of(pool)) >= 6
    comes_back(pool, tmp_path / "t")
    # All of it is needed, and nothing of it is written over.
    for volume in done["volumes"]:
        assert "unexpired" in refused(functools.partial(pool.label, volume, "other")).message


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_one_volume_that_is_too_small_names_the_pool(pool: Library) -> None:
    with SilentTape(str(pool.folder), writable=True) as drive:
        error = refused(lambda: write_session(pool.job("s1", TREE), pool.on(drive)))
    assert (error.option, error.code, "splitmirror_pool" in error.message) == ("volume", "volume_full", True)


def test_a_pool_that_ends_too_early_fails_the_session(pool: Library) -> None:
    error = refused(lambda: back_up(pool, names=VOLUMES[:3]))
    assert (error.code, session_of(pool).state) == ("volume_missing", "open")


def test_volumes_too_small_for_anything_are_refused(library: Library) -> None:
    make_volumes(library, capacity_bytes=24 << 10)
    error = refused(lambda: back_up(library))
    assert (error.option, "too small" in error.message) == ("volume", True)


def test_a_large_member_needs_volumes_of_one_record_size(pool: Library) -> None:
    first = crossed_volume(pool)
    after = VOLUMES[VOLUMES.index(first) + 1]
    pool.label(after, record_bytes=RECORD_BYTES // 2)
    error = refused(lambda: back_up(pool))
    assert (error.option, "record_bytes" in error.message) == ("volume", True)


def crossed_volume(pool: Library) -> str:
    """The volume on which the large member begins."""
    where = pool.state_dir / "look"
    where.mkdir(mode=0o700)
    look = Library(where)
    make_volumes(look)
    back_up(look)
    volume = crossed(look)[0].volume
    look.catalog.close()
    return volume


# -- hostile volumes ---------------------------------------------------------------------------------------------------


def records_of(library: Library, part: Part) -> list[bytes]:
    data = tape_file(library, part).read_bytes()
    return [data[place : place + RECORD_BYTES] for place in range(0, len(data), RECORD_BYTES)]


def put_records(library: Library, part: Part, records: Sequence[bytes]) -> None:
    """Leave these records in the tape file of a part, with a filemark."""
    tape_file(library, part).write_bytes(b"".join(records))
    medium = Medium.read(str(library.folder / part.volume))
    medium.files[part.file_number].runs = [[RECORD_BYTES, len(records)]] if records else []
    medium.save()


def cut_short(chance: random.Random, library: Library, part: Part) -> None:
    records = records_of(library, part)
    put_records(library, part, records[: chance.randrange(len(records))])


def swap(chance: random.Random, library: Library, part: Part) -> None:
    records = records_of(library, part)
    one, other = chance.sample(range(len(records)), 2)
    records[one], records[other] = records[other], records[one]
    put_records(library, part, records)


def flip(chance: random.Random, library: Library, part: Part) -> None:
    records = [bytearray(record) for record in records_of(library, part)]
    chance.choice(records)[chance.randrange(RECORD_BYTES)] ^= 1 << chance.randrange(8)
    put_records(library, part, [bytes(record) for record in records])


def exchange(chance: random.Random, library: Library, part: Part) -> None:
    """A part of the other session takes the place of one of this session."""
    other = chance.choice(parts_of(library, "s2"))
    put_records(library, part, records_of(library, other))


def move(chance: random.Random, library: Library, part: Part) -> None:
    """Another part of the session stands there as well."""
    put_records(library, part, records_of(library, chance.choice(parts_of(library))))


def try_all(library: Library, target: Path) -> None:
    """Whatever is called good comes back as it was; all else is refused by a sentence."""
    with contextlib.suppress(SplitMirrorError):
        comes_back(library, target)
    shutil.rmtree(target, ignore_errors=True)


@pytest.mark.parametrize("harm", [cut_short, swap, flip, exchange, move])
def test_nothing_that_is_called_good_is_not(spanned: Library, tmp_path: Path, harm: Any) -> None:
    volumes = [part.volume for part in parts_of(spanned)]
    back_up(spanned, "s2", tree=[*TREE[:5], inline("/srv/m", BIG[::-1])], names=VOLUMES[len(volumes) :])
    spanned.catalog.close()
    for seed in range(max(ROUNDS // 3, 1)):
        chance = random.Random(seed)
        library = fresh(tmp_path / "again", spanned.state_dir)
        part = chance.choice(parts_of(library))
        harm(chance, library, part)
        try_all(library, tmp_path / "t")
        lose_catalog(library)
        for volume in chance.sample(volumes, len(volumes)):
            enter(library, volume)
        known = library.catalog.session("s1")
        if known is not None and known.state == GOOD:
            # What was changed is only what fills blocks and records.
            assert harm in (flip, move)
            comes_back(library, tmp_path / "t")
        library.catalog.close()
