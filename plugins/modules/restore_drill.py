#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_drill
short_description: Open a restored database apart from everything, ask it, and check it
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Fails when a drill on the restored database would reach something outside of O(target), where the original may
    live.
  - Then it opens the database so that nobody else can reach it, waits for the end of recovery, asks O(queries), closes
    the database, and checks its files.
  - With O(driver=postgresql) the first is a link of the data directory, recovery from its log, or a lock file
    (C(postmaster.pid)) that names a living process that is not a server on these files. The server listens on a
    private socket only and reads none of the restored settings; what recovery needs of them is taken from the control
    file. The checksums of all pages are checked if the cluster has any. C(pg_ctl), C(psql), C(pg_checksums),
    C(pg_controldata) and C(pg_waldump) of the version that made the backup are needed, and C(runuser).
  - With O(driver=sqlite) the write-ahead log is recovered, and C(PRAGMA integrity_check) is run.
  - With O(driver=commands) nothing is known of the content. Only the place of the files is checked.
options:
  target:
    description: The folder that was restored to.
    type: path
    required: true
  driver:
    description: The driver of the database.
    type: str
    choices: [commands, postgresql, sqlite]
    default: postgresql
  data_directory:
    description: The restored data directory, or database file, in O(target).
    type: path
    required: true
  driver_options:
    description:
      - Options of the driver for a drill. Drivers V(commands) and V(sqlite) have none.
    type: dict
    suboptions:
      bin_dir:
        description: Driver V(postgresql). Folder of the server's programs. Required.
        type: path
      os_user:
        description:
          - Driver V(postgresql). The user that the server and its programs run as, V(postgres) unless it is given. The
            restored files must belong to this user.
        type: str
      database:
        description: Driver V(postgresql). The database to ask, V(postgres) unless it is given.
        type: str
      settings:
        description:
          - Driver V(postgresql). Settings that the copy needs to start or to answer, such as
            C(shared_preload_libraries). Those that keep it away from the original cannot be changed.
        type: dict
  queries:
    description: Queries by name. Each must give one value.
    type: dict
    default: {}
  timeout_s:
    description: How many seconds recovery may take.
    type: int
    default: 600
extends_documentation_fragment:
  - splitmirror.backup.attributes
attributes:
  check_mode:
    support: full
    details: Looks whether the drill could begin, and opens nothing.
  diff_mode:
    support: N/A
"""

EXAMPLES = r"""
- name: Hold a drill on a restored PostgreSQL cluster
  splitmirror.backup.restore_drill:
    target: /restore/db1
    data_directory: /restore/db1/var/lib/postgresql/15/main
    driver_options:
      bin_dir: /usr/lib/postgresql/15/bin
    queries:
      orders: SELECT count(*) FROM orders

- name: Check a restored SQLite database
  splitmirror.backup.restore_drill:
    target: /restore/app1
    driver: sqlite
    data_directory: /restore/app1/srv/app/app.db
"""

RETURN = r"""
answers:
  description: The answers by name of the query.
  returned: success
  type: dict
  sample: {orders: "1042"}
checked:
  description: What else was checked.
  returned: success
  type: list
  elements: str
  sample: [checksums of all pages]
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.base import Restored
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import (
    DRIVERS,
    hold_drill,
    restored_options_spec,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Hold a drill."""
    params = module.params
    restored = Restored(params["target"], params["data_directory"], params["driver_options"] or {})
    answers, checked = hold_drill(
        params["driver"], restored, params["queries"], params["timeout_s"], dry_run=module.check_mode
    )
    return {"changed": True, "answers": answers, "checked": checked}


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "target": {"type": "path", "required": True},
            "driver": {"type": "str", "choices": sorted(DRIVERS), "default": "postgresql"},
            "data_directory": {"type": "path", "required": True},
            "driver_options": restored_options_spec(),
            "queries": {"type": "dict", "default": {}},
            "timeout_s": {"type": "int", "default": 600},
        },
        needs_root=True,
    )


if __name__ == "__main__":
    main()
