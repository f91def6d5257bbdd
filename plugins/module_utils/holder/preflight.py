# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The preflight questions for a database host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Optional

from ..database.registry import make_drivers
from ..extents.luns import look_at_luns
from ..preflight import Preflight, folder_ready
from ..session import StateDir
from .freeze import Needed
from .mapping import HostMapping, lun_specs
from .recovery import leftovers

_LATER = "A dead session left something here; that is cleaned up first, and this is examined afterwards."


def ask_database_host(
    preflight: Preflight,
    state: StateDir,
    *,
    databases: Sequence[Mapping[str, Any]],
    paths: Sequence[str],
    exclude: Sequence[str],
    on_unreadable: str,
    pairs: Sequence[Mapping[str, Any]],
    needed: Sequence[Needed],
) -> None:
    """Ask for the state folder, the LUNs, each database, and whether all that is to be backed up can be mapped.

    :param needed: folders that are never frozen.
    """
    preflight.ask("state folder", lambda: folder_ready(state.root, "state_dir"))
    preflight.ask("LUNs", lambda: _luns(pairs, paths))
    dead = bool(leftovers(state))
    usable = True
    for database in databases:
        look = partial(_database, None if dead else database)
        usable = preflight.ask(f"database {database['name']}", look) and usable
    if dead or not usable:
        return

    def plan() -> str:
        with HostMapping(
            state,
            "preflight",
            databases=databases,
            paths=paths,
            exclude=exclude,
            on_unreadable=on_unreadable,
            luns=lun_specs(pairs),
            needed=needed,
        ) as mapping:
            found = mapping.plan()
        return f"{len(found.scopes)} folders and files on {', '.join(found.mounts)} can be mapped and frozen."

    preflight.ask("what is backed up", plan)


def _luns(pairs: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> str:
    luns = look_at_luns(lun_specs(pairs), paths)
    return f"{', '.join(f'{lun.name} is {lun.device}' for lun in luns)}."


def _database(database: Optional[Mapping[str, Any]]) -> str:
    if database is None:
        return _LATER
    (driver,) = make_drivers([database])
    try:
        driver.preflight()
    finally:
        driver.close()
    return f"It can be reached, and {driver.quiesce.replace('_', ' ')} is possible."
