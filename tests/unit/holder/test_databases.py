# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the holder calls a database in the window, and what becomes of a hot backup that ends there."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, ClassVar, Mapping, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database import registry
from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import (
    Capabilities,
    DatabaseDriver,
    DatabaseError,
    EndResult,
    LabelFile,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.tests.support.freezing import HolderUnderTest, holder

pytestmark = pytest.mark.root


class Staged(DatabaseDriver):
    """A database with backup stages, like MariaDB's: the last stage stops commits, and its end is the thaw."""

    name: ClassVar[str] = "staged"
    argument_spec: ClassVar[dict[str, dict[str, Any]]] = {"log": {"type": "path"}, "stuck": {"type": "bool"}}
    _position: Optional[bytes] = None

    @classmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        return Capabilities(hot_backup=True, freeze=False)

    def preflight(self) -> dict[str, Any]:
        return {}

    def files(self) -> list[Scope]:
        return []

    def begin(self, backup_name: str) -> None:
        self._write("start")

    def prepare_window(self) -> None:
        self._write("flush")

    def in_window(self, limit_s: float, started: Optional[Callable[[int], None]] = None) -> None:
        assert 0 < limit_s <= 30
        self._write("block commits")
        if self.options["stuck"]:
            raise DatabaseError(f"{self.where}: a long transaction does not let go.")
        self._position = b"17"

    def thaw(self) -> None:
        self._write("end")

    def end(self) -> EndResult:
        if self._position is None:
            raise self._not_begun()
        return EndResult(label_files=[LabelFile("/position", self._position, 0o600, 0, 0)])

    def close(self) -> None:
        self._write("close")

    def _write(self, word: str) -> None:
        with open(self.options["log"], "a", encoding="utf-8") as stream:
            stream.write(word + "\n")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HolderUnderTest]:
    monkeypatch.setitem(registry.DRIVERS, "staged", Staged)  # the holder is forked from this process
    with holder(tmp_path) as running:
        yield running


def begin(held: HolderUnderTest, log: Path, **options: Any) -> None:
    """Begin hot backup of a staged database, with another beside it that is frozen and thawed by commands."""
    shell = {word: ["/bin/sh", "-c", f"echo {word} >>{log}"] for word in ("freeze", "thaw")}
    held.ask(
        "begin",
        databases=[
            {"name": "hot", "driver": "staged", "staged": {"log": str(log), **options}},
            {"name": "cold", "driver": "commands", "commands": shell},
        ],
    )


def test_a_hot_backup_may_end_with_the_window(tmp_path: Path, held: HolderUnderTest) -> None:
    log = tmp_path / "log"
    begin(held, log)

    held.ask("freeze", mounts=[], deadline_s=60)
    assert log.read_text().split("\n")[:-1] == ["start", "flush", "block commits", "freeze"]
    assert held.ask("thaw")["intact"]
    ended = held.ask("end")

    assert log.read_text().split("\n")[4:-1] == ["thaw", "end", "close"]
    assert (ended["evidence"]["ended_cleanly"], ended["evidence"]["same_session"]) == (True, True)
    with tarfile.open(ended["extras"]) as archive:
        position = archive.extractfile("position")
        assert position is not None
        assert position.read() == b"17"


def test_a_database_that_does_not_stop_in_the_window_leaves_nothing_stopped(
    tmp_path: Path, held: HolderUnderTest
) -> None:
    log = tmp_path / "log"
    begin(held, log, stuck=True)

    with pytest.raises(Refused, match="a long transaction does not let go"):
        held.ask("freeze", mounts=[], deadline_s=60)

    assert log.read_text().split("\n")[:-1] == ["start", "flush", "block commits", "end"]
    assert not held.ask("status")["frozen"]
    assert not held.ask("end")["evidence"]["ended_cleanly"]


def test_a_hot_backup_alone_is_nothing_to_freeze(tmp_path: Path, held: HolderUnderTest) -> None:
    held.ask("begin", databases=[{"name": "hot", "driver": "staged", "staged": {"log": str(tmp_path / "log")}}])
    with pytest.raises(Refused, match="there is nothing to freeze"):
        held.ask("freeze", mounts=[], deadline_s=60)
