# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.lease import Owner
from ansible_collections.splitmirror.backup.plugins.plugin_utils.controller import is_running, this_run
from ansible_collections.splitmirror.backup.plugins.plugin_utils.host_action import HostAction


class ActionModule(HostAction):
    """Tell the module which run this is, and whether the one that has the lease still lives, if it was begun here."""

    _supports_async = False

    def work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        arguments = {**self._task.args, "owner": asdict(this_run())}
        told: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        other = told.get("other")
        if told.get("failed") and other:
            try:
                busy, owner = other["busy"], Owner.of(other["owner"])
                judged = {"session": other["session"], "alive": is_running(owner)}
            except (KeyError, TypeError, ValueError):  # what a host tells may be anything; the refusal stands
                busy, judged = True, {}
            if not busy:
                told = self._execute_module(module_args={**arguments, "judged": judged}, task_vars=task_vars)
        return told
