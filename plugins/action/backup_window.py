# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any, Optional

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.splitmirror.backup.plugins.module_utils.session import DEFAULT_STATE_DIR
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import open_channel, own_channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.line_peer import LinePeer
from ansible_collections.splitmirror.backup.plugins.plugin_utils.splitters import SPLITTERS_SPEC, make_splitter
from ansible_collections.splitmirror.backup.plugins.plugin_utils.window import WindowFailed, run_window

ARGUMENT_SPEC = {
    "session": {"type": "str", "required": True},
    "splitters": SPLITTERS_SPEC,
    "mounts": {"type": "list", "elements": "path", "required": True},
    "deadline_s": {"type": "float", "default": 30.0},
    "turn_timeout_s": {"type": "float", "default": 3600.0},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Freeze, split, check and thaw in one task; documented in the module of the same name."""

    _supports_check_mode = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _validation, args = self.validate_argument_spec(ARGUMENT_SPEC)
        if args["deadline_s"] <= 0:
            raise AnsibleError("deadline_s: a freeze needs a deadline above 0 seconds; 30 is usual.")
        own = own_channel(self, variables)
        splitter = make_splitter(args["splitters"], args["session"], lambda host: open_channel(host, self, variables))
        if self._task.check_mode:
            own.must_be_root()
            splitter.preflight()
            result.update(changed=True, msg=f"would freeze {', '.join(args['mounts'])}, split the mirror and thaw")
            return result

        holder = LinePeer(own, args["state_dir"], args["session"], "holder")
        try:
            evidence = run_window(holder, splitter, args["mounts"], args["deadline_s"], args["turn_timeout_s"])
            result.update(changed=True, **evidence)
        except WindowFailed as exc:
            result.update(failed=True, changed=exc.split_sent, msg=str(exc), code=exc.code, **exc.evidence)
        finally:
            splitter.close()
            holder.close()
        return result
