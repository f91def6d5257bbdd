# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the extent map of a session: walk its scopes and look at every file.

One process walks the folders and hands names out, two look at files, and the one that asked for it writes the map. A
name is handed out once, so it is looked at once whatever appears or vanishes in its folder meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import grp
import json
import marshal
import os
import pwd
import selectors
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Callable, Optional

from .filemap import FileMapper, Translation
from .leaveout import FAIL, LEAVE_OUT, LeftOut, without_inner
from .mapcheck import parse_scopes
from .mapfile import MapFile
from .maprows import EXTENT_BYTES, SOURCE_MOUNT, FileEntry, MapCounts, MapError, SegmentRow, TableRow, table_row
from .rules import ScopeTree
from .scope import Scope
from .stack import BlockStack, LunSpec
from .survey import survey
from .walk import FileSystems, Run, walk
from .worker import END, Send, Worker

DEFAULT_WORKERS = 2
# What is sent at once; the first alone would allow gigabytes where files are fragmented.
_BATCH_FILES = 1000
_BATCH_EXTENT_BYTES = 8 << 20
# More than a Run takes, whose names have at most 255 bytes each.
_RUN_BYTES = 1 << 20
#: Rows of the map, and (path, why) of what is left out.
Batch = tuple[list[TableRow], list[tuple[bytes, str]]]


def map_scopes(
    map_file: MapFile,
    scopes: Iterable[Scope],
    luns: Sequence[LunSpec],
    progress: Optional[Callable[[int], None]] = None,
    workers: int = DEFAULT_WORKERS,
    *,
    on_unreadable: str = FAIL,
) -> MapCounts:
    """Map everything that belongs to the scopes into an empty map, and set its state to ``mapped``.

    Change tracking must have been started before. The file systems are synchronized first: before that, a map can
    lie without showing it.

    :param progress: called now and then with the number of files looked at so far.
    :param workers: how many processes look at files; 0 does all in this one.
    :param on_unreadable: ``leave_out`` records what cannot be mapped in the map; the checks of the map do so, too.
    :raises MapError: for everything that cannot be mapped, see survey.
    """
    scopes = list(scopes)
    stack = BlockStack(luns)
    tree = ScopeTree(scopes)
    left_out = LeftOut(tree, on_unreadable == LEAVE_OUT)
    found = survey(scopes, luns, stack, left_out=left_out)
    numbers = {lun.name: map_file.add_lun(lun.name, size, lun.serial, wwn) for lun, size, wwn in stack.luns()}
    for surveyed in found:
        map_file.add_filesystem(
            mount_point=surveyed.mount.mount_point,
            fs_type=surveyed.info.fs_type,
            fs_uuid=surveyed.info.fs_uuid,
            block_bytes=surveyed.info.block_bytes,
            dev=surveyed.mount.dev,
            segments=[SegmentRow(s.device_offset, numbers[s.lun], s.lun_offset, s.length) for s in surveyed.segments],
            root=surveyed.mount.root,
        )
    map_file.set_meta("scopes", json.dumps([scope.as_dict() for scope in scopes]))
    map_file.set_meta("on_unreadable", on_unreadable)
    filesystems = map_file.filesystems()
    for fs in filesystems:
        sync_filesystem(fs.mount_point)
    places = FileSystems.live(filesystems)
    mapper = FileMapper(places, translations(map_file), left_out=left_out)
    tally = _Tally()
    not_mapped = left_out.take()
    with contextlib.closing(_look(tree, places, mapper, workers)) as batches:
        for rows, not_mapped_either in batches:
            not_mapped += not_mapped_either
            map_file.add_rows(rows)
            tally.take(rows)
            if progress is not None:
                progress(tally.entries)
    # Who walked may have gone on below what who looked left out.
    map_file.leave_out(without_inner(not_mapped))
    map_file.index_inodes()
    map_file.set_owners(user_names(tally.users), group_names(tally.groups))
    map_file.set_state("mapped")
    map_file.set_meta("entries", str(tally.entries))
    if not_mapped:
        return map_file.counts()
    return MapCounts(tally.entries, tally.files, tally.size_bytes, tally.extents, tally.fallback)


class _Tally:
    """What went into a map, counted on its way: a pass over the finished map would take as long as a tenth of it."""

    def __init__(self) -> None:
        self.entries = self.files = self.size_bytes = self.extents = self.fallback = 0
        self.users: set[int] = set()
        self.groups: set[int] = set()

    def take(self, rows: Sequence[TableRow]) -> None:
        """Count a batch of rows."""
        sizes = [row[_SIZE] for row in rows if row[_KIND] == "f"]
        self.entries += len(rows)
        self.files += len(sizes)
        self.size_bytes += sum(sizes)
        self.extents += sum([len(row[-1]) for row in rows if row[-1] is not None]) // EXTENT_BYTES
        self.fallback += sum([row[_SOURCE] == SOURCE_MOUNT for row in rows])
        self.users.update([row[_UID] for row in rows])
        self.groups.update([row[_GID] for row in rows])


_KIND, _SIZE, _SOURCE, _UID, _GID = (FileEntry._fields.index(name) for name in ("kind", "size", "source", "uid", "gid"))


def map_scopes_of(map_file: MapFile) -> ScopeTree:
    """The scopes a map was made for."""
    left_out = (path for path, _why in map_file.left_out())
    return ScopeTree(parse_scopes(map_file.meta("scopes") or "[]"), left_out)


def translations(map_file: MapFile) -> dict[int, Translation]:
    """For each file system of a map, how offsets on its device become offsets on the LUNs."""
    return {fs.id: Translation(map_file.segments(fs.id), fs.block_bytes) for fs in map_file.filesystems()}


def sync_filesystem(mount_point: bytes) -> None:
    """syncfs(2) of one file system. :raises MapError: when it fails, which means that data were lost."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd):
            reason = os.strerror(ctypes.get_errno())
            raise MapError(
                f"paths: {os.fsdecode(mount_point)} cannot be synchronized ({reason}); look at its device.",
                code="device_failed",
            )
    finally:
        os.close(fd)


def user_names(ids: Iterable[int]) -> Mapping[int, str]:
    """Names of those uids that have one."""
    names = {}
    for number in ids:
        with contextlib.suppress(KeyError):
            names[number] = pwd.getpwuid(number).pw_name
    return names


def group_names(ids: Iterable[int]) -> Mapping[int, str]:
    """Names of those gids that have one."""
    names = {}
    for number in ids:
        with contextlib.suppress(KeyError):
            names[number] = grp.getgrgid(number).gr_name
    return names


def _look(tree: ScopeTree, places: FileSystems, mapper: FileMapper, workers: int) -> Generator[Batch, None, None]:
    if workers < 1:
        yield from _rows(mapper, walk(tree, places, left_out=mapper.left_out))
        return
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        # A message is one run, and the next free process takes it.
        taken, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with taken, given:
            given.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RUN_BYTES)
            lookers = [functools.partial(_take, mapper, taken, given)] * workers
            walker = functools.partial(_hand_out, tree, places, mapper.left_out, (taken, given))
            for work in (walker, *lookers):
                worker = Worker(work)
                stack.callback(worker.close)
                selector.register(worker, selectors.EVENT_READ)
        while selector.get_map():
            for key, _events in selector.select():
                ready: Worker = key.fileobj  # type: ignore[assignment]
                batch = ready.receive()
                if batch is END:
                    selector.unregister(ready)
                else:
                    yield batch


def _hand_out(
    tree: ScopeTree,
    places: FileSystems,
    left_out: Optional[LeftOut],
    ends: tuple[socket.socket, socket.socket],
    send: Send,
) -> None:
    """Walk, for the others."""
    taken, given = ends
    taken.close()
    for run in walk(tree, places, left_out=left_out):
        given.send(marshal.dumps((run.fs, run.prefix, run.local, run.names, run.kinds, {})))
    given.close()
    if left_out is not None:
        send(([], left_out.take()))


def _take(mapper: FileMapper, taken: socket.socket, given: socket.socket, send: Send) -> None:
    """Look at what is handed out."""
    given.close()

    def runs() -> Iterator[Run]:
        while True:
            message = taken.recv(_RUN_BYTES)
            if not message:
                return
            yield Run._make(marshal.loads(message))  # noqa: S302 - our own child wrote it

    for batch in _rows(mapper, runs()):
        send(batch)


def _rows(mapper: FileMapper, runs: Iterable[Run]) -> Iterator[Batch]:
    """What is seen of the runs, in batches."""
    left_out = mapper.left_out
    rows: list[TableRow] = []
    extent_bytes = 0
    for run in runs:
        for entry, extents in mapper.map_run(run):
            row = table_row(entry, extents)
            rows.append(row)
            extent_bytes += len(row[-1] or b"")
            if len(rows) >= _BATCH_FILES or extent_bytes >= _BATCH_EXTENT_BYTES:
                yield rows, []
                rows, extent_bytes = [], 0
    yield rows, [] if left_out is None else left_out.take()
