# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tasks of the collection have in common on the controller."""

from __future__ import annotations

import re
import time
from typing import Any, Optional

from ansible.errors import AnsibleActionFail, AnsibleActionSkip, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.options import check_numbers, check_paths

from .errors import ActionError

#: What Ansible's connections say when they do not become another user.
_NO_ESCALATION = re.compile(r"(Incorrect|Missing) \S+ password|waiting for become|become password prompt")


def _in_our_words(host: str, message: str) -> dict[str, str]:
    """The sentence and the code for an error of Ansible, which names no host."""
    told = f"{host}: {message.rstrip('.')}"
    if _NO_ESCALATION.search(message) is None:
        return {"msg": f"{told}.", "code": SplitMirrorError.code}
    return {"msg": f"{told}; correct ansible_become_password and the rights on that host.", "code": "needs_root"}


class HostAction(ActionBase):  # type: ignore[misc]
    """Run the module of the task on its host, as Ansible's own action does, with three differences.

    A host that cannot be reached fails the task, with ``code`` ``unreachable``. Ansible by itself would take the host
    out of the play, and neither ``rescue`` nor ``always`` would run.

    Each other error of the work fails the task with ``code`` and ``option`` as well, see docs/errors.md.

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
        except AnsibleActionSkip:
            raise
        except (ActionError, SplitMirrorError) as exc:
            result.update(failed=True, changed=False, msg=exc.message, option=exc.option, code=exc.code)
        except AnsibleError as exc:
            host = self._task.delegate_to or variables["inventory_hostname"]
            result.update(failed=True, changed=False, option=None, **_in_our_words(host, exc.message))
        result.update(began_s=began_s, ended_s=time.time())
        return result

    def work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the work of the task, and return its result.

        :raises AnsibleConnectionFailure: the host cannot be reached.
        :raises ActionError: it failed; so do other AnsibleError and SplitMirrorError.
        """
        wrap_async = bool(self._task.async_val) and not self._connection.has_native_async
        done: dict[str, Any] = self._execute_module(task_vars=task_vars, wrap_async=wrap_async)
        return done

    def checked_args(self, spec: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The options of the task, for an action that does not leave them to a module.

        Beyond what Ansible checks, a required list has elements, a required text is not empty, a path is absolute, and
        a number is finite and not negative.

        :raises ActionError: an option is wrong or missing.
        """
        try:
            _validation, args = self.validate_argument_spec(spec)
        except AnsibleActionFail as exc:
            raise ActionError(exc.message, code="option_invalid") from exc
        try:
            check_paths(spec, args)
            check_numbers(spec, args)
        except SplitMirrorError as exc:
            raise ActionError(exc.message, exc.option, code=exc.code) from exc
        for name, rules in spec.items():
            value = args[name]
            if rules.get("required") and not value:
                wanted = "at least one element" if rules["type"] == "list" else "a value"
                raise ActionError(f"{name}: this is empty; give {wanted}.", name, code="option_invalid")
        return dict(args)
