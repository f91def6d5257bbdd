# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Channels as an action plugin gets them, from an inventory, a play and a task that are Ansible's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

from ansible._internal._templating._engine import TemplateEngine
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.plugins import loader as plugin_loader
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader, init_plugin_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel, open_channel

Json = dict[str, Any]


class Anything(ActionBase):  # type: ignore[misc]
    """An action plugin of a task on host db1."""

    def run(self, tmp: Optional[str] = None, task_vars: Optional[Json] = None) -> Json:
        """Never called."""
        raise NotImplementedError


def opened(folder: Path, array: Json, task: Optional[Json] = None, play: Optional[Json] = None) -> Channel:
    """A channel to ``array1``, from a task on another host.

    :param folder: where the inventory is written to.
    :param array: the variables of array1.
    :param task: keywords of the task; :param play: keywords of the play.
    """
    init_plugin_loader()
    hosts: Json = {"db1": {"ansible_connection": "local"}, "array1": array}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(folder / "hosts.json")])
    manager = VariableManager(loader, inventory)
    HostVars(inventory, manager, loader)
    source = {
        "hosts": "db1",
        "gather_facts": False,
        "become_method": "sudo",  # the command line says so where nothing else does
        "tasks": [{"ansible.builtin.ping": {}, **(task or {})}],
        **(play or {}),
    }
    made = Play.load(source, variable_manager=manager, loader=loader)
    first = made.tasks[0].block[0]
    variables = manager.get_vars(play=made, host=inventory.get_host("db1"), task=first)
    first.post_validate(TemplateEngine(loader, variables))
    context = PlayContext(play=made)
    local = connection_loader.get("local", context, new_stdin=None)
    action = Anything(first, local, context, loader, Templar(loader, variables), plugin_loader)
    return open_channel("array1", action, variables, "splitters")
