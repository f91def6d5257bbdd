# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one list of mirror providers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..session import StateDir
from .base import MirrorError, MirrorProvider, Pair
from .image import ImageProvider
from .lvm import LvmProvider
from .md import MdProvider

PROVIDERS: dict[str, type[MirrorProvider]] = {
    ImageProvider.name: ImageProvider,
    LvmProvider.name: LvmProvider,
    MdProvider.name: MdProvider,
}


def make_provider(
    name: str, pairs: Iterable[Mapping[str, Any]], state_dir: str, allow_copy: bool = False
) -> MirrorProvider:
    """Make the provider ``name`` for a mirror set.

    :param pairs: as the modules' option ``pairs`` gives them.
    :raises MirrorError: there is no such provider, or a pair lacks its primary or its mirror.
    """
    if name not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise MirrorError(f"provider: unknown mirror provider {name!r}; known are: {known}.", option="provider")
    return PROVIDERS[name]([_pair(pair) for pair in pairs], StateDir(state_dir), allow_copy)


def _pair(data: Mapping[str, Any]) -> Pair:
    if not data.get("primary"):
        raise MirrorError(
            f"pairs: pair {data['name']} names no primary; the array needs to know which LUN is meant.", option="pairs"
        )
    if not data.get("mirror"):
        raise MirrorError(
            f"pairs: LUN {data['name']} has no mirror; name it in 'mirror' or leave the LUN out.", option="pairs"
        )
    return Pair(data["name"], data["primary"], data["mirror"])
