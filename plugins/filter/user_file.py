# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find a file of the user's that lies beside the user's playbook."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

from ansible import context


def user_paths(name: str, folders: Sequence[Optional[str]] = ()) -> Iterator[str]:
    """Where a file or folder of the user's may lie, see user_file."""
    called = [
        os.path.dirname(os.path.abspath(path)) for path in context.CLIARGS.get("args") or () if os.path.isfile(path)
    ]
    for folder in (*called, *folders, os.getcwd()):
        yield os.path.abspath(os.path.join(folder or os.curdir, name))


def user_file(name: str, folders: Sequence[Optional[str]] = ()) -> str:
    """The path of a file, or nothing if there is none.

    Under a playbook that is imported, ``playbook_dir`` is that one's folder; the command line names the user's.

    :param name: its path; a relative one is looked up beside the playbooks of the command line, in the other folders,
        and in the working folder.
    :param folders: other folders.
    """
    found = (path for path in user_paths(name, folders) if os.path.isfile(path))
    return next(found, "")


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"user_file": user_file}
