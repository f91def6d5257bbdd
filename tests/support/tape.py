# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A library of virtual volumes, its catalog, and sessions in it that need no mirror."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import verdict_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import Part
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import WINDOW_ORDER
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import (
    SOURCE_CONTENT,
    SOURCE_NONE,
    FileEntry,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.restore import RestoreJob, restore
from ansible_collections.splitmirror.backup.plugins.module_utils.media.tape_file import TapeRecordSink
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volume_source import (
    Drives,
    VolumeChoice,
    one_volume,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import (
    APPEND,
    OVERWRITE,
    WritePosition,
    begin_anew,
    label_volume,
    place_for,
    position_by_catalog,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import WriteJob, write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeDrive, TapeError
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults, FaultyTape

RECORD = 512
MTIME_NS = 1_700_000_000_123_456_789


def folder(path: str) -> FileEntry:
    """A folder of a map."""
    return FileEntry(os.fsencode(path), "d", mode=0o755, uid=os.getuid(), gid=os.getgid(), mtime_ns=MTIME_NS)


def inline(path: str, content: bytes, *, inode: int = 0, nlink: int = 1) -> FileEntry:
    """A file of a map whose content travels in the map, so that no device is needed."""
    return FileEntry(
        os.fsencode(path),
        "f",
        inode=inode,
        nlink=nlink,
        mode=0o640,
        uid=os.getuid(),
        gid=os.getgid(),
        size=len(content),
        mtime_ns=MTIME_NS,
        source=SOURCE_CONTENT if content else SOURCE_NONE,
        content=content or None,
    )


def link(path: str, target: str) -> FileEntry:
    """A symbolic link of a map."""
    return folder(path)._replace(kind="l", mode=0o777, target=os.fsencode(target))


def make_map(
    where: Path, session: str, entries: Sequence[FileEntry], state: str = "checked", checked_ns: int = 0
) -> Path:
    """A map of entries that need no device.

    :param checked_ns: when it was checked; 0 for a map with which no other is compared.
    """
    path = where / f"{session}.sqlite"
    with MapFile.create(str(path), session, "db1") as map_file:
        for entry in entries:
            map_file.add_new(entry, [])
        if checked_ns:
            map_file.set_meta("checked_ns", str(checked_ns))
        map_file.set_state(state)
    return path


def window_evidence() -> dict[str, Any]:
    """What the tasks before tape_write tell of a window without fault."""
    events = [{"seq": number, "name": name, "source": "test"} for number, name in enumerate(WINDOW_ORDER, 1)]
    return {
        "window": {"events": events, "window_s": 0.2, "split_s": 0.1, "intact": True},
        "check": {"complete": True, "remapped": 0, "added": 0, "removed": 0},
        "hot_backup": {"required": False},
    }


def judge(library: Library, session: str, done: Mapping[str, Any]) -> None:
    """Close a session that was written, with evidence that has no fault."""
    evidence = {**window_evidence(), "session": session, "write": done["evidence"]}
    library.catalog.close_session(session, verdict_of(library.catalog, session, evidence), evidence)


class Held:
    """A drive that nobody waited for in the queue, in place of a lease."""

    def __init__(self, drive: TapeDrive) -> None:
        self._drive = drive

    def exchange(self, _volume: str) -> TapeDrive:
        return self._drive


class InTurn:
    """A source of volumes that are taken one after another; a volume out of use is left out.

    :ivar failed: volumes that were taken out of use.
    """

    goes_on = True

    def __init__(self, catalog: Catalog, drives: Drives, names: Sequence[str], mode: str = APPEND) -> None:
        self._catalog = catalog
        self._drives = drives
        self._left = list(names)
        self._mode = mode
        self.failed: dict[str, str] = {}

    def first(self) -> tuple[TapeDrive, WritePosition]:
        return self.next(0)

    def by_catalog(self) -> WritePosition:
        return position_by_catalog(self._catalog, self._left[0], self._mode, allow_last=True)

    def next(self, needed_bytes: int) -> tuple[TapeDrive, WritePosition]:
        while self._left:
            name = self._left.pop(0)
            volume = self._catalog.volume(name)
            if volume is None or not volume.out_of_use:
                drive = self._drives.exchange(name)
                return drive, place_for(drive, self._catalog, name, self._mode, allow_last=True)
        raise TapeError("volume: no volume of the pool is left; insert one.", option="volume", code="volume_missing")

    def out_of_use(self, volume: str, reason: str) -> None:
        self.failed[volume] = reason
        self._catalog.take_out_of_use(volume, reason)


class Library:
    """A folder with volumes, a catalog, and how sessions get there.

    Sessions go to the volume ``volume``.
    """

    volume = "V1"

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder
        self.folder = folder / "library"
        self.folder.mkdir(exist_ok=True)
        self.catalog = Catalog.open(str(folder / "catalog.sqlite"), writable=True)

    def drive(self, *, writable: bool = True, faults: Optional[Faults] = None, tells: bool = True) -> TapeDrive:
        return FaultyTape(str(self.folder), writable=writable, faults=faults, tells=tells)

    def make(self, name: str = "V1", capacity_bytes: int = 8 << 20) -> None:
        with self.drive() as drive:
            drive.make_volume(name, capacity_bytes)

    def label(
        self, name: Optional[str] = None, pool: str = "p", record_bytes: int = RECORD, *, allow_last: bool = False
    ) -> bool:
        name = name or self.volume
        with self.drive() as drive:
            drive.load(name)
            return label_volume(drive, self.catalog, name, pool, record_bytes, allow_last=allow_last).changed

    def write(
        self,
        session: str,
        records: list[bytes],
        *,
        expires_s: Optional[float] = None,
        dies: bool = False,
        mode: str = APPEND,
        allow_last: bool = False,
        tells: bool = True,
    ) -> WritePosition:
        with self.drive(tells=tells) as drive:
            place = place_for(drive, self.catalog, self.volume, mode, allow_last=allow_last)
            if mode == OVERWRITE:
                place = begin_anew(drive, self.catalog, place)
            number = self.catalog.begin_session(session, "db1", 1.0, expires_s)
            part = Part(number, 0, self.volume, place.file_number, place.block, RECORD, 0, 0, False)
            self.catalog.begin_part(part)
            sink = TapeRecordSink(drive, place)
            for record in records:
                sink.write_record(memoryview(record))
            if not dies:
                sink.finish()
                self.catalog.finish_part(part._replace(records=sink.records), files=1, size_bytes=1, write={})
        return place

    def place(self, mode: str = APPEND, volume: str = "V1", *, allow_last: bool = False) -> WritePosition:
        with self.drive(writable=False) as drive:
            return place_for(drive, self.catalog, volume, mode, allow_last=allow_last)

    def content_exists(self) -> bool:
        return (self.folder / "V1").exists()

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "V1").glob("*.tar")}

    def make_map(self, session: str, entries: Sequence[FileEntry], state: str = "checked", checked_ns: int = 0) -> Path:
        return make_map(self.state_dir, session, entries, state, checked_ns)

    def on(self, drive: TapeDrive, mode: str = APPEND, *, allow_last: bool = False) -> VolumeChoice:
        """The choice of ``volume``, in a drive that is held."""
        return one_volume(Held(drive), self.volume, mode, allow_last=allow_last)

    def job(self, session: str, entries: Sequence[FileEntry], *, checked_ns: int = 0, **options: Any) -> WriteJob:
        return WriteJob(
            **{
                "session": session,
                "state_dir": str(self.state_dir),
                "map_path": str(self.make_map(session, entries, checked_ns=checked_ns)),
                "devices": {},
                "mounts_dir": str(self.state_dir / "mounts"),
                "proof": "none",
                "buffer_bytes": 4 << 20,
                "evidence": window_evidence(),
                **options,
            }
        )

    def back_up(self, session: str, entries: Sequence[FileEntry], *, judged: bool = True, **options: Any) -> Any:
        """Write a session, and judge it with evidence that has no fault."""
        mode, allow_last = options.pop("mode", APPEND), options.pop("allow_last", False)
        with self.drive() as drive:
            done = write_session(self.job(session, entries, **options), self.on(drive, mode, allow_last=allow_last))
        if judged:
            judge(self, session, done)
        return done

    def restore(self, session: str, target: Path, *paths: str, **options: Any) -> Any:
        with self.drive(writable=False) as drive:
            return restore(RestoreJob(session, str(target), paths=paths, **options), self.catalog, Held(drive))


_APART = """
import importlib, json, sys
from ansible.module_utils.testing import patch_module_args
told = json.load(sys.stdin)
module = importlib.import_module(
    "ansible_collections.splitmirror.backup.plugins.modules." + told.pop("module"))
with patch_module_args(told):
    module.main()
"""


def run_module_apart(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run a module in a process of its own and return its result; a failed one has ``failed`` set."""
    told = {"module": name, **arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    done = subprocess.run(
        [sys.executable, "-c", _APART],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
