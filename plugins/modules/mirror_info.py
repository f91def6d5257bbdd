#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_info
short_description: Show the state of a mirror set
version_added: 0.1.0
description:
  - Asks the array for the state of each pair of a mirror set. Changes nothing.
  - Runs on the array, or on the host that controls it.
author:
  - splitmirror.backup contributors (@splitmirror)
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.array
  - splitmirror.backup.mirror
  - splitmirror.backup.mirror.pairs
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: This module changes nothing.
seealso:
  - module: splitmirror.backup.mirror_sync
  - module: splitmirror.backup.mirror_split
"""

EXAMPLES = r"""
- name: Look at the mirrors of db1
  splitmirror.backup.mirror_info:
    provider: image
    pairs: "{{ hostvars['db1']['splitmirror_pairs'] }}"
  register: mirrors

- name: Stop here unless a backup could begin now
  ansible.builtin.assert:
    that: mirrors.splittable
    fail_msg: "{{ mirrors.pairs | selectattr('problem') | map(attribute='problem') | join(' ') }}"
"""

RETURN = r"""
splittable:
  description: Whether all pairs are in sync and free, so that they could be split now.
  type: bool
  returned: always
  sample: true
pairs:
  description: The state of each pair, in the order of O(pairs).
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: The name of the pair.
      type: str
      sample: data
    primary:
      description: The primary as the array calls it.
      type: str
      sample: /luns/db1-data.img
    mirror:
      description: The mirror as the array calls it.
      type: str
      sample: /luns/db1-data.mirror
    size_bytes:
      description: The size of the primary; V(null) if it does not exist.
      type: int
      sample: 107374182400
    in_sync:
      description: Whether the mirror is complete, so that the pair could be split now.
      type: bool
      sample: true
    sync_percent:
      description: How far the synchronization has come; V(null) if the array does not report it.
      type: float
      sample: 100.0
    phase:
      description:
        - V(none) if no session holds the pair, V(armed) if a splitter is ready to split it, V(split) if it is split.
        - V(broken) if a process died while it split or resynced the pair. M(splitmirror.backup.mirror_sync) with
          O(splitmirror.backup.mirror_sync#module:state=recovered) cleans this up.
      type: str
      sample: none
    session:
      description: The session that armed or split the pair, or V(null).
      type: str
      sample: 20260131T020000Z-db1-9f3c
    devices:
      description: The block devices through which the mirror is presented.
      type: list
      elements: str
      sample: []
    users:
      description: Mount points and processes that use the mirror now.
      type: list
      elements: str
      sample: []
    split_estimate_s:
      description:
        - About how long the split of this pair alone takes, in seconds; V(null) if it cannot be estimated.
        - For O(provider=image) it grows with the number of extents of the image file.
      type: float
      sample: 0.004
    problem:
      description: Why the pair cannot be split now, in one sentence, or V(null).
      type: str
      sample: null
capabilities:
  description: What the provider can do.
  type: dict
  returned: always
  contains:
    atomic_set:
      description:
        - Whether one command splits all pairs at one instant.
        - Otherwise they show one instant only if writes are stopped for the whole split, and
          M(splitmirror.backup.mirror_split) warns when it splits several pairs outside a freeze.
      type: bool
      sample: false
    takes_turns:
      description:
        - Whether the array splits one mirror set after the other.
        - M(splitmirror.backup.backup_window) then waits for its turn before it freezes, so that no host waits frozen.
      type: bool
      sample: false
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    PAIRS_SPEC,
    STATE_DIR_SPEC,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PROVIDER_SPEC, provider_of


def work(module: AnsibleModule) -> dict[str, Any]:
    """Ask the provider."""
    params = module.params
    provider = provider_of(params)
    states = provider.state()
    return {
        "changed": False,
        "splittable": all(state.problem is None for state in states),
        "pairs": [state.as_dict() for state in states],
        "capabilities": asdict(provider.capabilities),
    }


def main() -> None:
    """Run the module."""
    run_module(work, {**PROVIDER_SPEC, **PAIRS_SPEC, **STATE_DIR_SPEC})


if __name__ == "__main__":
    main()
