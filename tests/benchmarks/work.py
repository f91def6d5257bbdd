# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of the product as processes of their own, to be timed and weighed by the benches."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.estimate import estimate
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import Owners, WriterOptions
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.writer import write_archive
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import DIFFERENTIAL, FULL
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import Recipient
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.primitives import make_secret, public_of
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.sealing import Sealer, SealingSink
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.check import check_map, pre_check
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.proof import Proof
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.tracker import Tracker
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import Sealing
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volume_source import one_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.volumes import label_volume
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import WriteJob, write_session
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.virtual import VirtualTape
from ansible_collections.splitmirror.backup.tests.benchmarks.rig import LUN, SESSION
from ansible_collections.splitmirror.backup.tests.support.tape import Held, InTurn

#: Of volumes; always as many, so that the catalog has the same to do.
_NAMES = [f"BENCH{number}" for number in range(16)]
#: What of a volume no session can use: its end, behind the early warning, and the end of a part.
_SPARE_BYTES = 24 << 20
_RECORD_BYTES = WriterOptions().record_bytes


class _Output:
    """Records to the standard output, at most so many bytes a second."""

    def __init__(self, limit_bytes_s: Optional[float]) -> None:
        self._limit = limit_bytes_s
        self._began = time.monotonic()
        self._done = 0

    def write_record(self, record: memoryview, /) -> None:
        while record:
            written = os.write(1, record)
            record = record[written:]
            self._done += written
        if self._limit is not None:
            ahead_s = self._began + self._done / self._limit - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)


def do_map(options: argparse.Namespace) -> None:
    """The database host's part: map a folder."""
    with MapFile.create(options.map, SESSION, "bench") as made:
        map_scopes(made, [Scope(options.root)], [LunSpec(LUN, options.device)])


def do_host(options: argparse.Namespace) -> None:
    """All that the database host does with a map: track, map, check twice."""
    tracker = Tracker([options.mount])
    tracker.start()
    try:
        do_map(options)
        with MapFile.open(options.map, SESSION) as opened:
            pre_check(opened, tracker)
            check_map(opened, tracker)
    finally:
        tracker.close()


def do_write(options: argparse.Namespace) -> None:
    """The media server's pipeline: from the mirror to the standard output."""
    with (
        MapFile.open(options.map, SESSION, read_only=True) as opened,
        Proof(options.map, {1: options.mount}, options.proof) as proof,
        _sealing(options) as sealing,
    ):
        output = _Output(options.limit)
        sink = output if sealing is None else sealing.part(0).over(output, _RECORD_BYTES)
        write_archive(
            proof.entries(),
            {1: options.device},
            sink,
            WriterOptions(buffer_bytes=options.buffer),
            member=lambda member: None,
            owners=Owners(opened.users(), opened.groups()),
            index_meta={"session": SESSION},
        )
        if isinstance(sink, SealingSink):
            sink.finish()


@contextlib.contextmanager
def _sealing(options: argparse.Namespace) -> Iterator[Optional[Sealing]]:
    """How the session is encrypted, if it is."""
    if not options.encrypt:
        yield None
        return
    with Sealer() as sealer:
        yield Sealing(SESSION, _recipients(), sealer)


def _recipients() -> list[Recipient]:
    return [Recipient(public_of(make_secret()))]


def _make_library(options: argparse.Namespace) -> None:
    """Labelled volumes for do_tape."""
    state = Path(options.state)
    library = state / "library"
    library.mkdir(parents=True)
    if options.limit:
        (library / "drive.json").write_text(json.dumps({"format_version": 1, "bytes_per_s": round(options.limit)}))
    with VirtualTape(str(library), writable=True) as drive, MapFile.open(options.map, foreign=True) as opened:
        capacity_bytes = _capacity(opened, options.volumes)
        for name in _NAMES:
            drive.make_volume(name, capacity_bytes)
            drive.load(name)
            with Catalog.open(str(state / "catalog.sqlite"), writable=True) as catalog:
                label_volume(drive, catalog, name, "bench", 1 << 20)


def do_tape(options: argparse.Namespace) -> None:
    """All that the media server does, with proof and catalog, to a virtual tape."""
    state = Path(options.state)
    with VirtualTape(str(state / "library"), writable=True) as drive:
        write_session(
            WriteJob(
                session=SESSION,
                state_dir=str(state),
                map_path=options.map,
                devices={LUN: options.device},
                mounts_dir=str(state / "mounts"),
                buffer_bytes=options.buffer,
                recipients=_recipients() if options.encrypt else (),
            ),
            one_volume(Held(drive), _NAMES[0])
            if options.volumes == 1
            else lambda catalog: InTurn(catalog, Held(drive), _NAMES),
        )


def do_session(options: argparse.Namespace) -> None:
    """A session on a virtual tape, judged: the first one full, all others with what changed since that."""
    state = Path(options.state)
    library = state / "library"
    level = DIFFERENTIAL
    if not library.exists():
        library.mkdir(parents=True)
        level = FULL
        with VirtualTape(str(library), writable=True) as drive:
            drive.make_volume(_NAMES[0], 1 << 40)
            drive.load(_NAMES[0])
            with Catalog.open(str(state / "catalog.sqlite"), writable=True) as catalog:
                label_volume(drive, catalog, _NAMES[0], "bench", 1 << 20)
    job = WriteJob(
        session=options.session,
        state_dir=str(state),
        map_path=options.map,
        devices={LUN: options.device},
        mounts_dir=str(state / "mounts"),
        buffer_bytes=options.buffer,
        proof=options.proof,
        level=level,
    )
    with VirtualTape(str(library), writable=True) as drive:
        done = write_session(job, one_volume(Held(drive), _NAMES[0]))
    if done["level"] != level:
        raise SystemExit(done["level_reason"])
    with Catalog.open(str(state / "catalog.sqlite"), writable=True) as catalog:
        # The proof is what this measures nothing of.
        catalog.close_session(options.session, Verdict(True, ""), {"write": done["evidence"]})


def _capacity(map_file: MapFile, volumes: int) -> int:
    """Of each volume, so that the session fills them all."""
    if volumes == 1:
        return 1 << 40
    return estimate(map_file, _RECORD_BYTES).archive_bytes // volumes + _SPARE_BYTES


def main(arguments: Sequence[str]) -> None:
    """Do one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("map", "host", "write", "tape", "session"))
    parser.add_argument("--map", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--root")
    parser.add_argument("--mount", default="")
    parser.add_argument("--state")
    parser.add_argument("--session", default=SESSION)
    parser.add_argument("--proof", default="none")
    parser.add_argument("--buffer", type=int, default=256 << 20)
    parser.add_argument("--limit", type=float)
    parser.add_argument("--volumes", type=int, default=1)
    parser.add_argument("--encrypt", action="store_true")
    parser.add_argument("--door", type=int, help="descriptor: tell there when all is ready, and wait for the sign")
    options = parser.parse_args(arguments)
    if options.part == "tape":
        _make_library(options)
    if options.door is not None:
        os.write(options.door, b"\n")
        os.read(options.door, 1)
        os.close(options.door)
    parts = {"map": do_map, "host": do_host, "write": do_write, "tape": do_tape, "session": do_session}
    parts[options.part](options)


if __name__ == "__main__":
    main(sys.argv[1:])
