# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the window talks to its processes: one client that stays, another when it is lost, a turn before the freeze."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineclient import LineError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.lineserver import LineServer, Service
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.line import StandingLine
from ansible_collections.splitmirror.backup.plugins.plugin_utils.line_peer import LinePeer, PeerRefused, is_answer
from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import ArmedSplitter, Splitter
from ansible_collections.splitmirror.backup.plugins.plugin_utils.window import WindowFailed, run_window

SESSION = "s1"
Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def plugins() -> None:
    init_plugin_loader()


def thawed() -> Json:
    """What a holder answers that has thawed everything."""
    return {"thawed": True, "frozen": False, "window_s": 0.2, "intact": True, "error": None}


def granted() -> Json:
    """What a splitter answers whose turn it is."""
    return {"granted": True}


class Scripted(Service):
    """A service that answers by functions, and keeps who was asked what in one list for all of them."""

    def __init__(self, name: str, asked: list[str], answers: dict[str, Callable[[], Json]]) -> None:
        self.name = name
        self.asked = asked
        self.answers = answers
        self.server: Optional[LineServer] = None

    def handle(self, op: str, args: Json) -> Json:
        self.asked.append(f"{self.name} {op}")
        return self.answers.get(op, thawed if op == "thaw" else dict)()


class Peers:
    """Real line servers, and the window's ends of them."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(str(folder / "state"))
        self.folder = Path(self.state.make_session_dir(SESSION))
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []
        self.services: list[Scripted] = []

    def serve(self, name: str, *, host: str = "here", **answers: Callable[[], Json]) -> LinePeer:
        service = Scripted(name, self.asked, answers)
        service.server = server = LineServer(str(self.folder / f"{name}.sock"), service)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        self.threads.append(thread)
        self.services.append(service)
        connection = connection_loader.get("local", PlayContext(), new_stdin=None)
        connection.set_options()
        return LinePeer(Channel(host, connection, sys.executable), self.state.root, SESSION, name)

    def splitter(self, name: str = "splitter", **answers: Callable[[], Json]) -> ArmedSplitter:
        host = "here" if name == "splitter" else name
        return ArmedSplitter(self.serve(name, host=host, **{"turn": granted, **answers}))

    def stop(self) -> None:
        for service in self.services:
            if service.server is not None:
                service.server.stop()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    peers = Peers(tmp_path)
    yield peers
    peers.stop()


def closed() -> Json:
    return {"window_s": 0.2, "intact": True, "error": None, "check": {"complete": True}}


def test_the_window_waits_for_its_turn_before_the_freeze(peers: Peers) -> None:
    turns = iter([False, False, True])
    holder = peers.serve("holder", check_thaw=closed)
    splitter = peers.splitter(turn=lambda: {"granted": next(turns)}, split=lambda: {"split_s": 0.1})
    evidence = run_window(holder, [splitter], ["/data"], 5, 60)
    holder.close()
    splitter.close()
    assert evidence["window"]["overhead_s"] == 0.1
    assert peers.asked == [
        "splitter ping",
        "holder ping",
        "splitter turn",
        "splitter turn",
        "splitter turn",
        "holder freeze",
        "splitter split",
        "holder check_thaw",
    ]


def test_nothing_is_frozen_when_the_turn_does_not_come(peers: Peers) -> None:
    holder = peers.serve("holder")
    splitter = peers.splitter(turn=lambda: {"granted": False})
    with pytest.raises(WindowFailed, match="turn_timeout_s") as failed:
        run_window(holder, [splitter], ["/data"], 5, 0)
    holder.close()
    splitter.close()
    assert not failed.value.split_sent
    assert "holder freeze" not in peers.asked


def test_a_lost_line_is_told_and_the_thaw_finds_another_way(peers: Peers) -> None:
    """The splitter's end kills the client of the holder, as a cut connection would."""
    holder = peers.serve("holder", check_thaw=closed)

    def cut() -> Json:
        line = holder._line
        assert line is not None
        os.killpg(line._program.pid, signal.SIGKILL)
        line._program.wait()
        return {"split_s": 0.1}

    splitter = peers.splitter(split=cut)
    with pytest.raises(
        WindowFailed,
        match="the request 'check_thaw' to the holder of session s1 failed: here: the connection to it is lost",
    ) as failed:
        run_window(holder, [splitter], ["/data"], 5, 60)
    splitter.close()
    assert "could not be confirmed" not in str(failed.value)
    assert "deadline" not in str(failed.value)
    assert peers.asked[-1] == "holder thaw"
    assert failed.value.evidence["window"]["intact"] is False


def test_a_thaw_that_leaves_something_frozen_is_asked_for_again_and_told(peers: Peers) -> None:
    stuck = {**thawed(), "frozen": True, "error": "databases: d: it cannot be thawed."}
    holder = peers.serve("holder", thaw=lambda: stuck)
    splitter = peers.splitter(split=refuse)
    with pytest.raises(WindowFailed, match="could not be confirmed either: databases: d: it cannot be thawed"):
        run_window(holder, [splitter], ["/data"], 5, 60)
    holder.close()
    splitter.close()
    assert peers.asked.count("holder thaw") > 1


def refuse() -> Json:
    raise LineError("the mirror is not in sync.")


def test_a_window_that_ends_at_its_deadline_says_so(peers: Peers) -> None:
    never = threading.Event()
    holder = peers.serve("holder", thaw=thawed)
    splitter = peers.splitter(split=lambda: {"waited": never.wait(60)})
    try:
        with pytest.raises(WindowFailed, match="deadline of the freeze"):
            run_window(holder, [splitter], ["/data"], 0.2, 60)
    finally:
        never.set()


def closes(peers: Peers, splitters: Sequence[Splitter], holder: LinePeer) -> None:
    for splitter in splitters:
        splitter.close()
    holder.close()


def test_all_splitters_stand_by_and_have_their_turn_before_the_freeze_and_split_at_once(peers: Peers) -> None:
    """Each split ends when the other one has begun, so that they would never end one after the other."""
    begun = {"a": threading.Event(), "b": threading.Event()}
    turns = iter([False, True, True])

    def split(mine: str, other: str) -> Json:
        begun[mine].set()
        assert begun[other].wait(60)
        return {"split_s": 0.1 if mine == "a" else 0.15, "devices": {mine: f"/dev/{mine}"}}

    holder = peers.serve("holder", check_thaw=closed)
    splitters = [
        peers.splitter("a", split=lambda: split("a", "b")),
        peers.splitter("b", turn=lambda: {"granted": next(turns)}, split=lambda: split("b", "a")),
    ]
    evidence = run_window(holder, splitters, ["/data"], 60, 60)
    closes(peers, splitters, holder)
    before, frozen = (
        peers.asked[: peers.asked.index("holder freeze")],
        peers.asked[peers.asked.index("holder freeze") :],
    )
    # The turn that was granted first is asked for again, so that it does not end while the other one is waited for.
    assert before == ["a ping", "b ping", "holder ping", "a turn", "b turn", "a turn", "b turn"]
    assert sorted(frozen[1:3]) == ["a split", "b split"]
    assert frozen[3:] == ["holder check_thaw"]
    assert [(split["splitter"], split["devices"]) for split in evidence["splits"]] == [
        ("a", {"a": "/dev/a"}),
        ("b", {"b": "/dev/b"}),
    ]
    window = evidence["window"]
    assert (window["splitters"], window["split_s"], window["overhead_s"]) == (["a", "b"], 0.15, 0.05)
    told = [(event["name"], event["splitter"]) for event in window["events"]]
    assert told[:2] == [("split_sent", "a"), ("split_sent", "b")]
    assert sorted(told[2:]) == [("split_returned", "a"), ("split_returned", "b")]


def test_one_refusal_of_two_thaws_at_once_and_tells_what_was_split(peers: Peers) -> None:
    """The other split ends after the thaw only."""
    thaws = threading.Event()

    def slow() -> Json:
        assert thaws.wait(60)
        return {"split_s": 0.1}

    def thaw() -> Json:
        thaws.set()
        return thawed()

    holder = peers.serve("holder", thaw=thaw)
    splitters = [peers.splitter("a", split=slow), peers.splitter("b", split=refuse)]
    with pytest.raises(WindowFailed, match=r"^b: the mirror is not in sync\.$") as failed:
        run_window(holder, splitters, ["/data"], 60, 60)
    closes(peers, splitters, holder)
    assert failed.value.split_sent
    assert [split["splitter"] for split in failed.value.evidence["splits"]] == ["a"]
    assert failed.value.evidence["window"]["intact"] is False
    assert "holder check_thaw" not in peers.asked


def test_one_silence_of_two_fails_the_window_at_the_deadline(peers: Peers) -> None:
    never = threading.Event()
    holder = peers.serve("holder")
    splitters = [
        peers.splitter("a", split=lambda: {"split_s": 0.1}),
        peers.splitter("b", split=lambda: {"waited": never.wait(60)}),
    ]
    try:
        with pytest.raises(WindowFailed, match=r"b: .*no answer in time.*deadline of the freeze") as failed:
            run_window(holder, splitters, ["/data"], 0.2, 60)
    finally:
        never.set()
    closes(peers, splitters, holder)
    assert peers.asked[-1] == "holder thaw"
    assert [split["splitter"] for split in failed.value.evidence["splits"]] == ["a"]


def test_nothing_is_frozen_when_one_of_two_is_not_there_or_has_no_turn(peers: Peers) -> None:
    holder = peers.serve("holder")
    first, second = peers.splitter("a"), peers.splitter("b", turn=lambda: {"granted": False})
    with pytest.raises(WindowFailed, match=r"^b: this session has waited 0 s for its turn") as failed:
        run_window(holder, [first, second], ["/data"], 5, 0)
    (peers.folder / "b.sock").unlink()
    second.close()
    with pytest.raises(WindowFailed, match=r"^b: the request 'connect' to the b of session s1 failed"):
        run_window(holder, [first, second], ["/data"], 5, 0)
    closes(peers, [first, second], holder)
    assert not failed.value.split_sent
    assert not [asked for asked in peers.asked if asked in ("holder freeze", "a split", "b split")]


def test_many_questions_go_over_one_client(peers: Peers) -> None:
    ends: set[str] = set()
    holder = peers.serve("holder", who=lambda: {"clients": len(ends)})
    holder.stand_by()
    server = peers.services[0].server
    assert server is not None
    for _turn in range(5):
        holder.call("who")
        ends.update(str(id(connection)) for connection in server._connections)
    holder.close()
    assert len(ends) == 1


def test_a_client_finds_nobody(peers: Peers) -> None:
    holder = peers.serve("holder")
    peers.stop()
    with pytest.raises(
        PeerRefused,
        match=r"request 'connect' to the holder of session s1 failed: here: the connection to it is lost: .*no answer",
    ):
        holder.stand_by()


def shell(script: str) -> list[bytes]:
    return [b"/bin/sh", b"-c", script.encode()]


def test_what_a_host_says_before_the_greeting_is_not_an_answer() -> None:
    line = StandingLine(shell("echo Welcome; echo; echo hello; cat"), "far", b"hello", 20)
    try:
        assert [line.exchange(question) for question in ("one", "two")] == [b"one", b"two"]
    finally:
        line.close()


def test_a_long_answer_is_whole() -> None:
    line = StandingLine(
        shell("echo hello; read question; head -c 300000 /dev/zero | tr '\\0' x; echo"), "far", b"hello", 20
    )
    try:
        assert line.exchange("question") == b"x" * 300_000
    finally:
        line.close()


def test_silence_ends_at_its_time() -> None:
    line = StandingLine(shell("echo hello; cat >/dev/null"), "far", b"hello", 20)
    try:
        with pytest.raises(AnsibleError, match="no answer in time"):
            line.exchange("question", timeout_s=0.05)
    finally:
        line.close()


def test_a_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.splitmirror.backup.plugins.plugin_utils.line._END_S", 0.05)
    line = StandingLine(shell("echo hello; exec sleep 600"), "far", b"hello", 20)
    pid = line._program.pid
    line.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_the_program_said_last_is_the_reason() -> None:
    with pytest.raises(AnsibleError, match="far: the connection to it is lost: no such thing"):
        StandingLine(shell("echo no such thing >&2; exit 1"), "far", b"hello", 20)


GOOD: Json = {"intact": True, "check": {}}


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"a": [{"name": "data"}], "b": [{"name": "wal"}]}, ""),
        ({"a": [{"name": "data"}], "b": []}, "no splitter has split wal"),
        ({"a": [{"name": "data"}], "b": [{"name": "data"}]}, "no splitter has split wal"),
        ({"a": [{"name": "data"}, {"name": "wal"}], "b": [{"name": "other"}]}, "have split other"),
        ({"a": [{"name": "data"}, {"name": "wal"}], "b": [{"name": "wal"}]}, "have split a pair more than once"),
        ({"a": [{"name": "data"}, {"name": "wal"}], "b": "wal"}, ""),
        ({"a": None, "b": ["data", "wal", {}]}, "no splitter has split data, wal"),
    ],
)
def test_the_pairs_that_were_split_are_those_of_the_host(peers: Peers, split: Json, words: str) -> None:
    holder = peers.serve("holder", check_thaw=closed)
    splitters = [peers.splitter(name, split=partial(dict, split_s=0.1, pairs=of)) for name, of in split.items()]
    if not words:
        assert run_window(holder, splitters, ["/"], 5, 5, pairs=["data", "wal"])["window"]["intact"]
        return
    with pytest.raises(WindowFailed, match=f"^pairs: .*{words}") as failed:
        run_window(holder, splitters, ["/"], 5, 5, pairs=["data", "wal"])
    assert (failed.value.option, failed.value.split_sent) == ("pairs", True)


JUNK: list[Json] = [{}, {"split_s": "0.1"}, {"window_s": None, "intact": 1, "check": []}, GOOD]
JUNK += [{"split_s": odd, "window_s": odd, **GOOD} for odd in (-1, True, 10**400, -(10**400), math.nan, math.inf)]


@pytest.mark.parametrize("junk", JUNK)
def test_an_answer_of_a_wrong_kind_is_a_sentence_and_the_thaw_follows(peers: Peers, junk: Json) -> None:
    holder = peers.serve("holder", check_thaw=lambda: junk)
    for split in (lambda: junk, lambda: {"split_s": 0.1}):
        peers.asked.clear()
        splitter = peers.splitter(split=split)
        with pytest.raises(WindowFailed, match=r"here: the (answer of the (holder|splitter) lacks|request .* failed)"):
            run_window(holder, [splitter], ["/"], 5, 5)
        assert "holder thaw" in peers.asked
        (peers.folder / "splitter.sock").unlink()


NO_EVENTS: list[Any] = [None, {}, "x", [1], [{"seq": "1", "name": "n"}]]
NO_ANSWERS: list[Any] = [
    None,
    [],
    7,
    {},
    {"ok": 1},
    {"ok": True},
    {"ok": True, "result": []},
    {"ok": False, "error": 1},
]


@pytest.mark.parametrize("reply", NO_ANSWERS + [{"ok": True, "result": {}, "events": events} for events in NO_EVENTS])
def test_what_is_no_answer_is_not_taken_for_one(reply: Any) -> None:
    assert not is_answer(reply)
    assert is_answer({"ok": True, "result": {}, "events": [{"seq": 1, "name": "n", "mono_s": 0.5}]})
