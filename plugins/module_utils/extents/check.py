# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a map up to date on the database host: just before the freeze, and once more while all is frozen.

The first layer of the check; its cost grows with what changed. The proof on the media server is the second.

A frozen XFS cannot trim what it allocated ahead behind the end of a file that grows. Files that have any stay open
until the thaw (filemap.py); but to look at one that was thrown out of the kernel's inode cache meanwhile waits for the
thaw. So the caller needs a thaw that does not depend on this check.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

from .compare import ADDED, ATTRIBUTES, REMAPPED, REMOVED, SAME, Finding, compare, difference
from .filemap import FileMapper
from .leaveout import LEAVE_OUT, LeftOut
from .mapfile import MapFile
from .mapper import group_names, map_scopes_of, sync_filesystem, translations, user_names
from .maprows import ExtentRow, FileEntry, MapError, MappedFields, sort_key
from .openfiles import writable_files
from .rules import Rule
from .stack import is_below
from .survey import check_mounts
from .tracker import SWEEP, Changes, Tracker
from .walk import FileSystems, Run, single, walk

LAYER = "window"
# Before the freeze, go round again only while more than this changed meanwhile.
_FEW_CHANGES = 50
_MOST_ROUNDS = 3
# After how many paths it is known how long one takes.
_ENOUGH_FOR_A_PACE = 1000


class CheckCounts(NamedTuple):
    """What a check did to the map, and how many paths it looked at. ``tracker`` is ``some`` or ``all``."""

    remapped: int
    added: int
    removed: int
    attributes: int
    examined: int
    tracker: str


def pre_check(map_file: MapFile, tracker: Tracker, budget_s: Optional[float] = None) -> CheckCounts:
    """Do most of the check's work just before the freeze, so that little is left for it.

    :param tracker: the one that was started before the map was made.
    :param budget_s: what the check in the window may take.
    :raises MapError: when something of the scopes cannot be mapped any more, something else is mounted there, or so
        much changes all the time that the check would not end within its budget.
    """
    check = _Check(map_file, None, None)
    # From here on files that are opened are told; with those open now, these are all that may be open later.
    tracker.watch_opens(True)
    held: Optional[set[tuple[int, int]]] = None
    kind = "some"
    few = False
    took_s = 0.0
    for _round in range(_MOST_ROUNDS):
        changes = tracker.collect()
        # What was written before its event was collected must be on the device before it is mapped.
        for fs in map_file.filesystems():
            sync_filesystem(fs.mount_point)
        if held is None or changes.kind == "all":
            kind = changes.kind if held is None else "all"
            held = writable_files(check.devices)
            changes.inodes.update(held)
        held.update(changes.opened)
        began, before = time.monotonic(), check.examined
        check.follow(changes)
        took_s = time.monotonic() - began
        if check.examined - before >= _ENOUGH_FOR_A_PACE:
            tracker.pace_s = took_s / (check.examined - before)
        few = tracker.kind != SWEEP and len(changes.names) + len(changes.inodes) <= _FEW_CHANGES + len(held)
        if few or tracker.kind == SWEEP:
            break
    if budget_s is not None and took_s > budget_s and not few:
        raise _too_slow(f"took {took_s:.1f} s for what changed just before", budget_s, "so nothing is frozen")
    check.check_mounts()
    tracker.held = held
    map_file.set_owners(*check.new_owners())
    map_file.commit()
    return check.counts(kind)


def check_map(
    map_file: MapFile, tracker: Tracker, unclosed: Optional[list[int]] = None, budget_s: Optional[float] = None
) -> CheckCounts:
    """Make the map what the file systems are, while they are frozen, and set its state to ``checked``.

    :param unclosed: takes descriptors that the caller closes after the thaw; to close them here could wait for it.
    :param budget_s: after which it gives up, so that the freeze does not wait for it.
    :raises MapError: when something of the scopes cannot be mapped any more, something else is mounted there, or the
        budget is spent.
    """
    # Whatever is written after the thaw has a later time of change, but for the granularity of the clock.
    checked_ns = time.time_ns()
    check = _Check(map_file, LAYER, unclosed, budget_s=budget_s, pace_s=tracker.pace_s)
    changes = tracker.collect()
    if changes.kind == "some":
        if tracker.held is None:
            tracker.held = writable_files(check.devices)
        tracker.held.update(changes.opened)
        changes.inodes.update(tracker.held)
    check.follow(changes)
    map_file.set_meta("tracker", tracker.kind)
    map_file.set_meta("checked_ns", str(checked_ns))
    map_file.set_state("checked")
    map_file.commit()
    return check.counts(changes.kind)


def _too_slow(what: str, budget_s: float, result: str) -> MapError:
    return MapError(
        f"deadline_s: the check of the map {what}, more than the {budget_s:g} s that it may take, a third of "
        f"deadline_s, {result}; too much changes at once, so take the backup when less does, or set deadline_s "
        "(splitmirror_window_deadline_s) higher.",
        option="deadline_s",
        code="deadline_too_short",
    )


class _Check:
    """One check of a map; ``layer`` is what its changes are recorded as, None for not at all."""

    def __init__(
        self,
        map_file: MapFile,
        layer: Optional[str],
        unclosed: Optional[list[int]],
        *,
        budget_s: Optional[float] = None,
        pace_s: Optional[float] = None,
    ) -> None:
        filesystems = map_file.filesystems()
        self._budget_s = budget_s
        self._pace_s = pace_s
        self._began = time.monotonic()
        self._map = map_file
        self._layer = layer
        self._tree = map_scopes_of(map_file)
        self._places = FileSystems.live(filesystems)
        self._left_out = LeftOut(self._tree, map_file.meta("on_unreadable") == LEAVE_OUT)
        self._mapper = FileMapper(self._places, translations(map_file), unclosed, self._left_out)
        self._counts = dict.fromkeys((REMAPPED, ADDED, REMOVED, ATTRIBUTES), 0)
        self.examined = 0
        self._uids: set[int] = set()
        self._gids: set[int] = set()
        self.devices = {fs.dev for fs in filesystems}

    def counts(self, tracker: str) -> CheckCounts:
        """What was done so far."""
        counts = self._counts
        return CheckCounts(counts[REMAPPED], counts[ADDED], counts[REMOVED], counts[ATTRIBUTES], self.examined, tracker)

    def new_owners(self) -> tuple[dict[int, str], dict[int, str]]:
        """Names of owners that the map does not know yet. Not while frozen: a name service may have to write."""
        users = user_names(self._uids - self._map.users().keys())
        return dict(users), dict(group_names(self._gids - self._map.groups().keys()))

    def check_mounts(self) -> None:
        """Prove that what is mounted is what was mapped. :raises MapError: it is not."""
        check_mounts(self._tree, self._map.filesystems(), self._left_out)
        self._map.leave_out(self._left_out.take())

    def follow(self, changes: Changes) -> None:
        """Look again at what changed, or at everything."""
        self.check_mounts()
        self._follow(changes)
        self._map.leave_out(self._left_out.take())

    def _spend(self) -> None:
        """:raises MapError: the budget is spent."""
        if self._budget_s is not None and time.monotonic() - self._began > self._budget_s:
            raise _too_slow("was not done", self._budget_s, "so it was given up and the file systems were thawed")

    def _foresee(self, paths: int) -> None:
        """:raises MapError: so many paths would take longer than the budget, even at twice the pace."""
        if self._budget_s is not None and self._pace_s is not None and paths * self._pace_s / 2 > self._budget_s:
            what = f"would take about {paths * self._pace_s:.0f} s for {paths} paths"
            raise _too_slow(what, self._budget_s, "so it was not begun and the file systems were thawed")

    def _follow(self, changes: Changes) -> None:
        if changes.kind == "all":
            self._foresee(int(self._map.meta("entries") or 0))
            findings = compare(self._map.rows(), self._seen(self._walk()))
            self._apply([finding for finding in findings if self._is_news(finding)])
            return
        deep, shallow = self._paths_of(changes)
        self._foresee(len(deep) + len(shallow))
        covered: Optional[bytes] = None
        for run in self._runs(deep | shallow):
            seen = {}
            for row in self._mapper.map_run(run):
                self._spend()
                seen[row[0][0]] = row
            for name in run.names:
                path = run.prefix + name
                if covered is not None and is_below(path, covered):
                    continue
                self._spend()
                self.examined += 1
                if self._settle(path, seen.get(path), path in deep):
                    covered = path

    def _paths_of(self, changes: Changes) -> tuple[set[bytes], set[bytes]]:
        """Paths to look at with all that is below them, and paths to look at alone."""
        # The folders that hold whole scopes are not in the map, but their events name the scopes' roots.
        outer: dict[tuple[int, int], list[bytes]] = {}
        for root in self._tree.tops:
            folder = os.path.dirname(root)
            with contextlib.suppress(OSError):
                found = os.stat(folder)
                outer.setdefault((found.st_dev, found.st_ino), []).append(folder)
        folders: dict[tuple[int, int], list[tuple[bytes, Optional[Rule]]]] = {}
        deep = set()
        for dev, inode, name in changes.names:
            self._spend()
            if (dev, inode) not in folders:
                known = self._map.paths_of_inodes(dev, [inode]) + outer.get((dev, inode), [])
                folders[dev, inode] = [(folder, self._rule_in(folder)) for folder in known]
            for folder, rule in folders[dev, inode]:
                path = folder.rstrip(b"/") + b"/" + name
                if path in self._tree.rules or (rule is not None and not rule.excludes(path, name)):
                    deep.add(path)
        deep = {path for path in deep if not self._tree.is_left_out(path)}
        shallow = set(self._tree.tops)
        for dev, inode in changes.inodes:
            self._spend()
            shallow.update(self._map.paths_of_inodes(dev, [inode]))
        return deep, shallow

    def _rule_in(self, folder: bytes) -> Optional[Rule]:
        """The rule for what is in a folder; None when it is in no scope, or taken without what is in it."""
        rule = self._tree.rule_of(folder)
        return None if rule is None or rule.is_empty(folder) else rule

    def _runs(self, paths: set[bytes]) -> Iterator[Run]:
        """The paths in logical order, neighbours of one folder together."""
        pending: Optional[Run] = None
        for path in sorted(paths, key=sort_key):
            run = single(path, self._places.of(path))
            if pending is not None and run.names[0] and (run.fs, run.prefix) == (pending.fs, pending.prefix):
                pending.names.append(run.names[0])
                pending.kinds.update(run.kinds)
                continue
            if pending is not None:
                yield pending
            pending = run
        if pending is not None:
            yield pending

    def _settle(self, path: bytes, seen: Optional[MappedFields], deep: bool) -> bool:
        """Put what is seen of a path into the map; return whether all that is below it was settled with it."""
        stored = self._map.get(path)
        if seen is None:
            # Also where the map does not know the path: made while folders moved, it may know what was below.
            self._remove(path)
            return True
        is_folder = seen[0][1] == "d"
        if not is_folder and self._map.holds_below(path):
            # It was a folder before, or while the map was made by those who read it and those who looked at its names.
            self._remove(path)
            stored = None
        replaced = stored is None or (stored[0].kind, stored[0].inode) != (seen[0][1], seen[0][3])
        if is_folder and replaced:
            self._remove(path)
            for row in self._seen(self._walk([path])):
                self._put(ADDED, row)
        elif is_folder and deep:
            rows = self._seen(self._walk([path]))
            findings = compare(self._map.rows(path), rows)
            self._apply([finding for finding in findings if self._is_news(finding)])
        elif stored is None:
            self._put(ADDED, seen)
            return False
        else:
            what = difference(stored[0], stored[1], seen[0], seen[1])
            if what != SAME:
                self._put(what, seen)
            return False
        return True

    def _walk(self, first: Optional[Iterable[bytes]] = None) -> Iterator[Run]:
        return walk(self._tree, self._places, first, left_out=self._left_out)

    def _seen(self, runs: Iterator[Run]) -> Iterator[MappedFields]:
        for run in runs:
            for row in self._mapper.map_run(run):
                self._spend()
                self.examined += 1
                yield row

    @staticmethod
    def _is_news(finding: Finding) -> bool:
        return finding.what != SAME

    def _apply(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._spend()
            if finding.seen is None:
                # What is below it has findings of its own, so nothing is counted twice.
                self._remove(finding.path)
            else:
                self._put(finding.what, finding.seen)

    def _put(self, what: str, seen: MappedFields) -> None:
        entry = FileEntry._make(seen[0])
        self._map.put_file(entry, [ExtentRow._make(row) for row in seen[1]])
        self._counts[what] += 1
        self._uids.add(entry.uid)
        self._gids.add(entry.gid)
        if self._layer is not None:
            self._map.add_changes(self._layer, [(entry.path, what)])

    def _remove(self, path: bytes) -> None:
        self._counts[REMOVED] += self._map.remove_tree(path, self._layer)
