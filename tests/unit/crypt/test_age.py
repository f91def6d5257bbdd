# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The age format: vectors, and Debian's ``age`` both ways."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.age import (
    CHUNK_BYTES,
    GRAIN_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
    AgeError,
    Chunks,
    Named,
    Stanza,
    age_bytes,
    make_header,
    parse_header,
    plain_room,
    read_header,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_identities, parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.opening import OpenedFile
from ansible_collections.splitmirror.backup.tests.support.agekeys import (
    PUBLIC,
    PUBLIC_2,
    SECRET,
    SECRET_2,
    decrypt,
    encrypt,
    key_file,
    needs_age,
)

KEY = b"YELLOW SUBMARINE"
MINE, OTHER = parse_identities(SECRET), parse_identities(SECRET_2)
#: A header of the published tests (C2SP/CCTV): its key is KEY, for MINE.
PUBLISHED = rb"""age-encryption.org/v1
-> !"#$%&' ()*+,-./ 01234567 89:;<=>? @ABCDEFG HIJKLMNO

-> PQRSTUVW XYZ[\]^_ `abcdefg hijklmno pqrstuvw xyz{|}~

-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc
EmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U
--- x538z9xJq9XEK1aTTTv80aWDVvVdROvaXn2tpqXPC8g
"""
#: What age 1.1.1 made of the words "split mirror" for both keys.
BY_AGE = b"""age-encryption.org/v1
-> X25519 veV7b1NBsToApb8KK+VJvmtoAXnDWymBdRoRbMypykk
NdRS/r6vwxNioEYiszWpteWhFzTmWj1SQJP6I9ZShGw
-> X25519 tdW4KOXjSogYHjoF+f6VF36zhtFltrKnQCkt6NqIrjw
ZFjTwLEZ/W0t0BdNBTVtRXTWiSZP+s2UVbsflLUcNbY
--- H6573mS0s5xEr8y3qXGrWZBQ80vu1aaX6K8a/sOe75c
""" + bytes.fromhex("680a33897b60ae21ff8dbd38a1485be8f792699ac511f67663206d1ee59e09da630252e9e894fe33e0fdebb7")
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 77]


def plain_of(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def sealed(plain: bytes, *recipients: str, empty_end: bool = False, last: bool = True) -> bytes:
    """An age file of ours. :param empty_end: with an empty last chunk. :param last: with the mark of the last one."""
    chunks, nonce = Chunks(KEY, bytes(NONCE_BYTES)), bytes(NONCE_BYTES)
    pieces = [plain[place : place + CHUNK_BYTES] for place in range(0, len(plain), CHUNK_BYTES)] or [b""]
    pieces += [b""] * empty_end
    body = [chunks.seal(number, piece, last=last and number == len(pieces) - 1) for number, piece in enumerate(pieces)]
    named = Named("20260131T120000Z-db1-3f2a", 2, ("a", "b"))
    return make_header(KEY, parse_recipients(recipients or [PUBLIC], "recipients"), named) + nonce + b"".join(body)


def opened(data: bytes) -> OpenedFile:
    header, nonce, _rest = read_header(io.BytesIO(data))
    key = header.file_key(MINE)
    assert key is not None
    return OpenedFile(io.BytesIO(data), len(header.text), key, nonce)


def content(data: bytes) -> bytes:
    """All of an age file, proved to its end."""
    stream = opened(data)
    found = b"".join(iter(lambda: stream.read(100_000), b""))
    stream.prove_end()
    return found


def test_the_published_header() -> None:
    header = parse_header(PUBLISHED)
    assert header.file_key(MINE) == KEY
    assert header.file_key(OTHER) is None
    assert header.named is None
    assert b"".join(map(bytes, header.stanzas)) == PUBLISHED[22 : PUBLISHED.index(b"---")]


def test_a_file_by_age_byte_for_byte() -> None:
    header, nonce, rest = read_header(io.BytesIO(BY_AGE))
    key = header.file_key(OTHER)
    assert key is not None
    assert key == header.file_key(MINE)
    assert Chunks(key, nonce).seal(0, b"split mirror", last=True) == rest
    assert content(BY_AGE) == b"split mirror"


@pytest.mark.parametrize("size", SIZES)
def test_what_we_write_we_read(size: int) -> None:
    plain = plain_of(size)
    data = sealed(plain)
    assert content(data) == plain
    header = read_header(io.BytesIO(data))[0]
    assert header.named == Named("20260131T120000Z-db1-3f2a", 2, ("a", "b"))
    assert len(data) == age_bytes(len(header.text), size)


@needs_age
@pytest.mark.parametrize("size", SIZES)
def test_age_reads_what_we_write_and_we_what_it_writes(size: int, tmp_path: Path) -> None:
    plain = plain_of(size)
    data = sealed(plain, PUBLIC, PUBLIC_2)
    for secret in (SECRET, SECRET_2):
        assert decrypt(key_file(tmp_path, secret), data) == plain
    assert content(encrypt(plain, PUBLIC_2, PUBLIC)) == plain


def test_a_place_costs_one_chunk() -> None:
    plain = plain_of(5 * CHUNK_BYTES + 3)
    stream = opened(sealed(plain))
    for offset in (3 * CHUNK_BYTES - 1, 3 * CHUNK_BYTES, 0, 5 * CHUNK_BYTES + 2, 5 * CHUNK_BYTES + 3):
        stream.seek(offset)
        length = min(CHUNK_BYTES - offset % CHUNK_BYTES, len(plain) - offset)
        assert stream.read(CHUNK_BYTES) == plain[offset : offset + length]
        assert stream.has(offset)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_no_change_of_the_payload_goes_unnoticed(size: int) -> None:
    plain = plain_of(size)
    data = sealed(plain)
    begin = len(data) - age_bytes(-NONCE_BYTES, size)
    for place in (begin - NONCE_BYTES, begin, begin + size // 2, len(data) - 1):
        with pytest.raises(AgeError):
            content(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize(
    "data",
    [
        sealed(plain_of(2 * CHUNK_BYTES + 5))[:-1],
        sealed(plain_of(2 * CHUNK_BYTES + 5))[: -5 - 16],  # cut between two chunks
        sealed(plain_of(CHUNK_BYTES)) + b"x",
        sealed(plain_of(2 * CHUNK_BYTES), last=False),
        sealed(plain_of(CHUNK_BYTES), empty_end=True),
        sealed(b"")[:-16],
    ],
)
def test_no_other_end_goes_unnoticed(data: bytes) -> None:
    with pytest.raises(AgeError):
        content(data)


def test_chunks_in_another_order_are_refused() -> None:
    data = sealed(plain_of(3 * CHUNK_BYTES))
    begin = len(data) - 3 * SEALED_CHUNK_BYTES
    one, two, three = (
        data[place : place + SEALED_CHUNK_BYTES] for place in range(begin, len(data), SEALED_CHUNK_BYTES)
    )
    with pytest.raises(AgeError):
        content(data[:begin] + two + one + three)


def test_every_change_of_a_header_is_noticed() -> None:
    for text in (PUBLISHED, BY_AGE[: -12 - 16 - NONCE_BYTES]):
        for place in range(len(text)):
            for bit in range(8):
                wrong = text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :]
                try:
                    assert parse_header(wrong).file_key(MINE) is None
                except AgeError:
                    pass


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n", b"\r\n"),
        (b"-> X25519 ", b"-> X25519  "),
        (b"-> X25519", b"->X25519"),
        (b"w7U\n", b"w7V\n"),  # bits that are not used
        (b"w7U\n", b"w7U=\n"),
        (b"w7U\n", b"w7U\n\n"),
        (b"EmEC", b"EmE\nC"),
        (b"8g\n", b"8g \n"),
        (b"8g\n", b"8g"),
        (b"---", b"--"),
        (b"-> X25519 TEiF", b"-> X25519 x TEiF"),
        (b"TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc", b"A" * 43),  # a share that everybody knows the secret of
        (b"age-encryption.org/v1", b"age-encryption.org/v2"),
        (PUBLISHED, b""),
        (PUBLISHED[22:], b""),
    ],
)
def test_other_forms_of_a_header_are_refused(old: bytes, new: bytes) -> None:
    assert old in PUBLISHED
    with pytest.raises(AgeError):
        parse_header(PUBLISHED.replace(old, new)).file_key(MINE)


def test_a_long_body_of_a_stanza_is_read() -> None:
    for length in (48, 50, 96):
        text = bytes(parse_header(_with_body(bytes(length))).stanzas[0])
        assert re.fullmatch(rb"-> x\n([A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n", text)


def _with_body(body: bytes) -> bytes:
    return b"age-encryption.org/v1\n" + bytes(Stanza(("x",), body)) + b"--- " + b"A" * 43 + b"\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"age", b"\x1f\x8b" + bytes(100), bytes(512), PUBLISHED[:-3], b"age-encryption.org/v1\n" + b"-" * 70000],
)
def test_what_is_no_age_file(data: bytes) -> None:
    with pytest.raises(AgeError):
        read_header(io.BytesIO(data))


def test_our_header_makes_no_odd_lengths() -> None:
    recipients = parse_recipients([PUBLIC, PUBLIC_2], "recipients")
    for length in range(40):
        named = Named("s" * (length + 1), length, ("k" * 16,) * (length % 5 + 1))
        header = parse_header(make_header(KEY, recipients, named))
        assert header.named == named
        assert age_bytes(len(header.text), 512) % GRAIN_BYTES == 0
        assert header.file_key(OTHER) == KEY


def test_room_is_used_to_the_last_byte() -> None:
    for size in (
        0,
        1,
        15,
        16,
        17,
        18,
        SEALED_CHUNK_BYTES - 1,
        *range(SEALED_CHUNK_BYTES, SEALED_CHUNK_BYTES + 20),
        10 << 20,
    ):
        most = plain_room(300, 300 + NONCE_BYTES + size)
        if size < 16:
            assert most == -1
            continue
        assert age_bytes(300, most) <= 300 + NONCE_BYTES + size < age_bytes(300, most + 1)
