# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every exporter has to do. A test of an exporter is a class that derives from ExporterContract.

It needs neither pytest nor anything else that a host of the lab does not have: on_san.py runs it on the lab's array,
and integration/transport on this machine.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import (
    Device,
    Exporter,
    FoundExport,
    Initiator,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import (
    Portal,
    serial_of,
    target_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import Chap, chap_of

S1, S2 = "20260131T020000Z-db1-9f3c", "20260201T020000Z-db1-00aa"
T1 = target_of(S1, ["data", "wal"])
SECRET = "ThisOneIsOnlyForTheTestsOfTheLab"
#: What the media server takes for a WWN.
WWN = re.compile("[0-9a-f]{16}|[0-9a-f]{32}")


class ExporterContract:
    """The contract of an Exporter that exports. Nothing may be exported when a test begins."""

    initiator = Initiator("iqn.2026-01.test.splitmirror:media1", "127.0.0.1")

    @property
    @abstractmethod
    def exporter(self) -> Exporter:
        """A new exporter, as each module makes one."""

    @property
    @abstractmethod
    def portal(self) -> Portal:
        """Where it exports."""

    @property
    @abstractmethod
    def paths(self) -> tuple[str, str]:
        """Two read-only block devices."""

    def devices(self, session: str = S1) -> list[Device]:
        """The devices of a session with two pairs."""
        return [Device(name, path, serial_of(session, name)) for name, path in zip(("data", "wal"), self.paths)]

    def make(self, devices: list[Device] | None = None, target: str = T1) -> None:
        """Export the devices; without any, those of the first session with two pairs."""
        devices = self.devices() if devices is None else devices
        self.exporter.make(target, devices, self.initiator, self.portal, chap_of(target, SECRET))

    def matches(
        self,
        *,
        devices: list[Device] | None = None,
        initiator: Initiator | None = None,
        chap: Chap | None = None,
    ) -> bool:
        """Whether the export of the first session is like this; the rest is as in make."""
        return self.exporter.matches(
            T1,
            self.devices() if devices is None else devices,
            initiator or self.initiator,
            self.portal,
            chap or chap_of(T1, SECRET),
        )

    def remove_all(self) -> None:
        """Take away all exports, whole or half made."""
        for export in self.exporter.find_exports():
            self.exporter.remove(export)
        assert self.exporter.find_exports() == []

    # ---- the tests ----

    def test_what_is_made_is_found_and_goes(self) -> None:
        self.exporter.preflight(self.portal)
        assert self.exporter.find_exports() == []
        assert not self.matches()
        self.make()
        try:
            assert self.exporter.find_exports() == [FoundExport(S1, T1, self.paths, ())]
            assert self.matches()
        finally:
            self.remove_all()
        assert not self.matches()

    def test_luns_are_known_before_and_differ(self) -> None:
        devices = self.devices()
        luns = self.exporter.luns(devices)
        assert list(luns) == [device.name for device in devices]
        assert [lun.serial for lun in luns.values()] == [device.serial for device in devices]
        assert len({lun.lun for lun in luns.values()}) == len({lun.wwn for lun in luns.values()}) == 2
        assert all(WWN.fullmatch(lun.wwn) for lun in luns.values())
        others = self.exporter.luns(self.devices(S2))
        assert not {lun.wwn for lun in luns.values()} & {lun.wwn for lun in others.values()}

    def test_what_was_asked_otherwise_does_not_match(self) -> None:
        first, second = self.devices()
        self.make()
        try:
            assert not self.matches(devices=[first])
            assert not self.matches(devices=[second, first])
            assert not self.matches(devices=[first, replace(second, path=first.path)])
            assert not self.matches(devices=[first, replace(second, serial=serial_of(S2, second.name))])
            assert not self.matches(chap=chap_of(T1, SECRET[::-1]))
            if self.exporter.knows_initiators:
                assert not self.matches(initiator=Initiator("iqn.2026-01.test.splitmirror:other", "127.0.0.9"))
                assert not self.matches(chap=replace(chap_of(T1, SECRET), target_user="other"))
        finally:
            self.remove_all()

    def test_half_an_export_is_found_and_goes(self) -> None:
        first, second = self.devices()
        devices = [first, replace(second, path="/dev/null")]
        refused(lambda: self.make(devices))
        try:
            assert [export.session for export in self.exporter.find_exports()] == [S1]
            assert not self.matches(devices=devices)
        finally:
            self.remove_all()

    def test_exports_of_two_sets_or_sessions_do_not_touch_each_other(self) -> None:
        first = self.devices(S1)[:1]
        for session in (S1, S2):
            second, target = self.devices(session)[1:], target_of(session, ["wal"])
            self.make(first)
            try:
                self.make(second, target)
                (found,) = [export for export in self.exporter.find_exports() if export.target == target]
                assert (found.session, found.devices) == (session, self.paths[1:])
                self.exporter.remove(found)
                self.exporter.remove(found)
                assert [export.target for export in self.exporter.find_exports()] == [T1]
                assert self.matches(devices=first)
            finally:
                self.remove_all()


def refused(call: Callable[[], object]) -> None:
    """The call ends with an error of the collection."""
    try:
        call()
    except SplitMirrorError:
        return
    raise AssertionError("nothing was refused")
