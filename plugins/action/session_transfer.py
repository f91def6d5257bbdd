# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any, Optional

from ansible.plugins.action import ActionBase

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import open_channel, own_channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.relay import relay_file

ARGUMENT_SPEC = {
    "src": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "to_host": {"type": "str", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Relay one file of a session to another host; documented in the module of the same name."""

    _supports_check_mode = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _validation, args = self.validate_argument_spec(ARGUMENT_SPEC)
        source = own_channel(self, variables)
        target = open_channel(args["to_host"], self, variables)
        try:
            relayed = relay_file(source, args["src"], target, args["dest"], dry_run=self._task.check_mode)
        finally:
            target.close()
            source.close()
        result.update(
            changed=relayed.changed,
            size_bytes=relayed.size_bytes,
            sha256=relayed.sha256,
            dest=args["dest"],
        )
        return result
