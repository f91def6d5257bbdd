# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 2: what the collection asks of a database, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Mapping, Optional

from ..errors import SplitMirrorError
from ..extents.scope import Scope


class DatabaseError(SplitMirrorError):
    """A database that cannot be quiesced, or a description of one that cannot be used."""


class SessionLost(DatabaseError):
    """The session of begin is gone, and with it the hot backup."""


@dataclass(frozen=True)
class Capabilities:
    """What a driver can do.

    :param hot_backup: begin and end: the database goes on writing, and its logs repair the copy.
    :param freeze: writes are stopped in the window, or the copy is one the database recovers from by itself.
    """

    hot_backup: bool
    freeze: bool


@dataclass(frozen=True)
class LabelFile:
    """A small file that the database wants in the backup, though it is on no disk.

    :param path: where it belongs on the database host (absolute). :param content: byte for byte.
    :param mode: permission bits. :param uid: owner. :param gid: group.
    """

    path: str
    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class EndResult:
    """What belongs to the backup after the end of hot backup.

    :param label_files: see LabelFile. :param log_files: absolute paths of log files on the database host; they
        stay there until close(). :param details: for the report, JSON.
    """

    label_files: list[LabelFile] = field(default_factory=list)
    log_files: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ThawCommand:
    """How somebody else ends the freeze when the holder is dead. :param database: the user's name for it.

    :param argv: no shell. :param timeout_s: its limit.
    """

    database: str
    argv: tuple[str, ...]
    timeout_s: float


class DatabaseDriver(ABC):
    """One database on this host. What a driver has no use for does nothing, or refuses. The order of calls::

        preflight, files                          by any process
        begin(label) ... ping ... end, close      hot backup, by the holder
        prepare_freeze, freeze ... thaw, close    freeze, by the holder
        recover                                   after a crash

    :param label: the user's name for it, for messages.
    :param options: checked against argument_spec, defaults filled in.
    :param quiesce: ``hot_backup`` or ``freeze``.
    """

    name: ClassVar[str]
    #: Options in the form of Ansible's argument specs (type, elements, default, required, no_log).
    argument_spec: ClassVar[dict[str, dict[str, Any]]]

    def __init__(self, label: str, options: Mapping[str, Any], quiesce: str) -> None:
        self.label = label
        self.options = options
        self.quiesce = quiesce

    @classmethod
    @abstractmethod
    def capabilities(cls, options: Mapping[str, Any]) -> Capabilities:
        """What it can do with these options."""

    @abstractmethod
    def preflight(self) -> dict[str, Any]:
        """Look whether a backup can work, changing nothing; return facts for the report.

        :raises DatabaseError: what stands in the way.
        """

    @abstractmethod
    def files(self) -> list[Scope]:
        """Folders and files that belong to it now, links resolved.

        :raises DatabaseError: when they cannot be found.
        """

    def begin(self, label: str) -> None:
        """Begin hot backup under this label. :raises DatabaseError: when it cannot."""
        raise DatabaseError(f"{self.where}: driver {self.name} knows no hot backup; set quiesce to freeze.")

    def ping(self) -> None:  # noqa: B027
        """Prove that the session of begin still lives. :raises SessionLost: when it does not."""

    def fileno(self) -> Optional[int]:
        """A descriptor that becomes readable when the session breaks, if there is one."""
        return None

    def end(self) -> EndResult:
        """End hot backup in the session of begin. :raises DatabaseError: when it was not clean."""
        raise DatabaseError(f"{self.where}: driver {self.name} knows no hot backup; set quiesce to freeze.")

    def prepare_freeze(self) -> None:  # noqa: B027
        """Do before the window what makes it short. :raises DatabaseError: when a freeze would fail."""

    def freeze(self, limit_s: float, started: Optional[Callable[[int], None]] = None) -> None:
        """Stop writes.

        :param limit_s: give up after this time. :param started: told the process group of a command that does it,
            before it is waited for.
        :raises DatabaseError: when it did not.
        """
        raise DatabaseError(f"{self.where}: driver {self.name} knows no freeze; set quiesce to hot_backup.")

    def thaw(self) -> None:  # noqa: B027
        """Let writes go on; nothing happens if they do.

        :raises DatabaseError: when they cannot; it is called again, and without a thaw_command close() must do it.
        """

    def thaw_command(self) -> Optional[ThawCommand]:
        """How the guard ends the freeze if the holder's death alone does not."""
        return None

    def recover(self) -> bool:
        """End what a dead holder left behind; return whether there was anything to do."""
        return False

    def close(self) -> None:  # noqa: B027
        """Drop the session and what it holds, also in the midst of a hot backup; never raises."""

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"databases: {self.label}"
