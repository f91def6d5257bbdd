# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON lines over a unix socket: how a task talks to a process that stays between tasks.

A request is one line ``{"op": "freeze", "args": {...}}``. Its answer is one line, either
``{"ok": true, "result": {...}, "events": [...]}`` or
``{"ok": false, "error": "one sentence", "code": "a_code", "events": [...]}``.

A connection may carry any number of requests, one after the other. Every request has an owner, the client that waits
for its answer: when that is gone before its turn has come, nothing is done. Closing one direction counts as gone.

The server is one thread with one select loop. Timers of its service (a freeze's deadline) run in that loop, so a
silent, slow or dead client never holds them up; only the service's own work does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import socket
import stat
import threading
import time
from typing import Callable, Optional

from ..errors import SplitMirrorError
from .lineclient import Json, LineError, via_folder
from .strict_json import parse_own_json

MAX_REQUEST_BYTES = 1 << 20
MAX_CONNECTIONS = 16


class Service:
    """What a LineServer serves; derive from it and override."""

    def handle(self, op: str, args: Json) -> Json:
        """Do ``op`` and return its result; raise SplitMirrorError to refuse it."""
        raise NotImplementedError

    def events(self) -> list[Json]:
        """What goes with every answer, also with a refusal, as ``events``."""
        return []

    def orphaned(self, op: str, *, done: bool) -> None:
        """Called when the client of a request is gone.

        :param done: it was carried out, but its answer cannot be sent; False: it was dropped.
        """

    def next_wakeup(self) -> Optional[float]:
        """The instant (time.monotonic, seconds) at which on_wakeup is due, or None."""
        return None

    def on_wakeup(self) -> None:
        """Called from the loop when next_wakeup has come; a time that has passed means after this answer is sent."""


class _Connection:
    """One client: what came from it and what it has still to be told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.closing = False


class LineServer:
    """Serve one unix socket until stop() is called.

    :param path: where the socket is made; its folder must be ours alone (0700). The path may be longer than the
        108 bytes of a socket address.
    :param service: what answers.
    :raises LineError: the folder is open to others, or somebody serves the socket already.
    """

    def __init__(self, path: str, service: Service) -> None:
        self.path = path
        self._service = service
        self._selector = selectors.DefaultSelector()
        self._stopped = False
        # stop() may come from another thread while close() is under way, and from a signal handler in the midst of it.
        self._ending = threading.RLock()
        self._connections: set[_Connection] = set()
        self._answering: Optional[_Connection] = None
        _check_private(os.path.dirname(path))
        self._listener = _listen(path)
        self._inode = os.stat(path).st_ino
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` from the loop whenever ``fd`` is readable (or at its end), until unwatch."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Undo watch, if there is anything to undo; the fd stays open."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def client_is_gone(self) -> bool:
        """Whether the client of the request that is being handled has gone; False when none is handled."""
        return self._answering is not None and _is_gone(self._answering.sock)

    def stop(self) -> None:
        """End serve() once the answers under way are sent; safe from a signal handler and from another thread."""
        with self._ending:
            self._stopped = True
            if self._wake_write >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b".")

    def serve(self) -> None:
        """Answer requests and run the service's timer until stop(); then remove the socket."""
        try:
            while not self._stopped:
                self._turn()
            self._send_rest()
        finally:
            self.close()

    def close(self) -> None:
        """Close everything and remove the socket, if it is still ours."""
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        self._listener.close()
        with self._ending:
            wake_write, self._wake_write = self._wake_write, -1
            os.close(wake_write)
        os.close(self._wake_read)
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _turn(self) -> None:
        due = self._service.next_wakeup()
        timeout = None if due is None else max(0.0, due - time.monotonic())
        for key, mask in self._selector.select(timeout):
            if key.fd not in self._selector.get_map():  # what came before it has undone its watch
                continue
            if isinstance(key.data, _Connection):
                self._exchange(key.data, mask)
            else:
                key.data()
        due = self._service.next_wakeup()
        if due is not None and due <= time.monotonic():
            self._service.on_wakeup()

    def _drain_wake(self) -> None:
        os.read(self._wake_read, 4096)

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:  # the client is gone already
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _exchange(self, connection: _Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                data = connection.sock.recv(65536)
                if not data:
                    self._drop(connection)
                    return
                connection.inbox += data
            self._answer_next(connection)
            self._send(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)

    def _answer_next(self, connection: _Connection) -> None:
        """Answer the next whole line, unless the client has yet to read the answer before it."""
        if connection.outbox or connection.closing:
            return
        end = connection.inbox.find(b"\n")
        if end < 0 and len(connection.inbox) <= MAX_REQUEST_BYTES:
            return
        if end < 0 or end > MAX_REQUEST_BYTES:
            reply = self._error(f"the request is longer than {MAX_REQUEST_BYTES} bytes; send a shorter one.")
            connection.closing = True
        else:
            line = bytes(connection.inbox[:end])
            del connection.inbox[: end + 1]
            self._answering = connection
            try:
                reply = self._answer(line)
            finally:
                self._answering = None
        connection.outbox += json.dumps(reply, separators=(",", ":")).encode() + b"\n"

    def _answer(self, line: bytes) -> Json:
        try:
            request = parse_own_json(line)
            op, args = request["op"], request.get("args", {})
            if not isinstance(op, str) or not isinstance(args, dict):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError):
            return self._error('the request is not a JSON line of the form {"op": "name", "args": {}}.')
        if self.client_is_gone():
            self._service.orphaned(op, done=False)
            return self._error(f"{op}: the client that asked for it is gone.")
        try:
            result = self._service.handle(op, args)
        except SplitMirrorError as exc:
            return self._error(exc.message, exc.code)
        except Exception as exc:
            return self._error(f"{op}: {type(exc).__name__}: {exc}")
        if self.client_is_gone():
            self._service.orphaned(op, done=True)
        return {"ok": True, "result": result, "events": self._service.events()}

    def _error(self, message: str, code: str = SplitMirrorError.code) -> Json:
        return {"ok": False, "error": message, "code": code, "events": self._service.events()}

    def _send(self, connection: _Connection) -> None:
        while connection.outbox:
            try:
                sent = connection.sock.send(connection.outbox)
            except BlockingIOError:
                self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
                return
            del connection.outbox[:sent]
            if not connection.outbox:
                if connection.closing:
                    self._drop(connection)
                    return
                self._answer_next(connection)
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _send_rest(self) -> None:
        """Give clients a moment to take the answers that are under way."""
        for connection in list(self._connections):
            if connection.outbox:
                connection.sock.settimeout(1.0)
                try:
                    connection.sock.sendall(connection.outbox)
                except OSError:
                    pass

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        try:
            self._selector.unregister(connection.sock)
        except (KeyError, ValueError):
            pass
        connection.sock.close()


def _is_gone(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _check_private(folder: str) -> None:
    try:
        status = os.stat(folder)
    except OSError as exc:
        raise LineError(f"{folder}: the folder of the socket cannot be used ({exc.strerror}).") from exc
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise LineError(f"{folder}: the folder of the socket is open to other users; it must be ours with mode 0700.")


def _listen(path: str) -> socket.socket:
    folder, address = via_folder(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind, so that there is no moment at which the socket is open to others.
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(address)
        except OSError as exc:
            if _is_served(address):
                raise LineError(f"{path}: another process serves this socket already.") from exc
            if not stat.S_ISSOCK(os.stat(address).st_mode):
                raise
            os.unlink(address)
            sock.bind(address)
        sock.listen(MAX_CONNECTIONS)
    except OSError as exc:
        sock.close()
        raise LineError(f"{path}: the socket cannot be made ({exc.strerror}).") from exc
    except LineError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def _is_served(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True
