# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ACLs as text, compared with what getfacl says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.acl import acl_text
from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import ArchiveError


@pytest.mark.parametrize("spec", ["u:1000:rw", "u:1000:rwx,g:5:-,u:70000:x,m::r", "o::-,g::rx,g:4000000000:w"])
def test_it_says_what_getfacl_says(tmp_path: Path, spec: str) -> None:
    path = tmp_path / "file"
    path.touch()
    try:
        subprocess.run(["setfacl", "-m", spec, path], check=True)
    except subprocess.CalledProcessError:
        pytest.skip("the temporary folder has no ACLs")
    shown = subprocess.run(["getfacl", "-cn", "--no-effective", path], capture_output=True, check=True).stdout
    assert acl_text(os.getxattr(path, "system.posix_acl_access")) == b",".join(shown.split())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0\0abc",
        b"\1\0\0\0" + bytes(8),
        b"\2\0\0\0" + b"\x40\0\4\0" + bytes(4),
        b"\2\0\0\0\1\0\x0f\0" + bytes(4),
    ],
)
def test_what_linux_does_not_make_is_refused(value: bytes) -> None:
    with pytest.raises(ArchiveError, match="ACL"):
        acl_text(value)
