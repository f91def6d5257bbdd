#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_relocate
short_description: Make restored databases ready to start where they now are
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Finds the PostgreSQL data directories among restored files and points their tablespaces, their WAL and every other
    link in them, which may still lead to the original server, to the restored copies below the same target.
  - Nothing outside O(target) is touched, and no link of a data directory leads out of it afterwards.
  - The settings in the data directory are left as they are. Read them before you start a server on the machine of the
    original.
options:
  target:
    description: The folder that V(/) of the database host was restored to.
    type: path
    required: true
  data_directory:
    description: Look at this data directory in O(target) only; by default at all of them.
    type: path
    version_added: 0.2.0
extends_documentation_fragment:
  - splitmirror.backup.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the restored databases ready to start
  splitmirror.backup.restore_relocate:
    target: /restore/db1
"""

RETURN = r"""
data_directories:
  description: The data directories found.
  returned: success
  type: list
  elements: str
  sample: [/restore/db1/var/lib/postgresql/15/main]
moves:
  description: What led elsewhere and does so no more.
  returned: success
  type: list
  elements: dict
  contains:
    where:
      description: The link, or the line of C(tablespace_map).
      type: str
    before:
      description: Where it led.
      type: str
    after:
      description: Where it leads.
      type: str
"""

import contextlib
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.relocation import (
    find_data_directories,
    relocate,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Relocate every data directory below the target."""
    target = module.params["target"]
    only = module.params["data_directory"]
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.listdir(target)  # a user who may not is told so, and does not find nothing
    directories = [only] if only else find_data_directories(target)
    # All or nothing: what cannot be relocated is refused before the first link changes.
    moves = [move for found in directories for move in relocate(target, found, dry_run=True)]
    if not module.check_mode:
        for found in directories:
            relocate(target, found)
    return {
        "changed": bool(moves),
        "data_directories": directories,
        "moves": [asdict(move) for move in moves],
        "diff": {
            "before": "".join(f"{move.where} -> {move.before}\n" for move in moves),
            "after": "".join(f"{move.where} -> {move.after}\n" for move in moves),
        },
    }


def main() -> None:
    """Run the module."""
    run_module(work, {"target": {"type": "path", "required": True}, "data_directory": {"type": "path"}})


if __name__ == "__main__":
    main()
