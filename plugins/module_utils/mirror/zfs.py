# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``zfs``: a LUN is a volume of ZFS (zvol), the mirror a read-only clone of a snapshot of it.

``primary`` is the volume, ``mirror`` the clone that presents its snapshot, both ``POOL/NAME`` in one pool. One command
takes the snapshots of all volumes of a pool at one instant (zfs-snapshot(8)).

The session is a user property of the snapshot and of the clone, set by the command that makes them. What lacks it
belongs to somebody else and is never destroyed. After the split a hold of the session's name keeps the snapshot from
being destroyed by others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

from ..session import StateDir
from .base import Capabilities, MirrorError, Pair, PairSplit, PreparedSplit, check_names
from .host import await_device, await_no_device, run_tool
from .journal import Journal, SplitRecord
from .snapshots import SnapshotProvider, SnapshotSplit, SnapshotView, timed

_PART = r"[A-Za-z0-9_.:-]+"
_VOLUME = re.compile(rf"[A-Za-z]{_PART}(/{_PART})+")
#: User property: the session that has made a snapshot or a clone.
MARK = "splitmirror:session"
#: In these states a pool does what it is told.
_ALIVE = ("ONLINE", "DEGRADED")


class Dataset(NamedTuple):
    """A dataset, as zfs reports it. :param size_bytes: of a volume. :param session: the mark."""

    kind: str
    size_bytes: int
    read_only: bool
    session: Optional[str]


class ZfsProvider(SnapshotProvider):
    """Mirrors as clones of snapshots of volumes of this host."""

    name = "zfs"
    method = "zfs snapshot"

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        check_names(pairs, self.name, _VOLUME, "POOL/NAME")
        for pair in pairs:
            if pool_of(pair.primary) != pool_of(pair.mirror):
                raise MirrorError(
                    f"pairs: the mirror of pair {pair.name} is {pair.mirror}, and a clone of {pair.primary} is in its "
                    f"pool; name the mirror {pool_of(pair.primary)}/NAME.",
                    option="pairs",
                    code="option_invalid",
                )
        self.capabilities = Capabilities(atomic_set=len({pool_of(pair.primary) for pair in pairs}) == 1)

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """See SnapshotProvider."""
        health = {pool: _health_of(pool) for pool in {pool_of(pair.primary) for pair in pairs}}
        return [_view_of(pair, health[pool_of(pair.primary)]) for pair in pairs]

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider. The snapshots are taken once on trial, because a pool may lack the room for them."""
        prepared = ZfsSplit(self, self._journal, record)
        try:
            prepared.take_all(record.pairs)
            for pair in record.pairs:
                self.delete(pair, record.session)
        except MirrorError:
            prepared.cancel()
            raise
        return prepared

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        clone = find(pair.mirror)
        if clone is not None and clone.session == session:
            run_tool("zfs", "destroy", pair.mirror)
        snapshot = snapshots_of(pair.primary).get(session) if find(pair.primary) is not None else None
        if snapshot is not None:
            if session in (line.split("\t")[1] for line in run_tool("zfs", "holds", "-H", snapshot).splitlines()):
                run_tool("zfs", "release", session, snapshot)
            run_tool("zfs", "destroy", snapshot)

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider."""
        taken = snapshots_of(pair.primary)
        if not taken:
            raise MirrorError(
                f"pair {pair.name}: the snapshot of {pair.primary} is gone, because somebody has destroyed it; clean "
                "up (mirror_sync with state: recovered) and start a new session.",
                code="not_split",
            )
        session, snapshot = next(iter(taken.items()))
        clone = find(pair.mirror)
        if clone is not None and clone.session != session:
            raise MirrorError(
                f"pair {pair.name}: {pair.mirror} exists, and this session has not made it; move it away (zfs rename).",
                option="pairs",
            )
        if clone is None:
            # What udev does late for an earlier clone would concern this one.
            await_no_device(pair, device_of(pair.mirror))
            # Not volmode=dev, which would spare the look for partitions: then the device's link vanishes once more.
            settings = ("-o", "readonly=on", "-o", f"{MARK}={session}")
            run_tool("zfs", "clone", *settings, snapshot, pair.mirror)
        return await_device(pair, device_of(pair.mirror))

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider."""
        run_tool("zfs", "destroy", pair.mirror)


class ZfsSplit(SnapshotSplit):
    """All snapshots of a pool are taken by one command."""

    def __init__(self, provider: ZfsProvider, journal: Journal, record: SplitRecord) -> None:
        super().__init__(provider, journal, record)
        self._commands: dict[str, list[Pair]] = {}
        for pair in record.pairs:
            self._commands.setdefault(pool_of(pair.primary), []).append(pair)

    def take_all(self, pairs: Sequence[Pair]) -> list[PairSplit]:
        """See SnapshotSplit."""
        mark = f"{MARK}={self._record.session}"
        done: dict[str, PairSplit] = {}
        for together in self._commands.values():
            names = self._names(together)
            split = timed(together, partial(run_tool, "zfs", "snapshot", "-o", mark, *names))
            done.update({one.name: one for one in split})
        return [done[pair.name] for pair in pairs]

    def settle(self) -> None:
        """See PreparedSplit."""
        for together in self._commands.values():
            run_tool("zfs", "hold", self._record.session, *self._names(together))
        super().settle()

    def _names(self, pairs: Sequence[Pair]) -> list[str]:
        return [f"{pair.primary}@splitmirror-{self._record.session}" for pair in pairs]


def _view_of(pair: Pair, health: str) -> SnapshotView:
    """What ZFS reports about a pair. :param health: the state of its pool; empty if there is no such pool."""
    who = f"pair {pair.name}: {pair.primary}"
    primary = find(pair.primary) if health else None
    if primary is None:
        return SnapshotView(None, f"{who} is not a dataset of this host; name a volume (zvol).")
    if primary.kind != "volume":
        return SnapshotView(None, f"{who} is a {primary.kind}, and only a volume (zvol) is a LUN; name a volume.")
    clone = find(pair.mirror)
    marks = list(snapshots_of(pair.primary))
    if clone is not None:
        marks.append(clone.session or "")
    readable = clone is not None and bool(clone.session) and os.path.exists(device_of(pair.mirror))
    lost = None
    if clone is not None and clone.session and not clone.read_only:
        lost = f"pair {pair.name}: its mirror {pair.mirror} takes writes, so it may have changed; start a new session."
    return SnapshotView(
        size_bytes=primary.size_bytes,
        broken=None
        if health in _ALIVE
        else f"{who} is in a pool whose state is {health}; repair it first (zpool status).",
        mark=marks[0] if marks else None,
        devices=(device_of(pair.mirror),) if readable else (),
        lost=lost,
    )


def _health_of(pool: str) -> str:
    try:
        return run_tool("zpool", "list", "-H", "-o", "health", pool).strip()
    except MirrorError as exc:
        if "no such pool" in exc.message:
            return ""
        raise


def pool_of(dataset: str) -> str:
    """The pool of a dataset."""
    return dataset.split("/", maxsplit=1)[0]


def device_of(volume: str) -> str:
    """The device of a volume."""
    return f"/dev/zvol/{volume}"


def find(name: str) -> Optional[Dataset]:
    """A dataset by its name; None if there is none."""
    columns = ("-H", "-p", "-o", "property,value,source")
    try:
        text = run_tool("zfs", "get", *columns, f"type,volsize,readonly,{MARK}", name)
    except MirrorError as exc:
        if "does not exist" in exc.message:
            return None
        raise
    found = {key: (value, source) for key, value, source in (line.split("\t") for line in text.splitlines())}
    session, source = found[MARK]
    size = found.get("volsize", ("-", "-"))[0]
    return Dataset(
        kind=found["type"][0],
        size_bytes=int(size) if size.isdigit() else 0,
        read_only=found["readonly"][0] == "on",
        session=session if source == "local" else None,
    )


def snapshots_of(volume: str) -> dict[str, str]:
    """The snapshots of a volume that sessions have made, by session."""
    text = run_tool("zfs", "get", "-H", "-o", "value,name", "-s", "local", "-t", "snapshot", "-d", "1", MARK, volume)
    return dict(line.split("\t", 1) for line in text.splitlines())
