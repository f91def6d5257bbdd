# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The window: freeze acknowledged, then splits sent, splits returned, then check and thaw. Nothing else happens in it.

All sides are ready before the window begins, with all their code loaded: the holder on the database host, and a
splitter for each mirror set (splitters). The order in which this process received the answers proves that each split
was made inside the window. Clocks of two hosts are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Optional

from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError

from .errors import ActionError
from .line_peer import Json, LinePeer, PeerRefused, checked_result
from .splitters import Splitter

#: How often to try to thaw. Until the deadline, nobody but this process thaws.
THAW_TRIES = 3
#: How long the answer to a request may take that needs no work, in seconds.
ANSWER_TIMEOUT_S = 30.0
#: How often to try to take the turn on an array that splits one mirror set after the other, in seconds.
TURN_POLL_S = 0.1


class WindowFailed(ActionError):
    """A window that makes no backup.

    :ivar evidence: what is known of it. :ivar split_sent: whether the request to split was sent.
    """

    def __init__(self, message: str, evidence: Json, split_sent: bool, code: str, option: Optional[str] = None) -> None:
        super().__init__(message, option, code=code)
        self.evidence = evidence
        self.split_sent = split_sent


class WindowLog:
    """The events of all hosts, in the order in which this process received them."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._seen = -1

    def note(self, name: str, splitter: Splitter) -> None:
        """Add an event of this process, about a splitter."""
        self.entries.append(
            {"seq": len(self.entries), "name": name, "source": "controller", "splitter": splitter.title}
        )

    def take(self, events: list[Json]) -> None:
        """Add the new ones among the events of the holder."""
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
    holder: LinePeer,
    splitters: Sequence[Splitter],
    mounts: list[str],
    deadline_s: float,
    turn_timeout_s: float,
    *,
    pairs: Optional[Sequence[str]] = None,
) -> Json:
    """Run the window and return its evidence.

    :param splitters: one for each mirror set, in the order in which they take their turns.
    :param deadline_s: after this time the file systems are thawed in any case.
    :param turn_timeout_s: how long to wait for the turn on the arrays, before the freeze.
    :param pairs: the names of all pairs that have to be split; None for any.

    :returns: ``window`` (events, splitters, window_s, split_s, overhead_s, intact), ``check`` (counts) and ``splits``
        (for each splitter its ``splitter``, and its result with the mirror's devices and instants).
    :raises WindowFailed: it failed. The file systems are thawed, or their guard thaws them at the deadline. All splits
        that were asked for have ended, or had no answer in time.
    """
    log = WindowLog()
    splits = _Splits(splitters, log)
    asked_s: Optional[float] = None
    try:
        # Open all connections, and see that all sides are ready, while nobody waits.
        holder.stand_by()
        for splitter in splitters:
            splitter.stand_by()
        log.take(holder.call("ping")["events"])
        _await_turns(splitters, deadline_s, turn_timeout_s)
        asked_s = time.monotonic()
        log.take(holder.call("freeze", mounts=mounts, deadline_s=deadline_s)["events"])
        # After the deadline, the splits are of no use.
        splits.make(deadline_s)
        closing = holder.call("check_thaw", timeout_s=deadline_s + ANSWER_TIMEOUT_S)
        result = checked_result(holder, closing, window_s=float, intact=bool, check=dict)
    except AnsibleError as exc:
        if isinstance(exc, PeerRefused):
            log.take(exc.events)
        message = str(exc)
        code = getattr(exc, "code", SplitMirrorError.code)
        if code == SplitMirrorError.code and not isinstance(exc, PeerRefused):
            code = "split_failed"
        # A holder that hangs is ended at the deadline, and cannot report that.
        if asked_s is not None and time.monotonic() - asked_s >= deadline_s:
            message += f" By then the deadline of the freeze, {deadline_s:g} s, had passed."
            code = "deadline_over"
        thaw_error = _thaw(holder, log)
        message += splits.end()
        evidence = {
            "window": {"events": log.entries, "splitters": splits.titles, "intact": False},
            "splits": splits.results,
        }
        if thaw_error is not None:
            message += f" The thaw could not be confirmed either: {thaw_error}"
        raise WindowFailed(message, evidence, splits.sent, code, getattr(exc, "option", None)) from exc

    splits.end()
    log.take(closing["events"])
    split_s = max(split["split_s"] for split in splits.results)
    window = {
        "events": log.entries,
        "splitters": splits.titles,
        "window_s": result["window_s"],
        "split_s": split_s,
        "overhead_s": round(result["window_s"] - split_s, 6),
        "intact": result["intact"],
    }
    evidence = {"window": window, "check": result["check"], "splits": splits.results}
    if not (result["intact"] and result["check"].get("complete") is True):
        raise WindowFailed(
            result.get("error") or "The window was broken: something thawed a file system before the check was done.",
            evidence,
            splits.sent,
            "deadline_over" if not result["intact"] else "map_outdated",
        )
    wrong = _wrong_pairs(splits.results, pairs)
    if wrong:
        raise WindowFailed(wrong, evidence, splits.sent, "split_failed", "pairs")
    return evidence


def _wrong_pairs(splits: Sequence[Json], pairs: Optional[Sequence[str]]) -> str:
    """Why the pairs that were split are not those of the host, in one sentence; empty if they are."""
    if pairs is None:
        return ""
    told = [one.get("pairs") for one in splits]
    split = [
        str(pair.get("name")) for some in told if isinstance(some, list) for pair in some if isinstance(pair, dict)
    ]
    missing, foreign = sorted(set(pairs) - set(split)), sorted(set(split) - set(pairs))
    if missing:
        return f"pairs: no splitter has split {', '.join(missing)}; arm all pairs of the database host."
    if foreign or len(split) > len(set(split)):
        many = ", ".join(foreign) or "a pair more than once"
        return (
            f"pairs: the splitters have split {many}, which nobody asked for; arm each pair of the database host once."
        )
    return ""


class _Splits:
    """The splits of a window, which are made at once.

    :ivar titles: of the splitters. :ivar sent: whether a request to split was sent. :ivar results: of the splits that
        were made, in the order of the splitters.
    """

    def __init__(self, splitters: Sequence[Splitter], log: WindowLog) -> None:
        self.titles = [splitter.title for splitter in splitters]
        self.sent = False
        self._splitters = splitters
        self._log = log
        self._done: dict[str, Json] = {}
        self._asked: dict[Future[Json], Splitter] = {}
        self._pool: Optional[ThreadPoolExecutor] = None

    @property
    def results(self) -> list[Json]:
        return [{"splitter": title, **self._done[title]} for title in self.titles if title in self._done]

    def make(self, timeout_s: float) -> None:
        """Make all splits at once.

        :raises AnsibleError: one failed. Others may still go on, see end.
        """
        self.sent = True
        if len(self._splitters) == 1:
            self._log.note("split_sent", self._splitters[0])
            return self._keep(self._splitters[0], self._splitters[0].split(timeout_s))
        self._pool = ThreadPoolExecutor(len(self._splitters))
        for splitter in self._splitters:
            self._log.note("split_sent", splitter)
            self._asked[self._pool.submit(splitter.split, timeout_s)] = splitter
        for future in as_completed(list(self._asked)):
            self._keep(self._asked.pop(future), future.result())

    def end(self) -> str:
        """Wait for the splits that still go on; return a sentence for each further one that failed, or nothing."""
        told = ""
        for future in as_completed(list(self._asked)):
            splitter = self._asked.pop(future)
            try:
                self._keep(splitter, future.result())
            except AnsibleError as exc:
                told += f" {exc}"
        if self._pool is not None:
            self._pool.shutdown()
        return told

    def _keep(self, splitter: Splitter, result: Json) -> None:
        self._log.note("split_returned", splitter)
        self._done[splitter.title] = result


def _await_turns(splitters: Sequence[Splitter], deadline_s: float, timeout_s: float) -> None:
    """Wait for the turn on each array, before anything is frozen. A turn ends with the split."""
    give_up = time.monotonic() + timeout_s
    # The turn has to last for the freeze and the split.
    hold_s = 2 * deadline_s + ANSWER_TIMEOUT_S
    # Those that are granted are asked for again, so that they do not end while this session waits for another one.
    while (waits := next((one for one in splitters if not one.take_turn(hold_s)), None)) is not None:
        if time.monotonic() > give_up:
            raise ActionError(
                f"{waits.title}: this session has waited {timeout_s:g} s for its turn to split; raise "
                "turn_timeout_s, or start fewer backups at once.",
                "turn_timeout_s",
                code="mirror_held",
            )
        time.sleep(TURN_POLL_S)


def _thaw(holder: LinePeer, log: WindowLog) -> Optional[str]:
    """Thaw everything; return why the thaw could not be confirmed, or None."""
    reason = None
    for _attempt in range(THAW_TRIES):
        try:
            answer = holder.call("thaw", timeout_s=ANSWER_TIMEOUT_S)
        except AnsibleError as exc:
            reason = str(exc)
            continue
        log.take(answer["events"])
        result = answer["result"]
        reason = None if result.get("frozen") is False else str(result.get("error") or "the holder does not confirm it")
        if reason is None:
            break
    return reason
