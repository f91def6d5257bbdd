# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cases for the st driver and the library. Runs on a media server of the lab, as root: ``on_media.py CASE``."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional
from unittest.mock import patch

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import fail_dead_sessions
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt import bech32
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import Identity, Recipient
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.primitives import make_secret, public_of
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.sealing import tail_of
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.copying import (
    Copier,
    CopyJob,
    copy_sessions,
    plan,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.libraries import Libraries, LibraryDrives
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.tape_file import TapeStream
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import label_volume, place_for
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer, TapeDrive, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DriveKey
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import (
    DriveOptions,
    queue_for_drive,
    use_drive,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.label import new_label, write_label
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.library import Bay, MtxLibrary, find_bay
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.st import StTape
from ansible_collections.splitmirror.backup.tests.seams.drives import DriveContract
from ansible_collections.splitmirror.backup.tests.support.tape import Held, Library, folder, inline, judge
from ansible_collections.splitmirror.backup.tests.support.tapemodel import MARK, Item, Model

CHANGER = "/dev/tape/by-id/scsi-LIBRARY001"
DRIVES = ["/dev/tape/by-id/scsi-DRIVE001-nst", "/dev/tape/by-id/scsi-DRIVE002-nst"]


ROWS = int(os.environ.get("ROWS", "12"))


def bay(number: int) -> Bay:
    """A drive's place in the library."""
    return find_bay(MtxLibrary(CHANGER), DRIVES[number], number)


def opened(number: int = 0, *, writable: bool = True) -> StTape:
    """A drive of the library."""
    return StTape(DRIVES[number], writable=writable, bay=bay(number))


def run(*command: str) -> str:
    """Run a command to its end and return what it printed; its words are the failure."""
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


# ---- the cases ----


def blank(*volumes: str) -> None:
    """Leave nothing on volumes but the filemark of ``mt weof``."""
    with opened() as drive:
        for volume in volumes:
            drive.load(volume)
            drive.write_filemarks(1)


class StContract(DriveContract):
    """The st driver, on the first drive of the library."""

    rows = ROWS
    #: The drive of the lab knows no block numbers.
    tells = False
    volume = "LAB001"

    def opened(self, *, writable: bool = True) -> TapeDrive:
        return opened(writable=writable)

    def blank(self) -> list[Item]:
        blank(self.volume)
        return [MARK]

    def fitting(self, model: Model, what: str, value: Any) -> Any:
        """The value of an operation, or, where this drive would not do it right, one near it.

        Records of a length between half the buffer and the buffer come back damaged; spacing over records, by which it
        locates, passes filemarks, and fails when it ends exactly at the end of data.
        """
        if what == "read":
            item = model.items[model.head] if model.head < len(model.items) else None
            if item is not MARK and value > len(item) > value // 2:
                return len(item)
        if what == "locate":
            start = Model()
            start.items = model.items
            if start.files(value[0]) is None:
                records = 0
                while start.head + records < len(start.items) and start.items[start.head + records] is not MARK:
                    records += 1
                marked = start.head + records < len(start.items)
                return (value[0], min(value[1], records if marked else max(records - 1, 0)))
        return value


def tree(size_bytes: int = 70_000) -> list[FileEntry]:
    """A small tree that needs no mirror."""
    return [
        folder("/srv"),
        inline("/srv/a", random.Random(1).randbytes(size_bytes)),
        folder("/srv/b"),
        inline("/srv/b/empty", b""),
        inline("/srv/b/one", b"1", inode=7, nlink=2),
        inline("/srv/b/two", b"1", inode=7, nlink=2),
        inline("/srv/c", random.Random(2).randbytes(9000)),
    ]


def files_of(entries: list[FileEntry]) -> dict[str, bytes]:
    """What a restore of the tree gives."""
    return {os.fsdecode(entry.path)[1:]: entry.content or b"" for entry in entries if entry.kind == "f"}


def contents(target: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


class RealLibrary(Library):
    """Sessions on a volume of the library, through its first drive."""

    volume = "LAB001"

    def drive(self, *, writable: bool = True, **_dummy: Any) -> TapeDrive:
        return opened(writable=writable)


def labelled(where: Path, volume: str = "LAB001", record_bytes: int = 4096) -> RealLibrary:
    """A catalog, and a volume with a new label and nothing behind it."""
    blank(volume)
    library = RealLibrary(where)
    library.volume = volume
    assert library.label(volume, record_bytes=record_bytes)
    return library


def refused(call: Callable[[], object], words: str) -> None:
    """The call fails with an error that says ``words``."""
    said = "nothing"
    try:
        call()
    except SplitMirrorError as exc:
        said = exc.message
    assert words in said, said


def sessions_go_there_and_back(where: Path) -> None:
    library = labelled(where)
    assert not library.label(record_bytes=4096)
    first, second = tree(), tree(500_000)
    assert library.back_up("s1", first)["file_number"] == 1
    done = library.back_up("s2", second)
    assert (done["file_number"], done["archive"]) == (2, None)
    for session, entries in (("s1", first), ("s2", second)):
        library.restore(session, where / session)
        assert contents(where / session) == files_of(entries)
        with library.drive(writable=False) as drive:
            found = verify_session(find_good_session(library.catalog, session, None), library.catalog, Held(drive))
        assert found["files"] == 4
    one = library.restore("s2", where / "one", "/srv/c")
    assert contents(where / "one") == {"srv/c": files_of(second)["srv/c"]}
    assert one["records_read"] <= 3 + 2
    # What a killed writer leaves behind is overwritten by the next.
    library.write("dead", [bytes(4096)] * 3, dies=True)
    assert library.back_up("s3", first)["file_number"] == 3
    before = [library.catalog.volumes(), [found.id for found in library.catalog.sessions(state="good")]]
    library.catalog.close()
    for path in where.glob("catalog.sqlite*"):
        path.unlink()
    library.catalog = Catalog.open(str(where / "catalog.sqlite"), writable=True)
    refused(lambda: library.back_up("s4", first), "is not in the catalog")
    with library.drive(writable=False) as drive:
        entered = rebuild("LAB001", library.catalog, drive)
    assert [one["session"] for one in entered["entered"]] == ["s1", "s2", "s3"], entered
    assert [library.catalog.volumes(), [found.id for found in library.catalog.sessions(state="good")]] == before
    assert library.back_up("s4", first)["file_number"] == 4


def plain_programs_read_the_volume(where: Path) -> None:
    """mt and GNU tar, as docs/tape.md says."""
    library = labelled(where, record_bytes=1 << 18)
    library.back_up("s1", tree())
    library.back_up("s2", tree(3_000_000))
    drive = DRIVES[0]
    run("mt", "-f", drive, "rewind")
    told = run("tar", "-x", "-O", "-f", drive)
    assert json.loads(told)["record_bytes"] == 1 << 18
    run("mt", "-f", drive, "rewind")
    run("mt", "-f", drive, "fsf", "2")
    (where / "t").mkdir()
    run("tar", "-x", "-b", "512", "-f", drive, "-C", str(where / "t"), "srv")
    assert contents(where / "t") == files_of(tree(3_000_000))
    # One file by its record.
    session = library.catalog.session("s2")
    assert session is not None
    member = next(m for _part, m in library.catalog.members(session.number) if m.path == b"srv/c")
    record, offset = divmod(member.offset_bytes, 1 << 18)
    run("mt", "-f", drive, "rewind")
    run("mt", "-f", drive, "fsf", "2")
    run("mt", "-f", drive, "fsr", str(record))
    (where / "c").mkdir()
    script = 'dd if="$1" bs=256k status=none | tail -c +"$2" | tar -x --occurrence=1 -C "$3" srv/c'
    run("bash", "-c", script, "bash", drive, str(offset + 1), str(where / "c"))
    assert contents(where / "c") == {"srv/c": files_of(tree())["srv/c"]}


def short_records_at_the_end_of_a_tape_file_are_read(where: Path) -> None:
    """Those of an encrypted part, by us and by dd. This drive damages one that is read into a buffer a bit longer."""
    labelled(where)
    for number, rest in enumerate((4080, 2064, 2048, 16), 1):
        content = random.Random(rest).randbytes(3 * 4096 + rest)
        lengths = [4096] * 3 + tail_of(len(content), 4096)
        ends = list(itertools.accumulate(lengths))
        with opened() as drive:
            drive.load("LAB001")
            drive.space_end_of_data()
            for begin, end in zip([0, *ends], ends):
                drive.write_record(content[begin:end])
            drive.write_filemarks(1)
            stream = TapeStream(drive, number, None, 4096, short_end=True)
            for offset in (0, len(content) - 1, 3 * 4096, 3 * 4096 + rest // 2 + 1, 5):
                stream.seek(offset)
                piece = stream.read(9000)
                assert piece == content[offset : offset + len(piece)] != b""
            assert (stream.skip_to_filemark(), stream.archive_bytes()) == (len(lengths), len(content))
        run("mt", "-f", DRIVES[0], "rewind")
        run("mt", "-f", DRIVES[0], "fsf", str(number))
        run("dd", f"if={DRIVES[0]}", f"of={where / 'read'}", "bs=4096", "status=none")
        assert (where / "read").read_bytes() == content


def an_encrypted_session_is_read_by_us_and_by_age(where: Path) -> None:
    """As docs/tape.md says."""
    secret = make_secret()
    identity = Identity(secret, Recipient(public_of(secret)))
    key, keyring = where / "backup.key", Keyring([identity])
    key.write_text(bech32.encode("age-secret-key-", secret).upper(), encoding="ascii")
    library = labelled(where, record_bytes=1 << 18)
    library.back_up("s1", tree())
    library.back_up("s2", tree(3_000_000), recipients=[identity.recipient])
    library.restore("s2", where / "all", keyring=keyring)
    assert contents(where / "all") == files_of(tree(3_000_000))
    one = library.restore("s2", where / "one", "/srv/c", keyring=keyring)
    assert one["records_read"] <= 2 + 2
    with library.drive(writable=False) as drive:
        session = find_good_session(library.catalog, "s2", None)
        for keys, proved in ((keyring, "content"), (NO_KEYS, "records")):
            assert verify_session(session, library.catalog, Held(drive), keyring=keys)["proved"] == proved
    run("mt", "-f", DRIVES[0], "rewind")
    run("mt", "-f", DRIVES[0], "fsf", "2")
    (where / "hand").mkdir()
    script = 'dd if="$1" bs=256k status=none | age --decrypt -i "$2" | tar -x -C "$3" srv'
    # tar ends before the zeros at the end, and age with it.
    run("bash", "-c", script, "bash", DRIVES[0], str(key), str(where / "hand"))
    assert contents(where / "hand") == files_of(tree(3_000_000))


def the_end_of_the_medium_fails_the_session_and_loses_nothing(where: Path) -> None:
    library = labelled(where, "LAB002", record_bytes=1 << 18)
    library.back_up("s1", tree())
    # More than the volume holds: the drive does not tell how much that is.
    large = [inline(f"/x{number}", random.Random(number).randbytes(8 << 20)) for number in range(9)]
    refused(lambda: library.back_up("s2", large), "is full after")
    library.restore("s1", where / "t")
    assert contents(where / "t") == files_of(tree())
    assert library.back_up("s3", tree())["file_number"] == 2
    with library.drive(writable=False) as drive:
        again = rebuild("LAB002", library.catalog, drive)
    assert ([one["session"] for one in again["known"]], again["damaged"]) == (["s1", "s3"], [])


def a_write_that_fails_is_cut_off(where: Path) -> None:
    library = labelled(where)
    library.back_up("s1", tree())
    job = library.job("s2", tree(200_000))

    class Failing(StTape):
        left = 20

        def write_record(self, record: Buffer) -> None:
            self.left -= 1
            if not self.left:
                raise TapeError("drive: broken.", option="drive")
            super().write_record(record)

    with Failing(DRIVES[0], writable=True, bay=bay(0)) as drive:
        refused(lambda: write_session(job, library.on(drive)), "broken")
    with opened() as drive:
        drive.load("LAB001")
        drive.space_end_of_data()
        drive.rewind()
        drive.space_files(2)
        refused(drive.pass_record, "nothing more")
    library.restore("s1", where / "t")
    assert contents(where / "t") == files_of(tree())
    assert library.back_up("s2", tree())["file_number"] == 2


def a_key_is_refused_by_a_drive_that_does_not_encrypt(where: Path) -> None:
    library, key = labelled(where), DriveKey(bytes(range(32)))
    with opened() as drive:
        drive.load(library.volume)
        assert drive.next_key() is None
        # INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB
        refused(lambda: drive.set_key(key), "does not encrypt (the command was refused with status 2 and sense 05/2")
    with opened() as drive:
        drive.key = key
        refused(lambda: write_session(library.job("s1", tree()), library.on(drive)), "does not encrypt")
    assert library.catalog.session("s1") is None
    library.back_up("s2", tree())


def nothing_that_is_needed_is_overwritten(where: Path) -> None:
    library = labelled(where)
    library.back_up("s1", tree(), retention_days=30)
    refused(lambda: library.back_up("s2", tree(), mode="overwrite"), "unexpired")
    refused(lambda: library.label(record_bytes=8192), "unexpired")
    with opened() as drive:
        drive.load("LAB001")
        drive.space_files(2)
        drive.write_record(b"foreign" * 100)
        drive.write_filemarks(1)
    refused(lambda: library.back_up("s2", tree()), "does not end after")
    library.catalog.expire_session("s1", allow_last=True)
    refused(lambda: library.back_up("s2", tree(), mode="overwrite"), "last good session")
    refused(lambda: library.back_up("s2", tree(), mode="overwrite", allow_last=True), "does not end after")
    refused(lambda: library.label(record_bytes=8192, allow_last=True), "does not end after")
    with opened() as drive:
        (damage,) = rebuild("LAB001", library.catalog, drive)["damaged"]
    refused(lambda: library.back_up("s2", tree(), mode="overwrite"), "unexpired")
    library.catalog.expire_session(damage["session"])
    assert library.back_up("s2", tree(), mode="overwrite", allow_last=True)["file_number"] == 1
    library.restore("s2", where / "t")
    assert contents(where / "t") == files_of(tree())
    with opened() as drive:
        drive.load("LAB001")
        drive.write_record(b"foreign" * 100)
    refused(lambda: library.back_up("s3", tree()), "foreign")
    refused(lambda: library.label(record_bytes=4096), "foreign")


def home() -> list[tuple[int, str]]:
    """Which volume is in which slot, when all drives are empty."""
    library = MtxLibrary(CHANGER)
    for number in range(2):
        with opened(number) as drive:
            drive.unload()
    assert not any(state.full for state in library.look().bays)
    return [(slot.number, slot.barcode) for slot in library.look().slots if slot.barcode]


def the_library_brings_the_volume_and_takes_the_other_home(where: Path) -> None:
    before = home()
    labelled(where, "LAB001")
    library = labelled(where, "LAB003")
    library.back_up("s1", tree())
    # The library says LAB002, the label says another: a tape in the wrong sleeve.
    with opened() as drive:
        drive.load("LAB002")
        write_label(drive, new_label("LAB003", "p", 4096))
    library.volume = "LAB002"
    refused(lambda: library.back_up("s2", tree()), "holds LAB003, not LAB002")
    refused(lambda: library.label("LAB002"), "holds LAB003, not LAB002")
    library.restore("s1", where / "t")
    state = MtxLibrary(CHANGER).look().bay(0)
    assert state is not None
    assert state.barcode == "LAB003"
    with opened(1) as drive:
        refused(lambda: drive.load("LAB003"), "is in drive 0")
        refused(lambda: drive.load("LAB999"), "not in the library")
    # Drive 1 tells its serial number to the library; the number that contradicts it is refused.
    assert find_bay(MtxLibrary(CHANGER), DRIVES[0], None).number == 0
    refused(lambda: find_bay(MtxLibrary(CHANGER), DRIVES[0], 1), "as drive 0, not 1")
    assert home() == before


def pool(where: Path, timeout_s: int = 120) -> DriveOptions:
    """Both drives of the library."""
    drives = [{"device": device, "element": number} for number, device in enumerate(DRIVES)]
    params = {"drive_type": "st", "drives": drives, "changer": CHANGER, "drive_timeout_s": timeout_s}
    return DriveOptions.of({**params, "state_dir": str(where)})


def a_fleet_shares_two_drives(where: Path) -> None:
    """Five sessions at once on three volumes, two drives and one catalog."""
    home()
    volumes = ["LAB001", "LAB002", "LAB003", "LAB001", "LAB002"]
    for volume in set(volumes):
        labelled(where, volume).catalog.close()
    children = []
    for number, volume in enumerate(volumes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                library = RealLibrary(where)
                library.volume = volume
                # As the prepare phase does: nobody keeps a drive between two tasks.
                with use_drive(pool(where), volume, who=f"prepare of s{number}") as lease:
                    place_for(lease.drive, library.catalog, volume, "append")
                job = library.job(f"s{number}", tree(50_000 + number))
                with use_drive(pool(where), volume, who=f"s{number}", writable=True) as lease:
                    done = write_session(job, library.on(lease.drive))
                judge(library, f"s{number}", done)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
    library = RealLibrary(where)
    for number, volume in enumerate(volumes):
        target = where / f"t{number}"
        with use_drive(pool(where), volume, who="restore") as lease:
            restore(RestoreJob(f"s{number}", str(target)), library.catalog, lease)
        assert contents(target) == files_of(tree(50_000 + number))
    assert sorted((found.name, found.files) for found in library.catalog.volumes()) == [
        ("LAB001", 3),
        ("LAB002", 3),
        ("LAB003", 2),
    ]
    assert [path.name for path in (where / "drives").iterdir() if path.name[:-5].isdigit()] == []


def a_volume_is_found_in_whichever_drive_it_is(where: Path) -> None:
    home()
    with opened(1) as drive:
        drive.load("LAB001")
    # Nobody told the queue; the drive is free, so it is taken instead.
    with use_drive(pool(where), "LAB001", who="test") as lease:
        assert lease.drive.device == DRIVES[1]
        # A killed holder frees both.
        child = os.fork()
        if child == 0:
            with use_drive(pool(where), "LAB002", who="to be killed"):
                os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        with use_drive(pool(where, 5), "LAB002", who="test") as other:
            assert other.drive.device == DRIVES[0]
        refused(lambda: take(where, "LAB001"), "volume LAB001 is used by test")
    with StTape(DRIVES[0]), StTape(DRIVES[1]):
        refused(lambda: take(where, "LAB001"), "is used by a process outside the queue")


def take(where: Path, volume: str) -> None:
    """Want a drive at once."""
    with use_drive(pool(where, 0), volume, who="impatient"):
        pass


def a_pool_chooses_and_people_are_waited_for(where: Path) -> None:
    """A session by the library, then one in its first drive alone, into which people put the volumes."""
    home()
    for volume in ("LAB001", "LAB002"):
        labelled(where, volume).catalog.close()
    blank("LAB003")
    library, wanted = RealLibrary(where), Wanted(None, "p")
    with queue_for_drive(pool(where), "", who="one", writable=True) as one:
        with queue_for_drive(pool(where), "", who="two") as two:
            source = wanted.choice(two, timeout_s=0)(library.catalog)
            assert source.first()[1].label.volume == "LAB001"
            done = write_session(library.job("s1", tree()), wanted.choice(one, timeout_s=0))
        judge(library, "s1", done)
        assert done["volumes"] == ["LAB002"], "the other task has the first one"
    home()
    with opened() as drive:
        drive.load("LAB003")
    told: list[str] = []

    def people(reason: Optional[str]) -> None:
        if reason is not None:
            told.append(reason)
            slots = {slot.barcode: slot.number for slot in MtxLibrary(CHANGER).look().slots if not slot.mail}
            MtxLibrary(CHANGER).unload(next(number for barcode, number in slots.items() if barcode is None), 0)
            MtxLibrary(CHANGER).load(slots["LAB002"], 0)

    params = {"drive_type": "st", "drive": DRIVES[0], "drive_timeout_s": 60, "state_dir": str(where)}
    with queue_for_drive(DriveOptions.of(params), "", who="by hand", writable=True) as lease:
        done = write_session(library.job("s2", tree()), wanted.choice(lease, timeout_s=60, tell=people))
    judge(library, "s2", done)
    assert (done["volumes"], done["file_number"]) == (["LAB002"], 2)
    assert ["insert volume LAB002 or LAB001 into the drive instead of a blank one" in one for one in told] == [True]
    library.restore("s2", where / "t")
    assert contents(where / "t") == files_of(tree())


def a_session_is_copied_from_disk_to_tape_and_restored_from_there(where: Path) -> None:
    """In two parts, of which one goes over a volume of tape that is full."""
    home()
    for volume in ("LAB001", "LAB002"):
        labelled(where, volume, record_bytes=1 << 18).catalog.close()
    library, shelf = RealLibrary(where), where / "disk"
    shelf.mkdir()
    params = {"drive_type": "virtual", "drive": str(shelf), "drive_timeout_s": 60, "state_dir": str(where)}
    libraries = Libraries(DriveOptions.of(params), {"p": pool(where)})
    with use_drive(libraries.main, "DISK1", who="label", writable=True) as lease:
        lease.drive.make_volume("DISK1", 1 << 30)
        lease.drive.load("DISK1")
        label_volume(lease.drive, library.catalog, "DISK1", "disk", 1 << 18)
    entries = [*tree(), *(inline(f"/x{number}", random.Random(number).randbytes(8 << 20)) for number in range(11))]
    with queue_for_drive(libraries.main, "", who="write", writable=True) as lease:
        choice = Wanted(None, "disk", part_bytes=52 << 20).choice(lease, timeout_s=0)
        judge(library, "s1", write_session(library.job("s1", entries), choice))
    job = CopyJob(Wanted(None, "p"), str(where))
    tape = libraries.of_pool("p")
    with (
        LibraryDrives(
            libraries, library.catalog, lambda options, name: queue_for_drive(options, name, who="r")
        ) as disk,
        queue_for_drive(tape, "", who="copy", writable=True) as lease,
    ):
        planned = plan(job, library.catalog)
        assert [len(one.parts) for one in planned] == [2]
        copier = Copier(job, library.catalog, disk, lease, lambda _place: True, job.target.choice(lease, timeout_s=0))
        status = StatusWriter(None, "copy", "bytes")
        (copied,) = copy_sessions(copier, planned, lambda _one: contextlib.nullcontext(status))["copied"]
    assert copied["volumes"] == ["LAB001", "LAB002"]
    assert plan(job, library.catalog) == []
    (shelf / "DISK1").rename(where / "lost")
    with LibraryDrives(
        libraries, library.catalog, lambda options, name: queue_for_drive(options, name, who="t")
    ) as all_:
        restore(RestoreJob("s1", str(where / "t")), library.catalog, all_)
    assert contents(where / "t") == files_of(entries)


# -- one story in three acts, with a power cut between the first two (test_media.py) --

STORY = Path("/srv/scratch/story")
POOL = ("LAB001", "LAB002", "LAB003", "LAB004", "LAB005")


def large() -> list[FileEntry]:
    """More than two volumes hold, and less than three. The first file is larger than a volume, so it crosses."""
    return [
        inline("/large", random.Random(1).randbytes(80 << 20)),
        *(inline(f"/x{number}", random.Random(number).randbytes(8 << 20)) for number in range(9)),
    ]


def story_key() -> Identity:
    """The key of the story; every act has the same."""
    secret = hashlib.sha256(b"story").digest()
    return Identity(secret, Recipient(public_of(secret)))


def a_session_is_cut_in_its_second_volume(_where: Path) -> None:
    """Write over a pool, say when the second volume is written to, and go no further. Nobody knows how large it is."""
    STORY.mkdir()
    home()
    for volume in POOL:
        labelled(STORY, volume, record_bytes=1 << 18).catalog.close()
    library = RealLibrary(STORY)
    library.back_up("first", tree())
    write_record, write_filemarks = StTape.write_record, StTape.write_filemarks
    left: list[int] = []

    def marking(drive: StTape, count: int) -> None:
        write_filemarks(drive, count)
        left.extend(range(20))

    def stopping(drive: StTape, record: Buffer) -> None:
        write_record(drive, record)
        if left and not left.pop():
            print("in the second volume", flush=True)
            signal.pause()

    job = library.job("cut", large(), recipients=[story_key().recipient])
    with (
        patch.object(StTape, "write_record", stopping),
        patch.object(StTape, "write_filemarks", marking),
        queue_for_drive(pool(STORY), "", who="cut", writable=True) as lease,
    ):
        write_session(job, Wanted(None, "p").choice(lease, timeout_s=0))


def the_next_run_is_written_and_verified(_where: Path) -> None:
    """After the cut: what was good is good, what was cut is closed as failed, and the next session goes to the pool."""
    library, key = RealLibrary(STORY), story_key()
    assert fail_dead_sessions(library.catalog, "db1", "next") == ["cut"]
    with queue_for_drive(pool(STORY), "", who="next", writable=True) as lease:
        job = library.job("next", large(), recipients=[key.recipient])
        done = write_session(job, Wanted(None, "p").choice(lease, timeout_s=0))
    judge(library, "next", done)
    assert len(done["volumes"]) == 3, done["volumes"]
    for session in ("first", "next"):
        known = find_good_session(library.catalog, session, None)
        with queue_for_drive(pool(STORY), library.catalog.parts(known.number)[0].volume, who="verify") as lease:
            assert verify_session(known, library.catalog, lease, keyring=Keyring([key]))["proved"] == "content"


def all_is_restored_after_the_catalog_was_lost(where: Path) -> None:
    """Rebuild from all volumes, restore one file of the third, and the whole by hand."""
    keyring = Keyring([story_key()])
    for lost in STORY.glob("catalog.sqlite*"):
        lost.unlink()
    library = RealLibrary(STORY)
    for volume in reversed(POOL):
        with use_drive(pool(STORY), volume, who="rebuild") as lease:
            rebuild(volume, library.catalog, lease.drive, keyring=keyring)
    good = {session.id: session for session in library.catalog.sessions(state="good")}
    assert list(good) == ["first", "next"]
    parts = library.catalog.parts(good["next"].number)
    third = [member.path for part, member in library.catalog.members(good["next"].number) if part == 2]
    path = next(os.fsdecode(name) for name in third if name.startswith(b"x"))
    with queue_for_drive(pool(STORY), parts[2].volume, who="restore") as lease:
        job = RestoreJob("next", str(where / "one"), paths=[f"/{path}"], keyring=keyring)
        assert restore(job, library.catalog, lease)["volumes"] == [parts[2].volume]
    assert contents(where / "one") == {path: files_of(large())[path]}
    # By hand: each tape file is decrypted to a file, and tar joins them.
    key = where / "backup.key"
    key.write_text(bech32.encode("age-secret-key-", story_key().secret).upper(), encoding="ascii")
    words = []
    for part in parts:
        with use_drive(pool(STORY), part.volume, who="by hand") as lease:
            device = lease.drive.device
        run("mt", "-f", device, "rewind")
        run("mt", "-f", device, "fsf", str(part.file_number))
        script = 'dd if="$1" bs=256k status=none | age --decrypt -i "$2" > "$3"'
        run("bash", "-o", "pipefail", "-ec", script, "bash", device, str(key), f"{where}/{part.part}.tar")
        words += ["-f", f"{where}/{part.part}.tar"]
    (where / "hand").mkdir()
    run("tar", "-x", "-M", "-b", "512", *words, "-C", str(where / "hand"))
    assert contents(where / "hand").items() >= files_of(large()).items()


def a_record_size_that_the_adapter_refuses_labels_nothing(where: Path) -> None:
    home()
    blank("LAB001")
    library = RealLibrary(where)
    refused(lambda: library.label(record_bytes=8 << 20), "record_bytes: ")
    assert library.label(record_bytes=1 << 20)


CASES = [
    sessions_go_there_and_back,
    plain_programs_read_the_volume,
    short_records_at_the_end_of_a_tape_file_are_read,
    an_encrypted_session_is_read_by_us_and_by_age,
    the_end_of_the_medium_fails_the_session_and_loses_nothing,
    a_write_that_fails_is_cut_off,
    a_key_is_refused_by_a_drive_that_does_not_encrypt,
    nothing_that_is_needed_is_overwritten,
    the_library_brings_the_volume_and_takes_the_other_home,
    a_fleet_shares_two_drives,
    a_volume_is_found_in_whichever_drive_it_is,
    a_pool_chooses_and_people_are_waited_for,
    a_session_is_copied_from_disk_to_tape_and_restored_from_there,
    a_record_size_that_the_adapter_refuses_labels_nothing,
]
#: In this order; the power is cut while the first one waits.
ACTS = [
    a_session_is_cut_in_its_second_volume,
    the_next_run_is_written_and_verified,
    all_is_restored_after_the_catalog_was_lost,
]
#: The contract of all drives.
CONTRACT = [name for name in dir(StContract) if name.startswith("test_")]


if __name__ == "__main__":
    os.umask(0o077)
    if sys.argv[1] in CONTRACT:
        getattr(StContract(), sys.argv[1])()
    else:
        with tempfile.TemporaryDirectory(dir="/srv/scratch") as the_folder:
            {case.__name__: case for case in [*CASES, *ACTS]}[sys.argv[1]](Path(the_folder))
    print(json.dumps("passed"))
