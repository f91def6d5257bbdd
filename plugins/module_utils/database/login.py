# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How drivers log in: options for a password and for the user of this host who connects, and what they mean."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .base import DatabaseError

#: For the argument_spec of a driver whose server asks for a password.
PASSWORD_SPEC: dict[str, dict[str, Any]] = {
    "login_password": {"type": "str", "no_log": True},
    "login_password_file": {"type": "path", "no_log": False},
}


def os_user_spec(default: str) -> dict[str, dict[str, Any]]:
    """For the argument_spec of a driver whose server looks which user of this host connects."""
    return {"os_user": {"type": "str", "default": default}}


def login_password(where: str, options: Mapping[str, Any]) -> Optional[str]:
    """Return the password that the options of PASSWORD_SPEC give, if they give one; the file comes first.

    :param where: how messages name the database.
    :raises DatabaseError: the file cannot be read.
    """
    path = options["login_password_file"]
    if not path:
        password: Optional[str] = options["login_password"]
        return password
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().rstrip("\n")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        # Not chained: the error of the decoder quotes the file, which may hold the password.
        raise DatabaseError(
            f"{where}: login_password_file {path} cannot be read ({why}); its first line must be the password.",
            option="databases",
            code="database_login",
        ) from None


@contextlib.contextmanager
def as_os_user(where: str, name: str) -> Iterator[None]:
    """Connect as another user of this host: over a Unix socket the server sees who connects (peer authentication).

    :param where: how messages name the database. :param name: the option os_user; empty for no change. A process that
        does not run as root stays what it is.
    :raises DatabaseError: this host has no such user.
    """
    if not name or os.geteuid() != 0:
        yield
        return
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise DatabaseError(
            f"{where}: os_user {name!r} is not a user of this host; name the user whom the server lets in.",
            option="databases",
            code="option_invalid",
        ) from None
    group = os.getegid()
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
