# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tasks of the collection have in common on the controller."""

from __future__ import annotations

import time
from typing import Any, Optional

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class HostAction(ActionBase):  # type: ignore[misc]
    """Run the module of the task on its host, as Ansible's own action does, with two differences.

    A host that cannot be reached fails the task, with ``code`` ``unreachable``. Ansible by itself would take the host
    out of the play, and neither ``rescue`` nor ``always`` would run.

    The result says when the task began and ended, as ``began_s`` and ``ended_s``: seconds since 1970 by the clock of
    the controller.
    """

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        began_s = time.time()
        try:
            result.update(self.work(variables))
        except AnsibleConnectionFailure as exc:
            host = self._task.delegate_to or variables["inventory_hostname"]
            result.update(
                failed=True,
                changed=False,
                msg=f"{host} cannot be reached: {exc.message}",
                option=None,
                code="unreachable",
            )
            self._connection._shell.tmpdir = None  # Ansible would connect once more to remove it
        result.update(began_s=began_s, ended_s=time.time())
        return result

    def work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the work of the task, and return its result.

        :raises AnsibleConnectionFailure: the host cannot be reached.
        """
        wrap_async = bool(self._task.async_val) and not self._connection.has_native_async
        done: dict[str, Any] = self._execute_module(task_vars=task_vars, wrap_async=wrap_async)
        return done
