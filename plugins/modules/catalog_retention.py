#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_retention
short_description: Keep sessions by count and by calendar, and let the others expire
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Decides for each good session which part of the rule keeps it. A session that nothing keeps expires now. A session
    that is kept does not expire before this module decides again, whatever C(retention_days) it was written with.
  - Nothing is erased. An expired session can be restored until its volume is used again.
  - The last good session of a host is kept whatever the rule says.
  - Sessions that have expired already do not count, and are not kept again. Sessions that are open, failed or damaged
    are left as they are, and so are copies, and sessions that live on by a copy
    (M(splitmirror.backup.session_copy)).
  - Days begin at midnight UTC, weeks on Monday.
  - At least one option must be above 0, otherwise the rule keeps nothing and is refused.
options:
  host:
    description: The database host whose sessions are meant. Without it, the rule holds for each host on its own.
    type: str
  keep_last:
    description: Keep so many of the newest sessions.
    type: int
  keep_daily:
    description:
      - Keep the newest session of a day, for so many of the newest days that have one.
      - A day without a session does not count. O(keep_weekly), O(keep_monthly) and O(keep_yearly) work likewise.
    type: int
  keep_weekly:
    description: Keep the newest session of a week, for so many weeks.
    type: int
  keep_monthly:
    description: Keep the newest session of a month, for so many months.
    type: int
  keep_yearly:
    description: Keep the newest session of a year, for so many years.
    type: int
  keep_days:
    description: Keep all sessions that began in the last so many days.
    type: float
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.catalog_session
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Keep a week of days, a month of weeks, a year of months
  splitmirror.backup.catalog_retention:
    keep_daily: 7
    keep_weekly: 5
    keep_monthly: 12
  register: retention

- name: See what would expire on one host if the last three sessions and all of the last month were kept
  splitmirror.backup.catalog_retention:
    host: db1
    keep_last: 3
    keep_days: 30
  check_mode: true
"""

RETURN = r"""
sessions:
  description: All good sessions that have not expired before, by host and from old to new.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
      sample: 20260131T120000Z-db1-3f2a
    host:
      description: The database host.
      type: str
      sample: db1
    created:
      description: When it began.
      type: str
      sample: '2026-01-31T12:00:00Z'
    kept_by:
      description:
        - The options that keep it, and V(last_good) for the last good session of its host. Empty if it expires.
        - C(base of) and an id if nothing else keeps it, and that session builds on it.
      type: list
      elements: str
      sample: [last_good, keep_daily, keep_monthly]
expired:
  description: The ids of those that expire.
  returned: success
  type: list
  elements: str
"""

import time
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.retention import Rule, apply
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Apply the rule, or tell what it would do."""
    rule = Rule.of(module.params)
    look = module.check_mode
    path = StateDir(module.params["state_dir"]).catalog_file
    with Catalog.open(path, writable=not look, no_trace=look) as catalog:
        return apply(catalog, rule, module.params["host"], time.time(), dry_run=look)


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "host": {"type": "str"},
            "keep_last": {"type": "int"},
            "keep_daily": {"type": "int"},
            "keep_weekly": {"type": "int"},
            "keep_monthly": {"type": "int"},
            "keep_yearly": {"type": "int"},
            "keep_days": {"type": "float"},
            **STATE_DIR_SPEC,
        },
    )


if __name__ == "__main__":
    main()
