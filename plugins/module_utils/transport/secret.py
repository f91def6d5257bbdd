# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The secret by which the media server is let in to the target of a session (CHAP, RFC 3720, 11.1.4).

The controller makes it, array and media server get it. It stands in no list of arguments, no message and no log, and in
files that root alone may read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from .names import TransportError

#: RFC 3720, 8.2.1 wants 96 bits at least; open-iscsi, tgt and the kernel take up to 255 bytes.
_SECRET = re.compile("[A-Za-z0-9]{22,255}")


@dataclass(frozen=True)
class Chap:
    """A name and a secret. :param user: contains the session, and a digest of the secret."""

    user: str
    secret: str = field(repr=False)


def chap_of(session: str, secret: str, option: str = "chap_secret") -> Chap:
    """The account of a session.

    :raises TransportError: the secret could be guessed, or has characters that not every target takes.
    """
    if not _SECRET.fullmatch(secret):
        raise TransportError(
            f"{option}: give 22 to 255 random letters and digits, made for this session alone.",
            option=option,
            code="option_invalid",
        )
    digest = hashlib.sha256(f"{session}\0{secret}".encode()).hexdigest()[:16]
    return Chap(f"{user_prefix(session)}{digest}", secret)


def user_prefix(session: str) -> str:
    """How the names of all accounts of a session begin."""
    return f"{session}:"
