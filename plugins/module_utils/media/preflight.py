# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a media server is asked before a backup begins."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ..catalog.records import Session
from ..catalog.store import Catalog
from ..crypt.keys import parse_recipients
from ..preflight import Preflight, folder_ready
from ..session import StateDir
from ..tape.base import TapeError
from ..tape.drive_key import DriveKey, writing_key_of
from ..tape.drive_lease import DriveOptions
from .bases import level_by_catalog
from .copying import CopyJob, check_parts, target_pool
from .copying import plan as plan_copies
from .libraries import Libraries
from .pools import Wanted
from .prepare import prepare
from .volumes import APPEND

_SESSION = "preflight"


def ask_media_server(preflight: Preflight, state: StateDir, params: Mapping[str, Any]) -> None:
    """Ask for the state folder, the catalog, the drive with its volume, and the room on it.

    :param params: those of the module: the drive's, ``volume``, ``pool``, ``mode``, ``allow_last``, ``recipients``,
        ``drive_key_file``, ``drive_key``, ``level``, ``full_every_days``, ``host``, ``part_bytes``, ``copies``,
        ``libraries`` and ``spool_dir``.
    """
    key: Optional[DriveKey] = None

    def drive_key() -> str:
        nonlocal key
        key = writing_key_of(params)
        named = "" if key is None else key.fingerprint
        return f"The drive will encrypt the session with the key {named}; without it, it cannot be restored."

    if params["recipients"]:
        preflight.ask("encryption", lambda: _encryption(params["recipients"]))
    if params["drive_key_file"] or params["drive_key"]:
        preflight.ask("encryption by the drive", drive_key)
    preflight.ask("state folder", lambda: folder_ready(state.root, "state_dir"))
    path = state.catalog_file
    last: Optional[_Last] = None

    def catalog() -> str:
        nonlocal last
        with Catalog.open_for(path, writable=False, no_trace=True) as opened:
            good = opened.sessions(params["host"], "good")
            if not good:
                return f"It has no good session of {params['host']} yet."
            level, _why = level_by_catalog(params["level"], params["full_every_days"], good, params["host"])
            same = [session for session in good if session.level == level][-1:]
            last = next((_Last(level, _bytes_of(opened, session)) for session in same), None)
            newest_bytes = _bytes_of(opened, good[-1])
        return f"The last good session of {params['host']} is {good[-1].id}, of {newest_bytes} bytes on tape."

    wanted = Wanted(params["volume"], params["pool"])
    readable = preflight.ask("catalog", catalog)
    plan: dict[str, Any] = {}

    def volume() -> str:
        nonlocal wanted
        wanted = Wanted.of(params)
        if not os.path.exists(path):
            raise TapeError(
                f"{wanted.option}: nothing is labelled yet, because there is no catalog in {state.root}; run the "
                "playbook label, or catalog_rebuild for each volume if there was a catalog.",
                option=wanted.option,
                code="volume_wrong",
            )
        drives = DriveOptions.of(params, dry_run=True, key=key)
        plan.update(prepare(state.root, _SESSION, drives=drives, wanted=wanted))
        return _next_place(plan)

    if readable and preflight.ask("volume", volume):
        preflight.ask("room", lambda: _room(plan, last) if wanted.pool is None else _pool_room(path, wanted, last))
    for copy in params["copies"] if readable and os.path.exists(path) else ():
        target = f"pool {copy['pool']}" if copy["pool"] else f"volume {copy['volume']}"
        preflight.ask(f"copy to {target}", functools.partial(_copy, state, params, copy))


def _next_place(plan: Mapping[str, Any]) -> str:
    seen = f"in {plan['drive']}" if plan["drive"] else "by the catalog; it is in no drive that is free now"
    return f"{plan['volume']} is labelled, and tape file {plan['file_number']} comes next ({seen})."


def _copy(state: StateDir, params: Mapping[str, Any], copy: Mapping[str, Any]) -> str:
    """Whether sessions can be copied. :raises SplitMirrorError: they cannot."""
    job = CopyJob.of({**params, "mode": APPEND, "sessions": (), **copy, "source": copy["source"] or params["pool"]})
    with Catalog.open_for(state.catalog_file, writable=False, no_trace=True) as catalog:
        pool = target_pool(job, catalog)
        planned = plan_copies(job, catalog)
        check_parts(job, catalog, planned)
    if params["spool_dir"]:
        folder_ready(params["spool_dir"], "spool_dir")
    drives = Libraries.of(params, dry_run=True).of_pool(pool)
    found = _next_place(prepare(state.root, _SESSION, drives=drives, wanted=job.target))
    return f"{found} {len(planned)} sessions of {params['host']} are still to be copied there."


class _Last(NamedTuple):
    """The last good session of the level that the next one has: the level, and its bytes on tape."""

    level: str
    archive_bytes: int


def _bytes_of(catalog: Catalog, session: Session) -> int:
    return sum(part.records * part.record_bytes for part in catalog.parts(session.number))


def _pool_room(path: str, wanted: Wanted, last: Optional[_Last]) -> str:
    """As _room, on all volumes of a pool that may be written. :raises TapeError: there is none."""
    with Catalog.open_for(path, writable=False, no_trace=True) as catalog:
        room = wanted.room_bytes(catalog)
    if room is None:
        return f"It is not known how much room is left on the volumes of pool {wanted.pool}."
    if last is not None and last.archive_bytes > room:
        raise TapeError(
            f"pool: {room} bytes have room on the volumes of pool {wanted.pool} that may be written, and a session as "
            f"large as the last {last.level} one needs {last.archive_bytes}; label more volumes for it.",
            option="pool",
            code="pool_exhausted",
        )
    return f"{room} bytes are left on the volumes of pool {wanted.pool} that may be written."


def _encryption(texts: Sequence[str]) -> str:
    """Whether a session can be encrypted. :raises CryptError: it cannot."""
    keys = ", ".join(recipient.fingerprint for recipient in parse_recipients(texts, "recipients"))
    return f"The session will be encrypted to {keys}; without a secret key of these it cannot be restored."


def _room(plan: Mapping[str, Any], last: Optional[_Last]) -> str:
    """Whether a session as large as the last good one of its level has room. :raises TapeError: it has none."""
    room = plan["remaining_bytes"]
    if room is None:
        return "The drive does not report how much room is left."
    needed = (0 if last is None else last.archive_bytes) + plan["record_bytes"]
    if needed > room:
        raise TapeError(
            f"volume: {plan['volume']} has {room} bytes left, and a session as large as the last "
            f"{'one' if last is None else last.level + ' one'} needs {needed}; name a volume with more room.",
            option="volume",
            code="volume_full",
        )
    return f"{room} bytes are left" + (
        "." if last is None else f", and the last {last.level} session took {last.archive_bytes}."
    )
