# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of a seam: classes by name, each imported when it is first asked for.

A module compiles whatever it imports in each call, and most calls use one provider of many. The imports stand in
functions, where Ansible finds the files that a module needs on its host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Classes(Mapping[str, type[T]]):
    """The classes of a seam.

    :param loaders: by name what imports the class and returns it.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], type[T]]]) -> None:
        self._loaders = loaders

    def __getitem__(self, name: str) -> type[T]:
        return self._loaders[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)
