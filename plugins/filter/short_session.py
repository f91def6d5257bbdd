# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The short id of a session, the mark of what a session makes on an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.module_utils import session
from ansible_collections.splitmirror.backup.plugins.module_utils.session import SessionError


def short_session(name: str) -> str:
    """The short id of a session. :param name: its id. :raises AnsibleFilterError: it is not an id."""
    try:
        return session.short_session(name)
    except SessionError as exc:
        raise AnsibleFilterError(exc.message) from exc


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"short_session": short_session}
