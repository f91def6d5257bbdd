# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of QEMU's machine protocol (QMP) on a unix socket, for a running QEMU or a qemu-storage-daemon.

The protocol (QEMU's docs/interop/qmp-spec): JSON messages, one a line. The server greets, the client sends
``qmp_capabilities``, and from then on each command gets a ``return`` or an ``error``. Events come in between and are
skipped here. A server talks to one client at a time: the next one waits for its greeting. So nobody keeps a connection
open for longer than its own work.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from typing import Any, Optional

from .base import MirrorError

#: How long QEMU may take for one answer, or for the greeting while another client has the connection.
ANSWER_TIMEOUT_S = 10.0
_MOST_BYTES = 64 << 20
_UCRED = struct.Struct("3i")


class QmpError(MirrorError):
    """QEMU refused a command. :ivar reason: in its own words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class QmpUnreachable(MirrorError):
    """There is no connection to QEMU. :ivar gone: no process listens at the socket."""

    code = "no_answer"

    def __init__(self, message: str, gone: bool) -> None:
        super().__init__(message, option="provider_options")
        self.gone = gone


class Qmp:
    """One connection; a context manager that closes it.

    :param path: of the socket.
    :param timeout_s: for each answer.
    :raises QmpUnreachable: nobody listens there, or another client has the connection all the time.
    """

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._received = b""
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
            if "QMP" not in self._next(time.monotonic() + timeout_s):
                raise self._unreachable("what answers there is not a QMP monitor")
            self.ask("qmp_capabilities")
        except OSError as exc:
            self.close()
            raise self._unreachable(exc.strerror or str(exc), exc) from exc
        except MirrorError:
            self.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_dummy: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, so that the next client gets its turn."""
        self._socket.close()

    def peer_uid(self) -> int:
        """The user who made the socket: that of QEMU, unless somebody else made it for QEMU."""
        # struct ucred: pid, uid, gid.
        return int(_UCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command, and return what QEMU returns.

        :param arguments: with an underscore where QEMU has a dash.
        :raises QmpError: QEMU refuses the command.
        :raises QmpUnreachable: no answer came in time, or the connection ended.
        """
        self._number += 1
        request = {"execute": command, "id": self._number}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        deadline = time.monotonic() + self._timeout_s
        try:
            left = json.dumps(request).encode() + b"\n"
            while left:
                left = left[self._socket.sendmsg([left]) :]
            while True:
                answer = self._next(deadline)
                if answer.get("id") == self._number:
                    break
        except OSError as exc:
            raise self._unreachable(f"{command}: {exc.strerror or exc}", exc) from exc
        if "error" in answer:
            reason = str(answer["error"].get("desc", "no reason given"))
            raise QmpError(f"{self._path}: QEMU refuses {command}: {reason}", reason)
        return answer.get("return")

    def _next(self, deadline: float) -> dict[str, Any]:
        """The next message. :raises OSError: the time is over, or the connection ended."""
        while b"\n" not in self._received:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(1 << 20)
            if not more or len(self._received) > _MOST_BYTES:
                raise OSError(errno.ECONNRESET, "the connection ended")
            self._received += more
        line, _newline, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as exc:
            raise self._unreachable("what answers there is not a QMP monitor") from exc
        if not isinstance(message, dict):
            raise self._unreachable("what answers there is not a QMP monitor")
        return message

    def _unreachable(self, reason: str, cause: Optional[OSError] = None) -> QmpUnreachable:
        gone = cause is not None and cause.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)
        if isinstance(cause, socket.timeout):
            reason = "no answer in time; another client may have the connection"
        return QmpUnreachable(f"qmp_socket: QEMU cannot be reached at {self._path} ({reason}).", gone)
