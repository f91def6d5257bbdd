# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to a backup: folders with exceptions, told without knowing who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping


@dataclass(frozen=True)
class Scope:
    """One tree to back up.

    :param root: absolute path of a folder or a single file, no trailing slash; symbolic links in it are resolved
        before it is made a scope.
    :param empty: folders (paths relative to the root) that are backed up without their contents.
    :param exclude: glob patterns; one without a slash is matched with the name at every depth, one with a slash
        with the whole path relative to the root.
    :param label: what asked for it (``postgresql main``, ``paths``), for messages and reports.
    """

    root: str
    empty: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    label: str = "paths"

    def as_dict(self) -> dict[str, Any]:
        """A dict that JSON takes and from_dict gives back."""
        return {
            "root": self.root,
            "empty": list(self.empty),
            "exclude": list(self.exclude),
            "label": self.label,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scope:
        """The inverse of as_dict."""
        return cls(data["root"], tuple(data["empty"]), tuple(data["exclude"]), data["label"])


def holds(folder: str, path: str) -> bool:
    """Whether a path is a folder itself or lies below it, by the names alone."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
