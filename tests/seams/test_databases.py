# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every database driver has to do, see the contract in database/base.py. The databases are in databases.py."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.doc_fragments.databases import ModuleDocFragment
from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import (
    DatabaseDriver,
    DatabaseError,
    SessionLost,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.limited import run_limited
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import DRIVERS, make_driver
from ansible_collections.splitmirror.backup.tests.seams.databases import CASES, Case, started
from ansible_collections.splitmirror.backup.tests.support.freezing import wait_for

LIMIT_S = 10.0
SHORT_S = 0.2


class Way:
    """A running database, and one way to quiesce it."""

    def __init__(self, case: Case, quiesce: str, closing: contextlib.ExitStack) -> None:
        self.case = case
        self.quiesce = quiesce
        self.is_hot = quiesce == "hot_backup"
        self.stops_writes = quiesce in case.stops_writes
        self._closing = closing

    def make(self, **more: Any) -> DatabaseDriver:
        """Make a driver. It is closed at the end of the test."""
        name = self.case.driver
        options = {**self.case.options(), **more}
        driver = make_driver({"name": "d", "driver": name, "quiesce": self.quiesce, name: options})
        self._closing.callback(driver.close)
        return driver

    def begun(self) -> DatabaseDriver:
        """Make a driver and begin hot backup, if this is one."""
        driver = self.make()
        driver.preflight()
        if self.is_hot:
            driver.begin("a backup")
        return driver

    def is_over(self) -> None:
        """Wait until the database takes part in no hot backup; writes go on."""
        wait_for(lambda: not self.case.in_hot_backup(), "no hot backup is left")
        assert self.case.write()


def ways(wanted: Callable[[type[Case], str], bool]) -> pytest.MarkDecorator:
    """Run a test on the ways that are wanted, by their case and quiesce."""
    found = [
        pytest.param(case, quiesce, id=f"{case.driver}-{quiesce}", marks=[pytest.mark.root] if case.needs_root else [])
        for case in CASES
        for quiesce in case.quiesces
        if wanted(case, quiesce)
    ]
    return pytest.mark.parametrize(("case", "quiesce"), found)


every_way = ways(lambda _case, _quiesce: True)
hot_ways = ways(lambda _case, quiesce: quiesce == "hot_backup")
cold_ways = ways(lambda case, _quiesce: "hot_backup" not in case.quiesces)
ways_with_a_session = ways(lambda case, quiesce: quiesce == "hot_backup" and case.has_session)
ways_that_stop_writes = ways(lambda case, quiesce: quiesce in case.stops_writes)


@pytest.fixture(scope="module")
def running() -> Iterator[Callable[[type[Case]], Case]]:
    """Start a database at its first use; it runs until the end of all tests."""
    with contextlib.ExitStack() as stack:
        yield functools.lru_cache(maxsize=None)(lambda case: stack.enter_context(started(case)))


@pytest.fixture
def way(case: type[Case], quiesce: str, running: Callable[[type[Case]], Case]) -> Iterator[Way]:
    with contextlib.ExitStack() as closing:
        yield Way(running(case), quiesce, closing)


def test_every_driver_is_tested() -> None:
    assert sorted(case.driver for case in CASES) == sorted(DRIVERS)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_the_options_of_a_driver_are_documented(name: str) -> None:
    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["databases"]["suboptions"]
    driver = DRIVERS[name]
    assert driver.name == name
    assert f"V({name})" in "".join(documented["driver"]["description"])
    options = documented[name]["suboptions"]
    assert options.keys() == driver.argument_spec.keys()
    for option, rules in driver.argument_spec.items():
        assert set(rules) <= {"type", "elements", "default", "required", "no_log"}
        said = {key: value for key, value in options[option].items() if key not in ("description", "version_added")}
        assert said == {key: value for key, value in rules.items() if key != "no_log"}, option


@every_way
def test_an_unknown_option_is_refused(way: Way) -> None:
    with pytest.raises(
        DatabaseError, match=f"'no_such_option' is not an option of driver {way.case.driver}"
    ) as refused:
        way.make(no_such_option=1)
    assert refused.value.option == "databases"


@every_way
def test_preflight_changes_nothing(way: Way) -> None:
    before = way.case.state()
    driver = way.make()
    driver.preflight()
    driver.close()
    wait_for(lambda: way.case.state() == before, "all is as it was")


@every_way
def test_files_are_real_paths_of_what_is_there(way: Way) -> None:
    scopes = way.make().files()
    assert scopes
    for scope in scopes:
        assert os.path.isabs(scope.root)
        assert os.path.realpath(scope.root) == scope.root
        assert os.path.exists(scope.root)


@every_way
def test_what_is_demanded_of_incremental_sessions_belongs_to_it(way: Way) -> None:
    driver = way.make()
    roots = {scope.root for scope in driver.files()}
    assert {demand.path for demand in driver.demands()} == (set() if driver.name == "postgresql" else roots)


@every_way
def test_a_backup_from_begin_to_end(way: Way) -> None:
    driver = way.begun()
    if way.is_hot:
        assert way.case.in_hot_backup()
        driver.ping()
    driver.prepare_window()
    driver.in_window(LIMIT_S)
    assert way.case.write() == (not way.stops_writes)
    driver.thaw()
    assert way.case.write()
    if way.is_hot:
        driver.ping()
        ended = driver.end()
        assert all(os.path.isabs(label.path) for label in ended.label_files)
        assert all(os.path.isfile(path) for path in ended.log_files)
    driver.close()
    way.is_over()


@every_way
def test_thaw_does_no_harm_when_there_is_nothing_to_undo(way: Way) -> None:
    driver = way.begun()
    driver.thaw()
    driver.in_window(LIMIT_S)
    driver.thaw()
    driver.thaw()
    assert way.case.write()
    if way.is_hot:
        driver.end()


@every_way
def test_close_gives_up_what_is_held_and_never_fails(way: Way) -> None:
    way.make().close()
    driver = way.begun()
    driver.in_window(LIMIT_S)
    if driver.thaw_command() is not None:
        driver.thaw()  # nobody expects it of close() then
    driver.close()
    driver.close()
    way.is_over()


@hot_ways
def test_end_before_begin_or_after_close_is_refused(way: Way) -> None:
    driver = way.make()
    driver.preflight()
    with pytest.raises(SessionLost):
        driver.end()
    driver.begin("a backup")
    driver.close()
    with pytest.raises(SessionLost):
        driver.end()


@cold_ways
def test_hot_backup_of_a_driver_that_cannot_do_it_is_refused(way: Way) -> None:
    driver = way.make()
    with pytest.raises(DatabaseError, match="cannot do hot backup"):
        driver.begin("a backup")
    with pytest.raises(DatabaseError, match="cannot do hot backup"):
        driver.end()


@ways_with_a_session
def test_a_session_that_the_server_ends_is_lost(way: Way) -> None:
    driver = way.begun()
    way.case.lose_session()
    with pytest.raises(SessionLost):
        driver.ping()
    with pytest.raises(SessionLost):
        driver.end()
    driver.close()


@ways_that_stop_writes
def test_in_window_gives_up_at_its_limit(way: Way) -> None:
    driver = way.begun()
    with way.case.obstacle(), pytest.raises(DatabaseError):
        driver.in_window(SHORT_S)
    driver.thaw()
    assert way.case.write()
    driver.in_window(LIMIT_S)
    assert not way.case.write()


@every_way
def test_nothing_is_left_of_a_holder_that_was_killed(way: Way) -> None:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            way.begun().in_window(LIMIT_S)
            os.write(tell, b"+")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        with open(told, "rb", buffering=0) as stream:
            assert stream.read(1) == b"+"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    driver = way.make()
    command = driver.thaw_command()
    if command is not None:  # this is what the guard does
        assert run_limited(command.argv, command.timeout_s).code == 0
    driver.recover()
    driver.close()
    way.is_over()
    if way.is_hot:
        way.begun().end()
