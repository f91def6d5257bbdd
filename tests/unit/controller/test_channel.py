# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A channel to another host is opened as a delegated task would be."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import open_channel


@pytest.mark.parametrize(
    ("variables", "user"),
    [({}, "of-the-play"), ({"ansible_user": "of-the-host"}, "of-the-host")],
)
def test_it_takes_the_user_of_the_play_unless_the_host_has_one(variables: dict[str, Any], user: Optional[str]) -> None:
    init_plugin_loader()
    task = Task.load({"name": "any", "ansible.builtin.ping": {}, "remote_user": "of-the-play"})
    channel = open_channel("array1", task, PlayContext(), {"array1": {"ansible_connection": "ssh", **variables}})
    assert channel._connection.get_option("remote_user") == user
