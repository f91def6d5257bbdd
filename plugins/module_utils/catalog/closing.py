# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The beginning and the end of a session in the catalog: entered, judged by its evidence, or failed with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .records import OPEN, CatalogError, Session
from .store import Catalog
from .verdict import Verdict, judge


def verdict_of(catalog: Catalog, session: str, evidence: Mapping[str, Any]) -> Verdict:
    """Judge a session; what was written is taken from the catalog, where tape_write itself entered it.

    :raises CatalogError: the session is not in the catalog.
    """
    known = catalog.session(session)
    if known is None:
        raise CatalogError(
            f"session: {session} is not in the catalog; only what was begun can be closed.",
            option="session",
            code="session_unknown",
        )
    told = evidence.get("write") or {}
    for key, value in told.items():
        if known.write.get(key) != value:
            return Verdict(False, f"the evidence of the write is not what the catalog has ({key}).")
    gone = catalog.missing_base(known)
    if gone is not None:
        return Verdict(False, f"session {gone}, on which it builds, cannot be restored any more.")
    parts = catalog.parts(known.number)
    if [part.part for part in parts if part.complete] != list(range(len(known.write.get("parts", ())))):
        return Verdict(False, "the parts in the evidence of the write are not those that the catalog has.")
    return judge({**evidence, "write": known.write}, session)


def begin_session(catalog: Catalog, session: str, host: str) -> bool:
    """Enter a session as open when it is named; True when that changed something.

    :raises CatalogError: it has ended already.
    """
    known = catalog.session(session)
    if known is not None and known.state == OPEN:
        return False
    catalog.begin_session(session, host)
    return True


def fail_session(catalog: Catalog, session: str, host: str, reason: str, phase: str = "") -> bool:
    """Record that a session failed, also one that never came to its tape; True when that changed something.

    :param phase: of its run, in which that happened.
    :raises CatalogError: it is good.
    """
    if catalog.session(session) is None:
        catalog.begin_session(session, host)
    return catalog.close_session(session, Verdict(False, reason), {"phase": phase} if phase else {})


def failed_in(session: Session) -> str:
    """The phase in which a session failed; empty if it is not known."""
    return str(session.evidence.get("phase") or "")


def dead_sessions(catalog: Catalog, host: str, living: str) -> list[str]:
    """Open sessions of a database host whose run has ended. :param living: the host's session of the current run."""
    return [session.id for session in catalog.sessions(host=host, state=OPEN) if session.id != living]


def fail_dead_sessions(catalog: Catalog, host: str, living: str) -> list[str]:
    """Close dead sessions as failed, and return them. No other session of this host may be running."""
    dead = dead_sessions(catalog, host, living)
    for session in dead:
        catalog.close_session(session, Verdict(False, "its run ended without closing it."), {})
    return dead
