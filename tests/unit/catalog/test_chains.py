# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chains of sessions in the catalog: what they hold together, and how long a base is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.archive.model import MemberRecord
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import (
    INCREMENTAL,
    CatalogError,
    Part,
    Volume,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.standing import standing_of
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.media.retention import Rule, judge

GOOD = Verdict(True, "")
YEAR_S = 365 * 86400


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(str(tmp_path / "catalog.sqlite"), writable=True) as opened:
        yield opened


def put(
    catalog: Catalog,
    session: str,
    members: str,
    *,
    base: str = "",
    removed: str = "",
    expires_s: float | None = None,
    created_s: float | None = None,
) -> None:
    """Enter a good session with files on a volume of its own name."""
    catalog.replace_volume(Volume(session, f"uuid-{session}", "daily", 512, "", 1, 2))
    level = {"level": INCREMENTAL, "base": base} if base else {}
    number = catalog.begin_session(session, "db1", created_s or time.time(), expires_s, **level)
    part = Part(number, 0, session, 1, 2, 512, 0, 0, False)
    catalog.begin_part(part)
    catalog.add_members(
        number,
        0,
        [
            MemberRecord(name.encode(), "f", 0, 1024 * place, 512, None, 0, 0o600, 0, 0, None, b"h" * 16)
            for place, name in enumerate(members.split())
        ],
    )
    if base:
        catalog.set_removed(number, [name.encode() for name in removed.split()])
    catalog.finish_part(part._replace(records=99, archive_bytes=99 * 512), files=1, size_bytes=0, write={})
    catalog.close_session(session, GOOD, {})


def chain_of(catalog: Catalog, session: str) -> list[int]:
    found = catalog.session(session)
    assert found is not None
    return [known.number for known in reversed([found, *catalog.bases(found)])]


def held(catalog: Catalog, session: str, wanted: list[bytes] | None = None) -> dict[str, int]:
    """Names of the members of a session, each with the number of the session that has it."""
    chain = chain_of(catalog, session)
    catalog.choose(chain, wanted)
    return {
        member.path.decode(): number
        for number in chain
        for part in catalog.parts(number)
        for _part, member in catalog.chosen(chain, part, None, all_of_it=wanted is None)
    }


def test_the_newest_session_that_names_a_path_says_what_it_is(catalog: Catalog) -> None:
    put(catalog, "s0", "a b c d d/e")
    put(catalog, "s1", "b f", base="s0", removed="c d d/e")
    put(catalog, "s2", "c", base="s1", removed="f a")
    one, two, three = chain_of(catalog, "s2")
    assert held(catalog, "s0") == dict.fromkeys(["a", "b", "c", "d", "d/e"], one)
    assert held(catalog, "s1") == {"a": one, "b": two, "f": two}
    assert held(catalog, "s2") == {"b": two, "c": three}
    assert held(catalog, "s2", [b"c", b"d"]) == {"c": three}
    assert held(catalog, "s0", [b"d"]) == {"d": one, "d/e": one}
    chain = chain_of(catalog, "s2")
    assert [catalog.chain_has(chain, name) for name in (b"a", b"b", b"c", b"d", b"")] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert [session.id for session in catalog.bases(catalog.sessions()[2])] == ["s1", "s0"]


def test_a_base_is_kept_as_long_as_a_session_builds_on_it(catalog: Catalog) -> None:
    now_s = time.time()
    put(catalog, "s0", "a", expires_s=now_s - 2)
    put(catalog, "s1", "b", base="s0", expires_s=now_s - 1)
    put(catalog, "s2", "b", base="s1", expires_s=now_s + YEAR_S)
    put(catalog, "s3", "a")
    for name in ("s0", "s1"):
        volume = catalog.volume(name)
        assert volume is not None
        assert standing_of(catalog, volume).expires_s == now_s + YEAR_S
        with pytest.raises(CatalogError, match="s2 expires, which builds on it"):
            catalog.refuse_needed(name, allow_last=True)
        with pytest.raises(CatalogError, match="unexpired"):
            catalog.replace_volume(volume, allow_last=True)
    catalog.expire_session("s2")
    catalog.refuse_needed("s0", allow_last=False)


def test_a_base_does_not_expire_before_what_builds_on_it(catalog: Catalog) -> None:
    put(catalog, "s0", "a")
    put(catalog, "s1", "b", base="s0")
    put(catalog, "s2", "a")
    with pytest.raises(CatalogError, match="s0 is a base of s1"):
        catalog.expire_session("s0")
    assert catalog.expire_session("s1")
    assert catalog.expire_session("s0")


def test_the_bases_of_the_last_good_session_are_as_good_as_that(catalog: Catalog) -> None:
    now_s = time.time()
    put(catalog, "s0", "a", expires_s=now_s - 2)
    put(catalog, "s1", "b", base="s0", expires_s=now_s - 1)
    with pytest.raises(CatalogError, match="s0, a base of the last good session of db1"):
        catalog.refuse_needed("s0", allow_last=False)
    catalog.refuse_needed("s0", allow_last=True)


def test_a_session_cannot_begin_on_a_base_that_is_gone(catalog: Catalog) -> None:
    put(catalog, "s0", "a", expires_s=time.time() - 2)
    put(catalog, "s1", "b", base="s0", expires_s=time.time() - 2)
    known = catalog.volume("s0")
    assert known is not None
    catalog.replace_volume(known, allow_last=True)
    found = catalog.session("s1")
    assert found is not None
    assert (catalog.bases(found), catalog.missing_base(found)) == ([], "s0")
    with pytest.raises(CatalogError, match="s1, which s2 was to build on"):
        catalog.begin_session("s2", "db1", level=INCREMENTAL, base="s1")


def test_retention_keeps_the_bases_of_what_it_keeps_and_says_so(catalog: Catalog) -> None:
    for day, (session, base) in enumerate([("s0", ""), ("s1", "s0"), ("s2", "s1"), ("s3", "s0"), ("s4", "")]):
        put(catalog, session, "a", base=base, created_s=86400.0 * (100 + day))
    kept = {item.session.id: item.kept_by for item in judge(catalog, Rule(keep_last=2), None, time.time())}
    assert kept == {
        "s0": ("base of s3",),
        "s1": (),
        "s2": (),
        "s3": ("keep_last",),
        "s4": ("last_good", "keep_last"),
    }
