# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A channel to another host is opened, and privileges are raised, as for a delegated task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader
from ansible.template import trust_as_template

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.tests.support.channels import opened

Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def plugins() -> None:
    init_plugin_loader()


def command(channel: Channel) -> str:
    return channel._commands.build(["id"])[0]


@pytest.mark.parametrize(
    ("variables", "user"),
    [({}, "of-the-play"), ({"ansible_user": "of-the-host"}, "of-the-host")],
)
def test_it_takes_the_user_of_the_play_unless_the_host_has_one(tmp_path: Path, variables: Json, user: str) -> None:
    channel = opened(tmp_path, {"ansible_connection": "ssh", **variables}, {"remote_user": "of-the-play"})
    assert channel._connection.get_option("remote_user") == user


@pytest.mark.parametrize(("variables", "address"), [({}, "array1"), ({"ansible_host": "10.9.8.7"}, "10.9.8.7")])
def test_it_goes_to_the_other_host(tmp_path: Path, variables: Json, address: str) -> None:
    channel = opened(tmp_path, {"ansible_connection": "ssh", **variables})
    assert (channel._connection.get_option("host") or channel._connection._play_context.remote_addr) == address


SUDO = {"ansible_connection": "ssh", "ansible_user": "alice"}


@pytest.mark.parametrize(
    ("variables", "task", "has", "has_not"),
    [
        # The same user needs no escalation.
        ({"ansible_connection": "ssh", "ansible_user": "root"}, {"become": True}, [], ["sudo"]),
        ({**SUDO, "ansible_become_user": "alice"}, {"become": True}, [], ["sudo"]),
        ({**SUDO}, {"become": True}, ["sudo", "-u root"], []),
        ({**SUDO}, {}, [], ["sudo"]),
        ({**SUDO, "ansible_become": True}, {}, ["sudo"], []),
        ({**SUDO, "ansible_become": False}, {"become": True}, [], ["sudo"]),
        ({**SUDO, "ansible_become": "{{ yes_or_no }}", "yes_or_no": "false"}, {"become": True}, [], ["sudo"]),
        ({**SUDO}, {"become": True, "become_method": "su"}, ["su "], ["sudo"]),
        ({**SUDO, "ansible_become_method": "su"}, {"become": True}, ["su "], ["sudo"]),
        ({**SUDO, "ansible_become_exe": "/opt/sudo"}, {"become": True}, ["/opt/sudo"], []),
        ({**SUDO, "ansible_sudo_exe": "/opt/sudo"}, {"become": True}, ["/opt/sudo"], []),
        ({**SUDO}, {"become": True, "become_exe": "/opt/sudo"}, ["/opt/sudo"], []),
        ({**SUDO}, {"become": True, "become_user": "toor"}, ["-u toor"], []),
        ({**SUDO, "ansible_become_flags": "-E"}, {"become": True}, ["sudo -E"], [" -S "]),
        ({**SUDO, "ansible_become_password": "x y"}, {"become": True}, ["-p "], [" -n ", "x y"]),
        ({**SUDO, "ansible_shell_executable": "/bin/dash"}, {"become": True}, ["/bin/dash -c"], []),
    ],
)  # fmt: skip
def test_privileges_are_raised_as_ansible_raises_them(
    tmp_path: Path, variables: Json, task: Json, has: list[str], has_not: list[str]
) -> None:
    told = command(opened(tmp_path, variables, task))
    assert [words for words in has if words not in told] == []
    assert [words for words in has_not if words in told] == []


def test_the_same_user_is_escalated_where_ansible_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(C, "BECOME_ALLOW_SAME_USER", True)
    root = {"ansible_connection": "ssh", "ansible_user": "root"}
    assert "sudo" in command(opened(tmp_path, root, {"become": True}))


@pytest.mark.parametrize("place", ["play", "host"])
def test_a_password_of_the_play_is_known(tmp_path: Path, place: str) -> None:
    password = {"ansible_become_password": trust_as_template("{{ kept }}"), "kept": "of the play"}
    play = {"vars": password} if place == "play" else {}
    channel = opened(tmp_path, {**SUDO, **(password if place == "host" else {})}, {"become": True}, play)
    assert channel._connection.become.get_option("become_pass") == "of the play"


def test_a_host_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnsibleError, match=r"no\.such\.thing"):
        opened(tmp_path, {"ansible_connection": "no.such.thing"})


@pytest.mark.parametrize("how", ["run", "run_once"])
def test_what_a_shell_says_before_is_not_of_the_command(how: str) -> None:
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    channel = Channel("here", connection, sys.executable)
    build = channel._commands.build

    def greeting(argv: list[str]) -> Any:
        told, become = build(argv)
        return f"echo Welcome; echo; {told}", become

    channel._commands.build = greeting  # type: ignore[method-assign]
    try:
        for content in (b"", b"Welcome\n", bytes(range(256)) * 1000):
            answer = getattr(channel, how)(["cat"], stdin=content)
            if how == "run" or content:  # an empty input would ask the ssh plugin for a terminal
                assert (answer.code, answer.out) == (0, content)
        answer = getattr(channel, how)(["/bin/sh", "-c", "echo o; echo e >&2; exit 3"])
        assert (answer.code, answer.out, answer.err) == (3, b"o\n", "e\n")
    finally:
        channel.close()
