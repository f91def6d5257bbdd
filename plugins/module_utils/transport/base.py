# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between array and media server: how one initiator gets to read the mirrors of a session, and nobody else.

An exporter takes the read-only block devices that a mirror provider made on this host and gives them to the media
server. It keeps no records: what is exported is asked of the target itself, so that nothing is forgotten when a process
or the machine dies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from .names import Portal, TransportError
from .secret import Chap


@dataclass(frozen=True)
class ExporterCapabilities:
    """What an exporter can do.

    :param exports: it makes something on this host that has to be taken away again.
    :param checks_name: it lets the initiator in under its own name only.
    :param checks_address: it lets the initiator in from its own address only.
    :param binds_portal: it answers at the given portal only.
    """

    exports: bool
    checks_name: bool
    checks_address: bool
    binds_portal: bool


@dataclass(frozen=True)
class Initiator:
    """Who may read. :param name: its iSCSI name. :param address: its address in the storage network."""

    name: str
    address: str


@dataclass(frozen=True)
class Unit:
    """A device to be exported. :param name: of the pair. :param serial: see names.serial_of."""

    name: str
    device: str
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
class Exported:
    """A session's export, as the target tells it; it may be half made.

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


class Exporter(ABC):
    """One way from the array to the media server."""

    #: The name in ``transport``, and in the registry.
    name: str
    capabilities: ExporterCapabilities

    @abstractmethod
    def preflight(self, portal: Optional[Portal]) -> None:
        """Refuse what could not be exported later. Changes nothing.

        :raises TransportError: a program, a daemon, a kernel module or the portal's address is missing.
        """

    @abstractmethod
    def exported(self) -> list[Exported]:
        """All exports of ours on this host, whole or half; none where the target is not installed or does not run."""

    @abstractmethod
    def luns(self, units: Sequence[Unit]) -> dict[str, Lun]:
        """As what the units will be found by the initiator, by name of the pair."""

    @abstractmethod
    def matches(self, session: str, units: Sequence[Unit], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """Whether the session's export is there and just like this."""

    @abstractmethod
    def make(self, session: str, units: Sequence[Unit], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """Export the units read-only to this initiator when it knows the secret; there is no export of this session.

        :raises TransportError: it failed; what was made of it is found by exported.
        """

    @abstractmethod
    def remove(self, export: Exported) -> None:
        """Take an export away, whole or half made, whoever is still logged in.

        :raises TransportError: it failed.
        """


class NoExporter(Exporter):
    """What is common to all ways on which nothing has to be exported."""

    capabilities = ExporterCapabilities(exports=False, checks_name=False, checks_address=False, binds_portal=False)

    def preflight(self, portal: Optional[Portal]) -> None:
        """See Exporter."""

    def exported(self) -> list[Exported]:
        """See Exporter."""
        return []

    def luns(self, units: Sequence[Unit]) -> dict[str, Lun]:
        """See Exporter."""
        return {}

    def matches(self, session: str, units: Sequence[Unit], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """See Exporter."""
        return True

    def make(self, session: str, units: Sequence[Unit], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """See Exporter."""
        raise TransportError(f"transport: {self.name} exports nothing.", option="transport")

    def remove(self, export: Exported) -> None:
        """See Exporter."""


class LocalExporter(NoExporter):
    """The media server is the array."""

    name = "local"


class StaticExporter(NoExporter):
    """The array shows the mirror's LUN to the media server once and for all; see docs/providers.md."""

    name = "static"
