#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_info
short_description: Tell whether a host is ready for a backup
version_added: 0.2.0
description:
  - Asks one of the hosts of a backup all that can be known before it begins. Changes nothing, and loads no volume.
  - What is wrong is an answer, not a failure, so that all of it is told at once.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session.state_dir
  - splitmirror.backup.databases
  - splitmirror.backup.databases.paths
  - splitmirror.backup.drive.optional
  - splitmirror.backup.drive.libraries
  - splitmirror.backup.write_mode
  - splitmirror.backup.keys.recipients
  - splitmirror.backup.keys.drive_key
  - splitmirror.backup.mirror.optional_provider
  - splitmirror.backup.mirror.optional_pairs
options:
  ask:
    description:
      - Which host this is. V(controller) is asked for O(report_dir) only.
      - All hosts are asked for their Python, and all but V(controller) for root, clock and state folder.
      - V(database_host) is asked for its LUNs and databases, and whether all that is to be backed up can be mapped.
      - V(database_host) needs O(pairs), V(array) O(provider) and O(pairs).
      - V(array) is asked for the mirrors, V(media_server) for catalog, drive, volume, the room on it, and O(copies).
    type: str
    choices: [controller, database_host, array, media_server]
    required: true
  controller_time_s:
    description: The controller's clock, in seconds since 1970; without it the clock is not asked for.
    type: float
  clock_tolerance_s:
    description: How many seconds the clock may differ from O(controller_time_s).
    type: float
    default: 120
  report_dir:
    description: The folder of the reports. For O(ask=controller).
    type: path
  host:
    description:
      - The database host, whose last session of the same level tells how much room is needed. For O(ask=media_server).
    type: str
  part_bytes:
    description: The largest part of a session, as for M(splitmirror.backup.tape_write). For O(ask=media_server).
    type: int
    default: 0
  copies:
    description:
      - To which pools sessions of O(host) are copied (see M(splitmirror.backup.session_copy)). For
        O(ask=media_server), which is asked for a volume of each.
    type: list
    elements: dict
    default: []
    suboptions:
      pool:
        description: The pool to copy to. Exactly one of this and C(volume) is needed.
        type: str
      volume:
        description: The only volume to copy to.
        type: str
      source:
        description: The pool to copy from. O(pool) unless it is given.
        type: str
      retention_days:
        description: For how many days a copy is kept.
        type: float
  spool_dir:
    description: The folder for parts that are copied with one drive.
    type: path
  level:
    description:
      - The level of the session that is to be written, as in M(splitmirror.backup.tape_write). For O(ask=media_server).
    type: str
    choices: [full, incremental, differential, auto]
    default: full
    version_added: 0.2.0
  full_every_days:
    description: As in M(splitmirror.backup.tape_write). For O(ask=media_server).
    type: float
    default: 7
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: This module changes nothing.
seealso:
  - module: splitmirror.backup.lun_info
  - module: splitmirror.backup.mirror_info
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Ask the array
  splitmirror.backup.preflight_info:
    ask: array
    provider: image
    pairs: "{{ splitmirror_pairs }}"
  delegate_to: array1
  register: array

- name: Stop here unless it is ready
  ansible.builtin.assert:
    that: array.ready
    fail_msg: "{{ array.findings | rejectattr('right') | map(attribute='answer') | join(' ') }}"
"""

RETURN = r"""
ready:
  description: Whether all answers are right.
  type: bool
  returned: always
  sample: true
findings:
  description: The questions and their answers.
  type: list
  elements: dict
  returned: always
  contains:
    question:
      description: What was asked for.
      type: str
      sample: volume
    right:
      description: Whether a backup can begin as far as this is concerned.
      type: bool
      sample: true
    answer:
      description: What was found, in one sentence.
      type: str
      sample: VOL001 is labelled, and tape file 3 comes next (in /srv/library).
boot_id:
  description: The number of the kernel's last boot; two hosts with the same are one machine.
  type: str
  returned: for every O(ask) but V(controller)
  sample: 0d5ab0d9-5ac7-46a3-a6b5-5a7a3c5c7f0a
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    PAIRS_SPEC,
    RECIPIENTS_SPEC,
    STATE_DIR_SPEC,
    WRITE_MODE_SPEC,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.database.registry import databases_spec
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.leaveout import FAIL, ON_UNREADABLE
from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import boot_id
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDER_SPEC
from ansible_collections.splitmirror.backup.plugins.module_utils.preflight import Preflight, folder_ready
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DRIVE_KEY_SPEC
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    DRIVE_RULES,
    LIBRARIES_SPEC,
    OPTIONAL_DRIVE_SPEC,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Ask everything."""
    params = module.params
    state = StateDir(params["state_dir"])
    preflight = Preflight()
    preflight.ask_common(
        root=params["ask"] != "controller",
        controller_time_s=params["controller_time_s"],
        clock_tolerance_s=params["clock_tolerance_s"],
    )
    if params["ask"] == "controller":
        if params["report_dir"]:
            preflight.ask("report folder", lambda: folder_ready(params["report_dir"], "splitmirror_report_dir", 0))
    elif params["ask"] == "database_host":
        from ansible_collections.splitmirror.backup.plugins.module_utils.holder.freeze import ansible_folders
        from ansible_collections.splitmirror.backup.plugins.module_utils.holder.preflight import ask_database_host

        ask_database_host(
            preflight,
            state,
            databases=params["databases"],
            paths=params["paths"],
            exclude=params["exclude"],
            on_unreadable=params["on_unreadable"],
            pairs=params["pairs"],
            needed=ansible_folders(module._remote_tmp),
        )
    elif params["ask"] == "array":
        from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.preflight import ask_array

        for sentence in ask_array(preflight, params):
            module.warn(sentence)
    else:
        from ansible_collections.splitmirror.backup.plugins.module_utils.media.preflight import ask_media_server

        ask_media_server(preflight, state, params)
    return {
        "changed": False,
        "ready": all(finding.right for finding in preflight.findings),
        "findings": [asdict(finding) for finding in preflight.findings],
        **({"boot_id": boot_id()} if params["ask"] != "controller" else {}),
    }


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "ask": {
                "type": "str",
                "choices": ["controller", "database_host", "array", "media_server"],
                "required": True,
            },
            "controller_time_s": {"type": "float"},
            "clock_tolerance_s": {"type": "float", "default": 120},
            "report_dir": {"type": "path"},
            **PROVIDER_SPEC,
            "provider": {**PROVIDER_SPEC["provider"], "required": False},
            "pairs": {**PAIRS_SPEC["pairs"], "required": False},
            "host": {"type": "str"},
            "part_bytes": {"type": "int", "default": 0},
            "copies": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "pool": {"type": "str"},
                    "volume": {"type": "str"},
                    "source": {"type": "str"},
                    "retention_days": {"type": "float"},
                },
                "mutually_exclusive": [("pool", "volume")],
                "required_one_of": [("pool", "volume")],
            },
            "spool_dir": {"type": "path"},
            "level": {"type": "str", "choices": ["full", "incremental", "differential", "auto"], "default": "full"},
            "full_every_days": {"type": "float", "default": 7},
            "databases": databases_spec(),
            "paths": {"type": "list", "elements": "path", "default": []},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "on_unreadable": {"type": "str", "choices": list(ON_UNREADABLE), "default": FAIL},
            **OPTIONAL_DRIVE_SPEC,
            **LIBRARIES_SPEC,
            **WRITE_MODE_SPEC,
            **RECIPIENTS_SPEC,
            **DRIVE_KEY_SPEC,
            **STATE_DIR_SPEC,
        },
        required_if=[
            ("ask", "database_host", ["pairs"]),
            ("ask", "array", ["provider", "pairs"]),
            ("ask", "media_server", ["drive_type", "host"]),
            ("ask", "media_server", ["drive", "drives"], True),
            ("ask", "media_server", ["volume", "pool"], True),
        ],
        mutually_exclusive=DRIVE_RULES["mutually_exclusive"],
    )


if __name__ == "__main__":
    main()
