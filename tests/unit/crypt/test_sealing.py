# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records of an age file, encrypted by a process of its own."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.age import NONCE_BYTES, make_header
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.opening import OpenedFile
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.primitives import CryptError
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.sealing import Sealer, SealingSink
from ansible_collections.splitmirror.backup.tests.support.agekeys import PUBLIC

KEY = b"k" * 16
HEAD = make_header(KEY, parse_recipients([PUBLIC], "recipients")) + bytes(NONCE_BYTES)


class Full(Exception):
    """The sink takes no more."""


class Tape:
    """Keeps the records, up to ``most``."""

    def __init__(self, most: Optional[int] = None) -> None:
        self.records: list[bytes] = []
        self._most = most

    def write_record(self, record: memoryview) -> None:
        if len(self.records) == self._most:
            raise Full
        self.records.append(bytes(record))


@pytest.fixture
def sealer() -> Iterator[Sealer]:
    with Sealer() as made:
        yield made


def seal(sealer: Sealer, tape: Tape, record_bytes: int, count: int) -> tuple[SealingSink, bytes]:
    """Seal records that differ; returns the sink and what went in."""
    plain = b"".join(number.to_bytes(8, "big") * (record_bytes // 8) for number in range(count))
    sink = SealingSink(sealer, tape, record_bytes, KEY, HEAD)
    for place in range(0, len(plain), record_bytes):
        sink.write_record(memoryview(plain)[place : place + record_bytes])
    sink.finish()
    return sink, plain


def content(tape: Tape) -> bytes:
    stream = OpenedFile(io.BytesIO(b"".join(tape.records)), len(HEAD) - NONCE_BYTES, KEY, bytes(NONCE_BYTES))
    found = b"".join(iter(lambda: stream.read(1 << 20), b""))
    stream.prove_end()
    return found


def test_files_of_all_shapes_one_after_another(sealer: Sealer) -> None:
    # The windows hold 8 MiB, or four records; both rings go round in the largest ones.
    for record_bytes, counts in ((512, (1, 128, 257)), (3 << 20, (0, 1, 5)), (1 << 20, (19,)), (10240, (0, 7, 900))):
        for count in counts:
            tape = Tape()
            sink, plain = seal(sealer, tape, record_bytes, count)
            assert content(tape) == plain
            lengths = [len(record) for record in tape.records]
            tail = [length for length in lengths if length != record_bytes]
            assert lengths == [record_bytes] * (len(lengths) - len(tail)) + tail
            assert len(tail) <= 2
            assert all(0 < length <= record_bytes // 2 for length in tail)
            assert tail[:-1] in ([], [record_bytes // 2])
            assert (sink.records, sink.age_bytes) == (len(tape.records), sum(map(len, tape.records)))


def test_a_full_sink_ends_a_file_and_the_next_one_is_whole(sealer: Sealer) -> None:
    for most in (0, 1, 9):
        with pytest.raises(Full):
            seal(sealer, Tape(most), 1 << 20, 12)
        tape = Tape()
        _sink, plain = seal(sealer, tape, 1 << 19, 3)
        assert content(tape) == plain


def test_the_end_of_the_process_is_an_error_and_not_a_wait(sealer: Sealer) -> None:
    sink = SealingSink(sealer, Tape(), 1 << 20, KEY, HEAD)
    sink.write_record(memoryview(bytes(1 << 20)))
    os.kill(sealer.pid, signal.SIGKILL)
    with pytest.raises(CryptError) as caught:
        sink.finish()
    assert caught.value.code == "process_failed"


def test_nothing_of_ours_stays_open_in_the_process() -> None:
    reader, writer = os.pipe()
    with Sealer(), open(reader, "rb") as stream:
        os.close(writer)
        assert stream.read() == b""  # the process has no end of it
