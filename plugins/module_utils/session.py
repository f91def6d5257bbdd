# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Session ids, and the state folder of a host. All names of files and folders in it are here (StateDir)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from typing import Optional
from urllib.parse import quote

from .errors import SplitMirrorError

DEFAULT_STATE_DIR = "/var/lib/splitmirror"
_CATALOG = "catalog.sqlite"
#: What stands in a state folder, besides the catalog. The role puts a virtual tape into ``library``.
_OURS = frozenset(("sessions", "leases", "mirrors", "drives", "mounts", "library", "reports", "bases", "lost+found"))
#: In the folder of the drives, which QueueTicket gets: which volume is in which drive, the lock of the queue, and
#: that of the one task that copies sessions.
LOADED = "loaded.json"
QUEUE_LOCK = "lock"
COPY_LOCK = "copy.lock"
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SHORT = re.compile("sm[a-z2-7]{16}")


class SessionError(SplitMirrorError):
    """A session id or a state folder that cannot be used."""

    code = "option_invalid"


def check_session_id(session: str, option: str = "session") -> str:
    """Return ``session`` if it is a proper session id, else raise SessionError. :param option: where it stands."""
    if not _SESSION_ID.fullmatch(session):
        raise SessionError(
            f"{option}: {session!r} is not a session id; it needs 1 to 80 letters, digits, dots, dashes or "
            "underscores and begins with a letter or digit.",
            option=option,
        )
    return session


def short_session(session: str) -> str:
    """The mark of a session on arrays that allow few characters in a name: ``sm`` and 16 of a-z and 2-7.

    80 bits of the SHA-256 of the id, in base32. A short id is its own short id, so that what an unknown session has
    marked can be cleaned up as well.
    """
    if _SHORT.fullmatch(session):
        return session
    digest = hashlib.sha256(check_session_id(session).encode()).digest()
    return "sm" + base64.b32encode(digest[:10]).decode().lower()


def sealed(session: str) -> str:
    """A session's id and its short id, for the names of things that can carry no other mark.

    A name of somebody else may begin as ours do, and an id can be any word; nobody else has the hash of it, too.
    """
    return f"{check_session_id(session)}.{short_session(session)}"


def session_of_seal(name: str) -> Optional[str]:
    """The session of a name made by sealed; None for any other name."""
    session = name.rpartition(".")[0]
    return session if _SESSION_ID.fullmatch(session) and name == sealed(session) else None


def host_part(host: str) -> str:
    """What stands for a database host in the ids of its sessions; the role mirrored_backup says the same.

    A name that is too long or has other characters is told from its like by a part of its SHA-256.
    """
    if re.fullmatch(r"[A-Za-z0-9._-]{1,50}", host):
        return host
    return re.sub(r"[^A-Za-z0-9._-]", "-", host)[:41] + "-" + hashlib.sha256(host.encode()).hexdigest()[:8]


def host_of(session: str) -> Optional[str]:
    """What stands for the database host in a session's id; None when the role did not name it."""
    named = re.fullmatch(r"\d{8}T\d{6}Z-(.+)-[0-9a-f]{4}", session)
    return named[1] if named else None


def is_of_host(session: str, host: str) -> bool:
    """Whether a session is one of this database host. :param host: its inventory name."""
    return host_of(session) == host_part(host)


def make_private(path: str, root: str, option: str = "state_dir") -> None:
    """Make a folder, all folders from ``root`` on that lead to it, and those above that are missing, all 0700.

    What is there already from ``root`` on is mended: another version, a copy or a umask may have left it open. What is
    above belongs to others and stays as it is.

    :param root: the first folder that is ours; ``path`` is it, or lies below it.
    :param option: what names the folder.
    :raises SessionError: one cannot be made, or belongs to others.
    """
    current = os.path.abspath(root)
    try:
        above = os.path.dirname(current)
        missing = []
        while not os.path.isdir(above):
            missing.append(above)
            above = os.path.dirname(above)
        # os.makedirs gives its mode to the last one only.
        for folder in reversed(missing):
            _make_one(folder, option)
        if os.path.isdir(current):
            _refuse_shared(current, option)
        _make_one(current, option)
        for part in os.path.relpath(path, root).split(os.sep):
            if part != os.curdir:
                current = os.path.join(current, part)
                _make_one(current, option)
    except OSError as exc:
        raise SessionError(
            f"{option}: {path} cannot be made ({exc.strerror}); name a folder that root may write.",
            option=option,
            code="state_dir_unusable",
        ) from exc


def _refuse_shared(root: str, option: str) -> None:
    """:raises SessionError: others may enter the folder, and it is not ours alone, so nobody may close it to them."""
    foreign = [name for name in os.listdir(root) if name not in _OURS and not name.startswith(_CATALOG)]
    if foreign and stat.S_IMODE(os.stat(root).st_mode) & 0o077:
        raise SessionError(
            f"{option}: {root} is open to other users and holds other things ({min(foreign)}); give it mode 0700 if it "
            "is for this collection alone, or name a folder of its own.",
            option=option,
            code="state_dir_unusable",
        )


def _make_one(folder: str, option: str) -> None:
    """Make one folder, or mend its mode. :raises OSError: as mkdir, open, chmod."""
    # The umask can only take rights away, and 0700 has none to spare.
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            raise SessionError(
                f"{option}: {folder} belongs to another user (uid {found.st_uid}); give it to the user who runs the "
                "modules, or name another folder.",
                option=option,
                code="state_dir_unusable",
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(handle, 0o700)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class StateDir:
    """The state folder of one host, 0700 and owned by root. A path that is asked for need not exist.

    :param root: absolute path of the folder.
    """

    root: str = DEFAULT_STATE_DIR

    def check(self) -> None:
        """:raises SessionError: something else than a folder stands there, or on the way there."""
        nearest = self.root
        while not os.path.lexists(nearest):
            nearest = os.path.dirname(nearest)
        if not os.path.isdir(nearest):
            raise SessionError(
                f"state_dir: {nearest} is not a folder; name another folder, or remove what is there.",
                option="state_dir",
                code="state_dir_unusable",
            )

    def session_dir(self, session: str) -> str:
        """A session's folder."""
        return os.path.join(self.root, "sessions", check_session_id(session))

    def session_file(self, session: str, name: str) -> str:
        """A file in a session's folder."""
        return os.path.join(self.session_dir(session), name)

    def map_file(self, session: str) -> str:
        """The extent map: the database host makes it, the media server gets a copy."""
        return self.session_file(session, "map.sqlite")

    @property
    def bases_dir(self) -> str:
        """Maps of sessions on which the next incremental sessions may build."""
        return os.path.join(self.root, "bases")

    def base_map(self, session: str) -> str:
        """The map of a session on which others may build."""
        return os.path.join(self.bases_dir, f"{check_session_id(session)}.sqlite")

    def extras_file(self, session: str) -> str:
        """Label files and logs of the session: the database host makes it, the media server gets a copy."""
        return self.session_file(session, "extras.tar")

    def frozen_file(self, session: str) -> str:
        """The mount points that the holder has frozen."""
        return self.session_file(session, "frozen.json")

    def hot_backup_file(self, session: str) -> str:
        """The result of the hot backup, for a repeated call."""
        return self.session_file(session, "hot_backup.json")

    def socket_file(self, session: str, daemon: str) -> str:
        """Where a daemon of the session answers. :param daemon: its name, ``holder`` or ``splitter``."""
        return self.session_file(session, f"{daemon}.sock")

    def record_file(self, session: str, daemon: str) -> str:
        """Which process a daemon of the session is; host.daemon writes it."""
        return self.session_file(session, f"{daemon}.json")

    def log_file(self, session: str, daemon: str) -> str:
        """What a daemon of the session has to report; host.daemon writes it."""
        return self.session_file(session, f"{daemon}.log")

    def status_file(self, session: str) -> str:
        """How far the long work of the session on this host has come."""
        return self.session_file(session, "status.json")

    def make_session_dir(self, session: str) -> str:
        """Make the session's folder (0700) if it is missing, and return its path."""
        path = self.session_dir(session)
        self.make_private_dir(path)
        return path

    def make_private_dir(self, path: str) -> None:
        """Make ``path``, the root, and what lies between them, all 0700; those that are there already become so.

        :raises SessionError: when a folder cannot be made, or belongs to another user.
        """
        make_private(path, self.root)

    def make(self) -> str:
        """Make the folder itself as make_private_dir does, and return its path."""
        self.make_private_dir(self.root)
        return self.root

    @property
    def catalog_file(self) -> str:
        """The catalog of the media server."""
        return os.path.join(self.root, _CATALOG)

    @property
    def mounts_dir(self) -> str:
        """Where the media server mounts mirrors unless an option names another folder."""
        return os.path.join(self.root, "mounts")

    @property
    def reports_dir(self) -> str:
        """What a restore or a verification found missing or doubtful (media server)."""
        return os.path.join(self.root, "reports")

    @property
    def drives_dir(self) -> str:
        """Which task has a drive or waits for one (media server)."""
        return os.path.join(self.root, "drives")

    @property
    def leases_dir(self) -> str:
        """Which run works for which database host."""
        return os.path.join(self.root, "leases")

    def lease_file(self, part: str) -> str:
        """The lease of a database host. :param part: see host_part."""
        return os.path.join(self.leases_dir, f"{part}.json")

    @property
    def mirrors_dir(self) -> str:
        """What the array knows of its split mirrors."""
        return os.path.join(self.root, "mirrors")

    def mirror_file(self, session: str) -> str:
        """The record of a session's split mirrors (array)."""
        return os.path.join(self.mirrors_dir, f"{check_session_id(session)}.json")

    def mirror_sessions(self) -> list[str]:
        """Ids of all sessions that have a mirror_file, by name."""
        try:
            names = os.listdir(self.mirrors_dir)
        except FileNotFoundError:
            return []
        return sorted(name[: -len(".json")] for name in names if name.endswith(".json"))

    def leg_file(self, session: str, pair: str) -> str:
        """What was written to the mirror of a pair when it was split (provider md)."""
        return os.path.join(self.mirrors_dir, f"{session}.{quote(pair, safe='')}.leg")

    @property
    def mirrors_lock(self) -> str:
        """A process that claims a mirror locks this file."""
        return os.path.join(self.mirrors_dir, ".lock")

    @property
    def turn_lock(self) -> str:
        """The process that has the turn to split locks this file."""
        return os.path.join(self.mirrors_dir, ".turn")

    def sessions(self) -> list[str]:
        """Ids of all sessions that left a folder here, oldest name first."""
        try:
            names = os.listdir(os.path.join(self.root, "sessions"))
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _SESSION_ID.fullmatch(name))
