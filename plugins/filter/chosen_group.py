# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuse a play that would have nothing to do, which Ansible calls a success."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError


def chosen_group(groups: Mapping[str, Sequence[str]], group: str, hosts: Sequence[str]) -> str:
    """The name of a group, if any of its hosts is to be worked on.

    :param groups: the groups of the inventory, with their hosts.
    :param hosts: the hosts that ``--limit`` leaves.
    :raises AnsibleFilterError: there is nothing to do.
    """
    # A syntax check has no inventory, and needs none.
    if context.CLIARGS.get("syntax"):
        return group
    members = groups.get(group)
    if members is None:
        near = get_close_matches(group, groups, 1)
        hint = f" (did you mean that by {near[0]!r}?)" if near else ""
        raise AnsibleFilterError(
            f"the inventory has no group {group}{hint}, so there is nothing to do; put the hosts into it."
        )
    if not members:
        raise AnsibleFilterError(
            f"group {group} of the inventory is empty, so there is nothing to do; put the hosts into it."
        )
    if not set(members) & set(hosts):
        raise AnsibleFilterError(
            f"--limit leaves no host of group {group}, so there is nothing to do; its hosts are "
            f"{', '.join(sorted(members))}."
        )
    return group


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"chosen_group": chosen_group}
