# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport ``nbd``: QEMU's storage daemon on both hosts, over NBD with TLS and a key that only the two of them have.

On the array a daemon of the mirror set serves its devices, read-only. On the media server another one shows each as a
file (FUSE), over which lies a read-only loop device; no module of the kernel is needed but these two. Both ask for TLS
with a pre-shared key that is made from the session's secret. The key lies in a file that root alone can read.

Nothing is recorded: a mirror set has a folder below RUN with its key, and what runs is read from the arguments of the
daemons themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from ..errors import SplitMirrorError
from ..host import blockdev, fuse
from ..host.daemon import DaemonRecord, terminate
from ..host.files import replace_file
from ..host.tools import ToolError, own_environment, run_program
from .attach import is_meant, wanted_from_luns
from .base import Attached, Attacher, Device, Exporter, FoundExport, Initiator, Lun, Wanted
from .names import (
    TARGET_PREFIX,
    Portal,
    TransportError,
    is_taken,
    label_of,
    refuse_foreign_address,
    session_of,
    target_of,
)
from .secret import Chap, chap_of

RUN = "/run/splitmirror-nbd"
PROGRAM = "qemu-storage-daemon"
#: How many mirror sets of one array can be exported at once: each has a port of its own, from that of the portal on.
PORTS = 100
END_TIMEOUT_S = 20.0
_CREDENTIALS = "splitmirror"
#: QEMU's name for the file with the keys, and the user of ours; the session is in the folder's name.
_KEYS = "keys.psk"
_USER = "splitmirror"


@dataclass(frozen=True)
class Daemon:
    """A running storage daemon of ours. :param options: what follows each kind of option, in their order."""

    process: DaemonRecord
    options: dict[str, list[dict[str, Any]]]


class Side:
    """The daemons of one host, on one side of the transport. :param name: ``export`` or ``attach``."""

    def __init__(self, name: str) -> None:
        self._folder = os.path.join(RUN, name)
        self._is_client = name == "attach"

    def folder(self, target: str) -> str:
        """The folder of a mirror set."""
        return os.path.join(self._folder, label_of(target))

    def targets(self) -> list[str]:
        """The targets that have a folder."""
        try:
            names = [TARGET_PREFIX + name for name in sorted(os.listdir(self._folder))]
        except FileNotFoundError:
            return []
        return [name for name in names if session_of(name)]

    def daemon(self, target: str) -> Optional[Daemon]:
        """The daemon of a mirror set, or None."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            words = _words_of(pid)
            if words and os.path.basename(words[0]) == PROGRAM:
                options = _parse(words[1:])
                record = DaemonRecord.of(int(pid))
                if record and any(one.get("dir") == self.folder(target) for one in options.get("--object", [])):
                    return Daemon(record, options)
        return None

    def options(self, target: str, **kinds: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """The options of the daemon of a mirror set. :param kinds: those besides the credentials, in their order."""
        credentials = {"qom-type": "tls-creds-psk", "id": _CREDENTIALS, "dir": self.folder(target)}
        who = {"endpoint": "client", "username": _USER} if self._is_client else {"endpoint": "server"}
        return {
            "--object": [{**credentials, **who}],
            **{f"--{kind.replace('_', '-')}": values for kind, values in kinds.items()},
        }

    def has_key(self, target: str, secret: str) -> bool:
        """Whether the folder has the key of this secret."""
        with contextlib.suppress(FileNotFoundError), open(self._keys(target), encoding="ascii") as stream:
            return stream.read() == _key_line(secret)
        return False

    def make_folder(self, target: str, secret: str) -> str:
        """Make the folder of a mirror set with its key, and return its path."""
        for path in (RUN, self._folder, self.folder(target)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        replace_file(self._keys(target), _key_line(secret))
        return self.folder(target)

    def start(self, target: str, options: Mapping[str, list[dict[str, Any]]]) -> None:
        """Start the daemon of a mirror set; it serves when this returns. :raises ToolError: with its own words."""
        words = [word for kind, values in options.items() for one in values for word in (kind, json.dumps(one))]
        words += ["--daemonize", "--pidfile", os.path.join(self.folder(target), "pid")]
        done = run_program([PROGRAM, *words])
        if done.returncode:
            # It repeats the option at fault, which says nothing to a user.
            reason = done.stderr.rpartition("}: ")[2].strip() or f"exit code {done.returncode}"
            raise ToolError(f"{PROGRAM}: {reason}", done.returncode)

    def stop(self, target: str) -> None:
        """End the daemon of a mirror set, and remove its folder. Loop devices are gone by then."""
        daemon = self.daemon(target)
        if daemon is not None:
            terminate(daemon.process, END_TIMEOUT_S)
        folder = self.folder(target)
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            fuse.remove(os.path.join(folder, name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)

    def _keys(self, target: str) -> str:
        return os.path.join(self.folder(target), _KEYS)


# ---- on the media server ----


class NbdAttacher(Attacher):
    """A storage daemon for each mirror set, with a loop device over each file that it shows."""

    def preflight(self) -> str:
        """See Attacher."""
        _need_program()
        if not os.path.exists("/dev/fuse"):
            raise TransportError("/dev/fuse: it is missing; load the kernel module fuse.", code="host_unfit")
        return ""

    def wanted(self) -> list[Wanted]:
        """See Attacher."""
        self._portal_and_secret()
        luns = self._options.needed("luns", self._options.luns)
        return wanted_from_luns(self._session, luns, self._options.pairs)

    def look(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """See Attacher."""
        side = Side("attach")
        portal, secret = self._portal_and_secret()
        daemon = side.daemon(self._target)
        if daemon is None or daemon.options != self._daemon_options(side, wanted, portal):
            return {}
        if not side.has_key(self._target, secret):
            return {}
        loops = {one.name: fuse.loops_over(_file(side, self._target, one)) for one in wanted}
        return {name: found[0] for name, found in loops.items() if found}

    def attach(self, wanted: Sequence[Wanted]) -> Attached:
        """See Attacher."""
        before = self.look(wanted)
        if len(before) == len(wanted):
            return Attached(before, False)
        side = Side("attach")
        portal, secret = self._portal_and_secret()
        _let_go(side, self._target)
        side.make_folder(self._target, secret)
        try:
            for one in wanted:
                os.close(os.open(_file(side, self._target, one), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o400))
            try:
                side.start(self._target, self._daemon_options(side, wanted, portal))
            except ToolError as exc:
                raise TransportError(f"portal: the mirrors cannot be had from {portal} ({exc.message}).") from exc
            devices = {one.name: self._loop(side, one) for one in wanted}
        except SplitMirrorError:
            _let_go(side, self._target)
            raise
        return Attached(devices, True)

    def detach(self, *, dry_run: bool = False) -> list[str]:
        """See Attacher."""
        side = Side("attach")
        host = self._options.host
        targets = [one for one in side.targets() if is_meant(session_of(one), None if host else self._session, host)]
        for target in targets:
            _refuse_busy(side, target)
            if not dry_run:
                _let_go(side, target)
        return targets

    @property
    def _session(self) -> str:
        return str(self._options.needed("session", self._options.session))

    @property
    def _target(self) -> str:
        return target_of(self._session, self._options.needed("luns", self._options.luns))

    def _portal_and_secret(self) -> tuple[Portal, str]:
        """:raises TransportError: an option is missing or wrong."""
        portal = Portal.parse(self._options.needed("portal", self._options.portal))
        secret = self._options.needed("chap_secret", self._options.secret)
        return portal, chap_of(self._target, secret).secret

    def _daemon_options(self, side: Side, wanted: Sequence[Wanted], portal: Portal) -> dict[str, list[dict[str, Any]]]:
        nodes = [(f"d{one.lun}", one) for one in wanted]
        server = {"type": "inet", "host": portal.address, "port": str(portal.port)}
        disk = {"driver": "nbd", "server": server, "tls-creds": _CREDENTIALS, "read-only": True}
        return side.options(
            self._target,
            blockdev=[{**disk, "node-name": node, "export": one.serial} for node, one in nodes],
            export=[
                {
                    "type": "fuse",
                    "id": node,
                    "node-name": node,
                    "mountpoint": _file(side, self._target, one),
                    "writable": False,
                }
                for node, one in nodes
            ],
        )

    def _loop(self, side: Side, one: Wanted) -> str:
        path = _file(side, self._target, one)
        size_bytes = os.stat(path).st_size
        if one.size_bytes is not None and size_bytes != one.size_bytes:
            raise TransportError(
                f"pair {one.name}: its export has {size_bytes} bytes, and {one.size_bytes} on the array.",
                code="mirror_wrong",
            )
        return fuse.attach_loop(path)


def _file(side: Side, target: str, one: Wanted) -> str:
    """The file through which a mirror is shown."""
    return os.path.join(side.folder(target), one.serial)


def _loops(side: Side, target: str) -> list[tuple[str, str]]:
    """Each loop device of a mirror set, with its file."""
    folder = side.folder(target)
    files = [os.path.join(folder, name) for name in (os.listdir(folder) if os.path.isdir(folder) else [])]
    return [(loop, path) for path in files for loop in fuse.loops_over(path)]


def _refuse_busy(side: Side, target: str) -> None:
    for loop, _path in _loops(side, target):
        users = blockdev.busy_users(loop)
        if users:
            raise TransportError(
                f"session {session_of(target)}: its mirror {loop} is in use on the media server by {'; '.join(users)}; "
                "end that first.",
                code="mirror_in_use",
            )


def _let_go(side: Side, target: str) -> None:
    for loop, path in _loops(side, target):
        fuse.detach_loop(loop, path)
    side.stop(target)


# ---- on the array ----


class NbdExporter(Exporter):
    """A storage daemon for each mirror set, at the first free port from that of the portal on."""

    name = "nbd"
    knows_initiators = False

    def __init__(self) -> None:
        self._side = Side("export")

    def preflight(self, portal: Optional[Portal]) -> None:
        """See Exporter."""
        _need_program()
        if portal is not None:
            refuse_foreign_address(portal)
            next(_free_ports(portal))

    def find_exports(self) -> list[FoundExport]:
        """See Exporter."""
        found = []
        for target in self._side.targets():
            daemon = self._side.daemon(target)
            files = tuple(one["filename"] for one in daemon.options.get("--blockdev", [])) if daemon else ()
            found.append(FoundExport(session_of(target) or "", target, files))
        return found

    def luns(self, devices: Sequence[Device]) -> dict[str, Lun]:
        """See Exporter. The serial number is the name of the export, and there is no WWN but that."""
        return {device.name: Lun(number, device.serial, device.serial) for number, device in enumerate(devices)}

    def matches(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """See Exporter."""
        daemon = self._side.daemon(target)
        if daemon is None or not self._side.has_key(target, chap.secret):
            return False
        return daemon.options == self._options(target, devices, self.reached_at(target, portal))

    def make(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """See Exporter."""
        refuse_foreign_address(portal)
        self._side.make_folder(target, chap.secret)
        for free in _free_ports(portal):
            try:
                self._side.start(target, self._options(target, devices, free))
                return
            except ToolError as exc:
                if not is_taken(free):  # by somebody who came first
                    raise TransportError(f"portal: {free} cannot be served ({exc.message}).") from exc

    def remove(self, export: FoundExport) -> None:
        """See Exporter."""
        self._side.stop(export.target)

    def reached_at(self, target: str, portal: Portal) -> Portal:
        """See Exporter."""
        daemon = self._side.daemon(target)
        served = daemon.options["--nbd-server"] if daemon else []
        return replace(portal, port=int(served[0]["addr"]["port"])) if served else portal

    def _options(self, target: str, devices: Sequence[Device], portal: Portal) -> dict[str, list[dict[str, Any]]]:
        nodes = [(f"d{number}", device) for number, device in enumerate(devices)]
        address = {"type": "inet", "host": portal.address, "port": str(portal.port)}
        disk = {"driver": "host_device", "read-only": True, "cache": {"direct": True}}
        return self._side.options(
            target,
            blockdev=[{**disk, "node-name": node, "filename": device.path} for node, device in nodes],
            nbd_server=[{"addr": address, "tls-creds": _CREDENTIALS}],
            export=[
                {"type": "nbd", "id": node, "node-name": node, "name": device.serial, "writable": False}
                for node, device in nodes
            ],
        )


def _free_ports(portal: Portal) -> Iterator[Portal]:
    """The ports that nobody uses, from that of the portal on. :raises TransportError: there is none, or no more."""
    for port in range(portal.port, min(portal.port + PORTS, 1 << 16)):
        free = replace(portal, port=port)
        if not is_taken(free):
            yield free
    raise TransportError(
        f"portal: at {portal.address} no port from {portal.port} to {portal.port + PORTS - 1} is free; name another.",
        option="portal",
    )


# ---- both ----


def _need_program() -> None:
    if not shutil.which(PROGRAM, path=own_environment()["PATH"]):
        raise TransportError(
            f"{PROGRAM}: it is not installed; install qemu-utils, in Debian up to 12 qemu-system-common.",
            code="host_program",
        )


def _key_line(secret: str) -> str:
    return f"{_USER}:{hashlib.sha256(secret.encode()).hexdigest()}\n"


def _words_of(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            # Anybody may call a program of his as ours is called; it must not be taken for ours, nor hide it.
            is_ours = os.fstat(stream.fileno()).st_uid == os.geteuid()
            return stream.read().decode(errors="replace").split("\0") if is_ours else []
    except OSError:  # it ended
        return []


def _parse(words: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The options of a daemon of ours: JSON after each kind. Others may have anything."""
    options: dict[str, list[dict[str, Any]]] = {}
    for kind, text in zip(words, words[1:]):
        if kind.startswith("--") and text.startswith("{"):
            with contextlib.suppress(ValueError):
                options.setdefault(kind, []).append(json.loads(text))
    return options
