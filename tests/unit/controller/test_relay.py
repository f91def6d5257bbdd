# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import random
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.plugin_utils import relay
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Answer, Channel

_OPEN: list[Channel] = []


@pytest.fixture(scope="module", autouse=True)
def plugins() -> None:
    init_plugin_loader()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


def local(host: str) -> Channel:
    """A channel over the real local connection."""
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    _OPEN.append(Channel(host, connection, sys.executable))
    return _OPEN[-1]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces so small that a short file takes several."""
    monkeypatch.setattr(relay, "PIECE_BYTES", 65536)
    return 65536


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
def test_a_file_arrives_whole_and_private(tmp_path: Path, pieces: int, size: int) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "source").write_bytes(content)
    dest = tmp_path / "far" / "folder" / "file"

    relayed = relay.relay_file(local("a"), str(tmp_path / "source"), local("b"), str(dest))

    assert relayed == relay.Relayed(size, hashlib.sha256(content).hexdigest(), changed=True)
    assert dest.read_bytes() == content
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert stat.S_IMODE(dest.parent.stat().st_mode) == 0o700
    assert [path.name for path in dest.parent.iterdir()] == ["file"]


def test_names_are_never_interpreted(tmp_path: Path) -> None:
    odd = tmp_path / "a '$(touch x)' \\ \n b"
    odd.write_bytes(b"content")
    dest = tmp_path / "to" / odd.name
    assert relay.relay_file(local("a"), str(odd), local("b"), str(dest)).changed
    assert dest.read_bytes() == b"content"
    assert not relay.relay_file(local("a"), str(odd), local("b"), str(dest)).changed


def test_an_equal_file_stays_and_another_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    dest = tmp_path / "dest"
    dest.write_bytes(b"old and longer")
    tmp_path.chmod(0o1777)
    assert relay.relay_file(local("a"), str(tmp_path / "source"), local("b"), str(dest)).changed
    assert dest.read_bytes() == b"new"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777  # it is not ours
    before = dest.stat().st_ino
    assert not relay.relay_file(local("a"), str(tmp_path / "source"), local("b"), str(dest)).changed
    assert dest.stat().st_ino == before


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    dest = tmp_path / "folder" / "dest"
    assert relay.relay_file(local("a"), str(tmp_path / "source"), local("b"), str(dest), dry_run=True).changed
    assert not dest.parent.exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnsibleError, match=r"^a: src: .*missing cannot be read"):
        relay.relay_file(local("a"), str(tmp_path / "missing"), local("b"), str(tmp_path / "dest"))


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(AnsibleError, match=r"^b: dest: .* cannot be written"):
        relay.relay_file(local("a"), str(tmp_path / "source"), local("b"), str(tmp_path / "file" / "dest"))
    assert (tmp_path / "file").read_bytes() == b"no folder"


class Hostile:
    """A host that answers what it wants. :param size: what it says of the file; :param piece: what it sends."""

    host = "hostile"

    def __init__(self, size: bytes, piece: bytes, sha256: bytes) -> None:
        self.answers = {"stat": size, "dd": piece, "sha256sum": sha256}

    def run(self, argv: list[str], stdin: bytes | None = None) -> Answer:
        return Answer(0, self.answers[argv[0]], "")


@pytest.mark.parametrize("size", [b"", b"-1", b"nan", b"1e3", b"9" * 400, b"10", b"\xff"])
@pytest.mark.parametrize("sha256", [b"", b"\xff", b"0" * 64 + b"  x\n"])
def test_a_hostile_answer_is_a_sentence_and_leaves_nothing(tmp_path: Path, size: bytes, sha256: bytes) -> None:
    source = cast(Channel, Hostile(size, b"more than was said", sha256))
    with pytest.raises(AnsibleError, match="hostile"):
        relay.relay_file(source, "src", local("b"), str(tmp_path / "to" / "file"))
    assert not (tmp_path / "to").exists() or list((tmp_path / "to").iterdir()) == []


class Broken(Hostile):
    """A host that is lost in the midst."""

    def run(self, argv: list[str], stdin: bytes | None = None) -> Answer:
        if argv[0] != "dd":
            return super().run(argv, stdin)
        if "skip=0" in argv:
            return Answer(0, b"x" * relay.PIECE_BYTES, "")
        raise AnsibleError("hostile: the connection to it is lost")


def test_a_host_that_is_lost_in_the_midst_keeps_no_room(tmp_path: Path, pieces: int) -> None:
    source = cast(Channel, Broken(b"%d" % (2 * pieces), b"", b"0" * 64 + b"  x\n"))
    with pytest.raises(AnsibleError, match="hostile"):
        relay.relay_file(source, "src", local("b"), str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_keeps_no_part(tmp_path: Path, pieces: int) -> None:
    (tmp_path / "source").write_bytes(b"x" * 2 * pieces)
    target = local("b")
    run = target.run

    def full(argv: list[str], stdin: bytes | None = None) -> Answer:
        return run(["sh", "-c", "echo no space >&2; exit 1"]) if "seek=1" in argv else run(argv, stdin)

    target.run = full  # type: ignore[method-assign]
    with pytest.raises(AnsibleError, match=r"^b: dest: .* no space"):
        relay.relay_file(local("a"), str(tmp_path / "source"), target, str(tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
