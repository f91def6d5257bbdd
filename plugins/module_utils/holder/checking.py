# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change tracking and the check of the map, as the holder does them for its session."""

from __future__ import annotations

import os
import resource
from typing import AbstractSet, Optional, Sequence

from ..errors import SplitMirrorError
from ..extents.check import CheckCounts, check_map, pre_check
from ..extents.leaveout import told
from ..extents.mapfile import MapFile
from ..extents.seal import seal
from ..extents.tracker import Tracker
from .protocol import EventLog, Json


class CheckError(SplitMirrorError):
    """A check that cannot be done."""

    code = "map_outdated"


class MapChecker:
    """The change tracker of a session, and the check of the map that uses it.

    :param map_path: where the session's map is (or will be).
    """

    def __init__(self, map_path: str, session: str, log: EventLog) -> None:
        self._map_path = map_path
        self._session = session
        self._log = log
        self._tracker: Optional[Tracker] = None
        self._map: Optional[MapFile] = None
        self._before: Optional[CheckCounts] = None
        self._unclosed: list[int] = []
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    @property
    def tracked(self) -> Optional[list[str]]:
        """The mount points that are followed, None before track()."""
        return None if self._tracker is None else list(self._tracker.mounts)

    def track(self, mounts: Sequence[str]) -> Json:
        """Begin to follow the changes of these file systems, instead of those that were followed before.

        :raises SplitMirrorError: one of them is not there.
        """
        self.close()
        tracker = Tracker(mounts)
        kind = tracker.start()
        self._tracker = tracker
        self._log.add("tracking_started", tracker=kind)
        return {"tracker": kind}

    def pre_check(self, devices: AbstractSet[int], budget_s: Optional[float] = None) -> None:
        """Do the part of the check that is possible before the window, and open the map for the part inside it.

        Nothing happens when nothing was mapped in this session: then only a freeze is wanted.

        :param devices: numbers of the devices that will be frozen. :param budget_s: what check() will be given.
        :raises SplitMirrorError: a file system of the map is not among them; something cannot be mapped any more, or
            not in the time that there is.
        """
        if self._tracker is not None and os.path.exists(self._map_path):
            self.close_map()
            self._map = MapFile.open(self._map_path, self._session)
            _refuse_uncovered(self._map, devices)
            self._before = pre_check(self._map, self._tracker, budget_s)

    def check(self, frozen: AbstractSet[int], budget_s: Optional[float] = None) -> Json:
        """Check the map now; return counts, whether it was complete, the counts of ``pre_check``, what is left out.

        :param frozen: numbers of the frozen devices. The check is complete, and the map sealed, only when all file
            systems of the map are among them; ``error`` names one that is not.
        :param budget_s: after which the check gives up.
        :raises SplitMirrorError: there is no map, something cannot be mapped any more, or the budget is spent.
        """
        if self._tracker is None or not os.path.exists(self._map_path):
            raise CheckError(
                "session: nothing is mapped in this session; run extent_map with state mapped first.",
                code="map_missing",
            )
        if self._map is None:
            self._map = MapFile.open(self._map_path, self._session)
        missing = _not_frozen(self._map, frozen)
        self._log.add("check_started")
        try:
            if missing is None:
                seal(self._map)
            if frozen:
                # Files of a frozen file system may have to stay open until the thaw.
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._limits[1], self._limits[1]))
            counts = check_map(self._map, self._tracker, self._unclosed if frozen else None, budget_s)
        except BaseException:
            self._log.add("check_failed")
            raise
        self._log.add("check_done")
        before = None if self._before is None else self._before._asdict()
        checked = {
            "complete": missing is None,
            **counts._asdict(),
            "pre_check": before,
            "left_out": told(self._map.left_out()),
        }
        return checked if missing is None else {**checked, "error": missing}

    def checked_or_why_not(self, frozen: AbstractSet[int], budget_s: Optional[float] = None) -> Json:
        """Like check, but an error is returned as ``complete: false`` with ``error``, so that the thaw follows."""
        try:
            return self.check(frozen, budget_s)
        except SplitMirrorError as exc:
            return {"complete": False, "error": exc.message}
        except Exception as exc:
            return {"complete": False, "error": f"The check failed: {type(exc).__name__}: {exc}"}

    def thawed(self) -> None:
        """Close what could not be closed while its file system was frozen."""
        while self._unclosed:
            os.close(self._unclosed.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)

    def close(self) -> None:
        """Stop following changes, and close the map."""
        self.close_map()
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def close_map(self) -> None:
        """Close the map, so that others may use it."""
        map_file, self._map = self._map, None
        if map_file is not None:
            map_file.close()


def check_covered(map_path: str, session: str, devices: AbstractSet[int]) -> None:
    """Refuse devices that leave out a file system of the map, as a freeze would; without a map all is well.

    :raises SplitMirrorError: a file system of the map is on none of them.
    """
    if os.path.exists(map_path):
        with MapFile.open(map_path, session, read_only=True) as map_file:
            _refuse_uncovered(map_file, devices)


def _refuse_uncovered(map_file: MapFile, devices: AbstractSet[int]) -> None:
    missing = _not_frozen(map_file, devices)
    if missing is not None:
        raise CheckError(missing, option="mounts")


def _not_frozen(map_file: MapFile, devices: AbstractSet[int]) -> Optional[str]:
    """A sentence about the first file system of the map that is on none of these devices; None when all are."""
    for fs in map_file.filesystems():
        if fs.dev not in devices:
            return (
                f"mounts: {os.fsdecode(fs.mount_point)} contains mapped files and is not frozen; name all mount "
                "points that extent_map returned."
            )
    return None
