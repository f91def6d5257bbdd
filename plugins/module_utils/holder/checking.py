# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change tracking and the check of the map, as the holder does them for its session."""

from __future__ import annotations

import os
from typing import Optional, Sequence

from ..errors import SplitMirrorError
from ..extents.check import CheckCounts, check_map, pre_check
from ..extents.mapfile import MapFile
from ..extents.seal import seal
from ..extents.tracker import Tracker
from .protocol import EventLog, Json


class CheckError(SplitMirrorError):
    """A check that cannot be done."""


class MapChecker:
    """The tracker of a session, and what it is good for.

    :param map_path: where the session's map is (or will be).
    """

    def __init__(self, map_path: str, session: str, log: EventLog) -> None:
        self._map_path = map_path
        self._session = session
        self._log = log
        self._tracker: Optional[Tracker] = None
        self._map: Optional[MapFile] = None
        self._before: Optional[CheckCounts] = None

    @property
    def tracked(self) -> Optional[list[str]]:
        """The mount points that are followed, None before track()."""
        return None if self._tracker is None else list(self._tracker.mounts)

    def track(self, mounts: Sequence[str]) -> Json:
        """Begin to follow the changes of these file systems; what was followed before is followed no more.

        :raises SplitMirrorError: one of them is not there.
        """
        self.close()
        tracker = Tracker(mounts)
        kind = tracker.start()
        self._tracker = tracker
        self._log.add("tracking_started", tracker=kind)
        return {"tracker": kind}

    def pre_check(self) -> None:
        """Do what can be done of the check before the window, and make the map ready to be used in it.

        Nothing happens when nothing was mapped in this session: then there is only a freeze.

        :raises SplitMirrorError: something cannot be mapped any more.
        """
        if self._tracker is not None and os.path.exists(self._map_path):
            self.close_map()
            self._map = MapFile.open(self._map_path, self._session)
            self._before = pre_check(self._map, self._tracker)

    def check(self, frozen: bool) -> Json:
        """Check the map now; return counts, whether it was complete, and the counts of ``pre_check``.

        :param frozen: its file systems are, so that the map can be sealed.
        :raises SplitMirrorError: there is no map, or something cannot be mapped any more.
        """
        if self._tracker is None or not os.path.exists(self._map_path):
            raise CheckError("session: nothing is mapped in this session; extent_map with state mapped does it.")
        if self._map is None:
            self._map = MapFile.open(self._map_path, self._session)
        self._log.add("check_started")
        try:
            if frozen:
                seal(self._map)
            counts = check_map(self._map, self._tracker)
        except BaseException:
            self._log.add("check_failed")
            raise
        self._log.add("check_done")
        before = None if self._before is None else self._before._asdict()
        return {"complete": True, **counts._asdict(), "pre_check": before}

    def checked_or_why_not(self) -> Json:
        """As check(frozen=True), but an error becomes ``complete: false`` with ``error``: the thaw comes anyway."""
        try:
            return self.check(frozen=True)
        except SplitMirrorError as exc:
            return {"complete": False, "error": exc.message}
        except Exception as exc:
            return {"complete": False, "error": f"The check failed: {type(exc).__name__}: {exc}"}

    def close(self) -> None:
        """Stop following, and let go of the map."""
        self.close_map()
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def close_map(self) -> None:
        """Let go of the map, so that others may use it."""
        map_file, self._map = self._map, None
        if map_file is not None:
            map_file.close()
