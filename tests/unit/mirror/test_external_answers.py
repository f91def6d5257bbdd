# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider external before servers and programs that keep to no rule: no answer is taken for another, or waited for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Union

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.external_link import Job, read_secrets
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for

SESSION = "20260131T020000Z-db1-9f3c"
PAIRS = [{"name": name, "primary": f"{name}.img", "mirror": f"{name}.snap"} for name in ("t0", "t1")]
#: What a server sends, byte for byte, or what it does with the connection.
Said = Union[bytes, Callable[[socket.socket], None]]
#: After that a server gives up to be slow, and says that all is well.
PATIENCE_S = 20.0


def answer(body: object, status: int = 200, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


OK = answer({"id": 7, "state": "done"})


class Server:
    """A server that says what it is told to, by method and path. :ivar asked: these, in order."""

    def __init__(self) -> None:
        self.says: dict[str, Said] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.ended.set()
        # A thread that waits in accept is not woken by a close, and may go on with the next socket of that number.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                method, path, _version = line.decode().split()
                length = 0
                while (header := stream.readline().strip().lower()) != b"":
                    length = int(header[15:]) if header.startswith(b"content-length:") else length
                stream.read(length)
                asked = f"{method} {path.partition('/api')[2]}"
                self.asked.append(asked)
                said = self.says.get(asked, OK)
                if callable(said):
                    said(connection)
                    return
                connection.sendall(said)
                if (
                    b"Connection: close" in said
                    or said.startswith(b"HTTP/1.0")
                    or not (b"Length" in said or b"chunked" in said)
                ):
                    return

    def drip(self, head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
        """A little every now and then; in the end an answer that is right."""

        def drips(connection: socket.socket) -> None:
            connection.sendall(head)
            for _second in range(int(PATIENCE_S * 10)):
                if self.ended.wait(0.1):
                    return
                connection.sendall(drop)
            connection.sendall(b"\r\n\r\n")

        return drips


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def http(server: Server, **changed: Any) -> dict[str, Any]:
    of_all = {"kind": "http", "address": server.address, "atomic_set": True, "timeout_s": 30, "ready_timeout_s": 30}
    return {**of_all, "split": {"path": "/split"}, "undo": {"path": "/undo", "method": "DELETE"}, **changed}


def provider_of(tmp_path: Path, options: Mapping[str, Any], **secrets: str) -> MirrorProvider:
    return make_provider("external", PAIRS, str(tmp_path / "state"), options, secrets)


def fails(action: Callable[[], object]) -> str:
    with pytest.raises(MirrorError) as failed:
        action()
    return failed.value.message


# ---- servers ----


@pytest.mark.parametrize(
    "said",
    [
        OK,
        answer({"id": 7}, 200, "Connection: close"),
        b'HTTP/1.1 200 OK\r\n\r\n{"id": 7}',
        b'HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{"id": 7}',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"id\r\n5\r\n": 7}\r\n0\r\n\r\n',
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
def test_an_answer_is_read_however_it_ends(tmp_path: Path, server: Server, said: bytes) -> None:
    server.says["GET /arm"] = server.says["GET /split"] = said
    options = http(server, timeout_s=30, arm={"path": "/arm", "keep": {"id": "/id"}, "expect": {"/id": 7}})
    prepared = provider_of(tmp_path, options).prepare(SESSION)
    assert len(prepared.split().pairs) == 2
    prepared.cancel()
    assert server.asked == ["GET /arm", "GET /split", "DELETE /undo"]


@pytest.mark.slow
def test_an_answer_that_is_not_whole_or_not_in_time_is_none(tmp_path: Path, server: Server) -> None:
    """The split would have been done, by the status alone; and a socket's timeout begins anew with each byte."""
    right = b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"id'
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    late = "did not answer in time"
    cases: list[tuple[Said, str]] = [
        (lambda connection: connection.sendall(right), "IncompleteRead"),
        (lambda connection: connection.sendall(chunks + b"9\r\n{"), "IncompleteRead"),
        (lambda connection: connection.sendall(chunks + b"zz\r\n{"), "failed to answer"),
        (lambda connection: None, "failed to answer"),
        (lambda connection: connection.sendall(b"SSH-2.0\r\n"), "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b" " * 99999999, "longer than"),
        (server.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ", b"x"), late),
        (server.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b" "), late),
        (server.drip(chunks, b"1\r\n \r\n"), late),
        (server.drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), late),
        (server.drip(b"", b""), late),
    ]
    for said, words in cases:
        server.says["GET /split"] = said
        timeout_s = 0.5 if words == late else 30
        prepared = provider_of(tmp_path, http(server, timeout_s=timeout_s)).prepare(SESSION)
        assert words in fails(prepared.split)
        prepared.cancel()
        assert server.asked[-1] == "DELETE /undo"


def test_a_poll_that_is_accepted_is_not_done(tmp_path: Path, server: Server) -> None:
    poll = {"path": "/job", "pointer": "/state", "done": ["done"], "interval_s": 0.05}
    server.says["GET /job"] = answer({"state": "done"}, 202)
    options = http(server, split={"path": "/split", "poll": poll}, timeout_s=0.5)
    prepared = provider_of(tmp_path, options).prepare(SESSION)
    assert "in time" in fails(prepared.split)
    prepared.cancel()


def test_an_undo_of_several_requests_ends_where_there_is_nothing(tmp_path: Path, server: Server) -> None:
    server.says["GET /find"] = answer({}, 404)
    undo = [{"path": "/find", "keep": {"id": "/id"}}, {"path": "/snapshots/{id}", "method": "DELETE"}]
    provider = provider_of(tmp_path, http(server, undo=undo))
    provider.prepare(SESSION).cancel()
    assert server.asked == ["GET /find"]
    del server.says["GET /find"]
    provider.prepare(SESSION).cancel()
    assert server.asked[1:] == ["GET /find", "DELETE /snapshots/7"]


def test_what_an_undo_is_to_be_done_for_is_found_by_values_of_any_type(tmp_path: Path, server: Server) -> None:
    server.says["GET /list"] = answer([{"id": 1, "ours": True, "n": 2}, {"id": 2, "ours": False, "n": 2}])
    each = {"path": "/list", "where": {"/ours": True, "/n": 2}, "keep": {"id": "/id"}}
    undo = {"path": "/{id}", "method": "DELETE", "for_each": each}
    provider_of(tmp_path, http(server, undo=undo)).prepare(SESSION).cancel()
    assert server.asked == ["GET /list", "DELETE /1"]
    # A name that no entry has is misspelt; taken for "nothing is there" it would leave everything.
    undo["for_each"] = {**each, "where": {"/nobody": "{short}"}}
    prepared = provider_of(tmp_path, http(server, undo=undo)).prepare(SESSION)
    assert "undo: for_each: the answer has to have values at /nobody in its list" in fails(prepared.cancel)
    server.says["GET /list"] = answer([])
    prepared.cancel()


LOGIN = {"method": "POST", "path": "/login", "keep": {"token": "/token"}}


def test_a_login_that_fails_is_what_is_told_and_may_succeed_later(tmp_path: Path, server: Server) -> None:
    options = http(
        server,
        login=LOGIN,
        logout={"method": "DELETE", "path": "/login/{token}"},
        headers={"X-Token": "{token}"},
        keep_alive={"path": "/alive"},
    )
    server.says["POST /login"] = answer({"error": "too many users"}, 503)
    provider = provider_of(tmp_path, options)
    assert "the array refuses the login (503" in fails(lambda: provider.prepare(SESSION))
    server.says["POST /login"] = answer({"token": "t1"})
    prepared = provider.prepare(SESSION)
    # It expires while the split is armed, and cannot be renewed at once.
    server.says["GET /alive"] = answer({}, 401)
    server.says["POST /login"] = answer({}, 503)
    for _time in range(2):
        assert "the array refuses the login (503" in fails(prepared.flush)
    server.says["POST /login"] = answer({"token": "t2"})
    del server.says["GET /alive"]
    prepared.flush()
    prepared.split()
    prepared.cancel()
    assert server.asked[-1] == "DELETE /login/t2"


def test_a_host_that_cannot_be_a_name_is_told(tmp_path: Path, server: Server) -> None:
    options = http(server, address=f"https://{'a' * 70}.example.org/api")
    assert "address: there is no connection to" in fails(lambda: provider_of(tmp_path, options).prepare(SESSION))


# ---- secrets ----

SECRETS = ['pa"ss\\word', "grüße€", "two  blanks", "ends with it\n", "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END"]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_not_quoted_in_any_form(secret: str) -> None:
    job = Job(SESSION, (), {"a": secret})
    said = {"error": f"no user {secret}"}
    for text in (json.dumps(said), json.dumps(said, ensure_ascii=False), repr(said), said["error"], repr(secret)):
        quoted = job.quote(text)
        assert not any(line.strip() in quoted for line in secret.splitlines()), quoted
        assert "********" in quoted
        for escaped in (json.dumps(secret.strip())[1:-1], " ".join(secret.split())):
            assert escaped not in quoted


@pytest.mark.parametrize("secret", ["hunter2\n", "hunter2\r\nX: y", "hunter2€"])
def test_a_secret_that_no_header_can_hold_is_told_without_it(tmp_path: Path, server: Server, secret: str) -> None:
    options = http(server, headers={"X-Key": "{secret.key}"}, arm={"path": "/arm"})
    message = fails(lambda: provider_of(tmp_path, options, key=secret).prepare(SESSION))
    assert "headers: the value of X-Key has a character that HTTP does not allow" in message
    assert "hunter2" not in message


def test_neither_token_nor_password_is_quoted_of_an_answer(tmp_path: Path, server: Server) -> None:
    said = {"tokn": "token-of-this-session", "list": ["token-of-this-session"]}
    for changed in ({"keep": {"token": "/token"}}, {"expect": {"/ok": True}}):
        server.says["POST /login"] = answer(said)
        message = fails(partial(provider_of(tmp_path, http(server, login={**LOGIN, **changed})).prepare, SESSION))
        assert '"tokn"' in message
        assert "token-of-this-session" not in message
    # Later answers may repeat it, and what was sent.
    server.says["POST /login"] = answer({"token": "token-of-this-session"})
    server.says["GET /arm"] = answer("token-of-this-session, Basic bWU6aHVudGVyMg==, hunter2", 500)
    options = http(server, login=LOGIN, arm={"path": "/arm"}, basic_auth="me:{secret.password}")
    message = fails(lambda: provider_of(tmp_path, options, password="hunter2").prepare(SESSION))
    assert message.endswith("********, Basic ********, ********")


def test_a_problem_that_the_array_reports_is_told_without_the_secrets(tmp_path: Path) -> None:
    said = json.dumps({"problem": "nobody has hunter2", "mark": None})
    look = [sys.executable, "-c", "import sys; print(sys.argv[1])", said, "{pair}"]
    options = {"kind": "command", "split": ["true"], "undo": ["true"], "look": look}
    assert "nobody has ********" in fails(lambda: provider_of(tmp_path, options, a="hunter2").prepare(SESSION))


def test_a_file_of_secrets_that_nobody_fills_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "mode 0600" in fails(lambda: read_secrets(str(tmp_path / "fifo")))


# ---- programs ----


def program(tmp_path: Path, text: str, **changed: Any) -> dict[str, Any]:
    """The options of kind program. :param text: what it does when it is ready."""
    path = tmp_path / "program"
    path.write_text(
        "import json, os, subprocess, sys, time\n"
        "def say(**said): print(json.dumps(said), flush=True)\n"
        "hello = json.loads(sys.stdin.readline())\n" + text,
        encoding="utf-8",
    )
    return {"kind": "program", "program": [sys.executable, "-IS", str(path)], "ready_timeout_s": 30, **changed}


SERVE = """
say(ready=True)
for line in sys.stdin:
    op = json.loads(line)["op"]
"""


@pytest.mark.parametrize(
    "text",
    [
        # Ready twice; what it did at the start; a half line; a line that would pass for a split.
        "say(ready=True); say(ready=True)",
        "say(ready=True); print('Welcome', end='', flush=True)",
        "say(ready=True); say(ok=True, pairs=['t0', 't1'])",
    ],
)
def test_a_line_that_nobody_asked_for_is_not_an_answer(tmp_path: Path, text: str) -> None:
    text += f"\nopen({str(tmp_path / 'said')!r}, 'w').close()\nfor line in sys.stdin: say(ok=True, pairs=['t0', 't1'])"
    prepared = provider_of(tmp_path, program(tmp_path, text)).prepare(SESSION)
    wait_for((tmp_path / "said").exists, "the program")
    # The first flush may be one that the splitter makes by itself, and that nobody hears of.
    for flush in (prepared.flush, prepared.flush):
        assert "it has written what nobody has asked for" in fails(flush)
    fails(prepared.split)


def test_two_lines_for_one_are_found_before_the_next(tmp_path: Path) -> None:
    text = SERVE + f"    say(ok=False, error='no'); say(ok=True); open({str(tmp_path / 'said')!r}, 'w').close()\n"
    prepared = provider_of(tmp_path, program(tmp_path, text)).prepare(SESSION)
    assert "the program refuses: no" in fails(prepared.split)
    wait_for((tmp_path / "said").exists, "the program")
    # The first line would have been the answer to undo.
    assert "refuses: no" in fails(prepared.cancel)


def test_names_that_nobody_knows_are_not_repeated(tmp_path: Path) -> None:
    """They may be anything, a secret too."""
    text = SERVE + "    say(ok=True, pairs=['t1', hello['secrets']['password']])\n"
    prepared = provider_of(tmp_path, program(tmp_path, text), password="hunter2").prepare(SESSION)
    assert "the array has split only t1, and not t0" in (told := fails(prepared.split))
    assert "hunter2" not in told
    prepared.cancel()


def test_a_program_that_writes_much_while_it_stands_ready_goes_on(tmp_path: Path) -> None:
    """Its keeping of a login would wait, too, for whoever reads its standard error."""
    much = f"say(ready=True); print('x' * 10**6, file=sys.stderr); open({str(tmp_path / 'said')!r}, 'w').close()"
    text = SERVE.replace("say(ready=True)", much) + "    say(ok=True)\n"
    prepared = provider_of(tmp_path, program(tmp_path, text)).prepare(SESSION)
    assert prepared.stay_s is not None

    def has_gone_on() -> bool:
        prepared.flush()
        return (tmp_path / "said").exists()

    wait_for(has_gone_on, "the program")
    prepared.cancel()


def test_a_program_whose_child_holds_its_output_has_ended_all_the_same(tmp_path: Path) -> None:
    """And the child, which might still split, does not outlive it."""
    flag = tmp_path / "pid"
    text = SERVE + (
        "    child = subprocess.Popen(['sleep', '300'])\n"
        f"    open({str(flag)!r}, 'w').write(str(child.pid))\n"
        "    os._exit(3)\n"
    )
    prepared = provider_of(tmp_path, program(tmp_path, text, timeout_s=300)).prepare(SESSION)
    assert "split: it has ended without an answer" in fails(prepared.split)
    child = int(flag.read_text(encoding="ascii"))
    wait_for(lambda: _has_ended(child), "end of the child")


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_program_that_reads_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """Its first line is longer than a pipe holds."""
    options = {"kind": "program", "program": ["sleep", "300"], "ready_timeout_s": 0.5}
    message = fails(lambda: provider_of(tmp_path, options, key="x" * (1 << 20)).prepare(SESSION))
    assert "ready line: it gave no answer in 0.5 s" in message


@pytest.mark.parametrize("kind", ["program", "command"])
def test_the_last_words_are_told_of_one_that_writes_much(tmp_path: Path, kind: str) -> None:
    text = "sys.stderr.write('x' * (3 << 20) + ' no licence'); sys.exit(3)"
    options = program(tmp_path, text)
    if kind == "command":
        words = [sys.executable, "-c", f"import sys; {text}"]
        options = {"kind": "command", "split": ["true"], "undo": ["true"], "arm": words}
    assert "no licence" in fails(lambda: provider_of(tmp_path, options).prepare(SESSION))
