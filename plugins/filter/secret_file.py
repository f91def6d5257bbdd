# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a secret from a file on the controller that nobody else may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

#: More than any secret has.
_MOST_BYTES = 4096


def secret_file(path: str, option: str) -> str:
    """The first line of a file.

    :param path: of the file; ``~`` is expanded.
    :param option: the variable that names it, for messages.
    :raises AnsibleFilterError: it cannot be read, others may read it, or it is empty.
    """
    where = os.path.expanduser(path)
    try:
        with open(where, "rb") as stream:
            status = os.fstat(stream.fileno())
            text = stream.readline(_MOST_BYTES)
    except OSError as exc:
        raise AnsibleFilterError(f"{option}: {where} cannot be read ({exc.strerror}); give its path.") from exc
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise AnsibleFilterError(
            f"{option}: others than you may read or change {where}; make it a file of your own with mode 0600."
        )
    secret = text.decode("ascii", "replace").strip()
    if not secret:
        raise AnsibleFilterError(f"{option}: the first line of {where} is empty; write the secret into it.")
    return secret


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"secret_file": secret_file}
