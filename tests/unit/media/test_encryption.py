# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted sessions: written, read by our modules and by age and tar, verified with and without the key, rebuilt."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session, session_facts
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.age import (
    CHUNK_BYTES,
    GRAIN_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_identities, parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.sealing import tail_of
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, dry_run, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.tape_file import TapeStream
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import Position, TapeError
from ansible_collections.splitmirror.backup.tests.support.agekeys import (
    FINGERPRINT,
    PUBLIC,
    PUBLIC_2,
    SECRET,
    SECRET_2,
    decrypt,
    key_file,
    needs_age,
)
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults
from ansible_collections.splitmirror.backup.tests.support.tape import (
    Held,
    Library,
    folder,
    inline,
    link,
    run_module_apart,
)

RECORD = 20 << 10
FILES = {
    "srv/a": b"a" * 100_000,
    "srv/b": bytes(range(256)) * 700,
    "srv/c": b"secret words" * 3,
    "srv/d": b"d" * (3 * CHUNK_BYTES),
}
TREE = [
    folder("/srv"),
    *(inline(f"/{name}", content) for name, content in FILES.items()),
    link("/srv/way", "/etc/passwd"),
]
KEYS = Keyring(parse_identities(SECRET))
OTHER = Keyring(parse_identities(SECRET_2))
RECIPIENTS = parse_recipients([PUBLIC], "recipients")


@pytest.fixture
def sealed(library: Library) -> Library:
    """A library with a good session that is encrypted, behind one that is not."""
    library.make()
    library.label(record_bytes=RECORD)
    library.back_up("s0", TREE[:1])
    library.back_up("s1", TREE, recipients=RECIPIENTS)
    return library


def read(library: Library, target: Path, keyring: Keyring, *paths: str, session: str = "s1") -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return restore(RestoreJob(session, str(target), paths=paths, keyring=keyring), library.catalog, Held(drive))


def verify(library: Library, keyring: Keyring = NO_KEYS) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        session = find_good_session(library.catalog, "s1", None)
        return verify_session(session, library.catalog, Held(drive), keyring=keyring)


def enter(library: Library, keyring: Keyring = NO_KEYS) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return rebuild("V1", library.catalog, drive, keyring=keyring)


def contents(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def part_of(library: Library, session: str = "s1") -> Part:
    known = library.catalog.session(session)
    assert known is not None
    (part,) = library.catalog.parts(known.number)
    return part


def tape_file(library: Library) -> Path:
    return library.folder / "V1" / "00002.tar"


def flip(library: Library, place: int) -> None:
    """Change a bit on the tape, which the drive does not notice."""
    data = bytearray(tape_file(library).read_bytes())
    data[place] ^= 1
    tape_file(library).write_bytes(data)


def refused(call: Callable[[], object]) -> SplitMirrorError:
    with pytest.raises(SplitMirrorError) as caught:
        call()
    return caught.value


def test_all_of_it_comes_back_with_each_of_the_keys(sealed: Library, tmp_path: Path) -> None:
    sealed.back_up("s2", TREE, recipients=parse_recipients([PUBLIC_2, PUBLIC], "recipients"))
    for name, keyring in (("one", KEYS), ("two", OTHER)):
        read(sealed, tmp_path / name, keyring, session="s2")
        assert contents(tmp_path / name) == FILES
        assert (tmp_path / name / "srv/way").readlink() == Path("/etc/passwd")
    read(sealed, tmp_path / "first", KEYS)
    assert contents(tmp_path / "first") == FILES


@needs_age
def test_age_and_tar_restore_it_without_us(sealed: Library, tmp_path: Path) -> None:
    (tmp_path / "by hand").mkdir()
    key = key_file(tmp_path)
    plain = decrypt(key, tape_file(sealed).read_bytes())
    subprocess.run(["tar", "-x", "-C", tmp_path / "by hand"], input=plain, check=True)
    found = contents(tmp_path / "by hand")
    assert {name: found[name] for name in FILES} == FILES
    assert ".splitmirror/s1/index.jsonl" in found


def test_the_tape_gives_away_session_and_keys_alone(sealed: Library) -> None:
    data = tape_file(sealed).read_bytes()
    head, mark, _rest = data.partition(b"\n--- ")
    assert mark
    assert re.search(rb"^-> splitmirror\.backup s1 0 %s -+$" % FINGERPRINT.encode(), head, re.MULTILINE)
    told = {line.split()[1] for line in head.splitlines() if line.startswith(b"-> ")}
    assert told == {b"X25519", b"splitmirror.backup"}
    for word in (b"srv", b"db1", b"index", b"ustar", b"secret words", b"/etc/passwd", PUBLIC.encode()):
        assert word not in data
        assert word == b"db1" or word not in (sealed.folder / "V1" / "00000.tar").read_bytes().replace(b"ustar", b"")


def test_the_catalog_has_the_keys_and_the_lengths(sealed: Library) -> None:
    part, session = part_of(sealed), sealed.catalog.session("s1")
    assert session is not None
    assert session_facts(sealed.catalog, session)["parts"][0]["age_keys"] == [FINGERPRINT]
    assert part.age_keys == FINGERPRINT
    data = tape_file(sealed).read_bytes()
    assert data.startswith(part.age_head)
    chunks = -(-part.archive_bytes // CHUNK_BYTES)
    assert len(data) == len(part.age_head) + part.archive_bytes + 16 * chunks
    rest = len(data) % RECORD
    assert part.records == len(data) // RECORD + (rest > 0) + (rest > RECORD // 2)
    assert part.archive_bytes % RECORD == 0
    assert (len(data) % RECORD) % GRAIN_BYTES == 0
    assert part_of(sealed, "s0").age_head == b""


@pytest.mark.parametrize("path", ["/srv/a", "/srv/b", "/srv/c", "/srv/d", "/srv/way"])
def test_one_file_costs_the_records_of_its_chunks_and_two_more(sealed: Library, tmp_path: Path, path: str) -> None:
    part = part_of(sealed)
    members = [member for _part, member in sealed.catalog.members(part.session)]
    place = next(number for number, member in enumerate(members) if b"/" + member.path == path.encode())
    first, last = members[place].offset_bytes // CHUNK_BYTES, (members[place + 1].offset_bytes - 1) // CHUNK_BYTES
    begin = len(part.age_head) + first * SEALED_CHUNK_BYTES
    end = len(part.age_head) + (last + 1) * SEALED_CHUNK_BYTES
    own = -(-end // RECORD) - begin // RECORD
    assert own + 2 < part.records
    assert read(sealed, tmp_path / "t", KEYS, path)["records_read"] <= own + 2
    assert set(contents(tmp_path / "t")) <= {path[1:]}


def test_no_key_or_another_one_leaves_the_target_alone(sealed: Library, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for keyring, option in ((NO_KEYS, "identity_file"), (Keyring(parse_identities(SECRET_2), "identity"), "identity")):
        job = RestoreJob("s1", str(tmp_path / "t"), keyring=keyring)
        for call in (partial(read, sealed, tmp_path / "t", keyring), partial(dry_run, job, sealed.catalog)):
            error = refused(call)
            assert (error.code, error.option) == ("key_missing", option)
            assert FINGERPRINT in error.message
            assert "AGE-SECRET" not in error.message
    assert sorted(tmp_path.iterdir()) == before
    read(sealed, tmp_path / "t", NO_KEYS, session="s0")


def test_verify_proves_the_content_with_the_key_and_the_records_without(sealed: Library) -> None:
    found = verify(sealed, KEYS)
    assert (found["proved"], found["files"], found["members"]) == ("content", len(FILES), len(TREE) + 1)
    found = verify(sealed)
    assert (found["proved"], found["files"], found["members"]) == ("records", 0, 0)
    assert found["records_read"] == part_of(sealed).records
    assert refused(lambda: verify(sealed, OTHER)).code == "key_missing"


def test_a_changed_bit_costs_what_is_behind_it_in_its_file(sealed: Library, tmp_path: Path) -> None:
    part = part_of(sealed)
    member = next(member for _part, member in sealed.catalog.members(part.session) if member.path == b"srv/d")
    chunk = (member.offset_bytes + 70_000) // CHUNK_BYTES
    flip(sealed, len(part.age_head) + chunk * SEALED_CHUNK_BYTES + 5)
    error = refused(lambda: verify(sealed, KEYS))
    assert error.code == "tape_damaged"
    assert [damage["path"] for damage in error.facts["doubtful"]] == ["/srv/d"]
    error = refused(lambda: read(sealed, tmp_path / "t", KEYS))
    assert [damage["path"] for damage in error.facts["doubtful"]] == ["/srv/d"]
    found = contents(tmp_path / "t")
    assert all(found[name] == FILES[name] for name in FILES if name != "srv/d")
    assert verify(sealed)["proved"] == "records"  # without a key it cannot be seen


def damages(error: SplitMirrorError) -> dict[str, str]:
    """What a restore or a verification says of each member."""
    return {damage["path"]: kind for kind in ("missing", "doubtful") for damage in error.facts[kind]}


@pytest.mark.parametrize("kind", ["flipped", "swapped", "repeated", "of another session"])
def test_reading_and_verifying_agree_about_whatever_is_changed(sealed: Library, tmp_path: Path, kind: str) -> None:
    draw = random.Random(kind)
    sealed.back_up("s2", TREE, recipients=RECIPIENTS)
    good, part = tape_file(sealed).read_bytes(), part_of(sealed)
    other = (sealed.folder / "V1" / "00003.tar").read_bytes()
    for number in range(4):
        first, second = (draw.randrange(part.records - 1) * RECORD for _dummy in range(2))
        data = bytearray(good)
        if kind == "flipped":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            source = other if kind == "of another session" else good
            data[first : first + RECORD] = source[second : second + RECORD]
            if kind == "swapped":
                data[second : second + RECORD] = good[first : first + RECORD]
        tape_file(sealed).write_bytes(data)
        target = tmp_path / str(number)
        seen = refused(partial(verify, sealed, KEYS)) if bytes(data) != good else None
        try:
            read(sealed, target, KEYS)
            told = {}
        except SplitMirrorError as exc:
            told = damages(exc)
        # A restore reads neither the padding at the end nor the header on the tape.
        assert seen is None or told == {path: what for path, what in damages(seen).items() if path[:8] != "/.splitm"}
        found = contents(target)
        assert all(found[name] == content for name, content in FILES.items() if f"/{name}" not in told)


def test_a_changed_header_is_seen_with_and_without_a_key_and_costs_nothing(sealed: Library, tmp_path: Path) -> None:
    flip(sealed, 40)
    for keyring in (KEYS, NO_KEYS):
        assert refused(partial(verify, sealed, keyring)).code == "tape_damaged"
    # The catalog has the header too.
    read(sealed, tmp_path / "t", KEYS)
    assert contents(tmp_path / "t") == FILES


@pytest.mark.parametrize("keyring", [KEYS, NO_KEYS])
@pytest.mark.parametrize("lost", [1, 5])
def test_a_part_that_is_cut_short_is_seen_without_a_key_too(sealed: Library, keyring: Keyring, lost: int) -> None:
    with sealed.drive() as drive:
        drive.load("V1")
        drive.space_files(2)
        records = [drive.read_record(RECORD) for _dummy in range(part_of(sealed).records)]
        drive.rewind()
        drive.space_files(2)
        for record in records[:-lost]:
            drive.write_record(record)
        drive.write_filemarks(1)
    assert refused(lambda: verify(sealed, keyring)).code == "tape_damaged"


def test_a_record_behind_a_short_one_is_damage(sealed: Library) -> None:
    with sealed.drive() as drive:
        drive.load("V1")
        drive.space_files(2)
        drive.space_records(part_of(sealed).records)
        drive.write_record(bytes(RECORD))
        drive.write_filemarks(1)
    for keyring in (KEYS, NO_KEYS):
        assert refused(partial(verify, sealed, keyring)).code == "tape_damaged"


def test_a_lost_catalog_is_rebuilt_with_the_key_and_kept_for_it_without(sealed: Library, tmp_path: Path) -> None:
    before = part_of(sealed)
    # What the catalog has needs no key.
    assert [known["session"] for known in enter(sealed)["known"]] == ["s0", "s1"]
    lose_catalog(sealed)
    told = enter(sealed)
    assert [entered["session"] for entered in told["entered"]] == ["s0"]
    (damage,) = told["damaged"]
    assert FINGERPRINT in damage["reason"]
    assert "s1" in damage["reason"]
    aside = sealed.catalog.session("damaged-V1-2")
    assert aside is not None
    assert aside.expires_s is None
    assert session_facts(sealed.catalog, aside)["parts"][0]["age_keys"] == [FINGERPRINT]
    assert [known["session"] for known in enter(sealed)["known"]] == ["s0", "damaged-V1-2"]
    assert [entered["state"] for entered in enter(sealed, KEYS)["entered"]] == ["good"]
    assert sealed.catalog.session("damaged-V1-2") is None
    assert part_of(sealed)._replace(session=before.session) == before
    read(sealed, tmp_path / "t", KEYS)
    assert contents(tmp_path / "t") == FILES


def lose_catalog(library: Library) -> None:
    library.catalog.close()
    for path in library.state_dir.glob("catalog.sqlite*"):
        path.unlink()
    library.catalog = Catalog.open(library.catalog.path, writable=True)


def test_a_record_that_cannot_be_written_ends_the_session_and_is_cut_off(sealed: Library) -> None:
    part = part_of(sealed)
    job = sealed.job("s2", TREE, recipients=RECIPIENTS)
    with sealed.drive(faults=Faults(write_error_at=10)) as drive:
        assert isinstance(refused(lambda: write_session(job, sealed.on(drive))), TapeError)
    with sealed.drive() as drive:
        drive.load("V1")
        drive.space_end_of_data()
        assert drive.position() == Position(part.file_number + 1, 0)
    sealed.back_up("s3", TREE, recipients=RECIPIENTS)
    assert part_of(sealed, "s3").file_number == part.file_number + 1


def test_nothing_is_encrypted_twice_by_one_key(sealed: Library) -> None:
    sealed.back_up("s2", TREE, recipients=RECIPIENTS)
    first, second = part_of(sealed), part_of(sealed, "s2")
    assert first.age_head[-NONCE_BYTES:] != second.age_head[-NONCE_BYTES:]
    keys = {KEYS.key_of_part(part, "x") for part in (first, second)}
    assert len(keys) == 2


@pytest.mark.slow
def test_modules_refuse_what_cannot_encrypt_or_decrypt(sealed: Library, tmp_path: Path) -> None:
    drive = {"drive_type": "virtual", "drive": str(sealed.folder), "state_dir": str(sealed.state_dir)}
    wrong = {"recipients": [PUBLIC, "age1x"]}
    write = {"session": "s2", "volume": "V1", "map": str(sealed.make_map("s2", TREE)), "devices": {}, "proof": "none"}
    for name, options in (("tape_write", write), ("backup_prepare", {"session": "s2", "volume": "V1"})):
        said = run_module_apart(name, {**options, **wrong, **drive}, check=True)
        assert (said["option"], said["code"]) == ("recipients", "option_invalid"), said
    target = {"session": "s1", "target": str(tmp_path / "t"), **drive}
    key = key_file(tmp_path)
    said = run_module_apart("tape_read", {**target, "identity_file": str(key), "identity": SECRET})
    assert (said["option"], said["code"]) == ("identity", "option_invalid")
    assert SECRET not in str(said)
    key.chmod(0o644)
    assert run_module_apart("tape_read", {**target, "identity_file": str(key)})["option"] == "identity_file"
    said = run_module_apart("tape_read", {**target, "identity": SECRET})
    assert said.get("files") == len(FILES), said
    assert SECRET not in str(said)


@pytest.mark.parametrize("rest", [0, 1, 255, 256, 257, 511])
def test_any_place_in_any_tail_is_found(library: Library, rest: int) -> None:
    library.make()
    library.label()
    content = random.Random(rest).randbytes(5 * 512 + rest)
    lengths = [512] * 5 + tail_of(len(content), 512)
    ends = list(itertools.accumulate(lengths))
    with library.drive() as drive:
        drive.load("V1")
        drive.space_files(1)
        for begin, end in zip([0, *ends], ends):
            drive.write_record(content[begin:end])
        drive.write_filemarks(1)
        stream = TapeStream(drive, 1, 2, 512, short_end=True)
        draw = random.Random(rest)
        for offset in [0, 512, len(content) - 1, *(draw.randrange(len(content)) for _dummy in range(60))]:
            if draw.random() < 0.3:
                stream.approach(offset)
            stream.seek(offset)
            size = draw.randrange(1, 700)
            got = stream.read(size)
            assert got == content[offset : offset + len(got)]
            assert got
            if draw.random() < 0.3:
                assert stream.skip_to_filemark() == len(lengths)
                assert stream.archive_bytes() == len(content)
        stream.seek(0)
        assert b"".join(iter(lambda: stream.read(100), b"")) == content


@pytest.mark.parametrize("lengths", [[512, 300], [512, 100, 100], [512, 256, 256, 1], [256, 512], [512, 100, 512]])
def test_other_lengths_of_records_are_damage(library: Library, lengths: list[int]) -> None:
    library.make()
    library.label()
    with library.drive() as drive:
        drive.load("V1")
        drive.space_files(1)
        for length in lengths:
            drive.write_record(bytes(length))
        drive.write_filemarks(1)
        with pytest.raises(TapeError):
            TapeStream(drive, 1, 2, 512, short_end=True).skip_to_filemark()
