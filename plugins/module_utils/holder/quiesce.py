# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tasks ask of a session's holder: begin and end hot backup, freeze and thaw; each can be repeated."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Optional, Sequence

from ..database.registry import make_drivers
from ..errors import SplitMirrorError
from ..host.files import replace_file
from ..host.strict_json import read_json
from ..session import StateDir
from .freeze import Needed, check_mounts, state_needed
from .protocol import Json, NoAnswer, ask, ask_if_running
from .recovery import recover, thaw_mounts

#: How long a holder may be busy while writes stand still.
STUCK_S = 10.0
_NOTHING_TO_END = {"required": False, "ended_cleanly": True, "same_session": True, "error": None}

Descriptions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Begun:
    """Hot backup has begun (or would have). :param databases: facts by name. :param before: databases by name.

    :param after: likewise, with how each is quiesced.
    """

    changed: bool
    databases: dict[str, Any]
    before: dict[str, str]
    after: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How hot backup ended. :param evidence: required, ended_cleanly, same_session, error.

    :param extras: archive of label files and logs, or None. :param databases: details by name.
    :param before: databases by name.
    """

    changed: bool
    evidence: dict[str, Any]
    extras: Optional[str] = None
    extras_bytes: int = 0
    databases: dict[str, Any] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Frozen:
    """A freeze or a thaw. :param mounts: what is frozen now, or was.

    :param window: of a thaw: window_s, intact, error, events. :param freeze: the id of a freeze.
    """

    changed: bool
    mounts: list[str]
    window: dict[str, Any] = field(default_factory=dict)
    freeze: Optional[str] = None


def databases_of(state: StateDir, session: str) -> Optional[dict[str, str]]:
    """The databases that the session's holder keeps, and how each is quiesced; None without a holder."""
    status = ask_if_running(state, session, "status")
    return None if status is None else dict(status["databases"])


def begin(
    state: StateDir, session: str, descriptions: Descriptions, needed: Sequence[Needed], dry_run: bool = False
) -> Begun:
    """Begin hot backup, unless it has begun.

    :param needed: folders that are never frozen, for a holder that is started here.
    :raises SplitMirrorError: a database cannot be backed up; nothing has begun then.
    """
    status = ask_if_running(state, session, "status")
    before = {} if status is None else dict(status["databases"])
    drivers = make_drivers(descriptions)
    after = {driver.title: driver.quiesce for driver in drivers}
    if status is not None and status["hot_backup"] and before == after:
        return Begun(False, {}, before, after)
    if dry_run:
        try:
            return Begun(True, {driver.title: driver.preflight() for driver in drivers}, before, after)
        finally:
            for driver in drivers:
                driver.close()
    from .spawn import ensure_holder  # noqa: PLC0415 - with all of the holder, which most calls do not start

    # What an earlier hot backup of this session left must not pass for the result of this one.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state.hot_backup_file(session))
    started = ensure_holder(state, session, needed)
    try:
        facts = ask(state, session, "begin", databases=list(descriptions))["result"]["databases"]
    except BaseException:
        if started:
            recover(state, session)
        raise
    return Begun(True, facts, before, after)


def end(state: StateDir, session: str, descriptions: Descriptions) -> Ended:
    """End hot backup and the holder; a second call returns the first result again.

    :param descriptions: a hot backup of one of these that the holder does not keep was lost, or never begun.
    :raises SplitMirrorError: the holder refuses, because the window is still open.
    """
    status = ask_if_running(state, session, "status")
    result_path = state.hot_backup_file(session)
    if status is None:
        try:
            return Ended(**{**read_json(result_path), "changed": False})
        except (FileNotFoundError, ValueError, TypeError):
            evidence = _lost(session, _hot_backups(descriptions)) or _NOTHING_TO_END
            return Ended(False, dict(evidence))
        except OSError as exc:
            raise SplitMirrorError(
                f"{result_path}: it cannot be read ({exc.strerror}), and has what the end of the hot backup came to; "
                "remove it, and begin a new session."
            ) from exc
    lost = [title for title in _hot_backups(descriptions) if status["databases"].get(title) != "hot_backup"]
    result = ask(state, session, "end")["result"]
    result["evidence"] = _lost(session, lost) or result["evidence"]
    recover(state, session)
    ended = Ended(True, before=dict(status["databases"]), **result)
    replace_file(result_path, json.dumps(asdict(ended)))
    return ended


def recover_databases(descriptions: Descriptions) -> bool:
    """End what dead holders left in the databases themselves; return whether there was anything to do.

    :raises SplitMirrorError: it could not be ended.
    """
    done = False
    for driver in make_drivers(descriptions):
        try:
            done = driver.recover() or done
        finally:
            driver.close()
    return done


def freeze(
    state: StateDir,
    session: str,
    mounts: Sequence[str],
    deadline_s: float,
    needed: Sequence[Needed],
    *,
    dry_run: bool = False,
) -> Frozen:
    """Freeze mounts and the databases that are made ready for it, unless these mounts are frozen.

    :raises SplitMirrorError: nothing is frozen then.
    """
    status = ask_if_running(state, session, "status")
    if status is not None and status["frozen"] and set(status["mounts"]) == {os.path.realpath(m) for m in mounts}:
        return Frozen(False, status["mounts"], freeze=status["freeze"])
    if dry_run:
        checked = check_mounts(mounts, state_needed(state, needed))
        if status is not None and status["tracking"] is not None:
            from .checking import check_covered  # noqa: PLC0415 - likewise

            check_covered(state.map_file(session), session, {mount.dev for mount in checked})
        return Frozen(True, [os.fsdecode(mount.mount_point) for mount in checked])
    from .spawn import ensure_holder  # noqa: PLC0415 - likewise

    started = ensure_holder(state, session, needed)
    try:
        frozen = ask(state, session, "freeze", mounts=list(mounts), deadline_s=deadline_s)["result"]
    except BaseException:
        if started:
            recover(state, session)
        raise
    return Frozen(True, frozen["mounts"], freeze=frozen["freeze"])


def thaw(state: StateDir, session: str, mounts: Sequence[str]) -> Frozen:
    """Thaw, also when the holder is dead or stuck. A holder that has nothing left to keep is ended.

    :param mounts: thawed in any case, unless the living holder of another session has frozen them.
    :raises SplitMirrorError: something stays frozen.
    """
    stands_still = os.path.exists(state.frozen_file(session))
    try:
        status = ask_if_running(state, session, "status", STUCK_S if stands_still else None)
    except NoAnswer:
        if not stands_still:
            raise
        status = None
    if status is None:
        found = recover(state, session).thawed
        thawed = sorted({*found, *thaw_mounts(state, session, list(mounts))})
        error = "The holder of the session was gone, and the freeze may have ended before." if thawed else None
        return Frozen(bool(thawed), thawed, {"intact": False, "error": error})
    answer = ask(state, session, "thaw")
    window = {**answer["result"], "events": answer["events"]}
    if window.pop("frozen"):
        raise SplitMirrorError(
            "session: not everything is thawed; the guard tries again at the deadline of the freeze "
            f"({str(window['error']).rstrip('.')}).",
            code="thaw_failed",
        )
    if not status["hot_backup"] and status["tracking"] is None:
        recover(state, session)
    return Frozen(window.pop("thawed"), status["mounts"], window)


def frozen_mounts(state: StateDir, session: str) -> list[str]:
    """What the session has frozen now."""
    status = ask_if_running(state, session, "status")
    return [] if status is None else list(status["mounts"])


def _hot_backups(descriptions: Descriptions) -> list[str]:
    return [driver.title for driver in make_drivers(descriptions) if driver.quiesce == "hot_backup"]


def _lost(session: str, titles: Sequence[str]) -> Optional[Json]:
    """The evidence of hot backups that no holder keeps; None when there are none."""
    if not titles:
        return None
    error = (
        f"session: {session}: the hot backup of {', '.join(titles)} was lost with the holder of the session, or never "
        "begun; begin a new backup."
    )
    return {"required": True, "ended_cleanly": False, "same_session": False, "error": error}
