# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Symbolic links in the folders of a database: what they lead to belongs to the database as well.

A server opens a file of its data folder through any link that it finds there. A backup that holds the link alone lacks
the file, and a server that is started on the restored copy would follow the link to the original.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from ..extents.rules import Rule
from ..extents.scope import Scope, holds
from .base import DatabaseError


def with_linked(where: str, scopes: Sequence[Scope]) -> list[Scope]:
    """Return the scopes, and one more for everything outside of them that a link in them leads to.

    Links below links are followed, too. A link that is left out of the backup, or that is an empty folder in
    the backup, is not followed.

    :param where: how messages name the database.
    :raises DatabaseError: a link that leads to nothing, round in a circle, to a folder that holds one of the scopes,
        or to what is neither a folder nor a regular file.
    """
    found = list(scopes)
    for scope in found:  # it grows meanwhile
        for link in _links(scope):
            path = _destination(where, link)
            if any(holds(known.root, path) for known in found):
                continue
            for known in found:
                if holds(path, known.root):
                    raise DatabaseError(
                        f"{where}: {link} is a link to {path}, which holds {known.root}; remove the link.",
                        option="databases",
                    )
            found.append(Scope(path, exclude=tuple(p for p in scope.exclude if "/" not in p), label=scope.label))
    return found


def _links(scope: Scope) -> Iterator[str]:
    """Yield the paths of all links that belong to a scope; what vanishes meanwhile is skipped."""
    rule = Rule(scope)
    folders = [scope.root] if os.path.isdir(scope.root) else []
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    path = os.fsencode(entry.path)
                    if rule.excludes(path, os.fsencode(entry.name)) or rule.is_empty(path):
                        continue
                    if entry.is_symlink():
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue


def _destination(where: str, link: str) -> str:
    path = os.path.realpath(link)
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        raise DatabaseError(
            f"{where}: {link} is a link to {os.readlink(link)}, which cannot be opened ({exc.strerror}); remove the "
            "link, or create what it leads to.",
            option="databases",
        ) from exc
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise DatabaseError(
            f"{where}: {link} is a link to {path}, which is neither a folder nor a regular file and cannot be backed "
            "up; remove the link.",
            option="databases",
            code="option_invalid",
        )
    return path
