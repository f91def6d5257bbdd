# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an array says of its LUNs is taken for LUNs of the session and the pairs that were asked for, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.attach import wanted_from_luns
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError, serial_of

SESSION = "20260131T020000Z-db1-9f3c"
PAIRS = [{"name": "data"}, {"name": "wal"}]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def luns(session: str = SESSION) -> dict[str, Any]:
    return {
        name: {"lun": number, "serial": serial_of(session, name), "wwn": "6001405" + "a" * 25, "size_bytes": 4096}
        for number, name in enumerate(("data", "wal"))
    }


def test_the_luns_of_the_session_are_taken() -> None:
    assert [one.name for one in wanted_from_luns(SESSION, luns(), PAIRS)] == ["data", "wal"]


@pytest.mark.parametrize("told", [luns("20260131T020000Z-db2-9f3c"), {}, {**luns(), "more": luns()["data"]}])
def test_those_of_others_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(TransportError, match="luns: "):
        wanted_from_luns(SESSION, told, PAIRS)


def test_one_pair_never_stands_for_another() -> None:
    told = luns()
    told["data"], told["wal"] = told["wal"], told["data"]
    with pytest.raises(TransportError, match="not a LUN of session"):
        wanted_from_luns(SESSION, told, PAIRS)


@given(st.sampled_from(["lun", "serial", "wwn", "size_bytes", None]), ANYTHING)
def test_a_wrong_type_is_a_sentence(key: str | None, value: Any) -> None:
    told = luns()
    if key is None:
        told["data"] = value
    else:
        told["data"][key] = value
    try:
        found = wanted_from_luns(SESSION, told, PAIRS)
    except TransportError:
        return
    assert found[0].serial == serial_of(SESSION, "data")
    assert 0 <= found[0].lun < 1 << 14
