# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The media server's side of a transport: find each mirror by what it says of itself, and let go of it again."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Optional

from ..host import blockdev
from ..host.tools import ToolError, run_tool
from ..session import is_of_host
from . import initiator
from .base import Attached, Attacher, Wanted
from .disks import Disk, all_disks, check_size, foreign_holders, read_disk, stable_name
from .keep_away import keep_away, let_in
from .names import Portal, TransportError, serial_of, session_of, target_of
from .secret import Chap, chap_of

#: How long the LUNs of a session may take to appear.
FIND_TIMEOUT_S = 30.0
_POLL_S = 0.2
_WWN = re.compile("[0-9a-f]{16}|[0-9a-f]{32}")
# What a SCSI host of this kernel takes at most (SAM, 14 bits of flat addressing).
_MOST_LUNS = 1 << 14


class IscsiAttacher(Attacher):
    """A mirror set's own target. It needs session, portal, secret and LUNs to attach, session or host to detach."""

    def preflight(self) -> str:
        """See Attacher."""
        initiator.preflight()
        return initiator.initiator_name()

    def wanted(self) -> list[Wanted]:
        """See Attacher."""
        self._login()
        luns = self._options.needed("luns", self._options.luns)
        return wanted_from_luns(self._session_id, luns, self._options.pairs)

    def look(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """See Attacher."""
        found = self._session()
        if found is None or not found.logged_in:
            return {}
        devices = {}
        for one, disk in self._disks(found, wanted).items():
            with contextlib.suppress(TransportError):
                devices[one] = stable_name([disk], timeout_s=0)
        return devices

    def attach(self, wanted: Sequence[Wanted]) -> Attached:
        """See Attacher."""
        before = self._session()
        if before is not None and not before.logged_in:
            # What is left of an array that went away and came back.
            detach_target(self._target)
            before = None
        keep_away(wanted)
        found = before or initiator.log_in(self._target, *self._login())
        disks = self._wait(found, wanted)
        for one in wanted:
            check_size(one.name, disks[one.name], one.size_bytes)
        devices = {one.name: stable_name([disks[one.name]]) for one in wanted}
        for disk in disks.values():
            make_read_only(disk)
        return Attached(devices, before is None)

    def detach(self, *, dry_run: bool = False) -> list[str]:
        """See Attacher."""
        host = self._options.host
        targets = attached_targets(None if host else self._session_id, host)
        for target in targets:
            (refuse_busy_target if dry_run else detach_target)(target)
        return targets

    def _login(self) -> tuple[Portal, Chap]:
        """Where the target is, and the account. :raises TransportError: an option is missing or wrong."""
        portal = Portal.parse(self._options.needed("portal", self._options.portal))
        return portal, chap_of(self._target, self._options.needed("chap_secret", self._options.secret))

    @property
    def _session_id(self) -> str:
        return str(self._options.needed("session", self._options.session))

    @property
    def _target(self) -> str:
        return target_of(self._session_id, self._options.needed("luns", self._options.luns))

    def _session(self) -> Optional[initiator.Session]:
        return next((one for one in initiator.sessions() if one.target == self._target), None)

    def _wait(self, session: initiator.Session, wanted: Sequence[Wanted]) -> dict[str, Disk]:
        deadline = time.monotonic() + FIND_TIMEOUT_S
        scanned = time.monotonic()
        while True:
            disks = self._disks(session, wanted)
            missing = [one for one in wanted if one.name not in disks]
            if not missing:
                return disks
            if time.monotonic() > deadline:
                raise TransportError(
                    f"pair {missing[0].name}: target {self._target} does not show the media server LUN "
                    f"{missing[0].lun} with serial {missing[0].serial}.",
                    code="mirror_wrong",
                )
            if time.monotonic() > scanned + FIND_TIMEOUT_S / 4:
                initiator.rescan_session(session)
                scanned = time.monotonic()
            time.sleep(_POLL_S)

    def _disks(self, session: initiator.Session, wanted: Sequence[Wanted]) -> dict[str, Disk]:
        """Those that are there; one with another name than its LUN should have is refused."""
        names = initiator.disks_of(session)
        found = {}
        for one in wanted:
            disk = read_disk(names[one.lun]) if one.lun in names else None
            if disk is None:
                continue
            if not disk.is_called(one.serial) or (one.wwn and not disk.is_called(one.wwn)):
                raise TransportError(
                    f"pair {one.name}: LUN {one.lun} of {self._target} has serial {disk.serial or 'none'} and WWN "
                    f"{', '.join(disk.wwns) or 'none'} instead of {one.serial} and {one.wwn}; it is not this session's "
                    "mirror.",
                    code="mirror_wrong",
                )
            found[one.name] = disk
        return found


class StaticAttacher(Attacher):
    """LUNs that the array shows this host once and for all. They are known by ``mirror_serial`` of the pair."""

    #: What to do about a LUN that is not there, for messages.
    hint: ClassVar[str] = "mask it to this host, or give mirror_serial as lsblk -o NAME,SERIAL,WWN shows it here"

    def preflight(self) -> str:
        """See Attacher."""
        self.wanted()
        return ""

    def wanted(self) -> list[Wanted]:
        """See Attacher."""
        return wanted_from_pairs(self._options.pairs or [])

    def look(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """See Attacher."""
        disks = all_disks()
        devices = {}
        for one in wanted:
            with contextlib.suppress(TransportError):
                devices[one.name] = stable_name(self._paths_to(one, disks), timeout_s=0)
        return devices

    def attach(self, wanted: Sequence[Wanted]) -> Attached:
        """See Attacher. What the LUN holds has changed since the session before, and so may its size."""
        keep_away(wanted)
        for disk in [disk for one in wanted for disk in paths_among(one, all_disks())]:
            _tell(f"/sys/class/block/{disk.name}/device/rescan", "1")
        if _missing(wanted):
            scan_paths()
        if _missing(wanted):
            # Another LUN may have been shown under this number, whose identity the kernel remembers.
            for disk in all_disks():
                _tell(f"/sys/class/block/{disk.name}/device/rescan", "1")
        devices = {}
        changed = False
        deadline = time.monotonic() + FIND_TIMEOUT_S
        for one in wanted:
            while _missing([one]) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            paths = self._paths_to(one, all_disks())
            devices[one.name] = stable_name(paths)
            for disk in paths:
                check_size(one.name, disk, one.size_bytes)
                changed = make_read_only(disk) or changed
        return Attached(devices, changed)

    def detach(self, *, dry_run: bool = False) -> list[str]:
        """See Attacher."""
        let_go_of_luns(self.wanted(), change=not dry_run)
        return []

    def _paths_to(self, one: Wanted, disks: Sequence[Disk]) -> list[Disk]:
        """All disks that are paths to this LUN. :raises TransportError: there is none."""
        paths = paths_among(one, disks)
        if not paths:
            raise TransportError(
                f"pairs: pair {one.name}: the media server sees no LUN with the serial number or WWN {one.serial}; "
                f"{self.hint}.",
                option="pairs",
                code="mirror_wrong",
            )
        return paths


def paths_among(one: Wanted, disks: Sequence[Disk]) -> list[Disk]:
    """Those of the disks that are paths to this LUN."""
    return [disk for disk in disks if disk.is_called(one.serial) and (not one.wwn or disk.is_called(one.wwn))]


def _missing(wanted: Sequence[Wanted]) -> bool:
    """Whether this host has no path to one of these LUNs."""
    disks = all_disks()
    return not all(paths_among(one, disks) for one in wanted)


def scan_paths() -> None:
    """Let the kernel look for LUNs that have been shown to this host since: iSCSI, Fibre Channel, SAS, NVMe."""
    for path in glob.glob("/sys/class/scsi_host/host*/scan"):
        _tell(path, "- - -")
    for path in glob.glob("/sys/class/nvme/nvme*/rescan_controller"):
        _tell(path, "1")


def wanted_from_pairs(pairs: Sequence[Mapping[str, Optional[str]]]) -> list[Wanted]:
    """What transport static looks for.

    :raises TransportError: a pair has no mirror_serial, or two have the same.
    """
    wanted: list[Wanted] = []
    for pair in pairs:
        serial = pair.get("mirror_serial")
        if not serial:
            raise TransportError(
                f"pairs: pair {pair['name']} has no mirror_serial, by which transport static finds its mirror.",
                option="pairs",
                code="option_invalid",
            )
        if any(one.serial == serial for one in wanted):
            raise TransportError(
                f"pairs: two pairs have the mirror_serial {serial}.", option="pairs", code="option_invalid"
            )
        wanted.append(Wanted(str(pair["name"]), serial))
    return wanted


def wanted_from_luns(
    session: str, luns: Mapping[str, Any], pairs: Optional[Sequence[Mapping[str, Any]]] = None
) -> list[Wanted]:
    """What is looked for in a session's target: what the array says of it, as far as that can be.

    :param luns: as mirror_present returned them. :param pairs: the mirror set they must be of, None for any.
    :raises TransportError: they are of another session or other pairs, or something in them has a wrong type.
    """
    if pairs is not None and set(luns) != {pair["name"] for pair in pairs}:
        raise TransportError(
            f"luns: the array presents {', '.join(map(str, luns)) or 'nothing'}, and the pairs are "
            f"{', '.join(pair['name'] for pair in pairs)}; present these.",
            option="luns",
            code="option_invalid",
        )
    wanted = []
    for name, lun in luns.items():
        try:
            one = Wanted(name, lun["serial"], int(lun["lun"]), lun["wwn"], int(lun["size_bytes"]))
            proper = _WWN.fullmatch(one.wwn) is not None and 0 <= one.lun < _MOST_LUNS and (one.size_bytes or 0) > 0
        except (KeyError, TypeError, ValueError, OverflowError):
            proper = False
        if not proper or one.serial != serial_of(session, name):
            raise TransportError(
                f"luns: pair {name} is not a LUN of session {session}; give luns as mirror_present returned them.",
                option="luns",
                code="option_invalid",
            )
        wanted.append(one)
    return wanted


def make_read_only(disk: Disk) -> bool:
    """Let the disk and what lies over its paths refuse writes, and forget what is cached; return whether it was new."""
    changed = False
    disk = read_disk(disk.name) or disk  # multipathd may have laid its device over it meanwhile
    for device in dict.fromkeys((f"/dev/{disk.name}", disk.top)):
        status = os.stat(device)
        if not blockdev.is_read_only(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"):
            blockdev.set_read_only(device, True)
            changed = True
        blockdev.drop_cache(device)
    return changed


# ---- letting go ----


def attached_targets(session: Optional[str] = None, host: Optional[str] = None) -> list[str]:
    """The targets of ours that this host is logged in to, or has a record of.

    :param session: only that of this session. :param host: only those of sessions of this database host.
    """
    names = [one.target for one in initiator.sessions()] + initiator.known_targets()
    return [name for name in dict.fromkeys(names) if is_meant(session_of(name), session, host)]


def is_meant(found: Optional[str], session: Optional[str], host: Optional[str]) -> bool:
    """Whether what belongs to session ``found``, if to any, is of this session, or of a session of this host."""
    if found is None:
        return False
    if session is not None:
        return found == session
    return host is not None and is_of_host(found, host)


def refuse_busy_target(target: str) -> None:
    """Refuse to let go of mirrors that are being read. :raises TransportError: one is."""
    for session in [one for one in initiator.sessions() if one.target == target]:
        for name in initiator.disks_of(session).values():
            disk = read_disk(name)
            if disk is not None:
                _refuse_busy(disk, answers=session.logged_in)


def detach_target(target: str) -> None:
    """Log out of a target and forget it.

    :raises SplitMirrorError: a disk of it is in use, or its session stays.
    """
    _settle()
    refuse_busy_target(target)
    serials: list[str] = []
    for session in [one for one in initiator.sessions() if one.target == target]:
        for name in initiator.disks_of(session).values():
            disk = read_disk(name)
            if disk is not None and disk.multipath:
                flush_multipath(disk)
            if session.logged_in:
                blockdev.drop_cache(f"/dev/{name}")
            serials += [disk.serial] if disk is not None else []
    initiator.log_out(target)
    let_in(serials)


def _settle() -> None:
    """Let udev finish with the disks, so that it is not taken for somebody who reads them."""
    with contextlib.suppress(ToolError):
        run_tool("udevadm", "settle", "--timeout=10")


def let_go_of_luns(wanted: Sequence[Wanted], change: bool) -> None:
    """Make sure that no process reads these LUNs, and drop their caches.

    :param change: False only looks.
    :raises SplitMirrorError: one is in use.
    """
    _settle()
    disks = all_disks()
    found = [disk for one in wanted for disk in paths_among(one, disks)]
    for disk in found:
        _refuse_busy(disk, answers=True)
    for disk in found if change else []:
        for device in dict.fromkeys((disk.top, f"/dev/{disk.name}")):
            blockdev.drop_cache(device)


def _refuse_busy(disk: Disk, answers: bool) -> None:
    """:param answers: the disk answers; one that does not is not opened, because that would hang."""
    holders = foreign_holders(disk)
    users = [f"the device {', '.join(holders)} over it"] if holders else []
    users = users or (blockdev.busy_users(disk.top) if answers else _users_of_dead(disk))
    if users:
        raise TransportError(
            f"the mirror with serial {disk.serial} is in use on the media server by {'; '.join(users)}; end that "
            "first.",
            code="mirror_in_use",
        )


def _users_of_dead(disk: Disk) -> list[str]:
    """Who has a disk open that does not answer. Who waits for it gets an error when the replacement timeout is over."""
    deadline = time.monotonic() + initiator.REPLACEMENT_TIMEOUT_S + blockdev.SETTLE_S
    while True:
        users = blockdev.processes_with(disk.top)
        if not users or time.monotonic() > deadline:
            return users
        time.sleep(_POLL_S)


def flush_multipath(disk: Disk) -> None:
    """Remove the multipath device over a disk. :raises TransportError: it stays."""
    try:
        run_tool("multipath", "-f", f"/dev/{disk.multipath}")
    except ToolError as exc:
        raise TransportError(exc.message) from exc


def _tell(path: str, word: str) -> None:
    """Write to an attribute in sysfs that not every disk has."""
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as stream:
        stream.write(word)
