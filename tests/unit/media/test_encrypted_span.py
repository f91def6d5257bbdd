# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted sessions over several volumes: each part is an age file of its own, also one inside a member."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.lookup import find_good_session
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_identities, parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import NO_KEYS, Keyring
from ansible_collections.splitmirror.backup.plugins.module_utils.media.verify import verify_session
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.tests.support.agekeys import PUBLIC, SECRET, key_file, needs_age
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults
from ansible_collections.splitmirror.backup.tests.support.tape import Held, InTurn, Library, judge
from ansible_collections.splitmirror.backup.tests.unit.media.test_span import (
    FILES,
    LARGE_NAME,
    RECORD_BYTES,
    TREE,
    VOLUMES,
    contents,
    crossed,
    everything,
    fresh,
    lose_catalog,
    make_volumes,
    parts_of,
    places,
    refused,
    tape_file,
)

pytestmark = pytest.mark.slow

KEYS = Keyring(parse_identities(SECRET))
RECIPIENTS = parse_recipients([PUBLIC], "recipients")


def back_up(library: Library, faults: Optional[Faults] = None) -> None:
    with library.drive(faults=faults) as drive:
        job = library.job("s1", TREE, recipients=RECIPIENTS)
        done = write_session(job, lambda catalog: InTurn(catalog, Held(drive), VOLUMES))
    judge(library, "s1", done)


@pytest.fixture
def pattern(library: Library) -> Path:
    """The folder of a library with a pool, closed, to be copied."""
    make_volumes(library)
    library.catalog.close()
    return library.state_dir


@pytest.fixture
def spanned(pattern: Path) -> Library:
    """An encrypted session over several volumes, one member of which crosses three of them."""
    library = Library(pattern)
    back_up(library)
    return library


def verify(library: Library, keyring: Keyring) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        session = find_good_session(library.catalog, "s1", None)
        return verify_session(session, library.catalog, Held(drive), keyring=keyring)


def enter(library: Library, volume: str, keyring: Keyring) -> dict[str, Any]:
    with library.drive(writable=False) as drive:
        return rebuild(volume, library.catalog, drive, keyring=keyring)


def all_known(library: Library) -> tuple[Any, ...]:
    """What the catalog has, but for how much goes on a volume, in which short records count as full ones."""
    *session, volumes = everything(library)
    return (*session, [volume._replace(capacity_bytes=None) for volume in volumes])


def comes_back(library: Library, target: Path) -> None:
    verify(library, KEYS)
    library.restore("s1", target, keyring=KEYS)
    assert contents(target) == FILES
    shutil.rmtree(target)


def test_all_of_it_comes_back_and_each_part_has_a_key_of_its_own(spanned: Library, tmp_path: Path) -> None:
    parts = parts_of(spanned)
    assert len(crossed(spanned)) == 3
    assert len({KEYS.key_of_part(part, "x") for part in parts}) == len({part.age_head for part in parts}) == len(parts)
    assert all(tape_file(spanned, part).read_bytes().startswith(part.age_head) for part in parts)
    comes_back(spanned, tmp_path / "t")
    assert verify(spanned, NO_KEYS)["records_read"] == sum(part.records for part in parts)
    large = spanned.restore("s1", tmp_path / "one", LARGE_NAME, keyring=KEYS)
    assert large["volumes"] == [part.volume for part in crossed(spanned)]
    assert contents(tmp_path / "one") == {LARGE_NAME[1:]: FILES[LARGE_NAME[1:]]}


@needs_age
def test_age_and_plain_tar_join_the_parts(spanned: Library, tmp_path: Path) -> None:
    key, target = key_file(tmp_path), tmp_path / "t"
    target.mkdir()
    plain = []
    for part in parts_of(spanned):
        plain.append(tmp_path / f"{part.part}.tar")
        words: list[Any] = ["age", "--decrypt", "-i", key, "-o", plain[-1], tape_file(spanned, part)]
        subprocess.run(words, check=True)
        assert plain[-1].stat().st_size == part.archive_bytes
    names = itertools.chain.from_iterable(("-f", path) for path in plain)
    command: list[Any] = ["tar", "-x", "-M", "-b", str(RECORD_BYTES // 512), *names, "-C", target]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert {name: data for name, data in contents(target).items() if not name.startswith(".split")} == FILES


def test_it_is_rebuilt_from_its_volumes_and_kept_for_the_key_until_then(spanned: Library, tmp_path: Path) -> None:
    expected, parts = all_known(spanned), parts_of(spanned)
    lose_catalog(spanned)
    for part in parts:
        (damage,) = enter(spanned, part.volume, NO_KEYS)["damaged"]
        assert f"part {part.part + 1} of session s1" in damage["reason"]
    for part in reversed(parts):
        (entered,) = enter(spanned, part.volume, KEYS)["entered"]
        assert entered["state"] == ("good" if part is parts[0] else "damaged")
    assert all_known(spanned) == expected
    assert [session.id for session in spanned.catalog.sessions()] == ["s1"]
    comes_back(spanned, tmp_path / "t")


def test_a_lost_volume_costs_what_is_on_it_and_the_others_need_their_key(spanned: Library, tmp_path: Path) -> None:
    assert refused(partial(spanned.restore, "s1", tmp_path / "t")).code == "key_missing"
    part = crossed(spanned)[1]
    (spanned.folder / part.volume).rename(tmp_path / "away")
    error = refused(partial(spanned.restore, "s1", tmp_path / "t", keyring=KEYS))
    assert error.code == "volume_missing"
    found = contents(tmp_path / "t")
    assert found.items() >= {name: data for name, data in FILES.items() if name != LARGE_NAME[1:]}.items()
    assert refused(partial(verify, spanned, NO_KEYS)).code == "volume_missing"


@pytest.mark.slow
def test_a_volume_that_ends_or_fails_at_any_record_is_a_normal_answer(pattern: Path, tmp_path: Path) -> None:
    library = fresh(tmp_path / "shape", pattern)
    with library.drive() as drive:
        job = library.job("s0", TREE, recipients=RECIPIENTS)
        write_session(job, lambda catalog: InTurn(catalog, Held(drive), VOLUMES))
        records, _filemarks = drive.tried  # type: ignore[attr-defined]
    library.catalog.close()
    for record in places(records)[::2]:
        for faults in (Faults(full_at=record), Faults(write_error_at=record)):
            library = fresh(tmp_path / "again", pattern)
            back_up(library, faults)
            comes_back(library, tmp_path / "t")
            library.catalog.close()
