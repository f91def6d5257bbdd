# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What mirror_sync is told of dead sessions: it is checked before anything of it is done, and in check mode too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import presenting
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir, short_session
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import target_of
from ansible_collections.splitmirror.backup.plugins.modules import mirror_sync
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module

DEAD = "20260131T020000Z-db1-9f3c"
OF_ANOTHER = "20260131T020000Z-db2-9f3c"


def recovered(folder: Path, *, check: bool, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Run it with an array whose undo notes for whom it is; return the result, and these."""
    notes = folder / "notes"
    undo = ["sh", "-c", f"echo $0 >>{notes}", "{session}"]
    common = {
        "provider": "external",
        "provider_options": {"kind": "command", "split": ["true"], "undo": undo},
        "pairs": [{"name": "data", "primary": "p", "mirror": "m"}],
        "state_dir": str(folder / "state"),
        "state": "recovered",
    }
    done = run_module(mirror_sync.main, {**common, **options}, check=check)
    return done, notes.read_text().split() if notes.exists() else []


@pytest.mark.parametrize("odd", ["", "../x", "x" * 81, "a/b", "-x", "a\nb"])
@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_what_is_not_the_id_of_a_session_is_refused_before_any_is_undone(tmp_path: Path, odd: str, check: bool) -> None:
    done, undone = recovered(tmp_path, check=check, dead_sessions=[DEAD, odd])
    assert (done.get("failed"), done.get("option"), undone) == (True, "dead_sessions", [])
    assert done["msg"].startswith(f"dead_sessions: {odd!r} is not a session id")


@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_a_session_of_another_host_is_refused_where_the_host_is_named(tmp_path: Path, check: bool) -> None:
    """It may be alive, and the splitter of whoever is named is ended."""
    for named in ({"dead_sessions": [DEAD, OF_ANOTHER]}, {"session": OF_ANOTHER}):
        done, undone = recovered(tmp_path, check=check, host="db1", **named)
        assert (done.get("failed"), done.get("code"), undone) == (True, "mirror_held", [])
        assert OF_ANOTHER in done["msg"]


def test_a_session_that_is_named_twice_is_undone_once(tmp_path: Path) -> None:
    done, undone = recovered(tmp_path, check=False, host="db1", session=DEAD, dead_sessions=[DEAD, DEAD])
    assert done.get("failed") is None
    assert undone == [DEAD]
    done, undone = recovered(tmp_path, check=False, dead_sessions=[OF_ANOTHER])
    assert done.get("failed") is None
    assert undone == [DEAD, OF_ANOTHER]


#: A target is a file: its name is its number, and it holds the name.
TGTADM = """#!/bin/sh
cd "$(dirname "$0")/targets" || exit
case "$*" in
    *"show --mode target") for one in *; do [ ! -e "$one" ] || echo "Target $one: $(cat "$one")"; done ;;
    *"delete --mode target"*) for word; do case $word in --tid=*) rm "${word#--tid=}" ;; esac; done ;;
esac
"""


@pytest.mark.parametrize("lost", [False, True], ids=["recorded", "record lost"])
def test_the_export_of_another_set_of_the_session_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """The media server is still attached to it: a set is detached before its export is removed."""
    (tmp_path / "targets").mkdir()
    (tmp_path / "tgtadm").write_text(TGTADM)
    (tmp_path / "tgtadm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    session = "20260131T020000Z-db1-0e0e"
    look = ["echo", json.dumps({"pairs": {"new name": {"mark": short_session(session)}}})]

    def provider(name: str, **options: Any) -> MirrorProvider:
        given = {"kind": "command", "split": ["true"], "undo": ["true"], **options}
        pair = {"name": name, "primary": "p", "mirror": "m"}
        return make_provider("external", [pair], str(tmp_path / "state"), given)

    provider("old name").split(session)
    if lost:
        Path(StateDir(str(tmp_path / "state")).mirror_file(session)).unlink()
        # Nobody knows whose the exports are, and of a dead session nothing stays.
        StateDir(str(tmp_path / "state")).make_session_dir(session)
    targets = [target_of(session, names) for names in (["old name"], ["new name"], ["of another set"])]
    for number, target in enumerate(targets, 1):
        (tmp_path / "targets" / str(number)).write_text(target)
    recovered, removed = presenting.recover(provider("new name", look=look))
    assert [one.session for one in recovered] == [session]
    assert removed == (targets if lost else targets[:2])
    assert len(list((tmp_path / "targets").iterdir())) == (0 if lost else 1)
