# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between array and media server: how one initiator gets to read the mirrors of a session, and nobody else.

An exporter works on the array. It takes the read-only block devices that a mirror provider made there and gives them to
the media server. It keeps no records: what is exported is asked of the target itself, so that nothing is forgotten when
a process or the machine dies. An attacher works on the media server and finds there what was exported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Optional

from ..session import DEFAULT_STATE_DIR
from .names import Portal, TransportError
from .secret import Chap


@dataclass(frozen=True)
class Initiator:
    """Who may read. :param name: its iSCSI name. :param address: its address in the storage network."""

    name: str
    address: str


@dataclass(frozen=True)
class Device:
    """A block device to be exported. :param name: of the pair. :param serial: see names.serial_of."""

    name: str
    path: str
    serial: str


@dataclass(frozen=True)
class Lun:
    """An exported device as the initiator will find it. :param wwn: as in sysfs, without ``naa.``."""

    lun: int
    serial: str
    wwn: str

    def as_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FoundExport:
    """A session's export, as the target reports it; it may be half made.

    :param devices: the block devices behind it.
    :param initiators: names of those who are logged in now.
    """

    session: str
    target: str
    devices: tuple[str, ...] = field(default=())
    initiators: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Export:
    """A finished export.

    :param target: its name; empty when there is none.
    :param luns: by name of the pair.
    :param changed: whether this call made it.
    """

    portal: str
    target: str
    luns: dict[str, Lun]
    changed: bool


@dataclass(frozen=True)
class Wanted:
    """The mirror of one pair. :param serial: its serial number. :param size_bytes: None for any size."""

    name: str
    serial: str
    lun: int = 0
    wwn: str = ""
    size_bytes: Optional[int] = None


@dataclass(frozen=True)
class Attached:
    """The mirrors as this host reads them. :param devices: paths under /dev/disk/by-id, by name of the pair."""

    devices: dict[str, str]
    changed: bool


@dataclass(frozen=True)
class AttachOptions:
    """What the module mirror_attach was given. An attacher refuses when one that it needs is missing.

    :param session: id; None when ``host`` is given, or when only preflight is called.
    :param host: the database host whose sessions are all to be detached.
    :param luns: as mirror_present returned them. :param pairs: the mirror set, None for any.
    :param state_dir: the state folder of this host.
    """

    transport: str
    session: Optional[str] = None
    host: Optional[str] = None
    portal: Optional[str] = None
    secret: Optional[str] = field(default=None, repr=False)
    luns: Optional[Mapping[str, Any]] = None
    pairs: Optional[Sequence[Mapping[str, Any]]] = None
    state_dir: str = DEFAULT_STATE_DIR

    def needed(self, option: str, value: Any) -> Any:
        """Return the value of an option. :raises TransportError: it was not given."""
        if not value:
            raise TransportError(
                f"{option}: transport {self.transport} needs it.", option=option, code="option_invalid"
            )
        return value


class Attacher(ABC):
    """How this host comes to the mirrors of a session."""

    def __init__(self, options: AttachOptions) -> None:
        self._options = options

    @abstractmethod
    def preflight(self) -> str:
        """Refuse what could not be attached later, and return this host's iSCSI name, or nothing. Changes nothing.

        :raises SplitMirrorError: this host could not attach a mirror.
        """

    @abstractmethod
    def wanted(self) -> list[Wanted]:
        """The mirrors that the options name. :raises TransportError: an option is missing or wrong."""

    @abstractmethod
    def look(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """The devices that are attached as they should be, by name of the pair. Changes nothing."""

    @abstractmethod
    def attach(self, wanted: Sequence[Wanted]) -> Attached:
        """Find all mirrors, read-only and with nothing cached of them; again gives the same.

        :raises SplitMirrorError: one cannot be found, or is not what it should be.
        """

    @abstractmethod
    def detach(self, *, dry_run: bool = False) -> list[str]:
        """Let go of the session's mirrors, or of those of all sessions of ``host``.

        :returns: the names of the targets that were logged out of.
        :raises SplitMirrorError: a mirror is in use.
        """


class Exporter(ABC):
    """One way from the array to the media server."""

    #: The name in ``transport``, and in the registry.
    name: ClassVar[str]
    #: It makes something on this host that has to be taken away again, for which it needs initiator, portal and secret.
    exports: ClassVar[bool] = True
    #: It lets in an initiator by its name or address; without that, whoever has the secret.
    knows_initiators: ClassVar[bool] = True

    @abstractmethod
    def preflight(self, portal: Optional[Portal]) -> None:
        """Refuse what could not be exported later. Changes nothing.

        :raises TransportError: a program, a daemon, a kernel module or the portal's address is missing.
        """

    @abstractmethod
    def find_exports(self) -> list[FoundExport]:
        """All exports of ours on this host, whole or half; none where the target is not installed or does not run."""

    @abstractmethod
    def luns(self, devices: Sequence[Device]) -> dict[str, Lun]:
        """As what the devices will be found by the initiator, by name of the pair."""

    @abstractmethod
    def matches(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """Whether the export of this name is there and just like this."""

    @abstractmethod
    def make(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """Export the devices read-only to this initiator when it knows the secret; there is no export of this name.

        The target proves by its own secret who it is.

        :raises TransportError: it failed; find_exports finds what was made of it.
        """

    @abstractmethod
    def remove(self, export: FoundExport) -> None:
        """Take an export away, whole or half made, also while initiators are logged in.

        :raises TransportError: it failed.
        """

    def reached_at(self, target: str, portal: Portal) -> Portal:
        """Where the export of this name is reached. :param portal: the one that was asked for."""
        return portal
