# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to the scopes of a session, and what of it is left out."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from typing import Optional

from .maprows import MapError, sort_key
from .scope import Scope
from .stack import is_below

_NOTHING: set[bytes] = set()


class Rule:
    """The exceptions of one scope, made ready for many questions."""

    def __init__(self, scope: Scope) -> None:
        self.root = os.fsencode(scope.root)
        self.label = scope.label
        self._base = self.root.rstrip(b"/") + b"/"
        self._empty = frozenset(self._base + os.fsencode(name).strip(b"/") for name in scope.empty)
        self._names = _pattern(pattern for pattern in scope.exclude if "/" not in pattern)
        self._paths = _pattern(pattern.lstrip("/") for pattern in scope.exclude if "/" in pattern)

    def excludes(self, path: bytes, name: bytes) -> bool:
        """Whether a path below the root (its last component is ``name``) is left out, not looking at its parents."""
        if self._names is not None and self._names.match(_text(name)):
            return True
        return self._paths is not None and self._paths.match(_text(path[len(self._base) :])) is not None

    @property
    def has_excludes(self) -> bool:
        """Whether there is any pattern."""
        return self._names is not None or self._paths is not None

    def is_empty(self, path: bytes) -> bool:
        """Whether a folder is backed up without what is in it."""
        return path in self._empty

    def allows(self, path: bytes) -> bool:
        """Whether a path below the root belongs to the scope, looking at its parents too."""
        if path == self.root:
            return True
        place = len(self._base)
        while True:
            end = path.find(b"/", place)
            part = path if end < 0 else path[:end]
            if self.excludes(part, part[place:]):
                return False
            if end < 0:
                return True
            if part in self._empty:
                return False
            place = end + 1


class ScopeTree:
    """Several scopes as one tree; where one scope lies inside another, the inner one rules its part.

    :param left_out: paths that do not belong to it, with all that is below them.
    """

    def __init__(self, scopes: Iterable[Scope], left_out: Iterable[bytes] = ()) -> None:
        self.rules: dict[bytes, Rule] = {}
        self._left_out: set[bytes] = set()
        self._left_out_names: dict[bytes, set[bytes]] = {}
        for path in left_out:
            self.leave_out(path)
        for scope in scopes:
            rule = Rule(scope)
            if rule.root in self.rules:
                raise MapError(
                    f"paths: {scope.root} is named twice ({self.rules[rule.root].label}, {scope.label}); name it once.",
                    option="paths",
                    code="option_invalid",
                )
            self.rules[rule.root] = rule
        roots = sorted(self.rules, key=sort_key)
        #: Roots inside no other scope, in logical order.
        self.tops: list[bytes] = []
        # Folders on the way from a scope to one inside it: these are passed even where the outer scope leaves them out.
        self._on_the_way: dict[bytes, set[bytes]] = {}
        for root in roots:
            if not self.tops or not is_below(root, self.tops[-1]):
                self.tops.append(root)
                continue
            path = root
            while path != self.tops[-1]:
                path, name = os.path.split(path)
                self._on_the_way.setdefault(path, set()).add(name)

    def rule_of(self, path: bytes) -> Optional[Rule]:
        """The rule of the innermost scope that holds ``path``, None when no scope does or the rule leaves it out."""
        root = path
        while root not in self.rules:
            if root == b"/":
                return None
            root = os.path.dirname(root)
        rule = self.rules[root]
        return rule if rule.allows(path) and not self.is_left_out(path) else None

    def leave_out(self, path: bytes) -> bool:
        """A path and all below it belong to no scope from now on; False when that was so before."""
        if self.is_left_out(path):
            return False
        self._left_out.add(path)
        folder, name = os.path.split(path)
        self._left_out_names.setdefault(folder, set()).add(name)
        return True

    def left_out_names(self, folder: bytes) -> set[bytes]:
        """Names in a folder that were left out."""
        return self._left_out_names.get(folder, _NOTHING)

    def is_left_out(self, path: bytes) -> bool:
        """Whether a path, or a folder that holds it, was left out."""
        if self._left_out:
            while path not in self._left_out:
                if path == b"/":
                    return False
                path = os.path.dirname(path)
            return True
        return False

    def on_the_way(self, path: bytes) -> set[bytes]:
        """Names in a folder that lead to scopes inside the scope that holds it."""
        return self._on_the_way.get(path, _NOTHING)


def _pattern(globs: Iterable[str]) -> Optional[re.Pattern[str]]:
    parts = [f"(?:{fnmatch.translate(glob)})" for glob in globs]
    return re.compile("|".join(parts)) if parts else None


def _text(name: bytes) -> str:
    """A name as characters, whatever the locale; a byte that is not UTF-8 counts as a character, as in os.fsdecode."""
    return name.decode("utf-8", "surrogateescape")
