# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Map a database host, with change tracking begun before the first file, and later find out what is new since then."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from ..archive.estimate import estimate
from ..database.base import DatabaseDriver
from ..database.registry import make_drivers
from ..database.scopes import host_scopes, other_names
from ..extents.leaveout import FAIL, LEAVE_OUT, LeftOut, told
from ..extents.mapcheck import parse_scopes
from ..extents.mapfile import MapFile
from ..extents.mapper import map_scopes
from ..extents.maprows import MapCounts, MapError
from ..extents.rules import ScopeTree
from ..extents.scope import Scope
from ..extents.since import set_demands
from ..extents.stack import LunSpec, Segment
from ..extents.survey import survey
from ..host.status import StatusWriter
from ..session import StateDir
from .freeze import Needed, check_mounts, state_needed
from .protocol import Json, ask
from .recovery import recover
from .spawn import DEFAULT_LIFETIME_S, ensure_holder

TRACK_S = 60.0

#: By mount point: the folder inside the file system that is mounted there, its device's number, its UUID, and where it
#: lies on the LUNs.
Layout = dict[str, tuple[bytes, int, str, list[Segment]]]


@dataclass(frozen=True)
class HostPlan:
    """What a host backs up.

    :param scopes: in the order of databases and paths. :param mounts: mount points of the file systems they lie on;
        these are frozen in the window. :param layout: where these file systems lie. :param databases: what preflight
        told of each, by name.
    """

    scopes: list[Scope]
    mounts: list[str]
    layout: Layout
    databases: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Mapped:
    """A map that was made. :param tracker: ``fanotify`` or ``sweep``."""

    counts: MapCounts
    tracker: str


class HostMapping:
    """The map of one session on its database host.

    Use it as a context manager: the databases' connections stay open until the files are mapped, because some files
    (SQLite's write-ahead log) exist only as long.

    :param databases: descriptions of the databases. :param paths: folders and files besides them. :param exclude: glob
        patterns for the paths. :param luns: the declared LUNs. :param needed: folders that are never frozen.
    :param on_unreadable: ``fail`` or ``leave_out``.
    :raises SplitMirrorError: a description that cannot be used.
    """

    def __init__(
        self,
        state: StateDir,
        session: str,
        *,
        databases: Sequence[Mapping[str, Any]],
        paths: Sequence[str],
        exclude: Sequence[str],
        luns: Sequence[LunSpec],
        needed: Sequence[Needed],
        on_unreadable: str = FAIL,
    ) -> None:
        self._state = state
        self._on_unreadable = on_unreadable
        self._session = session
        self._drivers: list[DatabaseDriver] = make_drivers(databases)
        self._paths = paths
        self._exclude = exclude
        self._luns = luns
        self._needed = needed
        self.path = state.map_file(session)

    def __enter__(self) -> HostMapping:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    def plan(self) -> HostPlan:
        """Find out what belongs to the backup, changing nothing.

        :raises SplitMirrorError: a database that cannot be backed up, a path that cannot be mapped, a file system that
            must not be frozen.
        """
        facts = {driver.title: driver.preflight() for driver in self._drivers}
        scopes = host_scopes(self._drivers, self._paths, self._exclude)
        found = survey(scopes, self._luns, left_out=LeftOut(ScopeTree(scopes), self._on_unreadable == LEAVE_OUT))
        layout = {
            os.fsdecode(mount.mount_point): (mount.root, mount.dev, info.fs_uuid, segments)
            for mount, info, segments in found
        }
        mounts = list(layout)
        check_mounts(mounts, state_needed(self._state, self._needed))
        return HostPlan(scopes, mounts, layout, facts)

    def make(self, plan: HostPlan, lifetime_s: float = DEFAULT_LIFETIME_S) -> Mapped:
        """Start the holder if there is none, begin tracking, and map everything.

        :raises SplitMirrorError: it cannot be mapped; a holder that was started for it is ended again.
        """
        # No connection must be open in a forked process: libraries keep state besides it (SQLite its locks).
        self._close()
        started = ensure_holder(self._state, self._session, self._needed, lifetime_s)
        try:
            for driver in self._drivers:
                driver.files()
            tracker = ask(self._state, self._session, "track", TRACK_S, mounts=plan.mounts)["result"]["tracker"]
            with MapFile.create(self.path, self._session, os.uname().nodename) as map_file:
                map_file.set_meta("names", json.dumps(other_names(self._drivers, self._paths)))
                set_demands(map_file, [demand for driver in self._drivers for demand in driver.demands()])
                status = StatusWriter(self._state.status_file(self._session), "map", "files")
                counts = map_scopes(
                    map_file, plan.scopes, self._luns, progress=status.set, on_unreadable=self._on_unreadable
                )
            status.finish()
        except BaseException:
            if started:
                recover(self._state, self._session)
            raise
        return Mapped(counts, tracker)

    def _close(self) -> None:
        for driver in self._drivers:
            driver.close()

    def known_scopes(self) -> list[Scope]:
        """The scopes of the map that was made before. :raises MapError: there is none, or of another session."""
        with MapFile.open(self.path, self._session, read_only=True) as map_file:
            return parse_scopes(map_file.meta("scopes") or "[]")

    def known_layout(self) -> Layout:
        """Where the file systems of the map lay when it was made. :raises MapError: as known_scopes."""
        with MapFile.open(self.path, self._session, read_only=True) as map_file:
            luns = {lun.id: lun.name for lun in map_file.luns()}
            return {
                os.fsdecode(fs.mount_point): (
                    fs.root,
                    fs.dev,
                    fs.fs_uuid,
                    [Segment(s.device_offset, luns[s.lun], s.lun_offset, s.length) for s in map_file.segments(fs.id)],
                )
                for fs in map_file.filesystems()
            }

    def left_out(self) -> Json:
        """What was left out of the map because it cannot be backed up. :raises MapError: as known_scopes."""
        with MapFile.open(self.path, self._session, read_only=True) as map_file:
            return told(map_file.left_out())

    def counts(self) -> MapCounts:
        """What the map holds. :raises MapError: as known_scopes."""
        with MapFile.open(self.path, self._session, read_only=True) as map_file:
            return map_file.counts()

    def archive_bytes(self) -> int:
        """How many bytes the map takes on tape at most, without the logs. :raises MapError: as counts."""
        with MapFile.open(self.path, self._session, read_only=True) as map_file:
            return estimate(map_file).archive_bytes


def lun_specs(pairs: Sequence[Mapping[str, Any]]) -> list[LunSpec]:
    """The LUNs of a mirror set on this host. :raises MapError: a pair names no device."""
    for pair in pairs:
        if not pair.get("device"):
            raise MapError(
                f"pairs: {pair['name']} names no device; set its device on this host.",
                option="pairs",
                code="option_invalid",
            )
    return [LunSpec(pair["name"], pair["device"], pair.get("serial")) for pair in pairs]


def scope_changes(before: Sequence[Scope], after: Sequence[Scope]) -> tuple[list[str], list[str]]:
    """Roots that are new or have new rules, and roots that are gone."""
    old: dict[str, Optional[Scope]] = {scope.root: scope for scope in before}
    new = {scope.root: scope for scope in after}
    came = [root for root, scope in new.items() if old.get(root) != scope]
    return came, [root for root in old if root not in new]


def layout_changes(before: Layout, after: Layout) -> list[str]:
    """Mount points of file systems that are new, gone, or lie elsewhere now."""
    return sorted(point for point in {**before, **after} if before.get(point) != after.get(point))
