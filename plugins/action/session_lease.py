# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Optional

from ansible.plugins.action import ActionBase

from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Owner
from ansible_collections.splitmirror.backup.plugins.plugin_utils.controller import is_running, this_run


class ActionModule(ActionBase):  # type: ignore[misc]
    """Tell the module which run this is, and whether the one that has the lease still lives, if it was begun here."""

    _supports_check_mode = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "owner": asdict(this_run())}
        told = self._execute_module(module_args=arguments, task_vars=task_vars)
        other = told.get("other")
        if told.get("failed") and other:
            try:
                busy, owner = other["busy"], Owner.of(other["owner"])
                judged = {"session": other["session"], "alive": is_running(owner)}
            except (KeyError, TypeError, ValueError):  # what a host tells may be anything; the refusal stands
                busy, judged = True, {}
            if not busy:
                told = self._execute_module(module_args={**arguments, "judged": judged}, task_vars=task_vars)
        result.update(told)
        return result
