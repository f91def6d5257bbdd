# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session's id tells its database host from all others, in the role and in the modules alike."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.session import (
    check_session_id,
    host_part,
    sealed,
    session_of_seal,
    short_session,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport import attach, initiator
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import target_of

ROLE_VARS = Path(__file__).resolve().parents[2] / "roles/mirrored_backup/vars/main.yml"
LONG = "customer-with-a-long-name-of-the-database-cluster-"
KEPT = ["db1", "prod_db-1.example.org", LONG]
CHANGED = [LONG + "a", LONG + "b", "db 1", "db~1", "d\u00fcsseldorf"]


def session_of_host(host: str) -> str:
    return f"20260131T020000Z-{host_part(host)}-9f3c"


def test_names_that_need_no_change_stay_as_they_are() -> None:
    assert [host_part(host) for host in KEPT] == KEPT


def test_names_that_are_cut_or_changed_stay_different() -> None:
    parts = [host_part(host) for host in KEPT + CHANGED]
    assert len({part.lower() for part in parts}) == len(parts)
    assert all(len(part) <= 50 and check_session_id(session_of_host(part)) for part in parts)


def test_a_short_id_is_short_the_same_everywhere_and_its_own_short_id() -> None:
    sessions = [session_of_host(host) for host in KEPT + CHANGED]
    shorts = [short_session(session) for session in sessions]
    assert len(set(shorts)) == len(sessions)
    assert all(re.fullmatch("sm[a-z2-7]{16}", short) for short in shorts)
    assert [short_session(short) for short in shorts] == shorts
    # It is on arrays, so it must never be computed in another way.
    assert short_session("20260131T020000Z-db1-9f3c") == "sm6n5v2mcxxmj2nc22"


def test_a_sealed_name_is_that_of_no_other() -> None:
    for session in ("20260131T020000Z-db1-9f3c", "s1", "a.b", short_session("s1")):
        assert session_of_seal(sealed(session)) == session
        for name in (session, f"{session}.x", f"{session}.{short_session('other')}", f".{sealed(session)}", ""):
            assert session_of_seal(name) is None


@pytest.mark.slow
def test_the_role_says_the_same() -> None:
    words = ["--module-name=debug", "--args=msg=<{{ splitmirror_host_part }}>", f"--extra-vars=@{ROLE_VARS}"]
    hosts = [host for host in KEPT + CHANGED if " " not in host]  # an inventory on the command line takes none
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible"), "all", f"--inventory={','.join(hosts)},", *words, "--forks=1"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert re.findall("<(.*)>", done.stdout) == [host_part(host) for host in hosts]


def test_only_the_targets_of_the_host_itself_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {host: target_of(session_of_host(host), ["data"]) for host in KEPT + CHANGED}
    sessions = [initiator.Session(host, target, "LOGGED_IN") for host, target in targets.items()]
    monkeypatch.setattr(initiator, "sessions", lambda: sessions)
    monkeypatch.setattr(initiator, "known_targets", list)
    for host, target in targets.items():
        assert attach.attached_targets(host=host) == [target]
