# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport ``tgt``: iSCSI by the daemon tgtd, through tgtadm(8) and, for the secret, through the socket behind it.

tgtd lets in who comes from an address on the target's list and knows the secret of the mirror set (CHAP), and proves by
another secret who it is. Others find no target, discovery included. It has a list of names too; but who is on either
one gets in (seen with 1.0.85), so names would add a way in and close none. Its portals are for all of its targets, so
ours is only checked. LUN 0 is tgtd's own; ours begin at 1.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

from ..host.blockdev import sector_bytes
from ..host.tools import ToolError, run_tool
from .base import Device, Exporter, FoundExport, Initiator, Lun
from .names import Portal, TransportError, refuse_foreign_address, session_of
from .secret import Chap, user_prefix

_FIRST_LUN = 1
#: What tgt puts in front of the 16 digits of a unit's identifier to make its WWN of NAA type 6 (seen with 1.0.85).
_WWN_PREFIX = "6000000000000000"
_ID_DIGITS = 16
#: How long commands of initiators that are sent away may take.
_CLOSE_S = 120.0
_POLL_S = 0.1
#: Where tgtd takes what tgtadm asks for; ``.0`` is added for its first control port.
_SOCKET = "/var/run/tgtd/socket"
# struct tgtadm_req: mode, op, lld, len, tid, sid, lun, cid, host_no, device_type, ac_dir, pack, force; struct
# tgtadm_rsp: err, len (usr/tgtadm.h in the source of tgt; as tgtadm 1.0.85 sends them).
_REQUEST = struct.Struct("=ii64sIiQQIIIIII")
_RESPONSE = struct.Struct("=II")
#: What tgtadm adds to the name of the account by which a target proves who it is.
_OUTGOING = " (outgoing)"
_MODE_ACCOUNT, _OP_NEW, _NO_LUN = 7, 0, (1 << 64) - 1


@dataclass
class _Target:
    """A target as tgtadm shows it. :ivar units: number, type, serial number, backing store, read-only."""

    tid: str
    name: str
    units: list[dict[str, str]] = field(default_factory=list)
    nexuses: list[tuple[str, str]] = field(default_factory=list)
    initiators: list[str] = field(default_factory=list)
    acl: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)


class TgtExporter(Exporter):
    """Targets of the tgtd that runs on this host."""

    name = "tgt"

    def preflight(self, portal: Optional[Portal]) -> None:
        """See Exporter."""
        shown = _show("portal")
        if portal is None:
            return
        refuse_foreign_address(portal)
        served = [_read_portal(line) for line in re.findall(r"^Portal: (\S+),\d+$", shown, re.MULTILINE)]
        if not any(_leads_to(address, port, portal) for address, port in served):
            known = ", ".join(f"{address} port {port}" for address, port in served) or "nowhere"
            raise TransportError(
                f"portal: tgtd does not answer at {portal} but at {known}; start it with --iscsi portal={portal}.",
                option="portal",
                code="host_program",
            )

    def find_exports(self) -> list[FoundExport]:
        """See Exporter."""
        try:
            targets = read_targets(_show("target"))
        except TransportError:  # no tgtd: what is not there exports nothing
            return []
        found = []
        for target in targets:
            session = session_of(target.name)
            if session is not None:
                devices = tuple(unit["Backing store path"] for unit in _disks(target))
                found.append(FoundExport(session, target.name, devices, tuple(target.initiators)))
        return found

    def luns(self, devices: Sequence[Device]) -> dict[str, Lun]:
        """See Exporter."""
        return {
            device.name: Lun(number, device.serial, _WWN_PREFIX + device.serial[:_ID_DIGITS])
            for number, device in enumerate(devices, start=_FIRST_LUN)
        }

    def matches(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """See Exporter."""
        found = _find(target)
        accounts = {chap.user, f"{chap.target_user}{_OUTGOING}"}
        if found is None or found.acl != [initiator.address] or set(found.accounts) != accounts:
            return False
        keys = ("LUN", "SCSI SN", "Backing store path", "Readonly", "Online")
        return [tuple(unit.get(key) for key in keys) for unit in _disks(found)] == [
            (str(number), device.serial, os.path.realpath(device.path), "Yes", "Yes")
            for number, device in enumerate(devices, start=_FIRST_LUN)
        ]

    def make(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """See Exporter. The list of who may come in is made last, when all is read-only and asks for the secret."""
        self.preflight(portal)
        self._remove_accounts(target)
        used = {int(target.tid) for target in read_targets(_show("target"))}
        tid = f"--tid={next(number for number in range(1, len(used) + 2) if number not in used)}"
        _admin("new", "target", tid, f"--targetname={target}")
        for user, secret, direction in (
            (chap.user, chap.secret, ()),
            (chap.target_user, chap.target_secret, ("--outgoing",)),
        ):
            add_account(user, secret)
            _admin("bind", "account", tid, f"--user={user}", *direction)
        for number, device in enumerate(devices, start=_FIRST_LUN):
            where = (tid, f"--lun={number}")
            # Direct: what tgtd's host caches of a mirror may be of the split before. It opens a device that takes no
            # writes read-only.
            options = ("--bstype=rdwr", "--bsoflags=direct", f"--blocksize={sector_bytes(device.path)}")
            _admin("new", "logicalunit", *where, *options, f"--backing-store={os.path.realpath(device.path)}")
            names = f"scsi_sn={device.serial},scsi_id={device.serial[:_ID_DIGITS]}"
            _admin("update", "logicalunit", *where, f"--params={names},readonly=1")
        _admin("bind", "target", tid, f"--initiator-address={initiator.address}")

    def remove(self, export: FoundExport) -> None:
        """See Exporter."""
        target = _find(export.target)
        if target is None:
            return
        # First keep initiators from logging in again, then log them out.
        for entry in target.acl:
            kind = "address" if _is_address(entry) else "name"
            _admin("unbind", "target", f"--tid={target.tid}", f"--initiator-{kind}={entry}")
        deadline = time.monotonic() + _CLOSE_S
        while True:
            try:
                _admin("delete", "target", f"--tid={target.tid}", "--force")
                break
            except TransportError as exc:
                # A connection with a command under way is closed when that is done, and not at once.
                if "still active" not in exc.message or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)
        if _find(export.target) is not None:
            raise TransportError(f"target {export.target}: tgtd does not delete it; see tgtadm --op show.")
        self._remove_accounts(export.target)

    @staticmethod
    def _remove_accounts(target: str) -> None:
        for user in read_accounts(_show("account")):
            if user.startswith(user_prefix(target)):
                _admin("delete", "account", f"--user={user}")


def read_targets(shown: str) -> list[_Target]:
    """Read what ``tgtadm --op show --mode target`` prints."""
    targets: list[_Target] = []
    section = ""
    for indent, key, value in _lines(shown):
        if indent == 0:
            found = re.fullmatch(r"Target (\d+)", key)
            if found:
                targets.append(_Target(found[1], value))
        elif indent == 4:
            section = key
        elif section == "I_T nexus information" and key == "Initiator":
            targets[-1].initiators.append(value.split(" alias:")[0].strip())
        elif section == "LUN information":
            if key == "LUN":
                targets[-1].units.append({})
            targets[-1].units[-1][key] = value
        elif section == "Account information":
            targets[-1].accounts.append(f"{key}:{value.strip()}" if value else key)
        elif section == "ACL information":
            targets[-1].acl.append(f"{key}:{value.strip()}" if value else key)
    return targets


def read_accounts(shown: str) -> list[str]:
    """Read what ``tgtadm --op show --mode account`` prints."""
    return [line.strip() for line in shown.splitlines() if line.startswith(" ") and line.strip()]


def add_account(user: str, secret: str) -> None:
    """Tell tgtd of an account as tgtadm would, which takes the secret as an argument that all users see.

    :raises TransportError: tgtd does not take it.
    """
    parameters = f"user={user},password={secret}".encode() + b"\0"
    length = _REQUEST.size + len(parameters)
    request = _REQUEST.pack(_MODE_ACCOUNT, _OP_NEW, b"iscsi", length, -1, 0, _NO_LUN, 0, 0, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.connect(f"{os.environ.get('TGT_IPC_SOCKET', _SOCKET)}.0")
            line.sendall(request + parameters)
            answer = line.recv(_RESPONSE.size, socket.MSG_WAITALL)
    except OSError as exc:
        raise TransportError(
            "transport: tgtd does not run on the array; start it.", option="transport", code="host_program"
        ) from exc
    error = _RESPONSE.unpack(answer)[0] if len(answer) == _RESPONSE.size else "none"
    if error:
        raise TransportError(f"transport: tgtd refuses the account of user {user} (answer {error}).", "transport")


def _lines(shown: str) -> Iterator[tuple[int, str, str]]:
    for line in shown.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        key, separator, value = text.partition(": ") if ": " in text else (text.rstrip(":"), "", "")
        if text:
            yield indent, key, value if separator else ""


def _disks(target: _Target) -> list[dict[str, str]]:
    return [unit for unit in target.units if unit.get("Type") == "disk"]


def _find(name: str) -> Optional[_Target]:
    return next((target for target in read_targets(_show("target")) if target.name == name), None)


def _show(mode: str) -> str:
    return _admin("show", mode)


def _admin(operation: str, mode: str, *words: str) -> str:
    try:
        return run_tool("tgtadm", "--lld", "iscsi", "--op", operation, "--mode", mode, *words)
    except ToolError as exc:
        if exc.exit_code is None:
            raise TransportError(
                "transport: tgtadm is not installed on the array; install tgt.", "transport", code="host_program"
            ) from exc
        if "can't connect" in exc.message or "not running" in exc.message:
            raise TransportError(
                "transport: tgtd does not run on the array; start it.", option="transport", code="host_program"
            ) from exc
        raise TransportError(exc.message) from exc


def _read_portal(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _colon, port = text.rpartition(":")
    return ipaddress.ip_address(host.strip("[]")), int(port)


def _leads_to(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, portal: Portal) -> bool:
    wanted = ipaddress.ip_address(portal.address)
    any_address = address.is_unspecified and address.version == wanted.version
    return port == portal.port and (any_address or address == wanted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
