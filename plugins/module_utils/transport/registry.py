# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one list of transports."""

from __future__ import annotations

from .base import Exporter, LocalExporter, StaticExporter
from .lio import LioExporter
from .names import TransportError
from .tgt import TgtExporter

EXPORTERS: dict[str, type[Exporter]] = {
    LocalExporter.name: LocalExporter,
    TgtExporter.name: TgtExporter,
    LioExporter.name: LioExporter,
    StaticExporter.name: StaticExporter,
}


def make_exporter(name: str) -> Exporter:
    """Make the exporter ``name``. :raises TransportError: there is none."""
    if name not in EXPORTERS:
        known = ", ".join(sorted(EXPORTERS))
        raise TransportError(f"transport: unknown transport {name!r}; known are: {known}.", option="transport")
    return EXPORTERS[name]()


def all_exporters() -> list[Exporter]:
    """Each exporter that may have left something on this host."""
    return [kind() for kind in EXPORTERS.values() if kind.capabilities.exports]
