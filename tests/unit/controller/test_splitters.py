# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The option splitters of backup_window: its documentation, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.modules import backup_window
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.errors import ActionError
from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import (
    SPLITTERS,
    SPLITTERS_SPEC,
    make_splitters,
)

DOCUMENTED = yaml.safe_load(backup_window.DOCUMENTATION)["options"]["splitters"]["suboptions"]
ARMED = {"kind": "armed", "host": "array1"}


def channel_to(host: str) -> Channel:
    init_plugin_loader()
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    return Channel(host, connection, sys.executable)


def no_channel(host: str) -> Channel:
    raise AssertionError(f"a channel to {host} is opened")


def test_documentation_has_the_kinds_and_options_of_the_registry() -> None:
    assert DOCUMENTED["kind"]["choices"] == sorted(SPLITTERS)
    assert {name: of["type"] for name, of in DOCUMENTED.items()} == {
        name: of["type"] for name, of in SPLITTERS_SPEC["options"].items()
    }
    for kind, splitter in SPLITTERS.items():
        assert splitter.kind == kind
        for option in splitter.argument_spec:
            assert f"V({kind})" in str(DOCUMENTED[option]["description"])


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "splitters: there is no entry; give one for each mirror set"),
        (
            [ARMED, {**ARMED, "state_dir": "/var/lib/splitmirror"}],
            "splitters: entry 2 is the same as entry 1; give each mirror set of the host a state folder",
        ),
        ([{"kind": "armed"}], "splitters: kind armed needs the option 'host'."),
        ([{**ARMED, "state_dir": "here"}], "splitters: option 'state_dir' must be an absolute path, not 'here'."),
        ([{**ARMED, "port": 22}], "splitters: 'port' is not an option of kind armed; it has host, state_dir."),
    ],
)
def test_what_does_not_fit_is_refused_before_a_host_is_reached(entries: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises((ActionError, SplitMirrorError)) as refused:
        make_splitters(entries, "s1", no_channel)
    error: Any = refused.value
    assert error.message.startswith(sentence)
    assert (error.option, error.code) == ("splitters", "option_invalid")


def test_all_windows_take_their_turns_in_one_order_and_each_splitter_has_a_name_of_its_own() -> None:
    entries = [{**ARMED, "state_dir": "/b"}, {"kind": "armed", "host": "array0"}, {**ARMED, "state_dir": "/a"}]
    for given in (entries, entries[::-1]):
        made = make_splitters(given, "s1", channel_to)
        assert [splitter.title for splitter in made] == ["array0", "array1 (/a)", "array1 (/b)"]
