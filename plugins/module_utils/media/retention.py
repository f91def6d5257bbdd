# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which sessions are kept: by count, by calendar and by days. What no rule keeps expires; nothing is erased."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Optional

from ..catalog.lookup import calendar_time, format_time
from ..catalog.records import GOOD, CatalogError, Session
from ..catalog.store import Catalog

_DAY_S = 86400
#: A thousand years; behind the year 9999 no calendar goes on.
MOST_DAYS = 365000
#: Why a session is kept whatever the rule says.
LAST_GOOD = "last_good"


@dataclass(frozen=True)
class Rule:
    """What is kept of each database host. None and 0 keep nothing.

    :param keep_last: so many of the newest sessions.
    :param keep_daily: of each of the newest so many days that have a session, the newest one; keep_weekly (weeks from
        Monday to Sunday), keep_monthly and keep_yearly likewise. Days begin at midnight UTC.
    :param keep_days: all sessions that began in the last so many days.
    """

    keep_last: Optional[int] = None
    keep_daily: Optional[int] = None
    keep_weekly: Optional[int] = None
    keep_monthly: Optional[int] = None
    keep_yearly: Optional[int] = None
    keep_days: Optional[float] = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Rule:
        """From the parameters of a module. :raises CatalogError: it keeps nothing, or a number is impossible."""
        rule = cls(**{item.name: params.get(item.name) for item in fields(cls)})
        values = {item.name: getattr(rule, item.name) for item in fields(cls)}
        for name, value in values.items():
            if value is not None and not 0 <= value <= MOST_DAYS:
                raise CatalogError(
                    f"{name}: {value:g} is not a number that can be kept; give 0 to {MOST_DAYS}.",
                    option=name,
                    code="option_invalid",
                )
        if not any(values.values()):
            raise CatalogError(
                f"keep_last: the rule keeps nothing; give at least one of {', '.join(values)} a number above 0.",
                option="keep_last",
                code="option_invalid",
            )
        return rule

    def keeps(self, sessions: Sequence[Session], now_s: float) -> dict[int, list[str]]:
        """Which parts of the rule keep each session; empty for one that is not kept.

        :param sessions: good ones of one host that have not expired, from old to new.
        :returns: names of options by number of the session.
        """
        kept: dict[int, list[str]] = {session.number: [] for session in sessions}
        newest_first = list(reversed(sessions))
        for name, period in _PERIODS.items():
            left = getattr(self, name) or 0
            last: Optional[object] = None
            for session in newest_first:
                found = period(session)
                if left and found != last:
                    kept[session.number].append(name)
                    left -= 1
                last = found
        if self.keep_days:
            for session in sessions:
                if session.created_s > now_s - self.keep_days * _DAY_S:
                    kept[session.number].append("keep_days")
        return kept


def _day(session: Session) -> datetime.date:
    return calendar_time(session.created_s).date()


#: In which period a session lies, for each rule that keeps one of a period.
_PERIODS: dict[str, Callable[[Session], object]] = {
    "keep_last": lambda session: session.number,
    "keep_daily": _day,
    "keep_weekly": lambda session: _day(session).isocalendar()[:2],
    "keep_monthly": lambda session: _day(session).timetuple()[:2],
    "keep_yearly": lambda session: _day(session).year,
}


@dataclass(frozen=True)
class Kept:
    """What becomes of one session.

    :param kept_by: names of options, LAST_GOOD, or ``base of`` and the id of the newest kept session that builds on it;
        empty when it expires.
    """

    session: Session
    kept_by: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """As a module returns it."""
        return {
            "session": self.session.id,
            "host": self.session.host,
            "created": format_time(self.session.created_s),
            "kept_by": list(self.kept_by),
        }


def judge(catalog: Catalog, rule: Rule, host: Optional[str], now_s: float) -> list[Kept]:
    """What becomes of each good session that has not expired, from old to new; the hosts by name.

    The last good session of a host is kept whatever the rule says, and so are the bases of what is kept. Sessions that
    have expired already, that live on by a copy, or that are open, failed or damaged, are left as they are.

    :param host: of this host alone.
    """
    good = catalog.sessions(host, GOOD)
    found: list[Kept] = []
    for name in sorted({session.host for session in good}):
        of_host = [session for session in good if session.host == name]
        valid = [session for session in of_host if session.expires_s is None or session.expires_s > now_s]
        # A copy has an expiry of its own.
        valid = [session for session in valid if not catalog.lives_by_copy(session)]
        kept = rule.keeps(valid, now_s)
        for session in valid:
            always = [LAST_GOOD] if session is of_host[-1] else []
            kept[session.number] = [*always, *kept[session.number]]
        builders: dict[int, str] = {}
        for session in valid:
            for base in catalog.bases(session) if kept[session.number] else ():
                builders[base.number] = session.id
        for session in valid:
            why = kept[session.number]
            if not why and session.number in builders:
                why = [f"base of {builders[session.number]}"]
            found.append(Kept(session, tuple(why)))
    return found


def apply(catalog: Catalog, rule: Rule, host: Optional[str], now_s: float, *, dry_run: bool = False) -> dict[str, Any]:
    """Let expire what the rule does not keep; what it keeps does not expire until the rule is applied again.

    :param dry_run: change nothing.
    :returns: ``changed``, ``sessions``, ``expired``, ``diff``, as the module catalog_retention does.
    """
    found = judge(catalog, rule, host, now_s)
    expires = {item.session.id: None if item.kept_by else now_s for item in found}
    before = {item.session.id: item.session.expires_s for item in found}
    changed = [session for session, expires_s in expires.items() if expires_s != before[session]]
    if changed and not dry_run:
        catalog.set_expiry({session: expires[session] for session in changed}, now_s)
    return {
        "changed": bool(changed),
        "sessions": [item.facts() for item in found],
        "expired": [item.session.id for item in found if not item.kept_by],
        "diff": {
            "before": {session: format_time(before[session]) or "never" for session in changed},
            "after": {session: format_time(expires[session]) or "never" for session in changed},
        },
    }
