# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.database.pg_relocation import (
    find_data_directories,
    relocate,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.relocation import Move, RelocationError


def restored(target: Path, space: str = "srv/space one") -> Path:
    """What tar makes of a data directory with one tablespace and WAL elsewhere."""
    data = target / "var/lib/pg"
    (data / "global").mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    (data / "pg_tblspc").mkdir()
    (target / space).mkdir(parents=True)
    (target / "srv/wal").mkdir(parents=True)
    (data / "pg_tblspc/16400").symlink_to(f"/{space}")
    (data / "pg_wal").symlink_to("/srv/wal")
    escaped = f"/{space}".replace("\\", "\\\\").replace("\n", "\\\n").replace("\r", "\\\r")
    (data / "tablespace_map").write_bytes(os.fsencode(f"16400 {escaped}\n"))
    return data


def test_links_and_map_lead_into_the_target(tmp_path: Path) -> None:
    data = restored(tmp_path)
    assert find_data_directories(str(tmp_path)) == [str(data)]

    moves = relocate(str(tmp_path), str(data))

    assert os.readlink(data / "pg_tblspc/16400") == f"{tmp_path}/srv/space one"
    assert os.readlink(data / "pg_wal") == f"{tmp_path}/srv/wal"
    assert (data / "tablespace_map").read_text() == f"16400 {tmp_path}/srv/space one\n"
    assert Move(str(data / "pg_wal"), "/srv/wal", f"{tmp_path}/srv/wal") in moves
    assert len(moves) == 3
    assert relocate(str(tmp_path), str(data)) == []


def test_a_dry_run_tells_the_same_and_changes_nothing(tmp_path: Path) -> None:
    data = restored(tmp_path)
    told = relocate(str(tmp_path), str(data), dry_run=True)
    assert os.readlink(data / "pg_wal") == "/srv/wal"
    assert (data / "tablespace_map").read_text() == "16400 /srv/space one\n"
    assert told == relocate(str(tmp_path), str(data))


def test_a_tablespace_that_was_not_restored_is_refused(tmp_path: Path) -> None:
    data = restored(tmp_path)
    (tmp_path / "srv/space one").rmdir()
    with pytest.raises(RelocationError, match="not among the restored files"):
        relocate(str(tmp_path), str(data))


def test_a_link_that_leads_out_of_the_target_is_refused(tmp_path: Path) -> None:
    data = restored(tmp_path / "target")
    outside = tmp_path / "outside"
    outside.mkdir()
    (data / "pg_wal").unlink()
    (data / "pg_wal").symlink_to("../../../../outside")
    with pytest.raises(RelocationError):
        relocate(str(tmp_path / "target"), str(data))


@pytest.mark.slow
@given(st.text("ab \\\n\r", min_size=1, max_size=12))
def test_odd_names_survive_the_map(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    target = tmp_path_factory.mktemp("restore")
    data = restored(target, f"srv/x{name}x")
    relocate(str(target), str(data))
    escaped = f"{target}/srv/x{name}x".replace("\\", "\\\\").replace("\n", "\\\n").replace("\r", "\\\r")
    assert (data / "tablespace_map").read_bytes() == os.fsencode(f"16400 {escaped}\n")


def test_every_kind_of_link_leads_to_the_restored_file(tmp_path: Path) -> None:
    data = restored(tmp_path)
    (tmp_path / "srv/big/16384").mkdir(parents=True)
    (tmp_path / "srv/conf").write_text("x")
    (data / "base").mkdir()
    (data / "base/16384").symlink_to("/srv/big/16384")  # a folder
    (tmp_path / "srv/big/16384/1").symlink_to("../../conf")  # relative, below a link
    (tmp_path / "srv/by").symlink_to("/srv/big")  # one on the way
    (data / "base/5").symlink_to("/srv/by/16384")
    (data / "postgresql.conf").symlink_to("/srv/conf")  # a file
    (data / "other.conf").symlink_to("postgresql.conf")  # a link to a link

    relocate(str(tmp_path), str(data))

    srv = tmp_path / "srv"
    assert os.readlink(data / "base/16384") == os.readlink(data / "base/5") == f"{srv}/big/16384"
    assert os.readlink(srv / "big/16384/1") == "../../conf"
    assert os.path.realpath(data / "other.conf") == os.path.realpath(data / "postgresql.conf") == f"{srv}/conf"
    assert relocate(str(tmp_path), str(data)) == []


def test_a_link_in_place_of_a_scratch_folder_becomes_an_empty_folder(tmp_path: Path) -> None:
    data = restored(tmp_path)
    (data / "pg_stat_tmp").symlink_to("/run/somewhere")
    assert len(relocate(str(tmp_path), str(data), dry_run=True)) == 4
    relocate(str(tmp_path), str(data))
    assert not (data / "pg_stat_tmp").is_symlink()
    assert list((data / "pg_stat_tmp").iterdir()) == []
    assert relocate(str(tmp_path), str(data)) == []


@st.composite
def webs(draw: st.DrawFn) -> dict[str, str]:
    """Links in a data directory and beside it, leading anywhere, to each other too."""
    names = ["var/lib/pg/a", "var/lib/pg/base/b", "srv/wal/c", "srv/d"]
    word = st.sampled_from(["..", ".", "srv", "wal", "var", "lib", "pg", "base", "a", "b", "c", "d", "etc", "passwd"])
    text = st.builds(lambda head, words: head + "/".join(words), st.sampled_from(["", "/"]), st.lists(word, min_size=1))
    return {name: draw(text) for name in names if draw(st.booleans())}


@pytest.mark.slow
@given(webs())
def test_whatever_links_there_are_none_leads_out(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    target = tmp_path_factory.mktemp("restore")
    data = restored(target)
    (data / "base").mkdir()
    for name, text in links.items():
        (target / name).symlink_to(text)
    try:
        dry = relocate(str(target), str(data), dry_run=True)
        moved = relocate(str(target), str(data))
    except RelocationError:
        return
    assert moved == dry
    seen, folders = set(), [str(data)]
    while folders:
        folder = folders.pop()
        for name in os.listdir(folder):
            real = os.path.realpath(os.path.join(folder, name))
            assert f"{real}/".startswith(f"{target}/")
            if os.path.isdir(real) and real not in seen:
                seen.add(real)
                folders.append(real)


@pytest.mark.root
@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFCHR])
@pytest.mark.parametrize("place", ["var/lib/pg/base", "srv/space one/PG_15"])
def test_a_device_among_the_files_is_refused(tmp_path: Path, kind: int, place: str) -> None:
    data = restored(tmp_path)
    (tmp_path / place).mkdir(parents=True)
    os.mknod(tmp_path / place / "1259", 0o600 | kind, os.makedev(1, 3))
    with pytest.raises(RelocationError, match="is a device"):
        relocate(str(tmp_path), str(data))
