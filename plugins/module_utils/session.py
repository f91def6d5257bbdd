# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Session ids, and where a session keeps its files on each host.

One state folder a host (default ``/var/lib/splitmirror``), 0700 and owned by root::

    sessions/<id>/map.sqlite     extent map (database host makes it, media server gets a copy)
    sessions/<id>/holder.sock    socket of the holder (database host) or of the armed splitter (array)
    sessions/<id>/extras.tar     label files and logs that belong to the session
    mirrors/                     what the array knows of its split mirrors
    catalog.sqlite               media server
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from .errors import SplitMirrorError

DEFAULT_STATE_DIR = "/var/lib/splitmirror"
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class SessionError(SplitMirrorError):
    """A session id or a state folder that cannot be used."""


def check_session_id(session: str) -> str:
    """Return ``session`` if it is a proper session id, else raise SessionError."""
    if not _SESSION_ID.fullmatch(session):
        raise SessionError(
            f"session: {session!r} is no session id; it needs 1 to 80 letters, digits, dots, dashes or "
            "underscores and begins with a letter or digit.",
            option="session",
        )
    return session


def host_part(host: str) -> str:
    """What stands for a database host in the ids of its sessions; the role mirrored_backup says the same.

    A name that is too long or has other characters is told from its like by a part of its SHA-256.
    """
    if re.fullmatch(r"[A-Za-z0-9._-]{1,50}", host):
        return host
    return re.sub(r"[^A-Za-z0-9._-]", "-", host)[:41] + "-" + hashlib.sha256(host.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class StateDir:
    """The state folder of one host. :param root: absolute path of the folder."""

    root: str = DEFAULT_STATE_DIR

    def session_dir(self, session: str) -> str:
        """Path of a session's folder; it need not exist."""
        return os.path.join(self.root, "sessions", check_session_id(session))

    def session_file(self, session: str, name: str) -> str:
        """Path of a file in a session's folder; it need not exist."""
        return os.path.join(self.session_dir(session), name)

    def make_session_dir(self, session: str) -> str:
        """Make the session's folder (0700) if it is missing, and return its path."""
        path = self.session_dir(session)
        self.make_private_dir(path)
        return path

    def make_private_dir(self, path: str) -> None:
        """Make ``path`` and its missing parents under the root, all 0700.

        :raises SessionError: when a folder cannot be made.
        """
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            current = self.root
            for part in os.path.relpath(path, self.root).split(os.sep):
                if part == os.curdir:
                    continue
                current = os.path.join(current, part)
                try:
                    os.mkdir(current, 0o700)
                except FileExistsError:
                    pass
        except OSError as exc:
            raise SessionError(
                f"state_dir: {path} cannot be made ({exc.strerror}); name a folder that root may write.",
                option="state_dir",
            ) from exc

    def sessions(self) -> list[str]:
        """Ids of all sessions that left a folder here, oldest name first."""
        try:
            names = os.listdir(os.path.join(self.root, "sessions"))
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _SESSION_ID.fullmatch(name))
