# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The secrets by which a target and the media server know each other (CHAP in both directions, RFC 3720, 11.1.4).

The controller makes one for each mirror set of a session, array and media server get it. The media server is let in by
that secret, and lets in the target by another one that both compute from it; the RFC wants two. They stand in no list
of arguments, no message and no log, and in files that root alone may read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from .names import TransportError, label_of

#: RFC 3720, 8.2.1 wants 96 bits at least; open-iscsi, tgt and the kernel take up to 255 bytes.
_SECRET = re.compile("[A-Za-z0-9]{22,255}")


@dataclass(frozen=True)
class Chap:
    """Names and secrets of both sides. The names contain the target's label, and a digest of the secret.

    :param user: who logs in, by ``secret``.
    :param target_user: who answers, by ``target_secret``.
    """

    user: str
    secret: str = field(repr=False)
    target_user: str
    target_secret: str = field(repr=False)


def chap_of(target: str, secret: str, option: str = "chap_secret") -> Chap:
    """The accounts of a target, and of who logs in there. :raises TransportError: as check_secret."""
    check_secret(secret, option)
    digest = hashlib.sha256(f"{target}\0{secret}".encode()).hexdigest()[:16]
    target_secret = hmac.new(secret.encode(), target.encode(), "sha256").hexdigest()[:32]
    return Chap(f"{user_prefix(target)}{digest}", secret, f"{user_prefix(target)}target:{digest}", target_secret)


def check_secret(secret: str, option: str) -> str:
    """Return a secret.

    :raises TransportError: it could be guessed, or has characters that not every target takes.
    """
    if _SECRET.fullmatch(secret):
        return secret
    raise TransportError(f"{option}: give 22 to 255 random letters and digits.", option=option, code="option_invalid")


def user_prefix(target: str) -> str:
    """How the names of all accounts of a target begin."""
    return f"{label_of(target)}:"
