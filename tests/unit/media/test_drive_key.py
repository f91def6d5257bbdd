# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions that the drive encrypts: written, killed, read with the key and without, rebuilt, over several volumes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session, session_facts
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volume_source import VolumeChoice, first_place
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import OVERWRITE
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import dry_run, write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Buffer, TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DriveKey, clearing_on_signals
from ansible_collections.splitmirror.backup.tests.support.keydrive import KeyLibrary, KeyTape, Target
from ansible_collections.splitmirror.backup.tests.support.tape import (
    Held,
    InTurn,
    folder,
    inline,
    judge,
    run_module_apart,
)

RECORD = 16 << 10
_random = random.Random(13)
FILES = {f"srv/f{number}": _random.randbytes(3000 * (number + 1)) for number in range(6)}
TREE = [folder("/srv"), *(inline(f"/{name}", content) for name, content in FILES.items())]
KEY, OTHER = DriveKey(bytes(range(32))), DriveKey(bytes(32))
KEYS, OTHERS = Keyring(drive_keys=[KEY]), Keyring(drive_keys=[OTHER], drive_option="drive_key")


@pytest.fixture
def library(tmp_path: Path) -> KeyLibrary:
    """A volume in a drive that encrypts, with a session in the clear and, behind it, one that is encrypted."""
    made = KeyLibrary(tmp_path)
    made.make()
    made.label(record_bytes=RECORD)
    made.back_up("s0", TREE[:3])
    made.key = KEY
    made.back_up("s1", TREE)
    return made


def parts_of(library: KeyLibrary, session: str = "s1") -> list[Part]:
    known = library.catalog.session(session)
    assert known is not None
    return library.catalog.parts(known.number)


def read(library: KeyLibrary, target: Path, keyring: Keyring, session: str = "s1") -> dict[str, bytes]:
    with library.drive(writable=False) as drive:
        restore(RestoreJob(session, str(target), keyring=keyring), library.catalog, Held(drive))
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def verify(library: KeyLibrary, keyring: Keyring, session: str = "s1") -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        known = find_good_session(library.catalog, session, None)
        return verify_session(known, library.catalog, Held(drive), keyring=keyring)


def enter(library: KeyLibrary, keyring: Keyring, volume: str = "V1") -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return rebuild(volume, library.catalog, drive, keyring=keyring)


def lose_catalog(library: KeyLibrary) -> None:
    library.catalog.close()
    Path(library.catalog.path).unlink()
    library.catalog = Catalog.open(library.catalog.path, writable=True)


def refused(call: Callable[[], object]) -> SplitMirrorError:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    assert caught.value.message.endswith(".")
    assert KEY.secret.hex() not in caught.value.message
    return caught.value


def test_what_the_drive_encrypted_comes_back_with_its_key(library: KeyLibrary, tmp_path: Path) -> None:
    (part,) = parts_of(library)
    assert part.drive_key == KEY.fingerprint
    known = find_good_session(library.catalog, "s1", None)
    assert session_facts(library.catalog, known)["parts"][0]["drive_key"] == KEY.fingerprint
    assert (
        session_facts(library.catalog, find_good_session(library.catalog, "s0", None))["parts"][0]["drive_key"] is None
    )
    # The label and the session before it are in the clear, and all of this one is not.
    assert library.encrypted("V1") == [(2, record) for record in range(part.records)]
    assert read(library, tmp_path / "t", KEYS) == FILES
    assert read(library, tmp_path / "t2", Keyring(drive_keys=[OTHER, KEY])) == FILES
    assert verify(library, KEYS)["proved"] == "content"
    assert library.target.state["key"] == ""


def test_a_session_in_the_clear_needs_no_key_and_is_read_with_one(library: KeyLibrary, tmp_path: Path) -> None:
    few = {name: content for name, content in FILES.items() if name in ("srv/f0", "srv/f1")}
    assert read(library, tmp_path / "t", NO_KEYS, "s0") == few
    assert read(library, tmp_path / "t2", KEYS, "s0") == few


def test_no_key_or_another_one_is_refused_by_name_before_anything_is_read(library: KeyLibrary, tmp_path: Path) -> None:
    for keyring, option in ((NO_KEYS, "drive_key_file"), (OTHERS, "drive_key")):
        for call in (partial(read, library, tmp_path / "t", keyring), partial(verify, library, keyring)):
            said = refused(call)
            assert (said.option, said.code) == (option, "key_missing")
            assert KEY.fingerprint in said.message
            assert (OTHER.fingerprint in said.message) == (keyring is OTHERS)
    assert not (tmp_path / "t").exists()


class DyingTape(KeyTape):
    """The process is killed when this record is to be written."""

    dies_at = 2

    def write_record(self, record: Buffer) -> None:
        self.dies_at -= 1
        if self.dies_at < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write_record(record)


def killed(library: KeyLibrary, session: str = "s2") -> None:
    """A process that writes a session with the key dies, and leaves the key in the drive."""
    job = library.job(session, TREE)
    child = os.fork()
    if not child:
        try:
            with DyingTape(str(library.folder), library.target, writable=True) as drive:
                drive.key = KEY
                write_session(job, library.on(drive))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert library.target.state["key"] == KEY.secret.hex()


def test_after_a_kill_the_next_use_finds_no_key_in_the_drive(library: KeyLibrary, tmp_path: Path) -> None:
    killed(library)
    library.key = None
    assert library.back_up("s3", TREE)["file_number"] == 3
    assert library.target.state["key"] == ""
    assert {file for file, _record in library.encrypted("V1")} == {2}
    assert read(library, tmp_path / "t", NO_KEYS, "s3") == FILES
    assert read(library, tmp_path / "t2", KEYS) == FILES


@pytest.mark.parametrize("what", ["label", "restore", "rebuild"])
def test_so_does_any_other_use(library: KeyLibrary, tmp_path: Path, what: str) -> None:
    killed(library)
    library.key = None
    if what == "label":
        library.make("V2")
        library.label("V2", record_bytes=RECORD)
        assert library.encrypted("V2") == []
    elif what == "restore":
        read(library, tmp_path / "t", NO_KEYS, "s0")
    else:
        enter(library, NO_KEYS)
    assert library.target.state["key"] == ""


def test_a_failure_leaves_no_key_either(library: KeyLibrary) -> None:
    class Failing(KeyTape):
        left = 2

        def write_record(self, record: Buffer) -> None:
            self.left -= 1
            if self.left < 0:
                assert self.target.state["key"] == KEY.secret.hex()
                raise TapeError("drive: cannot write a record.", option="drive")
            super().write_record(record)

    job = library.job("s2", TREE)
    with Failing(str(library.folder), library.target, writable=True) as drive:
        drive.key = KEY
        assert "cannot write" in refused(lambda: write_session(job, library.on(drive))).message
    assert library.target.state["key"] == ""


def test_a_task_that_is_told_to_end_leaves_no_key_and_no_part(library: KeyLibrary) -> None:
    arrived, go_on = os.pipe(), os.pipe()

    class Waiting(KeyTape):
        left = 2

        def write_record(self, record: Buffer) -> None:
            self.left -= 1
            super().write_record(record)
            if not self.left:
                os.write(arrived[1], b"x")
                os.read(go_on[0], 1)

    job = library.job("s2", TREE)
    child = os.fork()
    if not child:
        code = 1
        try:
            with clearing_on_signals(True), Waiting(str(library.folder), library.target, writable=True) as drive:
                drive.key = KEY
                write_session(job, library.on(drive))
        except SystemExit as exc:
            code = int(str(exc.code))
        finally:
            os._exit(code)
    assert os.read(arrived[0], 1) == b"x"
    assert library.target.state["key"] == KEY.secret.hex()
    os.kill(child, signal.SIGTERM)
    os.write(go_on[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    for end in (*arrived, *go_on):
        os.close(end)
    assert library.target.state["key"] == ""
    assert not parts_of(library, "s2")


def test_a_key_that_was_lost_while_it_was_written_is_no_backup(library: KeyLibrary) -> None:
    class Losing(KeyTape):
        left = 2

        def write_record(self, record: Buffer) -> None:
            self.left -= 1
            if not self.left:
                # As by a power cut of the drive.
                self.target.set(encrypt=0, decrypt=0, key="", kad="")
            super().write_record(record)

    job = library.job("s2", TREE)
    with Losing(str(library.folder), library.target, writable=True) as drive:
        drive.key = KEY
        said = refused(lambda: write_session(job, library.on(drive)))
    assert "in the clear" in said.message
    found = library.catalog.session("s2")
    assert found is not None
    assert not parts_of(library, "s2")
    library.key = None
    assert library.back_up("s3", TREE[:2])["file_number"] == 3


def test_a_drive_that_cannot_is_refused_before_anything_is_written(library: KeyLibrary) -> None:
    changes: list[dict[str, Any]] = [{"encrypts": False}, {"prevented": True}, {"for_volume": False}, {"code": 1}]
    for changed in changes:
        library.target = Target(library.target.path, **changed)
        for call in (write_session, dry_run):
            with library.drive() as drive:
                said = refused(partial(call, library.job("s2", TREE), library.on(drive)))
            assert said.code == "option_invalid"
    assert library.catalog.session("s2") is None


def test_a_key_of_another_program_is_noticed_before_anything_is_split(library: KeyLibrary) -> None:
    library.target.set(scope=2, encrypt=2, decrypt=3, key=bytes(32).hex())
    library.key = None
    with library.drive(writable=False) as drive:
        volumes = library.on(drive)(library.catalog)
        assert "another program" in refused(partial(first_place, volumes)).message
    library.key = KEY
    with library.drive(writable=False) as drive:
        first_place(library.on(drive)(library.catalog))
    library.back_up("s2", TREE)
    assert verify(library, KEYS, "s2")["proved"] == "content"


def test_a_label_is_in_the_clear_also_when_an_encrypted_session_begins_with_it(
    library: KeyLibrary, tmp_path: Path
) -> None:
    for session in ("s0", "s1"):
        library.catalog.expire_session(session, allow_last=True)
    library.back_up("s2", TREE, mode=OVERWRITE, allow_last=True)
    (part,) = parts_of(library, "s2")
    assert library.encrypted("V1") == [(1, record) for record in range(part.records)]
    assert read(library, tmp_path / "t", KEYS, "s2") == FILES


def test_a_lost_catalog_is_rebuilt_with_the_key_and_names_it_without(library: KeyLibrary, tmp_path: Path) -> None:
    before = parts_of(library)
    for keyring in (NO_KEYS, OTHERS):
        lose_catalog(library)
        told = enter(library, keyring)
        assert KEY.fingerprint in told["damaged"][0]["reason"]
    assert [one["session"] for one in enter(library, KEYS)["entered"]] == ["s1"]
    assert [part._replace(session=0) for part in parts_of(library)] == [part._replace(session=0) for part in before]
    assert read(library, tmp_path / "t", KEYS) == FILES
    # With the catalog there, the key is not needed to see what is on the volume.
    told = enter(library, NO_KEYS)
    assert (told["damaged"], [one["session"] for one in told["known"]]) == ([], ["s0", "s1"])
    assert not told["changed"]


def test_a_drive_that_keeps_no_name_of_the_key_is_tried_with_the_one_that_is_given(
    library: KeyLibrary, tmp_path: Path
) -> None:
    library.target.most_associated = 8
    library.back_up("s2", TREE)
    lose_catalog(library)
    assert "not known" in enter(library, NO_KEYS)["damaged"][1]["reason"]
    assert "s2" in [one["session"] for one in enter(library, KEYS)["entered"]]
    assert read(library, tmp_path / "t", KEYS, "s2") == FILES


def in_turn(drives: Held, names: Sequence[str]) -> VolumeChoice:
    return lambda catalog: InTurn(catalog, drives, names, OVERWRITE)


def test_a_session_goes_over_several_volumes_with_the_key(library: KeyLibrary, tmp_path: Path) -> None:
    names = [f"W{number}" for number in range(1, 5)]
    library.key = None
    for name in names:
        library.make(name, 1 << 20)
        library.label(name, record_bytes=RECORD)
    tree = [folder("/srv"), *(inline(f"/srv/x{number}", _random.randbytes(350_000)) for number in range(5))]
    for session in ("s2", "s3"):
        library.key = KEY
        with library.drive() as drive:
            done = write_session(library.job(session, tree), in_turn(Held(drive), names))
        judge(library, session, done)
        parts = parts_of(library, session)
        assert len(parts) > 1
        for part in parts:
            assert part.drive_key == KEY.fingerprint
            assert library.encrypted(part.volume) == [(part.file_number, n) for n in range(part.records)]
        read(library, tmp_path / session, KEYS, session)
        library.catalog.expire_session(session, allow_last=True)


def test_a_virtual_drive_is_refused_by_name(tmp_path: Path) -> None:
    common = {"state_dir": str(tmp_path), "drive_type": "virtual", "drive": str(tmp_path), "session": "s1"}
    keys: list[tuple[dict[str, Any], Optional[str]]] = [
        ({"drive_key": KEY.secret.hex()}, "drive_key_file"),
        ({"drive_key": KEY.secret.hex(), "recipients": ["age1x"]}, "drive_key"),
    ]
    for options, option in keys:
        told = run_module_apart("tape_write", {**common, "volume": "V1", "devices": {}, **options})
        assert told["failed"]
        assert (told["option"], told["code"]) == (option, "option_invalid")
        assert KEY.secret.hex() not in str(told)
