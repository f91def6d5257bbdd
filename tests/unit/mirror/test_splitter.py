# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The splitter: armed, told, ended; and what it leaves (nothing, or a split on record)."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import (
    DaemonError,
    DaemonRecord,
    is_alive,
    read_record,
    terminate,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import NotRunning, Refused, call
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.image import ImageProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.turn import Turn
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.mirrors import OTHER, SESSION, Array, kill


@pytest.fixture
def array(tmp_path: Path) -> Iterator[Array]:
    folder = tmp_path / "luns"
    folder.mkdir()
    array = Array(folder, tmp_path / "state", allow_copy=True)
    yield array
    splitter.disarm(array.provider.state_dir, SESSION)


def wait_for_end(array: Array, session: str = SESSION) -> None:
    record = read_record(array.provider.state_dir.session_dir(session), splitter.NAME)
    assert record is not None
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    ended, _dummy, _dummy = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    assert ended or not is_alive(record)


def test_armed_splitter_splits_at_one_word_and_puts_it_on_record(array: Array) -> None:
    ready = splitter.arm(array.provider, SESSION, 60)
    assert ready.method == "copy"
    assert 0 < ready.deadline_s <= 60
    assert splitter.armed(array.provider.state_dir, SESSION) is not None
    path = array.provider.state_dir.socket_file(SESSION, splitter.NAME)
    assert call(path, "ping", 10)["result"]["state"] == "armed"
    assert not any(os.path.exists(pair.mirror) for pair in array.pairs)
    result = splitter.split(array.provider.state_dir, SESSION)
    assert set(result.as_dict()["devices"]) == {"data", "wal"}
    for pair in array.pairs:
        assert Path(pair.mirror).read_bytes() == Path(pair.primary).read_bytes()
    wait_for_end(array)
    assert array.provider.split_result(SESSION) == result
    assert splitter.armed(array.provider.state_dir, SESSION) is None
    with pytest.raises(NotRunning):
        splitter.split(array.provider.state_dir, SESSION)


def test_arming_twice_is_refused_and_the_first_stays_ready(array: Array) -> None:
    splitter.arm(array.provider, SESSION, 60)
    for session in (SESSION, OTHER):
        with pytest.raises(MirrorError, match=f"session {SESSION} is ready to split"):
            splitter.arm(array.provider, session, 60)
    assert splitter.armed(array.provider.state_dir, SESSION) is not None


def test_splitter_whose_time_is_over_leaves_no_trace(array: Array) -> None:
    with pytest.raises(MirrorError, match="ended at once"):
        splitter.arm(array.provider, SESSION, 0)
    wait_for_end(array)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []


@pytest.mark.parametrize("how", ["stop", "disarm"])
def test_stopped_splitter_leaves_no_trace(array: Array, how: str) -> None:
    splitter.arm(array.provider, SESSION, 60)
    if how == "stop":
        call(array.provider.state_dir.socket_file(SESSION, splitter.NAME), "stop", 10)
    else:
        assert splitter.disarm(array.provider.state_dir, SESSION)
    wait_for_end(array)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []
    assert not splitter.disarm(array.provider.state_dir, SESSION)
    assert array.provider.state()[0].problem is None


def test_a_splitter_whose_folder_is_gone_is_ended_all_the_same(array: Array) -> None:
    ready = splitter.arm(array.provider, SESSION, 60)
    process = DaemonRecord.of(ready.pid)
    assert process is not None
    try:
        shutil.rmtree(array.provider.state_dir.session_dir(SESSION))
        assert splitter.disarm(array.provider.state_dir, SESSION)
        assert not is_alive(process)
        assert array.records() == []
    finally:
        terminate(process)


def test_killed_splitter_is_found_and_cleaned_up(array: Array) -> None:
    ready = splitter.arm(array.provider, SESSION, 60)
    kill(ready.pid)
    assert {state.phase for state in array.provider.state()} == {"broken"}
    with pytest.raises(MirrorError, match="died while it split"):
        splitter.arm(array.provider, OTHER, 60)
    assert [(done.session, done.phase) for done in array.provider.recover()] == [(SESSION, "broken")]
    assert array.files() == {"data.img", "wal.img"}
    # The dead one's socket is still there; a new splitter of the same session takes its place.
    splitter.arm(array.provider, SESSION, 60)


def test_failed_split_ends_the_splitter_without_a_trace(array: Array) -> None:
    splitter.arm(array.provider, SESSION, 60)
    Path(array.pairs[0].mirror).write_text("precious")
    with pytest.raises(Refused, match="pair data: the clone"):
        splitter.split(array.provider.state_dir, SESSION)
    wait_for_end(array)
    assert array.files() == {"data.img", "wal.img", "data.mirror"}
    assert array.records() == []


def test_unknown_word_is_refused_and_it_stays_ready(array: Array) -> None:
    splitter.arm(array.provider, SESSION, 60)
    with pytest.raises(Refused, match="'freeze' is not a request"):
        call(array.provider.state_dir.socket_file(SESSION, splitter.NAME), "freeze", 10)
    assert splitter.armed(array.provider.state_dir, SESSION) is not None


def test_refusal_while_preparing_is_told_in_its_own_words(array: Array) -> None:
    strict = ImageProvider(array.pairs, StateDir(str(array.state)))
    with pytest.raises(DaemonError, match=r"^pair data: .* cannot share blocks"):
        splitter.arm(strict, SESSION, 60)
    assert array.files() == {"data.img", "wal.img"}
    assert array.records() == []


def turn_of(array: Array, session: str, hold_s: float) -> bool:
    granted: bool = call(array.provider.state_dir.socket_file(session, splitter.NAME), "turn", 10, hold_s=hold_s)[
        "result"
    ]["granted"]
    return granted


@pytest.fixture
def two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Array, Array]]:
    """Two mirror sets of one array that splits one after the other."""
    one_by_one = replace(ImageProvider.capabilities, takes_turns=True)
    monkeypatch.setattr(ImageProvider, "capabilities", one_by_one)
    arrays = []
    for name, session in (("a", SESSION), ("b", OTHER)):
        (tmp_path / name).mkdir()
        arrays.append(Array(tmp_path / name, tmp_path / "state", allow_copy=True))
        splitter.arm(arrays[-1].provider, session, 60)
    yield arrays[0], arrays[1]
    for array, session in zip(arrays, (SESSION, OTHER)):
        splitter.disarm(array.provider.state_dir, session)


def test_one_has_the_turn_until_it_has_split(two_hosts: tuple[Array, Array]) -> None:
    first, second = two_hosts
    assert turn_of(first, SESSION, 60)
    assert turn_of(first, SESSION, 60)
    assert not turn_of(second, OTHER, 60)
    splitter.split(first.provider.state_dir, SESSION)
    assert turn_of(second, OTHER, 60)


def test_a_turn_that_nobody_uses_ends(two_hosts: tuple[Array, Array]) -> None:
    first, second = two_hosts
    assert turn_of(first, SESSION, 0)
    wait_for(lambda: turn_of(second, OTHER, 60), "the turn is given back")
    assert not turn_of(first, SESSION, 60)


def test_the_turn_of_a_dead_splitter_is_free(two_hosts: tuple[Array, Array]) -> None:
    first, second = two_hosts
    assert turn_of(first, SESSION, 60)
    ready = splitter.armed(first.provider.state_dir, SESSION)
    assert ready is not None
    kill(ready.pid)
    assert turn_of(second, OTHER, 60)


def test_where_sets_are_split_side_by_side_everyone_has_the_turn(array: Array) -> None:
    splitter.arm(array.provider, SESSION, 60)
    with Turn(array.provider.state_dir).waited_for(1):
        assert turn_of(array, SESSION, 60)


def test_waiting_for_the_turn_has_an_end(tmp_path: Path) -> None:
    state_dir = StateDir(str(tmp_path / "state"))
    refused = pytest.raises(MirrorError, match="another session has held the turn")
    with Turn(state_dir).waited_for(1), refused, Turn(state_dir).waited_for(0):
        pass
    with Turn(state_dir).waited_for(0):
        pass
