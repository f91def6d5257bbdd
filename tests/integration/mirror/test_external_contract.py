# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider ``external`` keeps the contract of mirror providers, with each of its kinds, on an array of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host import blockdev
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import short_session
from ansible_collections.splitmirror.backup.tests.seams.mirrors import (
    MIB,
    SESSION,
    MirrorContract,
    read_by_another,
    refused,
)
from ansible_collections.splitmirror.backup.tests.support import toyoptions, toyrest
from ansible_collections.splitmirror.backup.tests.support.toyarray import ToyArray

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toyrest.make_certificate(tmp_path_factory.mktemp("certificate"))


class External(MirrorContract):
    """An array of the tests, in a folder of a disk."""

    kind = "external"

    @pytest.fixture(autouse=True)
    def _array(self, scratch: Path, certificate: Path) -> Iterator[None]:
        self.folder = scratch / "array"
        self.array = ToyArray(self.folder)
        with toyrest.rest_api(self.array, certificate) as self.api, self:
            self.certificate = certificate
            yield

    def make(self) -> None:
        self.array.make(["t0.img", "t1.img"], 16 * MIB)

    def remove(self, failed: bool) -> None:
        for name in ("t0", "t1"):
            self.array.unmap(f"{name}.snap")
        shutil.rmtree(self.folder)

    def pairs(self) -> list[dict[str, str]]:
        return toyoptions.PAIRS

    def primary(self, name: str) -> str:
        return f"{self.folder}/{name}.img"

    def provider(self, **changed: Any) -> MirrorProvider:
        return super().provider(**{"options": self.all_options(), "secrets": toyoptions.SECRETS, **changed})

    def all_options(self) -> dict[str, Any]:
        raise NotImplementedError

    def mark_of(self, session: str) -> str:
        return short_session(session)

    def is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen" and "look" in args[1]:
            return False
        if (event == "open" and os.path.isdir(args[0])) or (event == "fcntl.ioctl" and args[1] == blockdev.BLKFLSBUF):
            return False  # a file without a name, for the output of a program; and what is only cached
        return event == "http.client.send" or super().is_step(event, args)

    def check_whole(self) -> None:
        super().check_whole()
        assert list(self.array.snaps.iterdir()) == []

    @contextmanager
    def faulty(self, **faults: str) -> Iterator[None]:
        with self.array.faulty(**faults):
            yield

    @contextmanager
    def not_in_sync(self) -> Iterator[None]:
        aside = Path(self.primary("t0")).rename(self.folder / "aside")
        yield
        aside.rename(self.primary("t0"))

    def not_splittable(self) -> AbstractContextManager[object]:
        return self.faulty(split="refuse t1.img")

    @contextmanager
    def foreign(self) -> Iterator[None]:
        snap = self.array.snaps / "t0.snap"
        snap.write_text("precious", encoding="ascii")
        yield
        assert snap.read_text(encoding="ascii") == "precious"
        snap.unlink()

    def test_a_mirror_that_is_removed_while_it_is_read_fails_the_session(self) -> None:
        self.provider().split(SESSION)
        self.provider().present(SESSION)
        # The device goes on answering, as those of many arrays do.
        for name in ("t1.snap", "t1.snap.mark"):
            (self.array.snaps / name).unlink()
        refused(lambda: self.provider().present(SESSION), "pair t1: the array does not have the mirror of session")
        refused(lambda: self.provider().withdraw(SESSION), "what was read of it is worthless")
        assert self.array.devices("t0.snap") == []
        assert self.provider().withdraw(SESSION) == []
        for device in self.array.deleted():
            subprocess.run(["losetup", "--detach", device], check=True)
        self.provider().resync(SESSION, wait=True, timeout_s=30)
        self.check_whole()

    def test_two_mirrors_shown_as_one_device_are_refused(self) -> None:
        self.provider().split(SESSION)
        with self.faulty(present="same t1.snap"):
            refused(lambda: self.provider().present(SESSION), "pairs t0 and t1 are both shown as /dev/loop")
        self.provider().withdraw(SESSION)
        self.provider().resync(SESSION, wait=True, timeout_s=30)
        self.check_whole()

    def test_a_device_that_somebody_has_is_not_made_read_only(self) -> None:
        """An array that shows the wrong disk: the database may be on it. Nor is that of the pair before it."""
        self.provider().split(SESSION)
        devices = []
        for name in ("t0.snap", "t1.snap"):
            words = ["losetup", "--find", "--show", str(self.array.snaps / name)]
            devices.append(subprocess.check_output(words, text=True).strip())
        with read_by_another(devices[1]):
            refused(lambda: self.provider().present(SESSION), f"pair t1: {devices[1]} is in use by")
            for device in devices:
                assert Path(f"/sys/class/block/{Path(device).name}/ro").read_text(encoding="ascii") == "0\n"
        self.provider().recover()
        self.check_whole()


class TestProgram(External):
    """A program that stands ready."""

    def all_options(self) -> dict[str, Any]:
        return toyoptions.of_program(self.folder)


class TestCommands(External):
    """A command for each pair."""

    def all_options(self) -> dict[str, Any]:
        return toyoptions.of_commands(self.folder)


class TestHttp(External):
    """Requests; the split is one that the array answers before it is done."""

    def all_options(self) -> dict[str, Any]:
        return toyoptions.of_http(self.api, self.certificate)
