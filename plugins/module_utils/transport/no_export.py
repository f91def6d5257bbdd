# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transports with which nothing is exported: the media server is the array, or the array shows the LUN to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from .base import Device, Exporter, FoundExport, Initiator, Lun
from .names import Portal, TransportError
from .secret import Chap


class NoExporter(Exporter):
    """What is common to all ways on which nothing has to be exported."""

    exports = False

    def preflight(self, portal: Optional[Portal]) -> None:
        """See Exporter."""

    def find_exports(self) -> list[FoundExport]:
        """See Exporter."""
        return []

    def luns(self, devices: Sequence[Device]) -> dict[str, Lun]:
        """See Exporter."""
        return {}

    def matches(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> bool:
        """See Exporter."""
        return True

    def make(self, target: str, devices: Sequence[Device], initiator: Initiator, portal: Portal, chap: Chap) -> None:
        """See Exporter."""
        raise TransportError(f"transport: {self.name} exports nothing.", option="transport", code="option_invalid")

    def remove(self, export: FoundExport) -> None:
        """See Exporter."""


class LocalExporter(NoExporter):
    """The media server is the array."""

    name = "local"


class StaticExporter(NoExporter):
    """The array shows the mirror's LUN to the media server once and for all; see docs/transports.md."""

    name = "static"


class MaskedExporter(NoExporter):
    """The array shows the mirror of each session to the media server, as a LUN of its own; see docs/transports.md."""

    name = "masked"
