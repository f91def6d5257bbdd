# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sparse members: the map, and what GNU tar, bsdtar and our reader restore from it."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive import pax
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError, Owners
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.sparse import (
    sparse_header_name,
    sparse_map,
    sparse_records,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.tar_reader import Member, iterate_members

BLOCK = 512


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Pieces of data in whole blocks, the last one perhaps cut at the end of the file; and the file's size."""
    steps = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), max_size=60))
    pieces = []
    place = 0
    for hole, data in steps:
        pieces.append((place + hole * BLOCK, data * BLOCK))
        place += (hole + data) * BLOCK
    cut: bool = draw(st.booleans())
    if pieces and cut:
        offset, length = pieces[-1]
        pieces[-1] = (offset, length - draw(st.integers(0, BLOCK - 1)))
        return pieces, sum(pieces[-1])
    return pieces, place + draw(st.integers(1 if not pieces else 0, 5000))


def build(pieces: list[tuple[int, int]], size: int) -> tuple[bytes, bytes]:
    """The archive of one sparse file, and the file's content."""
    content = bytearray(size)
    stored = b""
    for number, (offset, length) in enumerate(pieces):
        data = bytes([1 + number % 255]) * length
        content[offset : offset + length] = data
        stored += data
    lead = sparse_map(pieces, size)
    header = pax.HeaderMaker(Owners()).header(
        b"folder/sparse",
        pax.REGULAR,
        (0o644, 0, 0),
        len(lead) + len(stored),
        0,
        extra=sparse_records(b"folder/sparse", size),
        header_name=sparse_header_name(b"folder/sparse"),
    )
    return header + lead + stored + bytes(pax.pad(len(stored))) + bytes(1024), bytes(content)


@given(layouts())
def test_our_reader_expands_them(layout: tuple[list[tuple[int, int]], int]) -> None:
    archive, content = build(*layout)
    found = [(member.name, member.real_size, content_of(member)) for member in iterate_members(io.BytesIO(archive))]
    assert found == [(b"folder/sparse", len(content), content)]


def content_of(member: Member) -> bytes:
    return b"".join(member.content())


@given(layouts())
def test_raw_blocks_and_content_come_in_one_pass(layout: tuple[list[tuple[int, int]], int]) -> None:
    archive, content = build(*layout)
    found = io.BytesIO()

    class Collector:
        def update(self, data: bytes, /) -> None:
            found.write(data)

    for logical in (True, False):
        found.seek(0)
        found.truncate()
        for member in iterate_members(io.BytesIO(archive)):
            blocks = member.header + b"".join(member.raw(Collector(), logical=logical))
            stored = blocks[len(member.header) :][: member.size]
        assert blocks + bytes(1024) == archive
        assert found.getvalue() == (content if logical else stored)


@pytest.mark.parametrize("tar", ["tar", "bsdtar"])
@settings(max_examples=25)
@given(layouts())
def test_tars_restore_them(
    tmp_path_factory: pytest.TempPathFactory, tar: str, layout: tuple[list[tuple[int, int]], int]
) -> None:
    folder = tmp_path_factory.mktemp("sparse")
    archive, content = build(*layout)
    subprocess.run([tar, "--no-same-owner", "-xf", "-"], input=archive, cwd=folder, check=True)
    assert (folder / "folder/sparse").read_bytes() == content


@pytest.mark.parametrize(
    "damaged",
    [b"3\n0\n512\n", b"1\nx\n512\n", b"2\n512\n512\n0\n512\n", b"1\n0\n4096\n", b"1\n99999999\n512\n"],
    ids=["too short", "no number", "backwards", "more than is stored", "beyond the end"],
)
def test_a_damaged_map_is_refused(damaged: bytes) -> None:
    archive, _dummy = build([(512, 512)], 5000)
    lead = sparse_map([(512, 512)], 5000)
    place = archive.index(lead)
    broken = archive[:place] + damaged.ljust(len(lead), b"\0") + archive[place + len(lead) :]
    with pytest.raises(ArchiveError, match=r"folder/sparse: .*damaged"):
        list(iterate_members(io.BytesIO(broken)))


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu", "oldgnu"])
def test_the_forms_of_gnu_tar_are_read(tmp_path: Path, version: str) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for place in range(30):
            file.seek(place * 200_000)
            file.write(b"%d" % place * 1000)
        file.truncate(7_000_001)
    words = [f"--format={version}"] if version.endswith("gnu") else ["--format=posix", f"--sparse-version={version}"]
    subprocess.run(["tar", "--sparse", *words, "-cf", "a.tar", "sparse", "sparse"], cwd=tmp_path, check=True)
    with open(tmp_path / "a.tar", "rb") as stream:
        found = [(member.name, member.kind, member.real_size, content_of(member)) for member in iterate_members(stream)]
    content = (tmp_path / "sparse").read_bytes()
    assert found[0] == (b"sparse", "f", 7_000_001, content)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
