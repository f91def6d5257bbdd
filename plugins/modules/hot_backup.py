#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hot_backup
short_description: Begin and end the hot backup of databases, and clean up after dead sessions
version_added: 0.1.0
description:
  - Runs on the database host. The databases go on writing during a hot backup. With the logs of that time, a database
    can be recovered from a copy of its files.
  - The connection to the database must stay open from the beginning to the end of hot backup. It is kept by the holder
    of the backup session, a process that outlives the task. When the connection is lost, the backup fails.
  - Databases that are to be frozen (O(databases[].quiesce)) are only made ready here. They are frozen in the window.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.database_host
  - splitmirror.backup.session.state_dir
  - splitmirror.backup.databases
options:
  state:
    description:
      - V(begun) begins hot backup. Databases that cannot be backed up are refused; nothing has begun then.
      - V(ended) ends it, keeps its label files and logs for the backup, and ends the holder. It fails when the end is
        not clean, or the holder has no hot backup of one of O(databases); O(ignore:evidence) is returned all the same.
      - V(recovered) gives up whatever any session, or any of O(host), has left on this host. Frozen file systems are
        thawed, hot backups ended, holders stopped. It waits up to two minutes for a database whose C(thaw) command
        fails. Run it only when no backup of this host is under way.
    type: str
    choices: [begun, ended, recovered]
    required: true
  session:
    description:
      - The id of the backup session, required unless O(state=recovered).
      - With O(state=recovered) the session of the run that cleans up; it is refused when it has lost its lease.
      - 1 to 80 letters, digits, dots, dashes or underscores; it begins with a letter or digit.
    type: str
  host:
    description:
      - The inventory name of the database host. With O(state=recovered) only its sessions are given up, and only the
        databases that no living session of another name has quiesced.
      - When it is left out, those of all names that share this state folder.
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
    details: O(state=begun) examines the databases as in a real run.
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.extent_map
  - module: splitmirror.backup.backup_window
  - module: splitmirror.backup.write_freeze
"""

EXAMPLES = r"""
- name: Clean up after a run that died last night
  splitmirror.backup.hot_backup:
    state: recovered

- name: Begin hot backup of two clusters
  splitmirror.backup.hot_backup:
    session: "{{ session }}"
    databases:
      - name: main
        driver: postgresql
      - name: reports
        driver: postgresql
        postgresql:
          port: 5433
          login_user: backup
          login_password_file: /etc/splitmirror/reports.password
    state: begun

- name: End hot backup
  splitmirror.backup.hot_backup:
    session: "{{ session }}"
    databases: "{{ splitmirror_databases }}"
    state: ended
  register: hot_backup

- name: Quiesce a database of another kind by its own programs
  splitmirror.backup.hot_backup:
    session: "{{ session }}"
    databases:
      - name: orders
        driver: commands
        commands:
          freeze: [/usr/local/sbin/orders-quiesce, --wait]
          thaw: [/usr/local/sbin/orders-resume]
          recover: [/usr/local/sbin/orders-resume]
          timeout_s: 20
    state: begun
"""

RETURN = r"""
databases:
  description:
    - Facts about each database, by its name. They depend on the driver.
    - With O(state=ended) and driver V(postgresql), the range of its WAL.
  type: dict
  returned: when O(state=begun) or O(state=ended)
  sample: {"main": {"start_lsn": "0/2000028", "stop_lsn": "0/2000138", "timeline": 1, "wal_files": 1}}
evidence:
  description: What M(splitmirror.backup.catalog_session) judges the session by.
  type: dict
  returned: when O(state=ended) and not in check mode, also when the module fails
  contains:
    required:
      description: Whether any database does hot backup.
      type: bool
    ended_cleanly:
      description: Whether all hot backups were ended without an error, and all their label files and logs were kept.
      type: bool
    same_session:
      description: Whether each was ended in the database session that began it.
      type: bool
    error:
      description: The first thing that went wrong, or V(null).
      type: str
extras:
  description: The archive of label files and logs on this host.
  type: str
  returned: when O(state=ended) and there are any
  sample: /var/lib/splitmirror/sessions/20260131T020000Z-db1-9f3c/extras.tar
extras_bytes:
  description: The size of RV(extras).
  type: int
  returned: when O(state=ended) and there are any
  sample: 16788480
recovered:
  description: The sessions that had left something. In check mode, those that would be cleaned up.
  type: list
  elements: dict
  returned: when O(state=recovered)
  contains:
    session:
      description: The id of the session.
      type: str
      sample: 20260131T020000Z-db1-9f3c
    thawed:
      description: Mount points that were frozen.
      type: list
      elements: str
      sample: [/srv/data]
    databases:
      description: Databases that the holder kept.
      type: list
      elements: str
      sample: [main]
    holder:
      description: V(ended) or V(killed), or V(null) when it was dead already.
      type: str
      sample: ended
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.holder import quiesce
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import ansible_folders
from ansible_collections.splitmirror.backup.plugins.module_utils.holder.recovery import (
    leftovers,
    quiesced_by_others,
    recover,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

SPEC = {
    **STATE_DIR_SPEC,
    "state": {"type": "str", "choices": ["begun", "ended", "recovered"], "required": True},
    "session": {"type": "str"},
    "host": {"type": "str"},
    "databases": databases_spec(),
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Begin, end or recover."""
    state = StateDir(module.params["state_dir"])
    return {"begun": begin, "ended": end, "recovered": clean_up}[module.params["state"]](module, state)


def begin(module: AnsibleModule, state: StateDir) -> dict[str, Any]:
    """Begin hot backup."""
    session, databases = module.params["session"], module.params["databases"]
    begun = quiesce.begin(state, session, databases, ansible_folders(module._remote_tmp), module.check_mode)
    return {
        "changed": begun.changed,
        "databases": begun.databases,
        "diff": {"before": {"databases": begun.before}, "after": {"databases": begun.after}},
    }


def end(module: AnsibleModule, state: StateDir) -> dict[str, Any]:
    """End hot backup, and the holder."""
    session, databases = module.params["session"], module.params["databases"]
    if module.check_mode:
        running = quiesce.databases_of(state, session)
        return {"changed": running is not None, "diff": {"before": {"databases": running or {}}, "after": {}}}
    ended = quiesce.end(state, session, databases)
    result = {
        "changed": ended.changed,
        "evidence": ended.evidence,
        "databases": ended.databases,
        "diff": {"before": {"databases": ended.before}, "after": {"databases": {}}},
    }
    if ended.extras is not None:
        result.update(extras=ended.extras, extras_bytes=ended.extras_bytes)
    if not ended.evidence["ended_cleanly"]:
        module.fail_json(msg=ended.evidence["error"], code="hot_backup_lost", **result)
    return result


def clean_up(module: AnsibleModule, state: StateDir) -> dict[str, Any]:
    """Give up what any session left."""
    host, databases_of_host = module.params["host"], module.params["databases"]
    sessions = leftovers(state, host)
    if module.check_mode:
        recovered = [{"session": session} for session in sessions]
        databases = False
    else:
        recovered = [asdict(recover(state, session)) for session in sessions]
        spared = quiesced_by_others(state, host)
        databases = quiesce.recover_databases([one for one in databases_of_host if one["name"] not in spared])
    return {
        "changed": bool(recovered) or databases,
        "recovered": recovered,
        "diff": {"before": {"sessions": sessions}, "after": {"sessions": []}},
    }


def main() -> None:
    """Run the module."""
    required = [("state", "begun", ["session"]), ("state", "ended", ["session"])]
    run_module(work, SPEC, needs_root=True, for_session=True, required_if=required)


if __name__ == "__main__":
    main()
