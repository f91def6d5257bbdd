# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import open_channel, own_channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.host_action import HostAction
from ansible_collections.splitmirror.backup.plugins.plugin_utils.relay import relay_file

ARGUMENT_SPEC = {
    "src": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "to_host": {"type": "str", "required": True},
}


class ActionModule(HostAction):
    """Relay one file of a session to another host; documented in the module of the same name."""

    _supports_async = False

    def work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = self.checked_args(ARGUMENT_SPEC)
        source = own_channel(self, task_vars)
        target = open_channel(args["to_host"], self, task_vars, "to_host")
        try:
            relayed = relay_file(source, args["src"], target, args["dest"], dry_run=self._task.check_mode)
        finally:
            target.close()
            source.close()
        return {
            "changed": relayed.changed,
            "size_bytes": relayed.size_bytes,
            "sha256": relayed.sha256,
            "dest": args["dest"],
        }
