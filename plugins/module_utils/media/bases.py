# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""On which session the next one of a host builds, and the maps that are kept for that.

The map of a session stays on the media server as long as it is that of the newest good session of its host, or of the
newest good full one. The next session is compared with it (extents/since.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

from ..catalog.records import DIFFERENTIAL, FULL, GOOD, INCREMENTAL, OPEN, CatalogError, Session
from ..catalog.store import Catalog
from ..errors import SplitMirrorError
from ..extents.compare import ADDED, REMOVED
from ..extents.mapfile import MapFile
from ..extents.maprows import SOURCE_CONTENT, FileEntry
from ..extents.since import is_base
from ..session import StateDir

AUTO = "auto"
#: What a task may ask for.
ASKED = (FULL, INCREMENTAL, DIFFERENTIAL, AUTO)
MOST_DAYS = 36500
_DAY_S = 86400
#: A run that begins a little earlier in the day than the one so many days ago counts as so many days later.
_EARLY_S = 2 * 3600


@dataclass(frozen=True)
class Level:
    """How a session is written.

    :param level: FULL, INCREMENTAL or DIFFERENTIAL. :param base: the session that it builds on; None for a full one.
    :param reason: why it is full although something else was asked for, a sentence; empty otherwise.
    """

    level: str
    base: Optional[Session] = None
    reason: str = ""

    @property
    def base_id(self) -> str:
        """The id of the base; empty for a full session."""
        return "" if self.base is None else self.base.id


def check_full_every_days(days: float) -> None:
    """:raises CatalogError: a full session cannot be due so often."""
    if not 0 < days <= MOST_DAYS:
        raise CatalogError(
            f"full_every_days: a full session cannot be due every {days:g} days; give a number above 0, up to "
            f"{MOST_DAYS} (splitmirror_full_every_days).",
            option="full_every_days",
            code="option_invalid",
        )


def level_by_catalog(asked: str, full_every_days: float, good: Sequence[Session], host: str) -> tuple[str, str]:
    """The level of the next session of a host, as far as its good sessions decide it.

    :param asked, full_every_days, host: as for choose_level. :param good: from old to new.
    :returns: FULL, INCREMENTAL or DIFFERENTIAL; and why it is full although something else was asked for.
    """
    if asked == FULL:
        return FULL, ""
    full = [session for session in good if session.level == FULL]
    if not full:
        return FULL, f"the catalog has no good full session of {host} to build on."
    if asked == AUTO and full[-1].created_s + full_every_days * _DAY_S - _EARLY_S <= time.time():
        return FULL, ""
    return DIFFERENTIAL if asked == DIFFERENTIAL else INCREMENTAL, ""


def choose_level(
    asked: str, full_every_days: float, catalog: Catalog, state: StateDir, host: str, *, anew: str = ""
) -> Level:
    """On which session of a host the next one builds.

    :param asked: FULL, INCREMENTAL, DIFFERENTIAL, or AUTO: full if the last full one is so many days old, else
        incremental.
    :param anew: the volume that is labelled anew for the session, and all that is on it lost; empty for none.
    :returns: a full one also where nothing can be built on, with the reason.
    """
    good = catalog.sessions(host, GOOD)
    level, reason = level_by_catalog(asked, full_every_days, good, host)
    if level == FULL:
        return Level(FULL, reason=reason)
    base = good[-1] if level == INCREMENTAL else [session for session in good if session.level == FULL][-1]
    why_not = _why_not(catalog, state, base, anew)
    if why_not:
        return not_on(base, why_not)
    return Level(level, base)


def not_on(base: Session, why: str) -> Level:
    """A full session, for nothing can be built on this one. :param why: without a stop."""
    return Level(FULL, reason=f"session {base.id} cannot be built on: {why}.")


def _why_not(catalog: Catalog, state: StateDir, base: Session, anew: str) -> str:
    missing = catalog.missing_base(base)
    if missing is not None:
        return f"session {missing}, on which it builds, is missing or not good"
    for one in (base, *catalog.bases(base)) if anew else ():
        if any(part.volume == anew for part in catalog.parts(one.number)):
            return f"volume {anew}, which has {one.id}, is to be used again"
    path = state.base_map(base.id)
    if not os.path.exists(path):
        return "its map is not kept on this media server"
    try:
        with MapFile.open(path, base.id, read_only=True, foreign=True) as map_file:
            if is_base(map_file):
                return ""
    except SplitMirrorError as exc:
        return f"its map cannot be read ({exc.message.rstrip('.')})"
    return "its map has no times of change"


def keep_map(
    state: StateDir, session: str, map_path: str, proof: Iterable[tuple[bytes, str]] = (), extras: str = ""
) -> None:
    """Keep the map of a session that was written, as what its archive and its bases hold.

    What the proof found to be otherwise than the map has it, and what came with hot backup, is never proved to be
    unchanged.

    :param proof: (path, what) that differed. :param extras: the tar of label files and logs; empty for none.
    :raises SplitMirrorError: it cannot be kept.
    """
    kept = state.base_map(session)
    try:
        state.make_private_dir(state.bases_dir)
        if os.path.lexists(kept):
            os.unlink(kept)
        try:
            os.link(map_path, kept)
        except OSError:
            shutil.copyfile(map_path, kept)
            os.chmod(kept, 0o600)
        names = []
        if extras:
            with tarfile.open(extras, "r:", errors="surrogateescape") as tar:
                names = [b"/" + os.fsencode(member.name).strip(b"/") for member in tar]
    except (OSError, tarfile.TarError) as exc:
        raise SplitMirrorError(
            f"state_dir: the map of session {session} cannot be kept in {state.bases_dir} ({exc}); make room there.",
            option="state_dir",
            code="state_dir_unusable",
        ) from exc
    with MapFile.open(kept, session) as map_file:
        for path, what in proof:
            if what == REMOVED:
                map_file.remove_entry(path)
            elif what == ADDED:
                map_file.put_file(_unknown(path), [])
            else:
                map_file.forget_change(path)
        for path in names:
            map_file.put_file(_unknown(path), [])


def _unknown(path: bytes) -> FileEntry:
    """A file of which no map says anything."""
    return FileEntry(path, "f", source=SOURCE_CONTENT, content=b"")


def drop_map(state: StateDir, session: str) -> None:
    """Remove the map of a session, if it is kept."""
    with contextlib.suppress(OSError):
        os.unlink(state.base_map(session))


def drop_maps(state: StateDir, catalog: Catalog) -> None:
    """Remove the maps on which no session will build."""
    try:
        names = os.listdir(state.bases_dir)
    except OSError:
        return
    kept = {session.id for session in catalog.sessions(state=OPEN)}
    newest: dict[tuple[str, bool], str] = {}
    for session in catalog.sessions(state=GOOD):
        newest[session.host, False] = session.id
        if session.level == FULL:
            newest[session.host, True] = session.id
    kept.update(newest.values())
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending == ".sqlite" and stem not in kept:
            # Another task may remove it at the same time.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(state.bases_dir, name))
