# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict: whether a session is good.

It is based on the order of events, never on the clocks of two hosts. Anything that is not proved counts as not done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .records import FULL

#: What must have happened in the window, in this order, each exactly once; the splits once for each splitter.
WINDOW_ORDER = (
    "freeze_acknowledged",
    "split_sent",
    "split_returned",
    "check_done",
    "thaw_sent",
    "thaw_acknowledged",
)
#: The events of a split.
SPLIT = WINDOW_ORDER[1:3]
#: Events that may be among them and prove nothing.
HARMLESS = frozenset({"tracking_started", "backup_begun", "freeze_sent", "check_started", "backup_ended"})


class Verdict(NamedTuple):
    """Whether a session is good. :param reason: one sentence; empty when it is good."""

    good: bool
    reason: str


def judge(evidence: Mapping[str, Any], session: str) -> Verdict:
    """Judge a session by its evidence.

    :param evidence: ``session``, ``window``, ``check``, ``hot_backup`` and ``write``, as the tasks returned them.
    :param session: the session that is to be judged.
    """
    if evidence.get("session") != session:
        return Verdict(False, f"the evidence is of session {evidence.get('session')!r}, not of {session}.")
    for reason in (
        _window(_part(evidence, "window")),
        _check(_part(evidence, "check")),
        _hot_backup(_part(evidence, "hot_backup")),
        _write(_part(evidence, "write")),
    ):
        if reason:
            return Verdict(False, reason)
    return Verdict(True, "")


def _part(evidence: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = evidence.get(name)
    return part if isinstance(part, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _window(window: Mapping[str, Any]) -> str:
    events = window.get("events")
    if not isinstance(events, Sequence) or isinstance(events, (str, bytes)) or not events:
        return "the events of the window are missing, so nothing proves that the split lay inside it."
    # What was written before there could be several has no name of a splitter.
    splitters = window.get("splitters", [""])
    named = isinstance(splitters, list) and all(isinstance(name, str) for name in splitters)
    if not named or not splitters or len(set(splitters)) != len(splitters):
        return (
            "the names of the window's splitters are missing or doubled, so it is not proved that each split inside it."
        )
    told: list[tuple[str, Any]] = []
    last = None
    for event in events:
        name, seq = (event.get("name"), event.get("seq")) if isinstance(event, Mapping) else (None, None)
        if not isinstance(name, str) or isinstance(seq, bool) or not isinstance(seq, int):
            return "an event of the window has no name or number, so its order cannot be proved."
        if last is not None and seq <= last:
            return f"event {name} of the window is numbered {seq} after {last}, so the order cannot be proved."
        last = seq
        if name not in HARMLESS:
            told.append((name, event.get("splitter", "") if name in SPLIT else ""))
    wanted = [(name, splitter) for name in WINDOW_ORDER for splitter in (splitters if name in SPLIT else [""])]
    for name, _splitter in told:
        if name not in WINDOW_ORDER:
            return f"the window was broken: {name}."
    for name, splitter in wanted:
        count = told.count((name, splitter))
        if count != 1:
            whose = f" of {splitter}" if splitter else ""
            return f"{name}{whose} happened {count} times in the window instead of once."
    if len(told) != len(wanted):
        return "a splitter that the window does not name has split, so it is not known what was split."
    names = [name for name, _splitter in told]
    sent_first = all(told.index((SPLIT[0], name)) < told.index((SPLIT[1], name)) for name in splitters)
    if not sent_first or sorted(names, key=_place) != names:
        return f"the window ran in a wrong order: {', '.join(names)}."
    if window.get("intact") is not True:
        return "the window was not intact: the file systems were not frozen from the freeze to the thaw."
    return ""


def _place(name: str) -> int:
    """When an event has to happen. Several splits go on at once, so only each one's own two events are in order."""
    return WINDOW_ORDER.index(SPLIT[0] if name in SPLIT else name)


def _check(check: Mapping[str, Any]) -> str:
    if check.get("complete") is not True:
        return "the check of the extent map was not complete before the thaw."
    return ""


def _hot_backup(hot_backup: Mapping[str, Any]) -> str:
    required = hot_backup.get("required")
    if required is False:
        return ""
    if required is not True:
        return "the evidence does not say whether hot backup was required."
    if hot_backup.get("error"):
        return f"hot backup failed: {hot_backup['error']}"
    if hot_backup.get("ended_cleanly") is not True:
        return "hot backup did not end cleanly."
    if hot_backup.get("same_session") is not True:
        return "hot backup did not end in the database session that began it."
    return ""


def _write(write: Mapping[str, Any]) -> str:
    parts = write.get("parts")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, Mapping) for part in parts):
        return "the parts of the session are missing in the evidence of the write, so it is not known where they lie."
    for told in (write, *parts):
        if told.get("complete") is not True:
            return "not every byte is on the volume."
        if told.get("filemark") is not True:
            return "the filemark behind the archive is not proved to be on the volume."
        if told.get("checksums") is not True:
            return "the checksums of the files were not written."
    for number, part in enumerate(parts):
        volume = part.get("volume")
        if not isinstance(volume, str) or not volume or not _is_number(part.get("file_number")):
            return "the evidence of the write does not say on which volume and where the archive is."
        if not _is_number(part.get("part")) or part["part"] != number:
            return f"part {number + 1} of the session is missing."
        if part.get("last") is not (number == len(parts) - 1):
            return "the last part of the session is missing, or another part follows it."
    if write.get("level", FULL) != FULL and not write.get("base"):
        return "the evidence of the write does not say on which session this one builds."
    proof = write.get("proof")
    if isinstance(proof, Mapping) and proof.get("mode") != "none" and proof.get("complete") is not True:
        return "the proof of the extent map against the mirror was not complete."
    if not isinstance(proof, Mapping):
        return "the evidence does not say whether the extent map was proved against the mirror."
    return ""
