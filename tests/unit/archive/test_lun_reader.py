# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which reads are done together, and the reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.lun_reader import (
    MAX_READ_BYTES,
    LunReader,
    ReadFault,
    coalesce,
    page_buffer,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError

REQUESTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3000), st.integers(1, 60)).map(
        lambda r: (r[0], r[1] * 4096, r[2] * 1000)
    ),
    max_size=80,
)


@given(REQUESTS, st.integers(0, 200_000), st.sampled_from([20_000, 100_000, MAX_READ_BYTES]))
def test_every_request_is_read_once_in_physical_order(wanted: list[tuple[int, int, int]], gap: int, most: int) -> None:
    requests = [(lun, physical, length, number) for number, (lun, physical, length) in enumerate(wanted)]
    tasks = coalesce(requests, gap, most)
    read = [(task.lun, *piece) for task in tasks for piece in task.pieces]
    assert read == sorted(requests)
    for task in tasks:
        assert task.start == task.pieces[0][0]
        assert task.end == max(physical + length for physical, length, _dummy in task.pieces)
        assert task.end - task.start <= most or len(task.pieces) == 1
        end = task.start
        for physical, length, _dummy in task.pieces:
            assert physical <= end + gap
            end = max(end, physical + length)
    for before, after in zip(tasks, tasks[1:]):
        joined = max(before.end, after.end) - before.start
        assert before.lun != after.lun or after.start > before.end + gap or joined > most


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Three LUNs that differ at each offset."""
    folder = tmp_path_factory.mktemp("luns")
    blob = os.urandom(1 << 16)
    images = {folder / str(lun): (blob[lun:] + blob[:lun]) * 200 for lun in range(3)}
    for path, data in images.items():
        path.write_bytes(data)
    return images


@given(REQUESTS, st.sampled_from([512, 4096]))
def test_pieces_land_in_their_places_filled_up_with_zeros(
    images: dict[Path, bytes], wanted: list[tuple[int, int, int]], block_bytes: int
) -> None:
    readers = [LunReader(lun, str(path)) for lun, path in enumerate(images)]
    for reader in readers:
        reader.block_bytes = block_bytes  # that of a device; a plain file tells none
    data = list(images.values())
    requests = []
    expected = b""
    for lun, physical, length in wanted:
        requests.append((lun, physical, length, len(expected)))
        expected += data[lun][physical : physical + length] + bytes(-length % 512)
    ring = page_buffer(len(expected) + 512)
    ring[:] = b"?" * len(ring)
    bounce = page_buffer(readers[0].bounce_bytes)
    for task in coalesce(requests, 100_000):
        readers[task.lun].read(task, ring, bounce)
    assert bytes(ring) == expected + b"?" * 512
    for reader in readers:
        reader.close()


def test_a_long_extent_is_read_through_a_short_buffer(tmp_path: Path) -> None:
    data = os.urandom(5 * MAX_READ_BYTES)
    (tmp_path / "lun").write_bytes(data)
    reader = LunReader(1, str(tmp_path / "lun"))
    ring = page_buffer(4 * MAX_READ_BYTES)
    (task,) = coalesce([(1, 1536, 3 * MAX_READ_BYTES + 77, 512)], 0)
    reader.read(task, ring, page_buffer(reader.bounce_bytes))
    assert bytes(ring[512 : 512 + task.end - task.start]) == data[task.start : task.end]


def test_a_device_that_wants_other_memory_is_read_through_a_buffer(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "lun").write_bytes(data)
    reader = LunReader(1, str(tmp_path / "lun"))
    ring, bounce = page_buffer(1 << 20), page_buffer(reader.bounce_bytes)
    (task,) = coalesce([(1, 4096, 300_000, 512)], 0)
    plan = reader.plan(task)
    assert plan is not None
    assert plan.place == 512
    reader.finish(task, plan, -errno.EINVAL, ring, bounce)
    assert bytes(ring[512 : 512 + 300_000]) == data[4096 : 4096 + 300_000]
    later = reader.plan(task)
    assert later is not None
    assert later.place is None
    ring[:] = bytes(len(ring))
    reader.finish(task, later, later.length - 512, ring, bounce)
    assert bytes(ring[512 : 512 + 300_000]) == data[4096 : 4096 + 300_000]


def test_the_end_of_a_device_is_a_fault_of_the_file_that_lies_there(tmp_path: Path) -> None:
    data = os.urandom(64 << 10)
    (tmp_path / "lun").write_bytes(data)
    reader = LunReader(4, str(tmp_path / "lun"))
    ring = page_buffer(1 << 20)
    (task,) = coalesce([(4, 40 << 10, 4096, 0), (4, 60 << 10, 8192, 8192)], 1 << 20)
    with pytest.raises(ReadFault) as caught:
        reader.read(task, ring, page_buffer(reader.bounce_bytes))
    assert (caught.value.lun, caught.value.place) == (4, 8192)
    assert 60 << 10 <= caught.value.physical <= 64 << 10
    assert bytes(ring[:4096]) == data[40 << 10 : 44 << 10]


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"device: .*/nowhere cannot be opened .*No such file"):
        LunReader(1, str(tmp_path / "nowhere"))
