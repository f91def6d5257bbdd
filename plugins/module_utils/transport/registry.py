# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one list of transports. A new transport is one file and one row."""

from __future__ import annotations

from typing import Any

from ..seam import Classes
from .base import Attacher, AttachOptions, Exporter
from .names import TransportError


def _local() -> type[Exporter]:
    from .no_export import LocalExporter

    return LocalExporter


def _static() -> type[Exporter]:
    from .no_export import StaticExporter

    return StaticExporter


def _masked() -> type[Exporter]:
    from .no_export import MaskedExporter

    return MaskedExporter


def _tgt() -> type[Exporter]:
    from .tgt import TgtExporter

    return TgtExporter


def _lio() -> type[Exporter]:
    from .lio import LioExporter

    return LioExporter


def _nbd() -> type[Exporter]:
    from .nbd import NbdExporter

    return NbdExporter


def _static_attacher() -> type[Attacher]:
    from .attach import StaticAttacher

    return StaticAttacher


def _masked_attacher() -> type[Attacher]:
    from .masked import MaskedAttacher

    return MaskedAttacher


def _iscsi_attacher() -> type[Attacher]:
    from .attach import IscsiAttacher

    return IscsiAttacher


def _nbd_attacher() -> type[Attacher]:
    from .nbd import NbdAttacher

    return NbdAttacher


#: What each transport does on the array.
EXPORTERS: Classes[Exporter] = Classes(
    {"local": _local, "tgt": _tgt, "lio": _lio, "masked": _masked, "static": _static, "nbd": _nbd}
)
#: Those that make something on the array, see Exporter.exports.
EXPORTING = ("tgt", "lio", "nbd")
#: How the media server finds the mirrors of a transport, unless it is the array itself.
ATTACHERS: Classes[Attacher] = Classes(
    {
        "tgt": _iscsi_attacher,
        "lio": _iscsi_attacher,
        "masked": _masked_attacher,
        "static": _static_attacher,
        "nbd": _nbd_attacher,
    }
)
#: The option ``transport`` on the array.
TRANSPORT_SPEC: dict[str, dict[str, Any]] = {
    "transport": {"type": "str", "choices": sorted(EXPORTERS), "default": "local"}
}
#: The same on the media server, where the mirrors have to be found.
ATTACH_SPEC: dict[str, dict[str, Any]] = {"transport": {"type": "str", "choices": sorted(ATTACHERS), "required": True}}


def make_exporter(name: str) -> Exporter:
    """Make the exporter ``name``. :raises TransportError: there is none."""
    if name not in EXPORTERS:
        raise _unknown(name)
    return EXPORTERS[name]()


def make_attacher(options: AttachOptions) -> Attacher:
    """Make what attaches the mirrors of a transport. :raises TransportError: there is none."""
    if options.transport not in EXPORTERS:
        raise _unknown(options.transport)
    if options.transport not in ATTACHERS:
        raise TransportError(
            f"transport: with {options.transport} the media server is the array, and nothing is attached there.",
            option="transport",
            code="option_invalid",
        )
    return ATTACHERS[options.transport](options)


def all_exporters() -> list[Exporter]:
    """Each exporter that may have left something on this host."""
    return [EXPORTERS[name]() for name in EXPORTING]


def _unknown(name: str) -> TransportError:
    known = ", ".join(sorted(EXPORTERS))
    return TransportError(
        f"transport: {name!r} is unknown; known are {known}.", option="transport", code="option_invalid"
    )
