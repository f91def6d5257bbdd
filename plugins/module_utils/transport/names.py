# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a target of ours is called, and its LUNs: everything follows from the session and the pairs.

So a later run recognizes what a dead session left without any record of it, and a LUN of one session can never
be taken for that of another. Each mirror set of a session has a target of its own, perhaps on one array.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from ..errors import SplitMirrorError
from ..session import check_session_id

#: All our targets begin so; what stands behind it is the session, and a digest of the names of the set's pairs.
TARGET_PREFIX = "iqn.2026-01.local.splitmirror.mirror:"
DEFAULT_PORT = 3260
#: RFC 3720, 3.2.6.3: the longest name of a target or an initiator, and what begins one.
_NAME_BYTES = 223
_DIGEST, _DIGEST_CHARS = re.compile(":0[0-9a-f]{8}"), 10
_NAME = re.compile(r"(iqn\.\d{4}-\d{2}\.[a-z0-9.:-]+|eui\.[0-9a-f]{16}|naa\.(?:[0-9a-f]{16}|[0-9a-f]{32}))")


class TransportError(SplitMirrorError):
    """A mirror that cannot be given to the media server, or not be taken back."""

    code = "transport_failed"


def target_of(session: str, pairs: Iterable[str]) -> str:
    """The name of the target of one mirror set of a session.

    Names in iSCSI know no capitals and no underscore; these are written with a colon in front, so that each session has
    names of its own, from which it can be read again.

    :param pairs: the names of the pairs of the set.
    """
    digest = hashlib.sha256("\0".join(sorted(pairs)).encode()).hexdigest()[:8]
    return f"{TARGET_PREFIX}{_escaped(session)}:0{digest}"


def _escaped(session: str) -> str:
    return re.sub("[A-Z]", lambda found: ":" + found[0].lower(), check_session_id(session)).replace("_", ":-")


def label_of(target: str) -> str:
    """What tells a target of ours from all others: its name without what all have in common."""
    return target[len(TARGET_PREFIX) :]


def session_of(target: str) -> Optional[str]:
    """The session that a target belongs to, or None when it is not ours."""
    if not target.startswith(TARGET_PREFIX):
        return None
    text = label_of(target)[:-_DIGEST_CHARS]
    session = re.sub(":([a-z-])", lambda found: "_" if found[1] == "-" else found[1].upper(), text)
    try:
        return session if _DIGEST.fullmatch(target[-_DIGEST_CHARS:]) and _escaped(session) == text else None
    except SplitMirrorError:
        return None


def serial_of(session: str, pair: str) -> str:
    """The serial number of the LUN: 32 hexadecimal digits, so that a target can make its WWN from them."""
    return hashlib.sha256(f"{session}\0{pair}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Portal:
    """Where a target is reached. :param address: of the array, in the storage network."""

    address: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str, option: str = "portal") -> Portal:
        """Read ``ADDRESS`` or ``ADDRESS:PORT``; an IPv6 address with a port stands in brackets.

        :raises TransportError: it is neither.
        """
        found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|([0-9A-Fa-f:.]+)", text)
        if found:
            address, port = found[1] or found[3] or found[5], int(found[2] or found[4] or DEFAULT_PORT)
            if 0 < port < 1 << 16:
                return cls(check_address(address, option), port)
        raise TransportError(
            f"{option}: {text!r} is not a portal; give the array's storage address, such as 10.20.0.11 or "
            "10.20.0.11:3261.",
            option=option,
            code="option_invalid",
        )


def check_address(address: str, option: str) -> str:
    """Return an IP address as it is written normally. :raises TransportError: it is none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as exc:
        raise TransportError(
            f"{option}: {address!r} is not an IP address.", option=option, code="option_invalid"
        ) from exc


def refuse_foreign_address(portal: Portal) -> None:
    """Refuse a portal whose address this host does not have. :raises TransportError: it does not."""
    with _socket_for(portal) as probe:
        try:
            probe.bind((portal.address, 0))
        except OSError as exc:
            raise TransportError(
                f"portal: {portal.address} is not an address of the array ({exc.strerror}); give the one it has in the "
                "storage network.",
                option="portal",
                code="option_invalid",
            ) from exc


def is_taken(portal: Portal) -> bool:
    """Whether a program or the kernel listens there already."""
    with _socket_for(portal) as probe:
        # Closed connections that the kernel still remembers (TIME_WAIT) do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((portal.address, portal.port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
    return False


def _socket_for(portal: Portal) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in portal.address else socket.AF_INET, socket.SOCK_STREAM)


def check_initiator(name: str) -> str:
    """Return the name of an initiator. :raises TransportError: it is none, or would let in more than one."""
    if len(name) <= _NAME_BYTES and _NAME.fullmatch(name):
        return name
    raise TransportError(
        f"initiator: {name!r} is not an iSCSI name; give that of the media server, InitiatorName= in its "
        "/etc/iscsi/initiatorname.iscsi.",
        option="initiator",
        code="option_invalid",
    )
