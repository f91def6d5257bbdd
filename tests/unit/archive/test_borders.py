# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every field of a header at and around each of its borders: all readers see the same, and it is what was meant."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive import pax
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.members import MemberPlanner
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import iterate_members
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import FileEntry

ROUNDS = int(os.environ.get("SPLITMIRROR_ROUNDS", "15"))
NS = 10**9
OCTAL_7, OCTAL_11 = 8**7, 8**11
FOREVER_NS = 9_999_999_999 * NS
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC0"}
MODES = {stat.filemode(mode)[1:]: mode for mode in range(0o10000)}
KINDS = {
    pax.REGULAR: stat.S_IFREG,
    pax.SYMLINK: stat.S_IFLNK,
    pax.CHARACTER: stat.S_IFCHR,
    pax.BLOCK: stat.S_IFBLK,
    pax.FOLDER: stat.S_IFDIR,
    pax.FIFO: stat.S_IFIFO,
}


def around(*borders: int, lowest: int, most: int) -> st.SearchStrategy[int]:
    """A border, or what stands beside it, or anything."""
    near = sorted({border + step for border in borders for step in (-1, 0, 1)})
    return st.one_of(st.sampled_from([value for value in near if lowest <= value <= most]), st.integers(lowest, most))


SECONDS = around(0, 10**9, 10**10, OCTAL_11, 2**31, 2**32, -(2**31), lowest=-(2**33), most=2**40)
TIMES = st.tuples(SECONDS, st.sampled_from([0, 1, NS // 2, NS - 1])).map(lambda parts: parts[0] * NS + parts[1])
IDS = around(0, OCTAL_7, 2**31, 7, 8, 9, lowest=0, most=2**32 - 2)
SIZES = around(0, OCTAL_11, 2**31, 512, lowest=0, most=2**63 - 1)
BYTES = st.sampled_from(list(b"a a\n\r\t\\=%\xff\xc3\xa4\x01*?'\"")).map(lambda byte: bytes([byte]))
LENGTHS = st.sampled_from([1, 79, 80, 81, 98, 99, 100, 101, 102, 154, 155, 156, 254, 255, 256, 257, 400])
OWNERS = Owners({0: "root", 7: "bücher", 8: "u" * 31, 9: "u" * 32}, {0: "root", 7: "g" * 31, 8: "g" * 32, 9: "süß"})


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """Names of chosen lengths, of any bytes, with slashes around the places where a name can be split."""
    length = draw(LENGTHS)
    filler = b"".join(draw(st.lists(BYTES, min_size=1, max_size=6)))
    name = bytearray((filler * length)[:length])
    for place in draw(st.lists(st.integers(0, length), max_size=3)):
        if 0 < place < length - 1:
            name[place] = ord("/")
    # No Linux file system holds more than 255 bytes between two slashes.
    return b"/".join(part[:255] for part in bytes(name).split(b"/") if part) or b"a"


class Told(NamedTuple):
    """What a reader says of one member."""

    name: bytes
    typeflag: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    linkname: bytes
    rdev: tuple[int, int]


@st.composite
def members(draw: st.DrawFn) -> list[Told]:
    """Members of all kinds, each under a name of its own."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        typeflag = draw(st.sampled_from(list(KINDS)))
        rdev = (0, 0)
        if typeflag in (pax.CHARACTER, pax.BLOCK):
            rdev = draw(st.tuples(st.sampled_from([0, 1, 255, 256, 4095]), st.sampled_from([0, 255, 256, 2**20 - 1])))
        made.append(
            Told(
                b"%d/" % number + draw(names()),
                typeflag,
                draw(around(0, 0o777, 0o1000, 0o4000, lowest=0, most=0o7777)),
                draw(IDS),
                draw(IDS),
                draw(TIMES),
                draw(names()) if typeflag == pax.SYMLINK else b"",
                rdev,
            )
        )
    return made


def header(maker: pax.HeaderMaker, member: Told) -> bytes:
    ownership = (member.mode, member.uid, member.gid)
    if member.typeflag == pax.REGULAR:
        maker.file_header(b"first", ownership, 0, NS**2)  # the next one is made the quick way, where it may
        return maker.file_header(member.name, ownership, 0, member.mtime_ns)
    name = member.name + b"/" if member.typeflag == pax.FOLDER else member.name
    return maker.header(
        name, member.typeflag, ownership, 0, member.mtime_ns, linkname=member.linkname, rdev=member.rdev
    )


def by_our_reader(archive: bytes) -> list[Told]:
    flags = dict(zip("flcbdp", KINDS))
    return [
        Told(m.name, flags[m.kind], m.mode, m.uid, m.gid, m.mtime_ns, m.linkname, m.rdev)
        for m in iterate_members(io.BytesIO(archive))
    ]


def by_tarfile(archive: bytes) -> list[Told]:
    def raw(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")

    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8") as tar:
        return [
            # Its times are floats, which the caller allows for.
            Told(
                raw(m.name),
                m.type,
                m.mode,
                m.uid,
                m.gid,
                round(m.mtime * NS),
                raw(m.linkname),
                (m.devmajor, m.devminor),
            )
            for m in tar
        ]


def run(command: Sequence[str], archive: bytes, locale: str = "C") -> bytes:
    environment = {**ENVIRONMENT, "LC_ALL": locale}
    done = subprocess.run(command, input=archive, capture_output=True, check=True, env=environment)
    return done.stdout


_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def unescape(text: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        word = found[1]
        return bytes([int(word, 8)]) if len(word) == 3 else _LETTERS.get(word, word)

    return _ESCAPE.sub(one, text)


def seconds_of(date: str, clock: str) -> int:
    """Nanoseconds of a UTC time as GNU tar lists it, whatever the year."""
    year, month, day = map(int, date.split("-"))
    whole, _dot, fraction = clock.partition(".")
    hours, minutes, seconds = map(int, whole.split(":"))
    # days from civil, proleptic Gregorian
    shifted = year - (month <= 2)
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    return (days * 86400 + hours * 3600 + minutes * 60 + seconds) * NS + int((fraction + "0" * 9)[:9])


def by_gnu_tar(archive: bytes) -> list[Told]:
    listing = run(["tar", "-tvf", "-", "--full-time", "--numeric-owner", "--quoting-style=escape"], archive)
    told = []
    letters = {stat.filemode(kind)[0]: flag for flag, kind in KINDS.items()}
    for line in listing.splitlines():
        found = re.fullmatch(rb"(\S{10}) (\d+)/(\d+) +(\d+|\d+,\d+) (\S+) (\S+) +(.*)", line)
        assert found is not None, line
        text = found[1].decode()
        flag = letters[text[0]]
        name, _arrow, link = found[7].partition(b" -> ")
        devices = flag in (pax.CHARACTER, pax.BLOCK)
        major, minor = map(int, found[4].split(b",")) if devices else (0, 0)
        told.append(
            Told(
                unescape(name).rstrip(b"/"),
                flag,
                MODES[text[1:]],
                int(found[2]),
                int(found[3]),
                seconds_of(found[5].decode(), found[6].decode()),
                unescape(link),
                (major, minor),
            )
        )
    return told


def by_bsdtar(archive: bytes) -> list[Told]:
    """libarchive can tell all that it reads in the form of mtree(5); it puts folders last."""
    listing = run(["bsdtar", "-cf", "-", "--format=mtree", "@-"], archive, locale="C.UTF-8")
    flags = {"file": pax.REGULAR, "link": pax.SYMLINK, "char": pax.CHARACTER, "block": pax.BLOCK}
    flags |= {"dir": pax.FOLDER, "fifo": pax.FIFO}
    told = []
    for line in listing.splitlines()[1:]:
        path, *words = line.split(b" ")
        facts = dict(word.split(b"=", 1) for word in words)
        seconds, _dot, fraction = facts[b"time"].partition(b".")
        device = facts.get(b"device", b"native,0,0").split(b",")
        told.append(
            Told(
                unescape(path)[2:],
                flags[facts[b"type"].decode()],
                int(facts[b"mode"], 8),
                int(facts[b"uid"]),
                int(facts[b"gid"]),
                int(seconds) * NS + int(fraction),
                unescape(facts.get(b"link", b"")),
                (int(device[1]), int(device[2])),
            )
        )
    return told


def without_fraction(member: Told) -> Told:
    return member._replace(mtime_ns=member.mtime_ns - member.mtime_ns % NS)


def with_whole_negative_times(made: Iterable[Told]) -> list[Told]:
    """libarchive takes the fraction of a time before 1970 for a positive one, and GNU tar lists it so (it restores it
    rightly, see below)."""
    return [without_fraction(member) if member.mtime_ns < 0 else member for member in made]


@settings(max_examples=ROUNDS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Told(b"0/forever", pax.REGULAR, 0o644, 0, 0, FOREVER_NS, b"", (0, 0))])
@example([Told(b"0/a", pax.REGULAR, 0o644, 0, 0, OCTAL_11 * NS, b"", (0, 0))] * 2)
@given(members())
def test_all_readers_read_what_was_meant(made: list[Told]) -> None:
    made = with_whole_negative_times(made)
    maker = pax.HeaderMaker(OWNERS)
    archive = b"".join(header(maker, member) for member in made) + bytes(1024)
    assert by_our_reader(archive) == made
    for read, member in zip(by_tarfile(archive), made, strict=True):
        assert abs(read.mtime_ns - member.mtime_ns) <= max(1, abs(member.mtime_ns) // 10**15)
        assert read._replace(mtime_ns=0) == member._replace(mtime_ns=0)
    assert [without_device(member) for member in by_gnu_tar(archive)] == [without_device(member) for member in made]
    assert sorted(by_bsdtar(archive)) == sorted(dict.fromkeys(made))


def without_device(member: Told) -> Told:
    return member if member.rdev != (0, 0) else member._replace(rdev=(0, 0))


@settings(max_examples=ROUNDS, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**31) + 1, -1), st.integers(0, NS - 1)), min_size=1, max_size=20))
def test_gnu_tar_restores_times_before_1970(
    tmp_path_factory: pytest.TempPathFactory, times: list[tuple[int, int]]
) -> None:
    """From the second on that ext4 can hold."""
    folder = tmp_path_factory.mktemp("times")
    maker = pax.HeaderMaker(Owners())
    wanted = [seconds * NS + fraction for seconds, fraction in times]
    ownership = (0o600, os.getuid(), os.getgid())
    archive = b"".join(maker.file_header(b"%d" % n, ownership, 0, at) for n, at in enumerate(wanted))
    subprocess.run(["tar", "-xf", "-"], input=archive + bytes(1024), cwd=folder, check=True, env=ENVIRONMENT)
    assert [(folder / str(n)).stat().st_mtime_ns for n in range(len(wanted))] == wanted


@settings(max_examples=ROUNDS * 10, deadline=None)
@given(names(), SIZES, TIMES, IDS, IDS)
def test_every_size_is_read_back(name: bytes, size: int, mtime_ns: int, uid: int, gid: int) -> None:
    maker = pax.HeaderMaker(OWNERS)
    for _dummy in range(2):
        made = maker.file_header(name, (0o640, uid, gid), size, mtime_ns)
        member = next(iterate_members(io.BytesIO(made)))
        info = tarfile.TarFile(fileobj=io.BytesIO(made), encoding="utf-8").next()
        assert info is not None
        assert (member.size, member.header, info.size) == (size, made, size)
        assert len(made) % 512 == 0


@pytest.mark.parametrize("tar", ["tar", "bsdtar"])
@pytest.mark.parametrize("size", [OCTAL_11 - 1, OCTAL_11, OCTAL_11 + 1])
def test_tars_find_the_member_behind_one_of_any_size(tmp_path: Path, tar: str, size: int) -> None:
    maker = pax.HeaderMaker(Owners())
    with open(tmp_path / "huge.tar", "wb") as file:
        file.write(maker.file_header(b"huge", (0o600, 0, 0), size, FOREVER_NS))
        file.seek(size + pax.pad(size), os.SEEK_CUR)
        file.write(maker.file_header(b"behind", (0o600, 0, 0), 0, FOREVER_NS) + bytes(1024))
    listed = subprocess.run([tar, "-tvf", tmp_path / "huge.tar"], capture_output=True, text=True, check=True).stdout
    first, second = listed.splitlines()
    assert str(size) in first.split()
    assert second.endswith("behind")


@pytest.mark.parametrize("rdev", [(OCTAL_7, 0), (0, OCTAL_7), (-1, 0)])
def test_what_no_header_can_say_is_refused_with_its_name(rdev: tuple[int, int]) -> None:
    planner = MemberPlanner(pax.HeaderMaker(Owners()), None)
    entry = FileEntry(b"/dev/odd", "c", rdev_major=rdev[0], rdev_minor=rdev[1])
    with pytest.raises(ArchiveError, match=r"^dev/odd: its tar header does not read back"):
        planner.plan(entry, [])


def longer(made: bytes) -> bytes:
    return made.replace(b"0\0", b"00\0", 1)


def shifted(made: bytes) -> bytes:
    return made[:-1]


def of_another_size(made: bytes) -> bytes:
    return made.replace(b"00000000005\0", b"00000000006\0", 1)


def without_checksum(made: bytes) -> bytes:
    place = len(made) - 512 + 148
    return made[:place] + b"007777" + made[place + 6 :]


@pytest.mark.parametrize("mistake", [longer, shifted, of_another_size, without_checksum])
@pytest.mark.parametrize("mtime_ns", [NS**2 + 1, -1])
def test_a_mistake_in_making_headers_ends_the_archive(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[bytes], bytes], mtime_ns: int
) -> None:
    """What the maker joins from its parts is spoilt in the way that a slip in the code would spoil it."""
    block = pax.ustar_block

    def spoilt(*args: Any, **more: Any) -> bytes:
        made = block(*args, **more)
        return made if args[1] == pax.EXTENDED else mistake(made)

    maker = pax.HeaderMaker(Owners())
    assert len(maker.file_header(b"f", (0o600, 1, 1), 5, mtime_ns)) == 1536
    monkeypatch.setattr(pax, "ustar_block", spoilt)
    with pytest.raises(ArchiveError, match=r"^f: its tar header does not read back"):
        maker.header(b"f", pax.REGULAR, (0o600, 1, 1), 5, mtime_ns)


def test_a_mistake_in_the_quick_way_ends_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = pax.HeaderMaker(Owners())
    maker.file_header(b"f", (0o600, 1, 1), 5, NS**2)
    monkeypatch.setattr(pax, "_QUICK_SECONDS", range(10**9, 10**10))
    with pytest.raises(ArchiveError, match=r"^f: its tar header does not read back"):
        maker.file_header(b"f", (0o600, 1, 1), 5, FOREVER_NS)
