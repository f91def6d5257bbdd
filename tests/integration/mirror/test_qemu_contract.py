# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider ``qemu`` keeps the contract of mirror providers, on a qemu-storage-daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.qemu import node_of
from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, SESSION, MirrorContract
from ansible_collections.splitmirror.backup.tests.support.qemu import StorageDaemon, clear, need_storage_daemon

pytestmark = pytest.mark.root


class TestQemu(MirrorContract):
    """Two disks of a storage daemon: raw images that it shows as files, as it would show them to a guest."""

    kind = "qemu"

    @pytest.fixture(autouse=True)
    def _array(self, tmp_path: Path) -> Iterator[None]:
        need_storage_daemon()
        self.folder = tmp_path
        with self:
            yield

    def make(self) -> None:
        self.daemon = StorageDaemon(self.folder)
        self.options = {"qmp_socket": str(self.daemon.socket)}
        self.daemon.start()
        for name in ("t0", "t1"):
            self.daemon.add_disk(name, 16 * MIB)

    def remove(self, failed: bool) -> None:
        self.daemon.kill()
        clear(self.folder)

    def pairs(self) -> list[dict[str, str]]:
        return [{"name": n, "primary": n, "mirror": str(self.folder / f"{n}.mirror")} for n in ("t0", "t1")]

    def primary(self, name: str) -> str:
        return str(self.daemon.shown(name))

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        """Also before each command that changes something in QEMU; sendmsg is an audit event, but says not what."""
        if event != "socket.sendmsg":
            return super().is_step(event, args)
        frame = sys._getframe(1)
        while "command" not in frame.f_locals and frame.f_back is not None:
            frame = frame.f_back
        command = str(frame.f_locals.get("command", "query-"))
        return not command.startswith(("query-", "qmp_"))

    def check_whole(self) -> None:
        super().check_whole()
        assert self.daemon.nodes() == ["t0", "t1"]
        assert self.daemon.ask("query-jobs") == []
        assert sorted(export["id"] for export in self.daemon.ask("query-block-exports")) == ["t0", "t1"]
        assert not [path.name for path in self.folder.iterdir() if "mirror" in path.name]

    @contextmanager
    def not_in_sync(self) -> Iterator[None]:
        self.daemon.remove_disk("t0")
        yield
        self.daemon.add_disk("t0")

    @contextmanager
    def not_splittable(self) -> Iterator[None]:
        """An administrator takes the scratch image of t1 away from QEMU."""
        (pair,) = [pair for pair in self.provider().pairs if pair.name == "t1"]
        self.daemon.ask("blockdev-del", node_name=node_of(pair, SESSION))
        yield

    @contextmanager
    def foreign(self) -> Iterator[None]:
        mirror = self.folder / "t0.mirror"
        mirror.write_text("precious")
        yield
        assert mirror.read_text() == "precious"
        mirror.unlink()

    def test_images_whose_names_begin_as_ours_are_left_alone(self) -> None:
        """The word between may be a session's id; an image of a guest has often such a name."""
        names = (
            "t0.mirror.root.qcow2",
            "t0.mirror.root.sm1234567abcdefgh.qcow2",
            "t0.mirror.s1.fuse",
            "t0.mirror.s1.qcow2",
        )
        for name in names:
            (self.folder / name).write_text("precious")
        assert [state.problem for state in self.provider().state()] == [None, None]
        assert self.provider().recover() == []
        self.provider().split(SESSION)
        self.provider().resync(SESSION, wait=True, timeout_s=30)
        for name in names:
            assert (self.folder / name).read_text() == "precious"
            (self.folder / name).unlink()
        self.check_whole()
