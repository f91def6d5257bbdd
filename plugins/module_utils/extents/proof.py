# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prove a map against the metadata of the split mirror, which cannot change any more, and correct what differs.

The second layer of the check, on the media server. A forked process reads the map and looks at the mirror ahead of the
writer, who gets the entries from it, each as it is on the mirror.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import urllib.parse
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Optional

from .compare import ADDED, ATTRIBUTES, REMAPPED, REMOVED, SAME, Finding, compare
from .ext4 import InodeTables
from .filemap import FileMapper
from .mapfile import MapFile
from .mapper import map_scopes_of, translations
from .maprows import ExtentRow, FileEntry, MapError, Mapped, MappedFields, sort_key
from .scanner import Scanner
from .seal import device_path
from .walk import FileSystems, PlacedFs, Run, single, walk
from .worker import END, Send, Worker

LAYER = "proof"
FULL = "full"
CHANGED = "changed"
NONE = "none"
MODES = (FULL, CHANGED, NONE)

_BATCH = 500
# So many runs are known before they are looked at.
_RUNS_AHEAD = 32
# What a Finding says of an entry that is not to be proved.
_UNSEEN = "unseen"
_AS_STORED = (SAME, _UNSEEN)
#: Paths looked at, what differed of them (path, what), and entries as they are on the mirror, in logical order.
Part = tuple[int, list[tuple[bytes, str]], list[MappedFields]]


class ProofCounts(NamedTuple):
    """What a proof found: paths looked at on the mirror, and how many of them differed from the map, by kind."""

    mode: str
    examined: int
    remapped: int
    added: int
    removed: int
    attributes: int


class Proof:
    """Gives a map's entries in logical order, each proved first. A context manager; leaving it ends the other process.

    :param map_path: the map file; what differs is recorded in it at the end.
    :param mounts: for each file system of the map, by number, the folder where the mirror's is mounted (its root).
    :param mode: ``full`` proves all; ``changed`` what the check changed in the window; ``none`` nothing.
    :param since: a file of compare_maps; then only entries are given that changed by it, or that differ from the map.
    :raises MapError: when a mount is missing.
    """

    def __init__(self, map_path: str, mounts: Mapping[int, str], mode: str = FULL, since: Optional[str] = None) -> None:
        if mode not in MODES:
            raise MapError(
                f"proof: {mode} is not a mode of the proof; use one of {', '.join(MODES)}.",
                option="proof",
                code="option_invalid",
            )
        self._path = map_path
        self._mode = mode
        self._since = since
        self._counts = dict.fromkeys((REMAPPED, ADDED, REMOVED, ATTRIBUTES), 0)
        self._examined = 0
        self._changes: list[tuple[bytes, str]] = []
        self._complete = False
        self._worker: Optional[Worker] = None
        if mode != NONE:
            with MapFile.open(map_path, read_only=True, foreign=True) as map_file:
                places = _places(map_file, mounts)
            # The process starts now: later there may be threads, and these do not survive a fork.
            self._worker = Worker(lambda send: _prove(map_path, places, mode, since, send))

    def __enter__(self) -> Proof:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        if self._worker is not None:
            self._worker.close()

    def counts(self) -> ProofCounts:
        """What was found so far; all of it when entries came to its end."""
        counts = self._counts
        return ProofCounts(
            self._mode, self._examined, counts[REMAPPED], counts[ADDED], counts[REMOVED], counts[ATTRIBUTES]
        )

    def changes(self) -> list[tuple[bytes, str]]:
        """(path, what) of what differed so far."""
        return list(self._changes)

    def result(self) -> dict[str, Any]:
        """The fields of ProofCounts, and ``complete``: all entries were handed out, and each was proved."""
        return {**self.counts()._asdict(), "complete": self._complete and self._mode != NONE}

    def entries(self) -> Iterator[Mapped]:
        """The entries of the map as the mirror is, in logical order; to be called once.

        :raises MapError: when the mirror cannot be examined.
        """
        if self._worker is None:
            with MapFile.open(self._path, read_only=True, foreign=True) as map_file:
                if self._since is not None:
                    map_file.only(self._since)
                yield from map_file.entries()
            self._complete = True
            return
        make_entry, make_row = FileEntry._make, ExtentRow._make
        while True:
            message = self._worker.receive()
            if message is END:
                break
            examined, changes, proved = message
            self._examined += examined
            for _path, what in changes:
                self._counts[what] += 1
            self._changes += changes
            for fields, rows in proved:
                yield make_entry(fields), [make_row(row) for row in rows]
        if self._changes:
            with MapFile.open(self._path) as map_file:
                # They are there already when a part of a session is written again.
                if not map_file.changes(LAYER):
                    map_file.add_changes(LAYER, self._changes)
        self._complete = True


def _places(map_file: MapFile, mounts: Mapping[int, str]) -> FileSystems:
    placed = []
    for fs in map_file.filesystems():
        if fs.id not in mounts:
            name = os.fsdecode(fs.mount_point)
            raise MapError(
                f"pairs: the mirror's file system of {name} is not mounted; present all pairs.",
                "pairs",
                code="mirror_wrong",
            )
        root = os.fsencode(mounts[fs.id])
        inside = fs.root.strip(b"/")
        placed.append(PlacedFs(fs, os.path.join(root, inside).rstrip(b"/"), os.stat(root).st_dev, inside))
    return FileSystems(placed)


def _prove(map_path: str, places: FileSystems, mode: str, since: Optional[str], send: Send) -> None:
    """The work of the other process: send what was proved, a Part at a time."""
    # Nothing here makes cycles, and looking for them in all these rows takes time.
    gc.disable()
    with MapFile.open(map_path, read_only=True, foreign=True) as map_file:
        prover = _Prover(map_file, places)
        wanted = None if since is None else _Wanted(since)
        examined = 0
        changes: list[tuple[bytes, str]] = []
        proved: list[MappedFields] = []
        for part in prover.changed() if mode == CHANGED else prover.full():
            examined += part[0]
            changes += part[1]
            proved += part[2] if wanted is None else wanted.among(part)
            if len(proved) + len(changes) >= _BATCH:
                send((examined, changes, proved))
                examined, changes, proved = 0, [], []
        send((examined, changes, proved))


def _parts(findings: Iterator[Finding]) -> Iterator[Part]:
    """Findings as parts of what is sent."""
    while True:
        some = list(islice(findings, _BATCH))
        if not some:
            return
        proved = [found.stored if found.what in _AS_STORED else found.seen for found in some]
        yield (
            sum([found.what != _UNSEEN for found in some]),
            [(found.path, found.what) for found in some if found.what not in _AS_STORED],
            [row for row in proved if row is not None],
        )


class _Wanted:
    """Picks what changed since a base out of what was proved, in logical order. :param since: see Proof."""

    def __init__(self, since: str) -> None:
        uri = f"file:{urllib.parse.quote(os.fsencode(since))}?mode=ro"
        self._keys = sqlite3.connect(uri, uri=True).execute("SELECT key FROM changed ORDER BY key")
        self._next: Optional[bytes] = None
        self._go_on()

    def among(self, part: Part) -> list[MappedFields]:
        """The entries of a part that changed since the base, or differ from the map."""
        _examined, changes, rows = part
        if not rows or (not changes and (self._next is None or self._next > sort_key(rows[-1][0][0]))):
            return []
        differ = {path for path, _what in changes}
        return [row for row in rows if self._has(sort_key(row[0][0])) or row[0][0] in differ]

    def _has(self, key: bytes) -> bool:
        while self._next is not None and self._next < key:
            self._go_on()
        return self._next == key

    def _go_on(self) -> None:
        row = self._keys.fetchone()
        self._next = None if row is None else row[0]


class _Rows:
    """The rows of a map; what was read too far is given back."""

    def __init__(self, rows: Iterator[MappedFields]) -> None:
        self._rows = rows
        self._back: deque[MappedFields] = deque()

    def __iter__(self) -> Iterator[MappedFields]:
        return self

    def __next__(self) -> MappedFields:
        return self._back.popleft() if self._back else next(self._rows)

    def take(self, count: int) -> list[MappedFields]:
        """The next rows, at most so many."""
        return list(islice(self if self._back else self._rows, count))

    def give_back(self, rows: Sequence[MappedFields]) -> None:
        """These come next."""
        self._back.extendleft(reversed(rows))

    def up_to(self, path: bytes) -> Iterator[MappedFields]:
        """The next rows up to a path, the path included."""
        last = sort_key(path)
        for row in self:
            if sort_key(row[0][0]) > last:
                self.give_back([row])
                return
            yield row


class _Prover:
    """Compares a map with the mirror."""

    def __init__(self, map_file: MapFile, places: FileSystems) -> None:
        self._map = map_file
        self._places = places
        found = translations(map_file)
        self._mapper = FileMapper(places, found)
        self._scanners: dict[int, Scanner] = {}
        for place in places.by_id.values():
            if place.fs.fs_type == "ext4":
                tables = InodeTables.open(device_path(place.local_dev))
                if tables is not None:
                    self._scanners[place.fs.id] = Scanner(tables, place, found[place.fs.id], self._mapper)

    def full(self) -> Iterator[Part]:
        """All of the map and of the mirror."""
        rows = _Rows(self._map.rows())
        for seen in self._seen():
            stored = rows.take(len(seen))
            if stored == seen:
                yield len(seen), [], seen
            else:
                rows.give_back(stored)
                yield from _parts(self._sure(compare(rows.up_to(seen[-1][0][0]), seen)))
        yield from _parts(compare(rows, []))

    def _sure(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """The same findings, but what differs from the map is what the kernel says: a scanner may not be sure."""
        for finding in findings:
            if finding.what == SAME or finding.seen is None or finding.seen[0][2] not in self._scanners:
                yield finding
            else:
                yield from self._ask(finding.path, finding.stored)

    def changed(self) -> Iterator[Part]:
        """All of the map, but of the mirror only what the check changed in the window."""
        return _parts(self._changed())

    def _changed(self) -> Iterator[Finding]:
        left_out = map_scopes_of(self._map).is_left_out
        changed = dict.fromkeys(path for path, _what in self._map.changes("window"))
        paths = iter([path for path in changed if not left_out(path)])
        path = next(paths, None)
        for row in self._map.rows():
            key = sort_key(row[0][0])
            while path is not None and sort_key(path) < key:
                yield from self._ask(path, None)
                path = next(paths, None)
            if path is not None and path == row[0][0]:
                yield from self._ask(path, row)
                path = next(paths, None)
            else:
                yield Finding(_UNSEEN, row[0][0], None, row)
        for rest in (path, *paths):
            if rest is not None:
                yield from self._ask(rest, None)

    def _seen(self) -> Iterator[list[MappedFields]]:
        waiting: deque[Run] = deque()
        ahead = 1
        for run in walk(map_scopes_of(self._map), self._places, expect=self._expect):
            scanner = self._scanners.get(run.fs)
            if scanner is not None:
                scanner.expect(run)
            waiting.append(run)
            if len(waiting) > ahead:
                yield from self._look(waiting.popleft())
                # Slowly: somebody waits for the first of them.
                ahead = min(2 * ahead, _RUNS_AHEAD)
        for run in waiting:
            yield from self._look(run)

    def _look(self, run: Run) -> Iterator[list[MappedFields]]:
        seen = list(self._scanners.get(run.fs, self._mapper).map_run(run))
        if seen:
            yield seen

    def _expect(self, fs: int, folders: Sequence[int]) -> None:
        if fs in self._scanners:
            self._scanners[fs].expect_folders(folders)

    def _ask(self, path: bytes, stored: Optional[MappedFields]) -> Iterator[Finding]:
        """Look at one path through the mount; nothing comes when it is neither there nor in the map."""
        seen = self._mapper.map_run(single(path, self._places.of(path)))
        return compare([] if stored is None else [stored], seen)
