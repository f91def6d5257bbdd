# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that a host backs up: what its databases name and what the user names."""

from __future__ import annotations

import os.path
import stat
from typing import Sequence

from ..extents.scope import Scope, holds
from .base import DatabaseDriver, DatabaseError


def host_scopes(drivers: Sequence[DatabaseDriver], paths: Sequence[str], exclude: Sequence[str]) -> list[Scope]:
    """The scopes of a host.

    :param paths: folders or files to back up besides the databases; absolute. Links in them are resolved.
    :param exclude: glob patterns for these paths.
    :raises DatabaseError: a path that is not absolute or not there, or nothing to back up at all.
    """
    scopes: list[Scope] = []
    for driver in drivers:
        # Two databases may name the same folder (a common tablespace folder): once is enough.
        scopes += [scope for scope in driver.files() if scope.root not in [other.root for other in scopes]]
    from_databases = list(scopes)
    for path in paths:
        if not os.path.isabs(path):
            raise DatabaseError(
                f"paths: {path!r} is not an absolute path; give the full path.", option="paths", code="option_invalid"
            )
        root = os.path.realpath(path)
        try:
            status = os.lstat(root)
        except OSError as exc:
            raise DatabaseError(
                f"paths: {path} cannot be read ({exc.strerror}).", option="paths", code="option_invalid"
            ) from exc
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            raise DatabaseError(
                f"paths: {path} is neither a folder nor a regular file.", option="paths", code="option_invalid"
            )
        # What a database names is backed up as the database wants it, also if the user names a part of it again.
        if not any(holds(other.root, root) for other in from_databases) and root not in [s.root for s in scopes]:
            scopes.append(Scope(root, exclude=tuple(exclude)))
    if not scopes:
        raise DatabaseError(
            "databases, paths: there is nothing to back up; name at least one database or one path.",
            option="paths",
            code="option_invalid",
        )
    return scopes


def other_names(drivers: Sequence[DatabaseDriver], paths: Sequence[str]) -> dict[str, str]:
    """Names over symbolic links by which the user called what is backed up, and the real paths of these."""
    named = [*paths, *(driver.options[option] for driver in drivers for option in driver.file_options)]
    plain = {os.path.normpath(name) for name in named if isinstance(name, str) and os.path.isabs(name)}
    real = {name.replace("//", "/"): os.path.realpath(name) for name in plain}
    return {name: path for name, path in real.items() if name != path}
