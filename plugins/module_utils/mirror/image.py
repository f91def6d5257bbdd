# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``image``: the LUNs are image files, and a split is a clone that shares all blocks with the primary.

This is the array of a hypervisor whose raw images lie on XFS or Btrfs. Such a mirror is in sync at every instant, and
there is nothing to copy at a resync: the clone is deleted. Each clone is atomic (FICLONE locks the file); a set of
several images is one instant only while the database host is frozen.

What belongs to a session carries its id in the extended attribute ``user.splitmirror.session``. A file without it is
somebody else's, whatever its name, and is never replaced or removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Optional

from ..host import blockdev
from ..host.files import sync_folder
from ..options import Spec
from ..session import StateDir
from . import loop, reflink
from .base import (
    MirrorError,
    Pair,
    PairSplit,
    PairState,
    PreparedSplit,
    Presentation,
    SplitResult,
)
from .journal import Journal, SplitRecord
from .journaled import JournaledProvider, held_problem, phase_and_session

MARK = "user.splitmirror.session"


class ImageProvider(JournaledProvider):
    """Mirrors as clones of image files; ``primary`` and ``mirror`` are absolute paths on the array."""

    name = "image"
    argument_spec: ClassVar[Spec] = {"allow_copy": {"type": "bool", "default": False}}

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        for pair in pairs:
            for what, path in (("primary", pair.primary), ("mirror", pair.mirror)):
                if not os.path.isabs(path):
                    raise MirrorError(
                        f"pairs: the {what} of pair {pair.name} is {path!r}; provider image needs an absolute path.",
                        option="pairs",
                        code="option_invalid",
                    )
        # One file has one name in the journal, whatever symbolic links lead to it.
        real = [replace(pair, primary=os.path.realpath(pair.primary), mirror=_real(pair.mirror)) for pair in pairs]
        super().__init__(real, state_dir, options)

    def state(self) -> list[PairState]:
        """See MirrorProvider."""
        return [self._pair_state(pair) for pair in self.pairs]

    def sync(self, wait: bool, timeout_s: float) -> float:
        """See MirrorProvider; a clone is whole at every instant, so there is never anything to wait for."""
        for pair in self.pairs:
            problem = _primary_problem(pair)
            if problem:
                raise MirrorError(problem, option="pairs")
        return 0.0

    def prepare(self, session: str) -> PreparedSplit:
        """See MirrorProvider."""
        return self._prepared(self._begin(session))

    def _prepared(self, record: SplitRecord) -> PreparedSplit:
        return ImageSplit(record, self._journal, self.options["allow_copy"])

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        record = self._settled_record(session)
        devices: dict[str, str] = {}
        changed = False
        for pair in record.pairs:
            attached = loop.loops_of(pair.mirror)
            writable = [device.path for device in attached if not device.read_only]
            if writable:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is attached writable as {', '.join(writable)}; such a mirror is no "
                    "backup, detach the device and start a new session.",
                    code="mirror_in_use",
                )
            if attached:
                devices[pair.name] = attached[0].path
            else:
                devices[pair.name] = loop.attach(pair.mirror, loop.sector_bytes(pair.primary))
                changed = True
        return Presentation(devices, changed)

    def resync(self, session: str, wait: bool, timeout_s: float) -> int:
        """See MirrorProvider; there is nothing to wait for."""
        record = self._record_to_resync(session)
        if record is None:
            return 0
        for pair in record.pairs:
            attached = [device.path for device in loop.loops_of(pair.mirror)]
            if attached:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is still presented as {', '.join(attached)}; withdraw it before "
                    "the resync.",
                    code="mirror_in_use",
                )
        self._give_back(record)
        return 0

    def _pair_state(self, pair: Pair) -> PairState:
        record = self._journal.record_of(pair)
        mark = _mark(pair.mirror)
        phase, session = phase_and_session(record, mark)
        attached = loop.loops_of(pair.mirror) if mark is not None else []
        users = tuple(user for device in attached for user in blockdev.users(device.path))
        problem = _primary_problem(pair) or _place_problem(pair)
        in_sync = problem is None
        if problem is None and users:
            problem = f"pair {pair.name}: its mirror {pair.mirror} is in use by {'; '.join(users)}."
        if problem is None and phase != "none":
            problem = held_problem(pair, phase, session)
        if problem is None and mark is not None:
            problem = (
                f"pair {pair.name}: {pair.mirror} exists, and no split of ours made it; move it away or name another "
                "mirror."
            )
        return PairState(
            name=pair.name,
            primary=pair.primary,
            mirror=pair.mirror,
            size_bytes=_size(pair.primary),
            in_sync=in_sync,
            sync_percent=100.0 if in_sync else None,
            phase=phase,
            session=session,
            devices=tuple(device.path for device in attached),
            users=users,
            split_estimate_s=_estimate_s(pair.primary),
            problem=problem,
        )

    def _marks(self) -> list[Optional[str]]:
        return [_mark(pair.mirror) for pair in self.pairs]

    def _withdraw(self, pairs: Sequence[Pair]) -> list[str]:
        attached = [(device.path, pair) for pair in pairs for device in loop.loops_of(pair.mirror)]
        for device, pair in attached:
            busy = blockdev.busy_users(device)
            if busy:
                raise MirrorError(
                    f"pair {pair.name}: its mirror {device} is in use by {'; '.join(busy)}; end that first.",
                    code="mirror_in_use",
                )
        for device, pair in attached:
            loop.detach(device, pair.mirror)
        return [device for device, _pair in attached]

    def _give_back(self, record: SplitRecord) -> None:
        remove_clones(record)
        self._journal.remove(record.session)


@dataclass
class _Job:
    """One pair of a prepared split, with its open files."""

    pair: Pair
    temp: str
    source: int = -1
    target: int = -1


class ImageSplit(PreparedSplit):
    """Sources open, empty targets made and marked; only the clones and their names are missing."""

    def __init__(self, record: SplitRecord, journal: Journal, allow_copy: bool) -> None:
        self._record = record
        self._journal = journal
        self._jobs = [_Job(pair, temp_name(pair, record.session)) for pair in record.pairs]
        self._result: Optional[SplitResult] = None
        self.method = "reflink"
        try:
            for job in self._jobs:
                self._open(job, allow_copy)
            self.flush()
        except OSError as exc:
            self.cancel()
            raise MirrorError(f"{exc.filename or job.pair.mirror}: {exc.strerror}.") from exc
        except MirrorError:
            self.cancel()
            raise

    def flush(self) -> None:
        """Write the sources' cached data; FICLONE would do it too, but then the window waits for it."""
        for job in self._jobs:
            os.fdatasync(job.source)

    def split(self) -> SplitResult:
        """See PreparedSplit."""
        done = []
        try:
            for job in self._jobs:
                before_mono_s, before_wall_s = time.monotonic(), time.time()
                self._clone(job)
                after_mono_s, after_wall_s = time.monotonic(), time.time()
                done.append(
                    PairSplit(job.pair.name, job.pair.mirror, before_mono_s, after_mono_s, before_wall_s, after_wall_s)
                )
            for job in self._jobs:
                self._publish(job)
        except OSError as exc:
            raise MirrorError(f"pair {job.pair.name}: the clone {job.pair.mirror} failed ({exc.strerror}).") from exc
        self._result = SplitResult(self._record.session, self._record.provider, self.method, tuple(done))
        return self._result

    def settle(self) -> None:
        """See PreparedSplit."""
        for job in self._jobs:
            os.fsync(job.target)
            os.unlink(job.temp)
        for folder in {os.path.dirname(job.pair.mirror) for job in self._jobs}:
            sync_folder(folder)
        self._journal.write(replace(self._record, result=self._result))
        self._close()

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._close()
        remove_clones(self._record)
        self._journal.remove(self._record.session)

    def _open(self, job: _Job, allow_copy: bool) -> None:
        job.source = os.open(job.pair.primary, os.O_RDONLY | os.O_CLOEXEC)
        job.target = os.open(job.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.setxattr(job.target, MARK, self._record.session.encode())
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            raise MirrorError(
                f"pair {job.pair.name}: the file system of {job.pair.mirror} has no user extended attributes, by which "
                "a clone is known again; use XFS or Btrfs."
            ) from exc
        if reflink.can_clone(job.source, job.target):
            return
        if not allow_copy:
            raise MirrorError(
                f"pair {job.pair.name}: {job.pair.mirror} cannot share blocks with {job.pair.primary}; put both on one "
                "XFS (reflink=1) or Btrfs, or set allow_copy: true in provider_options: the window then lasts as long "
                "as a copy.",
                option="pairs",
            )
        self.method = "copy"

    def _clone(self, job: _Job) -> None:
        if self.method == "reflink":
            reflink.clone(job.source, job.target)
        else:
            reflink.copy(job.source, job.target)

    def _publish(self, job: _Job) -> None:
        # A link, not a rename: it fails when a file of that name has come meanwhile.
        os.link(job.temp, job.pair.mirror)

    def _close(self) -> None:
        for job in self._jobs:
            for fd in (job.source, job.target):
                if fd >= 0:
                    os.close(fd)
            job.source = job.target = -1


def temp_name(pair: Pair, session: str) -> str:
    """Where a session makes the clone before it gets its name; in the same folder."""
    return f"{pair.mirror}.{session}.new"


def remove_clones(record: SplitRecord) -> None:
    """Remove whatever the session made of its clones, whole or half, and nothing else."""
    for pair in record.pairs:
        if _mark(pair.mirror) == record.session:
            os.unlink(pair.mirror)
        temp = temp_name(pair, record.session)
        if _mark(temp) == record.session or _size(temp) == 0:  # empty: it died before it could mark it
            os.unlink(temp)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(os.path.dirname(pair.mirror))


def _real(path: str) -> str:
    """The path with its folder resolved; the file itself is taken by its name."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _size(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _estimate_s(path: str) -> Optional[float]:
    try:
        return round(reflink.estimate_s(path), 6)
    except OSError:
        return None


def _mark(path: str) -> Optional[str]:
    """The session that a file belongs to; '' when it is nobody's of ours, None when there is no file."""
    try:
        return os.getxattr(path, MARK, follow_symlinks=False).decode(errors="replace")
    except OSError:
        return "" if os.path.lexists(path) else None


def _primary_problem(pair: Pair) -> Optional[str]:
    try:
        status = os.stat(pair.primary)
    except OSError as exc:
        return f"pair {pair.name}: its primary {pair.primary} cannot be found ({exc.strerror})."
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return f"pair {pair.name}: its primary {pair.primary} is no image file with data; name the LUN's image."
    return None


def _place_problem(pair: Pair) -> Optional[str]:
    folder = os.path.dirname(pair.mirror)
    if not os.path.isdir(folder):
        return f"pair {pair.name}: there is no folder {folder} for its mirror; make it, on the primary's file system."
    return None
