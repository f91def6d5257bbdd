# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``rbd``: the LUNs are images of Ceph; the split is a snapshot of each, which this host maps read-only.

The snapshots of a set are made at once: most of the time of one is a wait for the next proposal of the monitors (a
second by default), which all of them share. A process with Ceph's Python bindings stands ready for it, connected and
with the images open. Without the bindings each snapshot is a process of ``rbd`` that connects and opens in the window.

A snapshot is protected as soon as the window has its answer, because Ceph would remove an unprotected one while it is
mapped; the device then reads zeros without an error. That a device is that of the snapshot is asked of the kernel, not
taken from the success of the mapping. The session's id is in the name of the snapshot, with its short id, so that no
snapshot of somebody else has such a name.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Optional, TypeVar

from ..errors import shorten
from ..host import tools
from ..host.running import Running, Silent
from ..host.strict_json import parse_json
from ..options import Spec
from ..session import StateDir, sealed, session_of_seal
from .base import MirrorError, Pair, PairSplit, PreparedSplit
from .journal import Journal, SplitRecord
from .snapshots import SnapshotProvider, SnapshotSplit, SnapshotView, timed

#: After this time a command that waits for the cluster is ended. It can be repeated.
COMMAND_TIMEOUT_S = 120.0
#: The interval at which monitors propose changes (``paxos_propose_interval``), which a snapshot waits for.
SPLIT_ESTIMATE_S = 1.0
#: Of these exit codes of ``rbd``, which are those of errno.h, we know what they mean.
_NO_ENTRY = 2
#: How long the images may take to be closed after a split. An image that is not closed may stay locked for a while.
_CLOSE_S = 30.0
#: Stands ready to split, and speaks to us in lines of JSON. It runs with the Python that has Ceph's bindings. When its
#: input ends it closes the images, whatever has become of us: the exclusive lock of one that is not closed would keep
#: the database host from writing until it times out.
_STANDING = """\
import json, sys, time
from concurrent.futures import ThreadPoolExecutor

def say(**told):
    sys.stdout.write(json.dumps(told) + "\\n")
    sys.stdout.flush()

wanted = json.loads(sys.stdin.readline())
try:
    import rados, rbd
except ImportError as exc:
    say(missing=str(exc))
    sys.exit()
# A snapshot that waits for others to be quiet would end our freeze with theirs.
flags = [flag for flag in [getattr(rbd, "RBD_SNAP_CREATE_SKIP_QUIESCE", 0)] if flag]
clusters, pools, images = [], [], {}

def take(name):
    try:
        images[name].create_snap(wanted["snapshots"][name], *flags)
    except Exception as exc:
        return str(exc) or type(exc).__name__

try:
    clusters.append(rados.Rados(conffile=wanted["conf"], rados_id=wanted["user"]))
    clusters[0].connect()
    for name in wanted["snapshots"]:
        pool, *namespace, image = name.split("/")
        pools.append(clusters[0].open_ioctx(pool))
        if namespace:
            pools[-1].set_namespace(namespace[0])
        images[name] = rbd.Image(pools[-1], image)
    with ThreadPoolExecutor(len(images)) as threads:
        list(threads.map(len, images))  # starts them
        say(ready=True)
        if "split" in sys.stdin.readline():
            times = [time.monotonic(), time.time()]
            errors = dict(zip(images, threads.map(take, images)))
            times += [time.monotonic(), time.time()]
            say(errors={name: error for name, error in errors.items() if error}, times=times)
            sys.stdin.readline()
except Exception as exc:
    say(error=str(exc) or type(exc).__name__)
finally:
    # One that cannot be closed keeps no other one open.
    for end in [*[one.close for one in [*images.values(), *pools]], *[one.shutdown for one in clusters]]:
        try:
            end()
        except Exception as exc:
            print(exc, file=sys.stderr)
"""
_IMAGE = re.compile(r"(?P<pool>[^/@\s]+)/(?:(?P<namespace>[^/@\s]+)/)?(?P<name>[^/@\s]+)")
_At = TypeVar("_At")


class RbdError(MirrorError):
    """A command of Ceph failed. :ivar exit_code: that of ``rbd``; None if it was not there, or did not end in time."""

    def __init__(self, message: str, exit_code: Optional[int]) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Device:
    """A mapped image. :param snapshot: ``-`` if the image itself is mapped."""

    image: str
    snapshot: str
    path: str


class RbdProvider(SnapshotProvider):
    """Mirrors as snapshots. ``primary`` is ``POOL/IMAGE``, ``mirror`` the same with ``@`` and how a name begins."""

    name = "rbd"
    method = "rbd-snapshot"
    argument_spec: ClassVar[Spec] = {
        "ceph_conf": {"type": "path"},
        "ceph_user": {"type": "str"},
        "map_type": {"type": "str", "choices": ["krbd", "nbd"], "default": "krbd"},
        "map_options": {"type": "str"},
        "ceph_python": {"type": "path", "default": "/usr/bin/python3"},
    }

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        self._command = ["rbd"]
        for option, word in (("ceph_conf", "--conf"), ("ceph_user", "--id")):
            if self.options[option]:
                self._command += [word, self.options[option]]
        for pair in self.pairs:
            image, _at, prefix = pair.mirror.partition("@")
            if not _IMAGE.fullmatch(pair.primary):
                raise _misnamed(pair, f"its primary is {pair.primary!r}; write POOL/IMAGE or POOL/NAMESPACE/IMAGE")
            if image != pair.primary or not re.fullmatch(r"[A-Za-z0-9._-]+", prefix):
                wanted = f"{pair.primary}@splitmirror, to which the session's id is added"
                raise _misnamed(pair, f"its mirror is {pair.mirror!r}; write {wanted}")

    def remarks(self) -> list[str]:
        """See MirrorProvider."""
        missing = None
        with contextlib.suppress(MirrorError):
            missing = self.missing_bindings()
        if missing is None:
            return []
        return [
            f"provider_options: ceph_python: {missing}, so a process of rbd is started for each pair in the window; "
            "install python3-rados and python3-rbd."
        ]

    def missing_bindings(self) -> Optional[str]:
        """Why nothing can stand ready; None if something can."""
        python = self.options["ceph_python"]
        try:
            done = tools.run_program([python, "-I", "-c", "import rados, rbd"], timeout_s=COMMAND_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return f"{python} cannot be run ({exc})"
        return f"{python} does not have Ceph's bindings" if done.returncode else None

    # ---- looking ----

    def look_at(self, pairs: Sequence[Pair]) -> list[SnapshotView]:
        """See SnapshotProvider."""
        devices = self.devices()
        return _at_once(pairs, lambda pair: self._look(pair, devices))

    def _look(self, pair: Pair, devices: Sequence[Device]) -> SnapshotView:
        broken = None
        size_bytes = None
        snapshots: list[str] = []
        try:
            size_bytes = int(self.ask("info", pair.primary)["size"])
            snapshots = list(self.snapshots(pair))
        except RbdError as exc:
            broken = f"pair {pair.name}: {exc.message}"
            if exc.exit_code == _NO_ENTRY:
                broken = f"pair {pair.name}: there is no image {pair.primary}; name one as rbd ls shows it."
        record = self._journal.record_of(pair)
        session = record.session if record else next(_sessions(pair, snapshots), None)
        own = _snapshot(pair, session) if session else ""
        foreign = "" if pair.mirror.partition("@")[2] in snapshots else None
        lost = None
        if record is not None and record.result is not None and own not in snapshots:
            lost = broken or (
                f"pair {pair.name}: its snapshot {pair.primary}@{own} is gone, and the device of a snapshot that was "
                "removed reads zeros without an error; take a new backup."
            )
        return SnapshotView(
            size_bytes=size_bytes,
            broken=broken,
            mark=session or foreign,
            devices=tuple(one.path for one in devices if (one.image, one.snapshot) == (pair.primary, own)),
            lost=lost,
            split_estimate_s=SPLIT_ESTIMATE_S,
        )

    def snapshots(self, pair: Pair) -> dict[str, bool]:
        """The snapshots of the primary by name, and whether each is protected."""
        return {one["name"]: str(one["protected"]) == "true" for one in self.ask("snap", "ls", pair.primary)}

    def devices(self) -> list[Device]:
        """What is mapped on this host. :raises RbdError: the kernel cannot be asked."""
        found = self.ask("device", "list", "--device-type", self.options["map_type"])
        rows = found.values() if isinstance(found, dict) else found  # by id, in old versions
        return [
            Device("/".join(filter(None, (row["pool"], row.get("namespace"), row["name"]))), row["snap"], row["device"])
            for row in rows
        ]

    # ---- the steps ----

    def prepared(self, record: SplitRecord) -> PreparedSplit:
        """See SnapshotProvider."""
        try:
            standing = self._standing(record)
        except MirrorError:
            self._journal.remove(record.session)
            raise
        return RbdSplit(self, self._journal, record, standing)

    def _standing(self, record: SplitRecord) -> Optional[Running]:
        """A process with the images open; None without the bindings. :raises MirrorError: they cannot be opened."""
        try:
            program = Running([self.options["ceph_python"], "-I", "-c", _STANDING], takes_lines=True, outlives_us=True)
        except OSError:
            return None
        try:
            wanted = {
                "conf": self.options["ceph_conf"] or "",
                "user": self.options["ceph_user"],
                "snapshots": {pair.primary: _snapshot(pair, record.session) for pair in record.pairs},
            }
            said = self.asked(program, wanted)
            if said.get("ready") is True:
                return program
            if "missing" in said:
                program.stop(b"", _CLOSE_S)
                return None
            raise MirrorError(f"ceph: the images cannot be opened: {said.get('error')}")
        except MirrorError:
            program.stop(b"", _CLOSE_S)
            raise

    def asked(self, program: Running, line: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send the process that stands ready a line, and return its answer. :raises MirrorError: there is none."""
        try:
            text = program.ask(json.dumps(line).encode() + b"\n", COMMAND_TIMEOUT_S)
        except Silent as exc:
            words = " ".join(program.errors.decode(errors="replace").split())[-300:]
            reason = str(exc) or f"no answer within {COMMAND_TIMEOUT_S:g} s; see ceph status"
            raise MirrorError(f"ceph_python: {reason}{f' ({words})' if words else ''}.") from exc
        with contextlib.suppress(ValueError):
            said = parse_json(text)
            if isinstance(said, dict):
                return said
        raise MirrorError(f"ceph_python: its answer is not JSON: {shorten(text.decode(errors='replace'))}.")

    def take(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        try:
            self.run("snap", "create", "--no-progress", f"{pair.primary}@{_snapshot(pair, session)}")
        except RbdError as exc:
            raise MirrorError(f"pair {pair.name}: {exc.message}") from exc

    def protect(self, pair: Pair, session: str) -> None:
        """Keep everybody from removing the snapshot. It may be protected already."""
        snapshot = _snapshot(pair, session)
        if self.snapshots(pair).get(snapshot) is not True:
            self.run("snap", "protect", f"{pair.primary}@{snapshot}")

    def delete(self, pair: Pair, session: str) -> None:
        """See SnapshotProvider."""
        snapshot = _snapshot(pair, session)
        try:
            is_protected = self.snapshots(pair).get(snapshot)
        except RbdError as exc:
            if exc.exit_code != _NO_ENTRY:
                raise
            return
        if is_protected:
            self.run("snap", "unprotect", f"{pair.primary}@{snapshot}")
        if is_protected is not None:
            self.run("snap", "rm", "--no-progress", f"{pair.primary}@{snapshot}")

    def show(self, pair: Pair) -> str:
        """See SnapshotProvider."""
        session = self._session_of(pair)
        snapshot = _snapshot(pair, session)
        self.protect(pair, session)
        words = ["device", "map", "--device-type", self.options["map_type"], "--read-only"]
        if self.options["map_options"]:
            words += ["--options", self.options["map_options"]]
        path = self.run(*words, f"{pair.primary}@{snapshot}").strip()
        found = [device for device in self.devices() if device.path == path]
        if [(device.image, device.snapshot) for device in found] != [(pair.primary, snapshot)]:
            what = " ".join(f"{device.image}@{device.snapshot}" for device in found) or "nothing"
            self.hide(pair, path)
            raise MirrorError(
                f"pair {pair.name}: {path} was to be a mapping of {pair.primary}@{snapshot}, and the kernel reports "
                f"{what}; see the kernel's log, or try the other map_type.",
                code="mirror_wrong",
            )
        return path

    def hide(self, pair: Pair, device: str) -> None:
        """See SnapshotProvider."""
        self.run("device", "unmap", "--device-type", self.options["map_type"], device)

    def _session_of(self, pair: Pair) -> str:
        record = self._journal.record_of(pair)
        if record is not None:
            return record.session
        (view,) = self.look_at([pair])
        return str(view.mark)

    # ---- Ceph ----

    def ask(self, *words: str) -> Any:
        """Run ``rbd`` and return its answer, read from JSON. :raises RbdError: it failed."""
        text = self.run(*words, "--format", "json")
        try:
            return json.loads(text or "[]")
        except ValueError as exc:
            raise RbdError(f"rbd {' '.join(words)}: its answer is not JSON.", None) from exc

    def run(self, *words: str) -> str:
        """Run ``rbd`` and return its output. :raises RbdError: it failed, or did not end in time."""
        said = f"rbd {' '.join(words)}"
        try:
            done = tools.run_program([*self._command, *words], timeout_s=COMMAND_TIMEOUT_S)
        except FileNotFoundError as exc:
            raise RbdError("rbd: it is not installed on this host; install ceph-common.", None) from exc
        except subprocess.TimeoutExpired as exc:
            raise RbdError(f"{said}: no answer within {COMMAND_TIMEOUT_S:g} s; see ceph status.", None) from exc
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise RbdError(f"{said}: {reason}", done.returncode)
        return done.stdout


class RbdSplit(SnapshotSplit):
    """All images are there and free.

    :param standing: has them open; None if each snapshot is a process of its own.
    """

    _provider: RbdProvider

    def __init__(
        self, provider: RbdProvider, journal: Journal, record: SplitRecord, standing: Optional[Running]
    ) -> None:
        super().__init__(provider, journal, record)
        self._standing = standing

    def flush(self) -> None:
        """See PreparedSplit."""
        if self._standing is not None and self._standing.has_ended():
            raise MirrorError("ceph_python: the process that has the images open has ended; see ceph status.")

    def take_all(self, pairs: Sequence[Pair]) -> list[PairSplit]:
        """See SnapshotSplit."""
        if self._standing is None:
            return timed(pairs, lambda: _at_once(pairs, self.take))
        said = self._provider.asked(self._standing, {"op": "split"})
        if "errors" not in said:
            raise MirrorError(f"ceph: no snapshot could be made: {said.get('error')}")
        for pair in pairs:
            if pair.primary in said["errors"]:
                raise MirrorError(f"pair {pair.name}: {said['errors'][pair.primary]}")
        before_mono_s, before_wall_s, after_mono_s, after_wall_s = said["times"]
        times = (before_mono_s, after_mono_s, before_wall_s, after_wall_s)
        return [PairSplit(pair.name, pair.mirror, *times) for pair in pairs]

    def settle(self) -> None:
        """See PreparedSplit."""
        super().settle()
        self._close()
        # What fails here is tried again when the mirror is presented.
        _at_once(self._record.pairs, partial(self._provider.protect, session=self._record.session))

    def cancel(self) -> None:
        """See PreparedSplit."""
        self._close()
        super().cancel()

    def _close(self) -> None:
        if self._standing is not None:
            self._standing.stop(b"", _CLOSE_S)


def _at_once(pairs: Sequence[Pair], action: Callable[[Pair], _At]) -> list[_At]:
    """Do something for all pairs at once, and wait for all, whatever fails. :raises SplitMirrorError: the first did."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        return [future.result() for future in [pool.submit(action, pair) for pair in pairs]]


def _snapshot(pair: Pair, session: str) -> str:
    """The name of a session's snapshot."""
    return f"{pair.mirror.partition('@')[2]}.{sealed(session)}"


def _sessions(pair: Pair, snapshots: Sequence[str]) -> Iterator[str]:
    """The sessions that have left snapshots of this pair."""
    prefix = pair.mirror.partition("@")[2] + "."
    for name in snapshots:
        session = session_of_seal(name[len(prefix) :]) if name.startswith(prefix) else None
        if session is not None:
            yield session


def _misnamed(pair: Pair, sentence: str) -> MirrorError:
    return MirrorError(f"pairs: pair {pair.name}: {sentence}.", option="pairs", code="option_invalid")
