# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plain commands on any inventory host, from inside one action plugin.

One task normally talks to one host. The window has to drive the database host and the array without the pause that a
strategy puts between two tasks, so it opens the other host's connection itself, with that host's own variables.
"""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass
from typing import Any, Optional

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.connection import ConnectionBase
from ansible.plugins.loader import become_loader, connection_loader

from .line import StandingLine

# Without input the ssh plugin asks for a terminal, and a terminal would change the bytes on their way.
_NO_TERMINAL = b"\n"


@dataclass(frozen=True)
class Answer:
    """What a command left behind: exit code, standard output, standard error."""

    code: int
    out: bytes
    err: str


class Channel:
    """Commands on one host over one connection.

    :param host: the inventory name, for messages.
    :param connection: a connection plugin that is ready for use, with its become plugin set.
    """

    def __init__(self, host: str, connection: ConnectionBase) -> None:
        self.host = host
        self._connection = connection

    def run(self, argv: list[str], stdin: Optional[bytes] = None) -> Answer:
        """Run a command with its arguments; it is quoted, never interpreted.

        :param stdin: bytes for its standard input.
        :raises AnsibleError: when the connection fails (not when the command does).
        """
        try:
            code, out, err = self._connection.exec_command(
                self._command(argv), in_data=_NO_TERMINAL if stdin is None else stdin, sudoable=True
            )
        except AnsibleConnectionFailure as exc:
            # As it is, it would count the task's own host as unreachable, and nothing would be cleaned up.
            raise AnsibleError(f"{self.host}: it cannot be reached: {exc.message}") from exc
        become = self._connection.become
        if become is not None:
            out = become.strip_become_success(out)
        return Answer(code, out, err.decode("utf-8", "replace"))

    def stand(self, argv: list[str], greeting: str, timeout_s: float) -> Optional[StandingLine]:
        """Start a program that stays and answers line by line; None where this connection has no way to do that.

        That is: ssh and local connections, and no password to be typed for the privilege escalation or the connection.

        :param greeting: the first line that the program prints.
        :param timeout_s: how long it may take until then.
        :raises AnsibleError: it does not come up.
        """
        become = self._connection.become
        if become is not None and become.expect_prompt():
            return None
        local = _local_command(self._connection, self._command(argv))
        return None if local is None else StandingLine(local, self.host, greeting.encode(), timeout_s)

    def close(self) -> None:
        """Close the connection (a persistent ssh master stays, as with every other task)."""
        self._connection.close()

    def _command(self, argv: list[str]) -> str:
        command = shlex.join(argv)
        become = self._connection.become
        return command if become is None else str(become.build_become_command(command, self._connection._shell))


def _local_command(connection: ConnectionBase, command: str) -> Optional[list[bytes]]:
    """The command on this machine that runs ``command`` on the connection's host; None where there is none."""
    if connection.transport == "local":
        return [b"/bin/sh", b"-c", command.encode()]
    if connection.transport == "ssh" and hasattr(connection, "_build_command"):
        if connection.get_option("password"):
            return None
        host = connection.get_option("host") or connection._play_context.remote_addr
        # The same words as for every other command of this connection, control socket included.
        words = connection._build_command(connection.get_option("ssh_executable"), "ssh", host, command)
        return [word if isinstance(word, bytes) else word.encode() for word in words]
    return None


def open_channel(host: str, task: Task, play_context: PlayContext, hostvars: Any) -> Channel:
    """Open a channel to a host other than the one the task runs on.

    Connection, become and shell options come from that host's variables, as if the task were delegated to it.

    :param hostvars: the ``hostvars`` of the task; they are templated in the other host's own context.
    :raises AnsibleError: when the host is not in the inventory or one of its plugins is unknown.
    """
    if host not in hostvars:
        raise AnsibleError(f"{host!r} is not in the inventory; name an inventory host.")
    variables = hostvars[host]
    context = copy.copy(play_context)
    context.remote_addr = variables.get("ansible_host", host)
    context.port = variables.get("ansible_port")
    context.remote_user = variables.get("ansible_user")

    kind = variables.get("ansible_connection") or C.DEFAULT_TRANSPORT
    connection = connection_loader.get(kind, context, new_stdin=None)
    if connection is None:
        raise AnsibleError(f"{host}: ansible_connection {kind!r} is unknown; name an installed connection plugin.")
    # Of the task's own keywords the timeout, the user and the privilege escalation go along, as when it is delegated.
    keys = {key: value for key, value in task.dump_attrs().items() if key.startswith("become")}
    keys["timeout"] = play_context.timeout
    connection.set_options(
        task_keys={
            "timeout": play_context.timeout,
            "password": play_context.password or None,
            "remote_user": task.remote_user,
        },
        var_options={**_plugin_variables("connection", kind, variables), "inventory_hostname": host},
    )
    shell = connection._shell
    shell.set_options(task_keys=keys, var_options=_plugin_variables("shell", shell._load_name, variables))

    if boolean(variables.get("ansible_become", task.become or False)):
        method = variables.get("ansible_become_method") or task.become_method or C.DEFAULT_BECOME_METHOD
        become = become_loader.get(method)
        if become is None:
            raise AnsibleError(f"{host}: ansible_become_method {method!r} is unknown; name an installed become plugin.")
        if play_context.become_pass:
            keys["become_pass"] = play_context.become_pass
        become.set_options(task_keys=keys, var_options=_plugin_variables("become", method, variables))
        connection.set_become_plugin(become)
    return Channel(host, connection)


def _plugin_variables(kind: str, name: str, variables: Any) -> dict[str, Any]:
    """The variables of a host that one plugin reads, templated."""
    return {key: variables[key] for key in C.config.get_plugin_vars(kind, name) if key in variables}
