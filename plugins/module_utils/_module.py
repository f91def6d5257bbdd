# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module of the collection shares: common options and the one way out for errors."""

from __future__ import annotations

from typing import Any, Callable, Optional

from ansible.module_utils.basic import AnsibleModule

from .errors import SplitMirrorError
from .session import DEFAULT_STATE_DIR

Spec = dict[str, dict[str, Any]]

SESSION_SPEC: Spec = {
    "session": {"type": "str", "required": True},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}
STATE_DIR_SPEC: Spec = {"state_dir": {"type": "path", "default": DEFAULT_STATE_DIR}}
PAIRS_SPEC: Spec = {
    "provider": {"type": "str", "required": True},
    "pairs": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "device": {"type": "path"},
            "serial": {"type": "str"},
            "primary": {"type": "str"},
            "mirror": {"type": "str"},
            "mirror_serial": {"type": "str"},
        },
    },
}


def run_module(
    work: Callable[[AnsibleModule], dict[str, Any]],
    spec: Spec,
    **module_options: Any,
) -> None:
    """Build the AnsibleModule, let ``work`` do the task, and leave by exit_json or fail_json.

    :param work: gets the module, returns what exit_json is to return; raises SplitMirrorError to fail.
    :param spec: the argument spec.
    :param module_options: further arguments of AnsibleModule (required_if and the like).
    """
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **module_options)
    failure: Optional[SplitMirrorError] = None
    result: dict[str, Any] = {}
    try:
        result = work(module)
    except SplitMirrorError as exc:
        failure = exc
    if failure is not None:
        module.fail_json(msg=failure.message, option=failure.option, **failure.facts)
    module.exit_json(**result)
