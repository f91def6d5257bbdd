# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy keeps a session when its first place goes, and has an expiry of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import (
    CatalogError,
    Part,
    PartUnknown,
    Volume,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict

PAST, FUTURE = 2.0, 4e9
#: Volumes and their pools.
POOLS = {"D1": "disk", "D2": "disk", "T1": "tape", "T2": "tape", "O1": "offsite"}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(str(tmp_path / "catalog.sqlite"), writable=True) as opened:
        for name in POOLS:
            label(opened, name)
        yield opened


def label(catalog: Catalog, name: str, uuid: str = "", *, allow_last: bool = False) -> None:
    catalog.replace_volume(Volume(name, uuid or name, POOLS[name], 512, "", 1, 2), allow_last=allow_last)


def write(
    catalog: Catalog, session: str, volumes: Sequence[str], expires_s: Optional[float], base: str = "", **more: float
) -> int:
    """A good session with a part on each volume."""
    level = "incremental" if base else "full"
    number = catalog.begin_session(session, "db1", more.get("created_s", 1.0), expires_s, level=level, base=base)
    facts = []
    for index, name in enumerate(volumes):
        known = catalog.volume(name)
        assert known is not None
        part = Part(number, index, name, known.files, known.blocks, 512, index * 4608, 0, False)
        catalog.begin_part(part)
        facts.append({"part": index, "volume": name})
        part = part._replace(records=9, archive_bytes=4608)
        catalog.finish_part(part, files=1, size_bytes=5, write={"parts": facts})
    catalog.close_session(session, Verdict(True, ""), {})
    return number


def copy(catalog: Catalog, number: int, part: int, name: str, expires_s: Optional[float]) -> None:
    """Copy a part to the end of a volume."""
    known = catalog.volume(name)
    first = next(found for found in catalog.parts(number) if found.part == part)
    assert known is not None
    place = first._replace(volume=name, file_number=known.files, block=known.blocks, sha256=b"d" * 32)
    catalog.begin_copy(place)
    assert catalog.unfinished(name, known.files)
    catalog.enter_copy(place, expires_s)


def where(catalog: Catalog, number: int) -> list[list[str]]:
    """The volumes of all places, by part."""
    return [[place.volume for place in places] for places in catalog.places(number).values()]


def needed(catalog: Catalog, name: str) -> list[str]:
    return [session.id for session in catalog.unexpired(name)]


def test_a_copy_lies_behind_what_is_on_its_volume_and_is_a_place_of_its_part(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], FUTURE)
    copy(catalog, number, 0, "T1", FUTURE)
    copy(catalog, number, 0, "O1", None)
    assert where(catalog, number) == [["D1", "T1", "O1"]]
    known = catalog.volume("T1")
    assert known is not None
    assert (known.files, known.blocks) == (2, 12)
    assert not catalog.unfinished("T1", 1)
    assert catalog.finished("T1", 1)
    assert catalog.parts(number)[0].sha256 == b"d" * 32
    assert catalog.session_in("T1", 1) == catalog.session("s1")


def test_what_was_cut_off_is_not_a_copy_and_its_place_is_free(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], FUTURE)
    place = catalog.parts(number)[0]._replace(volume="T1", file_number=1, block=2)
    catalog.begin_copy(place)
    catalog.drop_copy(place)
    assert where(catalog, number) == [["D1"]]
    assert not catalog.unfinished("T1", 1)
    assert not catalog.sessions_on("T1")


def test_a_volume_is_needed_until_its_copies_expire(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], PAST)
    write(catalog, "s2", ["D2"], FUTURE, created_s=9.0)
    copy(catalog, number, 0, "T1", FUTURE)
    copy(catalog, number, 0, "O1", PAST)
    assert (needed(catalog, "D1"), needed(catalog, "T1"), needed(catalog, "O1")) == ([], ["s1"], [])
    with pytest.raises(CatalogError, match="unexpired"):
        label(catalog, "T1", "new")
    label(catalog, "O1", "new")
    assert where(catalog, number) == [["D1", "T1"]]


def test_a_copy_takes_the_place_of_what_is_labelled_anew(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1", "D2"], PAST)
    write(catalog, "s2", ["O1"], FUTURE, created_s=9.0)
    copy(catalog, number, 0, "T1", FUTURE)
    copy(catalog, number, 1, "T2", FUTURE)
    label(catalog, "D1", "new")
    session = catalog.session("s1")
    assert session is not None
    assert session.expires_s == FUTURE
    assert session.state == "good"
    assert catalog.lives_by_copy(session)
    # The part that is left on disk is still a place, and has expired there.
    assert where(catalog, number) == [["T1"], ["T2", "D2"]]
    assert needed(catalog, "D2") == []
    assert needed(catalog, "T2") == ["s1"]
    label(catalog, "D2", "new")
    assert where(catalog, number) == [["T1"], ["T2"]]


def test_a_session_without_a_copy_of_each_part_is_forgotten(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1", "D2"], PAST)
    write(catalog, "s2", ["O1"], FUTURE, created_s=9.0)
    copy(catalog, number, 1, "T2", PAST)
    label(catalog, "D1", "new")
    assert catalog.session("s1") is None
    assert not catalog.copies(number)
    assert not catalog.sessions_on("T2")


def test_the_last_good_session_may_lose_a_place_and_not_the_last_one(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], PAST)
    with pytest.raises(CatalogError, match="last good"):
        label(catalog, "D1", "new")
    copy(catalog, number, 0, "T1", PAST)
    label(catalog, "D1", "new")
    with pytest.raises(CatalogError, match="last good"):
        label(catalog, "T1", "new")
    label(catalog, "T1", "new", allow_last=True)
    assert catalog.session("s1") is None


def test_a_base_is_kept_somewhere_as_long_as_a_copy_builds_on_it(catalog: Catalog) -> None:
    base = write(catalog, "full", ["D1"], PAST)
    inc = write(catalog, "inc", ["D2"], PAST, base="full", created_s=2.0)
    write(catalog, "s3", ["O1"], FUTURE, created_s=9.0)
    copy(catalog, inc, 0, "T1", FUTURE)
    assert needed(catalog, "D1") == ["full"]
    with pytest.raises(CatalogError, match="or wait until inc expires, which builds on it"):
        label(catalog, "D1", "new")
    assert needed(catalog, "D2") == []
    copy(catalog, base, 0, "T2", PAST)
    assert needed(catalog, "D1") == []
    assert needed(catalog, "T2") == []
    label(catalog, "D1", "new")
    assert needed(catalog, "T2") == ["full"]


def test_a_session_that_was_forgotten_meanwhile_gets_no_copy(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], PAST)
    place = catalog.parts(number)[0]._replace(volume="T1", file_number=1, block=2)
    catalog.begin_copy(place)
    label(catalog, "D1", "new", allow_last=True)
    with pytest.raises(PartUnknown):
        catalog.enter_copy(place, None)


def test_the_expiry_of_a_copy_can_be_set(catalog: Catalog) -> None:
    number = write(catalog, "s1", ["D1"], FUTURE)
    copy(catalog, number, 0, "T1", None)
    assert catalog.unexpired("T1")[0].expires_s is None
    catalog.set_copy_expiry(number, ["T1"], time.time() - 1)
    assert needed(catalog, "T1") == []
