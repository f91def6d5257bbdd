# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading archives that others made, and damaged ones."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.pax import pad, record, ustar_block
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_headers import check_sum, parse_records
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import (
    check_member_name,
    iterate_members,
)

NAMES = (
    st.lists(st.text("abcö /", min_size=1, max_size=70), min_size=1, max_size=3)
    .map("/".join)
    .map(lambda name: "x" + name.strip("/").replace("//", "/_") + "x")
)
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
        st.binary(max_size=2000),
        st.integers(0, 0o7777),
        st.integers(0, 2**40),
        st.text("abcö/", max_size=150),
    ),
    max_size=8,
)
KINDS = {b"0": "f", b"5": "d", b"2": "l", b"1": "h", b"6": "p"}


@given(MEMBERS, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(1, 3000))
def test_what_tarfile_writes_is_read(
    members: list[tuple[str, bytes, bytes, int, int, str]], form: int, read_bytes: int
) -> None:
    made = io.BytesIO()
    expected = []
    with tarfile.open(fileobj=made, mode="w", format=form, encoding="utf-8") as tar:
        for name, typeflag, data, mode, number, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.mtime = typeflag, mode, number, number
            linked = typeflag in (tarfile.SYMTYPE, tarfile.LNKTYPE)
            info.linkname = target if linked else ""
            content = data if typeflag == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            row = (name.encode(), KINDS[typeflag], content, mode, number, number * 10**9, info.linkname.encode())
            expected.append(row)
    found = []
    for member in iterate_members(_Dribble(made.getvalue(), read_bytes)):
        content = b"".join(member.content())
        found.append((member.name, member.kind, content, member.mode, member.uid, member.mtime_ns, member.linkname))
    assert found == expected


class _Dribble:
    """A stream that gives less than it is asked for, as pipes do."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._most))


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "oldgnu", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(b"content" * 300)
    (tmp_path / "folder/link").symlink_to("file")
    if form not in ("v7", "ustar"):
        (tmp_path / "folder" / ("n" * 200)).write_bytes(b"long")
    subprocess.run(["tar", f"--format={form}", "-cf", "a.tar", "--sort=name", "folder"], cwd=tmp_path, check=True)
    with open(tmp_path / "a.tar", "rb") as stream:
        found = {member.name: (member.kind, b"".join(member.content())) for member in iterate_members(stream)}
    assert found.pop(b"folder/" + b"n" * 200, ("f", b"long")) == ("f", b"long")
    assert found == {
        b"folder": ("d", b""),
        b"folder/file": ("f", b"content" * 300),
        b"folder/link": ("l", b""),
    }


def simple(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3000
            info.mtime = 1.5
            tar.addfile(info, io.BytesIO(b"x" * 3000))
    return made.getvalue()


@given(st.integers(1, 2 * 4608 - 1))
def test_an_archive_that_is_cut_short_is_refused_unless_it_ends_between_members(length: int) -> None:
    archive = simple("a", "b")[:length]
    if length == 4608:
        assert [member.name for member in iterate_members(io.BytesIO(archive))] == [b"a"]
        return
    with pytest.raises(ArchiveError, match="cut short"):
        list(iterate_members(io.BytesIO(archive)))


@given(st.binary(min_size=512, max_size=4096).filter(lambda data: data.strip(b"\0") != b""))
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        list(iterate_members(io.BytesIO(b"\1" + data)))


@given(st.integers(0, 4607), st.integers(1, 255))
def test_a_damaged_byte_of_a_header_never_goes_unnoticed_or_crashes(place: int, change: int) -> None:
    archive = bytearray(simple("a", "b"))
    archive[place] ^= change
    try:
        found = [(member.name, member.mtime_ns, member.sha256()) for member in iterate_members(io.BytesIO(archive))]
    except ArchiveError:
        return
    whole = [(m.name, m.mtime_ns, m.sha256()) for m in iterate_members(io.BytesIO(simple("a", "b")))]
    # Data, the padding, and the records of the extended header have no checksum in a tar.
    assert found == whole or 512 <= place < 1024 or place >= 1536


@pytest.mark.parametrize("name", [b"a", b"a/b", b"..a/b..", b"a/...", b"./a", b"\xff"])
def test_names_that_stay_inside_are_let_through(name: bytes) -> None:
    assert check_member_name(name) == name


@pytest.mark.parametrize("name", [b"", b"/", b"/etc/passwd", b"..", b"../x", b"a/../../x", b"a/..", b"//x", b"a\0b"])
def test_names_that_leave_the_target_folder_are_refused(name: bytes) -> None:
    with pytest.raises(ArchiveError, match="a member name that would leave the target folder"):
        check_member_name(name)


def test_members_that_are_not_read_are_skipped() -> None:
    assert [(m.name, m.offset_bytes) for m in iterate_members(io.BytesIO(simple("a", "b", "c")))] == [
        (b"a", 0),
        (b"b", 4608),
        (b"c", 9216),
    ]


@pytest.mark.parametrize("second", [b"1!" + b"x" * 30, b"0 a=b\n", b"1 a=b\n", b"9999 a=b\n", b" a=b\n", b"6 a=b"])
def test_a_damaged_record_behind_a_sound_one_ends_the_reading(second: bytes) -> None:
    """A record without a length was once taken for the one before it, again and again."""
    with pytest.raises(ArchiveError):
        parse_records(record(b"mtime", b"1.5") + second)


@pytest.mark.parametrize("number", [b"\xff" * 12, b"\xc0" + bytes(11), b"\xff" * 11 + b"\0"])
@pytest.mark.parametrize("typeflag", [b"0", b"x", b"L", b"S"])
def test_a_size_below_zero_is_refused(number: bytes, typeflag: bytes) -> None:
    """GNU tar's numbers in base 256 have a sign, and a length with one would be read up to the end of all."""
    header = bytearray(ustar_block(b"a", typeflag))
    header[124:136] = number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ArchiveError):
        list(iterate_members(io.BytesIO(bytes(header) + bytes(4096))))


def test_a_piece_of_a_sparse_file_below_zero_is_refused() -> None:
    header = bytearray(ustar_block(b"a", b"S", 500))
    for place, pair in ((386, (0, 1000)), (410, (1000, -500))):
        header[place : place + 24] = b"".join((n % 2**96 | 1 << 95).to_bytes(12, "big") for n in pair)
    header[483:495] = b"%011o\0" % 1000
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ArchiveError, match="sparse"):
        list(iterate_members(io.BytesIO(bytes(header) + bytes(4096))))


def test_a_number_without_end_is_refused() -> None:
    records = record(b"mtime", b"9" * 5000)
    block = ustar_block(b"p", b"x", len(records)) + records + bytes(pad(len(records))) + ustar_block(b"a", b"0")
    with pytest.raises(ArchiveError):
        list(iterate_members(io.BytesIO(block)))


@pytest.mark.parametrize("length", [0, 100, 511])
def test_what_is_shorter_than_a_header_is_none(length: int) -> None:
    with pytest.raises(ArchiveError, match="no tar header"):
        check_sum(bytes(length), 0)
