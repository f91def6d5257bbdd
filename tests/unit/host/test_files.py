# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are replaced whole, also by several writers at once, and what is left of writers that were killed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.files import (
    partial,
    partials,
    remove_partials,
    replace_file,
    replacing,
)


def in_thread(work: object) -> None:
    assert callable(work)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with replacing(path) as stream:
        stream.write(b"first ")
        stream.flush()
        in_thread(lambda: replace_file(path, "other"))
        assert (tmp_path / "s").read_bytes() == b"other"
        stream.write(b"second")
    assert (tmp_path / "s").read_bytes() == b"first second"
    assert os.listdir(tmp_path) == ["s"]


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    replace_file(path, "before")
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.write("after")  # type: ignore[call-overload]
    assert ((tmp_path / "s").read_text(), os.listdir(tmp_path)) == ("before", ["s"])


def test_what_killed_writers_left_is_known_by_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / "a.json")
    other = ["b.json", "b.json.7.new", "a.json.x.new", "xa.json.7.new"]
    for name in ["a.json", "a.json.new", "a.json.7.new", "a.json.123456.new", *other]:
        (tmp_path / name).touch()
    assert os.path.dirname(partial(path)) == str(tmp_path)
    assert {whole for part, whole in partials(str(tmp_path)) if part.endswith("/a.json.7.new")} == {path}
    remove_partials(path)
    assert sorted(os.listdir(tmp_path)) == sorted(["a.json", *other])


def test_who_writes_alone_removes_it(tmp_path: Path) -> None:
    path = str(tmp_path / "a.json")
    in_thread(lambda: Path(partial(path)).touch())
    (tmp_path / "a.json.new").touch()
    replace_file(path, "1")
    assert len(os.listdir(tmp_path)) == 3
    replace_file(path, "2", alone=True)
    assert os.listdir(tmp_path) == ["a.json"]
