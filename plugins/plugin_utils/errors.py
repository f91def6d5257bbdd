# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The error of the action plugins."""

from __future__ import annotations

from typing import Optional

from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError


class ActionError(AnsibleError):  # type: ignore[misc]
    """A refusal or a failure on the controller, or on a host that an action reaches by itself.

    :param message: which option, what is wrong, what would be right.
    :param option: the name of the option at fault, if one is.
    :param code: see docs/errors.md.
    """

    def __init__(self, message: str, option: Optional[str] = None, *, code: str = SplitMirrorError.code) -> None:
        super().__init__(message)
        self.option = option
        self.code = code
