# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tasks are told of a holder that died, is busy, or cannot let go of a database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.holder import protocol, quiesce, recovery
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import quiesced_by_others, recover
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.spawn import ensure_holder
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, is_alive, read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.modules import extent_map
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module

HOT = [{"name": "d", "driver": "commands", "commands": {"begin": ["/bin/true"], "end": ["/bin/true"]}}]
LOST = {"required": True, "ended_cleanly": False, "same_session": False}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    made = StateDir(str(tmp_path / "state"))
    yield made
    recover(made, "s1")


def record(state: StateDir, name: str = "holder") -> DaemonRecord:
    found = read_record(state.session_dir("s1"), name)
    assert found is not None
    return found


def kill_holder(state: StateDir) -> None:
    holder = record(state)
    os.kill(holder.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(holder), "the holder is dead")


def without_error(evidence: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in evidence.items() if name != "error"}


def test_the_result_of_an_end_is_told_again(state: StateDir) -> None:
    quiesce.begin(state, "s1", HOT, [])
    first = quiesce.end(state, "s1", HOT)
    again = quiesce.end(state, "s1", HOT)
    assert first.evidence == again.evidence
    assert first.evidence["ended_cleanly"]
    assert (first.changed, again.changed) == (True, False)


def test_a_second_hot_backup_of_a_session_is_not_told_the_end_of_the_first(state: StateDir) -> None:
    quiesce.begin(state, "s1", HOT, [])
    quiesce.end(state, "s1", HOT)
    quiesce.begin(state, "s1", HOT, [])
    kill_holder(state)

    assert without_error(quiesce.end(state, "s1", HOT).evidence) == LOST


def test_a_hot_backup_that_never_began_has_no_clean_end(state: StateDir) -> None:
    ensure_holder(state, "s1")

    ended = quiesce.end(state, "s1", HOT)

    assert without_error(ended.evidence) == LOST
    assert without_error(quiesce.end(state, "s1", HOT).evidence) == LOST


def test_a_hot_backup_that_died_with_an_earlier_holder_has_no_clean_end(state: StateDir) -> None:
    quiesce.begin(state, "s1", HOT, [])
    kill_holder(state)
    ensure_holder(state, "s1")

    assert without_error(quiesce.end(state, "s1", HOT).evidence) == LOST


def test_databases_of_another_host_are_not_taken_for_abandoned_while_their_holder_is_busy(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "20260131T020000Z-db2-9f3c"
    quiesce.begin(state, other, HOT, [])
    try:
        assert quiesced_by_others(state, "db1") == {"d"}
        holder = read_record(state.session_dir(other), "holder")
        assert holder is not None
        os.kill(holder.pid, signal.SIGSTOP)
        monkeypatch.setattr(protocol, "BUSY_S", 0.1)
        monkeypatch.setattr(recovery, "ANSWER_S", 0.1)
        with pytest.raises(protocol.NoAnswer, match="has not answered"):
            quiesced_by_others(state, "db1")
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(holder), "it is dead")
        assert quiesced_by_others(state, "db1") == set()
    finally:
        recover(state, other)


@pytest.mark.root
def test_a_freeze_alone_does_not_pass_for_a_split(state: StateDir) -> None:
    options = {"freeze": ["/bin/true"], "thaw": ["/bin/true"]}
    quiesce.begin(state, "s1", [{"name": "d", "driver": "commands", "commands": options}], [])
    frozen = quiesce.freeze(state, "s1", [], 60.0, [])
    checked = {"session": "s1", "state": "checked", "state_dir": state.root}

    told = run_module(extent_map.main, {**checked, "split": {"freeze": frozen.freeze, "mounts": []}})
    assert "not split in this freeze" in told["msg"]
    told = run_module(extent_map.main, {**checked, "split": {"freeze": frozen.freeze, "split_s": 0.1}})
    assert "nothing is mapped" in told["msg"]
