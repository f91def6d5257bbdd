# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes that are damaged, or that somebody made up: each task answers by a sentence, and calls good what is good.

Whatever is on the volumes, a session that verifies, or that a rebuild enters as good, is restored as it was written.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import GOOD
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.medium import Medium
from ansible_collections.splitmirror.backup.tests.support.tape import Held, InTurn, Library, folder, inline, judge
from ansible_collections.splitmirror.backup.tests.unit.media.test_encryption import KEYS, RECIPIENTS
from ansible_collections.splitmirror.backup.tests.unit.media.test_parts import contents, lose_catalog

pytestmark = pytest.mark.slow

#: Damages to volumes that are tried, of each kind.
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "1"))


def random_files(seed: int) -> dict[str, bytes]:
    """Files of which no two records are equal."""
    chance = random.Random(seed)
    return {f"srv/{number}": chance.randbytes(chance.randrange(200, 4000)) for number in range(4)}


RECORD = 2048
VOLUMES = ("V1", "V2", "V3", "V4")
#: What was written, by session. One member of s1 crosses V1, V2 and V3; secret is encrypted.
WRITTEN = {session: random_files(seed) for seed, session in enumerate(("before", "s1", "secret", "last"))}
WRITTEN["s1"]["srv/large"] = random.Random(9).randbytes(80_000)
VALUES: list[Any] = [
    None, True, -1, 0, 1, 511, 512, 513, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 200, 1.5, "", "x", [], {}, [1], [[512]],
    [[512, 1]], [[512, 1 << 62]], [[1 << 62, 1]], [[0, 1]], [[512, 3], [1, 1]], [{}], {"a": 1},
]  # fmt: skip


def back_up(library: Library, session: str, tree: list[FileEntry], *volumes: str, **options: Any) -> dict[str, Any]:
    """Write a session over these volumes, and judge it."""
    with library.drive() as drive:
        done = write_session(
            library.job(session, tree, **options), lambda catalog: InTurn(catalog, Held(drive), volumes)
        )
    judge(library, session, done)
    return done


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of four small volumes with four good sessions. Nobody writes to it."""
    library = Library(tmp_path_factory.mktemp("sound"))
    trees = {
        session: [folder("/srv"), *(inline(f"/{name}", files[name]) for name in sorted(files))]
        for session, files in WRITTEN.items()
    }
    for name in VOLUMES:
        (library.folder / name).mkdir(mode=0o700)
        Medium(str(library.folder / name), 72 << 10, 4096, False, []).save()
        library.label(name, record_bytes=RECORD)
    back_up(library, "before", trees["before"], "V1")
    parts = back_up(library, "s1", trees["s1"], *VOLUMES)["evidence"]["parts"]
    assert [part["volume"] for part in parts] == ["V1", "V2", "V3"]
    back_up(library, "secret", trees["secret"], "V4", recipients=RECIPIENTS)
    back_up(library, "last", trees["last"], "V4")
    library.catalog.close()
    return library.state_dir


class Damaged:
    """A copy of the library whose volumes something happens to."""

    def __init__(self, sound: Path, where: Path) -> None:
        shutil.copytree(sound, where)
        self.library = Library(where)
        self._where = where
        self._targets = 0

    def close(self) -> None:
        self.library.catalog.close()
        shutil.rmtree(self._where)

    def volume(self, name: str = "V1") -> Path:
        return self.library.folder / name

    def told(self, name: str = "V1") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.volume(name) / "volume.json").read_text())
        return found

    def tell(self, told: Any, name: str = "V1") -> None:
        (self.volume(name) / "volume.json").write_text(json.dumps(told))

    def put(self, files: list[tuple[bytes, bool]], name: str = "V1") -> None:
        """Leave these tape files on a volume: records one after another, and whether a filemark follows."""
        for path in self.volume(name).glob("*.tar"):
            path.unlink()
        told = []
        for number, (data, closed) in enumerate(files):
            (self.volume(name) / f"{number:05}.tar").write_bytes(data)
            length = 10240 if number == 0 else RECORD
            runs = [[length, len(data) // length]] if len(data) >= length else []
            runs += [[len(data) % length, 1]] if len(data) % length else []
            told.append({"records": runs, "filemark": closed})
        self.tell({**self.told(name), "files": told}, name)

    def files(self, name: str = "V1") -> list[tuple[bytes, bool]]:
        return [(path.read_bytes(), True) for path in sorted(self.volume(name).glob("*.tar"))]

    # ---- the tasks ----

    def check_all(self) -> None:
        """Let all tasks meet the volumes; with the catalog, without it, and with what is left at the end."""
        readable = self.check_reading()
        for volume in VOLUMES:
            self.asked(self.rebuilding(volume, dry_run=True))
            self.asked(functools.partial(self.library.label, volume, record_bytes=RECORD))
        for volume in ("V1", "V3", "V4"):
            fresh = f"fresh-{volume}"
            if self.asked(functools.partial(back_up, self.library, fresh, [inline("/srv/new", b"new")], volume)):
                self.check_good(fresh, {"srv/new": b"new"})
        # What was added cost no session that could be read before.
        assert self.check_reading() == readable
        lose_catalog(self.library)
        for volume in (*VOLUMES, "V1"):
            self.asked(self.rebuilding(volume))
        # A rebuild has read all of them.
        assert self.check_reading() == self.called_good()

    def called_good(self) -> list[str]:
        """What the catalog calls good."""
        known = {session.id for session in self.library.catalog.sessions(state=GOOD)}
        return [session for session in WRITTEN if session in known]

    def check_reading(self) -> list[str]:
        """Verify and restore all sessions that the catalog calls good, and return those that are."""
        good = []
        for session in self.called_good():
            verified, restored = self.asked(self.verifying(session)), self.restored(session)
            assert verified <= (restored == WRITTEN[session]), session
            assert restored in (None, WRITTEN[session]), session
            good += [session] if verified else []
        return good

    def check_good(self, session: str, expected: dict[str, bytes]) -> None:
        assert self.asked(self.verifying(session))
        assert self.restored(session) == expected

    def asked(self, task: Callable[[], object]) -> bool:
        """Whether a task does what it is asked for; if it does not, it says so in a sentence."""
        try:
            task()
        except SplitMirrorError as exc:
            said = exc.message
        else:
            return True
        assert said.endswith("."), said
        assert "\n" not in said
        assert len(said) < 2000
        return False

    def verifying(self, session: str) -> Callable[[], object]:
        def verify() -> object:
            catalog = self.library.catalog
            with self.library.drive(writable=False) as drive:
                known = find_good_session(catalog, session, None)
                return verify_session(known, catalog, Held(drive), keyring=KEYS)

        return verify

    def rebuilding(self, volume: str, *, dry_run: bool = False) -> Callable[[], object]:
        def enter() -> object:
            with self.library.drive(writable=False) as drive:
                return rebuild(volume, self.library.catalog, drive, dry_run=dry_run, keyring=KEYS)

        return enter

    def restored(self, session: str) -> Optional[dict[str, bytes]]:
        """The files of a session; None when a restore says that they are not as they should be."""
        self._targets += 1
        target = self._where / f"t{self._targets}"
        if not self.asked(lambda: self.library.restore(session, target, keyring=KEYS)):
            return None
        return contents(target)


# ---- what happens to a volume ----


def flip(it: Damaged, chance: random.Random) -> None:
    """Flip one bit, or a few that lie together, in anything that is on a volume."""
    paths = sorted(it.library.folder.glob("*/*"))
    path = chance.choice(paths) if chance.randrange(2) else max(paths, key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    for _dummy in range(chance.choice((1, 1, 4))):
        data[min(place + chance.randrange(3), len(data) - 1)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def lie(it: Damaged, chance: random.Random) -> None:
    """Something else in any place of volume.json."""
    volume = chance.choice(VOLUMES)
    told = it.told(volume)
    places: list[tuple[Any, Any]] = [(told, key) for key in told]
    places += [(told["files"], chance.randrange(len(told["files"])))]
    for item in told["files"]:
        places += [(item, "records"), (item, "filemark"), (item["records"][0], 0), (item["records"][0], 1)]
    where, key = chance.choice(places)
    where[key] = chance.choice(VALUES)
    it.tell(told, volume)


def forget(it: Damaged, chance: random.Random) -> None:
    """A key of volume.json, or a file of the volume, is missing, or is a folder."""
    volume = chance.choice(VOLUMES)
    told = it.told(volume)
    what = chance.randrange(4)
    if what == 0:
        del told[chance.choice(list(told))]
        it.tell(told, volume)
    elif what == 1:
        del chance.choice(told["files"])[chance.choice(("records", "filemark"))]
        it.tell(told, volume)
    else:
        path = chance.choice(sorted(it.volume(volume).iterdir()))
        path.unlink()
        if what == 3:
            path.mkdir()


def swap_records(it: Damaged, chance: random.Random) -> None:
    """Two records change places, in one tape file or in two."""
    paths = sorted(it.library.folder.glob("*/0000[1-9].tar"))
    (one, first), (other, second) = (
        (path, RECORD * chance.randrange(path.stat().st_size // RECORD)) for path in chance.choices(paths, k=2)
    )
    kept = one.read_bytes()[first : first + RECORD], other.read_bytes()[second : second + RECORD]
    for path, place, record in ((one, first, kept[1]), (other, second, kept[0])):
        data = path.read_bytes()
        path.write_bytes(data[:place] + record + data[place + RECORD :])


def lose_a_record(it: Damaged, chance: random.Random) -> None:
    """A record is missing, or is there twice; the rest moves up or down."""
    volume = chance.choice(VOLUMES)
    files = it.files(volume)
    number = chance.randrange(1, len(files))
    data = files[number][0]
    place = RECORD * chance.randrange(len(data) // RECORD)
    more = data[place : place + RECORD] if chance.randrange(2) else b""
    files[number] = (data[:place] + more + more + data[place + RECORD :], True)
    it.put(files, volume)


def move_files(it: Damaged, chance: random.Random) -> None:
    """A tape file of this or of the other volume stands in between, is there twice, is missing, or changes places."""
    volume = chance.choice(VOLUMES)
    files = it.files(volume)
    foreign = chance.choice(it.files(chance.choice(VOLUMES)))
    place = chance.randrange(len(files))
    what = chance.randrange(4)
    if what == 0:
        files.insert(place, foreign)
    elif what == 1:
        files[place] = foreign
    elif what == 2:
        del files[place]
    else:
        chance.shuffle(files)
    it.put(files, volume)


def open_files(it: Damaged, chance: random.Random) -> None:
    """Filemarks are missing, or there are more of them, or the records have another length."""
    volume = chance.choice(VOLUMES)
    told = it.told(volume)
    what = chance.randrange(3)
    place = chance.randrange(len(told["files"]))
    if what == 0:
        told["files"][place]["filemark"] = False
    elif what == 1:
        told["files"].insert(place, {"records": [], "filemark": True})
    else:
        size = (it.volume(volume) / f"{place:05}.tar").stat().st_size
        length = chance.choice((1, 511, 1024, size))
        told["files"][place]["records"] = [[length, max(size // length, 1)]]
    it.tell(told, volume)


def share_a_name(it: Damaged, chance: random.Random) -> None:
    """Another volume stands in the place of one: of another name, or of the same name and of another site."""
    if chance.randrange(2):
        one, two = chance.sample(VOLUMES, 2)
        shutil.rmtree(it.volume(one))
        shutil.copytree(it.volume(two), it.volume(one))
        return
    other = Damaged(it.library.state_dir, it.library.state_dir.parent / "other")
    lose_catalog(other.library)
    shutil.rmtree(other.volume("V1"))
    other.library.make("V1")
    other.library.label("V1", record_bytes=RECORD)
    if chance.randrange(2):
        other.put([*other.files("V1"), *it.files("V1")[1:]])
    shutil.rmtree(it.volume("V1"))
    shutil.copytree(other.volume("V1"), it.volume("V1"))
    other.close()


KINDS = [flip, lie, forget, swap_records, lose_a_record, move_files, open_files, share_a_name]


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Iterator[Callable[[], Damaged]]:
    """Makes copies of the library, one after another."""
    made: list[Damaged] = []

    def make() -> Damaged:
        while made:
            made.pop().close()
        made.append(Damaged(sound, tmp_path / "copy"))
        return made[0]

    yield make
    while made:
        made.pop().close()


def test_sound_volumes_are_called_good(damaged: Callable[[], Damaged]) -> None:
    it = damaged()
    assert it.check_reading() == list(WRITTEN)
    it.check_all()
    assert it.check_reading() == list(WRITTEN)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_damaged_volumes_are_sentences_and_nothing_is_called_good_that_is_not(
    damaged: Callable[[], Damaged], kind: Callable[[Damaged, random.Random], None]
) -> None:
    for seed in range(ROUNDS):
        it = damaged()
        kind(it, random.Random(f"{kind.__name__} {seed}"))
        it.check_all()


def test_a_volume_that_ends_at_any_record_keeps_what_is_before(damaged: Callable[[], Damaged]) -> None:
    """As behind a crease: the records are on the volume, and are not read; or as a tape that was cut there."""
    it = damaged()
    whole = {volume: it.files(volume) for volume in VOLUMES}
    #: Sessions whose last tape file on a volume is before each tape file of it.
    before = {"V1": ["", "", "before"], "V2": ["", ""], "V3": ["", ""], "V4": ["", "", "secret"]}
    ends = [
        (volume, number, record)
        for volume, files in whole.items()
        for number in range(1, len(files))
        for record in range(len(files[number][0]) // RECORD)
    ]
    chance = random.Random(5)
    for volume, number, record in ends if ROUNDS > 1 else chance.sample(ends, 2):
        it = damaged()
        data = whole[volume][number][0][: record * RECORD + chance.choice((0, 0, 100))]
        if chance.randrange(2):
            it.put([*whole[volume][:number], (data, bool(chance.randrange(2)))], volume)
        else:
            (it.volume(volume) / f"{number:05}.tar").write_bytes(data)
        kept = before[volume][number]
        assert not kept or kept in it.check_reading()
        it.check_all()
