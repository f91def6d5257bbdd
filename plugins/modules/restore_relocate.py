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
  - Finds databases among restored files. Whatever in them still leads to the original server is changed to lead to the
    restored copies below the same target, or refused.
  - For PostgreSQL these are the tablespaces, the WAL and every other link in a data directory.
  - Nothing outside O(target) is touched, and no link of a data directory leads out of it afterwards.
  - The settings in the data directory are left as they are. Read them before you start a server on the machine of the
    original.
options:
  target:
    description: The folder that V(/) of the database host was restored to.
    type: path
    required: true
  driver:
    description:
      - Look for databases of this driver only, such as V(postgresql). By default those of all drivers are looked for.
    type: str
    version_added: 0.2.0
  data_directory:
    description: Relocate this data directory in O(target) only; by default all that are found. It needs O(driver).
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
  description: What led elsewhere and was changed.
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
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import relocate_restored

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: dict[str, dict[str, Any]] = {
    "target": {"type": "path", "required": True},
    "driver": {"type": "str"},
    "data_directory": {"type": "path"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Relocate every data directory below the target."""
    target, kind, only = (module.params[name] for name in ("target", "driver", "data_directory"))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.listdir(target)  # a user who may not read it is refused, and does not find nothing
    directories, moves = relocate_restored(target, kind, only, dry_run=module.check_mode)
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
    run_module(work, SPEC, required_by={"data_directory": ["driver"]})


if __name__ == "__main__":
    main()
