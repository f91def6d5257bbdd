#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_rebuild
short_description: Enter the sessions of a volume into the catalog
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Reads all sessions of O(volume) and enters those that the catalog does not have, so that a lost catalog is rebuilt
    volume by volume. Each session is judged by the evidence in its index, as M(splitmirror.backup.catalog_session) did,
    and by what the reading itself proves.
  - A session may have parts on several volumes, which can be read in any order. It is judged when the last of them is
    entered. Until then it is V(damaged), which is never offered for a restore and keeps its volumes from being
    overwritten.
  - Nothing is written to the volume.
options:
  volume:
    description: The volume to read.
    type: str
    required: true
  allow_last:
    description: >-
      Enter a volume even if the catalog has another volume of the same name with the last good session of a host. The
      catalog then forgets that volume and its sessions.
    type: bool
    default: false
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.drive
  - splitmirror.backup.session.state_dir
  - splitmirror.backup.keys
  - splitmirror.backup.keys.drive_key
attributes:
  check_mode:
    support: full
    details: Reads everything, and enters nothing into the catalog.
  diff_mode:
    support: none
    details: What was entered is listed in the result.
seealso:
  - module: splitmirror.backup.tape_verify
  - module: splitmirror.backup.catalog_info
"""

EXAMPLES = r"""
- name: Rebuild a lost catalog from two volumes
  splitmirror.backup.catalog_rebuild:
    volume: "{{ item }}"
    drive_type: virtual
    drive: /var/lib/splitmirror/library
  loop: [SMB001, SMB002]
"""

RETURN = r"""
volume:
  description: The volume that the catalog was rebuilt from.
  returned: success
  type: str
entered:
  description: The sessions that were entered, in check mode those that would be.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
    state:
      description: V(good), V(failed), or V(damaged) as long as a part of the session is not in the catalog.
      type: str
    reason:
      description: Why it failed, or which part or which session that it builds on is missing.
      type: str
    base_missing:
      description:
        - The session on which it builds, itself or through others, and which the catalog does not have, or not as
          V(good). Empty if none is missing. Until that is entered, only what changed since can be restored.
      type: str
      version_added: 0.2.0
    file_number:
      description: The tape file.
      type: int
known:
  description: The sessions that the catalog had already.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The id.
      type: str
    state:
      description: Its state in the catalog.
      type: str
    file_number:
      description: The tape file.
      type: int
damaged:
  description:
    - Tape files that are not a whole archive. They cannot be restored with this collection, but most of their files may
      still be read with C(tar), so they are kept like sessions that never expire.
    - An encrypted tape file that no key opens is among them. Read the volume once more with the key (O(identity_file)),
      and the session takes its place.
    - Let them expire with M(splitmirror.backup.catalog_session) when nobody needs them. The rest of an archive whose
      writer died is not kept.
  returned: success
  type: list
  elements: dict
  contains:
    session:
      description: The id by which the catalog keeps it.
      type: str
      sample: damaged-WEEK01-3
    file_number:
      description: The tape file.
      type: int
    reason:
      description: What is wrong with it.
      type: str
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    IDENTITY_SPEC,
    STATE_DIR_SPEC,
    Spec,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.media.rebuild import rebuild
from ansible_collections.splitmirror.backup.plugins.module_utils.media.sealed import keyring_of
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import (
    DRIVE_KEY_SPEC,
    clearing_on_signals,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, use_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import DRIVE_RULES, DRIVE_SPEC

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: Spec = {
    "volume": {"type": "str", "required": True},
    "allow_last": {"type": "bool", "default": False},
    **DRIVE_SPEC,
    **IDENTITY_SPEC,
    **DRIVE_KEY_SPEC,
    **STATE_DIR_SPEC,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Enter the sessions of the volume."""
    params, dry_run = module.params, module.check_mode
    state_dir, keyring = StateDir(params["state_dir"]), keyring_of(params)
    if not dry_run:
        state_dir.make()
    options, volume = DriveOptions.of(params, dry_run=dry_run), params["volume"]
    who = f"catalog_rebuild of volume {volume}"
    known = Catalog.open_for(state_dir.catalog_file, writable=not dry_run, no_trace=dry_run)
    clearing = clearing_on_signals(keyring.has_drive_keys)
    with clearing, known as catalog, use_drive(options, volume, who=who) as lease:
        allow_last = params["allow_last"]
        return rebuild(volume, catalog, lease.drive, allow_last=allow_last, dry_run=dry_run, keyring=keyring)


def main() -> None:
    """Run the module."""
    run_module(work, SPEC, **DRIVE_RULES)


if __name__ == "__main__":
    main()
