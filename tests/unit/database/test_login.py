# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords, and the user of the host who connects to a database."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import DatabaseError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.login import as_os_user, login_password


def test_a_password_comes_from_its_file_or_its_option(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("från en fil\nand a second line\n", encoding="utf-8")
    assert login_password("here", {"login_password": None, "login_password_file": None}) is None
    assert login_password("here", {"login_password": "plain", "login_password_file": None}) == "plain"
    assert login_password("here", {"login_password": "plain", "login_password_file": str(path)}) == "från en fil"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_password_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatabaseError, match=f"here: login_password_file {path} cannot be read"):
        login_password("here", {"login_password": None, "login_password_file": str(path)})


@pytest.mark.root
def test_an_os_user_for_as_long_as_it_is_wanted() -> None:
    before = os.geteuid(), os.getegid()
    with contextlib.suppress(KeyError), as_os_user("here", "nobody"):
        assert (os.geteuid(), os.getegid()) != before
        raise KeyError
    assert (os.geteuid(), os.getegid()) == before
    with as_os_user("here", ""):
        assert (os.geteuid(), os.getegid()) == before


@pytest.mark.root
def test_an_os_user_that_this_host_does_not_have() -> None:
    with (
        pytest.raises(DatabaseError, match="here: os_user 'nobody-at-all' is not a user of this host"),
        as_os_user("here", "nobody-at-all"),
    ):
        pass
