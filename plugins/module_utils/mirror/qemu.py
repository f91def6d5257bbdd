# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``qemu``: the LUNs are disks of a running QEMU or qemu-storage-daemon, whatever their format.

The split is one QMP transaction of backup jobs (``blockdev-backup`` with ``sync: none``), one a disk, so all disks show
one instant. From then on QEMU copies what the guest is about to overwrite into a scratch image first; the scratch image
over the disk is the mirror. QEMU shows it as a file (FUSE), and a loop device makes a disk of that.

The names of everything that a session makes follow from the session: scratch image and FUSE file have its id and its
short id, so that no image of somebody else has such a name; the job has its id; nodes and exports, whose names QEMU
limits to 31 characters, its short id.

A guest's write fails if what it overwrites cannot be copied (QEMU before 10.1 knows nothing else for a backup job). The
room of a scratch image is therefore reserved before the split.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Optional, Union

from ..errors import SplitMirrorError
from ..host import fuse
from ..options import Spec
from ..session import StateDir, check_session_id, sealed, session_of_seal, short_session
from .base import Capabilities, MirrorError, Pair, PairSplit, PairState, PreparedSplit
from .host import run_tool
from .journal import Journal, SplitRecord
from .qmp import Qmp, QmpError, QmpUnreachable
from .snapshots import SnapshotProvider, SnapshotSplit, SnapshotView, timed

#: How long QEMU may take to end a job or an export.
END_TIMEOUT_S = 60.0
_POLL_S = 0.02
#: QEMU's own words for a transaction that was given up because it was told to.
_REHEARSED = "Abort action"
#: A qcow2 image has 8 bytes of L2 table and 2 of reference count for each cluster of 64 KiB, beside its header.
_TABLES = 1000
_HEADER_BYTES = 4 << 20
#: 16 disks of a busy storage daemon take a few milliseconds.
SPLIT_ESTIMATE_S = 0.01


class QemuProvider(SnapshotProvider):
    """Mirrors of disks of a QEMU. ``primary`` is a node or device of QEMU, ``mirror`` a path for scratch images."""

    name = "qemu"
    method = "blockdev-backup"
    capabilities = Capabilities(atomic_set=True)
    argument_spec: ClassVar[Spec] = {
        "qmp_socket": {"type": "path", "required": True},
        "scratch_percent": {"type": "int", "default": 100},
    }
    pair_argument_spec: ClassVar[Spec] = {"sector_bytes": {"type": "int"}}

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        self._socket = os.path.realpath(self.options["qmp_socket"])
        for pair in pairs:
            if not os.path.isabs(pair.mirror):
                raise MirrorError(
                    f"pairs: the mirror of pair {pair.name} is {pair.mirror!r}; provider qemu needs an absolute path, "
                    "beside which it makes its scratch images.",
                    option="pairs",
                    code="option_invalid",
                )
        # Two guests of one host have disks of the same name, so the journal knows a disk together with its QEMU.
        self.pairs = tuple(
            replace(pair, primary=f"{self._socket}:{pair.primary}", mirror=os.path.normpath(pair.mirror))
            for pair in self.pairs
        )

    # ---- looking ----

    def state(self) -> list[PairState]:
        """See MirrorProvider."""
        return [replace(state, primary=self.disk(state)) for state in super().state()]

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """See SnapshotProvider."""
        try:
            with self.connect() as qmp:
                qemu = Qemu.look(qmp)
                return [self._look(pair, qemu, "") for pair in pairs]
        except QmpUnreachable as exc:
            return [self._look(pair, Qemu(), f"pair {pair.name}: {exc.message}") for pair in pairs]

    def _look(self, pair: Pair, qemu: Qemu, broken: str) -> SnapshotView:
        disk = qemu.disk(self.disk(pair))
        record = self._journal.record_of(pair)
        session = record.session if record else next(iter(_sessions(pair, qemu)), None)
        if not broken and disk is None:
            broken = f"pair {pair.name}: QEMU has no node or device {self.disk(pair)}; name one of its disks."
        if disk is not None and session is None:
            broken = _place_problem(pair, self.room_bytes(disk.size_bytes))
        return SnapshotView(
            size_bytes=disk.size_bytes if disk else None,
            broken=broken or None,
            mark=session or ("" if os.path.lexists(pair.mirror) else None),
            devices=tuple(fuse.loops_over(fuse_file_of(pair, session))) if session else (),
            lost=(broken or _lost(pair, record.session, qemu)) if record and record.result else None,
            split_estimate_s=SPLIT_ESTIMATE_S,
        )

    def connect(self) -> Qmp:
        """Connect to QEMU. :raises QmpUnreachable: that cannot be done."""
        return Qmp(self._socket)

    def disk(self, pair: Union[Pair, PairState]) -> str:
        """The primary of a pair as the user wrote it."""
        return pair.primary[len(self._socket) + 1 :]

    def room_bytes(self, size_bytes: int) -> int:
        """How much room is reserved for the scratch image of a disk."""
        return size_bytes * int(self.options["scratch_percent"]) // 100 + size_bytes // _TABLES + _HEADER_BYTES

    # ---- the steps ----

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider."""
        return QemuSplit(self, self._journal, record)

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        try:
            with self.connect() as qmp:
                _end_export(qmp, pair, session)
                _end_job(qmp, pair, session)
                if node_of(pair, session) in Qemu.look(qmp).nodes:
                    qmp.ask("blockdev-del", node_name=node_of(pair, session))
        except QmpUnreachable as exc:
            if not exc.gone or _is_locked(scratch_of(pair, session)):
                raise
        fuse.remove(fuse_file_of(pair, session))
        _unlink(scratch_of(pair, session))

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider."""
        session = self._session_of(pair)
        path = fuse_file_of(pair, session)
        with self.connect() as qmp:
            sector_bytes = pair.options["sector_bytes"] or _sector_bytes(qmp, self.disk(pair))
            if node_of(pair, session) not in _exports(qmp):
                os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o400))
                os.chown(path, qmp.peer_uid(), -1)
                node = node_of(pair, session)
                qmp.ask("block-export-add", type="fuse", id=node, node_name=node, mountpoint=path, writable=False)
            size_bytes = Qemu.look(qmp).nodes[node_of(pair, session)]
        if os.stat(path).st_size != size_bytes:
            raise MirrorError(
                f"pair {pair.name}: QEMU shows its mirror as {path}, and this host does not see it there; let QEMU run "
                "in the host's own mount namespace (namespaces = [] in libvirt's qemu.conf)."
            )
        return fuse.attach_loop(path, sector_bytes)

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider."""
        session = self._session_of(pair)
        fuse.detach_loop(device, fuse_file_of(pair, session))
        try:
            with self.connect() as qmp:
                _end_export(qmp, pair, session)
        except QmpUnreachable as exc:
            if not exc.gone:
                raise
        fuse.remove(fuse_file_of(pair, session))

    def _session_of(self, pair: Pair) -> str:
        record = self._journal.record_of(pair)
        if record is not None:
            return record.session
        (view,) = self.look_at([pair])
        return str(view.mark)


class QemuSplit(SnapshotSplit):
    """The scratch images are made and known to QEMU, and the transaction was rehearsed; only the jobs are missing."""

    def __init__(self, provider: QemuProvider, journal: Journal, record: SplitRecord) -> None:
        super().__init__(provider, journal, record)
        self._connect = provider.connect
        try:
            with provider.connect() as qmp:
                self._actions = [self._prepare(provider, qmp, pair) for pair in record.pairs]
                self._rehearse(qmp)
        except OSError as exc:
            self.cancel()
            raise MirrorError(f"{exc.filename}: {exc.strerror}.") from exc
        except SplitMirrorError:
            self.cancel()
            raise

    def flush(self) -> None:
        """Ask whether QEMU answers now; it keeps no data that the split would have to write."""
        self._connect().close()

    def take_all(self, pairs: Sequence[Pair]) -> list[PairSplit]:
        """See SnapshotSplit."""
        return timed(pairs, self._transact)

    def _transact(self) -> None:
        try:
            with self._connect() as qmp:
                qmp.ask("transaction", actions=self._actions)
        except QmpError as exc:
            raise self._refused(exc) from exc

    def _rehearse(self, qmp: Qmp) -> None:
        """Let QEMU try the transaction, and give it up as its last action."""
        try:
            qmp.ask("transaction", actions=[*self._actions, {"type": "abort", "data": {}}])
        except QmpError as exc:
            if _REHEARSED not in exc.reason:
                raise self._refused(exc) from exc

    def _refused(self, cause: QmpError) -> MirrorError:
        names = [pair.name for pair in self._record.pairs if node_of(pair, self._record.session) in cause.reason]
        which = f"pair {names[0]}" if names else f"pairs {', '.join(pair.name for pair in self._record.pairs)}"
        return MirrorError(f"{which}: QEMU cannot split ({cause.reason}).")

    def _prepare(self, provider: QemuProvider, qmp: Qmp, pair: Pair) -> dict[str, Any]:
        """Make the scratch image of a pair, and give it to QEMU; return the action that will begin its job."""
        session = self._record.session
        disk = Qemu.look(qmp).disk(provider.disk(pair))
        if disk is None:
            raise MirrorError(f"pair {pair.name}: QEMU has no node or device {provider.disk(pair)} any more.")
        path, node = scratch_of(pair, session), node_of(pair, session)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.chown(path, qmp.peer_uid(), -1)
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", path, str(disk.size_bytes))
        # Beyond its end, so that nothing of the format changes.
        run_tool("fallocate", "--keep-size", f"--length={provider.room_bytes(disk.size_bytes)}", path)
        image = {"driver": "file", "filename": path}
        qmp.ask("blockdev-add", driver="qcow2", node_name=node, file=image, backing=disk.node)
        backup = {"device": disk.node, "target": node, "sync": "none", "job-id": job_of(pair, session)}
        # A job that failed stays to be seen.
        return {"type": "blockdev-backup", "data": {**backup, "auto-dismiss": False}}


# ---- what QEMU has ----


@dataclass(frozen=True)
class Disk:
    """A disk of QEMU. :param node: its topmost node. :param device: path of the guest's device in QEMU, or empty."""

    node: str
    size_bytes: int
    device: str


class Qemu:
    """What a QEMU reports of itself at one time.

    :ivar nodes: size in bytes by name. :ivar jobs: by id; that of our jobs has the session in it.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, int] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self._blocks: list[dict[str, Any]] = []

    @classmethod
    def look(cls, qmp: Qmp) -> Qemu:
        """Ask for all of it."""
        found = cls()
        nodes = qmp.ask("query-named-block-nodes", flat=True)
        found.nodes = {node["node-name"]: int(node["image"]["virtual-size"]) for node in nodes}
        found.jobs = {job["id"]: job for job in qmp.ask("query-jobs")}
        found._blocks = qmp.ask("query-block")
        return found

    def disk(self, name: str) -> Optional[Disk]:
        """The disk that a user calls so: by the id of its device, which stays the same, or by the name of a node."""
        for block in self._blocks:
            device = str(block.get("qdev") or "")
            node = block.get("inserted", {}).get("node-name")
            if node in self.nodes and (name in (block.get("device"), device, node) or name in device.split("/")):
                return Disk(node, self.nodes[node], device)
        return Disk(name, self.nodes[name], "") if name in self.nodes else None


def _exports(qmp: Qmp) -> list[str]:
    return [export["id"] for export in qmp.ask("query-block-exports")]


def _sector_bytes(qmp: Qmp, name: str) -> int:
    """The logical sector size that the guest sees; 512, the usual one, where no guest has the disk."""
    disk = Qemu.look(qmp).disk(name)
    if disk is None or not disk.device:
        return 512
    path = disk.device if disk.device.startswith("/") else f"/machine/peripheral/{disk.device}"
    try:
        return int(qmp.ask("qom-get", path=path, property="logical_block_size")) or 512
    except QmpError:  # a disk of another kind, such as SCSI's of an old QEMU
        return 512


def _lost(pair: Pair, session: str, qemu: Qemu) -> Optional[str]:
    """Why the mirror of a finished split is not the split any more, or None."""
    job = qemu.jobs.get(job_of(pair, session))
    if job is not None and job["status"] in ("created", "running", "paused", "standby", "ready"):
        return None
    reason = (job or {}).get("error") or "QEMU was started anew, or somebody removed the job"
    return (
        f"pair {pair.name}: the backup job that keeps the mirror of session {session} has ended ({reason}), so what is "
        "read from the mirror is not the split; take a new backup."
    )


def _end_export(qmp: Qmp, pair: Pair, session: str) -> None:
    """Let QEMU end the export of a mirror, and wait for that."""
    node = node_of(pair, session)
    if node in _exports(qmp):
        qmp.ask("block-export-del", id=node)
    _wait(f"pair {pair.name}: QEMU does not end the export of its mirror", lambda: node not in _exports(qmp))


def _end_job(qmp: Qmp, pair: Pair, session: str) -> None:
    """Cancel the job of a mirror, and wait for its end."""
    name = job_of(pair, session)
    job = Qemu.look(qmp).jobs.get(name)
    if job is None:
        return
    if job["status"] != "concluded":
        qmp.ask("block-job-cancel", device=name, force=True)
    _wait(
        f"pair {pair.name}: QEMU does not end its backup job",
        lambda: Qemu.look(qmp).jobs.get(name, {}).get("status") in (None, "concluded"),
    )
    qmp.ask("job-dismiss", id=name)


def _wait(sentence: str, is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_TIMEOUT_S
    while not is_done():
        if time.monotonic() > deadline:
            raise MirrorError(f"{sentence} within {END_TIMEOUT_S:g} s.")
        time.sleep(_POLL_S)


# ---- names: everything follows from session and pair ----


def scratch_of(pair: Pair, session: str) -> str:
    """The path of the scratch image of a session."""
    return f"{pair.mirror}.{sealed(session)}.qcow2"


def fuse_file_of(pair: Pair, session: str) -> str:
    """The path of the file through which QEMU shows the mirror of a session."""
    return f"{pair.mirror}.{sealed(session)}.fuse"


def _tag(pair: Pair) -> str:
    return hashlib.sha256(pair.mirror.encode()).hexdigest()[:8]


def node_of(pair: Pair, session: str) -> str:
    """The name of the node, and of the export: 27 of the 31 characters that QEMU allows for a node."""
    return f"{short_session(session)}.{_tag(pair)}"


def job_of(pair: Pair, session: str) -> str:
    """The name of the job, which has no limit. It begins with a letter, as QEMU demands."""
    return f"splitmirror.{_tag(pair)}.{session}"


def _sessions(pair: Pair, qemu: Qemu) -> list[str]:
    """The sessions that have left something of this pair."""
    found = [path[len(pair.mirror) + 1 :] for path in glob.glob(glob.escape(pair.mirror) + ".*")]
    sessions = [session_of_seal(name.rpartition(".")[0]) for name in found if name.endswith((".qcow2", ".fuse"))]
    prefix = job_of(pair, "")
    names = [name[len(prefix) :] for name in qemu.jobs if name.startswith(prefix)]
    return sorted({*(name for name in names if _is_session(name)), *filter(None, sessions)})


def _is_session(name: str) -> bool:
    try:
        return bool(check_session_id(name))
    except SplitMirrorError:
        return False


# ---- files ----


def _place_problem(pair: Pair, room_bytes: int) -> str:
    """Why no scratch image can be made, in one sentence; empty if one can."""
    folder = os.path.dirname(pair.mirror)
    try:
        found = os.statvfs(folder)
    except OSError as exc:
        return f"pair {pair.name}: the folder {folder} for its scratch image cannot be used ({exc.strerror}); make it."
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < room_bytes:
        return (
            f"pair {pair.name}: {folder} has {free_bytes} bytes free, and its scratch image needs {room_bytes}; make "
            "room, or set scratch_percent in provider_options to the part of the disk that the guest may overwrite "
            "while the mirror is read."
        )
    return ""


def _is_locked(path: str) -> bool:
    """Whether a process has a scratch image open: QEMU locks its images (OFD locks, which conflict with POSIX ones)."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
