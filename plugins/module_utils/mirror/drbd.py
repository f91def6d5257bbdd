# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``drbd``: a LUN is a volume of a DRBD resource, the mirror the Secondary's disk of it on this host.

``primary`` is the resource, or ``RESOURCE/VOLUME``, and ``mirror`` its lower device on this host. The split disconnects
the resource, the resync connects it again, and DRBD copies what has changed. The data of a volume begins at the start
of its lower device, also with internal metadata, and can be read there while DRBD has the device attached.

Two things could make a disconnected leg something else than the primary at that instant:

- The connection was lost before the split, and this host has not noticed. Disconnecting an intact connection needs the
  consent of the peer; the events of the resource show whether it was intact (``Connected`` to ``Disconnecting``).
- Somebody promotes the leg while it is split. After the split it is therefore marked as outdated, so that only force
  can promote it, and DRBD gives it a new generation then.

DRBD cannot store a mark of the session. A resource that is disconnected and has no record is left alone.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..host.blockdev import drop_cache, sector_bytes
from ..host.files import remove_partials, replace_file
from ..host.tools import start_program
from ..session import StateDir
from . import loop
from .base import MirrorError, Pair
from .host import leg_number, run_tool
from .raid import IN, OUT, PairView, RaidProvider

_RESOURCE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:/(\d+))?")
#: How long DRBD may take to report what it has done.
_EVENT_TIMEOUT_S = 10.0
_Fields = dict[str, str]


@dataclass
class Report:
    """What ``drbdsetup events2`` has reported, see drbdsetup(8).

    :ivar found: the fields of each object; its key is its kind (``resource``, ``connection``, ``device``,
        ``peer-device``), the resource, and for the others the peer and the volume.
    """

    found: dict[tuple[str, ...], _Fields] = field(default_factory=dict)

    def read(self, line: str) -> tuple[str, _Fields]:
        """Take one line; return its kind and its fields. Both are empty if it is about something else."""
        verb, _space, rest = line.strip().partition(" ")
        kind, *words = rest.split(" ")
        fields = dict(word.split(":", 1) for word in words if ":" in word)
        if verb not in ("exists", "create", "change", "destroy") or "name" not in fields:
            return "", {}
        key = (kind, fields["name"], fields.get("peer-node-id", ""), fields.get("volume", ""))
        if verb == "destroy":
            self.found.pop(key, None)
        else:
            self.found.setdefault(key, {}).update(fields)
        return kind, fields

    def of(self, kind: str, resource: str, volume: Optional[str] = None) -> list[_Fields]:
        """The objects of a kind that belong to a resource, and to one volume of it."""
        return [
            fields
            for (its_kind, its_resource, _peer, its_volume), fields in self.found.items()
            if (its_kind, its_resource) == (kind, resource) and volume in (None, its_volume)
        ]

    def connection(self, resource: str) -> str:
        """``StandAlone`` if the resource has no peer to connect to; else the worst state of its connections."""
        states = [fields["connection"] for fields in self.of("connection", resource)]
        return next((state for state in states if state != "Connected"), states[0] if states else "StandAlone")

    def why_not_whole(self, resource: str, volume: Optional[str] = None) -> Optional[str]:
        """Why the disk of this host is not a copy of its peer's now; None if it is."""
        connection = self.connection(resource)
        if connection != "Connected":
            return f"is not connected to its peer ({connection})"
        for fields in self.of("peer-device", resource, volume):
            if fields["replication"] != "Established":
                return f"is not in sync yet ({fields['replication']})"
            if fields["peer-disk"] != "UpToDate":
                return f"has a peer whose disk is {fields['peer-disk']}"
        for fields in self.of("device", resource, volume):
            if fields["disk"] != "UpToDate":
                return f"has a disk on this host that is {fields['disk']}"
        return None


class Watch:
    """The events of one resource from now on. :ivar report: what is known so far."""

    def __init__(self, resource: str) -> None:
        self.report = Report()
        self._buffer = b""
        self._process = start_program(
            ["drbdsetup", "events2", resource],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _EVENT_TIMEOUT_S
        while True:
            line = self._line(deadline)
            if line is None:
                self.close()
                raise MirrorError(f"drbdsetup events2 {resource}: it does not report; see the kernel's log.")
            if line.split() == ["exists", "-"]:
                return
            self.report.read(line)

    def catch_up(self) -> None:
        """Take what has been reported meanwhile."""
        while (line := self._line(0.0)) is not None:
            self.report.read(line)

    def next_connection_state(self) -> str:
        """Wait for the next change of a connection's state, and return it; empty if there is none in time."""
        deadline = time.monotonic() + _EVENT_TIMEOUT_S
        while (line := self._line(deadline)) is not None:
            kind, fields = self.report.read(line)
            if kind == "connection" and "connection" in fields:
                return fields["connection"]
        return ""

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()

    def _line(self, deadline: float) -> Optional[str]:
        """The next line, waited for until the deadline (monotonic time); None if there is none."""
        output = self._process.stdout
        if output is None:
            return None
        while b"\n" not in self._buffer:
            wait_s = max(0.0, deadline - time.monotonic())
            if not select.select([output], [], [], wait_s)[0]:
                return None
            data = os.read(output.fileno(), 65536)
            if not data:
                return None
            self._buffer += data
        line, _newline, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")


class DrbdProvider(RaidProvider):
    """Mirrors as disks of Secondaries of DRBD on this host."""

    name = "drbd"

    def __init__(self, pairs: Sequence[Pair], state_dir: StateDir, options: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(pairs, state_dir, options)
        self._watches: dict[str, Watch] = {}
        #: How each resource is disconnected, one command for each peer.
        self._commands: dict[str, list[list[str]]] = {}
        for pair in pairs:
            if not _RESOURCE.fullmatch(pair.primary):
                raise MirrorError(
                    f"pairs: the primary of pair {pair.name} is {pair.primary!r}; provider drbd needs the name of a "
                    "resource, or RESOURCE/VOLUME.",
                    option="pairs",
                    code="option_invalid",
                )
            if not pair.mirror.startswith("/dev/"):
                raise MirrorError(
                    f"pairs: the mirror of pair {pair.name} is {pair.mirror!r}; provider drbd needs a path under /dev, "
                    "that of the lower device.",
                    option="pairs",
                    code="option_invalid",
                )

    def look(self, pairs: Sequence[Pair]) -> list[PairView]:
        """See RaidProvider."""
        report = read_report()
        shown = {
            resource: run_tool("drbdsetup", "show", "--show-defaults", resource)
            for resource in {resource_of(pair) for pair in pairs}
            if report.of("resource", resource)
        }
        return [view_of(pair, report, shown.get(resource_of(pair), "")) for pair in pairs]

    def mark(self, pair: Pair, session: str) -> None:
        """See RaidProvider. Not on the array: the generation of the leg, to know it again."""
        replace_file(self.state_dir.leg_file(session, pair.name), json.dumps({"generation": generation_of(pair)}))

    def prepare_to_take_out(self, pairs: Sequence[Pair]) -> None:
        """See RaidProvider. What takes time in drbdadm, which reads its configuration, and the events from now on."""
        for resource in dict.fromkeys(resource_of(pair) for pair in pairs):
            lines = run_tool("drbdadm", "--dry-run", "disconnect", resource).splitlines()
            # The program itself knows which of its versions the kernel needs.
            self._commands[resource] = [["drbdsetup", *shlex.split(line)[1:]] for line in lines if line.strip()]
            self._watches[resource] = Watch(resource)

    def unmark(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        self._stop_watching(resource_of(pair))
        path = self.state_dir.leg_file(session, pair.name)
        if os.path.exists(path):
            os.unlink(path)
        remove_partials(path)

    def take_out(self, pair: Pair, session: str) -> None:
        """See RaidProvider. All volumes of a resource go together."""
        resource = resource_of(pair)
        watch = self._watches.get(resource)
        if watch is None:
            return  # with another volume
        watch.catch_up()
        problem = watch.report.why_not_whole(resource)
        if problem is None:
            for command in self._commands[resource]:
                run_tool(*command)
            state = watch.next_connection_state()
            if state != "Disconnecting":
                problem = f"lost the connection to its peer before it was split ({state or 'nothing was reported'})"
        self._stop_watching(resource)
        if problem is not None:
            raise MirrorError(f"pair {pair.name}: {resource} {problem}.", code="not_in_sync")

    def protect(self, pairs: Sequence[Pair]) -> None:
        """See RaidProvider. An outdated leg cannot be promoted except by force."""
        for resource in dict.fromkeys(resource_of(pair) for pair in pairs):
            run_tool("drbdadm", "outdate", resource)

    def refuse_changed(self, pair: Pair, session: str) -> None:
        """See RaidProvider. A leg that was promoted may have taken writes."""
        try:
            with open(self.state_dir.leg_file(session, pair.name), encoding="ascii") as note:
                before = json.load(note)["generation"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return  # DRBD itself compares generations when it connects
        if generation_of(pair) != before:
            raise MirrorError(
                f"pair {pair.name}: {pair.primary} was promoted on this host while it was split, so it may have "
                f"changed; throw these changes away: drbdadm secondary {resource_of(pair)}, then drbdadm connect "
                f"--discard-my-data {resource_of(pair)}.",
            )

    def put_back(self, pair: Pair, session: str) -> None:
        """See RaidProvider."""
        resource = resource_of(pair)
        together = [other for other in self.pairs if resource_of(other) == resource]
        for other in together:
            self.refuse_changed(other, session)
        if read_report().connection(resource) == "StandAlone":  # else with another volume
            run_tool("drbdadm", "connect", resource)

    def make_readable(self, pair: Pair) -> str:
        """See RaidProvider."""
        device = _device(pair, read_report())
        # DRBD writes past the page cache of the lower device.
        drop_cache(pair.mirror)
        size_bytes = int(device["size"]) * 1024
        return loop.attach(
            os.path.realpath(pair.mirror), sector_bytes(f"/dev/drbd{device['minor']}"), size_bytes=size_bytes
        )

    def make_unreadable(self, pair: Pair) -> None:
        """See RaidProvider."""
        for device in loop.loops_of(pair.mirror):
            loop.detach(device.path, pair.mirror)

    def leg_device(self, pair: Pair) -> str:
        """See RaidProvider."""
        return leg_number(pair)

    def _stop_watching(self, resource: str) -> None:
        watch = self._watches.pop(resource, None)
        if watch is not None:
            watch.close()


def resource_of(pair: Pair) -> str:
    """The resource of a pair."""
    return pair.primary.partition("/")[0]


def volume_of(pair: Pair) -> str:
    """The number of the volume of a pair."""
    return pair.primary.partition("/")[2] or "0"


def read_report() -> Report:
    """What DRBD reports on all resources of this host."""
    report = Report()
    for line in run_tool("drbdsetup", "events2", "--now", "--statistics", "all").splitlines():
        report.read(line)
    return report


def generation_of(pair: Pair) -> str:
    """The identifier of the current generation of a leg, without the bit that is set in that of a Primary."""
    line = run_tool("drbdadm", "get-gi", f"{resource_of(pair)}/{volume_of(pair)}").split(":")[0]
    try:
        return f"{int(line, 16) & ~1:016X}"
    except ValueError as exc:
        raise MirrorError(f"pair {pair.name}: drbdadm get-gi reports no generation of {pair.primary}: {line}") from exc


def _device(pair: Pair, report: Report) -> _Fields:
    return next(iter(report.of("device", resource_of(pair), volume_of(pair))), {})


def view_of(pair: Pair, report: Report, shown: str) -> PairView:
    """What DRBD reports about a pair. :param shown: what ``drbdsetup show`` prints about its resource."""
    resource, volume = resource_of(pair), volume_of(pair)
    broken = _why_broken(pair, report, shown)
    device = _device(pair, report)
    if not device:
        return PairView(broken=broken)
    size_bytes = int(device["size"]) * 1024
    if report.connection(resource) == "StandAlone":
        presented = [one.path for one in loop.loops_of(pair.mirror) if one.read_only]
        return PairView(
            size_bytes,
            broken=broken,
            leg=OUT,
            devices=tuple(presented),
            presented=presented[0] if presented else None,
        )
    problem = report.why_not_whole(resource, volume)
    percent = 100.0 if problem is None else None
    peers = report.of("peer-device", resource, volume)
    if problem is not None and report.connection(resource) == "Connected" and peers and size_bytes:
        percent = 100.0 - 100.0 * int(peers[0].get("out-of-sync", 0)) * 1024 / size_bytes
    syncing = None if problem is None else f"pair {pair.name}: {pair.primary} {problem}."
    return PairView(size_bytes, percent, broken, syncing, IN)


def _why_broken(pair: Pair, report: Report, shown: str) -> Optional[str]:
    """Why this pair cannot be split until somebody changes something."""
    resource, volume = resource_of(pair), volume_of(pair)
    who = f"pair {pair.name}: {pair.primary}"
    if not _device(pair, report):
        return f"{who} is not a running DRBD resource of this host, or has no volume {volume} (drbdadm up {resource})."
    if report.of("resource", resource)[0]["role"] == "Primary":
        return f"{who} is Primary on this host; the array is the host that has the Secondary."
    lower = re.search(rf'\bvolume\s+{volume}\s*\{{[^{{}}]*?\bdisk\s+"([^"]+)"', shown)
    if lower is None or os.path.realpath(lower[1]) != os.path.realpath(pair.mirror):
        return f"{who} has the lower device {lower[1] if lower else 'none'}, not {pair.mirror}; name that as mirror."
    protocols = set(re.findall(r"\bprotocol\s+([ABC])\b", shown)) - {"C"}
    if protocols:
        return (
            f"{who} uses protocol {protocols.pop()}, with which the Secondary may lack writes that the Primary has "
            "completed; use protocol C."
        )
    return None
