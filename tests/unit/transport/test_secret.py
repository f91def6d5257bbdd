# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The secret of a session: never in an argument, in no message, and in files of root's alone."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.presenting import Route
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.initiator import keep_secret
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import (
    TransportError,
    label_of,
    target_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import chap_of, user_prefix
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.tgt import add_account, read_accounts

TARGET, OTHER = (target_of("20260131T020000Z-db1-9f3c", pairs) for pairs in (["data"], ["wal"]))
SECRET = "x" * 32
RECORD = """# BEGIN RECORD 2.1.8
node.name = iqn.x
node.session.auth.authmethod = None
node.session.auth.chap_algs = MD5
node.conn[0].address = 10.0.0.1
# END RECORD
"""


def test_accounts_tell_their_target_and_hide_their_secrets() -> None:
    chap = chap_of(TARGET, SECRET)
    assert all(user.startswith(f"{label_of(TARGET)}:") for user in (chap.user, chap.target_user))
    assert user_prefix(TARGET) == f"{label_of(TARGET)}:"
    assert chap.target_secret not in repr(chap)
    assert SECRET not in repr(chap) + repr(Route.of("lio", "iqn.2026-01.a:b", "10.0.0.1", "10.0.0.2", SECRET))
    assert chap.user != chap_of(TARGET, "y" * 32).user
    assert chap.user != chap_of(OTHER, SECRET).user


def test_the_two_sides_have_names_and_secrets_of_their_own() -> None:
    """RFC 3720, 8.2.1: an initiator must not take its own secret from a target."""
    all_of_them = [chap_of(target, secret) for target in (TARGET, OTHER) for secret in (SECRET, "y" * 32)]
    assert len({one.target_secret for one in all_of_them} | {one.secret for one in all_of_them}) == 4 + 2
    assert len({one.target_user for one in all_of_them} | {one.user for one in all_of_them}) == 8


@pytest.mark.parametrize(
    "secret", ["", "short", "x" * 21, "x" * 256, "x" * 30 + ",", "x" * 30 + "\n", "x" * 30 + "\u00e9"]
)
def test_a_secret_that_may_be_guessed_or_misread_is_refused(secret: str) -> None:
    with pytest.raises(TransportError, match="chap_secret: give 22 to 255") as refused:
        chap_of(TARGET, secret)
    assert not secret or secret not in refused.value.message


def test_an_export_without_a_secret_is_refused() -> None:
    with pytest.raises(TransportError, match="chap_secret: transport tgt needs it"):
        Route.of("tgt", "iqn.2026-01.a:b", "10.0.0.1", "10.0.0.2").chap(TARGET)


@pytest.mark.parametrize("place", ["10.0.0.1,3260", "10.0.0.1,3260,1/default"])
def test_a_record_gets_the_secret_and_is_closed_to_others(tmp_path: Path, place: str) -> None:
    record = tmp_path / "nodes" / "iqn.x" / place
    record.parent.mkdir(parents=True)
    record.write_text(RECORD)
    record.chmod(0o644)
    chap = chap_of(TARGET, SECRET)
    for _again in range(2):
        keep_secret("iqn.x", chap, [str(tmp_path / "nodes")])
        lines = record.read_text().splitlines()
        assert lines[-6:] == [
            "node.session.auth.authmethod = CHAP",
            f"node.session.auth.username = {chap.user}",
            f"node.session.auth.password = {SECRET}",
            f"node.session.auth.username_in = {chap.target_user}",
            f"node.session.auth.password_in = {chap.target_secret}",
            "# END RECORD",
        ]
        assert sum("auth." in line for line in lines) == 5
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
    with pytest.raises(TransportError, match="keeps no record"):
        keep_secret("iqn.y", chap, [str(tmp_path / "nodes")])


@pytest.mark.parametrize(("answer", "taken"), [(0, True), (12, False), (None, False)])
def test_tgtd_is_told_by_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None, taken: bool
) -> None:
    monkeypatch.setenv("TGT_IPC_SOCKET", str(tmp_path / "socket"))
    got: list[bytes] = []
    chap = chap_of(TARGET, SECRET)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "socket.0"))
        door.listen()

        def tgtd() -> None:
            line, _name = door.accept()
            with line:
                got.append(line.recv(4096))
                if answer is not None:
                    line.sendall(struct.pack("=II", answer, 8))

        thread = threading.Thread(target=tgtd)
        thread.start()
        if taken:
            add_account(chap.user, chap.secret)
        else:
            with pytest.raises(TransportError, match="tgtd refuses the account") as refused:
                add_account(chap.user, chap.secret)
            assert SECRET not in refused.value.message
        thread.join()
    head, parameters = got[0][:120], got[0][120:]
    # As tgtadm 1.0.85 sends it.
    assert struct.unpack_from("=ii64sIi", head) == (7, 0, b"iscsi" + bytes(59), len(got[0]), -1)
    assert parameters == f"user={chap.user},password={SECRET}".encode() + b"\0"


def test_no_tgtd_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGT_IPC_SOCKET", str(tmp_path / "socket"))
    with pytest.raises(TransportError, match="tgtd does not run"):
        add_account("user", SECRET)


def test_accounts_as_tgtadm_shows_them() -> None:
    assert read_accounts("Account list:\n    a:1\n    b\n") == ["a:1", "b"]
    assert read_accounts("Account list:\n") == []
    assert os.sep not in user_prefix(TARGET)
