# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Promise 5 against a model: whatever is done to volumes, pools, drives and catalog, in any order.

After each operation, every tape file of every good session, and of every copy, that has not expired is on its volume as
it was written, and a session that the catalog calls good can be read back.
SPLITMIRROR_OPERATIONS says how many are done.
"""

from __future__ import annotations

import copy
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import fail_dead_sessions
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import DAMAGED, GOOD, OPEN, Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media import pools
from ansible_collections.splitmirror.backup.plugins.module_utils.media.copying import (
    Copier,
    CopyJob,
    Planned,
    check_parts,
    copy_sessions,
    plan,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import label_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape import registry
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    Choice,
    DriveOptions,
    queue_for_drive,
    use_drive,
)
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults, FaultyTape
from ansible_collections.splitmirror.backup.tests.support.tape import Library, folder, inline, judge

OPERATIONS = int(os.environ.get("SPLITMIRROR_OPERATIONS", "150"))
SEED = int(os.environ.get("SPLITMIRROR_SEED", "13"))
RECORD_BYTES = 4096
CAPACITY_BYTES = 1 << 20
VOLUMES = [f"V{number}" for number in range(1, 9)]
POOLS = ("p", "q")
#: All sessions are read back after so many operations; after each, one of them.
ALL_EVERY = 40


def _nothing(_number: int) -> None: ...


nothing = staticmethod(_nothing)


def die_at(at: int, number: int) -> None:
    """End this process, without a word."""
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)


class OneOfTwo(FaultyTape):
    """One of two drives that share a library of volumes.

    :cvar fails: what goes wrong in the drives that are opened from now on.
    :cvar at_record: is called before each record that is written, with its number since the drive was opened.
    """

    name = "one_of_two"
    fails = Faults()
    at_record: Callable[[int], None] = nothing

    def __init__(self, drive: str, *, writable: bool = False, **_dummy: Any) -> None:
        super().__init__(drive, writable=writable, faults=self.fails if writable else None)
        self._folder = str(Path(drive).parent / "library")

    @classmethod
    def shelf(cls, drive: str) -> Optional[list[str]]:
        return super().shelf(str(Path(drive).parent / "library"))

    def write_record(self, record: Buffer) -> None:
        self.at_record(self.tried[0])
        super().write_record(record)


class Needed(NamedTuple):
    """A tape file that must stay. :ivar digest: of its content."""

    session: str
    digest: str


class Site:
    """A media server with two drives, and what is true of it."""

    def __init__(self, where: Path, chance: random.Random) -> None:
        self.where = where
        self.chance = chance
        self.library = Library(where)
        #: Tape files, as paths below the library, of good sessions and of copies of them that have not expired.
        self.needed: dict[str, Needed] = {}
        #: The paths of a session, or of one of its copies, as it was written.
        self.whole: list[tuple[str, dict[str, Needed]]] = []
        self.number = self.good = 0
        #: The catalog knows less than the volumes: some of them were not read since it was lost or put back.
        self.unread: set[str] = set()
        #: Where the two volumes are that are in each other's place.
        self.swapped: dict[str, str] = {}
        self.saved: list[Path] = []
        self.done: list[str] = []
        self.counts: dict[str, int] = {}
        drives = []
        for number in range(2):
            (where / f"drive{number}").mkdir()
            drives.append(Choice(str(where / f"drive{number}"), None))
        (where / "drives").mkdir(mode=0o700)
        self.options = DriveOptions("one_of_two", tuple(drives), None, 0, str(where / "drives"))
        for volume in VOLUMES:
            self.library.make(volume, CAPACITY_BYTES)

    # -- operations --------------------------------------------------------------------------------------------------

    def label(self) -> None:
        volume, pool = self.chance.choice(VOLUMES), self.chance.choice(POOLS)
        allow_last = self.chance.random() < 0.3
        with use_drive(self.options, volume, who="label", writable=True) as lease:
            drive = lease.drive
            drive.load(volume)
            done = label_volume(drive, self.library.catalog, volume, pool, RECORD_BYTES, allow_last=allow_last)
        if done.in_catalog:
            self.unread.discard(volume)

    def append(self) -> None:
        self.write()

    def append_with_a_fault(self) -> None:
        self.set_a_fault()
        self.write()

    def set_a_fault(self) -> None:
        at = self.chance.randrange(150)
        OneOfTwo.fails = self.chance.choice(
            [
                Faults(full_at=at),
                Faults(write_error_at=at),
                Faults(lost_filemark=at % 3),
                Faults(full_at_filemark=at % 3),
            ]
        )

    def append_and_be_killed(self) -> None:
        """In a process of its own, which ends before a record."""
        at = self.chance.randrange(120)
        session = self.new_session()
        job = self.library.job(session, self.tree(), host=self.host())
        # SQLite's connections do not go through a fork.
        self.close()
        child = os.fork()
        if not child:
            with suppress(BaseException):
                self.library.catalog = self.opened()
                OneOfTwo.at_record = staticmethod(partial(die_at, at))
                self.put(self.library, job)
            os._exit(1)
        os.waitpid(child, 0)
        self.library.catalog = self.opened()

    def two_at_once(self) -> None:
        """While a session is written, another one begins and ends in the other drive."""
        at = self.chance.randrange(60)

        def other(number: int) -> None:
            if number == at:
                OneOfTwo.at_record = nothing
                library = copy.copy(self.library)
                with closing(self.opened()) as library.catalog:
                    self.write(library)

        OneOfTwo.at_record = staticmethod(other)
        self.write()

    def expire(self) -> None:
        """One session, or most of those that there are."""
        good = self.library.catalog.sessions(state=GOOD)
        left = [found.id for found in good if found.expires_s is None or found.expires_s > time.time()]
        few = self.chance.random() < 0.7
        for session in self.chance.sample(left, min(1, len(left)) if few else len(left) * 3 // 4):
            self.library.catalog.expire_session(session, allow_last=self.chance.random() < 0.5)
            self.need_no_more(session)

    def copy(self) -> None:
        """To the other pool, all that is not there, or one session."""
        catalog, pool = self.library.catalog, self.chance.choice(POOLS)
        good = [session.id for session in catalog.sessions(state=GOOD)]
        chosen = [self.chance.choice(good)] if good and self.chance.random() < 0.7 else []
        # A copy may have expired when it is made.
        retention_days = self.chance.choice([None, None, 1e-9])
        job = CopyJob(
            Wanted(None, pool, allow_last=self.chance.random() < 0.3),
            str(self.where),
            chosen,
            retention_days=retention_days,
        )
        planned = plan(job, catalog)
        check_parts(job, catalog, planned)
        libraries = Libraries(self.options, {})
        queue = queue_for_drive(self.options, "", who="copy", writable=True)
        reading = LibraryDrives(libraries, catalog, lambda options, name: queue_for_drive(options, name, who="read"))
        beside = self.chance.random() < 0.7
        if retention_days is not None:
            # It is set before anything is copied, so a volume with what expires by that may be used at once.
            for one in planned:
                for volume in one.renewed:
                    self.need_no_more(one.session.id, copies_on=volume)
        try:
            with reading, queue as lease:
                choose = job.target.choice(lease, timeout_s=0)
                copier = Copier(job, catalog, reading, lease, lambda _place: beside, choose)
                copy_sessions(copier, planned, lambda _one: nullcontext(StatusWriter(None, "copy", "bytes")))
        finally:
            for one in planned:
                self.note_copy(one, pool)

    def copy_with_a_fault(self) -> None:
        self.set_a_fault()
        self.copy()

    def expire_copies(self) -> None:
        """A copy of a session, or one that nobody remembers to have made."""
        catalog = self.library.catalog
        found = [(session, one.volume) for session in catalog.sessions() for one in catalog.copies(session.number)]
        for session, volume in self.chance.sample(found, len(found) // 2):
            catalog.set_copy_expiry(session.number, [volume], time.time())
            self.need_no_more(session.id, copies_on=volume)

    def let_dead_sessions_go(self) -> None:
        for host in ("h0", "h1"):
            fail_dead_sessions(self.library.catalog, host, "none")

    def let_damage_go(self) -> None:
        """What a rebuild could not read; a person knows what it was."""
        for session in self.library.catalog.sessions(state=DAMAGED):
            if not any(needed.session == session.id for needed in self.needed.values()):
                self.library.catalog.expire_session(session.id, allow_last=True)

    def take_into_use(self) -> None:
        for volume in self.library.catalog.volumes():
            if volume.out_of_use:
                self.library.catalog.take_out_of_use(volume.name, "")

    def swap_two_tapes(self) -> None:
        one, other = self.chance.sample(VOLUMES, 2)
        self.exchange(one, other)
        # For a while, or until somebody swaps them back.
        for _dummy in range(2):
            self.step(self.chance.choice([self.append, self.label, self.rebuild_one]))
        self.exchange(one, other)

    def lose_the_catalog(self) -> None:
        self.close()
        for path in self.where.glob("catalog.sqlite*"):
            path.unlink()
        self.library.catalog = self.opened()
        self.unread = set(VOLUMES)
        self.some_steps_then_rebuild()

    def save_the_catalog(self) -> None:
        saved = self.where / f"saved{len(self.saved) % 4}"
        with closing(sqlite3.connect(self.where / "catalog.sqlite")) as now, closing(sqlite3.connect(saved)) as then:
            now.backup(then)
        self.saved = [*[path for path in self.saved if path != saved], saved]

    def put_back_an_older_catalog(self) -> None:
        if not self.saved:
            return
        self.close()
        for path in self.where.glob("catalog.sqlite*"):
            path.unlink()
        shutil.copy(self.chance.choice(self.saved), self.where / "catalog.sqlite")
        self.library.catalog = self.opened()
        self.unread = set(VOLUMES)
        self.some_steps_then_rebuild()

    def rebuild_one(self) -> None:
        self.rebuild(self.chance.choice(VOLUMES))

    # -- inside --------------------------------------------------------------------------------------------------------

    def some_steps_then_rebuild(self) -> None:
        """A person may go on before all volumes are read again."""
        for _dummy in range(self.chance.randrange(4)):
            self.step(self.chance.choice([self.append, self.label, self.rebuild_one, self.expire]))
        for volume in self.chance.sample(VOLUMES, len(VOLUMES)):
            self.step(partial(self.rebuild, volume))

    def rebuild(self, volume: str) -> None:
        """Read a volume again; what the catalog has of a volume of this name that is gone is let go first."""
        for _dummy in range(20):
            try:
                with use_drive(self.options, volume, who="rebuild") as lease:
                    lease.drive.load(volume)
                    rebuild(volume, self.library.catalog, lease.drive, allow_last=True)
                self.unread.discard(volume)
                return
            except SplitMirrorError as exc:
                if exc.code != "volume_not_expired":
                    raise
                self.let_go(volume)

    def let_go(self, volume: str) -> None:
        """Expire what the catalog says of a volume that was labelled anew since; all of it had expired."""
        catalog = self.library.catalog
        for session in catalog.unexpired(volume):
            places = [place for found in catalog.places(session.number).values() for place in found]
            there = [self.needed.get(self.path_of(place)) for place in places if place.volume == volume]
            needed = [one for one in there if one is not None and one.session == session.id]
            assert len(needed) < len(there) or session.state != GOOD, f"{session.id} would be lost"
            if session.state == OPEN:
                fail_dead_sessions(catalog, session.host, "none")
                continue
            if any(one.volume == volume for one in catalog.copies(session.number)):
                catalog.set_copy_expiry(session.number, [volume], time.time())
                self.need_no_more(session.id, copies_on=volume)
            if any(part.volume == volume for part in catalog.parts(session.number)):
                catalog.expire_session(session.id, allow_last=True)
                self.need_no_more(session.id)

    # -- what is needed ------------------------------------------------------------------------------------------------

    @staticmethod
    def path_of(part: Part) -> str:
        return f"{part.volume}/{part.file_number:05}.tar"

    def need(self, session: str, parts: Iterable[Part]) -> None:
        found = {path: Needed(session, self.digest(path)) for path in map(self.path_of, parts)}
        self.needed.update(found)
        self.whole.append((session, found))

    def need_no_more(self, session: str, *, copies_on: str = "") -> None:
        """A session has expired where it is first, or its copies on a volume have."""
        catalog = self.library.catalog
        known = catalog.session(session)
        assert known is not None
        parts = catalog.parts(known.number)
        if copies_on:
            copies = catalog.places(known.number).values()
            parts = [place for found in copies for place in found[1:] if place.volume == copies_on]
        for path in map(self.path_of, parts):
            if path in self.needed and self.needed[path].session == session:
                del self.needed[path]

    def note_copy(self, planned: Planned, pool: str) -> None:
        """What of a session is in a pool since it was copied, or is kept as long as a copy that was made now."""
        catalog, session = self.library.catalog, planned.session.id
        known = catalog.session(session)
        if known is None:
            return
        pools = {volume.name: volume.pool for volume in catalog.volumes()}
        copies = [one for one in catalog.copies(known.number) if pools[one.volume] == pool]
        expired = {one.volume for one in copies if one.expires_s is not None and one.expires_s <= time.time()}
        for volume in expired:
            self.need_no_more(session, copies_on=volume)
        if planned.lives_on:
            self.need_no_more(session)
        places = [place for found in catalog.places(known.number).values() for place in found[1:]]
        parts = [place for place in places if pools[place.volume] == pool and place.volume not in expired]
        if {part.part for part in parts} == {part.part for part in catalog.parts(known.number)}:
            self.need(session, parts)
        else:
            self.needed.update({self.path_of(part): Needed(session, self.digest(self.path_of(part))) for part in parts})

    def exchange(self, one: str, other: str) -> None:
        place = self.library.folder / "aside"
        (self.library.folder / one).rename(place)
        (self.library.folder / other).rename(self.library.folder / one)
        place.rename(self.library.folder / other)
        self.swapped = {} if self.swapped else {one: other, other: one}

    def new_session(self) -> str:
        self.number += 1
        return f"s{self.number}"

    def host(self) -> str:
        return self.chance.choice(["h0", "h1"])

    def tree(self) -> list[FileEntry]:
        """A few files, or one that is larger than a volume."""
        sizes = [self.chance.randrange(120_000) for _dummy in range(self.chance.randrange(1, 8))]
        if self.chance.random() < 0.2:
            sizes[0] = 1_200_000
        files = [inline(f"/srv/f{number}", self.chance.randbytes(size)) for number, size in enumerate(sizes)]
        return [folder("/srv"), *files]

    def write(self, library: Optional[Library] = None) -> None:
        library = library or self.library
        session = self.new_session()
        job = library.job(session, self.tree(), host=self.host(), retention_days=self.chance.choice([None, 30.0]))
        judge(library, session, self.put(library, job))
        known = library.catalog.session(session)
        assert known is not None
        if known.state == GOOD:
            self.good += 1
            self.need(session, library.catalog.parts(known.number))

    def put(self, _library: Library, job: Any) -> Any:
        pool = self.chance.choice(POOLS)
        wanted = Wanted(None, pool, allow_last=self.chance.random() < 0.3)
        with queue_for_drive(self.options, "", who=job.session, writable=True) as lease:
            return write_session(job, wanted.choice(lease, timeout_s=0))

    def digest(self, path: str) -> str:
        volume, _dummy, name = path.partition("/")
        file = self.library.folder / self.swapped.get(volume, volume) / name
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""

    def opened(self) -> Catalog:
        return Catalog.open(str(self.where / "catalog.sqlite"), writable=True)

    def close(self) -> None:
        self.library.catalog.close()

    # -- what must be true ---------------------------------------------------------------------------------------------

    def step(self, operation: Callable[[], None]) -> None:
        """Do one operation, which may be refused, and look at everything afterwards."""
        name = getattr(operation, "__name__", "rebuild")
        outcome = "done"
        try:
            operation()
        except SplitMirrorError as exc:
            outcome = f"{exc.code}: {exc.message}"
        finally:
            OneOfTwo.fails, OneOfTwo.at_record = Faults(), nothing
        self.done.append(f"{name}: {outcome}")
        key = f"{name}: {outcome.partition(':')[0]}"
        self.counts[key] = self.counts.get(key, 0) + 1
        self.nothing_is_lost()
        self.what_is_good_is_read_back()

    def nothing_is_lost(self) -> None:
        for path, needed in self.needed.items():
            assert self.digest(path) == needed.digest, f"{path} of {needed.session} is lost\n{self.last_done()}"
        self.whole = [
            one for one in self.whole if all(self.needed.get(path) == needed for path, needed in one[1].items())
        ]

    def last_done(self) -> str:
        return "\n".join(self.done[-30:])

    def what_is_good_is_read_back(self) -> None:
        if self.unread or self.swapped:
            return
        good = self.library.catalog.sessions(state=GOOD)
        wanted = {session for session, _files in self.whole}
        assert wanted <= {session.id for session in good}, self.last_done()
        if len(self.done) % ALL_EVERY and good:
            good = [self.chance.choice(good)]
        for session in good:
            with queue_for_drive(self.options, "", who="verify") as lease:
                try:
                    verify_session(session, self.library.catalog, lease)
                except SplitMirrorError as exc:
                    raise AssertionError(f"{session.id} cannot be read: {exc.message}\n{self.last_done()}") from exc


def operations(site: Site) -> list[Callable[[], None]]:
    """What may happen, as often as it stands here."""
    return [
        *[site.label] * 6,
        *[site.append] * 8,
        *[site.append_with_a_fault] * 3,
        *[site.append_and_be_killed] * 2,
        *[site.two_at_once] * 2,
        *[site.expire] * 5,
        *[site.copy] * 4,
        site.copy_with_a_fault,
        *[site.expire_copies] * 2,
        *[site.let_dead_sessions_go] * 3,
        *[site.let_damage_go] * 3,
        site.take_into_use,
        site.swap_two_tapes,
        *[site.save_the_catalog] * 2,
        site.rebuild_one,
    ]


RARE = 25


@pytest.mark.slow
def test_whatever_is_done_nothing_that_is_needed_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DRIVES, "one_of_two", OneOfTwo)
    monkeypatch.setattr(pools, "_LOOK_S", 0.001)
    chance = random.Random(SEED)
    site = Site(tmp_path, chance)
    try:
        while len(site.done) < OPERATIONS:
            rare = chance.randrange(RARE) == 0
            site.step(
                chance.choice([site.lose_the_catalog, site.put_back_an_older_catalog] if rare else operations(site))
            )
    finally:
        site.close()
    print("\n".join(f"{count:6} {key}" for key, count in sorted(site.counts.items())))
    assert site.good > OPERATIONS / 30
