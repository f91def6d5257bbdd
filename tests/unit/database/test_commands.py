# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands driver: the user's own programs, each with its limit."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import DatabaseDriver, DatabaseError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.limited import run_limited
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import make_driver
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.since import Demand

TRUE = ["/bin/true"]


def commands(quiesce: str = "auto", **options: Any) -> DatabaseDriver:
    options = {"freeze": TRUE, "thaw": TRUE, **options}
    return make_driver({"name": "d", "driver": "commands", "quiesce": quiesce, "commands": options})


def python(code: str, *words: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *words]


def test_every_call_runs_its_command_and_no_shell(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(*sys.argv[2:], os.environ.get('SPLITMIRROR_BACKUP_NAME'), file=open(sys.argv[1], 'a'))"
    )
    log = str(tmp_path / "log")
    names = ("begin", "ping", "end", "freeze", "thaw", "recover")
    options: dict[str, Any] = {name: python(code, log, "$HOME", name) for name in names}
    hot, freezing = commands(**options), commands(quiesce="freeze", **options)
    hot.preflight()
    hot.begin("a name")
    for driver in (hot, freezing):
        driver.prepare_window()
        driver.in_window(5)
        driver.thaw()
    hot.ping()
    hot.end()
    assert hot.recover()
    assert Path(log).read_text().splitlines() == [
        "$HOME begin a name",
        "$HOME freeze None",
        "$HOME thaw None",
        "$HOME ping None",
        "$HOME end None",
        "$HOME recover None",
    ]


def test_a_hot_backup_that_is_given_up_is_ended(tmp_path: Path) -> None:
    driver = commands(begin=TRUE, end=["/usr/bin/touch", str(tmp_path / "ended")])
    driver.close()
    assert not (tmp_path / "ended").exists()
    driver.begin("x")
    driver.close()
    assert (tmp_path / "ended").exists()


def test_what_the_guard_needs_to_thaw() -> None:
    command = commands(thaw=["/bin/true", "now"], timeout_s=7).thaw_command()
    assert command is not None
    assert (command.database, command.argv, command.timeout_s) == ("d", ("/bin/true", "now"), 7)


def test_a_failure_is_told_with_the_last_words() -> None:
    driver = commands(begin=python("import sys; sys.exit('first\\nthe reason')"), end=TRUE)
    with pytest.raises(DatabaseError) as refused:
        driver.begin("x")
    assert refused.value.message == "databases: d: the begin command failed with exit code 1: the reason"


def test_a_command_that_hangs_is_ended_with_its_children() -> None:
    code = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(600)"
    done = run_limited(python(code), 0.5)
    assert done.code is None
    for pid in done.out.split():
        deadline = time.monotonic() + 10
        while _lives(int(pid)):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_command_is_killed_when_its_start_cannot_be_told() -> None:
    groups = []

    def started(group: int) -> None:
        groups.append(group)
        raise DatabaseError("nobody to tell")

    with pytest.raises(DatabaseError, match="nobody to tell"):
        run_limited(["/bin/sleep", "600"], 10, started=started)
    assert not _lives(groups[0])


def test_a_command_does_not_run_before_its_start_is_told(tmp_path: Path) -> None:
    shown = []

    def started(group: int) -> None:
        # A freeze that nobody knows of could come true behind the thaw.
        shown.append(Path(f"/proc/{group}/cmdline").read_bytes())

    code = "import sys; sys.exit(sys.stdin.read() != '')"
    done = run_limited(python(code), 10, started=started)
    assert done.code == 0
    assert not shown[0].startswith(os.fsencode(sys.executable))


def test_it_demands_its_files_for_incremental_sessions_unless_it_is_told_not_to(tmp_path: Path) -> None:
    files = ["/bin/echo", str(tmp_path)]
    assert commands(files=files).demands() == [Demand(str(tmp_path))]
    assert commands(files=files, incremental=True).demands() == []


def test_files_are_the_paths_that_its_command_prints(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "link").symlink_to("a folder")
    driver = commands(files=python("import sys; print(sys.argv[1])", str(tmp_path / "link")))
    assert [scope.root for scope in driver.files()] == [str(tmp_path / "a folder")]
    assert commands().files() == []


@pytest.mark.parametrize("line", ["relative", "/not/there"])
def test_a_path_that_cannot_be(line: str) -> None:
    with pytest.raises(DatabaseError, match="must print absolute paths that exist"):
        commands(files=["/bin/echo", line]).files()


@pytest.mark.parametrize("program", ["true", "/not/there", "/etc/passwd"])
def test_a_program_that_cannot_be_run(program: str) -> None:
    with pytest.raises(DatabaseError, match="is not an executable file with an absolute path"):
        commands(ping=[program]).preflight()


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_output_is_whole() -> None:
    assert len(run_limited(python("print('x' * 1000000)"), 10).out) == 1000001
    assert os.fsdecode(run_limited(["/bin/echo", "é"], 10).out) == "é\n"
