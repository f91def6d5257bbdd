# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Present a mirror set to the media server: the provider makes devices of it, and the exporter exports them.

This is the only file that knows both. Exports are looked up in the targets of this host, whatever the transport of the
session is, so that those of other runs are found as well. The order is always: make device, export; remove export,
remove device, resync.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..transport.base import (
    Device,
    Export,
    Exporter,
    FoundExport,
    Initiator,
    Lun,
)
from ..transport.names import (
    Portal,
    TransportError,
    check_address,
    check_initiator,
    serial_of,
    target_of,
)
from ..transport.no_export import MaskedExporter, StaticExporter
from ..transport.registry import all_exporters, make_exporter
from ..transport.secret import Chap, chap_of
from .base import (
    MirrorError,
    MirrorProvider,
    PairState,
    Presentation,
    Recovered,
)
from .journal import Journal


@dataclass(frozen=True)
class Route:
    """How the media server reaches the mirrors. :param initiator: None, like portal, if nothing is exported."""

    exporter: Exporter
    initiator: Optional[Initiator] = None
    portal: Optional[Portal] = None
    secret: Optional[str] = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        transport: str,
        initiator: Optional[str],
        address: Optional[str],
        portal: Optional[str],
        secret: Optional[str] = None,
    ) -> Route:
        """From the options of the modules.

        :param secret: None if nothing is exported, or if nothing is to be exported yet.

        :raises TransportError: an option is missing or malformed.
        """
        exporter = make_exporter(transport)
        if not exporter.exports:
            return cls(exporter)
        needed = [("portal", portal)]
        if exporter.knows_initiators:
            needed += [("initiator", initiator), ("initiator_address", address)]
        for option, value in needed:
            if not value:
                raise TransportError(f"{option}: transport {transport} needs it.", option=option, code="option_invalid")
        who = Initiator("", "")
        if exporter.knows_initiators:
            who = Initiator(check_initiator(str(initiator)), check_address(str(address), "initiator_address"))
        return cls(exporter, who, Portal.parse(str(portal)), secret)

    def chap(self, target: str) -> Chap:
        """The accounts of a target. :raises TransportError: there is no secret for it."""
        if not self.secret:
            raise TransportError(
                f"chap_secret: transport {self.exporter.name} needs it.", option="chap_secret", code="option_invalid"
            )
        return chap_of(target, self.secret)


@dataclass(frozen=True)
class Presented:
    """A mirror set that the media server can read.

    :param devices: on this host, by name of the pair.
    :param luns: those that the array itself shows to the media server, see Presentation.
    """

    devices: dict[str, str]
    export: Export
    changed: bool
    luns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Withdrawn:
    """What was removed. :param targets: names of the exports."""

    devices: list[str]
    targets: list[str]


def present(provider: MirrorProvider, session: str, route: Route, *, dry_run: bool = False) -> Presented:
    """Make the session's mirrors readable, and only readable, for the media server. A second call changes nothing.

    An export of the session that differs from what is requested is made anew.

    :param dry_run: change nothing, and return what is known beforehand.
    :raises SplitMirrorError: the session has no finished split, or they cannot be exported.
    """
    if dry_run:
        return _present_dry_run(provider, session, route)
    presentation = provider.present(session)
    _check_way(provider, presentation, route)
    exported = devices_of(session, presentation.devices)
    with Journal(provider.state_dir).locked():
        export = _export(session, exported, route)
    luns = presentation.luns if route.exporter.name == MaskedExporter.name else {}
    return Presented(presentation.devices, export, presentation.changed or export.changed, luns)


def _check_way(provider: MirrorProvider, presentation: Presentation, route: Route) -> None:
    """Refuse a transport that does not fit what is presented. :raises MirrorError: there is no way to a mirror."""
    masked = route.exporter.name == MaskedExporter.name
    for pair in provider.pairs:
        if masked and pair.name not in presentation.luns:
            raise MirrorError(
                f"transport: masked needs the serial number or WWN of each mirror, and provider {provider.name} has "
                f"none for pair {pair.name}; choose another transport.",
                option="transport",
                code="option_invalid",
            )
        if not masked and route.exporter.name != StaticExporter.name and pair.name not in presentation.devices:
            raise MirrorError(
                f"transport: {route.exporter.name} needs a device of each mirror on this host, and the array has shown "
                f"none for pair {pair.name}; choose masked.",
                option="transport",
                code="option_invalid",
            )


def devices_of(session: str, devices: dict[str, str]) -> list[Device]:
    """The devices in the form in which they are exported. :param devices: by name, in the order of the pairs."""
    return [Device(name, path, serial_of(session, name)) for name, path in devices.items()]


def _export(session: str, devices: Sequence[Device], route: Route) -> Export:
    if route.initiator is None or route.portal is None:
        return Export("", "", {}, False)
    target = target_of(session, [device.name for device in devices])
    chap = route.chap(target)
    luns = route.exporter.luns(devices)
    if route.exporter.matches(target, devices, route.initiator, route.portal, chap):
        return _exported(target, route, route.portal, luns, False)
    _remove(found for found in _exports() if found[1].target == target)
    route.exporter.make(target, devices, route.initiator, route.portal, chap)
    return _exported(target, route, route.portal, luns, True)


def _exported(target: str, route: Route, portal: Portal, luns: dict[str, Lun], changed: bool) -> Export:
    return Export(str(route.exporter.reached_at(target, portal)), target, luns, changed)


def _present_dry_run(provider: MirrorProvider, session: str, route: Route) -> Presented:
    if provider.split_result(session) is None:
        raise MirrorError(
            f"session {session}: it has not split these pairs; split them first.", option="session", code="not_split"
        )
    route.exporter.preflight(route.portal)
    devices = presented_devices(provider)
    missing = len(devices) < len(provider.pairs)
    luns: dict[str, Lun] = {}
    target = ""
    exported = True
    if route.initiator is not None and route.portal is not None:
        names = {pair.name: devices.get(pair.name, "") for pair in provider.pairs}
        shown, target = devices_of(session, names), target_of(session, names)
        luns, chap = route.exporter.luns(shown), route.chap(target)
        exported = not missing and route.exporter.matches(target, shown, route.initiator, route.portal, chap)
    export = Export("", "", luns, not exported)
    if route.portal is not None:
        export = _exported(target, route, route.portal, luns, not exported)
    return Presented(devices, export, missing or not exported)


def presented_devices(provider: MirrorProvider) -> dict[str, str]:
    """The devices of the mirrors that are presented on this host, by name of the pair."""
    return {state.name: state.devices[0] for state in provider.state() if state.devices}


def withdraw(provider: MirrorProvider, session: str, *, dry_run: bool = False) -> Withdrawn:
    """Remove the exports of the session's set, then its devices, even if an initiator is logged in.

    :param dry_run: change nothing, and return what would go.
    :raises SplitMirrorError: a device is in use on this host, or another session holds the pairs.
    """
    split = provider.split_result(session)  # fails if another session holds the pairs
    if dry_run:
        return _withdraw_dry_run(provider) if split is not None else Withdrawn([], [])
    with Journal(provider.state_dir).locked():
        targets = _remove(_exports_of_set(provider, provider.state(), session))
    return Withdrawn(provider.withdraw(session), targets)


def _withdraw_dry_run(provider: MirrorProvider) -> Withdrawn:
    states = provider.state()
    exports = exports_of(provider, states)
    for state in states:
        # An exported device is held open by the target, which is removed first.
        if state.users and not exports:
            raise MirrorError(f"{state.problem}", code="mirror_in_use")
    devices = [state.devices[0] for state in states if state.devices]
    return Withdrawn(devices, [export.target for export in exports])


def exports_of(provider: MirrorProvider, states: Sequence[PairState]) -> list[FoundExport]:
    """Our exports that show one of these mirrors, or are named after this set and a session that holds it."""
    return [export for _exporter, export in _exports_of_set(provider, states)]


def resync(provider: MirrorProvider, session: str, wait: bool, timeout_s: float) -> int:
    """Resync the session's mirrors, see MirrorProvider.resync.

    :raises SplitMirrorError: a mirror is still exported, or the provider refuses.
    """
    refuse_exported(exports_of(provider, provider.state()))
    return provider.resync(session, wait, timeout_s)


def refuse_exported(exports: Iterable[FoundExport]) -> None:
    """Refuse to resync mirrors that are exported. :raises MirrorError: there is an export."""
    for export in exports:
        raise MirrorError(
            f"session {export.session}: its mirrors are still exported as {export.target}; withdraw them before the "
            "resync (mirror_present with state: withdrawn).",
            code="mirror_in_use",
        )


def recover(provider: MirrorProvider, dead: Sequence[str] = ()) -> tuple[list[Recovered], list[str]]:
    """Clean up what dead sessions left: exports, devices, splits; see MirrorProvider.recover.

    :returns: what the provider recovered, and the names of the removed targets.
    """
    with Journal(provider.state_dir).locked():
        # Sessions whose splitter is still ready have no exports; the provider refuses to recover them.
        targets = _remove(_exports_to_recover(provider, provider.state()))
    return provider.recover(dead), targets


def exports_to_recover(provider: MirrorProvider, states: Sequence[PairState]) -> list[FoundExport]:
    """The exports that recover removes. :param states: of the provider's pairs."""
    return [export for _exporter, export in _exports_to_recover(provider, states)]


def _exports_to_recover(provider: MirrorProvider, states: Sequence[PairState]) -> list[tuple[Exporter, FoundExport]]:
    """Those of the set, whatever its pairs were called. The media server may still have others of the session."""
    journal = Journal(provider.state_dir)
    names = [pair.name for pair in provider.pairs]
    targets: set[str] = set()
    unknown: set[str] = set()
    for session in {state.session for state in states if state.session}:
        record = journal.read(session)
        if record is None:  # nobody knows what its pairs were called
            unknown.add(session)
        else:
            targets |= {target_of(session, of) for of in (names, [pair.name for pair in record.pairs])}
    return _exports_showing(states, lambda export: export.target in targets or export.session in unknown)


def _exports() -> list[tuple[Exporter, FoundExport]]:
    return [(exporter, export) for exporter in all_exporters() for export in exporter.find_exports()]


def _exports_of_set(
    provider: MirrorProvider, states: Sequence[PairState], session: Optional[str] = None
) -> list[tuple[Exporter, FoundExport]]:
    """Those that show one of these mirrors, or are named after this set and a session that holds it, or ``session``.

    Another set of the same session may be exported by this host as well.
    """
    names = [pair.name for pair in provider.pairs]
    sessions = {session, *(state.session for state in states)}
    targets = {target_of(one, names) for one in sessions if one}
    return _exports_showing(states, lambda export: export.target in targets)


def _exports_showing(
    states: Sequence[PairState], or_else: Callable[[FoundExport], bool]
) -> list[tuple[Exporter, FoundExport]]:
    """Those that show one of these mirrors, or are like this."""
    devices = {os.path.realpath(device) for state in states for device in state.devices}
    return [
        (exporter, export)
        for exporter, export in _exports()
        if or_else(export) or devices.intersection(map(os.path.realpath, export.devices))
    ]


def _remove(exports: Iterable[tuple[Exporter, FoundExport]]) -> list[str]:
    removed = []
    for exporter, export in exports:
        exporter.remove(export)
        removed.append(export.target)
    return removed
