# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Provider external in the window: nothing of a failed split stays, whatever became of it, and no secret anywhere."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import read_record
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import Refused
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import splitter
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.base import MirrorError, MirrorProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.external import ExternalProvider
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import make_provider
from ansible_collections.splitmirror.backup.plugins.module_utils.session import short_session
from ansible_collections.splitmirror.backup.plugins.modules import mirror_info, mirror_split, mirror_sync
from ansible_collections.splitmirror.backup.tests.support import toyoptions, toyrest
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for
from ansible_collections.splitmirror.backup.tests.support.mirrors import kill, run_module
from ansible_collections.splitmirror.backup.tests.support.toyarray import PASSWORD, ToyArray

pytestmark = pytest.mark.slow

SESSION = "20260131T020000Z-db1-9f3c"
OTHER = "20260131T030000Z-db1-0001"
KINDS = ("program", "commands", "one command", "http")


class Bench:
    """An array, and what the provider is told of it by one kind."""

    def __init__(self, folder: Path, kind: str, api: toyrest.RestApi, certificate: Path) -> None:
        self.array = api.array
        self.kind = kind
        self.api = api
        self.state_dir = str(folder / "state")
        self.options: dict[str, Any] = {
            "program": lambda: toyoptions.of_program(self.array.folder),
            "commands": lambda: toyoptions.of_commands(self.array.folder),
            "one command": lambda: toyoptions.of_one_command(self.array.folder),
            "http": lambda: toyoptions.of_http(api, certificate),
        }[kind]()
        self.options.update(timeout_s=30, ready_timeout_s=30)
        # What shows mirrors as loop devices needs root; the contract has that.
        for step in ("present", "withdraw"):
            self.options.pop(step, None)
        if kind == "program":
            self.options["program_answers"] = ["look"]

    def provider(self, **changed: Any) -> MirrorProvider:
        return make_provider(
            "external", toyoptions.PAIRS, self.state_dir, {**self.options, **changed}, toyoptions.SECRETS
        )

    def snapshots(self) -> list[str]:
        return sorted(path.name for path in self.array.snaps.iterdir())

    def records(self) -> list[str]:
        folder = Path(self.state_dir, "mirrors")
        return sorted(path.name for path in folder.glob("*.json*")) if folder.exists() else []

    def logins(self) -> int:
        return self.api.requests.count(("POST", "/api/login"))

    def is_clean(self) -> None:
        assert (self.snapshots(), self.records()) == ([], [])
        assert [state.phase for state in self.provider().state()] == ["none", "none"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toyrest.make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> Iterator[Bench]:
    array = ToyArray(tmp_path / "array")
    array.make(["t0.img", "t1.img"], 1 << 16)
    with toyrest.rest_api(array, certificate) as api:
        bench = Bench(tmp_path, request.param, api, certificate)
        yield bench
        splitter.disarm(bench.provider().state_dir, SESSION)


def fails(action: Callable[[], object]) -> str:
    with pytest.raises(SplitMirrorError) as failed:
        action()
    return failed.value.message


# ---- a split that fails ----


def test_a_split_that_is_refused_late_or_partial_is_undone_by_the_splitter(bench: Bench) -> None:
    """The splitter answers at once that it failed, so that writes go on, and cleans up then."""
    for fault in ("refuse t1.img", "some", "hang", "die", "die-after", "garbage"):
        if bench.kind == "http" and fault.startswith("die"):
            continue  # the server is this process
        if bench.kind == "commands" and fault == "some":
            continue  # there is one for each pair
        if "command" in bench.kind and fault == "garbage":
            continue  # what it prints is not looked at
        splitter.arm(bench.provider(**({"timeout_s": 1.5} if fault == "hang" else {})), SESSION, 60)
        with bench.array.faulty(split=fault):
            with pytest.raises(Refused) as failed:
                splitter.split(bench.provider().state_dir, SESSION)
            assert "split" in failed.value.message, fault
            # Its end, with the clean-up.
            splitter.disarm(bench.provider().state_dir, SESSION)
        assert PASSWORD not in failed.value.message
        bench.is_clean()


def test_only_some_of_the_pairs_are_named(bench: Bench) -> None:
    if bench.kind == "commands":
        return
    prepared = bench.provider().prepare(SESSION)
    with bench.array.faulty(split="some"):
        message = fails(prepared.split)
        prepared.cancel()
    words = {"program": "only t0, and not t1", "one command": "only t0.img of the group", "http": "reports 'error'"}
    assert words[bench.kind] in message
    bench.is_clean()


def test_what_cannot_be_undone_at_once_is_undone_later(bench: Bench) -> None:
    prepared = bench.provider().prepare(SESSION)
    # A server that the client has given up goes on.
    faults = {"split": "refuse t1.img", "undo": "hang" if bench.kind == "http" else "die"}
    with bench.array.faulty(**faults):
        fails(prepared.split)
        fails(lambda: bench.provider(ready_timeout_s=1).recover() or prepared.cancel())
    assert bench.records() == [f"{SESSION}.json"]
    with pytest.raises(MirrorError, match="is ready to split"):
        bench.provider().recover()  # this process, which lives, has prepared it
    prepared.cancel()
    bench.is_clean()


def test_202_is_never_taken_for_done(bench: Bench) -> None:
    if bench.kind != "http":
        return
    split = {name: value for name, value in bench.options["split"].items() if name != "poll"}
    prepared = bench.provider(split=split).prepare(SESSION)
    assert "202 (accepted), which does not say that it is done" in fails(prepared.split)
    prepared.cancel()
    bench.is_clean()
    # A job that never ends is late.
    poll = {**bench.options["split"]["poll"], "done": ["never"]}
    prepared = bench.provider(split={**split, "poll": poll}, timeout_s=1.5).prepare(SESSION)
    assert "in time" in fails(prepared.split)
    prepared.cancel()
    bench.is_clean()


def test_an_array_that_does_not_answer_before_the_freeze_fails_before_it(bench: Bench) -> None:
    """Asked by the ping that backup_window sends before it freezes."""
    others = set(children_of(os.getpid()))
    prepared = bench.provider().prepare(SESSION)
    prepared.flush()
    if bench.kind == "http":
        # A login that has expired is made again.
        bench.api.token_lives = False
        prepared.flush()
        bench.api.is_down = True
    elif bench.kind == "program":
        (child,) = set(children_of(os.getpid())) - others
        os.kill(child, signal.SIGKILL)
        wait_for(partial(gone, child), "end of the program")
    if "command" not in bench.kind:
        fails(prepared.flush)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def gone(pid: int) -> bool:
    """Whether a process has ended; one of ours may not have been waited for."""
    path = Path(f"/proc/{pid}/stat")
    return not path.exists() or path.read_text(encoding="ascii").split()[2] == "Z"


def test_a_link_that_was_open_before_the_fork_takes_no_file_of_the_splitter_with_it(bench: Bench) -> None:
    """A daemon closes all that it has inherited, and what it opens then gets these numbers."""
    before = _sockets()
    provider = bench.provider()
    provider.state()
    inherited = _sockets() - before
    assert inherited or bench.kind != "http"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_RDONLY)
            for fd in inherited:
                os.dup2(null, fd)
            provider.state()
            gc.collect()
            code = 0 if all(os.readlink(f"/proc/self/fd/{fd}") == os.devnull for fd in inherited) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _sockets() -> set[int]:
    """The numbers of this process's open sockets."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


# ---- a splitter that is killed ----


@pytest.mark.parametrize("fault", ["", "kill", "kill-after"])
def test_a_splitter_that_is_killed_leaves_what_the_next_run_undoes(bench: Bench, fault: str) -> None:
    """Killed while it is armed, and by the array itself just before and just after it has split."""
    if fault and bench.kind == "http":
        return  # the server is this process
    ready = splitter.arm(bench.provider(), SESSION, 60)
    program = [child for child in children_of(ready.pid) if bench.kind == "program"]
    if fault:
        with bench.array.faulty(split=fault):
            fails(lambda: splitter.split(bench.provider().state_dir, SESSION))
    else:
        kill(ready.pid)
    record = read_record(bench.provider().state_dir.session_dir(SESSION), splitter.NAME)
    assert record is not None
    # With it end the commands that it has started.
    for pid in (ready.pid, *program):
        wait_for(partial(gone, pid), f"end of {pid}")
    assert bench.records() == [f"{SESSION}.json"]
    assert {state.phase for state in bench.provider().state()} == {"broken"}
    assert fails(lambda: bench.provider().prepare(OTHER))
    (recovered,) = bench.provider().recover()
    assert (recovered.session, recovered.phase) == (SESSION, "broken")
    bench.is_clean()


def test_a_session_whose_record_is_lost_is_undone_by_its_short_id(bench: Bench) -> None:
    bench.provider().split(SESSION)
    data = json.loads(Path(bench.state_dir, "mirrors", f"{SESSION}.json").read_text(encoding="utf-8"))
    assert data["short"] == short_session(SESSION)
    assert {path.read_text(encoding="ascii") for path in bench.array.snaps.glob("*.mark")} == {data["short"]}
    os.unlink(Path(bench.state_dir, "mirrors", f"{SESSION}.json"))
    # An array that is not asked for marks: only who knows the session can have it undone.
    options = {name: value for name, value in bench.options.items() if name not in ("program_answers", "look")}
    blind = make_provider("external", toyoptions.PAIRS, bench.state_dir, options, toyoptions.SECRETS)
    assert blind.recover() == []
    assert blind.recover([OTHER]) == []
    assert len(bench.snapshots()) == 4
    assert blind.recover([SESSION]) == []
    bench.is_clean()


def test_a_named_session_is_not_undone_over_one_that_holds_the_pairs(bench: Bench) -> None:
    bench.provider().split(SESSION)
    asked: list[str] = []

    class Watched(ExternalProvider):
        def undo(self, record: Any) -> None:
            asked.append(record.session)
            super().undo(record)

    pairs = bench.provider().pairs
    provider = Watched(pairs, bench.provider().state_dir, bench.options)
    provider.secrets = toyoptions.SECRETS
    provider.recover([OTHER])
    # It cleaned up the one that held them; only then the other.
    assert asked == [SESSION, OTHER]
    bench.is_clean()


# ---- standing ready ----


def test_a_connection_is_kept_alive_while_the_split_is_armed(bench: Bench) -> None:
    if bench.kind != "http":
        return
    bench.options["keep_alive"] = {"path": "/version", "interval_s": 0.05}
    splitter.arm(bench.provider(), SESSION, 60)
    wait_for(lambda: bench.api.requests.count(("GET", "/api/version")) > 3, "requests")
    before = bench.logins()
    splitter.split(bench.provider().state_dir, SESSION)
    assert bench.logins() == before


def test_a_module_logs_in_once_and_out_at_its_end(bench: Bench) -> None:
    if bench.kind != "http":
        return
    bench.options["logout"] = {"method": "POST", "path": "/logout"}
    wanted = 0

    def used(*steps: Callable[[MirrorProvider], object]) -> None:
        """As a module uses a provider."""
        nonlocal wanted
        provider = bench.provider()
        for step in steps:
            step(provider)
        wanted += 1
        assert bench.logins() == wanted
        assert ("POST", "/api/logout") not in bench.api.requests[-1:]
        del provider
        assert bench.api.requests[-1] == ("POST", "/api/logout")

    used(lambda one: one.sync(wait=True, timeout_s=30), lambda one: one.state())
    wanted += 1  # a split logs out when it is done
    used(lambda one: one.state(), lambda one: one.split(SESSION), lambda one: one.state())
    used(lambda one: one.state(), lambda one: one.resync(SESSION, wait=True, timeout_s=30), lambda one: one.state())
    used(lambda one: one.recover([SESSION]), lambda one: one.check_splittable(SESSION))
    # The process of the splitter has a login of its own.
    armed = bench.provider()
    armed.check_splittable(SESSION)
    splitter.arm(armed, SESSION, 60)
    assert bench.logins() == wanted + 2
    armed.state()
    assert bench.logins() == wanted + 2


def test_a_connection_that_the_array_has_closed_meanwhile_is_opened_again(bench: Bench) -> None:
    if bench.kind != "http":
        return
    provider = bench.provider()
    provider.state()
    bench.api.drop_connections()
    provider.state()
    assert bench.logins() == 1


def test_a_login_that_the_array_has_ended_meanwhile_is_made_again_once(bench: Bench) -> None:
    if bench.kind != "http":
        return
    bench.options["logout"] = {"method": "POST", "path": "/logout"}
    provider = bench.provider()
    assert isinstance(provider, ExternalProvider)
    provider.split(SESSION)
    record = provider.journal.read(SESSION)
    assert record is not None
    before = bench.logins()
    provider.state()
    bench.api.token = "token-of-another-login"
    provider.undo(record)  # several requests
    assert (bench.snapshots(), bench.logins()) == ([], before + 2)
    bench.api.token_lives = False
    del provider
    assert bench.logins() == before + 2


# ---- secrets ----


WATCH = """
import select, sys
from pathlib import Path
password = sys.stdin.buffer.readline().strip()
while not select.select([sys.stdin], [], [], 0.002)[0]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if password in words:
            print(words)
"""


def test_no_secret_stands_anywhere(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Looked for in arguments of all processes, in environments of others, in files, in results and in messages."""
    # One that nothing else on this machine has.
    password = secrets.token_hex(16)
    kept = bench.array.folder / "password"
    kept.write_text(password, encoding="ascii")
    arguments = {
        "provider": "external",
        "provider_options": bench.options,
        "provider_secrets": {"TOY_PASSWORD": password},
        "pairs": toyoptions.PAIRS,
        "state_dir": bench.state_dir,
    }
    # A process of its own: a thread would open and close files beside the forks of this one.
    watcher = subprocess.Popen([sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert watcher.stdin is not None
    watcher.stdin.write(f"{password}\n")
    watcher.stdin.flush()
    try:
        results = [run_module(mirror_info.main, arguments)]
        of_session = {**arguments, "session": SESSION}
        results.append(run_module(mirror_split.main, {**of_session, "state": "armed"}))
        with bench.array.faulty(split="refuse t1.img"):
            results.append(run_module(mirror_split.main, of_session))
        splitter.disarm(bench.provider().state_dir, SESSION)
        results.append(run_module(mirror_sync.main, {**of_session, "state": "recovered"}))
        results.append(run_module(mirror_split.main, of_session))
    finally:
        found, _errors = watcher.communicate()
    assert watcher.returncode == 0
    assert [result.get("failed", False) for result in results] == [False, False, True, False, False], results
    assert found == ""
    assert password not in json.dumps(results)
    assert password not in "".join(capfd.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != kept]
    assert any(path.name == "splitter.log" for path in files)
    assert [path for path in files if password.encode() in path.read_bytes()] == []
    kept.unlink()
    bench.provider().recover()
