#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_prepare
short_description: Prepare the drive and the volume for a session
version_added: 0.2.0
description:
  - Runs on the media server between the beginning of hot backup and the window. Nothing is frozen meanwhile.
  - Loads the volume, reads its label and finds the position of the new session. A volume is refused if it is foreign,
    is not as the catalog has it, or is too small. Nothing is written.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.session
  - splitmirror.backup.drive
  - splitmirror.backup.write_mode
  - splitmirror.backup.keys.recipients
  - splitmirror.backup.keys.drive_key
options:
  expected_bytes:
    description:
      - How many bytes the session takes on tape, C(bytes_archive) of
        M(splitmirror.backup.backup_discovery). A volume with less room is refused.
      - With V(0) the size is not known, and the volume may be found too small later.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    details: No volume is loaded.
  diff_mode:
    support: none
    details: Nothing is changed.
seealso:
  - module: splitmirror.backup.backup_discovery
  - module: splitmirror.backup.tape_write
"""

EXAMPLES = r"""
- name: Prepare the tape
  splitmirror.backup.backup_prepare:
    session: "{{ session }}"
    drive_type: virtual
    drive: /srv/library
    volume: VOL001
    expected_bytes: "{{ discovery.bytes_archive }}"
  delegate_to: media1

- name: Prepare whichever volume of a pool is next
  splitmirror.backup.backup_prepare:
    session: "{{ session }}"
    drive_type: virtual
    drive: /srv/library
    pool: daily
  delegate_to: media1

- name: Prepare the tape in one of the two drives of a library
  splitmirror.backup.backup_prepare:
    session: "{{ session }}"
    drive_type: st
    drives:
      - device: /dev/tape/by-id/scsi-DRIVE001-nst
      - device: /dev/tape/by-id/scsi-DRIVE002-nst
    changer: /dev/tape/by-id/scsi-LIBRARY001
    volume: WEEK01
    expected_bytes: "{{ discovery.bytes_archive }}"
  delegate_to: media1
"""

RETURN = r"""
plan:
  description: Where the session will be written, or will begin.
  type: dict
  returned: success
  contains:
    session:
      description: The id of the session.
      type: str
    drive_type:
      description: The type of the drive.
      type: str
    drive:
      description:
        - The drive that was used. C(tape_write) takes one again, which may be another of O(drives).
        - V(null) in check mode, which loads nothing, when the volume is in no free drive; the other values then come
          from the catalog.
      type: str
    volume:
      description: The volume.
      type: str
      sample: VOL001
    pool:
      description: The pool of the volume.
      type: str
    record_bytes:
      description: The size of its records.
      type: int
      sample: 1048576
    mode:
      description: V(overwrite) if the volume is begun anew, otherwise V(append).
      type: str
    file_number:
      description: The number of the tape file that the session will be.
      type: int
      sample: 3
    block:
      description: The block at which it will begin, or V(null) if the drive does not report it.
      type: int
    remaining_bytes:
      description: The room on the volume, or V(null) if the drive does not report it.
      type: int
    expected_bytes:
      description: O(expected_bytes).
      type: int
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    RECIPIENTS_SPEC,
    SESSION_SPEC,
    WRITE_MODE_SPEC,
    Spec,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.prepare import prepare
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import DRIVE_KEY_SPEC, writing_key_of
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, silent
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_SPEC, WRITE_RULES

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: Spec = {
    **SESSION_SPEC,
    **DRIVE_SPEC,
    **WRITE_MODE_SPEC,
    **RECIPIENTS_SPEC,
    **DRIVE_KEY_SPEC,
    "expected_bytes": {"type": "int", "default": 0},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Find out whether volume and drive can take the session, and where it will begin."""
    params = module.params
    state = StateDir(params["state_dir"])
    status = None
    if params["pool"] is not None and not module.check_mode:
        state.make_session_dir(params["session"])
        status = StatusWriter(state.status_file(params["session"]), "prepare", "bytes")
    plan = prepare(
        state.root,
        params["session"],
        drives=DriveOptions.of(params, dry_run=module.check_mode, key=writing_key_of(params)),
        wanted=Wanted.of(params),
        expected_bytes=params["expected_bytes"],
        recipients=params["recipients"],
        tell=silent if status is None else status.wait_for,
        warn=module.warn,
    )
    if status is not None:
        status.finish()
    return {"changed": False, "plan": plan}


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, for_session=True, **WRITE_RULES)


if __name__ == "__main__":
    main()
