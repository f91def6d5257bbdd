# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find what is wrong with the options of databases and of the mirror provider, before a host is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import PAIRS_SPEC
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import database_faults
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import provider_faults


def wrong_options(variables: Mapping[str, Any]) -> list[str]:
    """One sentence for each fault; it begins with the name of the variable, and has no values of passwords.

    :param variables: ``splitmirror_databases``, ``splitmirror_provider``, ``splitmirror_provider_options`` and
        ``splitmirror_pairs``. One that is a string and has to be a list is left to the filter misshapen.
    """
    databases, provider, options, pairs = (
        variables[f"splitmirror_{name}"] for name in ("databases", "provider", "provider_options", "pairs")
    )
    found = [] if isinstance(databases, str) else database_faults(databases)
    found += provider_faults(
        provider,
        {} if isinstance(options, str) else options,
        [] if isinstance(pairs, str) else pairs,
        PAIRS_SPEC["pairs"]["options"],
    )
    return [f"splitmirror_{sentence}" for sentence in found]


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"wrong_options": wrong_options}
