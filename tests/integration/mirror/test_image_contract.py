# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The provider ``image`` keeps the contract of mirror providers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import loop
from ansible_collections.splitmirror.backup.tests.seams.mirrors import MIB, MirrorContract
from ansible_collections.splitmirror.backup.tests.support.blockdev import XFS_MIN_MIB, loop_device, make_image, mounted

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    scratch = tmp_path_factory.mktemp("xfs")
    image = make_image(scratch / "array.xfs", XFS_MIN_MIB, "xfs")
    with loop_device(image) as device, mounted(device, scratch / "array") as folder:
        yield folder


class TestImage(MirrorContract):
    """Image files in a folder of an XFS."""

    kind = "image"

    @pytest.fixture(autouse=True)
    def _array(self, xfs: Path) -> Iterator[None]:
        self.folder = xfs / "luns"
        with self:
            yield

    def make(self) -> None:
        self.folder.mkdir()
        for name in ("t0", "t1"):
            with open(self.primary(name), "wb") as image:
                image.truncate(16 * MIB)

    def remove(self, failed: bool) -> None:
        for pair in self.pairs():
            for device in loop.loops_of(pair["mirror"]):
                loop.detach(device.path, pair["mirror"])
        shutil.rmtree(self.folder)

    def pairs(self) -> list[dict[str, str]]:
        return [{"name": n, "primary": self.primary(n), "mirror": f"{self.folder}/{n}.mirror"} for n in ("t0", "t1")]

    def primary(self, name: str) -> str:
        return f"{self.folder}/{name}.img"

    def check_whole(self) -> None:
        super().check_whole()
        assert sorted(path.name for path in self.folder.iterdir()) == ["t0.img", "t1.img"]

    @contextmanager
    def not_in_sync(self) -> Iterator[None]:
        aside = Path(self.primary("t0")).rename(self.folder / "aside")
        yield
        aside.rename(self.primary("t0"))

    @contextmanager
    def _in_the_way(self, name: str) -> Iterator[None]:
        mirror = self.folder / f"{name}.mirror"
        mirror.write_text("precious")
        yield
        assert mirror.read_text() == "precious"
        mirror.unlink()

    def not_splittable(self) -> AbstractContextManager[object]:
        return self._in_the_way("t1")

    def foreign(self) -> AbstractContextManager[object]:
        return self._in_the_way("t0")
