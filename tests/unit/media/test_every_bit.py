# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every bit of a member that reaches the target is under a checksum: flips are refused, told by name, or harmless."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.index import index_name
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import (
    MemberRecord,
    Owners,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import REGULAR, HeaderMaker, pad
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session, show_path
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.sqlite_file import ADDED_COLUMNS, ADDED_TABLES
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    FileEntry,
    pack_xattrs,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.reading import look_at
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.tests.support.tape import RECORD, Held, Library, folder, inline, link

pytestmark = pytest.mark.slow

#: Flips in the whole way there and back; without it, one bit of each byte is tried on the members alone.
ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "0"))
SPARSE_BYTES = 40_000_000
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
)
TREE = [
    folder("/srv"),
    inline("/srv/a", b"a" * 700),
    inline("/srv/acl", b"acl")._replace(xattrs=pack_xattrs({b"system.posix_acl_access": ACL, b"user.k": b"v" * 30})),
    folder("/srv/b")._replace(mtime_ns=-1_500_000_000),
    inline("/srv/b/" + "long" * 40, b"x" * 513),
    inline("/srv/b/one", b"1", inode=7, nlink=2),
    inline("/srv/b/two", b"1", inode=7, nlink=2),
    link("/srv/b/way", "/etc/" + "p" * 120),
    inline("/srv/empty", b""),
    inline("/srv/holes", b"")._replace(size=SPARSE_BYTES),
]


def known_members(library: Library) -> list[MemberRecord]:
    session = library.catalog.session("s1")
    assert session is not None
    return [member for _part, member in library.catalog.members(session.number)]


def tape_file(library: Library) -> Path:
    return library.folder / "V1/00001.tar"


def read_back(data: bytes, known: MemberRecord) -> tuple[bytes, bytes, bool]:
    """Header and data of a member as a restore gets them, and whether they are called right."""
    found = look_at(io.BytesIO(data), Part(1, 0, "V1", 1, 2, RECORD, 0, 0, True), known)
    if found.header is None:
        assert found.reason
        return b"", b"", False
    raw = b"".join(found.blocks())
    return found.header.header, raw[: found.header.size], found.reason is None


def test_every_bit_of_every_member_is_under_a_checksum(labelled: Library) -> None:
    device = FileEntry(b"/srv/null", "c", mode=0o666, rdev_major=1, rdev_minor=3, mtime_ns=5)
    labelled.back_up("s1", [*TREE, device])
    archive = tape_file(labelled).read_bytes()
    members = known_members(labelled)
    assert members[-1].path == index_name("s1")
    chance = random.Random(1)
    for known, behind in zip(members, [*members[1:], None], strict=True):
        end = len(archive) if behind is None else behind.offset_bytes
        sound = archive[known.offset_bytes : end]
        header, data, right = read_back(sound, known)
        assert right
        stored = len(header) + len(data)
        for place in range(stored):
            for bit in range(8) if ROUNDS else [chance.randrange(8)]:
                flipped = bytearray(sound)
                flipped[place] ^= 1 << bit
                assert not read_back(bytes(flipped), known)[2], (known.path, place, bit)
        # What fills the last block reaches no target.
        if pad(stored):
            flipped = bytearray(sound)
            flipped[stored] ^= 1
            assert read_back(bytes(flipped), known) == (header, data, True)


def told(call: object) -> str:
    """The sentence of what a call refuses; empty when it does not."""
    assert callable(call)
    try:
        call()
    except SplitMirrorError as exc:
        return exc.message
    return ""


def verify(library: Library) -> None:
    with library.drive(writable=False) as drive:
        verify_session(find_good_session(library.catalog, "s1", None), library.catalog, Held(drive))


def facts(target: Path) -> dict[str, object]:
    """All that a restore brings back of each file."""
    found: dict[str, object] = {}
    for path in sorted(target.rglob("*")):
        status = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        owner = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size, status.st_mtime_ns)
        found[str(path.relative_to(target))] = (owner, attributes, content)
    return found


def test_reading_and_verifying_agree_about_every_flip(labelled: Library, tmp_path: Path) -> None:
    tree = [entry for entry in TREE if entry.path != b"/srv/holes"]
    labelled.back_up("s1", [*tree, inline("/srv/holes", b"")._replace(size=300_000)])
    sound = tape_file(labelled).read_bytes()
    members = known_members(labelled)
    labelled.restore("s1", tmp_path / "sound")
    expected = facts(tmp_path / "sound")
    assert len(expected) == len(TREE)
    chance = random.Random(ROUNDS)
    for number in range(ROUNDS or 40):
        place, bit = chance.randrange(len(sound)), chance.randrange(8)
        data = bytearray(sound)
        data[place] ^= 1 << bit
        tape_file(labelled).write_bytes(data)
        hit = [known for known in members if known.offset_bytes <= place][-1]
        target = tmp_path / f"t{number}"
        reading, verifying = told(lambda target=target: labelled.restore("s1", target)), told(lambda: verify(labelled))
        if hit.path == index_name("s1"):
            assert not reading
        elif reading or verifying:
            assert show_path(hit.path) in reading, (place, bit)
            assert show_path(hit.path) in verifying, (place, bit)
        if not reading:
            assert facts(target) == expected, (place, bit)


def test_all_that_is_damaged_is_named_at_once(labelled: Library) -> None:
    labelled.back_up("s1", TREE)
    members = {known.path: known for known in known_members(labelled)}
    data = bytearray(tape_file(labelled).read_bytes())
    for path, place in ((b"srv/a", 520), (b"srv/b", 1024 + 156), (b"srv/holes", members[b"srv/holes"].header_bytes)):
        data[members[path].offset_bytes + place] ^= 4
    tape_file(labelled).write_bytes(data)
    said = told(lambda: verify(labelled))
    assert "with 3 differences" in said
    assert all(f"{path}: " in said for path in ("/srv/a", "/srv/b", "/srv/holes"))


def test_a_file_without_a_checksum_is_not_called_right(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    with contextlib.closing(sqlite3.connect(labelled.state_dir / "catalog.sqlite")) as db:
        db.execute("UPDATE members SET sha256 = NULL WHERE path = ?", (b"srv/a",))
        db.commit()
    assert "/srv/a: " in told(lambda: labelled.restore("s1", tmp_path / "t"))
    assert "/srv/a: " in told(lambda: verify(labelled))


@pytest.mark.parametrize("size", [2**62, 2**63 - 1])
def test_the_zeros_of_holes_are_not_read(labelled: Library, size: int) -> None:
    """As many as a file on XFS can have: with their zeros hashed, this test would not end."""
    files = [inline(f"/srv/{number}", b"")._replace(size=size) for number in range(3)]
    labelled.back_up("s1", [folder("/srv"), *files])
    verify(labelled)
    assert [known.size for known in known_members(labelled)[1:-1]] == [size] * 3
    found = rebuilt(labelled)
    assert [(item["session"], item["state"]) for item in found["entered"]] == [("s1", "good")]


# -- what version 0.1 wrote ----------------------------------------------------------------------------------------


def written_by_version_0_1(library: Library, where: Path) -> Library:
    """Another library that holds s1 as version 0.1 wrote it; its catalog was rebuilt from the volume."""
    (*members, index) = known_members(library)
    archive = tape_file(library).read_bytes()
    lines = archive[index.offset_bytes + index.header_bytes :][: index.size].splitlines()
    made = json.dumps({**json.loads(lines[0]), "format_version": 1}).encode() + b"\n"
    for line, known in zip(lines[1:], members, strict=True):
        row = json.loads(line)
        del row["header_digest"]
        if known.path == b"srv/holes":
            row["sha256"] = hashlib.sha256(bytes(known.size)).hexdigest()
        made += json.dumps(row).encode() + b"\n"
    header = HeaderMaker(Owners()).header(index.path, REGULAR, (0o600, 0, 0), len(made), index.mtime_ns)
    data = archive[: index.offset_bytes] + header + made + bytes(pad(len(made))) + bytes(1024)
    where.mkdir(mode=0o700)
    old = Library(where)
    old.make()
    old.label()
    old.write("s1", [data[place : place + RECORD] for place in range(0, len(data), RECORD)])
    found = rebuilt(old)
    assert [(item["session"], item["state"]) for item in found["entered"]] == [("s1", "good")]
    return old


def rebuilt(library: Library) -> dict[str, Any]:
    """Lose the catalog, and rebuild it from the volume."""
    path = library.state_dir / "catalog.sqlite"
    library.catalog.close()
    path.unlink()
    library.catalog = Catalog.open(str(path), writable=True)
    with library.drive(writable=False) as drive:
        return rebuild("V1", library.catalog, drive)


def test_sessions_of_version_0_1_are_found_verified_and_restored(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    labelled.restore("s1", tmp_path / "new")
    old = written_by_version_0_1(labelled, tmp_path / "old")
    assert {known.header_digest for known in known_members(old)} == {None}
    verify(old)
    old.restore("s1", tmp_path / "back")
    assert facts(tmp_path / "back") == facts(tmp_path / "new")
    data = bytearray(tape_file(old).read_bytes())
    data[data.index(b"SCHILY.xattr.user.k=vvvv") + 22] ^= 1
    tape_file(old).write_bytes(data)
    assert "headers" in told(lambda: verify(old))
    old.catalog.close()


def test_a_catalog_of_version_0_1_is_read_and_becomes_a_new_one(labelled: Library, tmp_path: Path) -> None:
    labelled.back_up("s1", TREE)
    old = written_by_version_0_1(labelled, tmp_path / "old")
    path = old.state_dir / "catalog.sqlite"
    old.catalog.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX sessions_base")
        for table, column, *_kind in ADDED_COLUMNS:
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in ADDED_TABLES:
            db.execute(f"DROP TABLE {table.partition('(')[0]}")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'format_version'")
        db.commit()
    for number, writable in enumerate((False, True, False)):
        with Catalog.open(str(path), writable=writable) as old.catalog:
            assert {known.header_digest for known in known_members(old)} == {None}
            old.restore("s1", tmp_path / str(number), "/srv/b/two")
            verify(old)
    old.catalog = Catalog.open(str(path), writable=True)
    old.back_up("s2", TREE)
    assert [session.id for session in old.catalog.sessions()] == ["s1", "s2"]
    old.catalog.close()
