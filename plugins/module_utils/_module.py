# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module of the collection shares: common options and the one way out for errors."""

from __future__ import annotations

import errno
import os
import pwd
import signal
from contextlib import nullcontext
from typing import Any, Callable, Optional

from ansible.module_utils.basic import AnsibleModule

from ._python import MINIMUM as _MINIMUM  # noqa: F401 - it comes first, for it refuses a Python that cannot go on
from .errors import SplitMirrorError
from .lease import working_for
from .options import check_numbers, check_paths
from .session import DEFAULT_STATE_DIR, StateDir

Spec = dict[str, dict[str, Any]]

SESSION_SPEC: Spec = {
    "session": {"type": "str", "required": True},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}
STATE_DIR_SPEC: Spec = {"state_dir": {"type": "path", "default": DEFAULT_STATE_DIR}}
#: Documentation fragment splitmirror.backup.write_mode.
WRITE_MODE_SPEC: Spec = {
    "volume": {"type": "str"},
    "pool": {"type": "str"},
    "mode": {"type": "str", "choices": ["append", "overwrite"], "default": "append"},
    "allow_last": {"type": "bool", "default": False},
}
#: What must be given of it.
VOLUME_OR_POOL = ("volume", "pool")
#: Documentation fragment splitmirror.backup.keys.
IDENTITY_SPEC: Spec = {"identity_file": {"type": "path"}, "identity": {"type": "str", "no_log": True}}
#: Documentation fragment splitmirror.backup.keys.recipients.
RECIPIENTS_SPEC: Spec = {"recipients": {"type": "list", "elements": "str", "default": []}}
#: The same list serves on all hosts. Only the array looks at ``options``.
PAIRS_SPEC: Spec = {
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
            "options": {"type": "dict"},
        },
    },
}


#: What ansible-core takes for its own in a task's result (task_executor.py, the strategies, "Common Return Values").
#: A module may return changed, diff, failed, msg, rc and the two of output, with just their meaning.
RESERVED = frozenset(
    {
        "add_group", "add_host", "ansible_facts", "ansible_included_var_files", "ansible_job_id", "ansible_notify",
        "ansible_stats", "attempts", "backup_file", "cleanup_async", "delegated_vars", "deprecations", "exception",
        "finished", "include", "include_args", "invocation", "item", "results", "results_file", "retries",
        "skip_reason", "skipped", "skipped_reason", "started", "unreachable", "warnings",
    }
)  # fmt: skip


def run_module(
    work: Callable[[AnsibleModule], dict[str, Any]],
    spec: Spec,
    *,
    needs_root: bool = False,
    for_session: bool = False,
    looks: Optional[str] = None,
    **module_options: Any,
) -> None:
    """Build the AnsibleModule, let ``work`` do the task, and leave by exit_json or fail_json.

    :param work: gets the module, returns what exit_json is to return; raises SplitMirrorError to fail.
    :param spec: the argument spec.
    :param needs_root: whether nothing can be done as another user. Else who may use the state folder may try.
    :param for_session: it works for the session that it names, which must not have lost its lease meanwhile.
    :param looks: the ``state`` that changes nothing. It may come before the lease is taken from a run that was killed.
    :param module_options: further arguments of AnsibleModule (required_if and the like).
    """
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **module_options)
    # Of an ordinary user who became root (su, some sudo) it may lack them; AnsibleModule.get_bin_path adds them too.
    path = os.environ.get("PATH", os.defpath).split(":")
    os.environ["PATH"] = ":".join([*path, *(folder for folder in ("/usr/sbin", "/sbin") if folder not in path)])
    # Where whoever started us ignores it, the kernel drops exit statuses, and Python takes each failure for success.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    failure: Optional[SplitMirrorError] = None
    result: dict[str, Any] = {}
    try:
        check_paths(spec, module.params)
        check_numbers(spec, module.params)
        if module.params.get("state_dir") is not None:
            StateDir(module.params["state_dir"]).check()
        _check_rights(module.params.get("state_dir"), needs_root)
        looks_only = module.check_mode or (looks is not None and module.params["state"] == looks)
        named = for_session and module.params["session"] and not looks_only
        with working_for(StateDir(module.params["state_dir"]), module.params["session"]) if named else nullcontext():
            result = work(module)
    except SplitMirrorError as exc:
        failure = exc
        if not _may(exc):
            failure.code = "needs_root"
            failure.message += f" {_advice()}"
    except PermissionError as exc:
        if os.geteuid() == 0:
            raise
        failure = SplitMirrorError(f"{exc.filename or module._name}: {exc.strerror}. {_advice()}", code="needs_root")
    if failure is not None:
        module.fail_json(msg=failure.message, option=failure.option, code=failure.code, **failure.facts)
    if not RESERVED.isdisjoint(result):
        raise AssertionError(f"{module._name} returns what Ansible reserves: {sorted(RESERVED.intersection(result))}")
    module.exit_json(**result)


def _check_rights(state_dir: Optional[str], needs_root: bool) -> None:
    """Refuse a user who can do nothing here. :raises SplitMirrorError: that user is not root, and has to be."""
    if os.geteuid() == 0:
        return
    if needs_root:
        raise SplitMirrorError(
            f"become: this module needs root, and ran as {_user()}; set become: true.", "become", code="needs_root"
        )
    if state_dir is None:
        return
    folder = state_dir
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    # One that is missing has to be made.
    if not os.access(folder, os.R_OK | os.X_OK if folder == state_dir else os.W_OK | os.X_OK):
        raise SplitMirrorError(
            f"state_dir: this module ran as {_user()}, who cannot use {state_dir}; set become: true to be root.",
            "state_dir",
            code="needs_root",
        )


def _may(exc: SplitMirrorError) -> bool:
    """Whether an error has nothing to do with what the user may."""
    if os.geteuid() == 0:
        return True
    cause: Optional[BaseException] = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            return False
        cause = cause.__cause__ or cause.__context__
    return not any(os.strerror(number) in exc.message for number in (errno.EACCES, errno.EPERM))


def _advice() -> str:
    return f"The module ran as {_user()}; set become: true to be root."


def _user() -> str:
    """Who we are, by name where there is one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
