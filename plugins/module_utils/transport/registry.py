# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one list of transports. A new transport is one file and one row."""

from __future__ import annotations

from typing import Any

from .base import Attacher, AttachOptions, Exporter
from .lio import LioExporter
from .names import TransportError
from .nbd import NbdExporter
from .no_export import LocalExporter, MaskedExporter, StaticExporter
from .tgt import TgtExporter

EXPORTERS: dict[str, type[Exporter]] = {
    exporter.name: exporter
    for exporter in (LocalExporter, TgtExporter, LioExporter, MaskedExporter, StaticExporter, NbdExporter)
}
#: The option ``transport`` on the array.
TRANSPORT_SPEC: dict[str, dict[str, Any]] = {
    "transport": {"type": "str", "choices": sorted(EXPORTERS), "default": LocalExporter.name}
}
#: The same on the media server, where the mirrors have to be found.
ATTACH_SPEC: dict[str, dict[str, Any]] = {
    "transport": {
        "type": "str",
        "choices": sorted(name for name, kind in EXPORTERS.items() if kind.attacher is not None),
        "required": True,
    }
}


def make_exporter(name: str) -> Exporter:
    """Make the exporter ``name``. :raises TransportError: there is none."""
    if name not in EXPORTERS:
        known = ", ".join(sorted(EXPORTERS))
        raise TransportError(
            f"transport: {name!r} is unknown; known are {known}.", option="transport", code="option_invalid"
        )
    return EXPORTERS[name]()


def make_attacher(options: AttachOptions) -> Attacher:
    """Make what attaches the mirrors of a transport. :raises TransportError: there is none."""
    attacher = make_exporter(options.transport).attacher
    if attacher is None:
        raise TransportError(
            f"transport: with {options.transport} the media server is the array, and nothing is attached there.",
            option="transport",
            code="option_invalid",
        )
    return attacher(options)


def all_exporters() -> list[Exporter]:
    """Each exporter that may have left something on this host."""
    return [kind() for kind in EXPORTERS.values() if kind.exports]
