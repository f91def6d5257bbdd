# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The user's own secret for CHAP: a variable, or a file on the controller that nobody else may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import TransportError
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import check_secret

VARIABLE = "splitmirror_chap_secret"
FILE = "splitmirror_chap_secret_file"
#: More than any secret has.
_MOST_BYTES = 4096


def chap_secret(secret: str, path: str) -> str:
    """The secret, or nothing if there is neither a secret nor a file.

    :param secret: the variable.
    :param path: of a file whose first line is the secret; ``~`` is expanded.
    :raises AnsibleFilterError: it could be guessed, has characters that not every target takes, or is in a file that
        cannot be read, or that others may read.
    """
    if not secret and not path:
        return ""
    try:
        return check_secret(secret, VARIABLE) if secret else check_secret(_first_line(path), FILE)
    except TransportError as exc:
        raise AnsibleFilterError(exc.message) from None


def chap_secret_faults(secret: str, path: str) -> list[str]:
    """What chap_secret would refuse, in a sentence without the secret."""
    try:
        chap_secret(secret, path)
    except AnsibleFilterError as exc:
        return [exc.message]
    return []


def _first_line(path: str) -> str:
    where = os.path.expanduser(path)
    try:
        with open(where, "rb") as stream:
            status = os.fstat(stream.fileno())
            text = stream.readline(_MOST_BYTES)
    except OSError as exc:
        raise AnsibleFilterError(f"{FILE}: {where} cannot be read ({exc.strerror}); give the path of a file.") from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise AnsibleFilterError(
            f"{FILE}: others than you may read or change {where}; make it a file of your own with mode 0600."
        )
    return text.decode("ascii", "replace").strip()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Their names and functions."""
        return {"chap_secret": chap_secret, "chap_secret_faults": chap_secret_faults}
