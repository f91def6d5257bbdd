# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prove a map against the metadata of the split mirror, which cannot change any more, and correct what differs.

The second layer of the check, on the media server. A forked process walks the mirror, mounted read-only, ahead of the
writer; the writer gets each entry as soon as it is proved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Optional

from .compare import ADDED, ATTRIBUTES, REMAPPED, REMOVED, SAME, Finding, compare
from .filemap import FileMapper, MappedFields
from .mapfile import ExtentRow, FileEntry, MapError, MapFile, Mapped, sort_key
from .mapper import map_scopes_of, translations
from .walk import PlacedFs, Places, single, walk
from .worker import END, Send, Worker

LAYER = "proof"
FULL = "full"
CHANGED = "changed"
NONE = "none"
MODES = (FULL, CHANGED, NONE)

_BATCH = 500
# Behind the last path of any map.
_NO_MORE = b"\xff" * 4096


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
    :raises MapError: when a mount is missing.
    """

    def __init__(self, map_path: str, mounts: Mapping[int, str], mode: str = FULL) -> None:
        if mode not in MODES:
            raise MapError(f"proof: {mode} is no way to prove; choose one of {', '.join(MODES)}.", option="proof")
        self._path = map_path
        self._mode = mode
        self._counts = dict.fromkeys((REMAPPED, ADDED, REMOVED, ATTRIBUTES), 0)
        self._examined = 0
        self._changes: list[tuple[bytes, str]] = []
        self._worker: Optional[Worker] = None
        if mode != NONE:
            with MapFile.open(map_path, read_only=True) as map_file:
                places = _places(map_file, mounts)
            # The process starts now: later there may be threads, and these do not survive a fork.
            self._worker = Worker(lambda send: _prove(map_path, places, mode, send))

    def __enter__(self) -> Proof:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._worker is not None:
            self._worker.close()

    def counts(self) -> ProofCounts:
        """What was found so far; all of it when entries came to its end."""
        counts = self._counts
        return ProofCounts(
            self._mode, self._examined, counts[REMAPPED], counts[ADDED], counts[REMOVED], counts[ATTRIBUTES]
        )

    def entries(self) -> Iterator[Mapped]:
        """The entries of the map as the mirror is, in logical order; to be called once.

        :raises MapError: when the mirror cannot be examined.
        """
        with MapFile.open(self._path, read_only=True) as map_file:
            yield from self._corrected(map_file.entries())
        if self._changes:
            with MapFile.open(self._path) as map_file:
                map_file.add_changes(LAYER, self._changes)

    def _corrected(self, stored: Iterator[Mapped]) -> Iterator[Mapped]:
        if self._worker is None:
            yield from stored
            return
        proved_to = b""
        findings: list[Finding] = []
        place = 0
        for entry, extents in stored:
            key = sort_key(entry.path)
            while True:
                if place < len(findings):
                    finding = findings[place]
                    if finding.key > key:
                        yield entry, extents
                        break
                    place += 1
                    new = self._settle(finding)
                    if new is not None:
                        yield new
                    if finding.key == key:
                        break
                elif key <= proved_to:
                    yield entry, extents
                    break
                else:
                    proved_to, findings = self._receive()
                    place = 0
        while True:
            for finding in findings[place:]:
                new = self._settle(finding)
                if new is not None:
                    yield new
            if proved_to == _NO_MORE:
                return
            proved_to, findings = self._receive()
            place = 0

    def _receive(self) -> tuple[bytes, list[Finding]]:
        if self._worker is None:
            raise AssertionError("no worker to hear from: _corrected has to see to it")
        message = self._worker.receive()
        if message is END:
            return _NO_MORE, []
        proved_to, examined, findings = message
        self._examined += examined
        return proved_to, [Finding._make(finding) for finding in findings]

    def _settle(self, finding: Finding) -> Optional[Mapped]:
        """Count one difference, and return what is to be written instead."""
        self._counts[finding.what] += 1
        self._changes.append((finding.path, finding.what))
        if finding.seen is None:
            return None
        return FileEntry._make(finding.seen[0]), [ExtentRow._make(row) for row in finding.seen[1]]


def _places(map_file: MapFile, mounts: Mapping[int, str]) -> Places:
    placed = []
    for fs in map_file.filesystems():
        if fs.id not in mounts:
            name = os.fsdecode(fs.mount_point)
            raise MapError(f"pairs: the mirror's file system of {name} is not mounted; present all pairs.", "pairs")
        root = os.fsencode(mounts[fs.id])
        placed.append(PlacedFs(fs, os.path.join(root, fs.root.lstrip(b"/")).rstrip(b"/"), os.stat(root).st_dev))
    return Places(placed)


def _prove(map_path: str, places: Places, mode: str, send: Send) -> None:
    """The work of the other process: send (proved up to this key, paths looked at, differences up to it)."""
    with MapFile.open(map_path, read_only=True) as map_file:
        mapper = FileMapper(places, translations(map_file))
        findings = _changed(map_file, places, mapper) if mode == CHANGED else _full(map_file, places, mapper)
        batch: list[tuple[object, ...]] = []
        examined = 0
        for finding in findings:
            examined += 1
            if finding.what != SAME:
                batch.append(tuple(finding))
            if examined == _BATCH:
                send((finding.key, examined, batch))
                batch, examined = [], 0
        send((_NO_MORE, examined, batch))


def _full(map_file: MapFile, places: Places, mapper: FileMapper) -> Iterator[Finding]:
    def seen() -> Iterator[MappedFields]:
        for run in walk(map_scopes_of(map_file), places):
            yield from mapper.map_run(run)

    return compare(map_file.entries(), seen())


def _changed(map_file: MapFile, places: Places, mapper: FileMapper) -> Iterator[Finding]:
    done = b""
    for path, _what in map_file.changes("window"):
        if path == done:
            continue
        done = path
        stored = map_file.get(path)
        seen = mapper.map_run(single(path, places.of(path)))
        if stored is not None or seen:
            yield from compare([stored] if stored else [], seen)
