# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``image``: the LUNs are image files, and a split is a clone that shares all blocks with the primary.

Such an array is a hypervisor whose raw images are on XFS or Btrfs. Each clone shows one instant (FICLONE locks the
file). The clones of several images show the same instant only while the database host is frozen.

What a session makes has its id in the extended attribute ``user.splitmirror.session``. A file without this attribute
belongs to somebody else, whatever its name, and is never replaced or removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Optional

from ..host.files import sync_folder
from ..options import Spec
from ..session import StateDir
from . import loop, reflink
from .base import MirrorError, Pair, PreparedSplit, Presentation
from .journal import Journal, SplitRecord
from .snapshots import SnapshotProvider, SnapshotSplit, SnapshotView

MARK = "user.splitmirror.session"


class ImageProvider(SnapshotProvider):
    """Mirrors as clones of image files; ``primary`` and ``mirror`` are absolute paths on the array."""

    name = "image"
    method = "reflink"
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
        # A file has one name in the journal, even if symbolic links lead to it.
        real = [replace(pair, primary=os.path.realpath(pair.primary), mirror=_real(pair.mirror)) for pair in pairs]
        super().__init__(real, state_dir, options)

    def look(self, pair: Pair) -> SnapshotView:
        """See SnapshotProvider."""
        mark = _mark(pair.mirror)
        attached = loop.loops_of(pair.mirror) if mark is not None else []
        return SnapshotView(
            size_bytes=_size(pair.primary),
            broken=_primary_problem(pair) or _place_problem(pair),
            mark=mark,
            devices=tuple(device.path for device in attached),
            split_estimate_s=_estimate_s(pair.primary),
        )

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        if _mark(pair.mirror) == session:
            os.unlink(pair.mirror)
        temp = temp_name(pair, session)
        if _mark(temp) == session or _size(temp) == 0:  # empty: the process died before it could mark the file
            os.unlink(temp)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(os.path.dirname(pair.mirror))

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider."""
        return loop.attach(pair.mirror, loop.sector_bytes(pair.primary))

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider."""
        loop.detach(device, pair.mirror)

    def present(self, session: str) -> Presentation:
        """See MirrorProvider."""
        for pair in self._settled_record(session).pairs:
            writable = [device.path for device in loop.loops_of(pair.mirror) if not device.read_only]
            if writable:
                raise MirrorError(
                    f"pair {pair.name}: its mirror is attached writable as {', '.join(writable)}, so it may have "
                    "changed; detach the device and start a new session.",
                    code="mirror_in_use",
                )
        return super().present(session)

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider."""
        return ImageSplit(self, self._journal, record, self.options["allow_copy"])


@dataclass
class _Job:
    """One pair of a prepared split, with its open files."""

    pair: Pair
    temp: str
    source: int = -1
    target: int = -1


class ImageSplit(SnapshotSplit):
    """The images are open, and empty targets are made and marked; only the clones and their names are missing."""

    def __init__(self, provider: ImageProvider, journal: Journal, record: SplitRecord, allow_copy: bool) -> None:
        super().__init__(provider, journal, record)
        self._jobs = {pair.name: _Job(pair, temp_name(pair, record.session)) for pair in record.pairs}
        try:
            for job in self._jobs.values():
                self._open(job, allow_copy)
            self.flush()
        except OSError as exc:
            self.cancel()
            raise MirrorError(f"{exc.filename or job.pair.mirror}: {exc.strerror}.") from exc
        except MirrorError:
            self.cancel()
            raise

    def flush(self) -> None:
        """Write the cached data of the images. FICLONE would do that as well, but inside the window."""
        for job in self._jobs.values():
            os.fdatasync(job.source)

    def take(self, pair: Pair) -> None:
        """See SnapshotSplit."""
        job = self._jobs[pair.name]
        try:
            if self.method == "reflink":
                reflink.clone(job.source, job.target)
            else:
                reflink.copy(job.source, job.target)
        except OSError as exc:
            raise _failed(pair, exc) from exc

    def publish(self) -> None:
        """See SnapshotSplit. By links, not by renames: a link fails if a file of that name exists by now."""
        for job in self._jobs.values():
            try:
                os.link(job.temp, job.pair.mirror)
            except OSError as exc:
                raise _failed(job.pair, exc) from exc

    def settle(self) -> None:
        """See PreparedSplit."""
        for job in self._jobs.values():
            os.fsync(job.target)
            os.unlink(job.temp)
        for folder in {os.path.dirname(job.pair.mirror) for job in self._jobs.values()}:
            sync_folder(folder)
        super().settle()
        self._close()

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._close()
        super().cancel()

    def _open(self, job: _Job, allow_copy: bool) -> None:
        job.source = os.open(job.pair.primary, os.O_RDONLY | os.O_CLOEXEC)
        job.target = os.open(job.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.setxattr(job.target, MARK, self._record.session.encode())
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            raise MirrorError(
                f"pair {job.pair.name}: the file system of {job.pair.mirror} does not support user extended "
                "attributes, which mark the clone; use XFS or Btrfs."
            ) from exc
        if reflink.can_clone(job.source, job.target):
            return
        if not allow_copy:
            raise MirrorError(
                f"pair {job.pair.name}: {job.pair.mirror} cannot share blocks with {job.pair.primary}; put both on the "
                "same XFS (reflink=1) or Btrfs, or set allow_copy: true in provider_options (the window then lasts as "
                "long as a copy).",
                option="pairs",
            )
        self.method = "copy"

    def _close(self) -> None:
        for job in self._jobs.values():
            for fd in (job.source, job.target):
                if fd >= 0:
                    os.close(fd)
            job.source = job.target = -1


def temp_name(pair: Pair, session: str) -> str:
    """The name of the clone of a session until it gets its final name; in the same folder."""
    return f"{pair.mirror}.{session}.new"


def _failed(pair: Pair, cause: OSError) -> MirrorError:
    return MirrorError(f"pair {pair.name}: the clone {pair.mirror} failed ({cause.strerror}).")


def _real(path: str) -> str:
    """The path with its folder resolved; the file itself need not exist."""
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
    """The session that a file belongs to; '' if it belongs to no session, None if there is no file."""
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
        return f"pair {pair.name}: its primary {pair.primary} is not a file, or is empty; name the LUN's image file."
    return None


def _place_problem(pair: Pair) -> Optional[str]:
    folder = os.path.dirname(pair.mirror)
    if not os.path.isdir(folder):
        return (
            f"pair {pair.name}: the folder {folder} for its mirror does not exist; make it on the file system of the "
            "primary."
        )
    return None
