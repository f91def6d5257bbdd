# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Seam 2: what the collection asks of a database, whichever it is."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional

from ..errors import SplitMirrorError
from ..extents.scope import Scope
from ..extents.since import Demand
from .relocation import Move, refuse_outside


class DatabaseError(SplitMirrorError):
    """A database that cannot be quiesced, or a description of one that cannot be used."""

    code = "database_failed"


class SessionLost(DatabaseError):
    """The session of begin is gone, and with it the hot backup."""

    code = "hot_backup_lost"


@dataclass(frozen=True)
class Capabilities:
    """What a driver can do.

    :param hot_backup: begin and end work: the database goes on writing, and its logs repair the copy.
    :param freeze: in_window stops writes, or the frozen file systems alone make a copy that the database recovers from.
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


@dataclass(frozen=True)
class Restored:
    """A database among restored files.

    :param target: the folder that was restored to.
    :param data_directory: the folder of the database in it, or its file.
    :param options: checked against the driver's restored_spec, defaults filled in.
    """

    target: str
    data_directory: str
    options: Mapping[str, Any]


class DatabaseDriver(ABC):
    """One database on this host. A driver overrides what its database needs; all else does nothing, or refuses.

    The order of calls for a backup; the holder calls them all, but for the first line and the last::

        preflight, files, demands                 any process, before hot backup begins
        begin, ping ...                           quiesce hot_backup
        prepare_window, in_window ... thaw        quiesce hot_backup and freeze
        ping ..., end                             quiesce hot_backup
        close
        recover                                   another process, after a crash

    in_window and thaw are called between freeze_sent and thaw_acknowledged, while nothing else of the window goes on:
    in_window before the file systems are frozen, in the order of the databases; thaw after the file systems are
    thawed, in reverse order, also when in_window failed. A driver may end its hot backup in thaw. From then on ping and
    fileno have nothing to report, and end returns what thaw has kept.

    :param title: the user's name for the database, for messages.
    :param options: checked against argument_spec, defaults filled in.
    :param quiesce: ``hot_backup`` or ``freeze``.
    """

    name: ClassVar[str]
    #: Options in the form of Ansible's argument specs (type, elements, default, required, no_log).
    argument_spec: ClassVar[dict[str, dict[str, Any]]]
    #: Options by which a restored database is checked and opened, in the same form.
    restored_spec: ClassVar[dict[str, dict[str, Any]]] = {}
    #: Those of argument_spec that name files of the backup: a restore finds the files by these names, too, if they are
    #: links.
    file_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, title: str, options: Mapping[str, Any], quiesce: str) -> None:
        self.title = title
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

    def demands(self) -> list[Demand]:
        """What of files() an incremental session writes, whatever is proved of it: all files, or those changed since.

        What is not demanded is left out if the map proves that it is unchanged (extents/since.py), so by the inode's
        time of change among others. A driver demands less than all only for a database that writes its files with
        system calls that set that time, as write(2) does.

        :raises DatabaseError: as files.
        """
        return [Demand(scope.root) for scope in self.files()]

    def begin(self, backup_name: str) -> None:
        """Begin hot backup.

        :param backup_name: what the server calls it, where the server has names for backups.
        :raises DatabaseError: it cannot begin.
        """
        raise self._no_hot_backup()

    def ping(self) -> None:  # noqa: B027
        """Prove that the session of begin still lives. :raises SessionLost: when it does not."""

    def fileno(self) -> Optional[int]:
        """A descriptor that becomes readable when the session breaks, if there is one."""
        return None

    def end(self) -> EndResult:
        """End hot backup in the session of begin.

        :raises SessionLost: that session is gone, or hot backup was not begun. :raises DatabaseError: it was not clean.
        """
        raise self._no_hot_backup()

    def prepare_window(self) -> None:  # noqa: B027
        """Do before the window what makes it short. :raises DatabaseError: when in_window would fail."""

    def in_window(self, limit_s: float, started: Optional[Callable[[int], None]] = None) -> None:  # noqa: B027
        """Do inside the window what makes the copy one that the database recovers from: stop writes, for instance.

        :param limit_s: give up after this time.
        :param started: to be called with the process group of a command that stops writes, before the command runs:
            whoever thaws instead of the holder kills that group first.
        :raises DatabaseError: it was not done, so that nothing is split.
        """

    def thaw(self) -> None:  # noqa: B027
        """Undo in_window; nothing happens when there is nothing to undo.

        :raises DatabaseError: it cannot; it is called again, and without a thaw_command close() must do it.
        """

    def thaw_command(self) -> Optional[ThawCommand]:
        """How the guard undoes in_window if the death of the holder alone does not."""
        return None

    def recover(self) -> bool:
        """End what a dead holder left behind; return whether there was anything to do."""
        return False

    def close(self) -> None:  # noqa: B027
        """Drop the session and what it holds, also in the midst of a hot backup; never raises."""

    @classmethod
    def find_restored(cls, target: str) -> list[str]:
        """Return the data directories of this kind of database below a folder that was restored to, sorted."""
        return []

    @classmethod
    def relocate(cls, target: str, data_directory: str, dry_run: bool = False) -> list[Move]:
        """Let nothing of a restored data directory lead to where the original is, or was.

        :param target: the folder of the restore; what was at ``/a/b`` is now at ``target/a/b``.
        :param data_directory: a folder below it. :param dry_run: only return what would be changed.
        :returns: what was changed; empty when all was in place already.
        :raises SplitMirrorError: it cannot be made safe.
        """
        return []

    @classmethod
    def check_restored(cls, restored: Restored) -> dict[str, Any]:
        """Look whether a drill on a restored database would stay inside the target, changing nothing.

        :returns: what open_restored and verify_restored need to know, JSON.
        :raises SplitMirrorError: it would reach something outside, or the database cannot be read.
        """
        if not os.path.exists(restored.data_directory):
            raise DatabaseError(
                f"data_directory: there is no {restored.data_directory}; name what was restored.",
                option="data_directory",
                code="restored_data_unusable",
            )
        refuse_outside(restored.target, restored.data_directory)
        return {}

    @classmethod
    @contextlib.contextmanager
    def open_restored(
        cls, restored: Restored, facts: Mapping[str, Any], timeout_s: float
    ) -> Iterator[Callable[[str], str]]:
        """Open a restored database so that nobody else can reach it; close it at the end.

        :param facts: what check_restored returned. :param timeout_s: how long recovery may take.
        :yields: asks a query and returns its only value as a text; it raises SplitMirrorError if there is none.
        :raises SplitMirrorError: it cannot be opened.
        """
        yield cls._cannot_be_asked

    @classmethod
    def verify_restored(cls, restored: Restored, facts: Mapping[str, Any]) -> list[str]:
        """Check the files of a restored database after it was closed; return what was checked, in words.

        :param facts: what check_restored returned.
        :raises SplitMirrorError: something is wrong with them.
        """
        return []

    @classmethod
    def _cannot_be_asked(cls, _query: str) -> str:
        raise DatabaseError(
            f"queries: a database of driver {cls.name} cannot be asked; leave queries out.",
            option="queries",
            code="option_invalid",
        )

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"databases: {self.title}"

    def _no_hot_backup(self) -> DatabaseError:
        return DatabaseError(f"{self.where}: driver {self.name} cannot do hot backup; set quiesce to freeze.")

    def _not_begun(self) -> SessionLost:
        return SessionLost(f"{self.where}: hot backup was not begun in this session, so it cannot be ended.")
