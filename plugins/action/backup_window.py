# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.holder.window import MAX_DEADLINE_S
from ansible_collections.splitmirror.backup.plugins.module_utils.session import DEFAULT_STATE_DIR, check_session_id
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import open_channel, own_channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.errors import ActionError
from ansible_collections.splitmirror.backup.plugins.plugin_utils.host_action import HostAction
from ansible_collections.splitmirror.backup.plugins.plugin_utils.line_peer import LinePeer
from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import SPLITTERS_SPEC, make_splitters
from ansible_collections.splitmirror.backup.plugins.plugin_utils.window import WindowFailed, run_window

ARGUMENT_SPEC = {
    "session": {"type": "str", "required": True},
    "splitters": SPLITTERS_SPEC,
    "pairs": {"type": "list", "elements": "str"},
    "mounts": {"type": "list", "elements": "path", "required": True},
    "deadline_s": {"type": "float", "default": 30.0},
    "turn_timeout_s": {"type": "float", "default": 3600.0},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}


class ActionModule(HostAction):
    """Freeze, split, check and thaw in one task; documented in the module of the same name."""

    _supports_async = False

    def work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = self.checked_args(ARGUMENT_SPEC)
        check_session_id(args["session"])
        if not 0 < args["deadline_s"] <= MAX_DEADLINE_S:
            raise ActionError(
                f"deadline_s: {args['deadline_s']:g} s is out of range; it must be above 0 and at most "
                f"{MAX_DEADLINE_S:g} s.",
                "deadline_s",
                code="option_invalid",
            )
        own = own_channel(self, task_vars)
        splitters = make_splitters(
            args["splitters"], args["session"], lambda host: open_channel(host, self, task_vars, "splitters")
        )
        if self._task.check_mode:
            own.must_be_root()
            for splitter in splitters:
                splitter.preflight()
            return {"changed": True, "msg": f"would freeze {', '.join(args['mounts'])}, split the mirror and thaw"}

        holder = LinePeer(own, args["state_dir"], args["session"], "holder")
        try:
            evidence = run_window(
                holder, splitters, args["mounts"], args["deadline_s"], args["turn_timeout_s"], pairs=args["pairs"]
            )
            return {"changed": True, **evidence}
        except WindowFailed as exc:
            return {
                "failed": True,
                "changed": exc.split_sent,
                "msg": exc.message,
                "option": exc.option,
                "code": exc.code,
                **exc.evidence,
            }
        finally:
            for splitter in splitters:
                splitter.close()
            holder.close()
