# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The line server under good and bad clients, its timer, and the tiny client program."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import (
    CLIENT_SOURCE,
    LineError,
    NotRunning,
    Refused,
    call,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineserver import (
    MAX_REQUEST_BYTES,
    LineServer,
    Service,
)


class Echo(Service):
    """Answers with what it was sent; some ops fail, one stops the server, one sets the timer."""

    def __init__(self) -> None:
        self.server: Optional[LineServer] = None
        self.due: Optional[float] = None
        self.woken = threading.Event()
        self.entered, self.leave = threading.Event(), threading.Event()
        self.done: list[str] = []
        self.orphans: list[tuple[str, bool]] = []

    def orphaned(self, op: str, *, done: bool) -> None:
        self.orphans.append((op, done))

    def handle(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if op == "refuse":
            raise SplitMirrorError("volume: it is full; load another one.")
        if op == "break":
            raise ZeroDivisionError("by zero")
        if op == "busy":
            self.entered.set()
            assert self.leave.wait(20)
        self.done.append(op)
        if op == "timer":
            self.due = time.monotonic() + args["after_s"]
        if op == "big":
            return {"text": "x" * args["bytes"]}
        if op == "stop":
            assert self.server is not None
            self.server.stop()
        return {"op": op, "args": args}

    def events(self) -> list[dict[str, Any]]:
        return [{"seq": 1, "name": "began"}]

    def next_wakeup(self) -> Optional[float]:
        return self.due

    def on_wakeup(self) -> None:
        self.due = None
        self.woken.set()


class Running:
    """A server in a thread, for the tests to talk to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.service = Echo()
        self.server = self.service.server = LineServer(self.path, self.service)
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        here = os.getcwd()
        os.chdir(os.path.dirname(self.path))
        try:
            sock.connect(os.path.basename(self.path))
        finally:
            os.chdir(here)
        return sock


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / ("long" * 30)  # longer than a socket address can be
    folder.mkdir(mode=0o700)
    server = Running(folder / "holder.sock")
    yield server
    if server.thread.is_alive():
        server.server.stop()
    server.thread.join(10)
    assert not server.thread.is_alive()


def read_line(sock: socket.socket) -> dict[str, Any]:
    with sock.makefile("rb") as stream:
        answer: dict[str, Any] = json.loads(stream.readline())
        return answer


def test_answers_with_result_and_events(running: Running) -> None:
    reply = call(running.path, "echo", 10, path="/srv/données", number=3)
    assert reply == {
        "ok": True,
        "result": {"op": "echo", "args": {"path": "/srv/données", "number": 3}},
        "events": [{"seq": 1, "name": "began"}],
    }


def test_refusal_is_raised_with_its_sentence_and_events(running: Running) -> None:
    with pytest.raises(Refused) as caught:
        call(running.path, "refuse", 10)
    assert caught.value.message == "volume: it is full; load another one."
    assert caught.value.events == [{"seq": 1, "name": "began"}]


def test_unexpected_error_names_its_type_and_the_server_lives_on(running: Running) -> None:
    with pytest.raises(Refused, match="break: ZeroDivisionError: by zero"):
        call(running.path, "break", 10)
    assert call(running.path, "echo", 10)["ok"]


def test_socket_is_private(running: Running) -> None:
    assert stat.S_IMODE(os.stat(running.path).st_mode) == 0o600


def test_many_requests_on_one_connection_are_answered_in_order(running: Running) -> None:
    with running.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(b"".join(json.dumps({"op": f"n{number}"}).encode() + b"\n" for number in range(50)))
        answers = [json.loads(stream.readline())["result"]["op"] for _dummy in range(50)]
    assert answers == [f"n{number}" for number in range(50)]


@pytest.mark.parametrize(
    "line", [b"\n", b"no json\n", b"[]\n", b'{"op": 3}\n', b'{"op": "x", "args": []}\n', b"\xff\n"]
)
def test_bad_request_gets_an_error_and_the_connection_goes_on(running: Running, line: bytes) -> None:
    with running.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(line + b'{"op": "echo"}\n')
        assert json.loads(stream.readline())["ok"] is False
        assert json.loads(stream.readline())["ok"] is True


def test_too_long_a_request_is_refused_without_being_held(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(b"x" * (MAX_REQUEST_BYTES + 1))
        assert "longer than" in read_line(sock)["error"]
    assert call(running.path, "echo", 10)["ok"]


def test_silent_and_vanished_clients_hold_up_neither_requests_nor_the_timer(running: Running) -> None:
    with running.connect() as silent, running.connect() as half, running.connect() as greedy:
        half.sendall(b'{"op": "ec')
        greedy.sendall(b'{"op": "big", "args": {"bytes": 8000000}}\n')  # and never reads the answer
        running.connect().close()
        call(running.path, "timer", 10, after_s=0.01)
        assert running.service.woken.wait(10)
        assert silent.fileno() >= 0


def test_an_answer_larger_than_the_socket_buffer_arrives_whole(running: Running) -> None:
    assert len(call(running.path, "big", 10, bytes=5_000_000)["result"]["text"]) == 5_000_000


def test_stop_answers_first_and_removes_the_socket(running: Running) -> None:
    assert call(running.path, "stop", 10)["result"]["op"] == "stop"
    running.thread.join(10)
    assert not os.path.exists(running.path)
    with pytest.raises(NotRunning, match="no process answers"):
        call(running.path, "echo", 10)


def test_a_server_with_many_who_wait_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with contextlib.ExitStack() as waiting, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        for _client in range(10):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(path)
        with pytest.raises(LineError, match="accepts no more requests") as refusal:
            call(path, "echo", 10)
    assert not isinstance(refusal.value, NotRunning)


def test_a_server_does_not_end_in_the_midst_of_a_stop(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def late(fd: int, data: bytes) -> int:
        if threading.current_thread() is threading.main_thread() and data == b".":
            running.connect().close()  # wakes the server
            running.thread.join(0.3)
        return write(fd, data)

    monkeypatch.setattr(os, "write", late)
    running.server.stop()
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_watched_descriptor_calls_back_at_its_end(running: Running) -> None:
    read_end, write_end = os.pipe()
    seen = threading.Event()

    def ended() -> None:
        running.server.unwatch(read_end)
        seen.set()

    running.server.watch(read_end, ended)
    os.close(write_end)
    assert seen.wait(10)
    os.close(read_end)


def test_second_server_on_a_served_socket_is_refused(running: Running) -> None:
    with pytest.raises(LineError, match="another process serves"):
        LineServer(running.path, Echo())
    assert call(running.path, "echo", 10)["ok"]


def test_a_descriptor_that_is_watched_no_more_calls_nobody_back(running: Running) -> None:
    """Both are readable at once, so that the loop has learned of both when it calls the first one back."""
    called: list[int] = []
    pipes = [os.pipe(), os.pipe()]

    def only_once(number: int) -> None:
        called.append(number)
        for read_end, _write_end in pipes:
            running.server.unwatch(read_end)

    with contextlib.closing(running.connect()) as client:
        client.sendall(b'{"op": "busy"}\n')
        assert running.service.entered.wait(20)
        for number, (read_end, write_end) in enumerate(pipes):
            running.server.watch(read_end, functools.partial(only_once, number))
            os.write(write_end, b".")
        running.service.leave.set()
        client.recv(4096)
    call(running.path, "echo", 10)
    for ends in pipes:
        for end in ends:
            os.close(end)
    assert len(called) == 1


def test_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "holder.sock"))
    server = Running(folder / "holder.sock")
    assert call(server.path, "stop", 10)["ok"]
    server.thread.join(10)


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    (folder / "holder.sock").write_text("precious")
    with pytest.raises(LineError, match="cannot be made"):
        LineServer(str(folder / "holder.sock"), Echo())
    assert (folder / "holder.sock").read_text() == "precious"


def test_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(LineError, match="open to other users"):
        LineServer(str(folder / "holder.sock"), Echo())


def test_process_that_ends_in_mid_answer_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "x.sock"))
        listener.listen()

        def break_off() -> None:
            sock, _dummy = listener.accept()
            sock.recv(4096)
            sock.close()

        thread = threading.Thread(target=break_off)
        thread.start()
        with pytest.raises(LineError, match="ended before it answered"):
            call(str(folder / "x.sock"), "echo", 10)
        thread.join(10)


def test_no_answer_in_time_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "x.sock"))
        listener.listen()
        with pytest.raises(LineError, match=r"no answer from .* within 0.05 s"):
            call(str(folder / "x.sock"), "echo", 0.05)


def client(path: str, line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", CLIENT_SOURCE, path, line]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_client_program_prints_the_answer(running: Running) -> None:
    done = client(running.path, '{"op": "echo", "args": {"a": 1}}')
    assert done.returncode == 0
    assert json.loads(done.stdout)["result"] == {"op": "echo", "args": {"a": 1}}


def test_client_program_tells_refusal_from_absence(running: Running, tmp_path: Path) -> None:
    refused = client(running.path, '{"op": "refuse"}')
    assert (refused.returncode, json.loads(refused.stdout)["ok"]) == (1, False)
    absent = client(str(tmp_path / "none.sock"), '{"op": "echo"}')
    assert absent.returncode == 2
    assert "no answer" in absent.stderr
    assert absent.stdout == ""


def test_stop_from_a_signal_handler_ends_the_loop(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    server = LineServer(str(folder / "x.sock"), Echo())
    before = signal.signal(signal.SIGALRM, lambda number, frame: server.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        server.serve()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not (folder / "x.sock").exists()


def test_what_a_dead_client_has_asked_is_dropped(running: Running) -> None:
    service = running.service
    with running.connect() as patient, running.connect() as dead, running.connect() as half:
        patient.sendall(b'{"op": "busy"}\n')
        assert service.entered.wait(20)
        dead.sendall(b'{"op": "dead"}\n')
        dead.close()
        half.sendall(b'{"op": "half"}\n')
        half.shutdown(socket.SHUT_WR)
        service.leave.set()
        assert read_line(patient)["ok"]
        assert not read_line(half)["ok"]
    assert call(running.path, "echo", 10)["ok"]

    assert service.done == ["busy", "echo"]
    assert sorted(service.orphans) == [("dead", False), ("half", False)]


def test_what_was_done_for_a_client_that_died_meanwhile_is_told_to_the_service(running: Running) -> None:
    service = running.service
    with running.connect() as sock:
        sock.sendall(b'{"op": "busy"}\n')
        assert service.entered.wait(20)
    service.leave.set()
    assert call(running.path, "echo", 10)["ok"]

    assert service.orphans == [("busy", True)]


def test_client_program_is_gone_with_its_input_while_it_waits(running: Running) -> None:
    """The ssh of a controller that dies leaves nothing but the end of its input."""
    command = [sys.executable, "-I", "-S", "-c", CLIENT_SOURCE, running.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin is not None
        program.stdin.write(b'{"op": "busy"}\n')
        program.stdin.flush()
        assert running.service.entered.wait(20)

        program.stdin.close()

        assert program.wait(20) == 2
    running.service.leave.set()
    assert call(running.path, "echo", 10)["ok"]
    assert running.service.orphans == [("busy", True)]


def test_client_program_answers_lines_that_come_at_once(running: Running) -> None:
    command = [sys.executable, "-I", "-S", "-c", CLIENT_SOURCE, running.path]
    lines = "".join(json.dumps({"op": "echo", "args": {"n": number}}) + "\n" for number in range(3))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(lines.encode())
        program.stdin.flush()
        answers = [program.stdout.readline() for _line in range(4)][1:]
        program.stdin.close()
        assert program.wait(20) == 0
    assert [json.loads(answer)["result"]["args"]["n"] for answer in answers] == [0, 1, 2]
