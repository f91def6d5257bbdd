# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any other database, by the user's own commands: lists of arguments, never run by a shell, each with a time limit."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, ClassVar, Mapping, Optional, Sequence

from ..extents.scope import Scope
from ..extents.since import Demand
from .base import Capabilities, DatabaseDriver, DatabaseError, EndResult, ThawCommand
from .limited import run_limited

_ARGV = {"type": "list", "elements": "str"}


class CommandsDriver(DatabaseDriver):
    """A database that is quiesced by commands. Exit code 0 is success."""

    name: ClassVar[str] = "commands"
    argument_spec: ClassVar[dict[str, dict[str, Any]]] = {
        "begin": _ARGV,
        "end": _ARGV,
        "freeze": _ARGV,
        "thaw": _ARGV,
        "ping": _ARGV,
        "recover": _ARGV,
        "files": _ARGV,
        "incremental": {"type": "bool", "default": False},
        "timeout_s": {"type": "int", "default": 60},
    }

    _begun = False

    @classmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        for first, second in (("begin", "end"), ("freeze", "thaw")):
            if bool(options[first]) != bool(options[second]):
                raise DatabaseError(
                    f"databases: driver commands needs {first} and {second} together; give both or neither.",
                    option="databases",
                    code="option_invalid",
                )
        return Capabilities(
            hot_backup=bool(options["begin"] and options["end"]),
            freeze=bool(options["freeze"] and options["thaw"]),
        )

    def preflight(self) -> dict[str, Any]:
        for name, rules in self.argument_spec.items():
            argv = self.options[name]
            if rules is _ARGV and argv and not _is_program(argv[0]):
                raise DatabaseError(
                    f"{self.where}: the program of {name}, {argv[0]!r}, is not an executable file with an absolute "
                    "path; give the full path.",
                    option="databases",
                    code="option_invalid",
                )
        return {name: bool(self.options[name]) for name, rules in self.argument_spec.items() if rules is _ARGV}

    def files(self) -> list[Scope]:
        if not self.options["files"]:
            return []
        scopes = []
        for line in self._run("files").split("\n"):
            path = os.path.realpath(line)
            if not line:
                continue
            if not os.path.isabs(line) or not os.path.exists(path):
                raise DatabaseError(
                    f"{self.where}: the files command printed {line!r}; it must print absolute paths that exist, one "
                    "on each line.",
                    option="databases",
                    code="option_invalid",
                )
            scopes.append(Scope(path, label=f"commands {self.title}"))
        return scopes

    def demands(self) -> list[Demand]:
        return [] if self.options["incremental"] else super().demands()

    def begin(self, backup_name: str) -> None:
        self._begun = True
        # If we die, this command dies too. Otherwise hot backup could begin after the clean-up.
        self._run("begin", backup_name, dies_with_us=True)

    def ping(self) -> None:
        if self.options["ping"]:
            self._run("ping")

    def end(self) -> EndResult:
        if not self._begun:
            raise self._not_begun()
        self._run("end")
        self._begun = False
        return EndResult()

    def in_window(self, limit_s: float, started: Optional[Callable[[int], None]] = None) -> None:
        if self.quiesce == "freeze":
            self._run("freeze", limit_s=limit_s, dies_with_us=True, started=started)

    def thaw(self) -> None:
        if self.quiesce == "freeze":
            self._run("thaw")

    def thaw_command(self) -> Optional[ThawCommand]:
        if self.quiesce != "freeze":
            return None
        return ThawCommand(self.title, tuple(self.options["thaw"]), float(self.options["timeout_s"]))

    def recover(self) -> bool:
        if not self.options["recover"]:
            return False
        self._run("recover")
        return True

    def close(self) -> None:
        if self._begun:
            self._begun = False
            with contextlib.suppress(DatabaseError):
                self._run("recover" if self.options["recover"] else "end")

    def _run(self, name: str, backup_name: str = "", limit_s: float = float("inf"), **life: Any) -> str:
        limit_s = min(limit_s, float(self.options["timeout_s"]))
        return run_command(self.title, name, self.options[name], limit_s, backup_name, **life)


def run_command(
    database: str, name: str, argv: Sequence[str], limit_s: float, backup_name: str = "", **life: Any
) -> str:
    """Run a command of a database with the names of the database and, if given, of the backup in its environment.

    :param name: which of its commands this is, for messages. :param limit_s: seconds, after which it is killed.

    :param life: dies_with_us and started, see run_limited.
    :returns: its output. :raises DatabaseError: it does not start, fails, or is not done within ``limit_s`` seconds.
    """
    where = f"databases: {database}"
    environment = {"SPLITMIRROR_DATABASE": database}
    if backup_name:
        environment["SPLITMIRROR_BACKUP_NAME"] = backup_name
    try:
        done = run_limited(argv, limit_s, environment, **life)
    except OSError as exc:
        raise DatabaseError(f"{where}: the {name} command cannot be started ({exc}).") from exc
    if done.code is None:
        raise DatabaseError(
            f"{where}: the {name} command was still running after {limit_s:g} s and was killed; speed it up or raise "
            "its limit (timeout_s, and inside the window also the deadline)."
        )
    if done.code:
        words = done.err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DatabaseError(f"{where}: the {name} command failed with exit code {done.code}: {words}")
    return os.fsdecode(done.out)


def _is_program(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK)
