# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse a run whose user sets variables that the role mirrored_backup sets itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.filter.misspelt import inner, overridden

#: What the role calls a session. With such a value the role itself has set its variables, earlier in the same play.
SESSION = re.compile(r"preflight|\d{8}T\d{6}Z-[A-Za-z0-9._-]+-[0-9a-f]{4}")


def untouched(variables: Mapping[str, Any]) -> bool:
    """True, if none of the variables that are the role's own comes from the command line or from the inventory.

    :param variables: the variables of the database host in ``hostvars``, which has none of those in the role's vars.
    :raises AnsibleFilterError: names those that do.
    """
    taken = overridden()
    if not SESSION.fullmatch(str(variables.get("splitmirror_session", ""))):
        taken |= inner("mirrored_backup") & set(variables)
    if taken:
        raise AnsibleFilterError(
            f"{', '.join(sorted(taken))}: the role mirrored_backup sets this itself, so a value of yours would hide "
            "what happens; remove it from the inventory, the command line, or the task that sets it."
        )
    return True


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"untouched": untouched}
