# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A target's name is the session's and no other's; portals and initiators are taken apart or refused."""

from __future__ import annotations

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import (
    Portal,
    TransportError,
    check_initiator,
    is_taken,
    refuse_foreign_address,
    serial_of,
    session_of,
    target_of,
)

SESSIONS = ["20260131T020000Z-db1-9f3c", "20260131t020000z-db1-9f3c", "a_b", "a-b", "A_-b.c", "Z" * 80]


@pytest.mark.parametrize("session", SESSIONS)
def test_the_session_is_read_from_the_name_of_its_target(session: str) -> None:
    target = target_of(session, ["data", "wal"])
    assert session_of(target) == session
    assert check_initiator(target) == target


def test_no_two_sessions_or_pairs_have_a_name_in_common() -> None:
    targets = [target_of(session, pairs) for session in SESSIONS for pairs in (["data"], ["wal"], ["data", "wal"])]
    assert len(set(targets)) == 3 * len(SESSIONS)
    assert target_of("x", ["wal", "data"]) == target_of("x", ["data", "wal"])
    assert len({serial_of(session, pair) for session in SESSIONS for pair in ("data", "wal")}) == 2 * len(SESSIONS)


OURS = target_of("x", ["data"])


@pytest.mark.parametrize(
    "target", ["iqn.2026-01.test:db1", OURS[:-1], OURS + ":", OURS + "/y", OURS[:-10], OURS[:-9] + "1" + OURS[-8:], ""]
)
def test_a_target_of_others_is_nobodys(target: str) -> None:
    assert session_of(target) is None


@pytest.mark.parametrize(
    ("text", "portal", "written"),
    [
        ("10.20.0.11", Portal("10.20.0.11"), "10.20.0.11:3260"),
        ("10.20.0.11:3261", Portal("10.20.0.11", 3261), "10.20.0.11:3261"),
        ("fd00::b", Portal("fd00::b"), "[fd00::b]:3260"),
        ("[fd00::b]", Portal("fd00::b"), "[fd00::b]:3260"),
        ("[fd00::b]:3261", Portal("fd00::b", 3261), "[fd00::b]:3261"),
    ],
)
def test_a_portal_is_an_address_and_a_port(text: str, portal: Portal, written: str) -> None:
    assert Portal.parse(text) == portal
    assert str(portal) == written


@pytest.mark.parametrize("text", ["", "array1", "10.20.0.300", "10.20.0.11:0", "10.20.0.11:70000", "10.20.0.11:x"])
def test_what_is_no_portal_is_refused(text: str) -> None:
    with pytest.raises(TransportError, match="portal: "):
        Portal.parse(text)


@pytest.mark.parametrize(
    "name", ["", "media1", "ALL", "iqn.2026-01.test:Media", "iqn.2026-01.test:a/../b", "iqn." + "x" * 250]
)
def test_what_is_no_initiator_is_refused(name: str) -> None:
    with pytest.raises(TransportError, match="initiator: "):
        check_initiator(name)


def test_an_address_of_another_host_is_refused() -> None:
    refuse_foreign_address(Portal("127.0.0.1"))
    with pytest.raises(TransportError, match=r"192\.0\.2\.1 is not an address of the array"):
        refuse_foreign_address(Portal("192.0.2.1"))


def test_a_port_that_somebody_has_is_taken() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_taken(Portal("127.0.0.1", port))
    assert not is_taken(Portal("127.0.0.1", port))
