#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_check
short_description: Check that a server on a restored data directory opens nothing outside of the restore
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Fails when a server that is started on the data directory would reach something outside of O(target), where the
    original server may live.
  - With O(driver=postgresql) that is a link of the data directory, recovery from its log, or a lock file
    (C(postmaster.pid)) that names a living process that is not a server on these files, which the end of a drill would
    end. It needs C(pg_controldata) and C(pg_waldump) of the version that made the backup.
  - Returns the settings that recovery needs, so that none of the restored settings has to be used.
options:
  target:
    description: The folder that was restored to.
    type: path
    required: true
  driver:
    description: The driver of the database.
    type: str
    default: postgresql
  data_directory:
    description: The restored data directory, in O(target).
    type: path
    required: true
  bin_dir:
    description: Folder of the server's programs.
    type: path
    required: true
  os_user:
    description: The user that the server is to run as. The programs are run by this user, too.
    type: str
    default: postgres
extends_documentation_fragment:
  - splitmirror.backup.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
"""

EXAMPLES = r"""
- name: Make sure that a server on the restored files cannot reach the original
  splitmirror.backup.restore_check:
    target: /restore/db1
    data_directory: /restore/db1/var/lib/postgresql/15/main
    bin_dir: /usr/lib/postgresql/15/bin
"""

RETURN = r"""
settings:
  description:
    - The settings that recovery needs, as the control file has them.
    - For PostgreSQL 17 and later C(event_triggers) is off, so that nothing runs when somebody logs in.
  returned: success
  type: dict
  sample: {max_connections: "100", max_prepared_transactions: "0", wal_level: replica}
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import driver_class

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Look at one data directory."""
    params = module.params
    check = driver_class("driver:", params["driver"]).check_restored
    settings = check(params["target"], params["data_directory"], params["bin_dir"], params["os_user"])
    return {"changed": False, "settings": settings}


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "target": {"type": "path", "required": True},
            "driver": {"type": "str", "default": "postgresql"},
            "data_directory": {"type": "path", "required": True},
            "bin_dir": {"type": "path", "required": True},
            "os_user": {"type": "str", "default": "postgres"},
        },
        needs_root=True,
    )


if __name__ == "__main__":
    main()
