# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client of a LineServer: one request, one answer; for Python, and as a program of its own.

lineserver describes the lines.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import SplitMirrorError

MAX_REPLY_BYTES = 16 << 20

Json = dict[str, Any]


class LineError(SplitMirrorError):
    """A request that got no answer, or a socket that cannot be served."""

    code = "no_answer"


class NotRunning(LineError):
    """No process serves the socket: it was never started, or has ended."""

    code = "process_gone"


class Refused(LineError):
    """The service answered with an error. :ivar events: what it reported along with it."""

    def __init__(self, message: str, events: list[Json], code: Optional[str] = None) -> None:
        super().__init__(message, code=code)
        self.events = events


def call(socket_path: str, op: str, timeout_s: float, **args: Any) -> Json:
    """Send one request and return the whole answer (``ok``, ``result``, ``events``).

    :param timeout_s: for the whole exchange, connecting included.
    :raises NotRunning: nobody serves the socket.
    :raises Refused: the service answered with an error.
    :raises LineError: no answer in time, or a broken one.
    """
    deadline = time.monotonic() + timeout_s
    line = json.dumps({"op": op, "args": args}, separators=(",", ":")).encode() + b"\n"
    with _connect(socket_path, timeout_s) as sock:
        inbox = bytearray()
        try:
            sock.sendall(line)
            while not inbox.endswith(b"\n"):
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                data = sock.recv(65536)
                if not data:
                    raise LineError(f"{op}: the process at {socket_path} ended before it answered.")
                inbox += data
                if len(inbox) > MAX_REPLY_BYTES:
                    raise LineError(f"{op}: the answer from {socket_path} is longer than {MAX_REPLY_BYTES} bytes.")
        except socket.timeout as exc:
            raise LineError(f"{op}: no answer from {socket_path} within {timeout_s:g} s.") from exc
        except OSError as exc:
            raise LineError(f"{op}: the process at {socket_path} closed the connection ({exc.strerror}).") from exc
    return check_reply(op, bytes(inbox))


def check_reply(op: str, line: bytes | str) -> Json:
    """Parse an answer line.

    :raises Refused: it is an error.
    :raises LineError: the line is not an answer.
    """
    try:
        reply = json.loads(line)
        good = bool(reply["ok"])
        events = list(reply.get("events", []))
        error = None if good else str(reply["error"])
        code = str(reply.get("code", Refused.code))
        if good and not isinstance(reply["result"], Mapping):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise LineError(f"{op}: the answer is not a JSON line of the form {{'ok': ..., 'result': ...}}.") from exc
    if error is not None:
        raise Refused(error, events, code)
    return dict(reply)


def via_folder(path: str) -> tuple[int, str]:
    """An open folder and an address below /proc/self/fd: sun_path takes 108 bytes only (unix(7))."""
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return folder, f"/proc/self/fd/{folder}/{os.path.basename(path)}"


def _connect(path: str, timeout_s: float) -> socket.socket:
    try:
        folder, address = via_folder(path)
    except OSError as exc:
        raise NotRunning(f"{path}: no process answers there ({exc.strerror}).") from exc
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(address)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        sock.close()
        raise NotRunning(f"{path}: no process answers there ({exc.strerror}).") from exc
    except OSError as exc:  # among them EAGAIN: as many wait for an answer as may (unix(7))
        sock.close()
        raise LineError(f"{path}: the process there accepts no more requests ({exc.strerror or exc}).") from exc
    finally:
        os.close(folder)
    return sock


#: What the client program says when it is connected, if it is to stay.
CLIENT_GREETING = "splitmirror: connected"

#: The client as a program. ``python3 -I -S -c CLIENT_SOURCE SOCKET LINE`` is one exchange: it prints the answer line
#: and leaves with exit code 0: ok, 1: the service refused, 2: no answer (a sentence goes to stderr). Without LINE it
#: greets (CLIENT_GREETING) and then answers each line of its input with one line; when its input ends, it is gone, also
#: while it waits for an answer: whoever asked is gone, too. It imports small parts of Python only (``_socket`` instead
#: of ``socket``), because every millisecond of start-up counts.
CLIENT_SOURCE = f"""\
import sys, posix, select, _socket
path, lines = sys.argv[1], [line.encode() + b"\\n" for line in sys.argv[2:]]
out = sys.stdout.buffer
try:
    folder, _, name = path.rpartition("/")
    posix.chdir(folder or "/")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sock.connect(name)
    if not lines:
        out.write(b"{CLIENT_GREETING}\\n")
        out.flush()
    poll, inbox, reply = select.poll(), b"".join(lines), b""
    if not lines:
        poll.register(0, select.POLLIN)
    while True:
        while b"\\n" not in inbox:
            part = b"" if lines else posix.read(0, 65536)
            if not part:
                sys.exit(0 if not lines or reply.startswith(b'{{"ok":true') else 1)
            inbox += part
        line, _, inbox = inbox.partition(b"\\n")
        sock.sendall(line + b"\\n")
        poll.register(sock.fileno(), select.POLLIN)
        reply = b""
        while not reply.endswith(b"\\n"):
            for fd, _ in poll.poll():
                part = sock.recv(65536) if fd else posix.read(0, 65536)
                if not part:
                    raise OSError(0, "it ended before it answered" if fd else "nobody waits for it any more")
                if fd:
                    reply += part
                else:
                    inbox += part
        poll.unregister(sock.fileno())
        out.write(reply)
        out.flush()
except OSError as exc:
    sys.stderr.write("%s: no answer (%s).\\n" % (path, exc.strerror))
    sys.exit(2)
"""
