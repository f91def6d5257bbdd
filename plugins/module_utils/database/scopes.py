# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that a host backs up: what its databases name and what the user names, without overlap."""

from __future__ import annotations

import dataclasses
import glob
import os.path
import stat
from typing import Sequence

from ..extents.scope import Scope
from .base import DatabaseDriver, DatabaseError


def host_scopes(drivers: Sequence[DatabaseDriver], paths: Sequence[str], exclude: Sequence[str]) -> list[Scope]:
    """The scopes of a host.

    :param paths: folders or files to back up besides the databases; absolute. Links in them are resolved.
    :param exclude: glob patterns for these paths.
    :raises DatabaseError: a path that is not absolute or not there, or nothing to back up at all.
    """
    scopes: list[Scope] = []
    for driver in drivers:
        scopes.extend(driver.files())
    for path in paths:
        if not os.path.isabs(path):
            raise DatabaseError(f"paths: {path!r} is not absolute; name it from the root folder on.", option="paths")
        root = os.path.realpath(path)
        try:
            status = os.lstat(root)
        except OSError as exc:
            raise DatabaseError(f"paths: {path} cannot be read ({exc.strerror}).", option="paths") from exc
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            raise DatabaseError(f"paths: {path} is neither a folder nor a regular file.", option="paths")
        scopes.append(Scope(root, exclude=tuple(exclude)))
    if not scopes:
        raise DatabaseError(
            "databases, paths: there is nothing to back up; name at least one database or one path.", option="paths"
        )
    return without_overlap(scopes)


def without_overlap(scopes: Sequence[Scope]) -> list[Scope]:
    """Make every file belong to one scope at most; the earlier scope wins.

    A scope inside an earlier one is dropped; an earlier one inside a later one is excluded from the later.
    """
    kept: list[Scope] = []
    for scope in scopes:
        if any(_inside(scope.root, other.root) for other in kept):
            continue
        inner = [other.root for other in kept if _inside(other.root, scope.root)]
        holes = tuple(glob.escape(os.path.relpath(root, scope.root)) for root in inner)
        # A pattern without a slash would match that name at every depth.
        holes = tuple(hole if "/" in hole else f"./{hole}" for hole in holes)
        kept.append(dataclasses.replace(scope, exclude=scope.exclude + holes))
    return kept


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
