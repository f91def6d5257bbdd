# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who gets which drive, and when; processes that die, wait and are waited for."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.base import TapeError
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, use_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.tickets import (
    DriveTimeout,
    QueueTicket,
    Ticket,
    assign,
)
from ansible_collections.splitmirror.backup.tests.support.tape import Library, run_module_apart

DRIVES = ("A", "B", "C")
VOLUMES = ("V1", "V2", "V3", "V4")


@st.composite
def queues(draw: st.DrawFn) -> list[Ticket]:
    """Tickets as they can stand in a queue: no drive and no volume is used twice."""
    tickets: list[Ticket] = []
    drives, volumes = set(DRIVES), set(VOLUMES)
    for number in range(draw(st.integers(0, 6))):
        devices = tuple(draw(st.lists(st.sampled_from(DRIVES), min_size=1, max_size=3, unique=True)))
        volume = draw(st.sampled_from(VOLUMES))
        device = draw(st.none() | st.sampled_from(devices))
        if device not in drives or volume not in volumes:
            device = None
        if device is not None:
            drives.remove(device)
            volumes.remove(volume)
        tickets.append(Ticket(f"t{number}", number, 0.0, volume, devices, (), device))
    return tickets


@given(tickets=queues(), loaded=st.dictionaries(st.sampled_from(DRIVES), st.sampled_from(VOLUMES)))
def test_nobody_is_overtaken_and_nothing_is_used_twice(tickets: list[Ticket], loaded: dict[str, str]) -> None:
    found = assign(tickets, loaded)
    given_to = {device: ticket for ticket, device in zip(tickets, found) if isinstance(device, str)}
    assert len(given_to) == sum(isinstance(device, str) for device in found)
    users = [ticket.volume for ticket in given_to.values()]
    assert len(set(users)) == len(users)
    for place, (ticket, outcome) in enumerate(zip(tickets, found)):
        if ticket.device is not None:
            assert outcome == ticket.device
        elif isinstance(outcome, str):
            assert outcome in ticket.devices
        else:
            later = set(users) & {other.volume for other in tickets[place + 1 :] if other.device is None}
            earlier = [other.volume for other in tickets if other.device is not None] + [
                other.volume for other in tickets[:place]
            ]
            if ticket.volume not in earlier:
                # All its drives are taken, none of them by somebody who came later.
                holders = [given_to[device] for device in ticket.devices]
                assert all(holder.device is not None or tickets.index(holder) < place for holder in holders)
                assert ticket.volume not in later


def test_the_drive_that_holds_the_volume_is_taken_and_an_empty_one_before_a_full_one() -> None:
    ticket = Ticket("t", 1, 0.0, "V1", DRIVES)
    assert assign([ticket], {"B": "V1"}) == ["B"]
    assert assign([ticket], {"A": "V2"}) == ["B"]
    assert assign([ticket], {"A": "V2", "B": "V3", "C": "V4"}) == ["A"]
    user = Ticket("u", 2, 0.0, "V2", DRIVES, (), "B")
    assert assign([user, ticket], {"B": "V1"}) == ["B", "A"]


def test_of_several_volumes_each_task_gets_another_one_while_there_are_some(tmp_path: Path) -> None:
    tickets = [QueueTicket(str(tmp_path), f"t{number}", "", ("A", "B", "C")) for number in range(3)]
    with tickets[0] as first, tickets[1] as second, tickets[2] as third:
        assert [place.want_free(("V1", "V2")) for place in (first, second, third)] == ["V1", "V2", "V1"]
        first.wait(0, 0, void)
        second.wait(0, 0, void)
        with pytest.raises(DriveTimeout, match="volume V1 is used by t0"):
            third.wait(0, 0, void)
        first.want("")
        assert third.want_free(("V1", "V2")) == "V1"
        third.wait(0, 0, void)


def test_a_task_that_has_not_said_what_it_wants_keeps_nobody_waiting() -> None:
    told = assign([Ticket("t", 1, 0.0, "", ("A",)), Ticket("u", 2, 0.0, "V1", ("A",))], {})
    assert told[1] == "A"


def test_who_waits_is_told_who_has_it() -> None:
    user = Ticket("tape_write of session s1", 42, 0.0, "V1", ("A",), (), "A")
    told = assign([user, Ticket("t", 1, 0.0, "V1", DRIVES), Ticket("t", 1, 0.0, "V2", ("A",))], {})
    assert told[1] == ["volume V1 is used by tape_write of session s1 (process 42, since 1970-01-01T00:00:00Z)"]
    assert told[2] == ["drive A is used by tape_write of session s1 (process 42, since 1970-01-01T00:00:00Z)"]


@contextmanager
def process(work: Callable[[Callable[[str], None]], None]) -> Iterator[tuple[int, Callable[[], str]]]:
    """Do something in a process of its own, which tells by lines. Yields its pid and what reads a line."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            work(lambda line: void(os.write(write_end, line.encode() + b"\n")))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        try:
            yield child, lambda: stream.readline().strip()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def void(_dummy: object) -> None:
    """Nothing."""


def forever(say: Callable[[str], None], word: str) -> None:
    say(word)
    signal.pause()


def take(folder: Path, volume: str = "V1", devices: tuple[str, ...] = ("A",), timeout_s: float = 0) -> str:
    """Draw a ticket, wait, take a drive and give it back."""
    with QueueTicket(str(folder), "test", volume, devices) as place:
        place.wait(timeout_s, time.monotonic() + timeout_s, void)
        return place.device


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    def hold(say: Callable[[str], None]) -> None:
        with QueueTicket(str(tmp_path), "holder", "V1", ("A",)) as place:
            place.wait(0, 0, void)
            forever(say, place.device)

    with process(hold) as (_pid, line):
        assert line() == "A"
        with pytest.raises(DriveTimeout, match="volume V1 is used by holder") as caught:
            take(tmp_path)
        assert caught.value.option == "drive_timeout_s"
        with pytest.raises(DriveTimeout, match="drive A is used by holder"):
            take(tmp_path, "V2")
        assert take(tmp_path, "V2", ("A", "B")) == "B"
    assert take(tmp_path) == "A"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_a_killed_waiter_keeps_nobody_waiting(tmp_path: Path) -> None:
    def wait(say: Callable[[str], None]) -> None:
        with QueueTicket(str(tmp_path), "waiter", "V2", ("A",)) as place:
            place.wait(60, 1e12, lambda reason: say(reason or "taken"))

    with QueueTicket(str(tmp_path), "holder", "V1", ("A",)) as place:
        place.wait(0, 0, void)
        with process(wait) as (_pid, line):
            assert "used by holder" in line()
            with pytest.raises(DriveTimeout, match="V2 is waited for by waiter"):
                take(tmp_path, "V2", ("A", "B"))
        assert take(tmp_path, "V2", ("A", "B")) == "B"


def test_waiters_come_in_the_order_of_their_tickets(tmp_path: Path) -> None:
    def wait(say: Callable[[str], None]) -> None:
        with QueueTicket(str(tmp_path), "waiter", "V1", ("A",)) as place:
            place.wait(60, 1e12, lambda reason: say(reason or "taken"))
            os.write(order, str(os.getpid()).encode() + b"\n")

    order_read, order = os.pipe()
    pids = []
    children = ExitStack()
    with QueueTicket(str(tmp_path), "holder", "V1", ("A",)) as place:
        place.wait(0, 0, void)
        for _dummy in range(3):
            pid, line = children.enter_context(process(wait))
            assert "V1 is used by holder" in line()
            pids.append(str(pid))
    with children, os.fdopen(order_read) as stream:
        assert [stream.readline().strip() for _dummy in range(3)] == pids
    os.close(order)


def options(library: Library, **more: Any) -> dict[str, Any]:
    state_dir = str(library.state_dir)
    return {"drive_type": "virtual", "drive": str(library.folder), "state_dir": state_dir, "drive_timeout_s": 0, **more}


def test_a_drive_in_use_is_waited_for_and_why_is_told(labelled: Library) -> None:
    path = labelled.state_dir / "status.json"
    told: list[str | None] = []

    def hold(say: Callable[[str], None]) -> None:
        with use_drive(DriveOptions.of(options(labelled)), "V1", who="holder"):
            forever(say, "held")

    with process(hold) as (pid, line):
        assert line() == "held"

        def tell(reason: str | None) -> None:
            told.append(reason)
            StatusWriter(str(path), "write", "bytes").wait_for(reason)
            if reason is not None:
                assert reason in json.loads(path.read_text())["waiting_for"]
                os.kill(pid, signal.SIGKILL)

        with use_drive(DriveOptions.of(options(labelled, drive_timeout_s=60)), "V1", who="me", tell=tell) as lease:
            lease.drive.load("V1")
    assert (len(told), told[-1]) == (2, None)
    assert "volume V1 is used by holder" in (told[0] or "")
    assert json.loads(path.read_text())["waiting_for"] is None


def test_a_user_without_a_ticket_is_waited_for_too(labelled: Library) -> None:
    with (
        labelled.drive(),
        pytest.raises(DriveTimeout, match="process outside the queue"),
        use_drive(DriveOptions.of(options(labelled)), "V1", who="me"),
    ):
        pass
    with use_drive(DriveOptions.of(options(labelled)), "V1", who="me") as lease:
        lease.drive.load("V1")


def two_volumes(library: Library) -> None:
    """A second volume beside V1."""
    library.make("V2")
    library.label("V2")


def test_a_volume_is_exchanged_and_the_one_before_is_free(labelled: Library) -> None:
    two_volumes(labelled)
    with use_drive(DriveOptions.of(options(labelled)), "V1", who="me") as lease:
        first = lease.drive
        first.load("V1")
        assert lease.exchange("V1") is first
        assert first.status().volume == "V1"
        drive = lease.exchange("V2")
        assert drive is lease.drive
        drive.load("V2")
        folder = str(labelled.state_dir / "drives")
        with QueueTicket(folder, "other", "V1", ("another",)) as other:
            other.wait(0, 0, void)
        with QueueTicket(folder, "other", "V2", ("another",)) as other, pytest.raises(DriveTimeout, match="V2 is used"):
            other.wait(0, 0, void)
    assert [path.name for path in (labelled.state_dir / "drives").iterdir() if path.name[:-5].isdigit()] == []
    with labelled.drive() as drive:  # nobody has it open any more
        drive.load("V1")


def test_a_volume_in_use_is_waited_for_and_nothing_is_held_meanwhile(labelled: Library) -> None:
    two_volumes(labelled)
    folder = str(labelled.state_dir / "drives")

    def hold(say: Callable[[str], None]) -> None:
        with QueueTicket(folder, "holder", "V2", ("another",)) as place:
            place.wait(0, 0, void)
            forever(say, "held")

    at_once = DriveOptions.of(options(labelled))
    with process(hold) as (_pid, line), use_drive(at_once, "V1", who="me") as refused:
        assert line() == "held"
        with pytest.raises(DriveTimeout, match="volume V2 is used by holder"):
            refused.exchange("V2")
        refused.exchange("V1").load("V1")

    def tell(reason: str | None) -> None:
        if reason is None:
            return
        assert "volume V2 is used by holder" in reason
        with labelled.drive() as drive:  # neither the drive nor the volume is held
            drive.load("V1")
        assert take(Path(folder), "V1", ("third",)) == "third"
        os.kill(pid, signal.SIGKILL)

    patient = DriveOptions.of(options(labelled, drive_timeout_s=60))
    with process(hold) as (pid, line), use_drive(patient, "V1", who="me", tell=tell) as lease:
        assert line() == "held"
        lease.exchange("V2").load("V2")


def test_two_tasks_exchange_their_volumes_with_each_other(labelled: Library) -> None:
    two_volumes(labelled)
    folder = str(labelled.state_dir / "drives")
    go_read, go = os.pipe()

    def other(say: Callable[[str], None]) -> None:
        with QueueTicket(folder, "other", "V2", ("another",)) as place:
            place.wait(0, 0, void)
            say("V2")
            os.read(go_read, 1)
            place.want("V1")
            place.wait(60, time.monotonic() + 60, void)
            forever(say, "V1")

    patient = DriveOptions.of(options(labelled, drive_timeout_s=60))
    # Forked first: a child would keep the drive open.
    with process(other) as (_pid, line):
        assert line() == "V2"
        with use_drive(patient, "V1", who="me") as lease:
            os.write(go, b"1")
            lease.exchange("V2").load("V2")
            assert line() == "V1"


def test_whoever_exchanges_goes_on_before_those_who_came_later(labelled: Library) -> None:
    two_volumes(labelled)
    folder = str(labelled.state_dir / "drives")
    device = os.path.realpath(labelled.folder)
    go_read, go = os.pipe()

    def wait(say: Callable[[str], None]) -> None:
        os.read(go_read, 1)
        with QueueTicket(folder, "waiter", "V3", (device,)) as place:
            place.wait(60, time.monotonic() + 60, lambda reason: say(reason or "taken"))
            forever(say, "taken")

    at_once = DriveOptions.of(options(labelled))
    with process(wait) as (_pid, line), use_drive(at_once, "V1", who="me") as lease:
        os.write(go, b"1")
        assert "is used by me" in line()
        lease.exchange("V2").load("V2")


def test_check_mode_exchanges_what_needs_no_loading(labelled: Library) -> None:
    two_volumes(labelled)
    with use_drive(DriveOptions.of(options(labelled), dry_run=True), "V1", who="me") as lease:
        lease.exchange("V2").load("V2")
    assert not (labelled.state_dir / "drives").exists()


@pytest.mark.parametrize(
    ("params", "option"),
    [
        ({"drive_type": "virtual", "drives": [{"device": "/a"}, {"device": "/b"}]}, "drive_type"),
        ({"drive_type": "virtual", "changer": "/dev/sg9"}, "drive_type"),
        ({"drive_type": "virtual", "drive_element": 1}, "drive_type"),
        ({"drive_type": "st", "drives": [{"device": "/a"}, {"device": "/b"}]}, "drives"),
        ({"drive_type": "paper"}, "drive_type"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, params: dict[str, Any], option: str) -> None:
    with pytest.raises(TapeError) as caught:
        DriveOptions.of({"drive": "/a", "state_dir": str(tmp_path), "drive_timeout_s": 0, **params})
    assert caught.value.option == option


@pytest.mark.slow
def test_modules_wait_and_give_up_in_one_sentence(labelled: Library) -> None:
    arguments = {**options(labelled), "volume": "V1"}
    with use_drive(DriveOptions.of(options(labelled)), "V1", who="the holder"):
        for name in ("tape_label", "catalog_rebuild"):
            result = run_module_apart(name, arguments)
            assert result["failed"]
            assert "used by the holder" in result["msg"]
            assert result["option"] == "drive_timeout_s"
    assert not run_module_apart("tape_label", {**arguments, "pool": "p", "record_bytes": 512})["changed"]


def test_check_mode_makes_no_folder(labelled: Library) -> None:
    asked = DriveOptions.of(options(labelled), dry_run=True)
    with use_drive(asked, "V1", who="me") as lease:
        lease.drive.load("V1")
    assert not (labelled.state_dir / "drives").exists()
    with pytest.raises(SplitMirrorError), use_drive(asked, "V1", who="me") as lease:
        lease.drive.load("V9")
