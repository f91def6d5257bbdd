# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The window: freeze acknowledged, then split sent, split returned, then check and thaw. Nothing else happens in it.

Both processes it talks to are there before it begins, with all their code loaded: the holder on the database host and
the armed splitter on the array. What proves that the split lay inside the window is the order in which this one
process saw the answers, never two hosts' clocks.
"""

from __future__ import annotations

import json
import time
from typing import Any, Optional

from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import CLIENT_GREETING, CLIENT_SOURCE
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

from .channel import Channel
from .line import StandingLine
from .programs import program

Json = dict[str, Any]
#: A thaw gets more tries than a freeze: until it is told otherwise, this process is all that stands for it in time.
THAW_TRIES = 3
#: How long an answer may take that no work is needed for.
ANSWER_TIMEOUT_S = 30.0
#: How often to ask whether it is our turn on an array that splits one mirror set after the other.
TURN_POLL_S = 0.1


class WindowFailed(AnsibleError):  # type: ignore[misc]
    """A window that makes no backup.

    :ivar evidence: what is known of it; :ivar split_sent: whether the array was told to split.
    """

    def __init__(self, message: str, evidence: Json, split_sent: bool) -> None:
        super().__init__(message)
        self.evidence = evidence
        self.split_sent = split_sent


class PeerRefused(AnsibleError):  # type: ignore[misc]
    """A holder or splitter that could not be reached, or said no. :ivar events: what it told along with it."""

    def __init__(self, message: str, events: list[Json]) -> None:
        super().__init__(message)
        self.events = events


class LinePeer:
    """A process of the session on some host: the ``holder`` or the ``splitter``."""

    def __init__(self, channel: Channel, state_dir: str, session: str, name: str) -> None:
        self.channel = channel
        self.name = name
        self._session = session
        self._socket = StateDir(state_dir).socket_file(session, name)
        self._line: Optional[StandingLine] = None
        self._may_stand = True

    def stand_by(self) -> None:
        """Start the client that carries all calls from now on, where the connection can; else each call starts one.

        :raises PeerRefused: the process is not there.
        """
        try:
            self._line = self.channel.stand(CLIENT_SOURCE, [self._socket], CLIENT_GREETING)
        except AnsibleError as exc:
            raise self._unreachable("stand by", str(exc)) from exc
        self._may_stand = self._line is not None

    def close(self) -> None:
        """End the client."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def call(self, op: str, timeout_s: Optional[float] = None, **args: Any) -> Json:
        """Ask it to do ``op``; return its whole answer.

        :param timeout_s: how long a standing client may take to answer. After that, and after every other loss of it,
            the next call starts a client of its own.
        :raises PeerRefused: it is not there, or it refused.
        """
        line = json.dumps({"op": op, "args": args})
        if self._line is None and self._may_stand:
            self.stand_by()
        if self._line is not None:
            try:
                out, reason = self._line.ask(line, timeout_s), ""
            except AnsibleError as exc:
                self.close()
                raise self._unreachable(op, str(exc)) from exc
        else:
            answer = self.channel.run_once(program(self.channel.python, CLIENT_SOURCE, [self._socket, line]))
            out, reason = answer.out, answer.err.strip().rpartition("\n")[2] or f"exit code {answer.code}"
        try:
            reply: Json = json.loads(out)
        except (ValueError, RecursionError):
            raise self._unreachable(op, reason) from None
        if not is_answer(reply):
            raise self._unreachable(op, "its answer is not of the kind that it should be")
        if not reply["ok"]:
            raise PeerRefused(f"{self.channel.host}: {reply['error']}", reply["events"])
        return reply

    def _unreachable(self, op: str, reason: str) -> PeerRefused:
        return PeerRefused(
            f"{self.channel.host}: the {self.name} of session {self._session} cannot be asked to {op}: {reason}", []
        )


def is_answer(reply: Any) -> bool:
    """Whether this is what a holder or a splitter answers; its host may be anybody's by now."""
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


def _result(peer: LinePeer, answer: Json, **kinds: Any) -> Json:
    """The result of an answer. :raises PeerRefused: something is missing in it, or has a wrong type."""
    result: Json = answer["result"]
    for key, kind in kinds.items():
        if not isinstance(result.get(key), kind):
            raise PeerRefused(
                f"{peer.channel.host}: the {peer.name} does not say what it did ({key}); update the collection on all "
                "hosts at once, and look at that host.",
                answer["events"],
            )
    return result


class EventLog:
    """The events of all hosts in the order in which this process learned of them."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._seen = -1

    def note(self, name: str) -> None:
        """Add an event of this process."""
        self.entries.append({"seq": len(self.entries), "name": name, "source": "controller"})

    def take(self, events: list[Json]) -> None:
        """Add what is new among a holder's events."""
        for event in events:
            if event["seq"] > self._seen:
                self._seen = event["seq"]
                self.entries.append(
                    {
                        "seq": len(self.entries),
                        "name": event["name"],
                        "source": "holder",
                        "mono_s": event["mono_s"],
                    }
                )


def run_window(
    holder: LinePeer, splitter: LinePeer, mounts: list[str], deadline_s: float, turn_timeout_s: float
) -> Json:
    """Run the window and return its evidence.

    :param deadline_s: from the freeze until it is undone whatever happens.
    :param turn_timeout_s: how long to wait for our turn on the array before the freeze.

    :returns: ``window`` (events, window_s, split_s, overhead_s, intact), ``check`` (counts) and ``split`` (the
        splitter's result, with the mirror's devices and instants).
    :raises WindowFailed: something went wrong; the file systems are thawed, or their guard will do it at the deadline.
    """
    log = EventLog()
    split_sent = False
    split: Optional[Json] = None
    asked_s: Optional[float] = None
    try:
        # Both connections are opened, and both processes seen alive, while nobody waits.
        splitter.stand_by()
        holder.stand_by()
        splitter.call("ping")
        log.take(holder.call("ping")["events"])
        _await_turn(splitter, deadline_s, turn_timeout_s)
        asked_s = time.monotonic()
        log.take(holder.call("freeze", mounts=mounts, deadline_s=deadline_s)["events"])
        split_sent = True
        log.note("split_sent")
        # After the deadline there is nothing to wait for any more.
        split = _result(splitter, splitter.call("split", timeout_s=deadline_s), split_s=(int, float))
        log.note("split_returned")
        closing = holder.call("check_thaw", timeout_s=deadline_s + ANSWER_TIMEOUT_S)
        result = _result(holder, closing, window_s=(int, float), intact=bool, check=dict)
    except AnsibleError as exc:
        if isinstance(exc, PeerRefused):
            log.take(exc.events)
        message = str(exc)
        # A holder that hangs is ended at the deadline, and cannot say so.
        if asked_s is not None and time.monotonic() - asked_s >= deadline_s:
            message += f" The deadline of the freeze, {deadline_s:g} s, was over by then."
        thaw_error = _thaw(holder, log)
        evidence = {"window": {"events": log.entries, "intact": False}, "split": split}
        if thaw_error is not None:
            message += f" The thaw could not be confirmed either: {thaw_error}"
        raise WindowFailed(message, evidence, split_sent) from exc

    log.take(closing["events"])
    window = {
        "events": log.entries,
        "window_s": result["window_s"],
        "split_s": split["split_s"],
        "overhead_s": round(result["window_s"] - split["split_s"], 6),
        "intact": result["intact"],
    }
    evidence = {"window": window, "check": result["check"], "split": split}
    if not (result["intact"] and result["check"].get("complete") is True):
        raise WindowFailed(
            result.get("error") or "The window was broken: something thawed a file system before the check was done.",
            evidence,
            split_sent,
        )
    return evidence


def _await_turn(splitter: LinePeer, deadline_s: float, timeout_s: float) -> None:
    """Wait for our turn on the array, while nobody waits for us; it is given back with the split."""
    give_up = time.monotonic() + timeout_s
    # It must last for what the freeze takes and then for the split.
    hold_s = 2 * deadline_s + ANSWER_TIMEOUT_S
    while splitter.call("turn", hold_s=hold_s)["result"].get("granted") is not True:
        if time.monotonic() > give_up:
            raise AnsibleError(
                f"{splitter.channel.host}: other sessions have split their mirrors there for {timeout_s:g} s, and it "
                "is not our turn yet; raise turn_timeout_s, or start fewer backups at once."
            )
        time.sleep(TURN_POLL_S)


def _thaw(holder: LinePeer, log: EventLog) -> Optional[str]:
    """Thaw whatever is frozen; return why that could not be confirmed, or None."""
    reason = None
    for _attempt in range(THAW_TRIES):
        try:
            answer = holder.call("thaw", timeout_s=ANSWER_TIMEOUT_S)
        except AnsibleError as exc:
            reason = str(exc)
            continue
        log.take(answer["events"])
        result = answer["result"]
        reason = None if result.get("frozen") is False else str(result.get("error") or "it does not say so")
        if reason is None:
            break
    return reason
