# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bech32 and the keys of age."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.crypt import bech32, primitives
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import (
    parse_identities,
    parse_recipients,
    read_identities,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.primitives import CryptError
from ansible_collections.splitmirror.backup.tests.support.agekeys import (
    FINGERPRINT,
    PUBLIC,
    PUBLIC_2,
    SECRET,
    SECRET_2,
    key_file,
)

ROOT = Path(__file__).resolve().parents[3]


def refused(call: Callable[[], object]) -> CryptError:
    with pytest.raises(CryptError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("prefix", "data", "text"),
    [
        # Valid strings of BIP 173, those that have whole bytes.
        ("a", "", "A12UEL5L"),
        ("abcdef", "00443214c74254b635cf84653a56d7c675be77df", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"),
        (
            "split",
            "c5f38b70305f519bf66d85fb6cf03058f3dde463ecd7918f2dc743918f2d",
            "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
        ),
    ],
)
def test_published_bech32(prefix: str, data: str, text: str) -> None:
    assert bech32.decode(text) == (prefix, bytes.fromhex(data))
    assert bech32.encode(prefix, bytes.fromhex(data)) == text.lower()


@pytest.mark.parametrize(
    "text", ["A12UeL5L", "a12uel5m", "1pzry9x0s0muk", "li1dgmt3", "pzry9x0s0muk", "x1b4n0q5v", "", PUBLIC[:-1]]
)
def test_what_is_not_bech32(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        bech32.decode(text)


def test_every_wrong_letter_of_a_key_is_noticed() -> None:
    for place in range(len(PUBLIC)):
        wrong = PUBLIC[:place] + ("q" if PUBLIC[place] != "q" else "p") + PUBLIC[place + 1 :]
        assert refused(lambda text=wrong: parse_recipients([text], "recipients")).option == "recipients"  # type: ignore[misc]


def test_a_secret_key_has_its_recipient() -> None:
    found = parse_identities(f"# a comment\n\n{SECRET}\r\n  {SECRET_2} ")
    assert [str(one.recipient) for one in found] == [PUBLIC, PUBLIC_2]
    assert found[0].recipient.fingerprint == FINGERPRINT
    assert SECRET not in repr(found)
    assert repr(found[0].secret) not in repr(found)


def test_recipients_are_taken_once() -> None:
    found = parse_recipients([PUBLIC, PUBLIC_2, f" {PUBLIC}\n"], "recipients")
    assert [str(one) for one in found] == [PUBLIC, PUBLIC_2]
    assert parse_recipients([], "recipients") == []


@pytest.mark.parametrize("text", ["", "age1", "ssh-ed25519 AAAA", PUBLIC.upper(), bech32.encode("age", b"short")])
def test_what_is_no_recipient_is_refused(text: str) -> None:
    error = refused(lambda: parse_recipients([PUBLIC, text], "recipients"))
    assert (error.option, error.code) == ("recipients", "option_invalid")


def test_a_secret_key_among_the_recipients_is_refused_and_not_shown() -> None:
    error = refused(lambda: parse_recipients([SECRET], "recipients"))
    assert error.code == "option_invalid"
    assert SECRET not in error.message


@pytest.mark.parametrize("text", ["", "# nothing", PUBLIC, SECRET[:-1], f"{SECRET}\nrubbish"])
def test_what_is_no_secret_key_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    for error in (
        refused(lambda: parse_identities(text)),
        refused(lambda: read_identities(str(key_file(tmp_path, text)))),
    ):
        assert error.code == "option_invalid"
        assert SECRET[20:-1] not in error.message


def test_a_file_of_keys_is_ours_alone(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    assert [one.recipient.fingerprint for one in read_identities(str(path))] == [FINGERPRINT]
    for mode in (0o640, 0o604, 0o602):
        path.chmod(mode)
        assert refused(lambda: read_identities(str(path))).code == "option_invalid"
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, code in (
        ("link", "key_missing"),
        ("none", "key_missing"),
        ("", "key_missing"),
        ("fifo", "option_invalid"),
    ):
        error = refused(lambda name=name: read_identities(str(tmp_path / name)))  # type: ignore[misc]
        assert (error.option, error.code) == ("identity_file", code)


def test_a_host_without_the_package_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "_IS_THERE", False)
    assert refused(lambda: parse_recipients([PUBLIC], "recipients")).code == "host_program"
    assert refused(lambda: parse_identities(SECRET)).code == "host_program"


def test_nobody_encrypts_to_a_key_of_the_documentation() -> None:
    pages = [path for folder in ("docs", "plugins", "roles") for path in (ROOT / folder).rglob("*.*")]
    texts = [path.read_text("utf-8") for path in pages if path.suffix in (".md", ".py", ".yml")]
    shown = {key for text in texts for key in re.findall(r"age1[a-z0-9]{50,}", text)}
    assert shown
    for key in shown:
        assert refused(partial(parse_recipients, [key], "recipients")).code == "option_invalid"
