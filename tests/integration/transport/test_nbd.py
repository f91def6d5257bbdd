# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transport ``nbd`` between two daemons on this machine: the array's and the media server's."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import blockdev
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import terminate
from ansible_collections.splitmirror.backup.plugins.module_utils.transport import nbd
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import AttachOptions, Exporter
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import (
    Portal,
    TransportError,
    target_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import make_attacher, make_exporter
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import chap_of
from ansible_collections.splitmirror.backup.tests.seams.exporters import S1, S2, SECRET, T1, ExporterContract
from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, read, read_by_another, write
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, run
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.qemu import clear, need_storage_daemon

T2 = target_of(S2, ["data", "wal"])

pytestmark = pytest.mark.root


class TestNbd(ExporterContract):
    """Two loop devices as mirrors."""

    @pytest.fixture(autouse=True)
    def _devices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        need_storage_daemon()
        monkeypatch.setattr(nbd, "RUN", str(tmp_path / "run"))
        images = [make_image(tmp_path / name, 16) for name in ("data", "wal")]
        for number, image in enumerate(images):
            write(str(image), 0xA0 + number)
        with loop_device(images[0], read_only=True) as first, loop_device(images[1], read_only=True) as second:
            self._paths = (first, second)
            try:
                yield
                for session in (S1, S2):
                    self.attacher(session).detach()
                self.remove_all()
                assert list((tmp_path / "run").glob("*/*")) == []
            finally:
                clear(tmp_path / "run")

    @pytest.fixture(autouse=True)
    def _port(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._portal = Portal("127.0.0.1", probe.getsockname()[1])

    @property
    def exporter(self) -> Exporter:
        return make_exporter("nbd")

    @property
    def portal(self) -> Portal:
        return self._portal

    @property
    def paths(self) -> tuple[str, str]:
        return self._paths

    def test_a_process_of_another_user_is_not_taken_for_ours(self) -> None:
        """It could pass for an export, and hide one that has to end."""
        told = json.dumps({"dir": nbd.Side("export").folder(T1)})
        words = ["qemu-storage-daemon", "-c", "input()", "--object", told]
        with subprocess.Popen(words, executable="/usr/bin/python3", user=65534, stdin=subprocess.PIPE) as foreign:
            wait_for(lambda: told.encode() in Path(f"/proc/{foreign.pid}/cmdline").read_bytes(), "the process")
            assert nbd.Side("export").daemon(T1) is None
            foreign.kill()

    def attacher(self, session: str = S1, secret: str = SECRET, size_bytes: int = 16 * MIB) -> nbd.NbdAttacher:
        """What the media server does, with what the array has told it."""
        luns = {
            name: {**lun.as_dict(), "size_bytes": size_bytes}
            for name, lun in self.exporter.luns(self.devices(session)).items()
        }
        portal = str(self.exporter.reached_at(target_of(session, luns), self.portal))
        found = make_attacher(AttachOptions("nbd", session, portal=portal, secret=secret, luns=luns))
        assert isinstance(found, nbd.NbdAttacher)
        return found

    def test_the_media_server_reads_the_mirror_and_cannot_write_it(self) -> None:
        self.make()
        attacher = self.attacher()
        assert attacher.preflight() == ""
        wanted = attacher.wanted()
        assert attacher.look(wanted) == {}
        attached = attacher.attach(wanted)
        assert attached.changed
        assert attacher.look(wanted) == attached.devices
        assert attacher.attach(wanted).changed is False
        data, wal = attached.devices["data"], attached.devices["wal"]
        assert (read(data), read(wal)) == (0xA0, 0xA1)
        with pytest.raises(OSError, match="not permitted"):
            write(data, 0xEE)
        with read_by_another(wal):
            for dry_run in (True, False):
                with pytest.raises(TransportError, match="in use on the media server by process") as busy:
                    attacher.detach(dry_run=dry_run)
                assert busy.value.code == "mirror_in_use"
        assert len(attacher.detach(dry_run=True)) == 1
        assert read(data) == 0xA0
        assert len(attacher.detach()) == 1
        assert attacher.detach() == []
        assert attacher.look(wanted) == {}

    def test_nobody_is_let_in_without_the_secret_of_the_session(self) -> None:
        self.make()
        wanted = self.attacher().wanted()
        with pytest.raises(TransportError, match="cannot be had from"):
            self.attacher(secret=SECRET[::-1]).attach(wanted)
        # Without TLS the server says so, and nothing else.
        plain = ["qemu-img", "info", f"nbd://127.0.0.1:{self.portal.port}/{wanted[0].serial}"]
        done = subprocess.run(plain, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "TLS" in done.stderr
        assert len(self.attacher().attach(wanted).devices) == 2

    def test_the_secret_stands_in_a_file_of_root_alone(self, tmp_path: Path) -> None:
        self.make()
        self.attacher().attach(self.attacher().wanted())
        key = nbd._key_line(SECRET).strip().partition(":")[2]
        words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in words if key.encode() in line or SECRET.encode() in line]
        holds = run("grep", "--recursive", "--files-with-matches", key, tmp_path / "run").stdout.split()
        assert len(holds) == 2
        assert {Path(path).stat().st_mode & 0o077 for path in holds} == {0}

    def test_two_sessions_of_an_array_have_ports_and_keys_of_their_own(self) -> None:
        other = SECRET[::-1]
        first, second = self.devices(S1), self.devices(S2)
        self.make(first)
        exporter = self.exporter
        exporter.make(T2, second, self.initiator, self.portal, chap_of(T2, other))
        assert exporter.reached_at(T1, self.portal) == self.portal
        assert exporter.reached_at(T2, self.portal).port > self.portal.port
        assert self.matches(devices=first)
        with pytest.raises(TransportError):
            self.attacher(S2).attach(self.attacher(S2).wanted())
        for session, secret in ((S1, SECRET), (S2, other)):
            attacher = self.attacher(session, secret)
            assert read(attacher.attach(attacher.wanted()).devices["data"]) == 0xA0
        assert self.attacher(S2).detach() != []
        assert len(self.attacher(S1).look(self.attacher(S1).wanted())) == 2

    def test_a_mirror_of_another_size_is_refused(self) -> None:
        self.make()
        attacher = self.attacher(size_bytes=17 * MIB)
        with pytest.raises(TransportError, match="pair data: its export has 16777216 bytes") as wrong:
            attacher.attach(attacher.wanted())
        assert wrong.value.code == "mirror_wrong"
        assert attacher.detach() == []

    def test_an_array_that_dies_ends_the_reading_and_nothing_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blockdev, "SETTLE_S", 0.2)
        self.make()
        attacher = self.attacher()
        wanted = attacher.wanted()
        device = attacher.attach(wanted).devices["data"]
        self.remove_all()
        with pytest.raises(OSError, match="Input/output"):
            read(device)
        by_host = make_attacher(AttachOptions("nbd", host="db1"))
        assert len(by_host.detach()) == 1
        assert make_attacher(AttachOptions("nbd", host="db2")).detach() == []

    def test_a_daemon_of_the_media_server_that_died_is_replaced(self) -> None:
        self.make()
        attacher = self.attacher()
        wanted = attacher.wanted()
        attacher.attach(wanted)
        daemon = nbd.Side("attach").daemon(T1)
        assert daemon is not None
        terminate(daemon.process, 0)
        assert attacher.look(wanted) == {}
        again = attacher.attach(wanted)
        assert again.changed
        assert read(again.devices["wal"]) == 0xA1

    def test_what_cannot_be_exported_is_refused(self) -> None:
        with pytest.raises(TransportError, match=r"198\.51\.100\.1 is not an address of the array"):
            self.exporter.preflight(Portal("198.51.100.1"))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 65535))
            taken.listen()
            with pytest.raises(TransportError, match="no port from 65535"):
                self.exporter.preflight(Portal("127.0.0.1", 65535))
