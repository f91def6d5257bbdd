# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's end of a process of the session on another host: one line of JSON out, one line of JSON back."""

from __future__ import annotations

import json
import re
from typing import Any, Optional

from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import CLIENT_GREETING, CLIENT_SOURCE
from ansible_collections.splitmirror.backup.plugins.module_utils.host.strict_json import number, parse_own_json
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

from .channel import Channel
from .errors import ActionError
from .line import StandingLine
from .programs import program

Json = dict[str, Any]


class PeerRefused(ActionError):
    """A holder or splitter cannot be reached, or has refused.

    :ivar events: the events that it sent with its refusal.
    """

    def __init__(self, message: str, events: list[Json], code: str = "no_answer") -> None:
        super().__init__(message, code=code)
        self.events = events


class LinePeer:
    """A process of the session on some host: the ``holder`` or the ``splitter``.

    :param channel: to its host.
    :param state_dir: the state folder of that host.
    """

    def __init__(self, channel: Channel, state_dir: str, session: str, name: str) -> None:
        self.channel = channel
        self.name = name
        self._session = session
        self._socket = StateDir(state_dir).socket_file(session, name)
        self._line: Optional[StandingLine] = None
        self._may_stand = True

    def stand_by(self) -> None:
        """Start the client for all further requests, if the connection allows that; else each request starts one.

        :raises PeerRefused: the process does not run.
        """
        try:
            self._line = self.channel.stand(CLIENT_SOURCE, [self._socket], CLIENT_GREETING)
        except AnsibleError as exc:
            raise self._unreachable("connect", str(exc), exc) from exc
        self._may_stand = self._line is not None

    def close(self) -> None:
        """End the client."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def call(self, op: str, timeout_s: Optional[float] = None, **args: Any) -> Json:
        """Send the request ``op``; return the whole answer.

        :param timeout_s: how long the client may take to answer. After that, or if the client is lost, the next request
            starts another one.
        :raises PeerRefused: the process does not run, or has refused.
        """
        line = json.dumps({"op": op, "args": args})
        if self._line is None and self._may_stand:
            self.stand_by()
        if self._line is not None:
            try:
                out, reason = self._line.exchange(line, timeout_s), ""
            except AnsibleError as exc:
                self.close()
                raise self._unreachable(op, str(exc), exc) from exc
        else:
            answer = self.channel.run_once(program(self.channel.python, CLIENT_SOURCE, [self._socket, line]))
            out, reason = answer.out, answer.err.strip().rpartition("\n")[2] or f"exit code {answer.code}"
        try:
            reply: Json = parse_own_json(out)
        except ValueError:
            raise self._unreachable(op, reason) from None
        if not is_answer(reply):
            raise self._unreachable(op, "its answer does not have the expected form")
        if not reply["ok"]:
            raise PeerRefused(f"{self.channel.host}: {reply['error']}", reply["events"], _code(reply))
        return reply

    def _unreachable(self, op: str, reason: str, cause: Optional[AnsibleError] = None) -> PeerRefused:
        return PeerRefused(
            f"{self.channel.host}: the request {op!r} to the {self.name} of session {self._session} failed: {reason}",
            [],
            cause.code if isinstance(cause, ActionError) else "no_answer",
        )


def _is_duration(value: Any) -> bool:
    try:
        number(value)
    except ValueError:
        return False
    return True


def _code(reply: Json) -> str:
    """The code of a refusal. It becomes part of the result of a task, so only a word is accepted."""
    code = reply.get("code")
    return code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else SplitMirrorError.code


def is_answer(reply: Any) -> bool:
    """Whether this has the form of an answer of a holder or a splitter. Its host may have been taken over."""
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        return False
    told = isinstance(reply.get("result"), dict) if reply["ok"] else isinstance(reply.get("error"), str)
    events = reply.setdefault("events", [])
    kinds: dict[str, Any] = {"seq": int, "name": str, "mono_s": (int, float)}
    return (
        told
        and isinstance(events, list)
        and all(
            isinstance(event, dict) and all(isinstance(event.get(key), kind) for key, kind in kinds.items())
            for event in events
        )
    )


def checked_result(peer: LinePeer, answer: Json, **kinds: Any) -> Json:
    """The result of an answer.

    :param kinds: the type of each key that it must have; of a float the number must be a duration.
    :raises PeerRefused: a key is missing in it, or has a wrong type.
    """
    result: Json = answer["result"]
    for key, kind in kinds.items():
        if not (_is_duration(result.get(key)) if kind is float else isinstance(result.get(key), kind)):
            raise PeerRefused(
                f"{peer.channel.host}: the answer of the {peer.name} lacks {key!r}, or has a wrong type there; use one "
                "version of the collection on all hosts, and check that host.",
                answer["events"],
            )
    return result
