# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plain commands on any inventory host, from inside one action plugin.

A task normally uses one host. The window has to control the database host and the array without the pause that a
strategy makes between two tasks, so the action plugin opens the connection to the other host itself.

Ansible decides how a host is reached, as which user, and by which privilege escalation: TaskExecutor opens the
connection, and ActionBase builds the commands. What works for modules therefore works here.
"""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import dataclass
from typing import Any, Optional

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.executor.task_executor import TaskExecutor
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.action import ActionBase
from ansible.plugins.become import BecomeBase
from ansible.plugins.connection import ConnectionBase
from ansible.template import Templar

from ansible_collections.splitmirror.backup.plugins.module_utils.host.strict_json import parse_own_json

from .errors import ActionError
from .line import MAX_ANSWER_BYTES, NotEscalated, StandingLine
from .programs import RUNNER, RUNNER_GREETING, program

# Without input, the ssh plugin requests a terminal, and a terminal would change the bytes.
_NO_TERMINAL = b"\n"
#: How long a program that keeps running may take to start. Nothing is frozen meanwhile.
CONNECT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """The result of a command: exit code, standard output, standard error."""

    code: int
    out: bytes
    err: str


class _Recorder:
    """Takes the place of a connection, and records the command that Ansible would run over it."""

    def __init__(self, connection: ConnectionBase) -> None:
        self._connection = connection
        self.command = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def exec_command(
        self, cmd: str, in_data: Optional[bytes] = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Record ``cmd``."""
        self.command = cmd
        return 0, b"", b""


class _Commands(ActionBase):  # type: ignore[misc]
    """Builds commands as Ansible does: login shell, privilege escalation, quoting."""

    def __init__(self, connection: ConnectionBase) -> None:
        self._recorder = _Recorder(connection)
        super().__init__(None, self._recorder, connection._play_context, DataLoader(), None, None)

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """Never called, because this is not a task."""
        raise NotImplementedError

    def build(self, argv: list[str]) -> tuple[str, Optional[BecomeBase]]:
        """The command, and the become plugin if it is part of it. Ansible leaves it out if the user stays the same."""
        become = self._connection.become
        before = become._id if become else None
        self._low_level_execute_command(shlex.join(argv))
        return self._recorder.command, become if become and become._id != before else None


class Channel:
    """Commands on one host over one connection.

    :param host: the inventory name, for messages.
    :param connection: a connection plugin that is ready for use, with its become plugin.
    :param python: the command of the host's Python.
    """

    def __init__(self, host: str, connection: ConnectionBase, python: str = "python3") -> None:
        self.host = host
        self.python = python
        self._connection = connection
        self._commands = _Commands(connection)
        self._runner: Optional[StandingLine] = None
        self._may_stand = True

    def run(self, argv: list[str], stdin: Optional[bytes] = None) -> Answer:
        """Run a command with its arguments. No shell interprets them.

        :param stdin: bytes for its standard input.
        :raises AnsibleError: the connection has failed; not if the command has.
        """
        if self._may_stand and self._runner is None:
            self._runner = self.stand(RUNNER, [], RUNNER_GREETING)
            self._may_stand = self._runner is not None
        if self._runner is None:
            return self.run_once(argv, stdin)
        asked = {"argv": argv, "stdin_bytes": None if stdin is None else len(stdin)}
        self._runner.send(json.dumps(asked).encode() + b"\n" + (stdin or b""))
        try:
            told = parse_own_json(self._runner.read_line())
            code, err, size_bytes = told["code"], told["err"], told["out_bytes"]
        except (KeyError, TypeError, ValueError):
            code = err = size_bytes = None
        # The host may have been taken over.
        if not (isinstance(code, int) and isinstance(err, str) and isinstance(size_bytes, int)):
            raise ActionError(f"{self.host}: its answer does not have the expected form; check that host.")
        if not 0 <= size_bytes <= MAX_ANSWER_BYTES:
            raise ActionError(
                f"{self.host}: its answer has {size_bytes} bytes, and {MAX_ANSWER_BYTES} are the most; check that host."
            )
        return Answer(code, self._runner.read(size_bytes), err)

    def run_once(self, argv: list[str], stdin: Optional[bytes] = None) -> Answer:
        """Like run, but over connections of every kind, and with a process of its own."""
        # A shell may print something first, such as a message of the day. The output of the command begins after a
        # mark, which consists of two parts, so that a shell that prints its command does not print the mark.
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        marked = ["/bin/sh", "-c", 'printf "%s%s\\n" "$0" "$1"; shift; exec "$@"', first, second, *argv]
        command, _become = self._commands.build(marked)
        try:
            code, out, err = self._connection.exec_command(
                command, in_data=_NO_TERMINAL if stdin is None else stdin, sudoable=True
            )
        except AnsibleConnectionFailure as exc:
            # Otherwise Ansible would treat the task's own host as unreachable, and nothing would be cleaned up.
            raise ActionError(f"{self.host}: it cannot be reached: {exc.message}", code="unreachable") from exc
        said = err.decode("utf-8", "replace")
        _before, mark, out = out.partition(f"{first}{second}\n".encode())
        if not mark:
            reason = said.strip().rpartition("\n")[2] or f"exit code {code}"
            raise ActionError(f"{self.host}: no command can be run there: {reason}")
        return Answer(code, out, said)

    def stand(self, source: str, args: list[str], greeting: str) -> Optional[StandingLine]:
        """Start a Python program that keeps running and answers requests; None if this connection does not allow that.

        Connections of the kinds ssh and local do. Over ssh, it has a terminal if privilege escalation needs one.

        :param greeting: the first line that the program prints.
        :raises AnsibleError: it does not start.
        """
        argv = program(self.python, source, args)
        if self._connection.transport == "local":
            command, become = self._commands.build(argv)
            return StandingLine(
                [b"/bin/sh", b"-c", command.encode()], self.host, greeting.encode(), CONNECT_TIMEOUT_S, become
            )
        if self._connection.transport != "ssh" or not hasattr(self._connection, "_build_command"):
            return None
        try:
            return self._stand_by_ssh(argv, greeting, terminal=False)
        except NotEscalated as without:
            if not self._connection.get_option("use_tty"):
                raise
            try:
                # Such as sudo with requiretty, or doas.
                return self._stand_by_ssh(argv, greeting, terminal=True)
            except NotEscalated:
                raise without from None
        except AnsibleError:
            if self._password() is None:
                raise
            return None  # without a persistent connection, ssh needs the password

    def must_be_root(self) -> None:
        """Try connection, privilege escalation and a program that keeps running.

        :raises AnsibleError: one of them fails, or the user is not root.
        """
        try:
            uid = self.run(["id", "-u"]).out.decode("utf-8", "replace").strip()
        finally:
            self.close()
        if uid != "0":
            raise ActionError(
                f"{self.host}: commands run there as user {uid}, and have to run as root; set become: true.",
                "become",
                code="needs_root",
            )

    def close(self) -> None:
        """Close the connection. A persistent ssh master stays, as after every other task."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        self._connection.close()

    def _stand_by_ssh(self, argv: list[str], greeting: str, terminal: bool) -> StandingLine:
        command, become = self._commands.build(argv)
        words = _ssh_words(self._connection, command, terminal)
        return StandingLine(words, self.host, greeting.encode(), CONNECT_TIMEOUT_S, become, terminal=terminal)

    def _password(self) -> Optional[str]:
        return self._connection.get_option("password") or self._connection._play_context.password or None


def _ssh_words(connection: ConnectionBase, command: str, terminal: bool) -> list[bytes]:
    """The local command that runs ``command`` on the host of an ssh connection, as the connection plugin builds it.

    It is built without the password, because the persistent connection (control socket) does not ask for one.
    """
    context = connection._play_context
    connection.host = connection.get_option("host") or context.remote_addr
    kept = connection.get_option("password"), context.password
    connection.set_option("password", None)
    context.password = ""
    try:
        before = ["-tt", "-o", "EscapeChar=none"] if terminal else []
        words = connection._build_command(
            connection.get_option("ssh_executable"), "ssh", *before, connection.host, command
        )
    finally:
        connection.set_option("password", kept[0])
        context.password = kept[1]
    return [word if isinstance(word, bytes) else word.encode() for word in words]


class _Opener(TaskExecutor):  # type: ignore[misc]
    """The part of Ansible's executor that opens the connection of a task to its host."""

    _task: Any = None  # a property without a setter since ansible-core 2.21

    def __init__(self, action: ActionBase, host: str) -> None:  # not the one of TaskExecutor, which differs by release
        self._task = action._task.copy(exclude_parent=False)
        self._task.delegate_to = host
        self._play_context = action._play_context
        self._loader = action._loader
        self._shared_loader_obj = action._shared_loader_obj
        self._connection = None

    def open(self, task_vars: dict[str, Any]) -> Channel:
        """Open the connection to the host, as for a task that is delegated to it."""
        host = self._task.delegate_to
        templar = Templar(loader=self._loader, variables=task_vars)
        manager = task_vars["hostvars"]._variable_manager
        delegated, _name = manager.get_delegated_vars_and_hostname(templar, self._task, task_vars)
        variables = delegated["ansible_delegated_vars"][host]
        self._play_context = self._play_context.set_task_and_variable_override(
            task=self._task, variables={**task_vars, **delegated}, templar=templar
        )
        templar.available_variables = variables
        kind = variables.get("ansible_connection")
        self._connection = self._get_connection(
            variables, templar, self._task.connection if kind is None else templar.template(kind)
        )
        self._set_connection_options(variables, templar)
        return Channel(host, self._connection, python_of(variables, templar))


def open_channel(host: str, action: ActionBase, task_vars: dict[str, Any], option: str) -> Channel:
    """Open a channel to another host than that of the task, as if the task were delegated to it.

    :param option: of the task, which names the host.
    :raises AnsibleError: the host is not in the inventory, or one of its plugins is unknown.
    """
    if host not in task_vars["hostvars"]:
        raise ActionError(
            f"{option}: {host!r} is not in the inventory; name an inventory host.", option, code="option_invalid"
        )
    return _Opener(action, host).open(task_vars)


def own_channel(action: ActionBase, task_vars: dict[str, Any]) -> Channel:
    """A channel to the host that the task runs on."""
    return Channel(task_vars["inventory_hostname"], action._connection, python_of(task_vars, action._templar))


def python_of(variables: Any, templar: Templar) -> str:
    """The Python of a host, as its modules use it."""
    named = variables.get("ansible_python_interpreter") or C.config.get_config_value("INTERPRETER_PYTHON")
    named = str(templar.template(named))
    if not named.startswith("auto"):
        return named
    return str(variables.get("ansible_facts", {}).get("discovered_interpreter_python", "python3"))
