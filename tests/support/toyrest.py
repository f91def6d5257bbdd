# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The REST API of the array of the tests (toyarray), over TLS."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .toyarray import USER, Refused, ToyArray


class _Handler(BaseHTTPRequestHandler):
    """Requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: RestApi

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        """A client that goes away is none of our business."""
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def answer(self) -> None:
        """Answer any request."""
        if self.server.is_down:
            self.close_connection = True
            return
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")][1:]
        self.server.requests.append((self.command, self.path))
        try:
            status, said, headers = self.server.route(self.command, parts, query, body, self.headers)
        except Refused as exc:
            status, said, headers = 409, {"error": str(exc)}, {}
        text = b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer


class RestApi(ThreadingHTTPServer):
    """A small HTTPS server. :ivar jobs: what was begun, and how often it has still to be asked for."""

    daemon_threads = True

    def __init__(self, array: ToyArray, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.array = array
        self.token = "token-of-this-session"
        self.token_lives = True
        self.is_down = False
        self.jobs: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections: set[socket.socket] = set()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def address(self) -> str:
        """The base address of the API."""
        return f"https://127.0.0.1:{self.server_address[1]}/api"

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See ThreadingMixIn."""
        self.connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.discard(request)

    def drop_connections(self) -> None:
        """Close all that are open, as a server does with those that nobody uses."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def route(
        self, method: str, parts: Sequence[str], query: Mapping[str, str], body: bytes, headers: Message
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, answer and headers."""
        array, what = self.array, (method, parts[0])
        if what == ("POST", "login"):
            right = json.loads(body) == {"user": USER, "password": array.password}
            self.token_lives = right
            told = {"X-Auth-Token": self.token, "Set-Cookie": f"auth={self.token}; Path=/; HttpOnly"}
            return (200, {"token": self.token}, told) if right else (401, {"error": f"no user with {body!r}"}, {})
        if headers.get("X-Auth-Token") != self.token or not self.token_lives:
            return 401, {"error": "log in first"}, {}
        if what == ("POST", "logout"):
            self.token_lives = False
            return 204, None, {}
        if what == ("GET", "version"):
            return 200, {"version": "1"}, {}
        if what == ("GET", "luns"):
            return 200, array.do("look", lambda: array.look(*parts[1:])), {}
        if what == ("POST", "snapshots"):
            return self._split(json.loads(body))
        if what == ("GET", "jobs"):
            left = self.jobs[parts[1]]
            return 200, {"state": left.pop(0) if len(left) > 1 else left[0]}, {}
        if what == ("GET", "snapshots"):
            return 200, {"snapshots": [{"id": name, "of": query["name"]} for name in array.names_of(query["name"])]}, {}
        if what == ("DELETE", "snapshots"):
            mark = (array.snaps / f"{parts[1]}.mark").read_text(encoding="ascii")
            array.do("undo", lambda: array.undo(mark, [parts[1]]))
            return 204, None, {}
        if what == ("POST", "maps"):
            return 200, array.do("present", lambda: {"path": array.map(parts[1])}), {}
        if what == ("DELETE", "maps"):
            return (200 if array.do("withdraw", lambda: array.unmap(parts[1])) else 404), None, {}
        return 404, {"error": f"there is no {method} {parts[0]}"}, {}

    def _split(self, told: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        array = self.array
        luns = [(lun["name"], lun["snapshot"]) for lun in told["luns"]]
        done = array.do("split", lambda: array.split(told["name"], luns))
        if done == "garbage":
            return 200, {"jbo": 1}, {}
        if len(done) < len(luns):
            self.jobs["1"] = ["running", "error"]
        else:
            self.jobs["1"] = ["running", "running", "completed"]
        return 202, {"job": {"id": 1}}, {}


@contextlib.contextmanager
def rest_api(array: ToyArray, certificate: Path) -> Iterator[RestApi]:
    """The array's REST API, for as long as the context lasts."""
    with RestApi(array, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def make_certificate(folder: Path) -> Path:
    """A certificate with its key, signed by itself, for 127.0.0.1."""
    path = folder / "array.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=toy"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text(encoding="ascii") + Path(f"{path}.key").read_text(encoding="ascii"), "ascii")
    return path
