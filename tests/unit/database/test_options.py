# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database's description may say, and how it is told what is wrong with it."""

from __future__ import annotations

import os
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from ansible_collections.splitmirror.backup.plugins.doc_fragments.databases import ModuleDocFragment
from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import DatabaseError
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import (
    DRIVERS,
    databases_spec,
    make_driver,
    make_drivers,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.options import check_options

SQLITE = {"name": "d", "driver": "sqlite", "sqlite": {"path": "/data/d.sqlite"}}


def refusal(description: dict[str, Any]) -> str:
    with pytest.raises(DatabaseError) as refused:
        make_driver(description)
    assert refused.value.option == "databases"
    return refused.value.message


def test_an_unknown_driver_is_told_the_known_ones() -> None:
    assert refusal({"name": "x", "driver": "oracle"}) == (
        f"databases: x: driver 'oracle' is not known; use one of {', '.join(sorted(DRIVERS))}."
    )


def test_an_unknown_option_is_told_the_known_ones() -> None:
    message = refusal({"name": "x", "driver": "sqlite", "sqlite": {"path": "/d", "port": 5432}})
    assert message == "databases: x: 'port' is not an option of driver sqlite; it has path."


@pytest.mark.parametrize("key", ["postgresql", "options"])
def test_options_under_a_key_that_is_not_the_drivers(key: str) -> None:
    assert refusal({**SQLITE, key: {"port": 1}}) == (
        f"databases: d: driver sqlite takes its options from the key 'sqlite', not from '{key}'; move or remove them."
    )


def test_a_missing_option() -> None:
    for given_options in ({}, {"sqlite": None}, {"sqlite": {"path": None}}):
        assert refusal({"name": "x", "driver": "sqlite", **given_options}) == (
            "databases: x: driver sqlite needs the option 'path'."
        )


def test_options_that_are_not_a_mapping() -> None:
    message = refusal({"name": "x", "driver": "sqlite", "sqlite": "/data/d.sqlite"})
    assert message == "databases: x: the options of driver sqlite must be a dictionary of names and values, not a text."


def test_an_option_that_is_none_is_not_given() -> None:
    driver = make_driver({"name": "x", "driver": "postgresql", "postgresql": {"port": None, "pgdata": None}})
    assert driver.options["port"] == 5432


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("port", "many", "must be a whole number above 0, not 'many'"),
        ("port", 0, "must be a whole number above 0, not 0"),
        ("port", [1], "must be a single value, not a list"),
        ("fast", "perhaps", "must be true or false, not 'perhaps'"),
        ("unix_socket", "run/postgresql", "must be an absolute path"),
        ("login_user", "a\0b", "contains a NUL byte"),
    ],
)
def test_an_option_of_the_wrong_kind(option: str, value: object, sentence: str) -> None:
    message = refusal({"name": "x", "driver": "postgresql", "postgresql": {option: value}})
    assert message.startswith(f"databases: x: option '{option}'")
    assert sentence in message


@pytest.mark.parametrize("value", ["/bin/true", [], {}])
def test_a_command_that_is_no_list(value: object) -> None:
    assert "must be a list with at least one element" in refusal(
        {"name": "x", "driver": "commands", "commands": {"freeze": value}}
    )


@pytest.mark.parametrize(
    ("given", "missing"), [("begin", "end"), ("end", "begin"), ("freeze", "thaw"), ("thaw", "freeze")]
)
def test_half_a_pair_of_commands(given: str, missing: str) -> None:
    message = refusal({"name": "x", "driver": "commands", "commands": {given: ["/bin/true"]}})
    assert given in message
    assert missing in message


def test_a_way_to_quiesce_that_the_driver_does_not_have() -> None:
    assert "cannot do quiesce hot_backup" in refusal({**SQLITE, "quiesce": "hot_backup"})
    assert "cannot do quiesce freeze" in refusal({"name": "x", "driver": "commands", "commands": {}})
    assert "must be auto, hot_backup or freeze" in refusal({**SQLITE, "quiesce": "sometimes"})


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (SQLITE, "freeze"),
        ({"driver": "postgresql"}, "hot_backup"),
        ({"driver": "postgresql", "quiesce": "freeze"}, "freeze"),
        ({"driver": "commands", "commands": {"begin": ["/bin/true"], "end": ["/bin/true"]}}, "hot_backup"),
        ({"driver": "commands", "commands": {"freeze": ["/bin/true"], "thaw": ["/bin/true"]}}, "freeze"),
    ],
)
def test_auto_takes_hot_backup_where_the_driver_can(description: dict[str, Any], expected: str) -> None:
    assert make_driver(description).quiesce == expected


def test_two_databases_of_one_name() -> None:
    with pytest.raises(DatabaseError, match="two databases are named 'd'"):
        make_drivers([SQLITE, SQLITE])


def test_a_database_has_a_key_for_each_driver() -> None:
    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["databases"]
    spec = databases_spec()["options"]
    # Beside what every database has there is a key for each driver, and nothing else.
    assert spec.keys() == {"name", "driver", "quiesce", *DRIVERS}
    assert documented["suboptions"].keys() == spec.keys()


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from([*DRIVERS["postgresql"].argument_spec, "other"]),
        st.text() | st.integers() | st.none() | st.lists(st.text()),
    )
)
def test_options_are_either_refused_in_one_sentence_or_of_the_right_type(given_options: dict[str, Any]) -> None:
    spec = DRIVERS["postgresql"].argument_spec
    try:
        checked = check_options("here", "driver postgresql", spec, given_options, DatabaseError)
    except DatabaseError as exc:
        message = exc.message
    else:
        message = ""
    if message:
        assert message.startswith("here: ")
        assert message.endswith(".")
        return
    assert set(checked) == set(spec)
    assert isinstance(checked["port"], int)
    assert isinstance(checked["fast"], bool)
    assert os.path.isabs(checked["unix_socket"])
