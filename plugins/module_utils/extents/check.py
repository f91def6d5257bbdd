# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a map up to date on the database host: just before the freeze, and once more while all is frozen.

The first layer of the check; its cost grows with what changed. The proof on the media server is the second.

A frozen XFS cannot trim what it allocated ahead behind the end of a file that grows. Files that have any stay open
until the thaw (filemap.py); but to look at one that was thrown out of the kernel's inode cache meanwhile waits for the
thaw. So whoever freezes needs a thaw that does not depend on this check.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple, Optional

from .compare import ADDED, ATTRIBUTES, REMAPPED, REMOVED, SAME, Finding, compare, difference
from .filemap import FileMapper
from .mapfile import MapFile
from .mapper import group_names, map_scopes_of, sync_filesystem, translations, user_names
from .maprows import ExtentRow, FileEntry, MappedFields, sort_key
from .openfiles import writable_files
from .stack import is_below
from .tracker import SWEEP, Changes, Tracker
from .walk import Places, Run, single, walk

LAYER = "window"
# Before the freeze, go round again only while more than this changed meanwhile.
_FEW_CHANGES = 50
_MOST_ROUNDS = 3


class CheckCounts(NamedTuple):
    """What a check did to the map, and how many paths it looked at. ``tracker`` is ``some`` or ``all``."""

    remapped: int
    added: int
    removed: int
    attributes: int
    examined: int
    tracker: str


def pre_check(map_file: MapFile, tracker: Tracker) -> CheckCounts:
    """Do most of the check's work just before the freeze, so that little is left for it.

    :param tracker: the one that was started before the map was made.
    :raises MapError: when something of the scopes cannot be mapped any more.
    """
    check = _Check(map_file, None, None)
    # From here on files that are opened are told; with those open now, these are all that may be open later.
    tracker.watch_opens(True)
    held: Optional[set[tuple[int, int]]] = None
    kind = "some"
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
        check.follow(changes)
        if tracker.kind == SWEEP or len(changes.names) + len(changes.inodes) <= _FEW_CHANGES + len(held):
            break
    tracker.held = held
    map_file.set_owners(*check.new_owners())
    map_file.commit()
    return check.counts(kind)


def check_map(map_file: MapFile, tracker: Tracker, unclosed: Optional[list[int]] = None) -> CheckCounts:
    """Make the map what the file systems are, while they are frozen, and set its state to ``checked``.

    :param unclosed: takes descriptors that the caller closes after the thaw; to close them here could wait for it.
    :raises MapError: when something of the scopes cannot be mapped any more.
    """
    check = _Check(map_file, LAYER, unclosed)
    changes = tracker.collect()
    if changes.kind == "some":
        if tracker.held is None:
            tracker.held = writable_files(check.devices)
        tracker.held.update(changes.opened)
        changes.inodes.update(tracker.held)
    check.follow(changes)
    map_file.set_meta("tracker", tracker.kind)
    map_file.set_state("checked")
    map_file.commit()
    return check.counts(changes.kind)


class _Check:
    """One check of a map; ``layer`` is what its changes are recorded as, None for not at all."""

    def __init__(self, map_file: MapFile, layer: Optional[str], unclosed: Optional[list[int]]) -> None:
        filesystems = map_file.filesystems()
        self._map = map_file
        self._layer = layer
        self._tree = map_scopes_of(map_file)
        self._places = Places.live(filesystems)
        self._mapper = FileMapper(self._places, translations(map_file), unclosed)
        self._counts = dict.fromkeys((REMAPPED, ADDED, REMOVED, ATTRIBUTES), 0)
        self._examined = 0
        self._uids: set[int] = set()
        self._gids: set[int] = set()
        self.devices = {fs.dev for fs in filesystems}

    def counts(self, tracker: str) -> CheckCounts:
        """What was done so far."""
        counts = self._counts
        return CheckCounts(
            counts[REMAPPED], counts[ADDED], counts[REMOVED], counts[ATTRIBUTES], self._examined, tracker
        )

    def new_owners(self) -> tuple[dict[int, str], dict[int, str]]:
        """Names of owners that the map does not know yet. Not while frozen: a name service may have to write."""
        users = user_names(self._uids - self._map.users().keys())
        return dict(users), dict(group_names(self._gids - self._map.groups().keys()))

    def follow(self, changes: Changes) -> None:
        """Look again at what changed, or at everything."""
        if changes.kind == "all":
            findings = compare(self._map.rows(), self._seen(walk(self._tree, self._places)))
            self._apply([finding for finding in findings if self._is_news(finding)])
            return
        deep, shallow = self._paths_of(changes)
        covered: Optional[bytes] = None
        for run in self._runs(deep | shallow):
            seen = {row[0][0]: row for row in self._mapper.map_run(run)}
            for name in run.names:
                path = run.prefix + name
                if covered is not None and is_below(path, covered):
                    continue
                self._examined += 1
                if self._settle(path, seen.get(path), path in deep):
                    covered = path

    def _paths_of(self, changes: Changes) -> tuple[set[bytes], set[bytes]]:
        """Paths to look at with all that is below them, and paths to look at alone."""
        # The folders that hold whole scopes are not in the map, but their events tell of the scopes' roots.
        outer: dict[tuple[int, int], list[bytes]] = {}
        for root in self._tree.tops:
            folder = os.path.dirname(root)
            with contextlib.suppress(OSError):
                found = os.stat(folder)
                outer.setdefault((found.st_dev, found.st_ino), []).append(folder)
        folders: dict[tuple[int, int], list[bytes]] = {}
        deep = set()
        for dev, inode, name in changes.names:
            if (dev, inode) not in folders:
                known = self._map.paths_of_inodes(dev, [inode])
                folders[dev, inode] = known + outer.get((dev, inode), [])
            for folder in folders[dev, inode]:
                path = folder.rstrip(b"/") + b"/" + name
                if self._tree.rule_of(path) is not None:
                    deep.add(path)
        shallow = set(self._tree.tops)
        for dev, inode in changes.inodes:
            shallow.update(self._map.paths_of_inodes(dev, [inode]))
        return deep, shallow

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
        replaced = stored is None or (stored[0].kind, stored[0].inode) != (seen[0][1], seen[0][3])
        if is_folder and replaced:
            self._remove(path)
            for run in walk(self._tree, self._places, [path]):
                for row in self._mapper.map_run(run):
                    self._examined += 1
                    self._put(ADDED, row)
        elif is_folder and deep:
            rows = self._seen(walk(self._tree, self._places, [path]))
            findings = compare(self._map.rows(path), rows)
            self._apply([finding for finding in findings if self._is_news(finding)])
        elif stored is None:
            self._put(ADDED, seen)
            return False
        else:
            what = difference(stored[0], stored[1], seen[0], seen[1])
            if what != SAME:
                if stored[0].kind == "d" and not is_folder:
                    self._remove(path)
                self._put(what, seen)
            return False
        return True

    def _seen(self, runs: Iterator[Run]) -> Iterator[MappedFields]:
        for run in runs:
            for row in self._mapper.map_run(run):
                self._examined += 1
                yield row

    @staticmethod
    def _is_news(finding: Finding) -> bool:
        return finding.what != SAME

    def _apply(self, findings: list[Finding]) -> None:
        for finding in findings:
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
