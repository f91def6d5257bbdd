# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The archive of label files and logs."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import EndResult, LabelFile
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.extras import ExtrasError, write_extras

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=120).filter(
        lambda name: name not in (".", "..")
    ),
    min_size=1,
    max_size=4,
)


@given(parts=NAMES, content=st.binary(max_size=3000), mode=st.integers(0, 0o777), uid=st.integers(0, 1 << 31))
def test_a_label_file_is_kept_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], content: bytes, mode: int, uid: int
) -> None:
    path = tmp_path_factory.mktemp("extras") / "extras.tar"
    label = LabelFile("/" + "/".join(parts), content, mode, uid, 7)
    size = write_extras(str(path), [EndResult([label])])

    assert size == path.stat().st_size
    with tarfile.open(path) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.mode, member.uid, member.gid) == ("/".join(parts), mode, uid, 7)
        stream = archive.extractfile(member)
        assert stream is not None
        assert stream.read() == content


def test_logs_come_after_labels_with_their_attributes(tmp_path: Path) -> None:
    log = tmp_path / "pg_wal" / ("x" * 150)
    log.parent.mkdir()
    log.write_bytes(os.urandom(100_000))
    log.chmod(0o640)
    os.utime(log, (1_000_000_000, 1_000_000_000))
    path = tmp_path / "extras.tar"
    write_extras(str(path), [EndResult([LabelFile("/data/backup_label", b"label", 0o600, 0, 0)], [str(log)])])

    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        label, kept = archive.getmembers()
        assert (label.name, kept.name) == ("data/backup_label", str(log)[1:])
        assert (kept.mode, kept.mtime, kept.size) == (0o640, 1_000_000_000, 100_000)
        stream = archive.extractfile(kept)
        assert stream is not None
        assert stream.read() == log.read_bytes()


def test_a_log_that_is_gone_leaves_no_archive_that_looks_whole(tmp_path: Path) -> None:
    path = tmp_path / "extras.tar"
    label = LabelFile("/data/backup_label", b"label", 0o600, 0, 0)
    with pytest.raises(ExtrasError, match="could not be kept"):
        write_extras(str(path), [EndResult([label], [str(tmp_path / "gone")])])
    assert not path.exists()
