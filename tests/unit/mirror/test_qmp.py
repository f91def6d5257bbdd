# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client of QEMU's protocol, against servers that answer as QEMU does, late, or not at all."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.qmp import Qmp, QmpError, QmpUnreachable

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": ["oob"]}}\r\n'
EVENT = b'{"event": "JOB_STATUS_CHANGE", "data": {"status": "running"}}\r\n'


@contextlib.contextmanager
def server(path: Path, greeting: bytes, *answers: bytes) -> Iterator[list[dict[str, object]]]:
    """Answer the requests of one client, each with the next of these lines; yield the requests as they come.

    The number of a request takes the place of ID in its answer. After the last one the connection ends.
    """
    asked: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _address = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(greeting)
                for answer in answers:
                    asked.append(json.loads(lines.readline()))
                    connection.sendall(answer.replace(b"ID", str(asked[-1]["id"]).encode()))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            thread.join()


OK = b'{"return": {}, "id": ID}\r\n'


def test_a_command_gets_its_answer_whatever_events_come_before_it(tmp_path: Path) -> None:
    other = b'{"return": "of another command", "id": 99}\r\n'
    halves = EVENT + other + b'{"return": {"status": "run'
    with (
        server(tmp_path / "s", GREETING, EVENT + OK, halves + b'ning"}, "id": ID}\n') as asked,
        Qmp(str(tmp_path / "s")) as qmp,
    ):
        assert qmp.ask("block-job-cancel", device="j", no_such=1) == {"status": "running"}
    assert [request["execute"] for request in asked] == ["qmp_capabilities", "block-job-cancel"]
    assert asked[1]["arguments"] == {"device": "j", "no-such": 1}


def test_a_refusal_is_said_in_the_words_of_qemu(tmp_path: Path) -> None:
    error = b'{"error": {"class": "GenericError", "desc": "Node sm is in use"}, "id": ID}\n'
    with (
        server(tmp_path / "s", GREETING, OK, error),
        Qmp(str(tmp_path / "s")) as qmp,
        pytest.raises(QmpError, match="QEMU refuses blockdev-del: Node sm is in use") as refused,
    ):
        qmp.ask("blockdev-del", node_name="sm")
    assert refused.value.reason == "Node sm is in use"


def test_a_socket_at_which_nobody_listens_is_told_from_one_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(QmpUnreachable, match=r"qmp_socket: .*No such file") as missing:
        Qmp(str(tmp_path / "s"))
    assert missing.value.gone
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(QmpUnreachable, match="Connection refused") as dead:
            Qmp(str(tmp_path / "s"))
        assert dead.value.gone
        listener.listen()
        with pytest.raises(QmpUnreachable, match="another client may have the connection") as busy:
            Qmp(str(tmp_path / "s"), timeout_s=0.05)
        assert not busy.value.gone


@pytest.mark.parametrize("greeting", [b"220 mail.example.org ESMTP\r\n", b'"QMP"\n', b'{"hello": 1}\n', b"\xff\n"])
def test_what_is_not_a_monitor_is_refused(tmp_path: Path, greeting: bytes) -> None:
    with server(tmp_path / "s", greeting), pytest.raises(QmpUnreachable, match="not a QMP monitor"):
        Qmp(str(tmp_path / "s"))


def test_a_connection_that_ends_is_no_answer(tmp_path: Path) -> None:
    with (
        server(tmp_path / "s", GREETING, OK),
        Qmp(str(tmp_path / "s")) as qmp,
        pytest.raises(QmpUnreachable, match="query-jobs: "),
    ):
        qmp.ask("query-jobs")
