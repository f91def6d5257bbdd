# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Retention against a naive model, and what it never does."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import FAILED, GOOD, OPEN, Session
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.verdict import Verdict
from ansible_collections.splitmirror.backup.plugins.module_utils.media.retention import Rule, apply
from ansible_collections.splitmirror.backup.plugins.modules import catalog_retention
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module
from ansible_collections.splitmirror.backup.tests.support.tape import Library

DAY_S = 86400
NOW_S = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.timezone.utc).timestamp()
#: How each period is named; the names of two times are equal if both are in the same one.
NAMES = {"keep_daily": "%Y-%m-%d", "keep_weekly": "%G-%V", "keep_monthly": "%Y-%m", "keep_yearly": "%Y"}

AGES = st.floats(0, 1500 * DAY_S) | st.integers(0, 60).map(lambda days: float(days * DAY_S))
RUNS = st.lists(
    st.tuples(AGES, st.sampled_from("ab"), st.sampled_from([GOOD, GOOD, FAILED, OPEN]), st.booleans()), max_size=20
)
COUNTS = st.none() | st.integers(0, 5)
RULES = st.builds(Rule, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | st.sampled_from([0.0, 0.5, 7.0, 365.0]))


def entered(runs: list[tuple[float, str, str, bool]]) -> Catalog:
    """A catalog in memory with these sessions: age, host, state, whether it has expired."""
    catalog = Catalog.open_for("/nonexistent/catalog", writable=False)
    for number, (age_s, host, state, expired) in enumerate(runs):
        catalog.begin_session(f"s{number}", host, NOW_S - age_s, NOW_S - 1 if expired else NOW_S + 1)
        if state != OPEN:
            catalog.close_session(f"s{number}", Verdict(state == GOOD, "" if state == GOOD else "broken."), {})
    return catalog


def modelled(sessions: list[Session], rule: Rule) -> dict[str, set[str]]:
    """Why each session is kept, by the words of the documentation."""
    kept: dict[str, set[str]] = {}
    for host in {session.host for session in sessions}:
        good = sorted(
            (session for session in sessions if session.host == host and session.state == GOOD),
            key=lambda session: (session.created_s, session.number),
        )
        valid = [session for session in good if session.expires_s is None or session.expires_s > NOW_S]
        for session in valid:
            why = kept.setdefault(session.id, set())
            if session == good[-1]:
                why.add("last_good")
            if session in valid[max(0, len(valid) - (rule.keep_last or 0)) :]:
                why.add("keep_last")
            if session.created_s > NOW_S - (rule.keep_days or 0) * DAY_S:
                why.add("keep_days")
            for name, form in NAMES.items():
                named = [
                    datetime.datetime.fromtimestamp(other.created_s, datetime.timezone.utc).strftime(form)
                    for other in valid
                ]
                mine = named[valid.index(session)]
                newest_of_mine = mine not in named[valid.index(session) + 1 :]
                if newest_of_mine and mine in sorted(set(named), reverse=True)[: getattr(rule, name) or 0]:
                    why.add(name)
    return kept


@settings(max_examples=100)
@given(runs=RUNS, rule=RULES)
def test_what_is_kept_is_what_a_naive_model_keeps(runs: list[tuple[float, str, str, bool]], rule: Rule) -> None:
    with entered(runs) as catalog:
        before = {session.id: session for session in catalog.sessions()}
        expected = modelled(list(before.values()), rule)
        told = apply(catalog, rule, None, NOW_S, dry_run=True)
        assert {item["session"]: set(item["kept_by"]) for item in told["sessions"]} == expected
        assert {session.id: session for session in catalog.sessions()} == before, "it only looked"
        assert apply(catalog, rule, None, NOW_S) == told
        for session in catalog.sessions():
            old = before.pop(session.id)
            expires_s = old.expires_s if session.id not in expected else None if expected[session.id] else NOW_S
            assert session == old._replace(expires_s=expires_s)
        assert not before, "nothing is erased"
        again = apply(catalog, rule, None, NOW_S)
        kept = [session for session, why in expected.items() if why]
        assert (again["changed"], sorted(item["session"] for item in again["sessions"])) == (False, sorted(kept))


def test_one_host_is_judged_alone() -> None:
    with entered([(age * DAY_S, host, GOOD, False) for age in (3, 2, 1) for host in "ab"]) as catalog:
        told = apply(catalog, Rule(keep_last=1), "a", NOW_S)
        assert (told["expired"], [session.host for session in catalog.sessions() if session.expires_s == NOW_S]) == (
            ["s0", "s2"],
            ["a", "a"],
        )


def test_what_changes_while_it_decides_wins() -> None:
    with entered([(2 * DAY_S, "a", GOOD, False), (DAY_S, "a", GOOD, True)]) as catalog:
        catalog.set_expiry({"s0": NOW_S, "s1": None}, NOW_S)
        assert [session.expires_s for session in catalog.sessions()] == [NOW_S, NOW_S - 1]
        catalog.set_expiry({"s1": NOW_S + 5}, NOW_S - 2)
        assert catalog.sessions()[1].expires_s == NOW_S - 1, "the last good one"


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({}, "keep_last", "keeps nothing"),
        ({"keep_last": 0, "keep_days": 0}, "keep_last", "keeps nothing"),
        ({"keep_daily": -1, "keep_last": 3}, "keep_daily", "-1"),
        ({"keep_days": 1e9}, "keep_days", "1e+09"),
    ],
)
def test_a_rule_that_keeps_nothing_or_is_none_is_refused(
    library: Library, options: dict[str, Any], option: str, said: str
) -> None:
    told = run_module(catalog_retention.main, {"state_dir": str(library.state_dir), **options})
    assert (told["option"], told["code"]) == (option, "option_invalid")
    assert said in told["msg"]


def test_the_module_looks_and_then_does(library: Library) -> None:
    for number in range(3):
        library.catalog.begin_session(f"s{number}", "db1", 1.0 + number, None)
        library.catalog.close_session(f"s{number}", Verdict(True, ""), {})
    options = {"state_dir": str(library.state_dir), "keep_last": 1}
    for check, changed in ((True, True), (False, True), (False, False)):
        told = run_module(catalog_retention.main, options, check=check)
        assert told["changed"] is changed, told
        if changed:
            assert told["expired"] == ["s0", "s1"]
            assert told["diff"]["before"] == {"s0": "never", "s1": "never"}
    assert [session.expires_s is None for session in library.catalog.sessions()] == [False, False, True]
