# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers: what Python's tarfile, our reader, GNU tar and bsdtar make of them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive import pax
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.own_headers import has_own_headers
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members

OWNERS = Owners({0: "root", 7: "bücher", 8: "u" * 40}, {0: "root", 9: "g" * 31})
COMPONENTS = st.one_of(
    st.text("abc xyz.-_äß漢", min_size=1, max_size=60).map(str.encode),
    st.binary(min_size=1, max_size=120).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
).filter(lambda name: name not in (b".", b"..") and len(name) <= 250)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=6).map(b"/".join)
IDS = st.one_of(st.sampled_from([0, 7, 8, 9, 0o7777777, 0o10000000]), st.integers(0, 2**32 - 2))
OWNERSHIPS = st.tuples(st.integers(0, 0o7777), IDS, IDS)
TIMES = st.one_of(st.integers(-(2**40) * 10**9, 2**40 * 10**9), st.integers(10**18, 2 * 10**18))
SIZES = st.one_of(st.integers(0, 2**62), st.sampled_from([8**11 - 1, 8**11]))


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@given(st.binary(min_size=1, max_size=30).filter(lambda key: b"=" not in key), st.binary(max_size=2000))
def test_a_record_counts_itself(key: bytes, value: bytes) -> None:
    made = pax.record(key, value)
    length, _dummy, rest = made.partition(b" ")
    assert int(length) == len(made)
    assert rest == key + b"=" + value + b"\n"


@given(NAMES, OWNERSHIPS, SIZES, TIMES)
def test_the_quick_way_makes_the_same_headers(
    name: bytes, ownership: tuple[int, int, int], size: int, time: int
) -> None:
    maker = pax.HeaderMaker(OWNERS)
    full = maker.header(name, pax.REGULAR, ownership, size, time)
    for _dummy in range(2):  # the second one comes from what the first one left
        quick = maker.file_header(name, ownership, size, time)
        if time % 10**9 or quick == full:
            assert quick == full
        else:  # the quick way writes whole seconds as a record too
            (member,) = iterate_members(io.BytesIO(maker.file_header(name, ownership, 0, time)))
            assert (member.name, member.mtime_ns) == (name, time)


@given(NAMES, OWNERSHIPS, SIZES, TIMES, st.binary(max_size=300).filter(lambda t: b"\0" not in t))
def test_tarfile_and_our_reader_read_every_header(
    name: bytes, ownership: tuple[int, int, int], size: int, time: int, target: bytes
) -> None:
    maker = pax.HeaderMaker(OWNERS)
    typeflag = pax.SYMLINK if target else pax.REGULAR
    stored = 0 if target else size
    made = maker.header(name, typeflag, ownership, stored, time, linkname=target)
    assert len(made) % 512 == 0
    info = tarfile.TarFile(fileobj=io.BytesIO(made), encoding="utf-8").next()
    assert info is not None
    member = next(iterate_members(io.BytesIO(made)))
    assert member.header == made
    assert has_own_headers(member)
    assert (member.name, member.mode, member.uid, member.gid) == (name, *ownership)
    assert (member.size, member.mtime_ns, member.linkname) == (stored, time, target)
    assert (info.mode, info.uid, info.gid, info.size) == (*ownership, stored)
    assert (info.name, info.linkname) == (text(name), text(target))
    # tarfile keeps times as floats and takes the whole seconds of the ustar header where there is no record.
    assert abs(info.mtime - time / 10**9) < 1
    uname = OWNERS.users.get(ownership[1], "")
    assert info.uname == uname
    assert member.uname == uname.encode()


@pytest.mark.parametrize("tar", ["tar", "bsdtar"])
@settings(max_examples=12)
@given(st.lists(NAMES, min_size=1, max_size=12, unique=True))
def test_tars_restore_every_name(tmp_path_factory: pytest.TempPathFactory, tar: str, names: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("names")
    maker = pax.HeaderMaker(Owners())
    # Only names that can stand beside each other: none is the folder of another.
    # bsdtar takes backslashes off the front of an archive's names, so they come in a folder.
    chosen = [b"top/" + name for name in names if not any(other.startswith(name + b"/") for other in names)]
    ownership = (0o600, os.getuid(), os.getgid())
    archive = b"".join(maker.file_header(name, ownership, 0, 1_700_000_000_000_000_001) for name in chosen)
    subprocess.run(
        [tar, "-xf", "-"], input=archive + bytes(1024), cwd=folder, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    base = os.fsencode(folder)
    found = [os.path.join(top, name) for top, _dummy, files in os.walk(base) for name in files]
    assert sorted(os.path.relpath(path, base) for path in found) == sorted(chosen)
    assert {os.stat(path).st_mtime_ns for path in found} == {1_700_000_000_000_000_001}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("tar", ["tar", "bsdtar"])
def test_tars_restore_long_names_that_are_not_utf8(tmp_path: Path, tar: str, locale: str) -> None:
    name, target = b"top/" + b"\xe4" * 150, b"\xfc" * 150
    ownership = (0o777, os.getuid(), os.getgid())
    archive = pax.HeaderMaker(Owners()).header(name, pax.SYMLINK, ownership, 0, 0, linkname=target)
    environment = {**os.environ, "LC_ALL": locale}
    subprocess.run([tar, "-xf", "-"], input=archive + bytes(1024), cwd=tmp_path, check=True, env=environment)
    assert os.readlink(os.fsencode(tmp_path) + b"/" + name) == target


@pytest.mark.parametrize("tar", ["tar", "bsdtar"])
def test_tars_see_sizes_beyond_eight_gibibytes(tmp_path: Path, tar: str) -> None:
    size = 9 << 30
    header = pax.HeaderMaker(Owners()).header(b"huge", pax.REGULAR, (0o600, 0, 0), size, 0)
    with open(tmp_path / "huge.tar", "wb") as file:
        file.write(header)
        file.truncate(len(header) + size + 1024)
    listed = subprocess.run([tar, "-tvf", tmp_path / "huge.tar"], capture_output=True, text=True, check=True).stdout
    assert str(size) in listed.split()
    assert listed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"user.plain", b"user.plain"),
        (b"user.a=b", b"user.a%3Db"),
        (b"user.100%", b"user.100%"),
        (b"user.%3D", b"user.%253D"),
        (b"user.%25", b"user.%2525"),
        (b"user.%=", b"user.%%3D"),
    ],
)
def test_keywords_of_extended_attributes_are_escaped_where_they_must_be(name: bytes, key: bytes) -> None:
    assert pax.xattr_key(name) == b"SCHILY.xattr." + key
